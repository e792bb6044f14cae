"""Metrics averaged over repeats, each with a 95 % bootstrap interval.

Resampling is two-way. Images are drawn with replacement inside each (label x group) cell, ONE
weight vector for all repeats, because repeats share images and so their errors; and repeats are
drawn with replacement. While resampling, and only then, each cell holds two more images, one scored
+inf and one -inf, each drawn half as often as a real one (half a success and half a failure, as
Jeffreys' prior adds). A cell of 20 images that are all predicted alike would otherwise claim to
know its rate exactly; whole ones (Agresti and Caffo, 2000) cover too often in cells of 25. `intervals`
says how draws become an interval.

With many repeats the interval errs on the wide side: resampling both ways counts the noise that is
particular to one image in one repeat more than once, most of all when repeats share few images.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from ude_core.metrics.disparity import Groups, auroc_value, counted_metrics
from ude_core.metrics.intervals import Drawn, Shares, interval_of, single_interval
from ude_core.metrics.rates import NEGATIVE, POSITIVE, Cells, aurocs, check_table, count_cells
from ude_core.types import Interval, Metrics, Undefined

UNDEFINED_SHARE = 0.1
"""More undefined draws than this share make a metric undefined."""

ADDED = 2
"""Images that smoothing adds to a cell, each with half the chance of a real one to be drawn."""

UNDEFINED_DRAWS = "undefined in {share:.0%} of the bootstrap draws: {reason}"
UNDEFINED_REPEAT = "repeat {repeat} of {repeats}: {reason}"


def score(
    labels: Int[np.ndarray, " images"],
    attribute: Int[np.ndarray, " images"],
    groups: Groups,
    logits: Float[np.ndarray, "repeats images"],
    *,
    draws: int,
    rng: np.random.Generator,
) -> Metrics:
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
    chosen = canonical_order(labels, attribute, logits)
    labels, attribute, logits = labels[chosen], attribute[chosen], logits[:, chosen]
    repeats = logits.shape[0]

    once = np.ones((1, len(labels)))
    observed = count_cells(labels, attribute, len(groups), logits, once)
    areas = aurocs(labels, logits, once)[0]
    ends = np.array([np.inf, -np.inf])
    labels, attribute, logits = smoothed(labels, attribute, len(groups), logits, ends)
    weights = resampled_weights(labels, attribute, len(groups), draws, rng)
    resampled = count_cells(labels, attribute, len(groups), logits, weights)
    areas_drawn = aurocs(labels, logits, weights)
    shares = repeat_shares(repeats, draws, rng)

    measured: Metrics = {}
    for name, metric in counted_metrics(groups).items():
        seen, drawn = metric.parts(observed)[0], metric.parts(resampled)
        measured[name] = (
            _undefined_repeat(
                [metric.value(observed.table(0, repeat)) for repeat in range(repeats)]
            )
            or _undefined_draws(drawn, shares, resampled, metric.value)
            or interval_of(metric, seen, *_defined(drawn, shares))
        )
    drawn = 100.0 * areas_drawn[..., None]
    measured["auroc"] = (
        _undefined_repeat([auroc_value(a, observed.table(0, r)) for r, a in enumerate(areas)])
        or _undefined_draws(drawn, shares, resampled, partial(auroc_value, np.nan))
        or _area_interval(areas, *_defined(drawn, shares))
    )
    return measured


def canonical_order(
    labels: Int[np.ndarray, " images"],
    attribute: Int[np.ndarray, " images"],
    logits: Float[np.ndarray, "repeats images"],
) -> Int[np.ndarray, " chosen"]:
    """Return the images evaluated at least once, sorted by cell and logits, not by position."""
    evaluated = np.flatnonzero(~np.isnan(logits).all(axis=0))
    keys = (*logits[::-1, evaluated], attribute[evaluated], labels[evaluated])
    return evaluated[np.lexsort(keys)]


def smoothed(
    labels: Int[np.ndarray, " images"],
    attribute: Int[np.ndarray, " images"],
    groups: int,
    logits: Float[np.ndarray, "repeats images"],
    ends: Float[np.ndarray, "*repeats added"],
) -> tuple[Int[np.ndarray, " more"], Int[np.ndarray, " more"], Float[np.ndarray, "repeats more"]]:
    """Append to every cell images scored `ends` (`ADDED` of them), in every repeat or by repeat."""
    cells = [(label, group) for label in (NEGATIVE, POSITIVE) for group in range(groups)]
    added = np.repeat(np.array(cells), ADDED, axis=0)
    scored = np.tile(np.broadcast_to(ends, (logits.shape[0], ADDED)), len(cells))
    return (
        np.concatenate([labels, added[:, 0]]),
        np.concatenate([attribute, added[:, 1]]),
        np.concatenate([logits, scored], axis=1),
    )


def resampled_weights(
    labels: Int[np.ndarray, " images"],
    attribute: Int[np.ndarray, " images"],
    groups: int,
    draws: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draws images"]:
    """Return how often each image is drawn, with replacement inside its (label x group) cell.

    As many are drawn as the cell had images before smoothing; the last `ADDED` of each are those.
    """
    weights = np.zeros((draws, len(labels)))
    for label in (NEGATIVE, POSITIVE):
        for group in range(groups):
            members = np.flatnonzero((labels == label) & (attribute == group))
            size, real = len(members), len(members) - ADDED
            # Two tickets for each real image, one for each added one.
            tickets = rng.integers(2 * real + ADDED, size=(draws, real))
            taken = np.where(tickets < 2 * real, tickets // 2, tickets - real)
            rows = taken + size * np.arange(draws)[:, None]
            counts = np.bincount(rows.ravel(), minlength=draws * size)
            weights[:, members] = counts.reshape(draws, size)
    return weights


def repeat_shares(repeats: int, draws: int, rng: np.random.Generator) -> Shares:
    """Return how often each repeat is drawn, with replacement, as shares that sum to 1."""
    shares: Shares = rng.multinomial(repeats, np.full(repeats, 1 / repeats), size=draws) / repeats
    return shares


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


def _defined(drawn: Drawn, shares: Shares) -> tuple[Drawn, Shares]:
    """Return the draws that are defined in every repeat they count."""
    kept = ~_undefined_tables(drawn, shares).any(axis=1)
    return np.nan_to_num(drawn[kept]), shares[kept]


def _area_interval(areas: Float[np.ndarray, " repeats"], drawn: Drawn, shares: Shares) -> Interval:
    return single_interval(100.0 * areas, drawn[..., 0], shares, highest=100.0)
