"""Differences between two heads on the same images: what they share cancels, chance does not win."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ude_core.metrics.disparity import counted_metrics, evaluate
from ude_core.metrics.paired import NOT_ALIKE, paired_differences
from ude_core.types import Interval, Measured, Undefined

NAMES = ("eo_gap", "accuracy", "worst_group_accuracy", "tpr.a", "tnr.b")


def table(per_cell: int, groups: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    labels = np.repeat([0, 1], per_cell * groups)
    return labels, np.tile(np.repeat(np.arange(groups), per_cell), 2), tuple("abcd"[:groups])


def difference(
    arrays: tuple[np.ndarray, np.ndarray, tuple[str, ...]],
    ours: np.ndarray,
    reference: np.ndarray,
    seed: int = 0,
) -> dict[str, Measured]:
    rng = np.random.default_rng(seed)
    return paired_differences(*arrays, ours, reference, metrics=NAMES, draws=100, rng=rng)


def interval(value: Measured) -> Interval:
    assert isinstance(value, Interval)
    return value


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.integers(1, 4), st.integers(3, 12), st.integers(0, 2**32 - 1))
def test_the_mean_is_the_difference_and_swapping_turns_the_sign(
    groups: int, repeats: int, per_cell: int, seed: int
) -> None:
    arrays = table(per_cell, groups)
    rng = np.random.default_rng(seed)
    ours, reference = rng.normal(size=(2, repeats, len(arrays[0])))
    found, swapped = difference(arrays, ours, reference), difference(arrays, reference, ours)
    for name in NAMES:
        pairs = [
            (evaluate(*arrays, a)[name], evaluate(*arrays, b)[name])
            for a, b in zip(ours, reference, strict=True)
        ]
        assert interval(found[name]).mean == pytest.approx(np.mean([a - b for a, b in pairs]))
        assert interval(swapped[name]).mean == pytest.approx(-interval(found[name]).mean)
    assert set(NAMES) <= counted_metrics(arrays[2]).keys()


def test_what_both_share_cancels() -> None:
    arrays = table(50, 2)
    rng = np.random.default_rng(1)
    ours = rng.normal(size=(1, 200))
    nearly = np.where(rng.random((1, 200)) < 0.05, -ours, ours)
    other = rng.normal(size=(1, 200))
    widths = [
        {name: v.high - v.low for name, v in difference(arrays, ours, reference).items()}  # type: ignore[union-attr]
        for reference in (ours, nearly, other)
    ]
    same = difference(arrays, ours, ours)
    for name in NAMES:
        assert interval(same[name]).mean == 0
        assert 0 < widths[0][name] < widths[1][name] < widths[2][name]


@pytest.mark.parametrize("groups", [2, 3])
def test_no_improvement_is_rarely_called_one(groups: int) -> None:
    """400 pairs of heads without a gap: at most 19 upper ends of the gap's difference are under 0.

    Where that has probability 2.5 %, 20 or more happen with probability 2.4e-3; the two cases
    together, below 0.5 %.
    """
    arrays = table(30, groups)
    rng = np.random.default_rng(2)
    under = 0
    for seed in range(400):
        ours, reference = rng.normal(0.3, 1.0, size=(2, 1, len(arrays[0])))
        rng_of_draw = np.random.default_rng(seed)
        found = paired_differences(
            *arrays, ours, reference, metrics=["eo_gap"], draws=100, rng=rng_of_draw
        )
        under += interval(found["eo_gap"]).high < 0
    assert under <= 19


def test_a_real_improvement_is_seen() -> None:
    arrays = table(100, 2)
    labels, attribute, _ = arrays
    fair = np.where(labels == 1, 1.0, -1.0)
    unfair = np.where((attribute == 1) & (np.arange(len(labels)) % 3 == 0), -fair, fair)
    found = difference(arrays, fair[None], unfair[None])
    assert interval(found["eo_gap"]).high < -20
    assert interval(found["accuracy"]).low > 5


def test_an_undefined_metric_says_why_and_leaves_the_others() -> None:
    labels, attribute = np.array([0, 1, 0, 0]), np.array([0, 0, 1, 1])
    scores = np.array([[-1.0, 1.0, 1.0, -1.0]])
    found = difference((labels, attribute, ("a", "b")), scores, -scores)
    assert found["eo_gap"] == Undefined("no positive images in group 'b'")
    assert isinstance(found["accuracy"], Interval)


def test_other_images_are_refused() -> None:
    arrays = table(5, 2)
    ours = np.ones((1, 20))
    reference = ours.copy()
    reference[0, 3] = np.nan
    with pytest.raises(ValueError, match=NOT_ALIKE):
        difference(arrays, ours, reference)
