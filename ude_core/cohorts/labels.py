"""From findings to labels: what 1, 0, -1 and a blank mean for each disease."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

from ude_core.cohorts.base import NEGATIVE, NOT_USED, POSITIVE
from ude_core.cohorts.settings import TableSettings
from ude_core.cohorts.table import TableRow

Labels = dict[str, Int[np.ndarray, " images"]]


def labels_of(settings: TableSettings, rows: Sequence[TableRow]) -> Labels:
    """Return each disease's labels under the policies: positive, negative, or not used."""
    return {
        disease: np.array(
            [_label(settings, disease, row.findings[position], row.no_finding) for row in rows],
            dtype=np.int64,
        )
        for position, disease in enumerate(settings.diseases)
    }


def value_counts(settings: TableSettings, rows: Sequence[TableRow], labels: Labels) -> pd.DataFrame:
    """Return one row a disease: its cells that are 1, 0, -1 and blank, and its labels."""
    table = []
    for position, disease in enumerate(settings.diseases):
        values = [row.findings[position] for row in rows]
        table.append(
            {
                "disease": disease,
                "one": values.count(1.0),
                "zero": values.count(0.0),
                "uncertain": values.count(-1.0),
                "blank": values.count(None),
                "uncertain_policy": settings.uncertain_policy(disease),
                "positive": int(np.count_nonzero(labels[disease] == POSITIVE)),
                "negative": int(np.count_nonzero(labels[disease] == NEGATIVE)),
                "not_used": int(np.count_nonzero(labels[disease] == NOT_USED)),
            }
        )
    return pd.DataFrame(table)


def _label(settings: TableSettings, disease: str, value: float | None, nothing: bool) -> int:
    policy = settings.uncertain_policy(disease)
    if value == -1.0 and policy == "drop":
        return NOT_USED
    if value == 1.0 or (value == -1.0 and policy == "ones"):
        return POSITIVE
    match settings.negatives:
        case "no_finding":
            negative = nothing
        case "disease_zero":
            negative = value is not None or settings.blank == "negative"
    return NEGATIVE if negative else NOT_USED
