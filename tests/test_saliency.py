"""Where an edit acts, on maps whose answer is known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ude_core.saliency import lift, smoothed_magnitude, top_share


def test_smoothing_forgets_the_sign_and_keeps_the_sum() -> None:
    noise = torch.randn(1, 24, 20, generator=torch.Generator().manual_seed(0))
    smoothed = smoothed_magnitude(noise, 2.0)
    assert smoothed.shape == (24, 20)
    assert smoothed.sum() == pytest.approx(float(noise.abs().double().sum()))
    assert smoothed.std() < float(noise.abs().std()) / 2
    np.testing.assert_array_equal(smoothed, smoothed_magnitude(-noise, 2.0))
    np.testing.assert_allclose(smoothed_magnitude(noise, 0.0), noise[0].abs(), rtol=1e-6)


def test_the_top_of_a_smoothed_spot_is_the_disc_around_it() -> None:
    noise = torch.zeros(1, 21, 21)
    noise[0, 10, 10] = -1.0
    rows, columns = np.nonzero(top_share(smoothed_magnitude(noise, 3.0), 0.2))
    assert len(rows) == round(0.2 * 441)
    assert np.hypot(rows - 10, columns - 10).max() < 6


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.01, 1.0), st.integers(0, 2**32 - 1))
def test_the_top_share_has_its_size_and_nothing_larger_is_left_out(
    height: int, width: int, share: float, seed: int
) -> None:
    values = np.random.default_rng(seed).integers(0, 5, (height, width)).astype(float)
    region = top_share(values, share)
    assert region.sum() == max(1, round(share * height * width))
    if not region.all():
        assert values[region].min() >= values[~region].max()
    flat = lift(region, np.ones_like(values))
    assert flat == pytest.approx(1.0)
    assert lift(region, region.astype(float)) == pytest.approx(1 / region.mean())


def test_what_has_no_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma"):
        smoothed_magnitude(torch.zeros(1, 4, 4), -1.0)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="share"):
            top_share(np.zeros((4, 4)), share)
    with pytest.raises(ValueError, match="empty"):
        lift(np.ones((2, 2), dtype=bool), np.zeros((2, 2)))
