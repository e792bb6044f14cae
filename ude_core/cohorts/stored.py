"""A cohort on disk: its columns in one file, its pixels in another that is memory-mapped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ude_core.cohorts.base import Cohort
from ude_core.storage import staged

_LABEL = "label."


def write_columns(cohort: Cohort, path: Path) -> None:
    """Write everything of `cohort` but its pixels to `path`, an .npz file."""
    columns: dict[str, Any] = {
        "name": np.array(cohort.name),
        "patients": cohort.patients,
        "attribute_name": np.array(cohort.attribute_name),
        "groups": np.array(cohort.groups),
        "attribute": cohort.attribute,
        "fingerprint": np.array(cohort.fingerprint),
    }
    if cohort.stratum is not None:
        columns |= {
            "confounder": np.array(cohort.confounder),
            "strata": np.array(cohort.strata),
            "stratum": cohort.stratum,
        }
    if cohort.official_test is not None:
        columns["official_test"] = cohort.official_test
    columns |= {f"{_LABEL}{name}": values for name, values in cohort.labels.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **columns)


def write_pixels(cohort: Cohort, path: Path) -> None:
    """Write the pixels of `cohort` to `path`, an .npy file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, cohort.images, allow_pickle=False)


def read_cohort(columns: Path, pixels: Path) -> Cohort:
    """Return the cohort of these two files, its pixels memory-mapped and read-only."""
    with np.load(columns, allow_pickle=False) as stored:
        values: Mapping[str, np.ndarray] = {name: stored[name] for name in stored.files}
    return Cohort(
        name=str(values["name"]),
        images=np.load(pixels, mmap_mode="r", allow_pickle=False),
        patients=values["patients"],
        attribute_name=str(values["attribute_name"]),
        groups=tuple(str(group) for group in values["groups"]),
        attribute=values["attribute"],
        labels={
            name.removeprefix(_LABEL): column
            for name, column in values.items()
            if name.startswith(_LABEL)
        },
        fingerprint=str(values["fingerprint"]),
        confounder=str(values.get("confounder", "")),
        strata=tuple(str(value) for value in values.get("strata", ())),
        stratum=values.get("stratum"),
        official_test=values.get("official_test"),
    )
