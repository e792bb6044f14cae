"""Sketch (Yao et al., 2022): images replaced by sketches of themselves, in training and evaluation.

The paper's sketches come from a trained network; here they are the draughtsman's colour dodge,
which needs no weights: a pencil sketch is the image divided by its own blur, clipped at white, so
that flat regions turn white and edges stay dark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ude_core.baselines.base import Edit
from ude_core.baselines.erm import Erm
from ude_core.image_rows import EditedImages, Images
from ude_core.noise import LEVELS, to_pixels
from ude_core.types import ImageArray

_DARK = 1 / LEVELS  # keeps the quotient defined where image and blur are black
_REACH = 3.0  # standard deviations to either side


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch(Erm):
    """A pencil sketch of every image; `blur` is the blur's standard deviation as a share of the side."""

    blur: float
    edit: Edit = "transform"

    def edited(self, images: Images) -> Images:
        """Return the images as sketches, made as they are read."""
        return EditedImages(images, partial(sketch, blur=self.blur))


def sketch(images: ImageArray, *, blur: float) -> ImageArray:
    """Return the sketch of each image: min(1, x / blurred x), in 8 bits.

    This is the dodge of x by its inverted, blurred negative: x / (1 - G(1 - x)) = x / G(x). The
    blur is Gaussian, edges are reflected. Deterministic; an even image turns white.
    """
    size = images.shape[-1]
    pixels = to_pixels(images)
    blurred = _blurred(pixels, max(blur * size, 1e-3))
    drawn = ((pixels + _DARK) / (blurred + _DARK)).clamp(0.0, 1.0)
    levels: ImageArray = drawn.mul(LEVELS).round_().to(torch.uint8)[:, 0].numpy()
    return levels


def _blurred(
    pixels: Float[Tensor, "images 1 height width"], sigma: float
) -> Float[Tensor, "images 1 height width"]:
    reach = min(math.ceil(_REACH * sigma), min(pixels.shape[-2:]) - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = torch.nn.functional.pad(pixels, (reach, reach, reach, reach), mode="reflect")
    across = torch.nn.functional.conv2d(padded, kernel[None, None, None])
    return torch.nn.functional.conv2d(across, kernel[None, None, :, None])
