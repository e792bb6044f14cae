"""From one image file to a square of gray bytes, refusing whatever cannot be decoded faithfully.

Files are PNG or JPEG. Documented conversions, in this order:

- EXIF orientation is applied;
- 16-bit gray is scaled linearly to 8 bits, by 4095 where no value exceeds it, else by 65535;
- palettes and colors become gray by the ITU-R 601 luma; transparent parts become black;
- an oblong image is padded to a square with black (nothing of the lungs is cut off), then resized
  with an antialiased bicubic filter. An image that already has the wanted size is not touched.

Messages here never hold a file name, which may hold a patient id: the caller adds `file:row`.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ude_core.errors import CohortError

MAX_PIXELS = 50_000_000
MAX_BYTES = 256 * 1024 * 1024
MIN_SIDE = 32
MAX_ASPECT = 3.0
FORMATS = ("PNG", "JPEG")

GrayImage = UInt8[np.ndarray, "height width"]
SquareImage = UInt8[np.ndarray, "side side"]

_DICOM = "is DICOM (expected PNG or JPEG); export it to de-identified PNG or JPEG first"
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    Warning,
    Image.DecompressionBombError,
)
_LOOK_AHEAD = 256

_Result = TypeVar("_Result")


def resolve_inside(root: Path, relative: str) -> Path:
    """Return the file `relative` names below the resolved folder `root`, symbolic links followed.

    Raises CohortError, without the path, where it is absolute, climbs with `..`, leaves `root`
    through a symbolic link, or is not a regular file.
    """
    if not relative or "\0" in relative:
        raise CohortError("is empty or holds a NUL; give a path relative to the data root")
    windows = PureWindowsPath(relative)
    if PurePosixPath(relative).is_absolute() or windows.drive or windows.root:
        raise CohortError("is absolute; give a path relative to the data root")
    if ".." in windows.parts:
        raise CohortError("climbs with '..'; give a path below the data root")
    try:
        resolved = (root / relative).resolve()
        if not resolved.is_relative_to(root):
            raise CohortError("leads out of the data root through a symbolic link; copy the file")
        if not resolved.is_file():
            raise CohortError("names no regular file; add the image or drop the row")
    except (OSError, RuntimeError) as error:
        raise CohortError(f"cannot be followed ({type(error).__name__}); shorten it") from None
    return resolved


def _check_geometry(width: int, height: int, frames: int) -> None:
    if frames > 1:
        raise CohortError("holds several frames (expected one image); export one frame")
    if width * height > MAX_PIXELS:
        raise CohortError(
            f"has {width}x{height} pixels (expected at most {MAX_PIXELS:,} in all); scale it down"
        )
    if min(width, height) < MIN_SIDE:
        raise CohortError(
            f"has {width}x{height} pixels (expected at least {MIN_SIDE} on each side); drop the row"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise CohortError(
            f"has {width}x{height} pixels (expected sides within {MAX_ASPECT:g} to 1); crop it"
        )


def _to_gray(image: Image.Image) -> GrayImage:
    transparent = "transparency" in image.info
    match image.mode:
        case "I;16" | "I;16L" | "I;16B" | "I":
            wide = np.asarray(image).astype(np.int64)
            low, high = int(wide.min()), int(wide.max())
            if low < 0 or high > 65535:
                raise CohortError(f"holds values {low}..{high} (expected 0..65535); rescale it")
            top = 4095 if high <= 4095 else 65535
            return np.asarray((wide * 255 + top // 2) // top, dtype=np.uint8)
        case "L" if not transparent:
            return np.asarray(image)
        case "1" | "L" | "RGB" | "P" | "LA" | "PA" | "RGBA":
            if transparent or image.mode in ("LA", "PA", "RGBA"):
                layered = image.convert("RGBA")
                flat = Image.new("RGBA", layered.size, (0, 0, 0, 255))
                image = Image.alpha_composite(flat, layered)
            elif image.mode == "P":
                image = image.convert("RGB")
            return np.asarray(image.convert("L"))
        case mode:
            raise CohortError(
                f"has color mode {mode} (expected gray, palette or RGB); export it as gray"
            )


def _fit(gray: GrayImage, size: int) -> SquareImage:
    height, width = gray.shape
    if height != width:
        side = max(height, width)
        square = np.zeros((side, side), dtype=np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = gray
        gray = square
    if gray.shape[0] != size:
        resized = Image.fromarray(gray).resize((size, size), Image.Resampling.BICUBIC)
        gray = np.asarray(resized)
    return gray


def decode_image(data: bytes, size: int) -> SquareImage:
    """Return the image in `data` as gray bytes, shape (size, size).

    Raises CohortError where it is not a PNG or JPEG, is DICOM, damaged, truncated, animated, too
    large, too small, too oblong or constant; RuntimeError where Pillow was told to accept
    truncated images, since a grey lower half would then pass for anatomy.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set; cohorts need it unset")
    if data[128:132] == b"DICM":
        raise CohortError(_DICOM)
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            _check_geometry(*image.size, getattr(image, "n_frames", 1))
            if image.format == "PNG":
                with Image.open(BytesIO(data), formats=FORMATS) as checked:
                    checked.verify()
            image.load()
            gray = _to_gray(ImageOps.exif_transpose(image))
    except CohortError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise CohortError(
            f"has too many pixels (expected at most {MAX_PIXELS:,} in all); scale it down"
        ) from None
    except UnidentifiedImageError:
        raise CohortError(
            "is not an image that can be read (expected PNG or JPEG; DICOM must be exported to "
            "de-identified PNG or JPEG first)"
        ) from None
    except _DAMAGED as error:
        raise CohortError(
            f"is damaged or truncated ({type(error).__name__}); fetch it again or drop the row"
        ) from None
    if gray.min() == gray.max():
        raise CohortError(
            f"is constant (every pixel is {gray.flat[0]}); fetch it again or drop the row"
        )
    fitted = _fit(gray, size)
    if fitted.min() == fitted.max():
        raise CohortError(f"is constant at {size}x{size} pixels; fetch it again or drop the row")
    return fitted


