"""Which trials a report speaks of: each method's best, each disease's best. By validation alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from study.minimax import minimax_choice
from study.pareto import MEAN, WORST, Front, Point
from ude_core.baselines.base import learns_noise
from ude_core.errors import UserError
from ude_core.types import Interval, Measured, MethodName

ACCURACY_TOLERANCE_PP = 2.0
RULE = (
    "the smallest EO gap on validation among the trials whose accuracy is at most "
    f"{ACCURACY_TOLERANCE_PP:g} points under ERM's; where there is none, the smallest of all"
)

ERM, RANDOM = "erm", "random_noise"
TITLES: Mapping[str, str] = {
    ERM: "ERM",
    "sketch": "Sketch",
    "group_dro": "Group DRO",
    "batch_sampling": "Batch sampling",
    "bias_adv": "BiasAdv",
    "whitebox": "UDE (white-box)",
    "gezo": "UDE-GeZO",
    RANDOM: "Random noise",
}
"""The rows of Table 2, in the paper's order, and the control that the paper has not."""


def method_title(name: str) -> str:
    """Return a method's name for people.

    >>> method_title("gezo"), method_title("cma_es")
    ('UDE-GeZO', 'cma_es (not in the paper)')
    """
    return TITLES.get(name, f"{name} (not in the paper)")


def methods_of(front: Front) -> dict[MethodName, list[Point]]:
    """Return the complete trials of each method, in the order of Table 2, then by name."""
    found: dict[MethodName, list[Point]] = {}
    for point in front.points:
        found.setdefault(point.method, []).append(point)
    order = list(TITLES)
    places = {name: order.index(name) if name in order else len(order) for name in found}
    return {name: found[name] for name in sorted(found, key=lambda name: (places[name], name))}


def best(points: Iterable[Point], erm: Mapping[str, Measured]) -> Point | None:
    """Return the best of `points` (`RULE`), or None where none is defined and keeps the constraints.

    Ties go to the higher accuracy, then to the lower number. Where ERM's accuracy is undefined, no
    trial is near it.
    """
    known = _measured(points)
    reference = erm.get("accuracy")
    least = (
        reference.mean - ACCURACY_TOLERANCE_PP if isinstance(reference, Interval) else float("inf")
    )
    near = [point for point in known if point.mean("accuracy") >= least]
    return min(near or known, key=_rank, default=None)


def best_by_method(fronts: Mapping[str, Front]) -> dict[MethodName, int]:
    """Return each method's trial for Table 2: `best` by the mean over the diseases."""
    front = fronts[MEAN]
    chosen = {name: best(points, front.erm) for name, points in methods_of(front).items()}
    return {name: point.trial for name, point in chosen.items() if point is not None}


def best_by_disease(fronts: Mapping[str, Front], diseases: Sequence[str]) -> dict[str, int]:
    """Return, by disease, the trial whose noise is best for it (`best`); only of learnt noises."""
    chosen: dict[str, int] = {}
    for disease in diseases:
        point = best(learnt(fronts[disease]), fronts[disease].erm)
        if point is not None:
            chosen[disease] = point.trial
    return chosen


def minimax_trial(fronts: Mapping[str, Front]) -> int | None:
    """Return the ONE learnt noise for all diseases, by validation (`study.minimax`), or None."""
    worst = fronts[WORST]
    try:
        return minimax_choice(replace(worst, points=tuple(learnt(worst)))).trial
    except UserError:
        return None


def learnt(front: Front) -> Sequence[Point]:
    """Return the front's points that learnt a universal noise: those a bundle can hold."""
    return [point for point in front.points if learns_noise(point.method)]


def _measured(points: Iterable[Point]) -> list[Point]:
    """Return those that keep the constraints and have gap and accuracy defined."""
    return [
        point
        for point in points
        if point.feasible
        and all(isinstance(point.metrics.get(name), Interval) for name in ("eo_gap", "accuracy"))
    ]


def _rank(point: Point) -> tuple[float, float, int]:
    return point.mean("eo_gap"), -point.mean("accuracy"), point.trial
