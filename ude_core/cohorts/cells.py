"""Cells, the counts a study stands on: (disease, label, group), and stratum where one is balanced.

`cell_table` is Table 1 of any study: the cells of the cohort, of its splits, and of what is drawn
from them to train and to test heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Int

from ude_core.cohorts.base import NEGATIVE, POSITIVE, Cohort
from ude_core.errors import CohortError
from ude_core.types import Indices

Label = Literal["positive", "negative"]
Part = Literal[
    "all",
    "train",
    "validation",
    "test",
    "draw_train",
    "draw_validation",
    "confirm_train",
    "confirm_test",
]

LABELS = (POSITIVE, NEGATIVE)
LABEL_NAMES: Mapping[int, Label] = {POSITIVE: "positive", NEGATIVE: "negative"}
LEAST_SHOWN = 5
"""Images a cell must hold for its count to leave this machine; fewer could point at a person."""

_METRICS_OF = {
    POSITIVE: "eo_positive_gap, tpr_ratio_gap and tpr",
    NEGATIVE: "eo_negative_gap and tnr",
}


class Cell(NamedTuple):
    """An attribute group, a label, and the stratum of the confounder ("" where none is balanced)."""

    group: str
    label: int
    stratum: str = ""

    def __str__(self) -> str:
        return " ".join(
            part for part in (self.group, LABEL_NAMES[self.label], self.stratum) if part
        )


class _Split(Protocol):
    @property
    def train(self) -> Indices: ...
    @property
    def validation(self) -> Indices: ...
    @property
    def test(self) -> Indices: ...


class _Draw(Protocol):
    @property
    def train(self) -> Indices: ...
    @property
    def evaluation(self) -> Indices: ...


@dataclass(frozen=True, slots=True)
class CellCount:
    """The images of one cell in one part; `n` is None where the count is masked."""

    part: Part
    disease: str
    label: Label
    group: str
    stratum: str
    n: int | None


@dataclass(frozen=True, slots=True)
class CellTable:
    """Counts per part × disease × label × group (× stratum of the confounder), in that order.

    The parts are the cohort (`all`), its splits by patient, and, with equal counts in every draw,
    the biased training draw and the balanced draws that validate (`draw_`) and confirm (`confirm_`).
    """

    attribute: str
    confounder: str
    rows: tuple[CellCount, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts counted, in order."""
        return tuple(dict.fromkeys(row.part for row in self.rows))

    def masked(self, least: int = LEAST_SHOWN) -> CellTable:
        """Return the table fit to be logged: a count under `least` becomes None."""
        return replace(
            self,
            rows=tuple(
                replace(row, n=None) if row.n is not None and row.n < least else row
                for row in self.rows
            ),
        )

    def frame(self) -> pd.DataFrame:
        """Return one row a count: part, disease, label, group, stratum where there is one, n."""
        columns = ["part", "disease", "label", "group", "stratum", "n"]
        values = [[getattr(row, name) for name in columns] for row in self.rows]
        table = pd.DataFrame(values, columns=columns).astype({"n": "Int64"})
        return table if self.confounder else table.drop(columns="stratum")

    def wide(self) -> pd.DataFrame:
        """Return one row a cell, and one column a part: disease, label, group, ..., all, train."""
        long = self.frame()
        cell = [name for name in long.columns if name not in ("part", "n")]
        pieces = [
            long.loc[long["part"] == part, [*cell, "n"]].rename(columns={"n": part})
            for part in self.parts
        ]
        if not pieces:
            return long[cell]
        table = pieces[0].reset_index(drop=True)
        for piece in pieces[1:]:
            table = table.merge(piece, on=cell, how="left")
        return table


