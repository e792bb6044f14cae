"""A cohort from a table of X-rays: checked whole, decoded once, cached by content.

Read `load_table`; `check_table` makes the same checks and returns every problem instead of raising.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from ude_core.cohorts.base import Cohort
from ude_core.cohorts.cells import CellTable, cell_counts, cell_table, undefined_metrics
from ude_core.cohorts.images import decode_files, hash_files
from ude_core.cohorts.labels import labels_of, value_counts
from ude_core.cohorts.pixel_cache import UnreadableImagesError, load_pixels
from ude_core.cohorts.settings import TableSettings, slug_of
from ude_core.cohorts.subset import choose_rows
from ude_core.cohorts.table import Table, TableRow, read_table
from ude_core.errors import CohortError, SettingError

SHOWN_PROBLEMS = 200
_CHECKED_SIZE = 64


@dataclass(frozen=True, slots=True, eq=False)
class TableReport:
    """Everything a cohort's tables have to say before a study: every problem, and what is counted.

    `left_out` counts the rows that are not used, by reason: lateral, missing_attribute, unlabelled,
    only, max_per_cell. `cells` has columns disease, label, group, n. `values` has one row a disease:
    how many cells are 1, 0, -1 and blank, and how many images are positive, negative and not used
    after the policies. `bare` is the cohort without pixels, as it stands after the problem rows.
    """

    problems: tuple[str, ...]
    undefined: tuple[str, ...]
    left_out: Mapping[str, int]
    values: pd.DataFrame
    bare: Cohort

    @property
    def images(self) -> int:
        return len(self.bare)

    @property
    def patients(self) -> int:
        return len(np.unique(self.bare.patients))

    @property
    def cells(self) -> pd.DataFrame:
        return cell_counts(self.bare)

    @property
    def table(self) -> CellTable:
        return cell_table(self.bare)


def load_table(
    root: Path, settings: TableSettings, *, image_size: int, cache: Path | None = None
) -> Cohort:
    """Return the cohort of the tables below `root`, frontal images only, decoded at `image_size`.

    Every frontal image that `settings` keeps is there; one that is neither positive nor negative
    for a disease has label -1 there. `images` is read-only, and memory-mapped where `cache` is
    given. Raises SettingError for a bad size, and CohortError with every problem: of the tables
    first, before anything is decoded, then of the images.
    """
    if image_size < 8:
        raise SettingError(f"image_size is {image_size} (expected at least 8 pixels)")
    table, rows, bare = _read(root, settings)
    hashes, unread = _hash_rows(rows)
    title = settings.source.title
    undefined = [] if table.problems else _undefined(title, bare)
    _refuse(title, [*table.problems, *undefined, *unread])
    try:
        store = load_pixels([row.path for row in rows], hashes, image_size, cache)
    except UnreadableImagesError as error:
        _refuse(title, [_place(rows[i], why) for i, why in error.problems])
        raise
    return replace(bare, images=store.images, fingerprint=_fingerprint(bare, store.digest))


def check_table(root: Path, settings: TableSettings, *, images: bool = True) -> TableReport:
    """Return every problem of the tables below `root` and, with `images`, of each image in them.

    What an empty cell leaves undefined is told apart, and only for tables that are otherwise sound.
    Raises CohortError only where there is nothing to check: no such file, not text, no header.
    """
    table, rows, bare = _read(root, settings)
    undefined = [] if table.problems else _undefined(settings.source.title, bare)
    problems = list(table.problems)
    if images:
        hashes, unread = _hash_rows(rows)
        problems += unread
        good = [i for i, digest in enumerate(hashes) if digest]
        decoded = decode_files(
            [rows[i].path for i in good], [hashes[i] for i in good], _CHECKED_SIZE
        )
        problems += [
            _place(rows[i], str(image))
            for i, image in zip(good, decoded, strict=True)
            if isinstance(image, CohortError)
        ]
    dropped = len(table.rows) - len(rows)
    return TableReport(
        problems=tuple(problems),
        undefined=tuple(undefined),
        left_out={**table.left_out, **({"max_per_cell": dropped} if dropped else {})},
        values=value_counts(settings, rows, dict(bare.labels)),
        bare=bare,
    )


def _read(root: Path, settings: TableSettings) -> tuple[Table, Sequence[TableRow], Cohort]:
    """Return the table, the rows kept of it, and their cohort without pixels."""
    table = read_table(root, settings)
    bare = _bare_cohort(settings, table.rows)
    if settings.max_per_cell is None:
        return table, table.rows, bare
    kept = choose_rows(bare, settings.max_per_cell)
    rows = [table.rows[i] for i in kept]
    return table, rows, _bare_cohort(settings, rows)


def _refuse(title: str, problems: Sequence[str]) -> None:
    if not problems:
        return
    lines = list(problems[:SHOWN_PROBLEMS])
    if len(problems) > len(lines):
        lines.append(f"and {len(problems) - len(lines)} more; ude-study cohort check lists all")
    plural = "problem" if len(problems) == 1 else "problems"
    raise CohortError("\n".join([f"{title}: {len(problems)} {plural}", *lines]))


def _place(row: TableRow, why: str) -> str:
    return f"{row.place()}: image {why}"


def _undefined(title: str, bare: Cohort) -> list[str]:
    return [f"{title}: {reason}" for reason in undefined_metrics(bare)]


def _hash_rows(rows: Sequence[TableRow]) -> tuple[list[str], list[str]]:
    """Return each file's sha256 ("" where unreadable) and the problems met.

    One image under two patients would put a patient on both sides of a split, and is refused.
    """
    hashes: list[str] = []
    problems: list[str] = []
    first: dict[str, TableRow] = {}
    for row, digest in zip(rows, hash_files([row.path for row in rows]), strict=True):
        if isinstance(digest, CohortError):
            problems.append(_place(row, str(digest)))
            hashes.append("")
            continue
        hashes.append(digest)
        other = first.setdefault(digest, row)
        if other.patient != row.patient:
            where = other.place(row.file)
            problems.append(
                _place(row, f"is the same as that of {where}, another patient's; drop one")
            )
    return hashes, problems


def _bare_cohort(settings: TableSettings, rows: Sequence[TableRow]) -> Cohort:
    """Return the cohort without pixels: images of shape (rows, 0, 0), and an empty fingerprint."""
    groups, attribute = _codes([row.group for row in rows])
    strata, stratum = _codes([row.stratum for row in rows])
    patients: dict[str, int] = {}
    codes = [patients.setdefault(row.patient, len(patients)) for row in rows]
    official = any(row.test is not None for row in rows)
    return Cohort(
        name=slug_of(Path(settings.source.title).stem),
        images=np.empty((len(rows), 0, 0), dtype=np.uint8),
        patients=np.array(codes, dtype=np.int64),
        attribute_name="_".join(slug_of(column) for column in settings.attributes),
        groups=groups,
        attribute=attribute,
        labels=labels_of(settings, rows),
        fingerprint="",
        confounder=slug_of(settings.confounder or ""),
        strata=strata if settings.confounder else (),
        stratum=stratum if settings.confounder else None,
        official_test=np.array([bool(row.test) for row in rows]) if official else None,
    )


def _codes(values: Sequence[str]) -> tuple[tuple[str, ...], Int[np.ndarray, " images"]]:
    names, codes = np.unique(np.array(values, dtype=np.str_), return_inverse=True)
    return tuple(str(name) for name in names), codes.astype(np.int64)


def _fingerprint(bare: Cohort, pixels: str) -> str:
    """Return the sha256 over pixels (by their digest) and everything else a study depends on."""
    digest = hashlib.sha256(f"{pixels}\n{bare.attribute_name}\n{bare.groups!r}\n".encode())
    digest.update(bare.attribute.tobytes())
    digest.update(bare.patients.tobytes())
    for disease, labels in bare.labels.items():
        digest.update(f"\n{disease}\n".encode())
        digest.update(labels.tobytes())
    if bare.stratum is not None:
        digest.update(f"\n{bare.confounder}\n{bare.strata!r}\n".encode())
        digest.update(bare.stratum.tobytes())
    if bare.official_test is not None:
        digest.update(b"\nofficial test\n" + bare.official_test.tobytes())
    return digest.hexdigest()
