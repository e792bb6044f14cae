"""Which points may be exported: confirmed ones that beat random noise, where there are any.

The choice among them is made on validation figures, also where the study is confirmed: choosing by
test figures would make those optimistic again.
"""

from __future__ import annotations

from collections.abc import Sequence

from study.confirm import Confirmation, ConfirmedPoint
from study.pareto import Control, Front, Point, control_label, scoped
from ude_core.baselines.base import learns_noise
from ude_core.errors import UserError


def trusted(
    points: Sequence[Point], front: Front, confirmation: Confirmation | None
) -> tuple[Point, ...]:
    """Return those of `points` to choose among.

    Of the learnt noises, those confirmed and better than random noise on the test split; else those
    better than random noise on validation; else all. Raises UserError where there is none.
    """
    learnt = tuple(point for point in points if learns_noise(point.method))
    if not learnt:
        methods = ", ".join(sorted({point.method for point in points}))
        raise UserError(
            f"no learnt noise is on the front of {front.disease}, only {methods}; launch more "
            "trials, or name one with --policy trial=N"
        )
    better = tuple(point for point in learnt if point.control != "no better than noise")
    if confirmation is not None:
        confirmed = tuple(
            point
            for point in better
            if (found := confirmation.point(point.trial)) is not None
            and confirmed_control(found, front.disease) != "no better than noise"
        )
        better = confirmed or better
    return better or learnt


def candidates(front: Front, confirmation: Confirmation | None) -> tuple[Point, ...]:
    """Return the points of a front to choose among: see `trusted`."""
    return trusted(front.best, front, confirmation)


def confirmed_control(found: ConfirmedPoint, disease: str) -> Control:
    """Return whether a confirmed noise beat random noise for `disease` on the test split."""
    diseases = sorted({name.partition("/")[0] for name in found.metrics if "/" in name})
    return control_label(scoped(found.metrics, disease, diseases))


def doubt(point: Point, front: Front, confirmation: Confirmation | None) -> str:
    """Return a warning where a point is no better than random noise; else nothing."""
    if not learns_noise(point.method):
        return f"{front.disease}: trial {point.trial} is random noise, not learnt; do not use it"
    found = confirmation.point(point.trial) if confirmation is not None else None
    where, label = "validation", point.control
    if found is not None:
        where, label = "the test split", confirmed_control(found, front.disease)
    if label != "no better than noise":
        if found is not None and found.standing.get(front.disease) == "no improvement on ERM":
            return (
                f"{front.disease}: trial {point.trial}'s smaller gap is not confirmed on the test "
                "split: chance could have made it"
            )
        return ""
    return (
        f"{front.disease}: trial {point.trial} is no better than random noise of its own norm on "
        f"{where}; do not use it"
    )
