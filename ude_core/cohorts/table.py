"""From a source's records to usable rows: every cell checked, every problem kept, nothing decoded.

Problems read `nih.csv:118: Sex is '' (expected Male or Female); what to do`. They name the line
and the column, never a patient id, and show a cell only where it cannot be an id or a path.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ude_core.cohorts.csv_text import Problems
from ude_core.cohorts.images import resolve_inside
from ude_core.cohorts.settings import TableSettings, slug_of
from ude_core.cohorts.sources import AGE, SEX, Reading, Record, Role
from ude_core.errors import CohortError

_SEXES = {"male": "male", "m": "male", "female": "female", "f": "female"}
_VIEWS = {"frontal": True, "pa": True, "ap": True, "lateral": False, "ll": False, "rl": False}
_SIDES = {"test": True} | dict.fromkeys(
    ("train", "val", "valid", "validate", "validation", "dev", "development"), False
)
_MISSING = ("", "unknown")
_PATIENT_FOLDER = re.compile(r"(?:^|/)(patient\d+)(?=/)")
_SHOWABLE = re.compile(r"[A-Za-z+.\-]{0,16}|-?[0-9.]{1,5}")


@dataclass(frozen=True, slots=True)
class TableRow:
    """One usable frontal image. `patient` and `path` are identifying: neither is in the repr."""

    file: str
    line: int
    path: Path = field(repr=False)
    patient: str = field(repr=False)
    group: str
    stratum: str
    findings: tuple[float | None, ...]  # by disease; None is blank
    no_finding: bool
    test: bool | None  # of the published test split; None where there is none

    def place(self, here: str = "") -> str:
        """Return how to speak of the row: `line 8` in its own file, else `valid.csv:8`."""
        return f"line {self.line}" if self.file == here else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Table:
    """Usable rows in order, every problem met, and how many were left out on purpose, by reason."""

    rows: tuple[TableRow, ...]
    problems: tuple[str, ...]
    left_out: Mapping[str, int]


def read_table(root: Path, settings: TableSettings) -> Table:
    """Read and check a cohort's tables below `root`; problems are returned, not raised.

    Raises CohortError only where there is nothing to check: no such file, not text, no header.
    """
    problems = Problems()
    reading = settings.source.read(root, settings.wanted, problems)
    checker = _Checker(root, settings, reading, problems)
    rows = tuple(row for record in reading.records if (row := checker.row(record)) is not None)
    if not rows and not problems:
        problems.lines.append(f"{settings.source.title}:1: has no frontal image to use; add rows")
    return Table(rows, tuple(problems.lines), dict(reading.left_out + checker.left_out))


class _Checker:
    def __init__(
        self, root: Path, settings: TableSettings, reading: Reading, problems: Problems
    ) -> None:
        self.root = root.resolve()
        self.settings = settings
        self.names = reading.names
        self.published = reading.published
        self.problems = problems
        self.left_out: Counter[str] = Counter()
        self.only = {
            column: {slug_of(value) for value in values} for column, values in settings.only.items()
        }
        self.seen: dict[Path, Record] = {}
        self.sex_of: dict[str, tuple[Record, str]] = {}
        self.side_of: dict[str, tuple[Record, bool]] = {}

    def row(self, record: Record) -> TableRow | None:
        """Return the row, or None where it is left out or has a problem."""
        before = len(self.problems)
        cells = record.cells
        frontal = _VIEWS.get(cells.get("view", "frontal").lower())
        if frontal is False:
            self.left_out["lateral"] += 1
            return None
        patient = self._patient(record)
        if frontal is None:
            self._expected(
                record, "view", cells["view"], patient, "Frontal or Lateral", "mend the cell"
            )
        if "age" in cells and AGE not in self.settings.wanted.columns and not self.published:
            self._age(record, cells["age"], patient, blank=True)
        parts = {
            column: self._part(record, column, patient) for column in self.settings.wanted.columns
        }
        if len(self.problems) == before and any(
            (part := parts[column]) is not None and slug_of(part) not in values
            for column, values in self.only.items()
        ):
            self.left_out["only"] += 1
            return None
        path = self._path(record)
        findings = tuple(
            self._finding(record, disease, record.findings.get(disease, ""), patient)
            for disease in self.settings.diseases
        )
        no_finding = self._finding(record, "no_finding", cells.get("no_finding", ""), patient)
        test = self._test(record, patient) if "split" in cells else None
        if None in parts.values():
            self.left_out["missing_attribute"] += 1
            return None
        if len(self.problems) > before or path is None:
            return None
        confounder = self.settings.confounder
        return TableRow(
            file=record.file,
            line=record.line,
            path=path,
            patient=patient,
            group="_".join(parts[column] or "" for column in self.settings.attributes),
            stratum=(parts[confounder] or "") if confounder else "",
            findings=findings,
            no_finding=no_finding == 1.0,
            test=test,
        )

    def _problem(self, record: Record, text: str) -> None:
        self.problems.add(record.file, record.line, text)

    def _expected(
        self, record: Record, name: str, value: str, patient: str, expected: str, remedy: str
    ) -> None:
        column = self.names.get(name, name)
        if _SHOWABLE.fullmatch(value) and (not patient or patient not in value):
            shown = repr(value)
        else:
            shown = f"a value of {len(value)} characters"
        self._problem(record, f"{column} is {shown} (expected {expected}); {remedy}")

    def _patient(self, record: Record) -> str:
        if "patient" in record.cells:
            patient = record.cells["patient"]
            if not patient:
                column = self.names.get("patient", "patient")
                self._problem(record, f"{column} is '' (expected an id); fill it or drop the row")
            return patient
        found = _PATIENT_FOLDER.search(record.cells.get("path", ""))
        if found is None:
            self._problem(
                record,
                f"{self.names.get('path', 'Path')} has no patientNNNNN folder; add a PatientID "
                "column to the file",
            )
            return ""
        return found.group(1)

    def _path(self, record: Record) -> Path | None:
        if "path" not in record.cells:
            return None
        column = self.names.get("path", "path")
        try:
            path = resolve_inside(self.root, record.cells["path"])
        except CohortError as error:
            self._problem(record, f"{column} {error}")
            return None
        first = self.seen.setdefault(path, record)
        if first is not record:
            where = _place(first, record)
            self._problem(record, f"{column} repeats that of {where}; drop one of the rows")
        return path

    def _part(self, record: Record, column: str, patient: str) -> str | None:
        """Return the group of one column: a slug, "" where it is wrong, None where left out."""
        role: Role | None = {SEX: "sex", AGE: "age"}.get(column)  # type: ignore[assignment]
        values: Mapping[str, str] = record.categories if role is None else record.cells  # type: ignore[assignment]
        name = role or column
        if name not in values:
            return ""
        value = values[name]
        absent = value.lower() in _MISSING
        if column == AGE and self.published and not absent:
            absent = _years(value) is None
        if absent and self.settings.missing_attribute == "drop":
            return None
        drop = "drop the row or set missing_attribute: drop"
        if column == AGE:
            age = self._age(record, value, patient)
            return "" if age is None else self._age_band(age)
        if column == SEX:
            part = _SEXES.get(value.lower(), "")
            if not part:
                remedy = drop if absent else "mend it"
                self._expected(record, name, value, patient, "Male or Female", remedy)
            elif patient:
                first, sex = self.sex_of.setdefault(patient, (record, part))
                if sex != part:
                    shown = self.names.get("sex", SEX)
                    self._problem(
                        record,
                        f"{shown} differs from {_place(first, record)}, the same patient's; "
                        "mend one",
                    )
            return part
        part = slug_of(value)
        if absent or not part:
            self._expected(record, name, value, patient, "a category", drop)
        return part

    def _age(
        self, record: Record, value: str, patient: str, *, blank: bool = False
    ) -> float | None:
        age = _years(value)
        if age is None and not (blank and not value):
            remedy = "mend or drop the row"
            self._expected(record, "age", value, patient, "0 to 120 years", remedy)
        return age

    def _age_band(self, age: float) -> str:
        edges = tuple(self.settings.age_bands)
        position = sum(age >= edge for edge in edges)
        if position == 0:
            return f"age_under_{edges[0]}"
        if position == len(edges):
            return f"age_{edges[-1]}_plus"
        return f"age_{edges[position - 1]}_{edges[position] - 1}"

    def _finding(self, record: Record, name: str, value: str, patient: str) -> float | None:
        if not value:
            return None
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if number in (-1.0, 0.0, 1.0):
            return number
        self._expected(record, name, value, patient, "1.0, 0.0, -1.0 or blank", "mend the cell")
        return None

    def _test(self, record: Record, patient: str) -> bool | None:
        value = record.cells["split"]
        test = _SIDES.get(value.lower())
        if test is None:
            self._expected(record, "split", value, patient, "train, validation or test", "mend it")
        elif patient:
            first, side = self.side_of.setdefault(patient, (record, test))
            if side is not test:
                here, there = ("test", "train") if test else ("train", "test")
                self._problem(
                    record,
                    f"patient is in {here} here and in {there} at {_place(first, record)}; keep "
                    "every patient in one split",
                )
        return test


def _years(value: str) -> float | None:
    try:
        age = float(value)
    except ValueError:
        return None
    return age if 0 <= age <= 120 else None


def _place(of: Record, seen_from: Record) -> str:
    return f"line {of.line}" if of.file == seen_from.file else f"{of.file}:{of.line}"
