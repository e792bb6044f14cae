"""What a worker holds and what a query costs, as the cohort grows.

`worker_memory`: the peak resident memory of a worker through a whole trial over that of encoder and
one batch, in units of the mapped size of the images. 1.1 is the most it may be: the images are
mapped, never copied. `cost_vs_size`: seconds a query of a whole trial, its scoring included, on 50,000
phantom images over those on 500, same settings; `details` give the worker's peak at each size, and
what of it is its own (not mapped files).

As in a study, one process prepares what all trials share and a worker finds it in the cache. Every
worker is a process of its own, since a peak never goes down.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.candidate_vs_bare import random_encoder
from ude_core.assets import StudyAssets, prepare
from ude_core.cohorts.base import Cohort
from ude_core.cohorts.phantom import PhantomConfig, make_phantoms
from ude_core.cohorts.stored import read_cohort, write_columns, write_pixels
from ude_core.encoders.base import Encoder
from ude_core.encoders.phantom_vit import load_phantom_vit
from ude_core.noise import to_pixels
from ude_core.runtime import prepare_process
from ude_core.seeding import numpy_generator
from ude_core.trial import run_trial
from ude_core.types import BiasConfig, HeadConfig, MethodConfig, ScoringConfig, SplitConfig

MEBIBYTE = 2**20
MAPPED_IMAGES, MAPPED_SIZE = 20_000, 224
SIZES = (500, 5_000, 50_000)
SPLIT = SplitConfig()
BIAS = BiasConfig(train_per_group=40, validation_per_cell=10, test_per_cell=5)
HEAD = HeadConfig(learning_rate=0.01, weight_decay=0.05, epochs=50)
SCORING = ScoringConfig(repeats=2, bootstrap_draws=100, controls=0, disease_head=HEAD)


METHOD = MethodConfig(local_iterations=5, samples=5, batch_size=32, epochs=4)
QUICK = MethodConfig(local_iterations=2, samples=2, batch_size=32, epochs=1)


def worker_memory() -> tuple[float, dict[str, Any]]:
    """Measure a worker on 20,000 mapped images of 224 x 224 pixels through MobileNetV2."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _in_a_process(_prepare_mapped, folder)
        bare = _in_a_process(_one_batch, folder)
        whole = _in_a_process(_mapped_trial, folder)
    mapped = MAPPED_IMAGES * MAPPED_SIZE**2 / MEBIBYTE
    return (whole - bare) / mapped, {
        "encoder and one batch, peak MiB": round(bare),
        "whole trial, peak MiB": round(whole),
        "images mapped, MiB": round(mapped),
    }


def cost_vs_size() -> tuple[float, dict[str, Any]]:
    """Measure one trial of the same settings on cohorts of 500, 5,000 and 50,000 phantoms."""
    seconds, details = [], {}
    for images in SIZES:
        with tempfile.TemporaryDirectory() as name:
            _in_a_process(_prepare_phantoms, (Path(name), images))
            measured = _in_a_process(_phantom_trial, Path(name))
        seconds.append(measured["ms a query"])
        details[f"{images} images"] = measured
    return seconds[-1] / seconds[0], details


def _assets(cohort: Cohort, encoder: Encoder, folder: Path) -> StudyAssets:
    return prepare(
        cohort,
        encoder,
        split=SPLIT,
        bias=BIAS,
        scoring=SCORING,
        seed=1,
        cache=folder / "cache",
    )


def _prepare_mapped(folder: Path) -> None:
    rng = numpy_generator(0, "footprint")
    shape = (MAPPED_IMAGES, MAPPED_SIZE, MAPPED_SIZE)
    np.save(folder / "images.npy", rng.integers(0, 256, shape, dtype=np.uint8))
    _assets(_mapped(folder), random_encoder("mobilenetv2_100"), folder)


def _mapped(folder: Path) -> Cohort:
    images = np.load(folder / "images.npy", mmap_mode="r")
    rng = numpy_generator(1, "footprint")
    return Cohort(
        name="mapped",
        images=images,
        patients=np.arange(len(images)),
        attribute_name="sex",
        groups=("female", "male"),
        attribute=rng.integers(0, 2, len(images)),
        labels={f"disease_{i}": rng.integers(0, 2, len(images)) for i in range(3)},
        fingerprint="mapped",
    )


def _one_batch(folder: Path) -> float:
    encoder = random_encoder("mobilenetv2_100")
    images = np.load(folder / "images.npy", mmap_mode="r")
    with torch.inference_mode():
        encoder.encode(to_pixels(images[: encoder.batch_size]))
    return _status("VmHWM")


def _mapped_trial(folder: Path) -> float:
    cohort, encoder = _mapped(folder), random_encoder("mobilenetv2_100")
    run_trial(QUICK, cohort, encoder, _assets(cohort, encoder, folder), seed=1)
    return _status("VmHWM")


def _prepare_phantoms(order: tuple[Path, int]) -> None:
    folder, images = order
    cohort = make_phantoms(PhantomConfig(patients=images, images_per_patient=1, seed=5))
    write_pixels(cohort, folder / "images.npy")
    write_columns(cohort, folder / "cohort.npz")
    _assets(read_cohort(*_files(folder)), load_phantom_vit(), folder)


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "cohort.npz", folder / "images.npy"


def _phantom_trial(folder: Path) -> dict[str, float]:
    cohort, encoder = read_cohort(*_files(folder)), load_phantom_vit()
    assets = _assets(cohort, encoder, folder)
    began = time.perf_counter()
    result = run_trial(METHOD, cohort, encoder, assets, seed=1)
    elapsed = time.perf_counter() - began
    return {
        "ms a query": round(1000 * elapsed / result.queries.total, 3),
        "queries": result.queries.total,
        "worker's peak, MiB": round(_status("VmHWM")),
        "of it its own, MiB": round(_status("RssAnon")),
    }


def _status(field: str) -> float:
    """Return a line of /proc/self/status, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _in_a_process(measure: Callable[[Any], Any], argument: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1, initializer=prepare_process) as pool:
        return pool.apply(measure, (argument,))
