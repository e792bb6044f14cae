"""How much a metric differs from the same metric of another head on the same images and repeats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from ude_core.metrics.bootstrap import (
    canonical_order,
    repeat_shares,
    resampled_weights,
    smoothed,
)
from ude_core.metrics.disparity import Groups, Metric, counted_metrics
from ude_core.metrics.intervals import Shares, leading_parts
from ude_core.metrics.rates import Cells, check_table, count_cells
from ude_core.types import Interval, Measured, Metrics, Undefined

Z95 = 1.959963984540054
"""The normal quantile of 0.975."""

_DISAGREEING = np.array([np.inf, -np.inf])
NOT_ALIKE = "the two were not evaluated on the same images"


def paired_differences(
    labels: Int[np.ndarray, " images"],
    attribute: Int[np.ndarray, " images"],
    groups: Groups,
    ours: Float[np.ndarray, "repeats images"],
    reference: Float[np.ndarray, "repeats images"],
    *,
    metrics: Sequence[str],
    draws: int,
    rng: np.random.Generator,
) -> Metrics:
    """Return, by metric, the mean over repeats of ours minus the reference's, with its 95 % interval.

    Percentage points; `metrics` are names of `disparity.counted_metrics`. Both share images,
    repeats and resamples, so what moves both alike cancels. The interval is mean ± 1.96 deviations
    of the difference; for a gap, of its SIGNED largest parts, signs and pairs held at what was
    observed: folding would hide part of the noise where the true gaps are 0. Each cell gains two
    images on which the two disagree, one each way, so that two tables which agree everywhere do not
    claim to know that they always will.

    Undefined where either metric is. Raises ValueError as `bootstrap.score` does, and where the two
    were not evaluated on the same images.
    """
    for logits in (ours, reference):
        check_table(labels, attribute, len(groups), logits)
    if not np.array_equal(np.isnan(ours), np.isnan(reference)):
        raise ValueError(NOT_ALIKE)
    if draws < 2:
        raise ValueError(f"expected draws >= 2, got {draws}")
    chosen = canonical_order(labels, attribute, np.concatenate([ours, reference]))
    labels, attribute = labels[chosen], attribute[chosen]
    both = [np.asarray(logits, np.float64)[:, chosen] for logits in (ours, reference)]
    once = np.ones((1, len(labels)))
    observed = [count_cells(labels, attribute, len(groups), logits, once) for logits in both]
    more = [
        smoothed(labels, attribute, len(groups), logits, ends)
        for logits, ends in zip(both, (_DISAGREEING, -_DISAGREEING), strict=True)
    ]
    weights = resampled_weights(more[0][0], more[0][1], len(groups), draws, rng)
    shares = repeat_shares(len(ours), draws, rng)
    resampled = [
        count_cells(classes, codes, len(groups), logits, weights) for classes, codes, logits in more
    ]
    known = counted_metrics(groups)
    return {name: _difference(known[name], observed, resampled, shares) for name in metrics}


def _difference(
    metric: Metric, observed: Sequence[Cells], resampled: Sequence[Cells], shares: Shares
) -> Measured:
    means, drawn = [], []
    for cells, draws in zip(observed, resampled, strict=True):
        for repeat in range(cells.total.shape[1]):
            value = metric.value(cells.table(0, repeat))
            if isinstance(value, Undefined):
                return value
        leading, oriented = leading_parts(metric.parts(cells)[0], metric.parts(draws))
        sign = -1.0 if metric.kind == "worst" else 1.0  # its parts are error rates
        means.append(sign * float(leading.mean()))
        drawn.append(sign * np.einsum("dr,dr->d", shares, np.nan_to_num(oriented)))
    difference = means[0] - means[1]
    half = Z95 * float(np.std(drawn[0] - drawn[1], ddof=1))
    return Interval(difference, difference - half, difference + half)
