"""What a driver prepared, as files that workers on other nodes can open: no CSV, no images needed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from study.config import StudyConfig
from study.materials import Materials, assemble, load_materials
from study.node_cache import SharedFile, fetch
from study.trial_store import TrialStore
from ude_core.assets import embeddings_file
from ude_core.cohorts.stored import read_cohort, write_columns
from ude_core.storage import sha256_file

Role = Literal["encoder", "surrogate"]
_ROLES: tuple[Role, ...] = ("encoder", "surrogate")


@dataclass(frozen=True, slots=True)
class Package:
    """The files a worker needs; every name holds the key of its content."""

    cohort: SharedFile
    pixels: SharedFile
    embeddings: tuple[SharedFile, ...]
    weights: tuple[tuple[Role, SharedFile], ...]

    @property
    def files(self) -> tuple[SharedFile, ...]:
        """All of them."""
        return (self.cohort, self.pixels, *self.embeddings, *(file for _, file in self.weights))


def pack(materials: Materials, config: StudyConfig, cache: Path) -> Package:
    """Describe a driver's materials, whose pixels and embeddings already lie in `cache`."""
    cohort = materials.cohort
    if not isinstance(cohort.images, np.memmap):
        raise TypeError(f"expected images mapped from a file, got {type(cohort.images).__name__}")
    pixels = Path(str(cohort.images.filename))
    tables = cache / "cohorts" / f"{cohort.fingerprint}.npz"
    if not tables.exists():
        write_columns(cohort, tables)
    return Package(
        cohort=SharedFile.of(tables, f"cohorts/{tables.name}"),
        pixels=SharedFile.of(pixels, f"pixels/{pixels.name}"),
        embeddings=tuple(
            SharedFile.of(path, f"embeddings/{path.name}") for path in _embeddings(materials, cache)
        ),
        weights=tuple(_weights(config)),
    )


def worker_materials(config: StudyConfig, package: Package | None, cache: Path) -> Materials:
    """Return what a worker works on, on whichever node it is; `cache` is the driver's."""
    if package is None:
        return load_materials(config, cache)
    here, url = node_cache(config), config.resources.trial_store
    if here is not None:
        fetch(package.files, here, TrialStore.open(url) if url is not None else None)
    return unpack(package, config, here)


def node_cache(config: StudyConfig) -> Path | None:
    """Return the folder on this node that keeps a study's data; None: the disk shared by all."""
    resources = config.resources
    if resources.node_cache is not None:
        return Path(resources.node_cache)
    if resources.trial_store is not None:
        return Path(tempfile.gettempdir()) / f"ude-study-{os.getuid()}"
    return None


def unpack(package: Package, config: StudyConfig, cache: Path | None) -> Materials:
    """Return the materials of a package: from a node's `cache`, or where the driver has them."""

    def place(file: SharedFile) -> Path:
        return Path(file.source) if cache is None else cache / file.name

    for role, file in package.weights:
        section = getattr(config, role).model_copy(update={"checkpoint": str(place(file))})
        config = config.model_copy(update={role: section})
    cohort = read_cohort(place(package.cohort), place(package.pixels))
    return assemble(config, cohort, place(package.embeddings[0]).parent.parent)


def _embeddings(materials: Materials, cache: Path) -> Iterator[Path]:
    cohort, assets, surrogate = materials.cohort, materials.assets, materials.surrogate
    yield embeddings_file(cohort, materials.encoder, assets.development, cache=cache)
    if surrogate is not None:
        yield embeddings_file(cohort, surrogate.encoder, surrogate.train, cache=cache)


def _weights(config: StudyConfig) -> Iterator[tuple[Role, SharedFile]]:
    for role in _ROLES:
        checkpoint = getattr(getattr(config, role), "checkpoint", None)
        if checkpoint is not None:
            path = Path(checkpoint)
            yield role, SharedFile.of(path, f"weights/{sha256_file(path)}{path.suffix}")
