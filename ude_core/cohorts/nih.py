"""NIH ChestX-ray14 (Wang et al., 2017), as the NIH Clinical Center publishes it.

`Data_Entry_2017_v2020.csv` or `Data_Entry_2017.csv`, images in `images/` or `images_001/images/` to
`images_012/images/`, and the official lists `train_val_list.txt` and `test_list.txt`, which divide
the patients. A disease that an image's `Finding Labels` do not name is absent there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ude_core.cohorts.csv_text import Problems, Sheet
from ude_core.cohorts.sources import PROJECTION, Reading, Record, Role, Wanted
from ude_core.errors import CohortError, SettingError

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
TRAIN_LIST, TEST_LIST = "train_val_list.txt", "test_list.txt"
NOTHING = "No Finding"
LABELS: Mapping[str, tuple[str, ...]] = {
    "atelectasis": ("Atelectasis",),
    "cardiomegaly": ("Cardiomegaly",),
    "consolidation": ("Consolidation",),
    "edema": ("Edema",),
    "emphysema": ("Emphysema",),
    "fibrosis": ("Fibrosis",),
    "hernia": ("Hernia",),
    "infiltration": ("Infiltration",),
    "lung_lesion": ("Mass", "Nodule"),
    "mass": ("Mass",),
    "nodule": ("Nodule",),
    "pleural_effusion": ("Effusion",),
    "pleural_thickening": ("Pleural_Thickening",),
    "pneumonia": ("Pneumonia",),
    "pneumothorax": ("Pneumothorax",),
}
"""The labels behind a disease slug; `lung_lesion` is CheXpert's word for either of two."""

_KNOWN = frozenset(label for labels in LABELS.values() for label in labels) | {NOTHING}
_ROLES: Mapping[Role, str] = {
    "path": "Image Index",
    "patient": "Patient ID",
    "sex": "Patient Gender",
    "age": "Patient Age",
}
_FINDINGS, _VIEW = "Finding Labels", "View Position"
_AGE_WITH_UNIT = re.compile(r"(\d{1,4})([YMWD])")
_PER_YEAR = {"Y": 1, "M": 12, "W": 52, "D": 365}


@dataclass(frozen=True, slots=True, kw_only=True)
class NihSource:
    """ChestX-ray14 below a data root. `split` official keeps the published test list as the test."""

    split: Literal["official", "random"] = "official"

    @property
    def title(self) -> str:
        return "ChestX-ray14"

    def check(self, wanted: Wanted) -> None:
        """Raise SettingError where a disease is none of the 14 findings."""
        unknown = [slug for slug in wanted.diseases if slug not in LABELS]
        if unknown:
            raise SettingError(
                f"diseases names {', '.join(unknown)}, which {self.title} does not label (expected "
                f"some of {', '.join(LABELS)})"
            )

    def read(self, root: Path, wanted: Wanted, problems: Problems) -> Reading:
        table = next((name for name in TABLES if (root / name).is_file()), TABLES[-1])
        sheet = Sheet(root, table, problems)
        places = sheet.columns(*_ROLES.values(), _FINDINGS)
        named = {name: _VIEW if name == PROJECTION else name for name in wanted.categories}
        categories = sheet.columns(*named.values())
        sides = _official(root, problems) if self.split == "official" else None
        return Reading(
            names={str(role): column for role, column in _ROLES.items()}
            | dict.fromkeys(wanted.diseases, _FINDINGS),
            records=_records(
                sheet,
                wanted,
                places,
                {
                    name: categories[column]
                    for name, column in named.items()
                    if column in categories
                },
                _index(root),
                sides,
            ),
        )


def _records(
    sheet: Sheet,
    wanted: Wanted,
    places: Mapping[str, int],
    categories: Mapping[str, int],
    images: Mapping[str, str],
    sides: Mapping[str, str] | None,
) -> Iterator[Record]:
    for line, row in sheet.rows():
        cells: dict[Role, str] = {
            role: row[places[column]] for role, column in _ROLES.items() if column in places
        }
        labels = _labels(sheet, line, row[places[_FINDINGS]]) if _FINDINGS in places else set()
        image = cells.get("path", "")
        if sides is not None:
            if image not in sides:
                sheet.report(
                    line,
                    f"image is in neither {TRAIN_LIST} nor {TEST_LIST}; add it to one or set "
                    "split: random",
                )
            cells["split"] = sides.get(image, "train")
        cells["path"] = images.get(image, image)
        cells["age"] = _years(cells.get("age", ""))
        cells["no_finding"] = "1.0" if NOTHING in labels else "0.0"
        yield Record(
            file=sheet.name,
            line=line,
            cells=cells,
            findings={
                slug: "1.0" if labels & set(LABELS[slug]) else "0.0" for slug in wanted.diseases
            },
            categories={name: row[place] for name, place in categories.items()},
        )


def _labels(sheet: Sheet, line: int, cell: str) -> set[str]:
    labels = {label.strip() for label in cell.split("|")}
    strangers = len(labels - _KNOWN)
    if strangers:
        sheet.report(
            line,
            f"{_FINDINGS} holds {strangers} unknown labels (expected {NOTHING} or the 14 findings "
            "joined by |); mend the cell",
        )
    elif NOTHING in labels and len(labels) > 1:
        sheet.report(line, f"{_FINDINGS} names {NOTHING} beside a finding; mend the cell")
    return labels


def _years(cell: str) -> str:
    """Return an age in years; some tables write it with its unit, as 058Y or 011M."""
    found = _AGE_WITH_UNIT.fullmatch(cell)
    return str(int(found[1]) // _PER_YEAR[found[2]]) if found else cell


def _index(root: Path) -> dict[str, str]:
    """Return where each image lies below `root`, by its name."""
    found: dict[str, str] = {}
    folders = ["images", *(f"images_{number:03d}/images" for number in range(1, 13))]
    for folder in folders:
        if (root / folder).is_dir():
            with os.scandir(root / folder) as entries:
                found.update((entry.name, f"{folder}/{entry.name}") for entry in entries)
    return found


def _official(root: Path, problems: Problems) -> dict[str, str]:
    """Return the side of every image that the official lists name."""
    sides: dict[str, str] = {}
    for name, side in ((TRAIN_LIST, "train"), (TEST_LIST, "test")):
        try:
            lines = (root / name).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError):
            raise CohortError(
                f"{name}: cannot be read; put the official list there or set split: random"
            ) from None
        for number, line in enumerate(lines, start=1):
            image = line.strip()
            if image and sides.setdefault(image, side) != side:
                problems.add(name, number, f"image is in {TRAIN_LIST} too; keep it in one list")
    return sides
