"""The exported artefact: one noise with everything needed to use it, to check it and to trust it.

A bundle is a folder of exactly four files, or five where the edit was written as an ONNX graph too.
`manifest.json` holds the sha256 of the others and of itself, and must be byte for byte the canonical
form of what it says, so that any changed byte is noticed. This guards against accidents and careless
edits; it is not a signature. Only safetensors and JSON are ever parsed: edit.onnx is for other
runtimes, and never read here.
Reading order: `Bundle`, `write_bundle`, `load_bundle`.
Editing pixels and image files with a bundle is `ude_core.editing` and `ude_core.edit_files`.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import stat
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from jaxtyping import Float

from ude_core.bundle_manifest import BundleFacts, open_seal, seal, sha256
from ude_core.errors import BundleError
from ude_core.types import Noise

NOISE_FILE, MANIFEST_FILE = "noise.safetensors", "manifest.json"
PREVIEW_FILE, CARD_FILE = "preview.png", "MODEL_CARD.md"
EDIT_FILE = "edit.onnx"
OPTIONAL = frozenset({EDIT_FILE})
MAX_BYTES: Mapping[str, int] = {
    NOISE_FILE: 64 << 20,
    MANIFEST_FILE: 4 << 20,
    PREVIEW_FILE: 16 << 20,
    CARD_FILE: 1 << 20,
    EDIT_FILE: 65 << 20,
}
_LEFTOVER_SECONDS = 3600
_SHORTEST = 12
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A verified bundle in memory: nothing is read from its folder again."""

    facts: BundleFacts
    noise: Noise