def cell_table(
    cohort: Cohort,
    split: _Split | None = None,
    draws: Mapping[str, Sequence[_Draw]] | None = None,
    confirmation: Mapping[str, Sequence[_Draw]] | None = None,
) -> CellTable:
    """Return what every cell holds: in the cohort, and in the splits and draws that are given.

    `draws` and `confirmation` hold, for each disease, draws that are alike in their counts
    (`bias.validation_draws`, `bias.confirmation_draws`).
    """

    def rows() -> Iterator[CellCount]:
        yield from _counted(cohort, "all", None)
        if split is not None:
            yield from _counted(cohort, "train", split.train)
            yield from _counted(cohort, "validation", split.validation)
            yield from _counted(cohort, "test", split.test)
        drawn: tuple[tuple[Part, Part, Mapping[str, Sequence[_Draw]] | None], ...] = (
            ("draw_train", "draw_validation", draws),
            ("confirm_train", "confirm_test", confirmation),
        )
        for trained, evaluated, some in drawn:
            for part, side in ((trained, "train"), (evaluated, "evaluation")):
                for disease, several in (some or {}).items():
                    yield from _counted_alike(
                        cohort, part, disease, [getattr(draw, side) for draw in several]
                    )

    return CellTable(cohort.attribute_name, cohort.confounder, tuple(rows()))


def cell_names(cohort: Cohort) -> list[Cell]:
    """Return the cells in the order in which `cells` numbers them."""
    return [
        Cell(group, label, stratum)
        for group in cohort.groups
        for label in LABELS
        for stratum in cohort.strata or ("",)
    ]


def cells(cohort: Cohort, disease: str) -> Int[np.ndarray, " images"]:
    """Return each image's cell, an index into `cell_names`; -1 where the disease does not use it."""
    if disease not in cohort.labels:
        raise CohortError(f"disease is {disease!r} (expected one of {', '.join(cohort.diseases)})")
    labels = cohort.labels[disease]
    numbers = cohort.attribute * 2 + (labels == NEGATIVE)
    if cohort.stratum is not None:
        numbers = numbers * len(cohort.strata) + cohort.stratum
    return np.where(np.isin(labels, LABELS), numbers, -1)


def count_cells(numbers: Int[np.ndarray, " images"], width: int) -> Int[np.ndarray, " cells"]:
    """Return how many images each of `width` cells has, those of no cell left aside."""
    return np.bincount(numbers[numbers >= 0], minlength=width)


def cell_counts(cohort: Cohort, indices: Indices | None = None) -> pd.DataFrame:
    """Return the images per cell, columns disease, label (positive, negative), group, n."""
    plain = replace(cohort, confounder="", strata=(), stratum=None)
    frame = CellTable(cohort.attribute_name, "", tuple(_counted(plain, "all", indices))).frame()
    return frame.drop(columns="part").astype({"n": "int64"})


def undefined_metrics(cohort: Cohort) -> tuple[str, ...]:
    """Return, for every empty cell and for a single group, which metrics would be undefined."""
    if len(cohort.groups) < 2:
        only = cohort.groups[0] if cohort.groups else "none"
        return (
            f"every usable image is of one {cohort.attribute_name} group ({only}): all gaps "
            "between groups would be undefined; add images of another group",
        )
    reasons = []
    for row in cell_counts(cohort).itertuples():
        if row.n == 0:
            label = POSITIVE if row.label == LABEL_NAMES[POSITIVE] else NEGATIVE
            reasons.append(
                f"{row.disease} has no {row.label} image in group {row.group}: "
                f"{_METRICS_OF[label]}.{row.group} would be undefined; add images or leave "
                f"{row.disease} out of diseases"
            )
    return tuple(reasons)


def _counted(cohort: Cohort, part: Part, indices: Indices | None) -> Iterator[CellCount]:
    for disease in cohort.diseases:
        yield from _of_disease(cohort, part, disease, indices)


def _of_disease(
    cohort: Cohort, part: Part, disease: str, indices: Indices | None
) -> Iterator[CellCount]:
    names = cell_names(cohort)
    numbers = cells(cohort, disease)
    counts = count_cells(numbers if indices is None else numbers[indices], len(names))
    for cell, n in zip(names, counts, strict=True):
        label = LABEL_NAMES[cell.label]
        yield CellCount(part, disease, label, cell.group, cell.stratum, int(n))


def _counted_alike(
    cohort: Cohort, part: Part, disease: str, several: Sequence[Indices]
) -> Sequence[CellCount]:
    counted = {tuple(_of_disease(cohort, part, disease, indices)) for indices in several}
    if len(counted) > 1:
        raise ValueError(f"expected draws of {disease} with equal cells, got {len(counted)} kinds")
    return next(iter(counted), ())
