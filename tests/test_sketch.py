"""The sketch: in 8 bits, edges dark on white paper, the same for every way of reading it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toy import toy_cohort
from ude_core.baselines.sketch import Sketch, sketch

IMAGES = toy_cohort(12).images


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(12), st.just(12))),
    st.floats(0.01, 0.5),
)
def test_a_sketch_is_an_image_of_the_same_shape(images: np.ndarray, blur: float) -> None:
    drawn = sketch(images, blur=blur)
    assert drawn.shape == images.shape
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn, sketch(images, blur=blur))


def test_flat_regions_are_white_and_the_dark_side_of_an_edge_is_drawn() -> None:
    image = np.full((1, 32, 32), 60, np.uint8)
    image[:, :, 16:] = 200
    drawn = sketch(image, blur=0.05)[0]
    assert (drawn[:, 0] == 255).all()
    assert (drawn[:, -1] == 255).all()
    assert (drawn[:, 15] < 200).all()
    assert (drawn[:, 16] == 255).all()


def test_a_sketch_is_the_image_over_its_gaussian_blur() -> None:
    size, sigma = IMAGES.shape[-1], 0.1 * IMAGES.shape[-1]
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    x = IMAGES[0] / 255
    padded = np.pad(x, reach, mode="reflect")
    for row, column in ((0, 0), (5, 9), (size - 1, 3)):
        window = padded[row : row + 2 * reach + 1, column : column + 2 * reach + 1]
        expected = min(1.0, (x[row, column] + 1 / 255) / ((window * kernel).sum() + 1 / 255))
        drawn = sketch(IMAGES[:1], blur=0.1)[0, row, column]
        assert float(drawn) == pytest.approx(255 * expected, abs=0.51)


def test_sketches_are_made_as_they_are_read() -> None:
    edited = Sketch(blur=0.1).edited(IMAGES)
    assert len(edited) == len(IMAGES)
    assert edited.shape == IMAGES.shape
    whole = sketch(IMAGES, blur=0.1)
    assert np.array_equal(edited[3:9:2], whole[3:9:2])
    assert np.array_equal(edited[np.array([7, 1])], whole[[7, 1]])


def test_a_sketch_is_made_of_images_and_no_noise() -> None:
    assert torch.equal(Sketch(blur=0.1).noise(16, 3), torch.zeros(1, 16, 16))
