"""One image file at a time: what is converted, what is refused, and what never gets through."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from ude_core.cohorts.images import decode_image, resolve_inside
from ude_core.cohorts.pixel_cache import UnreadableImagesError, digest_pixels, load_pixels
from ude_core.errors import CohortError


def picture(side: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(pixels: np.ndarray) -> bytes:
    return encode(Image.fromarray(pixels))


def huge_png(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that says it is width × height."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_gray_of_the_wanted_size_is_untouched() -> None:
    np.testing.assert_array_equal(decode_image(png(picture()), 64), picture())


def test_16_bit_is_scaled_by_12_or_16_bits() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    full = decode_image(png(ramp.astype(np.uint16)), 64)
    twelve = decode_image(png((ramp / 16).astype(np.uint16)), 64)
    assert (full.min(), full.max()) == (0, 255)
    assert (twelve.min(), twelve.max()) == (0, 255)
    assert np.abs(full.astype(int) - twelve.astype(int)).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_gray_stored_in_color_is_the_same_gray(mode: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    np.testing.assert_array_equal(decode_image(encode(image), 64), picture())


def test_palette_becomes_its_gray() -> None:
    image = Image.fromarray(picture()).quantize(256)
    expected = np.asarray(image.convert("RGB").convert("L"))
    np.testing.assert_array_equal(decode_image(encode(image), 64), expected)


def test_transparent_becomes_black() -> None:
    alpha = np.full((64, 64), 255, dtype=np.uint8)
    alpha[:32] = 0
    layered = Image.merge("LA", [Image.fromarray(picture()), Image.fromarray(alpha)])
    decoded = decode_image(encode(layered), 64)
    assert decoded[:32].max() == 0
    np.testing.assert_array_equal(decoded[32:], picture()[32:])


def test_oblong_is_padded_not_cut() -> None:
    decoded = decode_image(
        png(np.full((64, 128), 200, dtype=np.uint8) - picture(128)[:64] // 8), 64
    )
    assert decoded.shape == (64, 64)
    assert decoded[:14].max() == 0
    assert decoded[20:44].min() > 100


REFUSED = {
    "nothing": (b"", "not an image"),
    "text": (b"hello, this is no image", "not an image"),
    "gif": (encode(Image.fromarray(picture()), "GIF"), "not an image"),
    "dicom": (b"\0" * 128 + b"DICM" + b"\0" * 64, "de-identified PNG or JPEG"),
    "truncated png": (png(picture())[:-1500], "damaged or truncated"),
    "truncated jpeg": (encode(Image.fromarray(picture()), "JPEG")[:-800], "damaged or truncated"),
    "bomb": (huge_png(60_000, 60_000), "at most 50,000,000"),
    "large": (huge_png(7_100, 7_100), "at most 50,000,000"),
    "tiny": (png(picture(16)), "at least 32"),
    "ribbon": (png(np.tile(picture(), (1, 4))), "within 3 to 1"),
    "constant": (png(np.full((64, 64), 7, dtype=np.uint8)), "constant"),
    "constant oblong": (png(np.full((64, 96), 7, dtype=np.uint8)), "constant"),
    "cmyk": (encode(Image.fromarray(picture()).convert("CMYK"), "JPEG"), "color mode CMYK"),
    "animated": (
        encode(
            Image.fromarray(picture()),
            save_all=True,
            append_images=[Image.fromarray(picture(seed=1))],
        ),
        "several frames",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    data, words = REFUSED[name]
    with pytest.raises(CohortError, match=words):
        decode_image(data, 64)


def test_never_with_pillow_told_to_accept_truncation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES"):
        decode_image(png(picture()), 64)


@given(
    position=st.integers(0, 10_000),
    value=st.integers(0, 255),
    kind=st.sampled_from(["PNG", "JPEG"]),
    cut=st.booleans(),
)
def test_damage_is_decoded_or_refused_never_a_crash(
    position: int, value: int, kind: str, cut: bool
) -> None:
    data = bytearray(encode(Image.fromarray(picture()), kind))
    position %= len(data)
    data[position] = value
    damaged = bytes(data[:position] if cut else data)
    try:
        decoded = decode_image(damaged, 64)
    except CohortError:
        return
    assert decoded.shape == (64, 64)
    assert decoded.dtype == np.uint8


def test_paths_stay_inside(tmp_path: Path) -> None:
    root = (tmp_path / "root").resolve()
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.png").write_bytes(b"x")
    outside = tmp_path / "secret.png"
    outside.write_bytes(b"x")
    (root / "link.png").symlink_to(outside)
    (root / "loop.png").symlink_to(root / "loop.png")
    assert resolve_inside(root, "sub/a.png") == root / "sub" / "a.png"
    for path, words in {
        str(outside): "absolute",
        "C:\\x.png": "absolute",
        "sub/../../secret.png": r"'\.\.'",
        "sub\\..\\..\\secret.png": r"'\.\.'",
        "link.png": "symbolic link",
        "loop.png": "cannot be followed|no regular file",
        "sub": "no regular file",
        "absent.png": "no regular file",
        "": "empty",
        "a\0b": "NUL",
        "x" * 5000: "cannot be followed|no regular file",
    }.items():
        with pytest.raises(CohortError, match=words) as refused:
            resolve_inside(root, path)
        assert "secret" not in str(refused.value)


def write_pictures(folder: Path, count: int) -> tuple[list[Path], list[str]]:
    files = [folder / f"{i}.png" for i in range(count)]
    for i, file in enumerate(files):
        file.write_bytes(png(picture(seed=i)))
    return files, [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def test_cache_gives_the_same_pixels_mapped_and_read_only(tmp_path: Path) -> None:
    files, hashes = write_pictures(tmp_path, 5)
    plain = load_pixels(files, hashes, 40, None)
    cache = tmp_path / "cache"
    first, second = (load_pixels(files, hashes, 40, cache) for _ in range(2))
    for store in (first, second):
        np.testing.assert_array_equal(store.images, plain.images)
        assert store.digest == plain.digest == digest_pixels(plain.images)
        assert isinstance(store.images, np.memmap)
    assert not plain.images.flags.writeable
    assert not first.images.flags.writeable
    assert sorted(file.suffix for file in cache.iterdir()) == [".npy", ".sha256"]


@pytest.mark.parametrize("fault", ["flip", "cut", "no digest", "pickle"])
def test_damaged_cache_is_made_anew(tmp_path: Path, fault: str) -> None:
    files, hashes = write_pictures(tmp_path, 3)
    cache = tmp_path / "cache"
    good = load_pixels(files, hashes, 40, cache).digest
    (entry,) = cache.glob("*.npy")
    data = bytearray(entry.read_bytes())
    match fault:
        case "flip":
            data[-1] ^= 1
            entry.write_bytes(data)
        case "cut":
            entry.write_bytes(data[: len(data) // 2])
        case "no digest":
            entry.with_suffix(".sha256").unlink()
        case "pickle":
            np.save(entry, np.array([object()], dtype=object), allow_pickle=True)
    again = load_pixels(files, hashes, 40, cache)
    assert again.digest == good == digest_pixels(again.images)


def test_another_size_order_or_content_is_another_entry(tmp_path: Path) -> None:
    files, hashes = write_pictures(tmp_path, 3)
    cache = tmp_path / "cache"
    load_pixels(files, hashes, 40, cache)
    load_pixels(files, hashes, 41, cache)
    load_pixels(files[::-1], hashes[::-1], 40, cache)
    assert len(list(cache.glob("*.npy"))) == 3


def test_every_bad_image_is_told_and_nothing_is_left_behind(tmp_path: Path) -> None:
    files, hashes = write_pictures(tmp_path, 4)
    files[1].write_bytes(b"changed since it was hashed")
    files[3].unlink()
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(UnreadableImagesError) as refused:
            load_pixels(files, hashes, 40, cache)
        assert [position for position, _ in refused.value.problems] == [1, 3]
    assert list((tmp_path / "cache").iterdir()) == []
