"""Use a bundle: edit arrays, Pillow images, and files or folders of PNG and JPEG.

The arithmetic is `ude_core.noise.apply_noise`, so what the encoder sees is what the trial scored.
Files are always written lossless, clamped and rounded to the bit depth they came with; the few
grey levels that rounding changes are part of the `deploy` pipeline and foreign to `paper`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageFile, UnidentifiedImageError

from ude_core.bundle import Bundle
from ude_core.errors import BundleError
from ude_core.noise import LEVELS, apply_noise, to_pixels
from ude_core.storage import atomic_write
from ude_core.types import ImageArray, Noise, Pixels

SUFFIXES = (".png", ".jpg", ".jpeg")
LEVELS_16 = 65535.0
_MODES = ("L", "RGB", "LA", "RGBA", "I;16", "I;16B", "I;16L", "I")
_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class EditedFiles:
    """What `edit_path` did: written or already there, and files of a folder that are no images."""

    written: tuple[Path, ...]
    unchanged: tuple[Path, ...]
    skipped: tuple[Path, ...]


def edit_pixels(bundle: Bundle, images: ImageArray) -> Pixels:
    """Return exactly what the encoder saw in the trial: float32, shape (images, 1, height, width).

    Un-clamped where the bundle's pipeline is `paper`. Raises BundleError on images of another size.
    """
    _check_size(bundle, images.shape[-2:], "images")
    return apply_noise(to_pixels(images), bundle.noise, bundle.facts.pixels)


def edit_images(bundle: Bundle, images: ImageArray) -> ImageArray:
    """Return the edited images in 8 bits, same shape: clamped and rounded (`deploy`)."""
    _check_size(bundle, images.shape[-2:], "images")
    return _edit_8_bit(images, bundle.noise)


def edit_image(bundle: Bundle, image: Image.Image, *, place: str = "image") -> Image.Image:
    """Return the edited image in its own mode and bit depth; an alpha channel is kept as it is.

    Grey, RGB (the edit goes to each channel) and 16-bit grey are taken. Metadata is dropped, since
    it may name a patient. Raises BundleError, naming `place`, on another size or mode.
    """
    _check_size(bundle, (image.height, image.width), place)
    if image.mode not in _MODES:
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


def edit_path(
    bundle: Bundle, source: Path, target: Path, *, overwrite: bool = False
) -> EditedFiles:
    """Edit one image file, or every PNG and JPEG of a folder (not of its sub-folders), into PNGs.

    Names are kept, with the suffix .png. Every input is decoded and checked before the first file
    is written. An output that is there already and differs is refused unless `overwrite`; an input
    is never overwritten. Raises BundleError listing what is wrong, at most ten lines' worth.
    """
    if source.is_dir():
        inputs = sorted(p for p in source.iterdir() if _is_image(p))
        skipped = sorted(p for p in source.iterdir() if not _is_image(p))
        outputs = [target / f"{path.stem}.png" for path in inputs]
        if not inputs:
            raise BundleError(f"{source} holds no PNG or JPEG")
        if target.is_file():
            raise BundleError(f"{target} is a file; {source} is a folder, so name a folder")
    else:
        if not source.is_file():
            raise BundleError(f"{source}: no such file or folder")
        inputs, skipped = [source], []
        into_folder = target.is_dir() or not target.suffix
        outputs = [target / f"{source.stem}.png" if into_folder else target]
        if outputs[0].suffix.lower() != ".png":
            raise BundleError(f"{outputs[0]}: the edit is written lossless; end the name in .png")
    _check_outputs(inputs, outputs)
    problems: list[str] = []
    for path in inputs:
        try:
            _open(path, bundle)
        except BundleError as error:
            problems.append(str(error))
    if problems:
        more = f" (and {len(problems) - 10} more)" if len(problems) > 10 else ""
        raise BundleError("; ".join(problems[:10]) + more)
    written, unchanged = [], []
    for path, output in zip(inputs, outputs, strict=True):
        raw = _encode_png(edit_image(bundle, _open(path, bundle), place=str(path)))
        if output.exists() and output.read_bytes() == raw:
            unchanged.append(output)
            continue
        if output.exists() and not overwrite:
            raise BundleError(f"{output} exists and differs; name another place or overwrite it")
        atomic_write(output, raw)
        written.append(output)
    return EditedFiles(tuple(written), tuple(unchanged), tuple(skipped))


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in SUFFIXES


def _check_outputs(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    sources = {path.resolve() for path in inputs}
    seen: dict[Path, Path] = {}
    for path, output in zip(inputs, outputs, strict=True):
        place = output.resolve()
        if place in sources or any(
            output.exists() and output.samefile(other) for other in (path, *seen.values())
        ):
            raise BundleError(f"{output} is an input; name another place for the edited images")
        if place in seen:
            raise BundleError(
                f"{seen[place].name} and {path.name} would both become {output.name}; rename one"
            )
        seen[place] = path


def _open(path: Path, bundle: Bundle) -> Image.Image:
    """Return the decoded image. Its size is checked from the header, before a pixel is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=("PNG", "JPEG"))
        with image:
            _check_size(bundle, (image.height, image.width), str(path))
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
    if image.mode not in _MODES:
        raise BundleError(f"{path}: mode {image.mode} is not taken; save it as grey or RGB")


def _check_size(bundle: Bundle, shape: Sequence[int], place: str) -> None:
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


def _encode_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
