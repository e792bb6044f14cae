"""Every metric of the study as a plain function of the counts of one table.

Values are percentage points. For a gap 0 means that the groups are treated alike; with more than
two groups it is the largest gap over pairs. Where a denominator is 0 the result is
`Undefined(reason)`, and the reason names the cell or group.

Each metric is also described by its PARTS, arrays over a batch of tables from which `bootstrap`
builds intervals: a gap is the largest |part|, its parts the signed gaps of the pairs i < j.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float, Int

from ude_core.metrics.rates import (
    NEGATIVE,
    POSITIVE,
    Cells,
    Rates,
    accuracies,
    aurocs,
    cell_accuracies,
    check_table,
    count_cells,
    pair_differences,
    pair_ratio_gaps,
    pair_symmetric_gaps,
    selection_rates,
    true_negative_rates,
    true_positive_rates,
)
from ude_core.metrics.scales import DIFFERENCE, RATE, RATIO_GAP, SYMMETRIC_GAP, Scale
from ude_core.types import Undefined

NO_LABEL = "no {label} images"
NO_CELL = "no {label} images in group '{group}'"
NO_GROUP = "no images in group '{group}'"
NO_IMAGES = "no image was evaluated"
ONE_GROUP = "only one group ('{group}'), a gap needs two"
ZERO_RATE = "{rate} of group '{group}' is 0, and it is the denominator of a ratio"
ZERO_RATES = "{rate} of every group is 0"
_LABEL_NAMES = ("negative", "positive")

Groups = tuple[str, ...]
Parts = Float[np.ndarray, "*batch parts"]
Kind = Literal["gap", "worst", "single"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its value for one table, and its parts (percentage points) for a batch.

    `kind` says how the value follows from the parts: `gap` max |part|; `worst` 100 - max part
    (parts are error rates); `single` the only part itself. `highest` bounds the value. `scale` is
    where the parts' sampling error hardly depends on their values.
    """

    value: Callable[[Cells], float | Undefined]
    parts: Callable[[Cells], Parts]
    kind: Kind
    highest: float = 100.0
    scale: Scale = DIFFERENCE


class _Value(Protocol):
    def __call__(self, cells: Cells, groups: Groups) -> float | Undefined: ...


def eo_positive_gap(cells: Cells, groups: Groups) -> float | Undefined:
    """Return max |TPR_i - TPR_j|, the equal-opportunity gap on positives (EO+)."""
    return _largest(cells, groups, _eo_positive_parts, _need_cells(POSITIVE))


def eo_negative_gap(cells: Cells, groups: Groups) -> float | Undefined:
    """Return max |TNR_i - TNR_j|, the equal-opportunity gap on negatives (EO-)."""
    return _largest(cells, groups, _eo_negative_parts, _need_cells(NEGATIVE))


def eo_gap(cells: Cells, groups: Groups) -> float | Undefined:
    """Return the larger of `eo_negative_gap` and `eo_positive_gap`; undefined when either is."""
    return _largest(cells, groups, _eo_parts, _need_cells(NEGATIVE, POSITIVE))


def selection_rate_ratio_gap(cells: Cells, groups: Groups) -> float | Undefined:
    """Return max over i < j of |1 - P(Ŷ=1|a_i) / P(Ŷ=1|a_j)| (disparate impact, section 3.1).

    The ORDER of the groups matters, also for two: the later group is the denominator, so the value
    changes when they swap, has no upper bound, and is undefined when a later group's rate is 0.
    """
    return _largest(cells, groups, _selection_ratio_parts, _need_selection(_zero_denominator))


def selection_rate_symmetric_gap(cells: Cells, groups: Groups) -> float | Undefined:
    """Return 1 - min/max of the groups' selection rates; the order of the groups does not matter.

    100 when some group, but not every group, is never selected; undefined when none is.
    """
    return _largest(cells, groups, _selection_symmetric_parts, _need_selection(_all_zero))


