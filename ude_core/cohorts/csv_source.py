"""Any CSV with one row an image: CheXpert's columns, or others through a mapping."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ude_core.cohorts.csv_text import Problems, Sheet
from ude_core.cohorts.settings import column_of, slug_of
from ude_core.cohorts.sources import AGE, ROLES, SEX, Reading, Record, Role, Wanted
from ude_core.errors import SettingError

COLUMNS: Mapping[Role, str] = {
    "path": "Path",
    "view": "Frontal/Lateral",
    "patient": "PatientID",
    "sex": SEX,
    "age": AGE,
    "no_finding": "No Finding",
}
"""CheXpert's names, and where each image's patient stands in files that tell it in a column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvSource:
    """A CSV whose columns are CheXpert's unless `columns` names others.

    `columns` maps a role (path, view, patient, sex, age, no_finding, split) or a disease slug to
    the file's column; None says that there is none: no `view` makes every row frontal. A `split`
    column tells the test images from the others. `values` recodes cells, per role, disease slug or
    column: `{"sex": {"W": "Female"}}`.
    """

    file: str = "nih.csv"
    columns: Mapping[str, str | None] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return self.file

    def check(self, wanted: Wanted) -> None:
        """Raise SettingError where `columns` or `values` name what nothing here goes by."""
        known = (*ROLES, *wanted.diseases)
        for setting, names, allowed in (
            ("columns", self.columns, known),
            ("values", self.values, (*known, *wanted.categories)),
        ):
            for name in names:
                if name not in allowed:
                    close = difflib.get_close_matches(name, allowed, n=1)
                    hint = f"; did you mean {close[0]!r}?" if close else ""
                    raise SettingError(
                        f"{setting} names {name!r} (expected one of {', '.join(allowed)}){hint}"
                    )
        needed = ["path", *(["no_finding"] if wanted.no_finding else []), *wanted.diseases]
        for role in needed:
            if role in self.columns and self.columns[role] is None:
                raise SettingError(f"columns.{role} is null (expected a column); name it")

    def read(self, root: Path, wanted: Wanted, problems: Problems) -> Reading:
        sheet = Sheet(root, self.file, problems)
        required = {"path", "view", *wanted.diseases}
        required |= {role for role, name in (("sex", SEX), ("age", AGE)) if name in wanted.columns}
        required |= {"no_finding"} if wanted.no_finding else set()
        by_slug = {slug_of(name): name for name in sheet.header}
        chosen: dict[str, str | None] = {s: by_slug.get(s, column_of(s)) for s in wanted.diseases}
        chosen.update(COLUMNS.items())
        chosen.update(self.columns)
        names = {
            key: name for key in (*ROLES, *wanted.diseases) if (name := chosen.get(key)) is not None
        }
        places: dict[str, int] = {}
        for key, name in names.items():
            mapped = key in self.columns
            place = sheet.column(name, required=key in required or mapped, role=key * mapped)
            if place is not None:
                places[key] = place
        categories = sheet.columns(*wanted.categories)
        return Reading(
            names=names,
            records=self._records(sheet, wanted, places, categories),
            published=False,
        )

    def _records(
        self,
        sheet: Sheet,
        wanted: Wanted,
        places: Mapping[str, int],
        categories: Mapping[str, int],
    ) -> Iterator[Record]:
        def recoded(key: str, cell: str) -> str:
            return self.values.get(key, {}).get(cell, cell)

        for line, cells in sheet.rows():
            yield Record(
                file=sheet.name,
                line=line,
                cells={
                    role: recoded(role, cells[places[role]]) for role in ROLES if role in places
                },
                findings={
                    slug: recoded(slug, cells[places[slug]])
                    for slug in wanted.diseases
                    if slug in places
                },
                categories={
                    name: recoded(name, cells[place]) for name, place in categories.items()
                },
            )
