"""Which trials a report speaks of: each method's best, each disease's best. By validation alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from study.config import StudyConfig
from study.minimax import minimax_choice
from study.pareto import MEAN, WORST, Front, Point
from study.spaces import method_of
from ude_core.errors import UserError
from ude_core.types import Interval, Measured

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

NOTHING_LEARNT = frozenset({ERM, RANDOM, "sketch", "group_dro", "batch_sampling", "bias_adv"})
"""Methods whose trials are no learnt noise: no λ, no R, no picture of an edit, no transfer."""


def method_title(name: str) -> str:
    """Return a method's name for people.

    >>> method_title("gezo"), method_title("cma_es")
    ('UDE-GeZO', 'cma_es (not in the paper)')
    """
    return TITLES.get(name, f"{name} (not in the paper)")


def methods_of(front: Front, config: StudyConfig) -> dict[str, list[Point]]:
    """Return the complete trials of each method, in the order of Table 2, then by name."""
    found: dict[str, list[Point]] = {}
    for point in front.points:
        found.setdefault(method_of(config, point.params).name, []).append(point)
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


def best_by_method(fronts: Mapping[str, Front], config: StudyConfig) -> dict[str, int]:
    """Return each method's trial for Table 2: `best` by the mean over the diseases."""
    front = fronts[MEAN]
    chosen = {name: best(points, front.erm) for name, points in methods_of(front, config).items()}
    return {name: point.trial for name, point in chosen.items() if point is not None}


def best_by_disease(fronts: Mapping[str, Front], config: StudyConfig) -> dict[str, int]:
    """Return, by disease, the trial whose noise is best for it (`best`); only of learnt noises."""
    chosen: dict[str, int] = {}
    for disease in config.cohort.diseases:
        point = best(learnt(fronts[disease], config), fronts[disease].erm)
        if point is not None:
            chosen[disease] = point.trial
    return chosen


def minimax_trial(fronts: Mapping[str, Front], config: StudyConfig) -> int | None:
    """Return the ONE learnt noise for all diseases, by validation (`study.minimax`), or None."""
    worst = fronts[WORST]
    try:
        return minimax_choice(replace(worst, points=tuple(learnt(worst, config)))).trial
    except UserError:
        return None


def learnt(front: Front, config: StudyConfig) -> Sequence[Point]:
    """Return the front's points that learnt a universal noise: those a bundle can hold."""
    return [p for p in front.points if method_of(config, p.params).name not in NOTHING_LEARNT]


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
