"""The study's metrics against scikit-learn and fairlearn, and their intervals against the truth."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_ratio,
    selection_rate,
    true_negative_rate,
    true_positive_rate,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

from ude_core.metrics.bootstrap import score
from ude_core.metrics.disparity import evaluate
from ude_core.metrics.rates import check_table
from ude_core.types import Interval, Measured, Undefined

CONTRACT = {
    "eo_negative_gap",
    "eo_positive_gap",
    "eo_gap",
    "selection_rate_ratio_gap",
    "selection_rate_symmetric_gap",
    "tpr_ratio_gap",
    "accuracy",
    "auroc",
    "worst_group_accuracy",
}
TWO = ("female", "male")
UNTIMED = settings(max_examples=50, deadline=None)


@dataclass(frozen=True)
class Table:
    labels: np.ndarray
    attribute: np.ndarray
    groups: tuple[str, ...]
    scores: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        return (self.scores > 0).astype(int)

    def metrics(self) -> dict[str, float | Undefined]:
        return evaluate(self.labels, self.attribute, self.groups, self.scores)

    def frame(self, metric: object) -> MetricFrame:
        return MetricFrame(
            metrics=metric,
            y_true=self.labels,
            y_pred=self.predicted,
            sensitive_features=self.attribute,
        )


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Tables of two to four groups without an empty cell; few distinct scores, hence ties."""
    groups = draw(st.integers(2, 4))
    sizes = draw(st.lists(st.integers(1, 6), min_size=2 * groups, max_size=2 * groups))
    cells = np.repeat(np.arange(2 * groups), sizes)
    values = st.one_of(st.integers(-3, 3).map(float), st.floats(-5, 5))
    scores = draw(st.lists(values, min_size=len(cells), max_size=len(cells)))
    order = np.array(draw(st.permutations(range(len(cells)))))
    names = tuple(f"g{index}" for index in range(groups))
    return Table(cells[order] % 2, cells[order] // 2, names, np.array(scores)[order])


def simulated(
    per_cell: int, rates: Mapping[str, tuple[float, ...]], rng: np.random.Generator
) -> Table:
    """Return a table of equal cells whose true TPR and TNR per group are `rates`."""
    correct = np.array([rates["tnr"], rates["tpr"]])
    groups = correct.shape[1]
    labels = np.repeat([0, 1], per_cell * groups)
    attribute = np.tile(np.repeat(np.arange(groups), per_cell), 2)
    hit = rng.random(len(labels)) < correct[labels, attribute]
    scores = np.where(hit == (labels == 1), 1.0, -1.0) * rng.uniform(0.1, 1.0, len(labels))
    return Table(labels, attribute, tuple("abcd"[:groups]), scores)


def measured(table: Table, seed: int = 0, draws: int = 200) -> dict[str, Measured]:
    rng = np.random.default_rng(seed)
    arrays = table.labels, table.attribute, table.groups, np.atleast_2d(table.scores)
    return score(*arrays, draws=draws, rng=rng)


def interval(value: Measured) -> Interval:
    assert isinstance(value, Interval)
    return value


def percent(value: float) -> object:
    return pytest.approx(100 * value, rel=1e-12, abs=1e-10)


@UNTIMED
@given(tables())
def test_rates_and_auroc_equal_scikit_learn(table: Table) -> None:
    metrics = table.metrics()
    assert metrics["accuracy"] == percent(accuracy_score(table.labels, table.predicted))
    assert metrics["auroc"] == percent(roc_auc_score(table.labels, table.scores))
    cells = []
    for index, group in enumerate(table.groups):
        member = table.attribute == index
        pair = table.labels[member], table.predicted[member]
        for name, label in (("tpr", 1), ("tnr", 0)):
            recall = recall_score(*pair, pos_label=label, zero_division=np.nan)
            assert metrics[f"{name}.{group}"] == percent(recall)
            cells.append(recall)
    assert metrics["worst_group_accuracy"] == percent(min(cells))


@UNTIMED
@given(tables())
def test_gaps_equal_fairlearn(table: Table) -> None:
    metrics = table.metrics()
    positive = table.frame(true_positive_rate).difference(method="between_groups")
    negative = table.frame(true_negative_rate).difference(method="between_groups")
    assert metrics["eo_positive_gap"] == percent(positive)
    assert metrics["eo_negative_gap"] == percent(negative)
    assert metrics["eo_gap"] == percent(max(positive, negative))
    if table.predicted.any():
        arrays = {"y_true": table.labels, "y_pred": table.predicted}
        ratio = demographic_parity_ratio(**arrays, sensitive_features=table.attribute)
        assert metrics["selection_rate_symmetric_gap"] == percent(1 - ratio)
    else:
        assert metrics["selection_rate_symmetric_gap"] == Undefined(
            "selection rate of every group is 0"
        )


@UNTIMED
@given(tables())
def test_ratio_gaps_equal_the_ratios_of_fairlearns_rates(table: Table) -> None:
    metrics = table.metrics()
    for name, rate in (
        ("selection_rate_ratio_gap", selection_rate),
        ("tpr_ratio_gap", true_positive_rate),
    ):
        rates = table.frame(rate).by_group.to_numpy()
        if (rates[1:] > 0).all():
            first, second = np.triu_indices(len(rates), 1)
            expected = np.abs(1 - rates[first] / rates[second]).max()
            assert metrics[name] == percent(expected)
        else:
            assert isinstance(metrics[name], Undefined)


@UNTIMED
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_images_and_the_names_of_groups_do_not_matter(
    table: Table, shuffler: random.Random
) -> None:
    order = np.array(shuffler.sample(range(len(table.labels)), len(table.labels)))
    arrays = table.labels[order], table.attribute[order], table.groups, table.scores[order]
    moved = Table(*arrays)
    assert moved.metrics() == table.metrics()
    assert measured(moved, draws=20) == measured(table, draws=20)

    swapped = len(table.groups) - 1 - table.attribute
    mirrored = evaluate(table.labels, swapped, table.groups, table.scores)
    for name in CONTRACT - {"selection_rate_ratio_gap", "tpr_ratio_gap"}:
        assert mirrored[name] == pytest.approx(table.metrics()[name]) or isinstance(
            mirrored[name], Undefined
        )


def test_a_table_computed_by_hand() -> None:
    labels = np.repeat([1, 1, 0, 0], 4)
    attribute = np.repeat([0, 1, 0, 1], 4)
    scores = np.array([1, 2, 3, -1, 1, -2, -3, -4, 1, 2, -1, -2, -1, -2, -3, -4], dtype=float)
    metrics = evaluate(labels, attribute, TWO, scores)
    assert set(metrics) == CONTRACT | {"tpr.female", "tpr.male", "tnr.female", "tnr.male"}
    assert (metrics["tpr.female"], metrics["tpr.male"]) == (75.0, 25.0)
    assert (metrics["tnr.female"], metrics["tnr.male"]) == (50.0, 100.0)
    assert (metrics["eo_positive_gap"], metrics["eo_negative_gap"]) == (50.0, 50.0)
    assert metrics["selection_rate_ratio_gap"] == percent(abs(1 - (5 / 8) / (1 / 8)))
    assert metrics["selection_rate_symmetric_gap"] == percent(1 - 1 / 5)
    assert metrics["tpr_ratio_gap"] == percent(2.0)
    assert metrics["accuracy"] == 62.5
    assert metrics["worst_group_accuracy"] == 25.0
    swapped = evaluate(labels, 1 - attribute, TWO, scores)
    assert swapped["selection_rate_ratio_gap"] == percent(1 - 1 / 5)


def test_an_empty_cell_makes_what_needs_it_undefined_and_nothing_else() -> None:
    labels, attribute = np.array([0, 1, 0, 0]), np.array([0, 0, 1, 1])
    metrics = evaluate(labels, attribute, TWO, np.array([-1.0, 1.0, 1.0, -1.0]))
    reason = Undefined("no positive images in group 'male'")
    needing = {"eo_positive_gap", "eo_gap", "tpr_ratio_gap", "worst_group_accuracy", "tpr.male"}
    assert {name for name, value in metrics.items() if isinstance(value, Undefined)} == needing
    assert all(metrics[name] == reason for name in needing)
    assert metrics["eo_negative_gap"] == 50.0
    assert metrics["accuracy"] == 75.0


@pytest.mark.parametrize(
    ("name", "labels", "attribute", "scores", "reason"),
    [
        (
            "selection_rate_symmetric_gap",
            [0, 1, 0, 1],
            [0, 0, 1, 1],
            [-1, -1, -1, -1],
            "selection rate of every group is 0",
        ),
        (
            "selection_rate_ratio_gap",
            [0, 1, 0, 1],
            [0, 0, 1, 1],
            [-1, 1, -1, -1],
            "selection rate of group 'male' is 0, and it is the denominator of a ratio",
        ),
        (
            "tpr_ratio_gap",
            [0, 1, 0, 1],
            [0, 0, 1, 1],
            [-1, 1, 1, -1],
            "TPR of group 'male' is 0, and it is the denominator of a ratio",
        ),
        ("auroc", [0, 0, 0], [0, 1, 1], [1, 2, 3], "no positive images"),
        ("auroc", [1, 1, 1], [0, 1, 1], [1, 2, 3], "no negative images"),
        ("accuracy", [0, 1], [0, 1], [np.nan, np.nan], "no image was evaluated"),
        ("auroc", [0, 1], [0, 1], [np.nan, np.nan], "no image was evaluated"),
        ("selection_rate_ratio_gap", [0, 1], [0, 0], [1, 1], "no images in group 'male'"),
        ("eo_negative_gap", [1, 1], [0, 1], [1, 1], "no negative images in group 'female'"),
    ],
)
def test_undefined_says_why(
    name: str,
    labels: Sequence[int],
    attribute: Sequence[int],
    scores: Sequence[float],
    reason: str,
) -> None:
    table = Table(np.array(labels), np.array(attribute), TWO, np.array(scores, dtype=float))
    assert table.metrics()[name] == Undefined(reason)
    assert measured(table)[name] == Undefined(reason)


def test_one_group_has_no_gap() -> None:
    metrics = evaluate(np.array([0, 1]), np.array([0, 0]), ("all",), np.array([-1.0, 1.0]))
    assert metrics["eo_gap"] == Undefined("only one group ('all'), a gap needs two")
    assert metrics["worst_group_accuracy"] == 100.0


def test_a_group_never_selected_is_a_symmetric_gap_of_100() -> None:
    labels, attribute = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    metrics = evaluate(labels, attribute, TWO, np.array([-1.0, 1.0, -1.0, -1.0]))
    assert metrics["selection_rate_symmetric_gap"] == 100.0


def test_an_undefined_repeat_is_named() -> None:
    table = simulated(10, {"tpr": (0.8, 0.6), "tnr": (0.7, 0.7)}, np.random.default_rng(1))
    scores = np.tile(table.scores, (3, 1))
    scores[1, (table.labels == 1) & (table.attribute == 1)] = np.nan
    metrics = measured(Table(table.labels, table.attribute, table.groups, scores))
    assert metrics["eo_positive_gap"] == Undefined("repeat 2 of 3: no positive images in group 'b'")
    assert isinstance(metrics["eo_negative_gap"], Interval)


def test_too_many_undefined_draws_make_a_metric_undefined() -> None:
    labels, attribute = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    metrics = measured(Table(labels, attribute, TWO, np.array([-1.0, 1.0, -1.0, 1.0])))
    value = metrics["selection_rate_ratio_gap"]
    assert isinstance(value, Undefined)
    assert "% of the bootstrap draws: selection rate of group 'male' is 0" in value.reason


def test_images_that_are_not_evaluated_do_not_count() -> None:
    table = simulated(20, {"tpr": (0.8, 0.6), "tnr": (0.7, 0.7)}, np.random.default_rng(2))
    more = Table(
        np.concatenate([table.labels, [-1, 1, 0]]),
        np.concatenate([table.attribute, [-1, 0, 1]]),
        table.groups,
        np.concatenate([table.scores, [np.nan, np.nan, np.nan]]),
    )
    assert more.metrics() == table.metrics()
    assert measured(more) == measured(table)


def test_the_mean_is_the_mean_over_repeats() -> None:
    rng = np.random.default_rng(3)
    rates = {"tpr": (0.9, 0.7, 0.5), "tnr": (0.6, 0.8, 0.8)}
    rows = [simulated(25, rates, rng) for _ in range(4)]
    first = rows[0]
    scores = np.stack([row.scores for row in rows])
    scores[rng.random(scores.shape) < 0.3] = np.nan
    metrics = measured(Table(first.labels, first.attribute, first.groups, scores))
    each = [evaluate(first.labels, first.attribute, first.groups, row) for row in scores]
    for name, value in metrics.items():
        assert interval(value).mean == pytest.approx(np.mean([one[name] for one in each]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [[1.0, np.inf]]}, "score of image 1 in repeat 0 is inf"),
        ({"scores": [[1.0, -np.inf]]}, "score of image 1 in repeat 0 is -inf"),
        ({"labels": [0, 2]}, "label of evaluated image 1 is 2 (expected 0..1)"),
        ({"labels": [-1, 1]}, "label of evaluated image 0 is -1 (expected 0..1)"),
        ({"attribute": [0, 2]}, "attribute of evaluated image 1 is 2 (expected 0..1)"),
        ({"draws": 1}, "expected draws >= 2, got 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(change: Mapping[str, Any], message: str) -> None:
    table = {"labels": [0, 1], "attribute": [0, 1], "scores": [[1.0, -1.0]], "draws": 10, **change}
    arrays = np.array(table["labels"]), np.array(table["attribute"]), TWO, np.array(table["scores"])
    with pytest.raises(ValueError, match=re.escape(message)):
        score(*arrays, draws=table["draws"], rng=np.random.default_rng(0))


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("attribute (3,) and scores (1, 2) do not fit")):
        check_table(np.array([0, 1]), np.array([0, 1, 1]), 2, np.array([[1.0, -1.0]]))


@UNTIMED
@given(tables(), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_an_interval_holds_its_mean_and_stays_in_range(
    table: Table, repeats: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = table.scores + rng.normal(size=(repeats, len(table.labels)))
    again = [
        measured(Table(table.labels, table.attribute, table.groups, scores), seed, draws=40)
        for _ in range(2)
    ]
    assert again[0] == again[1]
    for name, value in again[0].items():
        if isinstance(value, Interval):
            assert 0 <= value.low <= value.mean <= value.high
            assert np.isfinite(value.high)
            if "ratio" not in name:
                assert value.high <= 100


def test_intervals_shrink_with_the_number_of_images() -> None:
    rates = {"tpr": (0.85, 0.65), "tnr": (0.7, 0.8)}
    widths = []
    for per_cell in (25, 100, 400):
        metrics = measured(simulated(per_cell, rates, np.random.default_rng(4)))
        widths.append({name: interval(v).high - interval(v).low for name, v in metrics.items()})
    for name in ("accuracy", "auroc", "tpr.a", "tnr.b", "worst_group_accuracy"):
        assert widths[0][name] > widths[1][name] > widths[2][name] > 0


def test_a_rate_of_one_is_not_known_exactly() -> None:
    metrics = measured(
        simulated(20, {"tpr": (1.0, 1.0), "tnr": (1.0, 1.0)}, np.random.default_rng(5))
    )
    assert interval(metrics["accuracy"]).low < 100
    assert interval(metrics["eo_positive_gap"]).high > 5


@pytest.mark.parametrize("gap", [0, 10, 30])
def test_intervals_cover_the_truth(gap: int) -> None:
    """200 tables with cells of 100 and known rates: at least 179 intervals hold the truth.

    False alarms: where the coverage is 95 %, 178 or fewer happen with probability 4.9e-4, hence
    below 0.3 % for the six checks together.
    """
    share = gap / 200
    rates = {"tpr": (0.75 + share, 0.75 - share), "tnr": (0.75, 0.75)}
    truth = {"accuracy": 75.0, "eo_positive_gap": float(gap)}
    covered = dict.fromkeys(truth, 0)
    rng = np.random.default_rng(6)
    for seed in range(200):
        metrics = measured(simulated(100, rates, rng), seed, draws=200)
        for name, true in truth.items():
            value = interval(metrics[name])
            covered[name] += value.low <= true + 1e-9 and true - 1e-9 <= value.high
    assert min(covered.values()) >= 179, covered
