"""Editing a folder of images, over a plain Pillow loop that only reads and writes them.

Images a second of `edit_path` divided by those of the loop, on the same 500 files: 1.0 is as fast
as doing nothing, and at least 0.8 is wanted. The loop reads a file, and writes it as PNG under
another name: one thread, no checks, no fsync. Ratios are of one round, and the median of the rounds
is told, since other work on the machine falls on both alike.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ude_core.bundle import Bundle
from ude_core.bundle_manifest import BundleFacts
from ude_core.cohorts.phantom import PhantomConfig, make_phantoms
from ude_core.edit_files import default_workers, edit_path
from ude_core.noise import make_basis, random_noise
from ude_core.seeding import torch_generator

IMAGES, SIZE, NORM, ROUNDS = 500, 224, 5.0, 3


def apply_speed() -> tuple[float, dict[str, Any]]:
    """Return the ratio, and what one thread and each kind of noise give."""
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch) / "in", Path(scratch) / "out"
        _write_images(source)
        smooth, rough = _bundle("low_frequency", 14), _bundle("pixel", 1)
        rounds = [
            (_timed(_plain, source, out), _timed(partial(edit_path, smooth), source, out))
            for _ in range(ROUNDS)
        ]
        alone = _timed(partial(edit_path, smooth, workers=1), source, out)
        pixel = _timed(partial(edit_path, rough), source, out)
    plain = min(one for one, _ in rounds)
    return statistics.median(one.wall / other.wall for one, other in rounds), {
        "plain Pillow, images a second": round(IMAGES / plain.wall, 1),
        "edit_path, images a second": round(IMAGES / min(other for _, other in rounds).wall, 1),
        "threads": default_workers(),
        "the same with one thread": round(plain.wall / alone.wall, 3),
        "the same with noise of the pixel basis": round(plain.wall / pixel.wall, 3),
        "processor time over plain Pillow's, one thread": round(alone.cpu / plain.cpu, 3),
        "images": IMAGES,
    }


class _Taken(NamedTuple):
    """Seconds by the clock, and of this process's threads together."""

    wall: float
    cpu: float


def _timed(work: Callable[[Path, Path], object], source: Path, out: Path) -> _Taken:
    out.mkdir()
    began, spent = time.perf_counter(), time.process_time()
    work(source, out)
    taken = _Taken(time.perf_counter() - began, time.process_time() - spent)
    shutil.rmtree(out)
    return taken


def _plain(source: Path, target: Path) -> None:
    for path in sorted(source.iterdir()):
        with Image.open(path) as image:
            image.save(target / path.name)


def _write_images(source: Path) -> None:
    source.mkdir()
    films = make_phantoms(PhantomConfig(patients=50, image_size=SIZE)).images
    for index in range(IMAGES):
        moved = np.roll(films[index % len(films)], index // len(films), axis=1)
        Image.fromarray(moved).save(source / f"{index:04}.png")


def _bundle(basis: Any, size: int) -> Bundle:
    rng = torch_generator(0, "apply speed", basis)
    noise = random_noise(make_basis(basis, SIZE, size), NORM, "normal", rng)
    facts = BundleFacts(
        study="benchmark",
        trial=0,
        disease="edema",
        policy="knee",
        stage="search",
        label="not compared",
        parameters={},
        encoder="none",
        encoder_fingerprint="0" * 64,
        pixels="deploy",
        image_size=SIZE,
        cohort="phantom",
        data_fingerprint="0" * 64,
        metrics={},
    )
    return Bundle(facts, noise)
