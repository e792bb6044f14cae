"""From the bootstrap draws of a metric's parts to its 95 % interval.

A gap is max |part| (see `disparity`), averaged over repeats. It cannot be negative, and a maximum
of noisy values is biased upward, so that a plain percentile interval of it hardly ever holds a true
0 and covers ties too often. Its two ends are therefore made apart:

- The upper end comes from the SIGNED largest part of each repeat, signs and pairs held at what was
  observed, folded at 0: for [lo, hi] it is max(|lo|, |hi|).
- The lower end is the smallest gap that a test does not reject: were the gap t, with every part
  larger than t moved to t and the others where they were seen, a maximum as large as the observed
  one would turn up often enough. "Often enough" is 2.5 % and what the upper end leaves unused of
  its own 2.5 % at that t: near 0 and where several parts tie, the upper end never misses, and a
  two-sided test would cover 97.5 %.

As mean_r max_k |D_rk| >= max_k |mean_r D_rk|, a lower limit made from the parts' means over repeats
is one for the gap. `worst` metrics are the same with error rates for parts, and no fold.

Everything is centred: quantiles are those of (part* - mean part*) + part, on the metric's own scale
(`scales`), which removes the bias of the resampling.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ude_core.metrics.disparity import Metric
from ude_core.metrics.scales import DIFFERENCE, Scale
from ude_core.types import Interval

LEVEL = 0.95
_HALVINGS = 12

Seen = Float[np.ndarray, "repeats parts"]
Drawn = Float[np.ndarray, "draws repeats parts"]
Shares = Float[np.ndarray, "draws repeats"]
_Draws = Float[np.ndarray, " draws"]


def interval_of(metric: Metric, seen: Seen, drawn: Drawn, shares: Shares) -> Interval:
    """Return the mean over repeats of a metric and its 95 % interval, in percentage points.

    `seen` are the observed parts of each repeat, `drawn` the resampled ones, all defined; `shares`
    says how often each repeat was drawn, rows summing to 1.
    """
    if metric.kind == "single":
        return single_interval(seen[:, 0], drawn[..., 0], shares, highest=metric.highest)
    mean, low, high = _largest_part(seen, drawn, shares, metric.scale)
    if metric.kind == "worst":
        mean, low, high = 100.0 - mean, 100.0 - high, 100.0 - low
    return _within(mean, low, high, metric.highest)


def single_interval(
    seen: Float[np.ndarray, " repeats"],
    drawn: Float[np.ndarray, "draws repeats"],
    shares: Shares,
    *,
    highest: float,
) -> Interval:
    """Return the mean over repeats of a value and its interval, inside [0, highest]."""
    mean = float(seen.mean())
    low, high = _centered(np.einsum("dr,dr->d", shares, drawn), mean, DIFFERENCE)
    return _within(mean, low, high, highest)


def leading_parts(seen: Seen, drawn: Drawn) -> tuple[Float[np.ndarray, " repeats"], Shares]:
    """Return each repeat's largest |part|, and the draws of that part with the sign it was seen with."""
    repeats = np.arange(len(seen))
    largest = np.abs(seen).argmax(axis=1)
    leading = seen[repeats, largest]
    signs = np.where(leading < 0, -1.0, 1.0)
    return np.abs(leading), drawn[:, repeats, largest] * signs


def _largest_part(
    seen: Seen, drawn: Drawn, shares: Shares, scale: Scale
) -> tuple[float, float, float]:
    """Return the mean over repeats of max |part|, and the two ends (see the module)."""
    leading, oriented = leading_parts(seen, drawn)
    mean = float(leading.mean())
    # A ratio gap is unbounded on one side: the repeat with the largest part says which it is on.
    extreme = seen.ravel()[np.abs(seen).argmax()]
    sign = -1.0 if extreme < 0 else 1.0
    signed = sign * np.einsum("dr,dr->d", shares, oriented)
    ends = _centered(signed, sign * mean, scale)
    high = max(mean, *map(abs, ends))

    average, centre = np.einsum("dr,drp->dp", shares, drawn), seen.mean(axis=0)
    on_scale = scale.to(average)
    errors = on_scale - on_scale.mean(axis=0)
    reach = abs(float(scale.to(np.array(sign * high)) - scale.to(np.array(sign * mean))))
    observed = float(np.abs(centre).max())

    def accepted(gap: float) -> bool:
        """Return whether a true `gap` could well have given the observed maximum."""
        moved = scale.to(np.clip(centre, -gap, gap)) - errors
        largest = np.abs(scale.back(moved)).max(axis=1)
        upper_ends = np.abs(scale.back(scale.to(sign * largest) + sign * reach))
        tail = (1 - LEVEL) / 2
        unused = max(0.0, tail - float((upper_ends < gap).mean()))
        return float((largest >= observed).mean()) > tail + unused

    return mean, _smallest(accepted, observed), high


def _smallest(accepted: Callable[[float], bool], highest: float) -> float:
    """Return the smallest accepted value in [0, highest], whose upper end is accepted."""
    if accepted(0.0):
        return 0.0
    low, high = 0.0, highest
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if accepted(middle) else (middle, high)
    return low


def _centered(drawn: _Draws, value: float, scale: Scale) -> tuple[float, float]:
    """Return the 95 % quantiles of `drawn`, moved on `scale` so that its mean falls on `value`."""
    tails = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    on_scale = scale.to(drawn)
    centred = np.quantile(on_scale, tails) - on_scale.mean() + scale.to(np.array(value))
    low, high = scale.back(centred)
    return float(low), float(high)


def _within(mean: float, low: float, high: float, highest: float) -> Interval:
    return Interval(mean, min(mean, max(low, 0.0)), max(mean, min(high, highest)))
