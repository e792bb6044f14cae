"""ONE noise for every disease: the trial whose worst disease has the smallest gap.

The paper claims that a noise learnt from the attribute alone serves any disease. Minimax takes the
claim at its word: no disease may be worse off than it has to be.
"""

from __future__ import annotations

from study.candidates import trusted
from study.confirm import Confirmation
from study.pareto import WORST, Front, Point
from ude_core.errors import UserError
from ude_core.types import Interval

GAP = "eo_gap"


def minimax_choice(front: Front, confirmation: Confirmation | None = None) -> Point:
    """Return the point of the front `worst` with the smallest equal-opportunity gap, in its worst disease.

    Every complete trial that keeps the study's constraints is a candidate, on the front or not,
    since the gap need not be an objective; confirmed ones and those that beat random noise in EVERY
    disease come first (`study.candidates.trusted`). The gap is the validation mean, in percentage
    points. Ties go to the higher worst accuracy, then to the lower trial number. Raises UserError
    where no trial has its gap defined in every disease.

    >>> from study.pareto import Front
    >>> minimax_choice(Front("demo", "edema", (), (), {}, {}, 0.0))
    Traceback (most recent call last):
    ...
    ude_core.errors.UserError: minimax is over the front 'worst', not 'edema'
    """
    if front.disease != WORST:
        raise UserError(f"minimax is over the front {WORST!r}, not {front.disease!r}")
    measured = [
        point
        for point in front.points
        if point.feasible and isinstance(point.metrics.get(GAP), Interval)
    ]
    if not measured:
        raise UserError(
            f"study {front.study} has no noise for all diseases yet: no complete trial that keeps "
            "the constraints has its gap defined in every disease; launch more trials"
        )
    return min(trusted(measured, front, confirmation), key=_rank)


def _rank(point: Point) -> tuple[float, float, int]:
    accuracy = point.metrics.get("accuracy")
    kept = accuracy.mean if isinstance(accuracy, Interval) else float("-inf")
    return point.mean(GAP), -kept, point.trial
