"""What every cohort format yields: one record an image, its cells under names of our own.

A source (`csv_source`, `chexpert`, `nih`, `mimic`) knows a format's files, columns and joins. What
a cell may hold is checked by `table`, for all formats alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from ude_core.cohorts.csv_text import Problems

Role = Literal["path", "view", "patient", "sex", "age", "no_finding", "split"]
ROLES: tuple[Role, ...] = ("path", "view", "patient", "sex", "age", "no_finding", "split")

SEX, AGE, PROJECTION = "Sex", "Age", "AP/PA"
"""The columns a study may name in any format; what they are called there is the source's affair."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a study needs of a format: diseases by slug, other columns by name."""

    diseases: tuple[str, ...]
    columns: tuple[str, ...]  # attributes, confounder and filters; Sex and Age among them
    no_finding: bool

    @property
    def categories(self) -> tuple[str, ...]:
        """The columns taken as they are, each value a category."""
        return tuple(name for name in self.columns if name not in (SEX, AGE))


@dataclass(frozen=True, slots=True)
class Record:
    """One image as its format gives it: text under roles, under disease slugs, under columns.

    A role, disease or column that the format lacks is absent. `file` and `line` name the row.
    """

    file: str
    line: int
    cells: Mapping[Role, str]
    findings: Mapping[str, str]
    categories: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reading:
    """The records of a format, read as they are asked for, and how to speak of them.

    `names` are the columns behind roles and diseases, as the user knows them. `left_out` counts
    what the format itself excludes, and is complete once the records are read. A `published` data
    set is taken as it is: an age that nobody can have is a missing one there, no fault to mend.
    """

    names: Mapping[str, str]
    records: Iterable[Record]
    left_out: Counter[str] = field(default_factory=Counter)
    published: bool = True


class Source(Protocol):
    """A format on disk: frozen settings that can read a data root."""

    @property
    def title(self) -> str:
        """What problems of no single row go by."""
        ...

    def check(self, wanted: Wanted) -> None:
        """Raise SettingError where these settings do not fit what the study wants."""
        ...

    def read(self, root: Path, wanted: Wanted, problems: Problems) -> Reading:
        """Return the records below `root`; problems are kept in `problems`.

        Raises CohortError only where there is nothing to check: no such file, not text, no header.
        """
        ...
