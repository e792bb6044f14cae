"""The batch an encoder is fastest at on this machine: measured once a machine kind, then kept.

Another batch size may round differently, so it is part of reproducibility: the choice lies beside
the cached embeddings, and every later process of the same machine kind reads it instead.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from ude_core.batching import is_out_of_memory
from ude_core.encoders.base import Encoder
from ude_core.storage import digest, write_once

SCHEMA_VERSION = 1
SMALLEST = {"cpu": 1, "cuda": 16}
LARGEST = {"cpu": 64, "cuda": 2048}
SECONDS = 0.3
"""How long a size is measured for at least, and never under three passes."""
SETTLED = 0.9
"""Two sizes in a row under this share of the best speed end the search: larger ones gain nothing."""
SAME = 0.98
"""The smallest batch of this share of the best speed is taken: it leaves memory and splits finer."""


class TunableEncoder(Encoder, Protocol):
    """An encoder whose batch may be chosen; `execution` names how it is run otherwise."""

    @property
    def execution(self) -> str: ...

    @property
    def batch_size(self) -> int: ...

    @batch_size.setter
    def batch_size(self, value: int) -> None: ...


def choose_batch(encoder: TunableEncoder, folder: Path) -> int:
    """Set and return the encoder's batch size: the one kept in `folder`, or measured and kept there.

    Where two processes measure at the same time, the first to write decides for both.
    """
    machine = machine_kind(encoder.device)
    key = digest("batch", machine, encoder.fingerprint, encoder.execution, encoder.image_size)
    path = folder / f"{key}.json"
    if not path.exists():
        speeds = measure_speeds(encoder)
        content = {
            "schema_version": SCHEMA_VERSION,
            "batch_size": fastest(speeds),
            "images_per_second": {str(size): round(speed, 3) for size, speed in speeds.items()},
            "machine": machine,
            "encoder": encoder.name,
            "execution": encoder.execution,
        }
        write_once(path, json.dumps(content, indent=2).encode())
    encoder.batch_size = int(json.loads(path.read_text(encoding="utf-8"))["batch_size"])
    return encoder.batch_size


def measure_speeds(
    encoder: TunableEncoder, clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """Return images a second over powers of two, up to what memory allows or speed still rewards.

    The encoder's batch size is as it was afterwards. Raises RuntimeError or MemoryError where not
    even the smallest fits.
    """
    kind, before = encoder.device.type, encoder.batch_size
    speeds: dict[int, float] = {}
    size = SMALLEST.get(kind, 1)
    try:
        while size <= LARGEST.get(kind, 256) and not _settled(list(speeds.values())):
            encoder.batch_size = size
            torch.compiler.reset()  # a compiled encoder keeps few shapes; each size is one
            try:
                speeds[size] = _speed(encoder, size, clock)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not speeds:
                    raise
                break
            size *= 2
    finally:
        encoder.batch_size = before
        if kind == "cuda":
            torch.cuda.empty_cache()
    return speeds


def fastest(speeds: dict[int, float]) -> int:
    """Return the smallest batch within two percent of the best.

    >>> fastest({1: 50.0, 2: 80.0, 4: 99.0, 8: 100.0, 16: 70.0})
    4
    """
    best = max(speeds.values())
    return min(size for size, speed in speeds.items() if speed >= SAME * best)


def machine_kind(device: torch.device) -> dict[str, str | int]:
    """Return what decides the speed of a pass, and its rounding: processor, threads, torch."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        memory = torch.cuda.get_device_properties(device).total_memory
        return {"device": name, "memory": memory, "torch": torch.__version__}
    return {
        "device": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


@torch.inference_mode()
def _speed(encoder: Encoder, size: int, clock: Callable[[], float]) -> float:
    """Return images a second, the median of several passes after a first one that is not counted."""
    pixels = torch.rand(
        size, 1, encoder.image_size, encoder.image_size, generator=torch.Generator().manual_seed(0)
    ).to(encoder.device)
    seconds: list[float] = []
    encoder.encode(pixels)
    while len(seconds) < 3 or math.fsum(seconds) < SECONDS:
        _wait(encoder.device)
        began = clock()
        encoder.encode(pixels)
        _wait(encoder.device)
        seconds.append(clock() - began)
    return size / sorted(seconds)[len(seconds) // 2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _settled(speeds: list[float]) -> bool:
    return len(speeds) > 2 and max(speeds[-2:]) < SETTLED * max(speeds)
