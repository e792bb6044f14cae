"""A cohort from a CheXpert-style CSV: checked whole, decoded once, cached by content.

Read `load_csv`; `check_csv` does the same checks and returns every problem instead of raising.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from ude_core.cohorts.base import NEGATIVE, NOT_USED, POSITIVE, Cohort
from ude_core.cohorts.cells import cell_counts, undefined_metrics
from ude_core.cohorts.csv_settings import (
    Blank,
    CsvSettings,
    MissingAttribute,
    Negatives,
    Uncertain,
    slug_of,
)
from ude_core.cohorts.csv_table import CsvRow, CsvTable, read_table
from ude_core.cohorts.images import decode_files, hash_files
from ude_core.cohorts.pixel_cache import UnreadableImagesError, load_pixels
from ude_core.errors import CohortError, SettingError

SHOWN_PROBLEMS = 200
_CHECKED_SIZE = 64


@dataclass(frozen=True, slots=True, eq=False)
class CsvReport:
    """Everything a cohort file has to say before a study: every problem, and what is counted.

    `cells` has columns disease, label, group, n. `values` has one row a disease: how many cells are
    1, 0, -1 and blank, and how many images are positive, negative and not used after the policies.
    """

    problems: tuple[str, ...]
    images: int
    patients: int
    lateral: int
    missing_attribute: int
    cells: pd.DataFrame
    values: pd.DataFrame


def load_csv(
    root: Path,
    *,
    diseases: Sequence[str],
    image_size: int,
    csv: str = "nih.csv",
    negatives: Negatives = "no_finding",
    uncertain: Mapping[str, Uncertain] | None = None,
    blank: Blank = "drop",
    attributes: Sequence[str] = ("Sex",),
    age_bands: Sequence[int] = (60,),
    missing_attribute: MissingAttribute = "refuse",
    cache: Path | None = None,
) -> Cohort:
    """Return the cohort of `root`/`csv`, frontal images only, decoded at `image_size`.

    See CsvSettings for the choices. Every frontal image is kept; one that is neither positive nor
    negative for a disease has label -1 there. `images` is read-only, and memory-mapped where
    `cache` is given. Raises SettingError for a bad choice, and CohortError with every problem: of
    the file first, before anything is decoded, then of the images.
    """
    if image_size < 8:
        raise SettingError(f"image_size is {image_size} (expected at least 8 pixels)")
    settings = CsvSettings(
        diseases=tuple(diseases),
        csv=csv,
        negatives=negatives,
        uncertain=dict(uncertain or {}),
        blank=blank,
        attributes=tuple(attributes),
        age_bands=tuple(age_bands),
        missing_attribute=missing_attribute,
    )
    table = read_table(root, settings)
    bare = _bare_cohort(settings, table)
    hashes, unread = _hash_rows(settings, table.rows)
    _refuse(csv, [*table.problems, *_undefined(csv, table, bare), *unread])
    files = [row.file for row in table.rows]
    try:
        store = load_pixels(files, hashes, image_size, cache)
    except UnreadableImagesError as error:
        _refuse(csv, [_place(settings, table.rows[i], why) for i, why in error.problems])
        raise
    return Cohort(
        name=bare.name,
        images=store.images,
        patients=bare.patients,
        attribute_name=bare.attribute_name,
        groups=bare.groups,
        attribute=bare.attribute,
        labels=bare.labels,
        fingerprint=_fingerprint(bare, store.digest),
    )


def check_csv(root: Path, settings: CsvSettings, *, images: bool = True) -> CsvReport:
    """Return every problem of `root`/`settings.csv` and, with `images`, of each image in it."""
    table = read_table(root, settings)
    bare = _bare_cohort(settings, table)
    problems = [*table.problems, *_undefined(settings.csv, table, bare)]
    if images:
        hashes, unread = _hash_rows(settings, table.rows)
        problems += unread
        good = [i for i, digest in enumerate(hashes) if digest]
        decoded = decode_files(
            [table.rows[i].file for i in good], [hashes[i] for i in good], _CHECKED_SIZE
        )
        problems += [
            _place(settings, table.rows[i], str(image))
            for i, image in zip(good, decoded, strict=True)
            if isinstance(image, CohortError)
        ]
    return CsvReport(
        problems=tuple(problems),
        images=len(table.rows),
        patients=len(np.unique(bare.patients)),
        lateral=table.lateral,
        missing_attribute=table.missing_attribute,
        cells=cell_counts(bare),
        values=_value_counts(settings, table.rows, bare),
    )


def _refuse(csv: str, problems: Sequence[str]) -> None:
    if not problems:
        return
    lines = list(problems[:SHOWN_PROBLEMS])
    if len(problems) > len(lines):
        lines.append(f"and {len(problems) - len(lines)} more; check_csv lists all")
    plural = "problem" if len(problems) == 1 else "problems"
    raise CohortError("\n".join([f"{csv}: {len(problems)} {plural}", *lines]))


def _place(settings: CsvSettings, row: CsvRow, why: str) -> str:
    return f"{settings.csv}:{row.line}: image {why}"


def _undefined(csv: str, table: CsvTable, bare: Cohort) -> list[str]:
    """Return what an empty cell leaves undefined; only for a file that is otherwise sound."""
    if table.problems:
        return []
    return [f"{csv}: {reason}" for reason in undefined_metrics(bare)]


def _hash_rows(settings: CsvSettings, rows: Sequence[CsvRow]) -> tuple[list[str], list[str]]:
    """Return each file's sha256 ("" where unreadable) and the problems met.

    One image under two patients would put a patient on both sides of a split, and is refused.
    """
    hashes: list[str] = []
    problems: list[str] = []
    first: dict[str, CsvRow] = {}
    for row, digest in zip(rows, hash_files([row.file for row in rows]), strict=True):
        if isinstance(digest, CohortError):
            problems.append(_place(settings, row, str(digest)))
            hashes.append("")
            continue
        hashes.append(digest)
        other = first.setdefault(digest, row)
        if other.patient != row.patient:
            problems.append(
                _place(
                    settings,
                    row,
                    f"is the same as that of line {other.line}, another patient's; drop one",
                )
            )
    return hashes, problems


def _bare_cohort(settings: CsvSettings, table: CsvTable) -> Cohort:
    """Return the cohort without pixels: images of shape (rows, 0, 0), and an empty fingerprint."""
    rows = table.rows
    groups, attribute = np.unique(
        np.array([row.group for row in rows], dtype=np.str_), return_inverse=True
    )
    codes: dict[str, int] = {}
    patients = np.array([codes.setdefault(row.patient, len(codes)) for row in rows], dtype=np.int64)
    labels = {
        disease: _labels(settings, disease, position, rows)
        for position, disease in enumerate(settings.diseases)
    }
    return Cohort(
        name=Path(settings.csv).stem,
        images=np.empty((len(rows), 0, 0), dtype=np.uint8),
        patients=patients,
        attribute_name="_".join(slug_of(column) for column in settings.attributes),
        groups=tuple(str(group) for group in groups),
        attribute=attribute.astype(np.int64),
        labels=labels,
        fingerprint="",
    )


def _values(position: int, rows: Sequence[CsvRow]) -> list[float | None]:
    return [row.findings[position] for row in rows]


def _labels(
    settings: CsvSettings, disease: str, position: int, rows: Sequence[CsvRow]
) -> Int[np.ndarray, " images"]:
    policy = settings.uncertain_policy(disease)
    labels = np.full(len(rows), NOT_USED, dtype=np.int64)
    for i, (row, value) in enumerate(zip(rows, _values(position, rows), strict=True)):
        uncertain = value == -1.0
        if uncertain and policy == "drop":
            continue
        if value == 1.0 or (uncertain and policy == "ones"):
            labels[i] = POSITIVE
            continue
        match settings.negatives:
            case "no_finding":
                negative = row.no_finding
            case "disease_zero":
                negative = value is not None or settings.blank == "negative"
        if negative:
            labels[i] = NEGATIVE
    return labels


def _value_counts(settings: CsvSettings, rows: Sequence[CsvRow], bare: Cohort) -> pd.DataFrame:
    table = []
    for position, disease in enumerate(settings.diseases):
        values = _values(position, rows)
        labels = bare.labels[disease]
        table.append(
            {
                "disease": disease,
                "one": values.count(1.0),
                "zero": values.count(0.0),
                "uncertain": values.count(-1.0),
                "blank": values.count(None),
                "uncertain_policy": settings.uncertain_policy(disease),
                "positive": int(np.count_nonzero(labels == POSITIVE)),
                "negative": int(np.count_nonzero(labels == NEGATIVE)),
                "not_used": int(np.count_nonzero(labels == NOT_USED)),
            }
        )
    return pd.DataFrame(table)


def _fingerprint(bare: Cohort, pixels: str) -> str:
    """Return the sha256 over pixels (by their digest), attribute, labels and patient codes."""
    digest = hashlib.sha256(f"{pixels}\n{bare.attribute_name}\n{bare.groups!r}\n".encode())
    digest.update(bare.attribute.tobytes())
    digest.update(bare.patients.tobytes())
    for disease, labels in bare.labels.items():
        digest.update(f"\n{disease}\n".encode())
        digest.update(labels.tobytes())
    return digest.hexdigest()