def tpr_ratio_gap(cells: Cells, groups: Groups) -> float | Undefined:
    """Return max over i < j of |1 - TPR_i / TPR_j|, what the numbers of the paper's Table 2 fit.

    As for `selection_rate_ratio_gap`, the order of the groups matters.
    """

    def why(cells: Cells, groups: Groups) -> str | None:
        rates = true_positive_rates(cells)
        return _empty_cell(cells, groups, POSITIVE) or _zero_denominator(rates, groups, "TPR")

    return _largest(cells, groups, _tpr_ratio_parts, why)


def accuracy(cells: Cells, groups: Groups) -> float | Undefined:
    """Return the share of correct predictions over all images."""
    return Undefined(NO_IMAGES) if not cells.total.any() else float(_accuracy_parts(cells)[0])


def worst_group_accuracy(cells: Cells, groups: Groups) -> float | Undefined:
    """Return the smallest accuracy over the (label x attribute) groups.

    The groups are those of group DRO (Sagawa et al.) and SubpopBench, not attribute groups alone: a
    head that misses every sick woman scores 0 here, however well it does on healthy ones.
    """
    for label in (NEGATIVE, POSITIVE):
        reason = _empty_cell(cells, groups, label)
        if reason is not None:
            return Undefined(reason)
    return 100.0 - float(_cell_error_parts(cells).max())


def counted_metrics(groups: Groups) -> dict[str, Metric]:
    """Return every metric that is a function of counts, by name; AUROC alone is not.

    Beside the metrics of the contract there are `tpr.<group>` and `tnr.<group>` for each group.
    """
    metrics = {
        name: Metric(partial(value, groups=groups), parts, kind, highest, scale)
        for name, (value, parts, kind, highest, scale) in _COUNTED.items()
    }
    for index, group in enumerate(groups):
        metrics[f"tpr.{group}"] = _group_rate(index, group, POSITIVE, true_positive_rates)
        metrics[f"tnr.{group}"] = _group_rate(index, group, NEGATIVE, true_negative_rates)
    return metrics


def evaluate(
    labels: Int[np.ndarray, " images"],
    attribute: Int[np.ndarray, " images"],
    groups: Groups,
    scores: Float[np.ndarray, " images"],
) -> dict[str, float | Undefined]:
    """Return every metric of one scored table, without intervals, in percentage points.

    An image is predicted positive when its score (a logit) is above 0; NaN: not evaluated.
    Raises ValueError as `rates.check_table` does.

    >>> table = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), ("female", "male")
    >>> metrics = evaluate(*table, np.array([-1.0, 2.0, 3.0, 4.0]))
    >>> metrics["accuracy"], metrics["eo_negative_gap"], metrics["eo_positive_gap"]
    (75.0, 100.0, 0.0)
    """
    check_table(labels, attribute, len(groups), scores[None])
    weights = np.ones((1, len(labels)))
    cells = count_cells(labels, attribute, len(groups), scores[None], weights).table(0, 0)
    values = {name: metric.value(cells) for name, metric in counted_metrics(groups).items()}
    values["auroc"] = auroc_value(float(aurocs(labels, scores[None], weights)[0, 0]), cells)
    return values


def auroc_value(area: float, cells: Cells) -> float | Undefined:
    """Return AUROC `area` (of [0, 1]) in percentage points, or why the table `cells` has none."""
    if not np.isnan(area):
        return 100.0 * area
    if not cells.total.any():
        return Undefined(NO_IMAGES)
    missing = POSITIVE if not cells.total[POSITIVE].any() else NEGATIVE
    return Undefined(NO_LABEL.format(label=_LABEL_NAMES[missing]))


def _eo_positive_parts(cells: Cells) -> Parts:
    return pair_differences(true_positive_rates(cells))


def _eo_negative_parts(cells: Cells) -> Parts:
    return pair_differences(true_negative_rates(cells))


def _eo_parts(cells: Cells) -> Parts:
    return np.concatenate([_eo_negative_parts(cells), _eo_positive_parts(cells)], axis=-1)


def _selection_ratio_parts(cells: Cells) -> Parts:
    return pair_ratio_gaps(selection_rates(cells))


