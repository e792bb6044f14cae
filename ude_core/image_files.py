"""Decode an image file that is to be edited, or say what is wrong with it; encode and write."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, UnidentifiedImageError

from ude_core.bundle import Bundle
from ude_core.editing import MODES, check_size
from ude_core.errors import BundleError, UserError
from ude_core.storage import atomic_write

_ORIENTATION = 0x0112


def open_image(path: Path, bundle: Bundle) -> Image.Image:
    """Return the decoded image. Its size is checked from the header, before a pixel is decoded."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            check_size(bundle, (image.height, image.width), str(path))
            _check_depth(path, image)
            image.load()
            return image.copy()
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BundleError(f"{path}: not a PNG or JPEG that can be read ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{path}: truncated or damaged ({error})") from error


def _check_depth(path: Path, image: ImageFile.ImageFile) -> None:
    if image.format == "PNG":
        with path.open("rb") as file:
            header = file.read(26)
        # Pillow reads 16-bit color as 8 bits without a word; bytes 24 and 25 are depth and kind.
        if header[24] == 16 and header[25] != 0:
            raise BundleError(f"{path}: 16-bit color is not taken; save it as grey or as 8 bits")
    if getattr(image, "n_frames", 1) != 1:
        raise BundleError(f"{path}: holds several frames; save one image a file")
    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation != 1:
        raise BundleError(f"{path}: EXIF orientation {orientation}; rotate its pixels first")
    if image.mode not in MODES:
        raise BundleError(f"{path}: mode {image.mode} is not taken; save it as grey or RGB")


def encode_png(image: Image.Image) -> bytes:
    """Return the image as PNG, in its own mode and bit depth, without metadata."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def write_films(films: UInt8[np.ndarray, "films height width"], folder: Path) -> None:
    """Write films as 8-bit gray PNG, `000.png` and on. Raises UserError where something is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = any(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; name a new folder, or an empty one") from None
    if there:
        raise UserError(f"{folder} holds files; name a new folder, or an empty one")
    for index, film in enumerate(films):
        atomic_write(folder / f"{index:03}.png", encode_png(Image.fromarray(film)))
