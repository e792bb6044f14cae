"""Bytes on disk: atomic writes, digests, and tensors with scalars as one checked safetensors file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor


class CorruptFileError(ValueError):
    """A file whose content is not what was written: torn, flipped or of another kind."""


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either its old content or all of the new (tmp, fsync, rename)."""
    atomic_writes(path.parent, {path.name: data})


def atomic_writes(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write several files of a folder as `atomic_write` does, in this order: the last is there last."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        renames = [
            (_synced(folder / name, data, stack), folder / name) for name, data in files.items()
        ]
        for temporary, path in renames:
            temporary.replace(path)
        sync_folder(folder)


def write_once(path: Path, data: bytes) -> None:
    """Write `data` to `path` unless something is there: of several writers, the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        temporary = _synced(path, data, stack)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        sync_folder(path.parent)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`; on success it is synced and renamed over `path`."""
    with _temporary(path) as temporary:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        sync_folder(path.parent)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path`, and remove it if it is still there at the end."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _synced(path: Path, data: bytes, stack: contextlib.ExitStack) -> Path:
    """Return a temporary file beside `path` that holds `data` on the disk; `stack` removes it."""
    temporary = stack.enter_context(_temporary(path))
    temporary.write_bytes(data)
    _sync(temporary)
    return temporary


def _sync(file: Path) -> None:
    """Make the file's content durable, and readable by others as any other file is."""
    with file.open("rb") as written:
        os.fsync(written.fileno())
    file.chmod(0o644)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(*parts: object) -> str:
    """Return the sha256 of values with a stable JSON form, for content-addressed names."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def save_checked(path: Path, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
    """Write tensors and JSON scalars as one safetensors file that carries its own sha256."""
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(scalars, sort_keys=True)
    metadata = {"scalars": text, "sha256": _content_digest(plain, text)}
    atomic_write(path, safetensors.torch.save(plain, metadata))


def load_checked(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `save_checked` wrote. Raises CorruptFileError where a single bit differs."""
    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path.name} cannot be read as safetensors: {error}") from error
    text = metadata.get("scalars", "")
    if metadata.get("sha256") != _content_digest(tensors, text):
        raise CorruptFileError(f"{path.name} does not match its own checksum")
    scalars: dict[str, Any] = json.loads(text)
    return tensors, scalars


def _content_digest(tensors: Mapping[str, Tensor], scalars: str) -> str:
    content = hashlib.sha256(scalars.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        content.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        content.update(tensor.numpy().tobytes())
    return content.hexdigest()
