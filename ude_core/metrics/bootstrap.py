"""Metrics averaged over repeats, each with a 95 % bootstrap interval.

Resampling is two-way. Images are drawn with replacement inside each (label x group) cell, ONE
weight vector for all repeats, because repeats share images and so their errors; and repeats are
drawn with replacement. Three choices keep the coverage near 95 % where the plain percentile
bootstrap does not reach it:

- Smoothing. While resampling, and only then, each cell holds two more images, one scored +inf and
  one -inf (the "add one success and one failure" of Agresti and Caffo, 2000). A cell of 20 images
  that are all predicted alike would otherwise claim to know its rate exactly.
- Centring. Quantiles are taken of (theta* - mean theta*) + theta, which removes the bias of theta*.
- Folding. A gap is max |part| (see `disparity`): it is bounded by 0 and its estimate biased upward,
  so that a percentile interval hardly ever holds a true 0. The upper end therefore comes from the
  SIGNED largest part of each repeat, signs and pairs held at what was observed, folded at 0.
  The lower end is the largest of the parts' own lower ends: as mean_r max_k |D_rk| >=
  max_k |mean_r D_rk|, a lower limit of any |mean_r D_rk| is one for the gap, with the level shared
  over the parts (Bonferroni). For two groups and one repeat this is the signed interval [lo, hi]
  folded: [0, max(|lo|, |hi|)] when it holds 0.

A folded interval near 0 can miss on one side only, so its nominal coverage lies between 95 and
97.5 %. With many repeats the interval errs on the wide side: resampling both ways counts the noise
that is particular to one image in one repeat more than once, most of all when repeats share few
images.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from ude_core.metrics.disparity import Groups, Kind, auroc_value, counted_metrics
from ude_core.metrics.rates import NEGATIVE, POSITIVE, Cells, aurocs, check_table, count_cells
from ude_core.types import Interval, Measured, Undefined

LEVEL = 0.95
UNDEFINED_SHARE = 0.1
"""More undefined draws than this share make a metric undefined."""

ADDED = 2
"""Images that smoothing adds to a cell."""

UNDEFINED_DRAWS = "undefined in {share:.0%} of the bootstrap draws: {reason}"
UNDEFINED_REPEAT = "repeat {repeat} of {repeats}: {reason}"

Seen = Float[np.ndarray, "repeats parts"]
Drawn = Float[np.ndarray, "draws repeats parts"]
Shares = Float[np.ndarray, "draws repeats"]


def score(
    labels: Int[np.ndarray, " images"],
    attribute: Int[np.ndarray, " images"],
    groups: Groups,
    logits: Float[np.ndarray, "repeats images"],
    *,
    draws: int,
    rng: np.random.Generator,
) -> dict[str, Measured]:
    """Return every metric of one disease with its 95 % interval, in percentage points.

    Keys: eo_negative_gap, eo_positive_gap, eo_gap, selection_rate_ratio_gap,
    selection_rate_symmetric_gap, tpr_ratio_gap, accuracy, worst_group_accuracy, auroc, and
    tpr.<group>, tnr.<group>. `labels` is 1, 0, or -1 where an image is not used; `attribute`
    indexes `groups`. An image is predicted positive when its logit is above 0; a NaN logit means
    that the image was not evaluated in that repeat.

    `mean` is the mean over repeats and always lies in [low, high]. Intervals stay in [0, 100], but
    for the two ratio gaps, which have no upper bound. A metric that is undefined in
    one repeat, or in more than a tenth of the draws, is `Undefined`. The order of the images does
    not matter, and equal generators give equal results.

    Raises ValueError for an infinite logit, a label or group out of range, or draws < 2.
    """
    check_table(labels, attribute, len(groups), logits)
    if draws < 2:
        raise ValueError(f"expected draws >= 2, got {draws}")
    logits = np.asarray(logits, dtype=np.float64)
    chosen = _canonical_order(labels, attribute, logits)
    labels, attribute, logits = labels[chosen], attribute[chosen], logits[:, chosen]
    repeats = logits.shape[0]

    once = np.ones((1, len(labels)))
    observed = count_cells(labels, attribute, len(groups), logits, once)
    areas = aurocs(labels, logits, once)[0]
    labels, attribute, logits = _smoothed(labels, attribute, len(groups), logits)
    weights = _resampled_weights(labels, attribute, len(groups), draws, rng)
    resampled = count_cells(labels, attribute, len(groups), logits, weights)
    areas_drawn = aurocs(labels, logits, weights)
    shares = rng.multinomial(repeats, np.full(repeats, 1 / repeats), size=draws) / repeats

    measured: dict[str, Measured] = {}
    for name, metric in counted_metrics(groups).items():
        seen, drawn = metric.parts(observed)[0], metric.parts(resampled)
        measured[name] = (
            _undefined_repeat(
                [metric.value(observed.table(0, repeat)) for repeat in range(repeats)]
            )
            or _undefined_draws(drawn, shares, resampled, metric.value)
            or _interval(metric.kind, metric.highest, seen, drawn, shares)
        )
    seen, drawn = 100.0 * areas[:, None], 100.0 * areas_drawn[..., None]
    measured["auroc"] = (
        _undefined_repeat([auroc_value(a, observed.table(0, r)) for r, a in enumerate(areas)])
        or _undefined_draws(drawn, shares, resampled, partial(auroc_value, np.nan))
        or _interval("single", 100.0, seen, drawn, shares)
    )
    return measured


def _canonical_order(
    labels: Int[np.ndarray, " images"],
    attribute: Int[np.ndarray, " images"],
    logits: Float[np.ndarray, "repeats images"],
) -> Int[np.ndarray, " chosen"]:
    """Return the images evaluated at least once, sorted by cell and logits, not by position."""
    evaluated = np.flatnonzero(~np.isnan(logits).all(axis=0))
    keys = (*logits[::-1, evaluated], attribute[evaluated], labels[evaluated])
    return evaluated[np.lexsort(keys)]


def _smoothed(
    labels: Int[np.ndarray, " images"],
    attribute: Int[np.ndarray, " images"],
    groups: int,
    logits: Float[np.ndarray, "repeats images"],
) -> tuple[Int[np.ndarray, " more"], Int[np.ndarray, " more"], Float[np.ndarray, "repeats more"]]:
    """Append to every cell one image scored +inf and one scored -inf, in every repeat."""
    cells = [(label, group) for label in (NEGATIVE, POSITIVE) for group in range(groups)]
    added = np.repeat(np.array(cells), ADDED, axis=0)
    ends = np.tile([np.inf, -np.inf], (logits.shape[0], len(cells)))
    return (
        np.concatenate([labels, added[:, 0]]),
        np.concatenate([attribute, added[:, 1]]),
        np.concatenate([logits, ends], axis=1),
    )


def _resampled_weights(
    labels: Int[np.ndarray, " images"],
    attribute: Int[np.ndarray, " images"],
    groups: int,
    draws: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draws images"]:
    """Return how often each image is drawn, with replacement inside its (label x group) cell.

    As many are drawn as the cell had images before smoothing.
    """
    weights = np.zeros((draws, len(labels)))
    for label in (NEGATIVE, POSITIVE):
        for group in range(groups):
            members = np.flatnonzero((labels == label) & (attribute == group))
            size = len(members)
            taken = rng.integers(size, size=(draws, size - ADDED))
            rows = taken + size * np.arange(draws)[:, None]
            counts = np.bincount(rows.ravel(), minlength=draws * size)
            weights[:, members] = counts.reshape(draws, size)
    return weights


def _undefined_repeat(values: list[float | Undefined]) -> Undefined | None:
    for repeat, value in enumerate(values):
        if isinstance(value, Undefined):
            if len(values) == 1:
                return value
            return Undefined(
                UNDEFINED_REPEAT.format(repeat=repeat + 1, repeats=len(values), reason=value.reason)
            )
    return None


def _undefined_tables(drawn: Drawn, shares: Shares) -> Bool[np.ndarray, "draws repeats"]:
    undefined: Bool[np.ndarray, "draws repeats"] = np.isnan(drawn).any(axis=-1) & (shares > 0)
    return undefined


def _undefined_draws(
    drawn: Drawn, shares: Shares, cells: Cells, value: Callable[[Cells], float | Undefined]
) -> Undefined | None:
    """Return why the metric is undefined when too many draws are, else None.

    The reason is that of one such draw: `value` of its table.
    """
    undefined = _undefined_tables(drawn, shares)
    share = float(undefined.any(axis=1).mean())
    if share <= UNDEFINED_SHARE:
        return None
    draw, repeat = np.argwhere(undefined)[0]
    example = value(cells.table(int(draw), int(repeat)))
    reason = example.reason if isinstance(example, Undefined) else "not a number"
    return Undefined(UNDEFINED_DRAWS.format(share=share, reason=reason))


def _interval(kind: Kind, highest: float, seen: Seen, drawn: Drawn, shares: Shares) -> Interval:
    """Return the mean over repeats of one metric, and its interval, from its parts."""
    defined = ~_undefined_tables(drawn, shares).any(axis=1)
    drawn, shares = np.nan_to_num(drawn[defined]), shares[defined]
    if kind == "single":
        mean = float(seen.mean())
        low, high = _centered(np.einsum("dr,dr->d", shares, drawn[..., 0]), mean, LEVEL)
    else:
        mean, low, high = _largest_part(seen, drawn, shares)
        if kind == "worst":
            mean, low, high = 100.0 - mean, 100.0 - high, 100.0 - low
    return Interval(mean, min(mean, max(low, 0.0)), max(mean, min(high, highest)))


def _largest_part(seen: Seen, drawn: Drawn, shares: Shares) -> tuple[float, float, float]:
    """Return the mean over repeats of max |part|, and its folded interval (see the module)."""
    repeats = np.arange(len(seen))
    largest = np.abs(seen).argmax(axis=1)
    leading = seen[repeats, largest]
    signs = np.where(leading < 0, -1.0, 1.0)
    mean = float(np.abs(leading).mean())
    signed = np.einsum("dr,dr->d", shares, drawn[:, repeats, largest] * signs)
    below, above = _centered(signed, mean, LEVEL)
    high = max(above, -below)

    level = 1 - (1 - LEVEL) / seen.shape[1]
    low = 0.0
    averages = np.einsum("dr,drp->dp", shares, drawn)
    for average, value in zip(averages.T, seen.mean(axis=0), strict=True):
        below, above = _centered(average, float(value), level)
        low = max(low, below, -above)
    return mean, low, high


def _centered(
    drawn: Float[np.ndarray, " draws"], value: float, level: float
) -> tuple[float, float]:
    """Return the `level` quantiles of `drawn`, moved so that its mean falls on `value`."""
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(drawn, tails) - drawn.mean() + value
    return float(low), float(high)
