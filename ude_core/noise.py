"""The edit itself: how it is added, quantised and measured, and the bases it is searched in.

A basis turns independent coefficients into an image of unit variance a pixel (averaged over the
image), so that `step_size` means the same in every basis. `pixel` is the paper's; the others are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ude_core.errors import SettingError
from ude_core.transfer import upload_bytes
from ude_core.types import (
    BasisName,
    ImageArray,
    Noise,
    NoiseBatch,
    Perturbation,
    PixelPipeline,
    Pixels,
)

LEVELS = 255.0


def zero_noise(image_size: int) -> Noise:
    """Return ε = 0, shape (1, image_size, image_size)."""
    return torch.zeros(1, image_size, image_size)


def to_pixels(images: ImageArray, device: torch.device | str = "cpu") -> Pixels:
    """Return 8-bit images in pixel units, shape (images, 1, height, width), float32 in [0, 1].

    What travels to a device are the 8 bits.
    """
    return upload_bytes(images, torch.device(device)).unsqueeze(1).float().div_(LEVELS)


def apply_noise(pixels: Pixels, noise: Tensor, pipeline: PixelPipeline) -> Pixels:
    """Return x + ε as the encoder will see it; `noise` broadcasts over `pixels`.

    `paper`: un-clamped floats. `deploy`: clamped to [0, 1] and rounded to 8 bits, as a PNG sent to a
    real service is. Gradients pass straight through the rounding, and truly through the clamp.
    """
    edited = pixels + noise
    match pipeline:
        case "paper":
            return edited
        case "deploy":
            clamped = edited.clamp(0.0, 1.0)
            rounded = clamped.mul(LEVELS).round_().div_(LEVELS)
            return clamped + (rounded - clamped).detach() if clamped.requires_grad else rounded
        case _:
            assert_never(pipeline)


def noise_l2(noises: Tensor) -> Float[Tensor, "*batch"]:
    """Return ‖ε‖₂ over the last three axes (1, height, width); its gradient at ε = 0 is 0."""
    norms: Tensor = torch.linalg.vector_norm(noises, dim=(-3, -2, -1))
    return norms


def unit(noises: Tensor) -> Tensor:
    """Return each noise at a length of 1 over the last three axes; 0 stays 0."""
    lengths = noise_l2(noises)[..., None, None, None]
    return noises / lengths.clamp_min(torch.finfo(noises.dtype).tiny)


def project(noise: Noise, max_norm: float | None) -> Noise:
    """Return the nearest noise with ‖ε‖₂ ≤ `max_norm` (Eq. 1); unchanged where there is no ball."""
    if max_norm is None:
        return noise
    norm = float(noise_l2(noise))
    return noise if norm <= max_norm else noise * (max_norm / norm)


@dataclass(frozen=True, slots=True)
class Basis:
    """A separable basis: noise = A · coefficients · Aᵀ with A of shape (image_size, size).

    `matrix` is None for the pixel basis, where coefficients are the noise.
    """

    image_size: int
    size: int
    matrix: Float[Tensor, "image_size size"] | None

    def coefficients(
        self, count: int, perturbation: Perturbation, rng: torch.Generator
    ) -> Float[Tensor, "count 1 size size"]:
        """Return `count` independent sets of coefficients of zero mean and unit variance."""
        shape = (count, 1, self.size, self.size)
        match perturbation:
            case "normal":
                return torch.randn(shape, generator=rng)
            case "rademacher":
                return torch.randint(0, 2, shape, generator=rng).float().mul_(2).sub_(1)
            case _:
                assert_never(perturbation)

    def perturbations(
        self, count: int, perturbation: Perturbation, rng: torch.Generator
    ) -> NoiseBatch:
        """Return `count` random directions of unit variance a pixel (Alg. 1 line 14, unscaled)."""
        return self.synthesize(self.coefficients(count, perturbation, rng))

    def synthesize(self, coefficients: Float[Tensor, "n 1 size size"]) -> NoiseBatch:
        """Return the images of these coefficients, shape (n, 1, image_size, image_size)."""
        if self.matrix is None:
            return coefficients
        return self.matrix @ coefficients @ self.matrix.T

    def adjoint(self, gradients: NoiseBatch) -> Float[Tensor, "n 1 size size"]:
        """Return gradients by the coefficients from gradients by the noise: Aᵀ · gradient · A."""
        if self.matrix is None:
            return gradients
        return self.matrix.T @ gradients @ self.matrix


def make_basis(name: BasisName, image_size: int, size: int) -> Basis:
    """Return the basis `name` with `size` coefficients along each axis.

    pixel: one coefficient a pixel (the paper). low_frequency: the lowest `size` x `size` DCT-II
    frequencies. grid: a `size` x `size` bicubic grid. patch: constant patches. tile: one pattern of
    `size` x `size` pixels, repeated over the image.
    Raises SettingError where `size` is outside [1, image_size].
    """
    if name == "pixel":
        return Basis(image_size, image_size, None)
    if not 1 <= size <= image_size:
        raise SettingError(
            f"basis_size is {size} (expected 1 to the image size, {image_size}); choose a smaller basis"
        )
    match name:
        case "low_frequency":
            position = np.arange(image_size) + 0.5
            matrix = np.cos(np.pi * np.outer(position, np.arange(size)) / image_size)
            matrix *= np.sqrt(2.0 / size)
            matrix[:, 0] /= np.sqrt(2.0)
        case "grid":
            identity = torch.eye(size).reshape(size, 1, size, 1)
            matrix = torch.nn.functional.interpolate(
                identity, size=(image_size, 1), mode="bicubic", align_corners=False
            )[:, 0, :, 0].T.numpy()
            matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
        case "patch":
            owner = np.arange(image_size) * size // image_size
            matrix = np.eye(size)[owner]
        case "tile":
            matrix = np.eye(size)[np.arange(image_size) % size]
        case _:
            assert_never(name)
    return Basis(image_size, size, torch.tensor(matrix, dtype=torch.float32))


def random_noise(
    basis: Basis, norm: float, perturbation: Perturbation, rng: torch.Generator
) -> Noise:
    """Return a noise with nothing learnt: one random direction of `basis` scaled to ‖ε‖₂ = `norm`."""
    direction = basis.perturbations(1, perturbation, rng)[0]
    return direction * (norm / float(noise_l2(direction)))
