"""A cohort's tables looked at before any study: every problem in one report, and what is counted."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from study.cohort_sections import TABLES, TableCohort
from ude_core.cohorts import nih
from ude_core.cohorts.bias import Draw, confirmation_draws, validation_draws
from ude_core.cohorts.cells import CellTable, cell_table
from ude_core.cohorts.mimic import MimicSource
from ude_core.cohorts.settings import slug_of
from ude_core.cohorts.splits import split_by_patient
from ude_core.cohorts.table_cohort import TableReport, check_table
from ude_core.errors import CohortError, SettingError
from ude_core.seeding import numpy_generator

if TYPE_CHECKING:
    from rich.table import Table

    from study.config import StudyConfig
    from ude_core.cohorts.base import Cohort

DISEASES = (
    "enlarged_cardiomediastinum",
    "cardiomegaly",
    "lung_opacity",
    "lung_lesion",
    "edema",
    "consolidation",
    "pneumonia",
    "atelectasis",
    "pneumothorax",
    "pleural_effusion",
    "pleural_other",
    "fracture",
    "infiltration",
    "emphysema",
    "fibrosis",
    "hernia",
    "mass",
    "nodule",
    "pleural_thickening",
    "covid_19",
)
"""Findings looked for in a table where none are named: CheXpert's and ChestX-ray14's."""


@dataclass(frozen=True, slots=True, eq=False)
class CohortCheck:
    """What a check found. `problems` keep a study from running, `notes` do not.

    `table` holds the cells of the cohort and, where a whole space was checked, of splits and draws.
    """

    title: str
    report: TableReport
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    table: CellTable

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values; no patient, path or image is in it."""
        bare = self.report.bare
        return {
            "cohort": self.title,
            "images": self.report.images,
            "patients": self.report.patients,
            "left_out": dict(self.report.left_out),
            "attribute": bare.attribute_name,
            "groups": list(bare.groups),
            "confounder": bare.confounder or None,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "values": self.report.values.to_dict("records"),
            "cells": [
                {key: value for key, value in row.items() if value is not None}
                for row in self.table.frame().astype(object).to_dict("records")
            ],
        }

    def lines(self) -> Iterator[str]:
        """Yield what is said before the tables."""
        report = self.report
        yield f"{self.title}: {report.images:,} frontal images of {report.patients:,} patients"
        for reason, count in report.left_out.items():
            yield f"left out ({reason}): {count:,}"
        yield from (f"note: {note}" for note in self.notes)

    def tables(self) -> Iterator[Table]:
        """Yield the policies' outcome per disease, and the cells."""
        if not self.report.images:
            return
        yield _rich(self.report.values.to_dict("records"), "findings, and what they became")
        wide = self.table.wide()
        yield _rich(wide.astype(object).to_dict("records"), f"images per cell, {self.named}")

    @property
    def named(self) -> str:
        """The attribute, and the confounder where one is balanced."""
        balanced = f", {self.table.confounder} balanced" if self.table.confounder else ""
        return f"by {self.table.attribute}{balanced}"


def check_cohort(section: TableCohort, *, named: bool = True, images: bool = True) -> CohortCheck:
    """Check the tables of `section`, and with `images` every image in them.

    Diseases that were `named` must fill every cell; of those found in a table one alone has to, and
    the others are noted. Raises CohortError where there is nothing to check.
    """
    settings = section.to_engine()
    report = check_table(Path(section.root), settings, images=images)
    empty = [disease for disease in settings.diseases if _has_empty_cell(report.bare, disease)]
    whole = len(report.bare.groups) > 1 and len(empty) < len(settings.diseases)
    only_found = whole and not named
    note = f"no study could use {', '.join(empty)}: a cell of it is empty"
    return CohortCheck(
        title=settings.source.title,
        report=report,
        problems=(*report.problems, *(() if only_found else report.undefined)),
        notes=(note,) if only_found and empty else (),
        table=report.table,
    )


def check_space(config: StudyConfig, *, images: bool = True) -> CohortCheck:
    """Check the cohort of a study as its splits and draws will use it.

    Raises CohortError where there is nothing to check, SettingError for a cohort without tables.
    """
    if not isinstance(config.cohort, TableCohort):
        raise SettingError(
            f"cohort.kind is {config.cohort.kind!r}, made on the spot: nothing to check"
        )
    checked = check_cohort(config.cohort, images=images)
    if checked.problems:
        return checked
    try:
        table = study_cells(config, checked.report.bare)
    except CohortError as error:
        return replace(checked, problems=tuple(str(error).splitlines()))
    return replace(checked, table=table)


