"""What a worker holds and what a query costs, as the cohort grows.

`worker_memory`: the peak resident memory of a whole trial over that of encoder and one batch, in
units of the mapped size of the images. 1.1 is the most it may be: the images are mapped, never
copied. `cost_vs_size`: seconds a query of a whole trial on 50,000 phantom images over those on 500,
same settings; `details` give the memory that is the worker's own (not mapped files) at each size.

Every size runs in a process of its own, since a peak never goes down.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.candidate_vs_bare import random_encoder
from ude_core.assets import prepare
from ude_core.cohorts.base import Cohort
from ude_core.cohorts.phantom import PhantomConfig, make_phantoms
from ude_core.encoders.phantom_vit import load_phantom_vit
from ude_core.noise import to_pixels
from ude_core.runtime import prepare_process
from ude_core.seeding import numpy_generator
from ude_core.trial import run_trial
from ude_core.types import BiasConfig, HeadConfig, MethodConfig, ScoringConfig, SplitConfig

MEBIBYTE = 2**20
MAPPED_IMAGES, MAPPED_SIZE = 8000, 224
SIZES = (500, 5_000, 50_000)
SPLIT = SplitConfig()
BIAS = BiasConfig(train_per_group=40, validation_per_cell=10, test_per_cell=5)
HEAD = HeadConfig(learning_rate=0.01, weight_decay=0.05, epochs=50)
SCORING = ScoringConfig(repeats=2, bootstrap_draws=100, controls=0, disease_head=HEAD)


def worker_memory() -> tuple[float, dict[str, Any]]:
    """Measure a worker on 8,000 mapped images of 224 x 224 pixels through MobileNetV2."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "images.npy"
        rng = numpy_generator(0, "footprint")
        shape = (MAPPED_IMAGES, MAPPED_SIZE, MAPPED_SIZE)
        np.save(path, rng.integers(0, 256, shape, dtype=np.uint8))
        bare = _in_a_process(_one_batch, path)
        whole = _in_a_process(_whole_trial, path)
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
        measured = _in_a_process(_phantom_trial, images)
        seconds.append(measured["ms a query"])
        details[f"{images} images"] = measured
    return seconds[-1] / seconds[0], details


def _one_batch(path: Path) -> float:
    encoder = random_encoder("mobilenetv2_100")
    images = np.load(path, mmap_mode="r")
    with torch.inference_mode():
        encoder.encode(to_pixels(images[: encoder.batch_size]))
    return _status("VmHWM")


def _whole_trial(path: Path) -> float:
    encoder = random_encoder("mobilenetv2_100")
    images = np.load(path, mmap_mode="r")
    rng = numpy_generator(1, "footprint")
    cohort = Cohort(
        name="mapped",
        images=images,
        patients=np.arange(len(images)),
        attribute_name="sex",
        groups=("female", "male"),
        attribute=rng.integers(0, 2, len(images)),
        labels={f"disease_{i}": rng.integers(0, 2, len(images)) for i in range(3)},
        fingerprint="mapped",
    )
    cache = path.parent / "cache"
    assets = prepare(cohort, encoder, split=SPLIT, bias=BIAS, scoring=SCORING, seed=1, cache=cache)
    method = MethodConfig(local_iterations=2, samples=2, batch_size=32, epochs=1)
    run_trial(method, cohort, encoder, assets, seed=1)
    return _status("VmHWM")


def _phantom_trial(images: int) -> dict[str, float]:
    cohort, encoder = (
        make_phantoms(PhantomConfig(patients=images, images_per_patient=1, seed=5)),
        load_phantom_vit(),
    )
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "images.npy"
        np.save(path, cohort.images)
        cohort = replace(cohort, images=np.load(path, mmap_mode="r"))
        cache = Path(name) / "cache"
        assets = prepare(
            cohort, encoder, split=SPLIT, bias=BIAS, scoring=SCORING, seed=1, cache=cache
        )
        method = MethodConfig(local_iterations=5, samples=5, batch_size=32, epochs=4)
        run_trial(method, cohort, encoder, assets, seed=1)
        before, began = _status("RssAnon"), time.perf_counter()
        result = run_trial(method, cohort, encoder, assets, seed=1)
        elapsed = time.perf_counter() - began
    return {
        "ms a query": round(1000 * elapsed / result.queries.total, 3),
        "queries": result.queries.total,
        "own memory, MiB": round(before),
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
