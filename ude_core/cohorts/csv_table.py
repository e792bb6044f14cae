"""Reading a CheXpert-style CSV: every row checked, every problem kept, nothing decoded yet.

Problems read `nih.csv:118: Sex is '' (expected Male or Female); what to do`. They name the line
and the column, never a patient id, and show a cell only where it cannot be an id or a path.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ude_core.cohorts.csv_settings import CsvSettings, column_of, slug_of
from ude_core.cohorts.images import resolve_inside
from ude_core.errors import CohortError

_PATH, _VIEW, _PATIENT, _NO_FINDING = "Path", "Frontal/Lateral", "PatientID", "No Finding"
_SEXES = {"male": "male", "m": "male", "female": "female", "f": "female"}
_MISSING = ("", "unknown")
_PATIENT_FOLDER = re.compile(r"(?:^|/)(patient\d+)(?=/)")
_SHOWABLE = re.compile(r"[A-Za-z+.\-]{0,16}|-?[0-9.]{1,5}")
_SURROGATES = re.compile("[\ud800-\udfff]")
_MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One usable frontal image. `patient` and `file` are identifying: neither is in the repr."""

    line: int
    file: Path = field(repr=False)
    patient: str = field(repr=False)
    group: str
    findings: tuple[float | None, ...]  # by disease; None is blank
    no_finding: bool


@dataclass(frozen=True, slots=True)
class CsvTable:
    """Usable rows in file order, every problem met, and what was left out on purpose."""

    rows: tuple[CsvRow, ...]
    problems: tuple[str, ...]
    lateral: int
    missing_attribute: int


def read_table(root: Path, settings: CsvSettings) -> CsvTable:
    """Read and check `root`/`settings.csv`; problems are returned, not raised.

    Raises CohortError only where there is no text to check: no such file, not text, no header.
    """
    return _Reader(root, settings, _read_text(root / settings.csv, settings.csv)).read()


def _read_text(file: Path, name: str) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CohortError(f"{name}: cannot be read ({error.strerror}); check the path") from None
    if len(data) > _MAX_FILE_BYTES:
        raise CohortError(f"{name}: is larger than {_MAX_FILE_BYTES:,} bytes; split it")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise CohortError(f"{name}: is UTF-16 (expected UTF-8); save it again as UTF-8")
    if b"\0" in data:
        raise CohortError(f"{name}: holds NUL bytes (expected a text file); export it again as CSV")
    return data.decode("utf-8-sig", errors="surrogateescape")


def _shown(value: str, patient: str) -> str:
    if _SHOWABLE.fullmatch(value) and (not patient or patient not in value):
        return repr(value)
    return f"a value of {len(value)} characters"


def _malformed(cells: list[str], width: int) -> str:
    """Return why a row cannot be read cell by cell, or nothing."""
    if not any(cell.strip() for cell in cells):
        return "is blank; delete the line"
    if any(_SURROGATES.search(cell) for cell in cells):
        return "is not UTF-8; save the file again as UTF-8"
    if len(cells) != width:
        return f"has {len(cells)} cells (expected {width}); quote commas in cells"
    return ""