def study_cells(config: StudyConfig, cohort: Cohort) -> CellTable:
    """Return the cells of a study: of its cohort, its splits, and its draws.

    Raises CohortError, a line for each disease, where a split or a draw cannot be made, and
    SettingError for a setting outside its range.
    """
    seed, bias = config.seed, config.bias.to_engine()
    split = split_by_patient(cohort, config.split.to_engine(), numpy_generator(seed, "split"))
    draws: dict[str, tuple[Draw, ...]] = {}
    confirmation: dict[str, tuple[Draw, ...]] = {}
    problems = []
    for disease, labels in cohort.labels.items():
        alone = replace(cohort, labels={disease: labels})
        try:
            draws |= validation_draws(alone, split.development, bias, config.scoring.repeats, seed)
            confirmation |= confirmation_draws(alone, split, bias, 1, seed)
        except CohortError as error:
            problems.append(str(error))
    if problems:
        raise CohortError("\n".join(problems))
    return cell_table(cohort, split, draws, confirmation)


def section_of(
    target: Path, *, kind: str | None, root: Path | None, choices: Mapping[str, Any]
) -> tuple[TableCohort, bool]:
    """Return the cohort of a table or a data root, and whether its diseases were named.

    A file is a CSV below `root`, its own folder unless told otherwise; the kind of a folder shows
    in the tables it holds. Raises SettingError where it does not.
    """
    if target.is_dir():
        chosen, values = kind or _kind_of(target), {**choices, "root": str(target)}
        if chosen == "csv":
            raise SettingError(f"{target.name} is a folder (expected a CSV file); name the file")
    else:
        chosen = kind or "csv"
        folder = root or target.parent
        if not target.resolve().is_relative_to(folder.resolve()):
            raise SettingError(f"--root is {folder} (expected a folder that holds {target.name})")
        values = {**choices, "root": str(folder)}
        if chosen == "csv":
            values["csv"] = str(target.resolve().relative_to(folder.resolve()))
    if chosen not in TABLES:
        raise SettingError(f"--kind is {chosen!r} (expected one of {', '.join(TABLES)})")
    named = bool(values.get("diseases"))
    if not named:
        values["diseases"] = _diseases_of(chosen, target, values)
    section = TABLES[chosen].model_validate({"kind": chosen, **values})
    return section, named


def _kind_of(root: Path) -> str:
    if (root / "train.csv").is_file() or any(root.glob("CheXpert-*/train.csv")):
        return "chexpert"
    if any((root / name).is_file() for name in nih.TABLES):
        return "nih"
    if any(root.glob(f"{MimicSource().labels}*")):
        return "mimic"
    raise SettingError(
        f"{root} holds no table that is known (expected CheXpert's train.csv, ChestX-ray14's "
        f"{nih.TABLES[-1]} or MIMIC-CXR-JPG's {MimicSource().labels}); name a CSV file"
    )


def _diseases_of(kind: str, target: Path, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the findings that a table names in its header, as slugs."""
    match kind:
        case "nih":
            return tuple(nih.LABELS)
        case "csv":
            mapped = tuple(name for name in values.get("columns", {}) if name in DISEASES)
            header = _header(target)
        case _:
            return tuple(name for name in DISEASES[:12])
    found = tuple(name for name in DISEASES if name in header or name in mapped)
    if not found:
        raise SettingError(
            f"{target.name} has no column of a known finding; name yours with --disease, and their "
            "columns with --column DISEASE=COLUMN"
        )
    return found


def _header(file: Path) -> set[str]:
    try:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            return {slug_of(cell) for cell in next(csv.reader(stream), [])}
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CohortError(f"{file.name}: cannot be read ({reason}); check the path") from None


def _has_empty_cell(cohort: Cohort, disease: str) -> bool:
    labels = cohort.labels[disease]
    return any(
        not np.any((labels == label) & (cohort.attribute == group))
        for group in range(len(cohort.groups))
        for label in (0, 1)
    )


def _rich(rows: list[dict[Any, Any]], title: str) -> Table:
    from rich.table import Table as RichTable

    table = RichTable(title=title, title_justify="left")
    for name in rows[0] if rows else ():
        numeric = isinstance(rows[0][name], int)
        table.add_column(str(name), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()))
    return table
