"""How many images a noise was learnt on, by disease, group and label: counts, and never a patient.

The cohort is counted once and the counts are kept beside the ledger, so that an export neither
waits for the data nor needs them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ude_core.bundle_manifest import FEWEST
from ude_core.errors import UserError
from ude_core.storage import atomic_write

if TYPE_CHECKING:
    from study.api import Study
    from ude_core.cohorts.base import Cohort
    from ude_core.types import Indices

FILE = "training_cells.json"
Cells = Mapping[str, Mapping[str, int | None]]


def training_cells(study: Study) -> Cells:
    """Return, by disease, the images of each "group, label" in the training split.

    Cells of fewer than 5 images are None. Empty where they were never counted and the data are not
    here any more, or are not the study's.
    """
    path = study.ledger.places.folder / FILE
    fingerprint = study.ledger.fingerprints["cohort"]
    kept = _read(path, fingerprint)
    if kept is not None:
        return kept
    counted = _count(study, fingerprint)
    if counted:
        content = {"cohort": fingerprint, "cells": counted}
        atomic_write(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
    return counted


def masked_cells(cohort: Cohort, images: Indices) -> Cells:
    """Return the counts of these images, those under 5 replaced by None."""
    from ude_core.cohorts.cells import cell_counts

    cells: dict[str, dict[str, int | None]] = {disease: {} for disease in cohort.diseases}
    for row in cell_counts(cohort, images).itertuples():
        count = int(str(row.n))
        cells[str(row.disease)][f"{row.group}, {row.label}"] = count if count >= FEWEST else None
    return cells


def _count(study: Study, fingerprint: str) -> Cells:
    from study.materials import load_cohort
    from study.names import Layout
    from ude_core.cohorts.splits import split_by_patient
    from ude_core.seeding import numpy_generator

    config = study.config
    try:
        cohort = load_cohort(config, Layout.at(study.root).cache)
    except (UserError, OSError):
        return {}
    if cohort.fingerprint != fingerprint:
        return {}
    parts = split_by_patient(
        cohort, config.split.to_engine(), numpy_generator(config.seed, "split")
    )
    return masked_cells(cohort, parts.train)


def _read(path: Path, fingerprint: str) -> Cells | None:
    try:
        content = json.loads(path.read_bytes())
        if content["cohort"] != fingerprint:
            return None
        return {
            disease: {cell: None if count is None else int(count) for cell, count in counts.items()}
            for disease, counts in content["cells"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # counted anew