class _Reader:
    def __init__(self, root: Path, settings: CsvSettings, text: str) -> None:
        self.root = root.resolve()
        self.settings = settings
        self.text = text
        self.problems: list[str] = []
        self.columns: dict[str, int] = {}
        self.disease_columns: dict[str, str] = {}
        self.lines_by_file: dict[Path, int] = {}
        self.first_of_patient: dict[str, tuple[int, str]] = {}
        self.lateral = 0
        self.missing_attribute = 0

    def read(self) -> CsvTable:
        records = self._records()
        header = next(records, None)
        if header is None:
            raise CohortError(f"{self.settings.csv}: is empty; give a header line and rows")
        self._read_header(*header)
        rows = [self._row(line, cells, len(header[1])) for line, cells in records]
        usable = tuple(row for row in rows if row is not None)
        if not usable and not self.problems:
            self._problem(1, "has no frontal image to use; add rows")
        return CsvTable(usable, tuple(self.problems), self.lateral, self.missing_attribute)

    def _problem(self, line: int, text: str) -> None:
        self.problems.append(f"{self.settings.csv}:{line}: {text}")

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        body = self.text.rstrip("\r\n")
        reader = csv.reader(io.StringIO(body, newline=""), strict=True)
        line = 1
        try:
            for cells in reader:
                yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            self._problem(line, f"is not CSV from here on ({error}); mend the quotes")

    def _read_header(self, line: int, cells: list[str]) -> None:
        names = [cell.strip() for cell in cells]
        if any(_SURROGATES.search(name) for name in names):
            self._problem(line, "is not UTF-8; save the file again as UTF-8")
        wanted = [_PATH, _VIEW, *self.settings.attributes]
        if self.settings.negatives == "no_finding":
            wanted.append(_NO_FINDING)
        by_slug = {slug_of(name): name for name in names}
        self.disease_columns = {
            slug: by_slug.get(slug, column_of(slug)) for slug in self.settings.diseases
        }
        for column in (*wanted, *self.disease_columns.values(), _PATIENT, "Age"):
            if column in self.columns:
                continue
            if column in names:
                self.columns[column] = names.index(column)
            if names.count(column) > 1:
                self._problem(line, f"column {column!r} appears {names.count(column)} times")
            elif column not in names and column not in (_PATIENT, "Age"):
                self._problem(line, f"column {column!r} is missing; add it or name another")
            elif column == "Age" and column not in names and "Age" in wanted:
                self._problem(line, "column 'Age' is missing; add it or name another")

    def _row(self, line: int, cells: list[str], width: int) -> CsvRow | None:
        before = len(self.problems)
        malformed = _malformed(cells, width)
        if malformed:
            self._problem(line, malformed)
            return None
        row = {column: cells[position].strip() for column, position in self.columns.items()}
        view = row.get(_VIEW, "Frontal")
        if view == "Lateral":
            self.lateral += 1
            return None
        patient = self._patient(line, row)
        if view != "Frontal":
            self._expected(line, _VIEW, view, patient, "Frontal or Lateral", "mend the cell")
        file = self._file(line, row)
        group, missing = self._group(line, row, patient)
        findings = tuple(
            self._finding(line, column, row.get(column, ""), patient)
            for column in self.disease_columns.values()
        )
        no_finding = self._finding(line, _NO_FINDING, row.get(_NO_FINDING, ""), patient) == 1.0
        if missing:
            self.missing_attribute += 1
            return None
        if len(self.problems) > before or file is None:
            return None
        return CsvRow(line, file, patient, group, findings, no_finding)

    def _expected(
        self, line: int, column: str, value: str, patient: str, expected: str, remedy: str
    ) -> None:
        shown = _shown(value, patient)
        self._problem(line, f"{column} is {shown} (expected {expected}); {remedy}")

    def _patient(self, line: int, row: Mapping[str, str]) -> str:
        if _PATIENT in row:
            if not row[_PATIENT]:
                self._problem(line, f"{_PATIENT} is '' (expected an id); fill it or drop the row")
            return row[_PATIENT]
        found = _PATIENT_FOLDER.search(row.get(_PATH, ""))
        if found is None:
            self._problem(
                line, f"{_PATH} has no patientNNNNN folder; add a {_PATIENT} column to the file"
            )
            return ""
        return found.group(1)

    def _file(self, line: int, row: Mapping[str, str]) -> Path | None:
        if _PATH not in row:
            return None
        try:
            file = resolve_inside(self.root, row[_PATH])
        except CohortError as error:
            self._problem(line, f"{_PATH} {error}")
            return None
        first = self.lines_by_file.setdefault(file, line)
        if first != line:
            self._problem(line, f"{_PATH} repeats that of line {first}; drop one of the rows")
        return file

    def _group(self, line: int, row: Mapping[str, str], patient: str) -> tuple[str, bool]:
        parts = []
        missing = False
        if row.get("Age") and "Age" not in self.settings.attributes:
            self._age(line, row["Age"], patient)
        for column in self.settings.attributes:
            if column not in row:
                continue
            value = row[column]
            absent = value.lower() in _MISSING
            if absent and self.settings.missing_attribute == "drop":
                missing = True
                continue
            if column == "Age":
                age = self._age(line, value, patient)
                part = "" if age is None else self._age_band(age)
            elif column == "Sex":
                part = _SEXES.get(value.lower(), "")
                if not part:
                    remedy = "drop the row or set missing_attribute: drop" if absent else "mend it"
                    self._expected(line, column, value, patient, "Male or Female", remedy)
            else:
                part = slug_of(value)
                if absent or not part:
                    remedy = "drop the row or set missing_attribute: drop"
                    self._expected(line, column, value, patient, "a category", remedy)
            parts.append(part)
            if column == "Sex" and part and patient:
                first_line, first = self.first_of_patient.setdefault(patient, (line, part))
                if first != part:
                    self._problem(
                        line, f"Sex differs from line {first_line}, the same patient's; mend one"
                    )
        return "_".join(parts), missing

    def _age(self, line: int, value: str, patient: str) -> float | None:
        try:
            age = float(value)
        except ValueError:
            age = float("nan")
        if 0 <= age <= 120:
            return age
        self._expected(line, "Age", value, patient, "0 to 120 years", "mend or drop the row")
        return None

    def _age_band(self, age: float) -> str:
        edges = tuple(self.settings.age_bands)
        position = sum(age >= edge for edge in edges)
        if position == 0:
            return f"age_under_{edges[0]}"
        if position == len(edges):
            return f"age_{edges[-1]}_plus"
        return f"age_{edges[position - 1]}_{edges[position] - 1}"

    def _finding(self, line: int, column: str, value: str, patient: str) -> float | None:
        if not value:
            return None
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if number in (-1.0, 0.0, 1.0):
            return number
        self._expected(line, column, value, patient, "1.0, 0.0, -1.0 or blank", "mend the cell")
        return None
