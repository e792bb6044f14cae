"""The front of one disease, of thousands of trials at once, as the page draws it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from study.confirm import Confirmation
from study.live.judged import judge
from study.live.source import Snapshot
from study.live.table import Ends
from study.metric_names import DISEASE_METRICS, STUDY_METRICS
from study.pareto import (
    MEAN,
    WORST,
    hypervolume,
    nadir,
)
from study.pareto_views import title
from ude_core.errors import UserError
from ude_core.results import measured_to_json
from ude_core.types import Measured

QUERIES, TRIAL = "queries_spent", "trial"
_OF_TRIAL = (QUERIES, TRIAL)
_DIGITS = 6


def front_view(now: Snapshot, disease: str, columns: Sequence[str]) -> dict[str, Any]:
    """Return the front with its objectives and the `columns` asked for: what the page draws first."""
    wanted = dict.fromkeys((*(f"metric:{goal.name}" for goal in now.goals), *columns))
    judged = judge(now, disease)
    known = judged.usable
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
        "columns": columns_view(now, disease, tuple(wanted), judged.rows),
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
            "better": str(DISEASE_METRICS.get(name) or STUDY_METRICS.get(name) or ""),
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


def _ends(values: Ends) -> dict[str, list[float | None]]:
    return {end: _json(values[:, i]) for i, end in enumerate(("mean", "low", "high"))}


def _json(values: Float[np.ndarray, " complete"]) -> list[float | None]:
    """Round to what a page can show: JSON of thousands of full floats is slow to write and read."""
    rounded = np.where(np.abs(values) < 1, np.round(values, _DIGITS), np.round(values, 3))
    return [None if math.isnan(value) else value for value in rounded.tolist()]