def write_bundle(
    folder: Path,
    noise: Noise,
    facts: BundleFacts,
    *,
    preview: bytes,
    card: str,
    edit: bytes | None = None,
) -> None:
    """Write the bundle as a whole: built beside `folder`, then renamed over it.

    A killed writer leaves the bundle that was there, or none; of two writers at once, one whole
    bundle stays. The same arguments give the same bytes. `preview` is a PNG and must not show a
    patient; `edit` is the same edit as an ONNX graph. Raises BundleError when `folder` holds other
    files, or the noise is not a finite float32 tensor [1, image_size, image_size].
    """
    from ude_core.storage import sync_folder

    array = np.ascontiguousarray(noise.detach().cpu().numpy())
    _check_noise(array, facts.image_size, folder)
    if not preview.startswith(_PNG_MAGIC):
        raise BundleError(f"{folder}: the preview is not a PNG")
    _check_replaceable(folder)
    contents = {
        NOISE_FILE: safetensors.numpy.save({"noise": array}),
        PREVIEW_FILE: preview,
        CARD_FILE: card.encode(),
    }
    if edit is not None:
        contents[EDIT_FILE] = edit
    contents[MANIFEST_FILE] = seal(facts, {name: sha256(raw) for name, raw in contents.items()})
    for name, raw in contents.items():
        if len(raw) > MAX_BYTES[name]:
            raise BundleError(f"{folder}: {name} has {len(raw)} bytes (at most {MAX_BYTES[name]})")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    scratch = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    scratch.mkdir()
    try:
        for name, raw in contents.items():
            with (scratch / name).open("xb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(scratch)
        _put_in_place(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    sync_folder(folder.parent)


def verify_bundle(folder: Path) -> BundleFacts:
    """Return what the bundle says of itself, once every byte of it is checked.

    Raises BundleError naming the first file that is missing, extra, altered, too large, a link or
    a folder, or the manifest's key that is wrong.
    """
    return _load(folder)[0]


def load_bundle(folder: Path) -> Bundle:
    """Return the bundle after verifying it; each file is read once. Raises BundleError."""
    import torch

    facts, noise = _load(folder)
    return Bundle(facts=facts, noise=torch.from_numpy(noise.copy()))


def _load(folder: Path) -> tuple[BundleFacts, Float[np.ndarray, "1 height width"]]:
    contents = _read_all(folder)
    facts, hashes = open_seal(contents[MANIFEST_FILE], folder / MANIFEST_FILE)
    expected = sorted(set(contents) - {MANIFEST_FILE})
    for name in OPTIONAL:
        if name in hashes and name not in contents:
            raise BundleError(f"{folder} is not a whole bundle: {name} is missing")
        if name in contents and name not in hashes:
            raise BundleError(f"{folder} holds {name}, which its manifest does not list")
    if sorted(hashes) != expected:
        raise BundleError(f"{folder / MANIFEST_FILE}: files must be {', '.join(expected)}")
    for name in expected:
        if sha256(contents[name]) != hashes[name]:
            raise BundleError(f"{folder / name} was altered: its sha256 is not the manifest's")
    if not contents[PREVIEW_FILE].startswith(_PNG_MAGIC):
        raise BundleError(f"{folder / PREVIEW_FILE} is not a PNG")
    try:
        tensors = safetensors.numpy.load(contents[NOISE_FILE])
    except Exception as error:  # safetensors raises its own classes, and KeyError on odd types
        raise BundleError(f"{folder / NOISE_FILE} is not safetensors: {error}") from error
    if sorted(tensors) != ["noise"]:
        raise BundleError(f"{folder / NOISE_FILE} must hold one tensor named noise")
    _check_noise(tensors["noise"], facts.image_size, folder)
    return facts, tensors["noise"]


def check_made_for(facts: BundleFacts, *, encoder_fingerprint: str) -> None:
    """Raise BundleError when the noise was learnt through another encoder than the one given."""
    if facts.encoder_fingerprint != encoder_fingerprint:
        raise BundleError(
            f"this noise was learnt through encoder {facts.encoder} "
            f"({facts.encoder_fingerprint[:12]}), not {encoder_fingerprint[:12]}; "
            "learn one for this encoder"
        )


def check_encoder(facts: BundleFacts, stated: str) -> None:
    """Raise BundleError unless `stated` is the encoder's name or begins its fingerprint (12 digits)."""
    short = len(stated) >= _SHORTEST and facts.encoder_fingerprint.startswith(stated.lower())
    if stated != facts.encoder and not short:
        raise BundleError(
            f"this noise was learnt through encoder {facts.encoder} "
            f"({facts.encoder_fingerprint[:_SHORTEST]}), not {stated}; learn one for that encoder"
        )


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left beside `folder`; a live one is younger than this."""
    for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def _put_in_place(scratch: Path, folder: Path) -> None:
    aside = scratch.with_name(f".{folder.name}.{uuid.uuid4().hex}.old.tmp")
    while True:
        try:
            scratch.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            break
        # A folder cannot be renamed over a full one, so the old bundle steps aside first; another
        # writer may fill the gap, hence the loop.
        try:
            folder.rename(aside)
        except FileNotFoundError:
            continue
        shutil.rmtree(aside, ignore_errors=True)


def _check_replaceable(folder: Path) -> None:
    if folder.is_symlink():
        raise BundleError(f"{folder} is a link; name the folder itself")
    if folder.is_file():
        raise BundleError(f"{folder} is a file; name a folder for the bundle")
    # Another writer may be moving it aside right now: gone, or a part of a bundle, is no obstacle.
    with contextlib.suppress(FileNotFoundError):
        if any(entry.name not in MAX_BYTES for entry in folder.iterdir()):
            raise BundleError(f"{folder} holds other files; name a new folder for the bundle")


def _read_all(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a bundle: there is no such folder")
    present = {entry.name: entry for entry in os.scandir(folder)}
    for name in MAX_BYTES:
        if name not in present and name not in OPTIONAL:
            raise BundleError(f"{folder} is not a whole bundle: {name} is missing")
    for name, entry in sorted(present.items()):
        if name not in MAX_BYTES:
            raise BundleError(f"{folder} holds {name!r}, which is no part of a bundle")
        if not entry.is_file(follow_symlinks=False):
            raise BundleError(f"{folder / name} must be a plain file, not a link or a folder")
    return {
        name: _read(folder / name, limit) for name, limit in MAX_BYTES.items() if name in present
    }


def _read(path: Path, limit: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BundleError(f"{path} must be a plain file")
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise BundleError(f"{path} has more than {limit} bytes")
    return raw


def _check_noise(noise: Float[np.ndarray, ...], image_size: int, folder: Path) -> None:
    wanted = (1, image_size, image_size)
    if noise.dtype != np.float32 or noise.shape != wanted:
        raise BundleError(
            f"{folder / NOISE_FILE}: noise is {noise.dtype} {list(noise.shape)}, "
            f"expected float32 {list(wanted)}"
        )
    if not np.isfinite(noise).all():
        raise BundleError(f"{folder / NOISE_FILE}: noise holds NaN or infinity")
