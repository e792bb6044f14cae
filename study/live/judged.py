"""What is said of every complete trial for one disease: on the front, lifted, better than noise.

The words are those of `study.pareto`, found for all trials at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from study.constraints import feasible
from study.live.source import Snapshot
from study.live.table import Trials
from study.pareto import (
    LEVEL_TOLERANCE_PP,
    MEAN,
    WORST,
    Control,
    Levelling,
    non_dominated,
    scoped,
)
from ude_core.errors import UserError
from ude_core.types import Interval, Measured, Metrics

LEVELS: tuple[Levelling, ...] = ("lifted", "traded", "levelled-down", "unchanged", "unknown")
CONTROLS: tuple[Control, ...] = ("beats noise", "no better than noise", "not compared")


@dataclass(frozen=True, slots=True)
class Judged:
    """What is said of each complete trial, seen from one disease; all arrays are (complete,)."""

    rows: Int[np.ndarray, " complete"]
    front: Bool[np.ndarray, " complete"]
    level: Int[np.ndarray, " complete"]  # index into LEVELS
    control: Int[np.ndarray, " complete"]  # index into CONTROLS
    feasible: Bool[np.ndarray, " complete"]
    coordinates: Float[np.ndarray, "complete goals"]
    erm: Mapping[str, Measured]

    @property
    def usable(self) -> Float[np.ndarray, "usable goals"]:
        """The objectives of the trials that may be on the front: defined, and within constraints."""
        defined = np.isfinite(self.coordinates).all(axis=1)
        return np.asarray(self.coordinates[defined & self.feasible])

    def level_of(self, at: int) -> Levelling:
        """Return whom the trial in row `at` helped or hurt."""
        return LEVELS[int(self.level[at])]

    def control_of(self, at: int) -> Control:
        """Return how the trial in row `at` stands against random noise."""
        return CONTROLS[int(self.control[at])]


def judge(now: Snapshot, disease: str) -> Judged:
    """Return what each complete trial is, for `disease`, `mean` or `worst`.

    Raises UserError for another disease.
    """
    refuse_unknown_disease(now, disease)
    diseases = now.diseases
    erm = scoped(now.reference, disease, diseases)
    rows = complete_rows(now)

    def means(name: str) -> Float[np.ndarray, " complete"]:
        return np.asarray(now.trials.seen(name, disease, diseases)[rows, 0])

    coordinates = np.stack([means(goal.name) for goal in now.goals], axis=1)
    keeps = _feasible(now, rows)
    defined = np.isfinite(coordinates).all(axis=1) & keeps
    shown = [tuple(row) if there else None for row, there in zip(coordinates, defined, strict=True)]
    return Judged(
        rows=rows,
        front=np.array(non_dominated(shown, now.goals), dtype=bool),
        level=_levels(now.trials, rows, erm, disease, diseases),
        control=_controls(means("eo_gap_vs_random")),
        feasible=keeps,
        coordinates=coordinates,
        erm=erm,
    )


def judge_all(now: Snapshot) -> dict[str, Judged]:
    """Return the same for every disease of the study, by its name."""
    return {disease: judge(now, disease) for disease in now.diseases}


def refuse_unknown_disease(now: Snapshot, disease: str) -> None:
    """Raise UserError where the study has no such front."""
    known = (*now.diseases, MEAN, WORST)
    if disease not in known:
        raise UserError(
            f"disease {disease!r} is not in study {now.study.name} (one of {', '.join(known)})"
        )


def complete_rows(now: Snapshot) -> Int[np.ndarray, " complete"]:
    """Return the rows of the complete trials, by trial number."""
    rows = np.flatnonzero(now.trials.complete)
    return rows[np.argsort(now.trials.numbers[rows], kind="stable")]


def _feasible(now: Snapshot, rows: Int[np.ndarray, " complete"]) -> Bool[np.ndarray, " complete"]:
    constraints = now.config.constraints
    if not constraints:
        return np.ones(len(rows), dtype=bool)
    names = list(now.trials.names)
    kept = []
    for row in rows:
        ends = now.trials.values[row]
        metrics: Metrics = {
            name: Interval(*map(float, ends[place]))
            for name, place in zip(names, range(len(names)), strict=True)
            if math.isfinite(ends[place, 0])
        }
        kept.append(feasible(constraints, metrics, now.reference, now.diseases))
    return np.array(kept, dtype=bool)


def _controls(difference: Float[np.ndarray, " complete"]) -> Int[np.ndarray, " complete"]:
    return np.where(np.isnan(difference), 2, np.where(difference < 0, 0, 1))


def _levels(
    trials: Trials,
    rows: Int[np.ndarray, " complete"],
    erm: Mapping[str, Measured],
    disease: str,
    diseases: Sequence[str],
) -> Int[np.ndarray, " complete"]:
    names = {*erm, *trials.bare_names(disease, diseases)}
    rates = sorted(name for name in names if name.startswith(("tpr.", "tnr.")))
    if not rates:
        return np.full(len(rows), LEVELS.index("unknown"))
    changes = np.stack(
        [
            trials.seen(name, disease, diseases)[rows, 0]
            - (before.mean if isinstance(before := erm.get(name), Interval) else math.nan)
            for name in rates
        ],
        axis=1,
    )
    with np.errstate(invalid="ignore"):
        rose = changes.max(axis=1) > LEVEL_TOLERANCE_PP
        fell = changes.min(axis=1) < -LEVEL_TOLERANCE_PP
    level = np.where(rose & fell, 1, np.where(rose, 0, np.where(fell, 2, 3)))
    level[np.isnan(changes).any(axis=1)] = 4
    return level
