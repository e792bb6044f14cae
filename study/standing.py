"""How a point of the front holds up on the test split: the rules, and nothing else.

A search offers many points, for several diseases, and one of them looks good by luck. A point is
`confirmed` for a disease where its equal-opportunity gap is under ERM's, paired on the same images,
draws and head starts, at a level that holds for all points and diseases TOGETHER (Holm, 1979), and
where it is also under those of at least 95 % of its random noises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal

from study.pareto import Goal, Levelling, levelling_label
from ude_core.types import Interval, Measured

LEVEL = 0.025
"""The chance, at most, that any point at all is called an improvement where none is: one-sided."""

SHARE_BEATEN = 95.0

Standing = Literal["confirmed", "no improvement on ERM", "no better than noise", "not compared"]

_NORMAL = NormalDist()
_WIDTH = 2 * _NORMAL.inv_cdf(0.975)


def standings(
    metrics: Mapping[int, Mapping[str, Measured]], fronts: Mapping[int, Sequence[str]]
) -> dict[int, dict[str, Standing]]:
    """Return, by trial and by each disease of its `fronts`, how it stands on the test split.

    `metrics` are those of `ude_core.confirmation`. All pairs of trial and disease are one family.
    `not compared`: the gap is undefined, or there was no random noise to compare with.
    """
    pairs = [(trial, disease) for trial, names in fronts.items() for disease in names]
    chances = [improvement_chance(metrics[t].get(f"{d}/eo_gap_vs_erm")) for t, d in pairs]
    improved = holm([1.0 if chance is None else chance for chance in chances], LEVEL)
    found: dict[int, dict[str, Standing]] = {trial: {} for trial in fronts}
    for (trial, disease), chance, better in zip(pairs, chances, improved, strict=True):
        beaten = metrics[trial].get(f"{disease}/controls_beaten")
        if chance is None or not isinstance(beaten, Interval):
            found[trial][disease] = "not compared"
        elif not better:
            found[trial][disease] = "no improvement on ERM"
        elif beaten.mean < SHARE_BEATEN:
            found[trial][disease] = "no better than noise"
        else:
            found[trial][disease] = "confirmed"
    return found


def improvement_chance(difference: Measured | None) -> float | None:
    """Return how likely so much smaller a gap would be without an improvement: one-sided p.

    `difference` is ours minus ERM's, taken as normal with the width of its 95 % interval. None
    where there is none.

    >>> round(improvement_chance(Interval(-2.0, -4.0, 0.0)), 4)
    0.025
    """
    if not isinstance(difference, Interval):
        return None
    spread = (difference.high - difference.low) / _WIDTH
    if spread > 0:
        return _NORMAL.cdf(difference.mean / spread)
    return 0.0 if difference.mean < 0 else 1.0


def holm(chances: Sequence[float], level: float) -> list[bool]:
    """Return which hypotheses are rejected so that any false rejection has probability <= `level`.

    Holm's step-down: the smallest p against level / m, the next against level / (m - 1), until one
    fails. It needs no independence.

    >>> holm([0.01, 0.2, 0.02], 0.05)
    [True, False, True]
    """
    rejected = [False] * len(chances)
    for done, index in enumerate(sorted(range(len(chances)), key=lambda i: chances[i])):
        if chances[index] > level / (len(chances) - done):
            break
        rejected[index] = True
    return rejected


def dominance(
    ours: Mapping[str, Measured], erm: Mapping[str, Measured], goals: Sequence[Goal], disease: str
) -> float | None:
    """Return the probability that a noise beats ERM on every objective of `disease` at once.

    Each metric is taken as normal with the width of its 95 % interval, and all as independent.
    Both are scored on the same images, so a real advantage is understated. None where a metric is
    undefined or not measured on the test split.
    """
    probability = 1.0
    for goal in goals:
        name = f"{disease}/{goal.name}"
        mine, other = ours.get(name), erm.get(name)
        if not (isinstance(mine, Interval) and isinstance(other, Interval)):
            return None
        gain = other.mean - mine.mean if goal.direction == "minimize" else mine.mean - other.mean
        spread = math.hypot(mine.high - mine.low, other.high - other.low) / _WIDTH
        if spread > 0:
            probability *= _NORMAL.cdf(gain / spread)
        else:
            probability *= 0.5 if gain == 0 else float(gain > 0)
    return probability


def shown_levelling(metrics: Mapping[str, Measured], disease: str) -> Levelling:
    """Return whom the edit helped on the test split, by changes whose 95 % interval excludes 0.

    As `pareto.levelling`, of each group's paired TPR and TNR against ERM's; a change that could be
    chance counts as none, so `unchanged` means that none was shown.
    """
    rates = (f"{disease}/tpr.", f"{disease}/tnr.")
    changes = [
        value
        for name, value in metrics.items()
        if name.startswith(rates) and name.endswith("_vs_erm")
    ]
    known = [value for value in changes if isinstance(value, Interval)]
    if not known or len(known) < len(changes):
        return "unknown"
    rose, fell = any(c.low > 0 for c in known), any(c.high < 0 for c in known)
    return levelling_label(rose=rose, fell=fell)