def _selection_symmetric_parts(cells: Cells) -> Parts:
    return pair_symmetric_gaps(selection_rates(cells))


def _tpr_ratio_parts(cells: Cells) -> Parts:
    return pair_ratio_gaps(true_positive_rates(cells))


def _accuracy_parts(cells: Cells) -> Parts:
    return 100.0 * accuracies(cells)


def _cell_error_parts(cells: Cells) -> Parts:
    errors = 100.0 * (1.0 - cell_accuracies(cells))
    return errors.reshape(*errors.shape[:-2], -1)


def _group_rate(index: int, group: str, label: int, rates: Callable[[Cells], Rates]) -> Metric:
    def parts(cells: Cells) -> Parts:
        return 100.0 * rates(cells)[..., [index]]

    def value(cells: Cells) -> float | Undefined:
        if not cells.total[label, index] > 0:
            return Undefined(NO_CELL.format(label=_LABEL_NAMES[label], group=group))
        return float(parts(cells)[0])

    return Metric(value, parts, "single")


_Why = Callable[[Cells, Groups], str | None]
_ZeroRule = Callable[[Float[np.ndarray, " groups"], Groups, str], str | None]


def _largest(
    cells: Cells, groups: Groups, parts: Callable[[Cells], Parts], why: _Why
) -> float | Undefined:
    if len(groups) < 2:
        return Undefined(ONE_GROUP.format(group=groups[0]))
    reason = why(cells, groups)
    return Undefined(reason) if reason is not None else float(np.abs(parts(cells)).max())


def _need_cells(*labels: int) -> _Why:
    def why(cells: Cells, groups: Groups) -> str | None:
        reasons = (_empty_cell(cells, groups, label) for label in labels)
        return next((reason for reason in reasons if reason is not None), None)

    return why


def _need_selection(zero_rule: _ZeroRule) -> _Why:
    def why(cells: Cells, groups: Groups) -> str | None:
        for index, group in enumerate(groups):
            if not cells.total[:, index].any():
                return NO_GROUP.format(group=group)
        return zero_rule(selection_rates(cells), groups, "selection rate")

    return why


def _empty_cell(cells: Cells, groups: Groups, label: int) -> str | None:
    for index, group in enumerate(groups):
        if not cells.total[label, index] > 0:
            return NO_CELL.format(label=_LABEL_NAMES[label], group=group)
    return None


def _zero_denominator(rates: Float[np.ndarray, " groups"], groups: Groups, rate: str) -> str | None:
    for index in range(1, len(groups)):
        if not rates[index] > 0:
            return ZERO_RATE.format(rate=rate, group=groups[index])
    return None


def _all_zero(rates: Float[np.ndarray, " groups"], groups: Groups, rate: str) -> str | None:
    return None if rates.any() else ZERO_RATES.format(rate=rate)


_COUNTED: dict[str, tuple[_Value, Callable[[Cells], Parts], Kind, float, Scale]] = {
    "eo_negative_gap": (eo_negative_gap, _eo_negative_parts, "gap", 100.0, DIFFERENCE),
    "eo_positive_gap": (eo_positive_gap, _eo_positive_parts, "gap", 100.0, DIFFERENCE),
    "eo_gap": (eo_gap, _eo_parts, "gap", 100.0, DIFFERENCE),
    "selection_rate_ratio_gap": (
        selection_rate_ratio_gap,
        _selection_ratio_parts,
        "gap",
        np.inf,
        RATIO_GAP,
    ),
    "selection_rate_symmetric_gap": (
        selection_rate_symmetric_gap,
        _selection_symmetric_parts,
        "gap",
        100.0,
        SYMMETRIC_GAP,
    ),
    "tpr_ratio_gap": (tpr_ratio_gap, _tpr_ratio_parts, "gap", np.inf, RATIO_GAP),
    "accuracy": (accuracy, _accuracy_parts, "single", 100.0, DIFFERENCE),
    "worst_group_accuracy": (worst_group_accuracy, _cell_error_parts, "worst", 100.0, RATE),
}
