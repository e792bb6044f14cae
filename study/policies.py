"""The policies: how one point of a front is chosen, on validation figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from study.candidates import candidates, doubt
from study.confirm import Confirmation
from study.minimax import minimax_choice
from study.pareto import Front, Goal, Point
from ude_core.baselines.base import has_noise
from ude_core.errors import UserError
from ude_core.types import Interval

PolicyKind = Literal["knee", "min-gap", "max-accuracy", "accuracy-drop", "minimax", "trial"]
POLICIES = "knee, min-gap, max-accuracy, accuracy-drop=P, minimax or trial=N"


@dataclass(frozen=True, slots=True)
class Policy:
    """How one point of a front is chosen; `value` is P of accuracy-drop=P and N of trial=N."""

    kind: PolicyKind
    value: float = 0.0

    def __str__(self) -> str:
        match self.kind:
            case "accuracy-drop" | "trial":
                return f"{self.kind}={self.value:g}"
            case _:
                return self.kind


def parse_policy(text: str) -> Policy:
    """Return the policy that `text` names. Raises UserError with those there are.

    >>> parse_policy("accuracy-drop=2.5")
    Policy(kind='accuracy-drop', value=2.5)
    """
    simple: tuple[PolicyKind, ...] = ("knee", "min-gap", "max-accuracy", "minimax")
    for kind in simple:
        if text == kind:
            return Policy(kind)
    name, _, value = text.partition("=")
    if name == "trial" and value.isascii() and value.isdigit():
        return Policy("trial", int(value))
    if name == "accuracy-drop":
        try:
            points = float(value)
        except ValueError:
            points = math.nan
        if 0 <= points <= 100:
            return Policy("accuracy-drop", points)
        raise UserError(f"accuracy-drop is {value!r} (expected 0 to 100 percentage points)")
    raise UserError(f"policy {text!r} is unknown (expected {POLICIES})")


def choose(
    front: Front, policy: Policy, confirmation: Confirmation | None = None
) -> tuple[Point, str]:
    """Return the point that `policy` picks, and a warning where it is no better than noise.

    Raises UserError where the front is empty, no point fits the policy, or it has no noise.
    """
    if policy.kind == "trial":
        number = int(policy.value)
        point = next((point for point in front.points if point.trial == number), None)
        if point is None:
            raise UserError(f"trial {number} of study {front.study} is not complete; name another")
        if not has_noise(point.method):
            raise UserError(
                f"trial {number} is {point.method}: it has no noise to export; name a trial that "
                "learnt one"
            )
        return point, doubt(point, front, confirmation)
    if policy.kind == "minimax":
        point = minimax_choice(front, confirmation)
        return point, doubt(point, front, confirmation)
    if not front.best:
        raise UserError(
            f"study {front.study} has no front for {front.disease} yet: no complete trial has all "
            "its objectives defined; launch more trials"
        )
    point = pick(candidates(front, confirmation), policy, front)
    return point, doubt(point, front, confirmation)


def pick(points: Sequence[Point], policy: Policy, front: Front) -> Point:
    """Return one of `points`; ties go to the higher accuracy, then to the lower trial number."""
    match policy.kind:
        case "knee":
            distances = knee_distances(
                [[p.mean(g.name) for g in front.goals] for p in points], front.goals
            )
            order = {
                point.trial: distance for point, distance in zip(points, distances, strict=True)
            }
            return min(points, key=lambda p: (order[p.trial], -p.mean("accuracy"), p.trial))
        case "min-gap":
            return min(points, key=lambda p: (p.mean("eo_gap"), -p.mean("accuracy"), p.trial))
        case "max-accuracy":
            return min(points, key=lambda p: (-p.mean("accuracy"), p.mean("eo_gap"), p.trial))
        case "accuracy-drop":
            return _within_drop(points, policy.value, front)
        case "trial" | "minimax":
            raise UserError(f"{policy} does not pick among the points of a front")
        case _:
            assert_never(policy.kind)


def knee_distances(rows: Sequence[Sequence[float]], goals: Sequence[Goal]) -> list[float]:
    """Return each row's distance to the ideal point: 0 on an axis is the best of `rows`, 1 the worst.

    The smallest is the knee: the point nearest to having the best of everything.
    """
    columns = list(zip(*rows, strict=True))
    totals = [0.0] * len(rows)
    for column, goal in zip(columns, goals, strict=True):
        low, high = min(column), max(column)
        best = low if goal.direction == "minimize" else high
        for index, value in enumerate(column):
            totals[index] += 0.0 if high == low else ((value - best) / (high - low)) ** 2
    return [math.sqrt(total) for total in totals]


def _within_drop(points: Sequence[Point], drop: float, front: Front) -> Point:
    erm = front.erm.get("accuracy")
    if not isinstance(erm, Interval):
        raise UserError(f"accuracy-drop needs ERM's accuracy, which {front.disease} has not")
    near = [point for point in points if erm.mean - point.mean("accuracy") <= drop]
    if not near:
        best = max(points, key=lambda p: p.mean("accuracy"))
        raise UserError(
            f"no point of {front.disease} keeps accuracy within {drop:g} points of ERM's "
            f"{erm.mean:.1f}; the nearest is trial {best.trial}, "
            f"{erm.mean - best.mean('accuracy'):.1f} points under"
        )
    return min(near, key=lambda p: (p.mean("eo_gap"), -p.mean("accuracy"), p.trial))
