"""Use a bundle: edit arrays and Pillow images; a transform for data loaders. Files: `edit_files`.

    bundle = load_bundle("bundle")
    check_made_for(bundle.facts, encoder_fingerprint=encoder.fingerprint)
    edited = edit_image(bundle, Image.open("film.png"))

The arithmetic is `ude_core.noise.apply_noise`, so what the encoder sees is what the trial scored.
16-bit gray is edited in 16 bits: nothing is lost on the way through 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8, UInt16
from PIL import Image

from ude_core.bundle import Bundle
from ude_core.errors import BundleError
from ude_core.noise import LEVELS, apply_noise, to_pixels
from ude_core.types import ImageArray, Noise, Pixels

LEVELS_16 = 65535.0
MODES = ("L", "RGB", "LA", "RGBA", "I;16", "I;16B", "I;16L", "I")


def edit_pixels(bundle: Bundle, images: ImageArray) -> Pixels:
    """Return exactly what the encoder saw in the trial: float32, shape (images, 1, height, width).

    Un-clamped where the bundle's pipeline is `paper`. Raises BundleError on images of another size.
    """
    check_size(bundle, images.shape[-2:], "images")
    return apply_noise(to_pixels(images), bundle.noise, bundle.facts.pixels)


def edit_images(bundle: Bundle, images: ImageArray) -> ImageArray:
    """Return the edited images in 8 bits, same shape: clamped and rounded (`deploy`)."""
    check_size(bundle, images.shape[-2:], "images")
    return _edit_8_bit(images, bundle.noise)


def edit_image(bundle: Bundle, image: Image.Image, *, place: str = "image") -> Image.Image:
    """Return the edited image in its own mode and bit depth; an alpha channel is kept as it is.

    Grey, RGB (the edit goes to each channel) and 16-bit grey are taken. Metadata is dropped, since
    it may name a patient. Raises BundleError, naming `place`, on another size or mode.
    """
    check_size(bundle, (image.height, image.width), place)
    if image.mode not in MODES:
        raise BundleError(
            f"{place}: mode {image.mode} is not taken; save it as grey or RGB, 8 or 16 bits"
        )
    if image.mode.startswith("I"):
        array = np.asarray(image)
        if array.min() < 0 or array.max() > LEVELS_16:
            raise BundleError(f"{place}: values outside 0 to 65535; save it as 16-bit grey")
        return Image.fromarray(_edit_16_bit(array.astype(np.uint16), bundle.noise))
    channels = [np.asarray(channel) for channel in image.split()]
    colors = len(channels) - (1 if image.mode in ("LA", "RGBA") else 0)
    edited = _edit_8_bit(np.stack(channels[:colors]), bundle.noise)
    planes = [*edited, *channels[colors:]]
    return Image.merge(image.mode, [Image.fromarray(plane) for plane in planes])


def check_size(bundle: Bundle, shape: Sequence[int], place: str) -> None:
    """Raise BundleError where (height, width) are not those the noise was made for."""
    size = bundle.facts.image_size
    if tuple(shape) != (size, size):
        height, width = shape
        raise BundleError(
            f"{place}: {width}x{height} pixels; this noise was made for {size}x{size} images "
            f"and encoder {bundle.facts.encoder}: resize as the study did"
        )


def _edit_8_bit(
    images: UInt8[np.ndarray, "n height width"], noise: Noise
) -> UInt8[np.ndarray, "n height width"]:
    edited = apply_noise(to_pixels(images), noise, "deploy")
    return edited[:, 0].mul(LEVELS).round().to(torch.uint8).numpy()


def _edit_16_bit(
    image: UInt16[np.ndarray, "height width"], noise: Noise
) -> UInt16[np.ndarray, "height width"]:
    edited = np.clip(image / LEVELS_16 + noise[0].numpy().astype(np.float64), 0.0, 1.0)
    return np.rint(edited * LEVELS_16).astype(np.uint16)
