"""The structural similarity of edited images to their originals: how much of an edit the eye sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ude_core.types import Pixels, Undefined

WINDOW, SIGMA = 11, 1.5  # pixels
_C1, _C2 = 0.01**2, 0.03**2  # of a dynamic range of 1
_IMAGES_AT_ONCE = 8  # their planes stay in a core's cache


def ssim(original: Pixels, edited: Pixels) -> float | Undefined:
    """Return the mean SSIM over all images; 1 is unchanged, 0 unrelated, negative inverted.

    Wang et al. 2004: an 11 x 11 Gaussian window of σ = 1.5 over every pixel whose window lies in
    the image, K1 = 0.01, K2 = 0.03, for a dynamic range of 1 (pixel units). Undefined where an
    image is smaller than the window.
    """
    if min(original.shape[-2:]) < WINDOW:
        return Undefined(f"images are smaller than SSIM's window of {WINDOW} pixels")
    parts = zip(
        torch.split(original, _IMAGES_AT_ONCE), torch.split(edited, _IMAGES_AT_ONCE), strict=True
    )
    values = [value for x, y in parts for value in _of_each(x.double(), y.double()).tolist()]
    return math.fsum(values) / len(values)


def _of_each(x: Pixels, y: Pixels) -> Float[Tensor, " images"]:
    """Return the mean of Wang et al.'s Eq. 13 over each image."""
    mean_x, mean_y = _smoothed(x), _smoothed(y)
    variance_x = _smoothed(x * x) - mean_x**2
    variance_y = _smoothed(y * y) - mean_y**2
    covariance = _smoothed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return (luminance * structure).mean(dim=(-3, -2, -1))


def _smoothed(images: Pixels) -> Float[Tensor, "images 1 rows columns"]:
    """Return Gaussian-weighted means, without the border where the window would leave the image."""
    offsets = torch.arange(WINDOW) - WINDOW // 2
    weights = torch.exp(-(offsets.double() ** 2) / (2 * SIGMA**2))
    kernel = (weights / weights.sum()).tolist()
    return _weighted_shifts(_weighted_shifts(images, kernel, -2), kernel, -1)


def _weighted_shifts(images: Tensor, kernel: Sequence[float], axis: int) -> Tensor:
    """Correlate along one axis by adding shifted views: several times faster than conv2d on a CPU."""
    length = images.shape[axis] - len(kernel) + 1
    total = torch.zeros_like(images.narrow(axis, 0, length))
    for start, weight in enumerate(kernel):
        total.add_(images.narrow(axis, start, length), alpha=weight)
    return total
