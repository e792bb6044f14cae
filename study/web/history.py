"""How a front grew: its hypervolume after each trial, against trials and against queries."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from jaxtyping import Float

from study.live.judged import judge
from study.live.source import Snapshot
from study.pareto import hypervolume, nadir


def history_view(now: Snapshot, disease: str) -> dict[str, Any]:
    """Return the hypervolume after each finished trial, in the order in which they ended.

    `trials` counts the finished ones, `queries` what they and the preparation had spent by then, and
    the reference point is today's throughout, so that the curve never falls. Only steps and the end
    are given.
    """
    judged = judge(now, disease)
    rows = {int(row): i for i, row in enumerate(judged.rows)}
    usable = np.isfinite(judged.coordinates).all(axis=1) & judged.feasible
    known = judged.usable
    worst = {goal.name: nadir(goal, known[:, i].tolist()) for i, goal in enumerate(now.goals)}
    signs = np.array([-1.0 if goal.direction == "maximize" else 1.0 for goal in now.goals])
    order = sorted(range(len(now.trials)), key=lambda row: _when(now, row))
    front: Float[np.ndarray, "front goals"] = np.empty((0, len(now.goals)))
    spent, volume = now.study.ledger.preparation_queries, 0.0
    steps: list[tuple[int, int, float]] = [(0, spent, 0.0)]
    for count, row in enumerate(order, start=1):
        spent += int(now.trials.queries[row])
        at = rows.get(row)
        if at is not None and usable[at]:
            point = judged.coordinates[at] * signs
            if not (front <= point).all(axis=1).any():
                front = np.vstack([front[~(front >= point).all(axis=1)], point])
                grown = hypervolume((front * signs).tolist(), now.goals, worst)
                if grown > volume:
                    steps.append((count, spent, grown))
                    volume = grown
    if order and steps[-1][0] != len(order):
        steps.append((len(order), spent, volume))
    trials, queries, volumes = zip(*steps, strict=True)
    return {
        "disease": disease,
        "version": now.version,
        "trials": trials,
        "queries": queries,
        "hypervolume": [round(value, 3) for value in volumes],
        "reference": worst,
    }


def _when(now: Snapshot, row: int) -> tuple[datetime, int]:
    return now.trials.ended[row] or datetime.min, int(now.trials.numbers[row])
