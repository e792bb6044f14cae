"""Weighted counts of the (label x group) cells, the rates that follow from them, and AUROC.

Arrays carry leading batch axes, so that thousands of bootstrap tables cost a few matrix products.
A rate whose denominator is 0 is NaN here; `disparity` turns it into `Undefined` with a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int

NEGATIVE, POSITIVE = 0, 1

Rates = Float[np.ndarray, "*batch groups"]
Pairs = Float[np.ndarray, "*batch pairs"]


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Weighted image counts of one table, or of a batch of tables.

    `total[..., y, a]` counts the evaluated images of label y in group a, `predicted[..., y, a]`
    those of them that were predicted positive.
    """

    total: Float[np.ndarray, "*batch 2 groups"]
    predicted: Float[np.ndarray, "*batch 2 groups"]

    def table(self, *index: int) -> Cells:
        """Return one table of the batch."""
        return Cells(self.total[index], self.predicted[index])


def check_table(
    labels: Int[np.ndarray, " labels"],
    attribute: Int[np.ndarray, " codes"],
    groups: int,
    scores: Float[np.ndarray, ...],
) -> None:
    """Check a scored table. A NaN score means that the image was not evaluated.

    A label of -1 (not used for this disease) is accepted where every score is NaN.

    Raises ValueError for shapes that differ, for labels and group codes out of range and for
    infinite scores; the message gives the position and the value.
    """
    if scores.ndim != 2 or labels.shape != (scores.shape[1],) or attribute.shape != labels.shape:
        raise ValueError(
            f"labels {labels.shape}, attribute {attribute.shape} and scores {scores.shape} do not "
            "fit (expected [images], [images] and [repeats, images])"
        )
    if scores.shape[0] < 1:
        raise ValueError("expected repeats >= 1, got 0")
    if groups < 1:
        raise ValueError("expected groups >= 1, got 0")
    infinite = np.argwhere(np.isinf(scores))
    if len(infinite):
        row, image = infinite[0]
        raise ValueError(
            f"score of image {image} in repeat {row} is {scores[row, image]} (expected a finite "
            "value, or NaN where the image was not evaluated)"
        )
    used = ~np.isnan(scores).all(axis=0)
    for name, values, limit in (("label", labels, 2), ("attribute", attribute, groups)):
        wrong = np.flatnonzero(used & ((values < 0) | (values >= limit)))
        if len(wrong):
            raise ValueError(
                f"{name} of evaluated image {wrong[0]} is {values[wrong[0]]} "
                f"(expected 0..{limit - 1})"
            )


def count_cells(
    labels: Int[np.ndarray, " images"],
    attribute: Int[np.ndarray, " images"],
    groups: int,
    scores: Float[np.ndarray, "repeats images"],
    weights: Float[np.ndarray, "draws images"],
) -> Cells:
    """Count every cell of every (draw, repeat) table.

    An image is predicted positive when its score is above 0. It counts `weights[draw, image]`
    times, and not at all where its score is NaN.
    The batch axes of the result are (draws, repeats).
    """
    evaluated = (~np.isnan(scores)).astype(np.float64)
    positive = (scores > 0).astype(np.float64)
    shape = (weights.shape[0], scores.shape[0], 2, groups)
    total, predicted = np.zeros(shape), np.zeros(shape)
    for label in (NEGATIVE, POSITIVE):
        for group in range(groups):
            members = np.flatnonzero((labels == label) & (attribute == group))
            drawn = weights[:, members]
            total[:, :, label, group] = drawn @ evaluated[:, members].T
            predicted[:, :, label, group] = drawn @ positive[:, members].T
    return Cells(total, predicted)


def true_positive_rates(cells: Cells) -> Float[np.ndarray, "*batch groups"]:
    """Return P(Ŷ=1 | Y=1, a) of every group, in [0, 1]; NaN where a group has no positives."""
    return _share(cells.predicted[..., POSITIVE, :], cells.total[..., POSITIVE, :])


def true_negative_rates(cells: Cells) -> Float[np.ndarray, "*batch groups"]:
    """Return P(Ŷ=0 | Y=0, a) of every group, in [0, 1]; NaN where a group has no negatives."""
    total = cells.total[..., NEGATIVE, :]
    return _share(total - cells.predicted[..., NEGATIVE, :], total)


