"""One CSV file as checked lines of cells: its encoding, its header, the shape of every row.

Problems read `nih.csv:118: has 3 cells (expected 9); ...`: the file and the line, never an id.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ude_core.errors import CohortError

_SURROGATES = re.compile("[\ud800-\udfff]")
_MAX_FILE_BYTES = 1 << 30


@dataclass(slots=True)
class Problems:
    """Every problem met so far, in the order in which files are read."""

    lines: list[str] = field(default_factory=list)

    def add(self, file: str, line: int, text: str) -> None:
        """Keep a problem of one line of a file."""
        self.lines.append(f"{file}:{line}: {text}")

    def __len__(self) -> int:
        return len(self.lines)


class Sheet:
    """A CSV file whose header is read; `rows` then gives the lines, and reports those it cannot."""

    def __init__(self, root: Path, name: str, problems: Problems) -> None:
        """Raises CohortError where there is no text to check: no such file, not text, no header."""
        self.name, text = _read_text(root, name)
        self._problems = problems
        self._body = text.rstrip("\r\n")
        self._lines = self._records()
        header = next(self._lines, None)
        if header is None:
            raise CohortError(f"{self.name}: is empty; give a header line and rows")
        self.header = tuple(cell.strip() for cell in header[1])
        if any(_SURROGATES.search(cell) for cell in self.header):
            self.report(1, "is not UTF-8; save the file again as UTF-8")

    def report(self, line: int, text: str) -> None:
        """Keep a problem of a line of this file."""
        self._problems.add(self.name, line, text)

    def column(self, name: str, *, required: bool = True, role: str = "") -> int | None:
        """Return where a column stands, None where it is absent; reports what is wrong with it.

        `role` is what the settings call a column that they renamed.
        """
        count = self.header.count(name)
        if count > 1:
            self.report(1, f"column {name!r} appears {count} times; rename the others")
        elif count == 0 and required and role:
            self.report(1, f"column {name!r} (columns.{role}) is missing; add it or name another")
        elif count == 0 and required:
            self.report(1, f"column {name!r} is missing; add it or name another")
        return self.header.index(name) if count else None

    def columns(self, *names: str) -> dict[str, int]:
        """Return where these columns stand, reporting those that are missing."""
        found = {name: self.column(name) for name in dict.fromkeys(names)}
        return {name: position for name, position in found.items() if position is not None}

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line number and the stripped cells of every row that can be read cell by cell."""
        width = len(self.header)
        for line, cells in self._lines:
            wrong = _malformed(cells, width)
            if wrong:
                self.report(line, wrong)
            else:
                yield line, [cell.strip() for cell in cells]

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(io.StringIO(self._body, newline=""), strict=True)
        line = 1
        try:
            for cells in reader:
                yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            self.report(line, f"is not CSV from here on ({error}); mend the quotes")


def _read_text(root: Path, name: str) -> tuple[str, str]:
    """Return the name of the file found, `name` or its gzip twin, and its text."""
    plain = name.removesuffix(".gz")
    found = next((one for one in (plain, f"{plain}.gz") if (root / one).is_file()), name)
    file = root / found
    try:
        with gzip.open(file) if found.endswith(".gz") else file.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise CohortError(f"{found}: is no whole gzip file; fetch it again") from None
    except OSError as error:
        raise CohortError(f"{found}: cannot be read ({error.strerror}); check the path") from None
    if len(data) > _MAX_FILE_BYTES:
        raise CohortError(f"{found}: is larger than {_MAX_FILE_BYTES:,} bytes; split it")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise CohortError(f"{found}: is UTF-16 (expected UTF-8); save it again as UTF-8")
    if b"\0" in data:
        raise CohortError(
            f"{found}: holds NUL bytes (expected a text file); export it again as CSV"
        )
    return found, data.decode("utf-8-sig", errors="surrogateescape")


def _malformed(cells: list[str], width: int) -> str:
    """Return why a row cannot be read cell by cell, or nothing."""
    if not any(cell.strip() for cell in cells):
        return "is blank; delete the line"
    if any(_SURROGATES.search(cell) for cell in cells):
        return "is not UTF-8; save the file again as UTF-8"
    if len(cells) != width:
        return f"has {len(cells)} cells (expected {width}); quote commas in cells"
    return ""