def read_bytes(file: Path) -> bytes:
    """Return a file's bytes. Raises CohortError, without its name, on failure or over MAX_BYTES."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise CohortError(f"cannot be read ({error.strerror}); check its permissions") from None
    if len(data) > MAX_BYTES:
        raise CohortError(f"is larger than {MAX_BYTES:,} bytes; scale it down")
    return data


def _threads() -> int:
    return min(16, (os.cpu_count() or 1) + 2)


def _in_order(
    work: Callable[[int], _Result], count: int, workers: int | None
) -> Iterator[_Result | CohortError]:
    """Yield work(0), work(1), ... in order from a thread pool, at most `_LOOK_AHEAD` ahead."""

    def guarded(position: int) -> _Result | CohortError:
        try:
            return work(position)
        except CohortError as error:
            return error

    with ThreadPoolExecutor(workers or _threads()) as pool:
        for start in range(0, count, _LOOK_AHEAD):
            yield from pool.map(guarded, range(start, min(start + _LOOK_AHEAD, count)))


def hash_files(files: Sequence[Path], workers: int | None = None) -> list[str | CohortError]:
    """Return each file's sha256 in hexadecimal, or the reason why it cannot be read."""

    def one(position: int) -> str:
        return hashlib.sha256(read_bytes(files[position])).hexdigest()

    return list(_in_order(one, len(files), workers))


def decode_files(
    files: Sequence[Path], hashes: Sequence[str], size: int, workers: int | None = None
) -> Iterator[SquareImage | CohortError]:
    """Yield each file's image, shape (size, size), or the reason why it is refused, in order.

    A file whose sha256 is not the one in `hashes` changed since it was listed, and is refused.
    """

    def one(position: int) -> SquareImage:
        data = read_bytes(files[position])
        if hashlib.sha256(data).hexdigest() != hashes[position]:
            raise CohortError("changed while it was being read; start again")
        return decode_image(data, size)

    return _in_order(one, len(files), workers)
