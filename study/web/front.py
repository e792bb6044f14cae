"""The front of one disease, of thousands of trials at once, as the page draws it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from study.confirm import Confirmation
from study.constraints import feasible
from study.metric_names import DISEASE_METRICS, STUDY_METRICS
from study.pareto import (
    LEVEL_TOLERANCE_PP,
    MEAN,
    WORST,
    Levelling,
    hypervolume,
    nadir,
    non_dominated,
    scoped,
)
from study.pareto_views import title
from study.web.source import Snapshot
from study.web.table import Ends, Trials
from ude_core.errors import UserError
from ude_core.results import measured_to_json
from ude_core.types import Interval, Measured

LEVELS: tuple[Levelling, ...] = ("lifted", "traded", "levelled-down", "unchanged", "unknown")
CONTROLS = ("beats noise", "no better than noise", "not compared")
QUERIES, TRIAL = "queries_spent", "trial"
_OF_TRIAL = (QUERIES, TRIAL)
_DIGITS = 6


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


def judge(now: Snapshot, disease: str) -> Judged:
    """Return what each complete trial is, for `disease`, `mean` or `worst`.

    Raises UserError for another disease.
    """
    refuse_unknown_disease(now, disease)
    diseases = now.diseases
    erm = scoped(now.reference, disease, diseases)
    rows = complete_rows(now)

    def means(name: str) -> Float[np.ndarray, " complete"]:
        return now.trials.seen(name, disease, diseases)[rows, 0]

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


def front_view(now: Snapshot, disease: str, columns: Sequence[str]) -> dict[str, Any]:
    """Return the front with the `columns` asked for: what the page draws first."""
    judged = judge(now, disease)
    known = judged.coordinates[np.isfinite(judged.coordinates).all(axis=1) & judged.feasible]
    worst = {goal.name: nadir(goal, known[:, i].tolist()) for i, goal in enumerate(now.goals)}
    ended = sum(now.counts[state] for state in ("complete", "failed", "pruned"))
    return {
        "study": now.study.name,
        "display": now.config.study,
        "description": now.config.description,
        "disease": disease,
        "diseases": [*now.diseases, MEAN, WORST],
        "version": now.version,
        "running": now.running,
        "counts": dict(now.counts),
        "ended": ended,
        "target": now.config.budget.trials,
        "queries": now.queries,
        "goals": [{"name": goal.name, "direction": goal.direction} for goal in now.goals],
        "hypervolume": hypervolume(known.tolist(), now.goals, worst),
        "axes": _axes(now, disease),
        "params": _params(now),
        "references": references(judged.erm),
        "trials": now.trials.numbers[judged.rows].tolist(),
        "front": judged.front.astype(int).tolist(),
        "level": judged.level.tolist(),
        "control": judged.control.tolist(),
        "feasible": judged.feasible.astype(int).tolist(),
        "confirmed": _confirmed(now.confirmation, disease),
        "columns": columns_view(now, disease, columns, judged.rows),
    }


def columns_view(
    now: Snapshot, disease: str, names: Sequence[str], rows: Int[np.ndarray, " complete"]
) -> dict[str, Any]:
    """Return columns by name: `mean`, `low` and `high` of a metric, `value` of anything else.

    Raises UserError for a name that is no metric, parameter or count.
    """
    known = set(now.trials.bare_names(disease, now.diseases))
    params = {name for params in now.trials.params for name in params}
    found: dict[str, Any] = {}
    for name in names:
        kind, _, bare = name.partition(":")
        if kind == "metric" and bare in known:
            found[name] = _ends(now.trials.seen(bare, disease, now.diseases)[rows])
        elif kind == "param" and bare in params:
            found[name] = {"value": [now.trials.params[row].get(bare) for row in rows]}
        elif kind == "count" and bare in _OF_TRIAL:
            counts = now.trials.queries if bare == QUERIES else now.trials.numbers
            found[name] = {"value": counts[rows].tolist()}
        elif kind == "metric" and (bare in DISEASE_METRICS or bare in STUDY_METRICS):
            found[name] = _ends(np.full((len(rows), 3), np.nan))  # known, measured by none yet
        else:
            raise UserError(f"column {name!r} is unknown")
    return found


def references(erm: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """Return what the points are held against: ERM, which edits nothing."""
    if not erm:
        return []
    return [{"label": "ERM", "metrics": {n: measured_to_json(m) for n, m in sorted(erm.items())}}]


def _axes(now: Snapshot, disease: str) -> list[dict[str, str]]:
    axes = [
        {
            "id": f"metric:{name}",
            "title": title(name),
            "better": DISEASE_METRICS.get(name) or STUDY_METRICS.get(name, ""),
            "kind": "metric",
        }
        for name in now.trials.bare_names(disease, now.diseases)
    ]
    axes += [
        {"id": f"param:{name}", "title": name.replace("_", " "), "better": "", "kind": "parameter"}
        for name in _params(now)
    ]
    axes += [
        {"id": f"count:{QUERIES}", "title": "queries spent", "better": "minimize", "kind": "count"},
        {"id": f"count:{TRIAL}", "title": "trial number", "better": "", "kind": "count"},
    ]
    return axes


def _params(now: Snapshot) -> list[str]:
    return list(dict.fromkeys(name for params in now.trials.params for name in params))


def _confirmed(confirmation: Confirmation | None, disease: str) -> list[int]:
    """The trials confirmed for a disease; for `mean` and `worst`, those confirmed for any."""
    if confirmation is None:
        return []
    return [
        point.trial
        for point in confirmation.points
        if disease in (MEAN, WORST) or disease in point.fronts
    ]


def _feasible(now: Snapshot, rows: Int[np.ndarray, " complete"]) -> Bool[np.ndarray, " complete"]:
    constraints = now.config.constraints
    if not constraints:
        return np.ones(len(rows), dtype=bool)
    names = list(now.trials.names)
    kept = []
    for row in rows:
        ends = now.trials.values[row]
        metrics: dict[str, Measured] = {
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


def _ends(values: Ends) -> dict[str, list[float | None]]:
    return {end: _json(values[:, i]) for i, end in enumerate(("mean", "low", "high"))}


def _json(values: Float[np.ndarray, " complete"]) -> list[float | None]:
    """Round to what a page can show: JSON of thousands of full floats is slow to write and read."""
    rounded = np.where(np.abs(values) < 1, np.round(values, _DIGITS), np.round(values, 3))
    return [value if value == value else None for value in rounded.tolist()]
