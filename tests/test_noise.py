"""The edit: bases of unit variance, both pixel pipelines, the ball, norm-matched random noise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ude_core.errors import SettingError
from ude_core.noise import (
    apply_noise,
    make_basis,
    noise_l2,
    project,
    random_noise,
    to_pixels,
    zero_noise,
)
from ude_core.seeding import torch_generator

BASES = ("pixel", "low_frequency", "grid", "patch", "tile")


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("perturbation", ["normal", "rademacher"])
def test_perturbations_have_unit_variance_a_pixel(name: str, perturbation: str) -> None:
    basis = make_basis(name, 32, 8)
    drawn = basis.perturbations(4000, perturbation, torch_generator(1, name))
    assert drawn.shape == (4000, 1, 32, 32)
    # 4000 draws of at least 64 coefficients: the mean square is within 2 % of 1 (over 10 sigma).
    assert float((drawn**2).mean()) == pytest.approx(1.0, rel=0.02)


def test_low_frequency_is_the_lowest_dct_frequencies() -> None:
    drawn = make_basis("low_frequency", 16, 4).perturbations(1, "normal", torch_generator(1))[0, 0]
    position = np.arange(16) + 0.5
    frequencies = np.cos(np.pi * np.outer(np.arange(16), position) / 16)
    spectrum = frequencies @ drawn.numpy() @ frequencies.T
    assert np.abs(spectrum[4:, :]).max() < 1e-4
    assert np.abs(spectrum[:, 4:]).max() < 1e-4
    assert np.abs(spectrum[:4, :4]).min() > 1e-4


def test_patches_are_constant() -> None:
    drawn = make_basis("patch", 8, 2).perturbations(1, "normal", torch_generator(1))[0, 0]
    assert drawn.unique().numel() == 4
    assert drawn[:4, :4].unique().numel() == 1


@pytest.mark.parametrize("size", [0, 33])
def test_a_basis_outside_the_image_is_refused(size: int) -> None:
    with pytest.raises(SettingError, match=f"basis_size is {size} .*1 to the image size, 32"):
        make_basis("low_frequency", 32, size)


def test_paper_pixels_are_not_clamped() -> None:
    edited = apply_noise(torch.full((1, 1, 2, 2), 0.9), torch.full((1, 2, 2), 0.5), "paper")
    assert torch.allclose(edited, torch.tensor(1.4))


@given(st.integers(0, 255), st.floats(-2, 2, width=32))
@settings(max_examples=200, deadline=None)
def test_deploy_pixels_are_exactly_some_eight_bit_image(value: int, epsilon: float) -> None:
    image = np.full((1, 2, 2), value, dtype=np.uint8)
    edited = apply_noise(to_pixels(image), torch.full((1, 2, 2), epsilon), "deploy")
    as_file = (edited * 255).round().to(torch.uint8).numpy()[:, 0]
    assert torch.equal(to_pixels(as_file), edited)
    assert (
        abs(float(edited[0, 0, 0, 0]) - min(max(value / 255 + epsilon, 0), 1)) <= 0.5 / 255 + 1e-6
    )


def test_a_zero_edit_changes_nothing_in_deploy() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    clean = to_pixels(images)
    assert torch.equal(apply_noise(clean, zero_noise(16), "deploy"), clean)


def test_gradients_pass_through_rounding_and_stop_at_the_clamp() -> None:
    noise = torch.tensor([[[0.0, 0.7]]], requires_grad=True)
    apply_noise(torch.tensor([[[[0.4, 0.5]]]]), noise, "deploy").sum().backward()
    assert noise.grad is not None
    assert noise.grad.flatten().tolist() == [1.0, 0.0]


def test_the_norm_has_gradient_zero_at_zero() -> None:
    noise = torch.zeros(1, 3, 3, requires_grad=True)
    noise_l2(noise).backward()
    assert noise.grad is not None
    assert not noise.grad.any()


def test_projection_only_shrinks() -> None:
    noise = torch.full((1, 2, 2), 2.0)
    assert float(noise_l2(project(noise, 1.0))) == pytest.approx(1.0)
    assert project(noise, 5.0) is noise
    assert project(noise, None) is noise


@pytest.mark.parametrize("name", BASES)
def test_random_noise_has_the_norm_asked_for(name: str) -> None:
    noise = random_noise(make_basis(name, 32, 8), 7.5, "normal", torch_generator(2))
    assert float(noise_l2(noise)) == pytest.approx(7.5, rel=1e-5)