def selection_rates(cells: Cells) -> Float[np.ndarray, "*batch groups"]:
    """Return P(Ŷ=1 | a) of every group, in [0, 1]; NaN where a group has no images."""
    return _share(cells.predicted.sum(axis=-2), cells.total.sum(axis=-2))


def accuracies(cells: Cells) -> Float[np.ndarray, "*batch 1"]:
    """Return the share of correct predictions over all images, in [0, 1]; NaN without images."""
    correct = _correct(cells).sum(axis=(-2, -1))[..., None]
    return _share(correct, cells.total.sum(axis=(-2, -1))[..., None])


def cell_accuracies(cells: Cells) -> Float[np.ndarray, "*batch 2 groups"]:
    """Return the accuracy inside every (label x group) cell, in [0, 1]; NaN where it is empty."""
    return _share(_correct(cells), cells.total)


def aurocs(
    labels: Int[np.ndarray, " images"],
    scores: Float[np.ndarray, "repeats images"],
    weights: Float[np.ndarray, "draws images"],
) -> Float[np.ndarray, "draws repeats"]:
    """Return the weighted area under the ROC curve of every (draw, repeat) table, in [0, 1].

    It is P(score of a positive > score of a negative), ties counting one half (Mann-Whitney).
    NaN where a table has no positives or no negatives.
    """
    areas = np.empty((weights.shape[0], scores.shape[0]))
    for repeat, row in enumerate(scores):
        evaluated = np.flatnonzero(~np.isnan(row))
        if not len(evaluated):
            areas[:, repeat] = np.nan
            continue
        order = evaluated[np.argsort(row[evaluated], kind="stable")]
        ordered = row[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        drawn = weights[:, order]
        positive = np.add.reduceat(drawn * (labels[order] == POSITIVE), starts, axis=1)
        negative = np.add.reduceat(drawn * (labels[order] == NEGATIVE), starts, axis=1)
        below = np.cumsum(negative, axis=1) - negative / 2
        won = (positive * below).sum(axis=1)
        areas[:, repeat] = _share(won, positive.sum(axis=1) * negative.sum(axis=1))
    return areas


def pair_differences(rates: Rates) -> Pairs:
    """Return 100 (r_i - r_j) of every pair of groups i < j, in percentage points."""
    first, second = _pairs(rates)
    differences: Pairs = 100.0 * (first - second)
    return differences


def pair_ratio_gaps(rates: Rates) -> Pairs:
    """Return 100 (1 - r_i / r_j) of every pair of groups i < j; NaN where r_j is 0."""
    first, second = _pairs(rates)
    gaps = np.full(second.shape, np.nan)
    np.divide(second - first, second, out=gaps, where=second > 0)
    return 100.0 * gaps


def pair_symmetric_gaps(rates: Rates) -> Pairs:
    """Return ±100 (1 - min/max) of every pair i < j, positive where the first rate is larger.

    Two groups that are never selected are alike, unless no group is selected at all: then NaN.
    """
    first, second = _pairs(rates)
    largest = np.maximum(first, second)
    gaps = np.where(np.isnan(largest), np.nan, 0.0)
    np.divide(first - second, largest, out=gaps, where=largest > 0)
    selected = rates.max(axis=-1, keepdims=True) > 0
    return 100.0 * np.where(selected, gaps, np.nan)


def _pairs(rates: Rates) -> tuple[Pairs, Pairs]:
    first, second = _pair_indices(rates.shape[-1])
    return rates[..., first], rates[..., second]


@cache
def _pair_indices(groups: int) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    first, second = np.triu_indices(groups, 1)
    return first, second


def _correct(cells: Cells) -> Float[np.ndarray, "*batch 2 groups"]:
    correct = cells.predicted.copy()
    correct[..., NEGATIVE, :] = cells.total[..., NEGATIVE, :] - correct[..., NEGATIVE, :]
    return correct


def _share(
    part: Float[np.ndarray, "*shape"], whole: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    share = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=share, where=whole > 0)
    return share
