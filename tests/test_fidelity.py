"""Fidelity of an edit: known errors, the same whatever is read at once, undefined where nothing changes."""

import numpy as np
import pytest
import torch

from ude_core.fidelity import fidelity
from ude_core.image_rows import ImageRows
from ude_core.noise import apply_noise, to_pixels
from ude_core.ssim import ssim
from ude_core.types import Interval, Undefined


def test_psnr_of_a_known_error() -> None:
    images = np.full((40, 16, 16), 128, np.uint8)
    measured = fidelity(images, torch.full((1, 16, 16), 0.1), "paper")
    assert isinstance(measured["psnr_db"], Interval)
    assert measured["psnr_db"].mean == pytest.approx(20.0, abs=1e-4)
    assert measured["noise_l2"] == Interval(*[pytest.approx(1.6)] * 3)


def test_no_edit_has_no_psnr_and_a_likeness_of_one() -> None:
    measured = fidelity(np.full((3, 16, 16), 9, np.uint8), torch.zeros(1, 16, 16), "deploy")
    assert measured["psnr_db"] == Undefined("the edit changes no pixel")
    assert measured["ssim"] == Interval(1.0, 1.0, 1.0)


def test_it_is_the_mean_over_all_images_however_many_are_read_at_once() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 16, 16), dtype=np.uint8)
    noise = torch.from_numpy(rng.normal(0, 0.2, (1, 16, 16))).float()
    measured = fidelity(ImageRows(images, np.arange(50)), noise, "deploy")
    original = to_pixels(images)
    edited = apply_noise(original, noise, "deploy")
    error = float(((edited.double() - original.double()) ** 2).mean())
    assert isinstance(measured["psnr_db"], Interval)
    assert isinstance(measured["ssim"], Interval)
    assert measured["psnr_db"].mean == pytest.approx(-10 * np.log10(error), rel=1e-9)
    assert measured["ssim"].mean == pytest.approx(ssim(original, edited), rel=1e-9)
