"""How visible an edit is: the fidelity of edited images to their originals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ude_core.image_rows import Images
from ude_core.noise import apply_noise, noise_l2, to_pixels
from ude_core.ssim import ssim
from ude_core.types import Measured, Metrics, Noise, PixelPipeline, Undefined, exactly

SAMPLE = 256  # images looked at, of a larger cohort
_IMAGES_AT_ONCE = 4


def fidelity(
    images: Images, noise: Noise, pipeline: PixelPipeline, *, seen: Images | None = None
) -> Metrics:
    """Return `noise_l2`, `psnr_db` (peak 1.0) and `ssim` over an even sample of the images.

    `seen` are the images as a method transforms them before the noise, where it does. They are read
    a few at a time. `psnr_db` is undefined where the edit changes no pixel.
    """
    rows = range(0, len(images), max(1, len(images) // SAMPLE))
    step = rows.step * _IMAGES_AT_ONCE
    squared_errors: list[Tensor] = []
    likenesses: list[float] = []
    undefined: Undefined | None = None
    for start in range(0, len(images), step):
        some = slice(start, start + step, rows.step)
        original = to_pixels(images[some])
        edited = apply_noise(original if seen is None else to_pixels(seen[some]), noise, pipeline)
        difference = edited.double() - original.double()
        squared_errors.append((difference**2).mean(dim=(-3, -2, -1)))
        likeness = ssim(original, edited)
        if isinstance(likeness, Undefined):
            undefined = likeness
        else:
            likenesses += [likeness] * len(original)
    norm = float(noise_l2(noise))
    return {
        "noise_l2": exactly(norm),
        "psnr_db": _psnr_db(float(torch.cat(squared_errors).mean())),
        "ssim": undefined or exactly(math.fsum(likenesses) / len(likenesses)),
    }


def _psnr_db(mean_squared_error: float) -> Measured:
    if mean_squared_error == 0:
        return Undefined("the edit changes no pixel")
    return exactly(-10.0 * math.log10(mean_squared_error))
