"""Decoded pixels of a list of files, kept on disk under a key made from the files' contents.

The key holds the sha256 of every file, in order, the image size and the decoder's version: an
edited file, another order or another size is another entry. Entries are written to a temporary
file, synced and renamed; a digest beside each notices an entry that was damaged afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL

from ude_core.cohorts.images import decode_files
from ude_core.errors import CohortError
from ude_core.storage import atomic_write, staged
from ude_core.types import ImageArray

DECODER_VERSION = 1
_CHUNK = 512


class UnreadableImagesError(CohortError):
    """Files that were refused: pairs of position in the list and reason."""

    def __init__(self, problems: Sequence[tuple[int, str]]) -> None:
        super().__init__(f"{len(problems)} images cannot be used")
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, eq=False)
class PixelStore:
    """Images of shape (images, size, size), read-only, and the sha256 over their bytes."""

    images: ImageArray
    digest: str


def pixel_key(hashes: Sequence[str], size: int) -> str:
    """Return the cache key of files with these sha256, decoded at `size`."""
    key = hashlib.sha256(f"{DECODER_VERSION} {PIL.__version__} {size}\n".encode())
    key.update("\n".join(hashes).encode())
    return key.hexdigest()


def digest_pixels(images: ImageArray) -> str:
    """Return the sha256 over the shape and the bytes of images, a few thousand at a time."""
    digest = hashlib.sha256(repr(images.shape).encode())
    for start in range(0, len(images), _CHUNK):
        digest.update(images[start : start + _CHUNK].tobytes())
    return digest.hexdigest()


def load_pixels(
    files: Sequence[Path],
    hashes: Sequence[str],
    size: int,
    cache: Path | None,
    workers: int | None = None,
) -> PixelStore:
    """Return the decoded images of `files`, from `cache` where it holds them, else decoded now.

    With a cache the images are memory-mapped from its file. Raises UnreadableImagesError with
    every refused file, and OSError where the cache cannot be written.
    """
    if cache is None:
        images = np.empty((len(files), size, size), dtype=np.uint8)
        problems: list[tuple[int, str]] = []
        for position, image in enumerate(decode_files(files, hashes, size, workers)):
            if isinstance(image, CohortError):
                problems.append((position, str(image)))
            else:
                images[position] = image
        if problems:
            raise UnreadableImagesError(problems)
        images.setflags(write=False)
        return PixelStore(images, digest_pixels(images))
    cache.mkdir(parents=True, exist_ok=True)
    entry = cache / f"{pixel_key(hashes, size)}.npy"
    found = _read(entry, (len(files), size, size))
    if found is not None:
        return found
    _write(entry, files, hashes, size, workers)
    written = _read(entry, (len(files), size, size))
    if written is None:
        raise OSError(f"{entry} was written but does not read back; check the disk")
    return written


def _digest_file(entry: Path) -> Path:
    return entry.with_suffix(".sha256")


def _read(entry: Path, shape: tuple[int, int, int]) -> PixelStore | None:
    try:
        expected = _digest_file(entry).read_text(encoding="ascii").strip()
        images = np.load(entry, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    if images.shape != shape or images.dtype != np.uint8 or digest_pixels(images) != expected:
        return None
    return PixelStore(images, expected)


def _write(
    entry: Path, files: Sequence[Path], hashes: Sequence[str], size: int, workers: int | None
) -> None:
    shape = (len(files), size, size)
    digest = hashlib.sha256(repr(shape).encode())
    problems: list[tuple[int, str]] = []
    with staged(entry) as temporary, temporary.open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for position, image in enumerate(decode_files(files, hashes, size, workers)):
            if isinstance(image, CohortError):
                problems.append((position, str(image)))
                continue
            pixels = image.tobytes()
            digest.update(pixels)
            stream.write(pixels)
        if problems:
            raise UnreadableImagesError(problems)
    atomic_write(_digest_file(entry), f"{digest.hexdigest()}\n".encode())
