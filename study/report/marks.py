"""Whether the test split bears a front's point out."""

from __future__ import annotations

from collections.abc import Mapping

from study.confirm import dominance
from study.pareto import Goal
from ude_core.types import Interval, Measured

SURE = 0.95
RULE = (
    f"Confirmed: its EO gap is under ERM's with a probability of at least {100 * SURE:.0f} %, and "
    f"under that of at least {100 * SURE:.0f} % of its random noises (19 of 20); a method without "
    "noise is held against ERM alone."
)
_GAP = (Goal("eo_gap", "minimize"),)


def mark(
    ours: Mapping[str, Measured], erm: Mapping[str, Measured], disease: str, *, noise: bool = True
) -> str:
    """Return `confirmed`, or what is missing to it, from the test figures of a trial and of ERM.

    Random noise is what a learnt `noise` must beat; a method without one is held against ERM alone.
    """
    chance = dominance(ours, erm, _GAP, disease)
    beaten = ours.get(f"{disease}/controls_beaten")
    if chance is None:
        return "undefined"
    if chance < SURE:
        return "not confirmed"
    if not noise:
        return "confirmed"
    if not isinstance(beaten, Interval):
        return "not compared with noise"
    return "confirmed" if beaten.mean >= 100 * SURE else "no better than noise"
