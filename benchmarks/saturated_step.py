"""A white-box step whose attribute head is saturated, over one whose is not.

A saturated softmax sends denormal gradients back. Where the processor handles denormals in
microcode, a process that does not flush them pays many times the step; `prepare_process` flushes
them. The details say what not flushing costs on this processor, which may be nothing.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from benchmarks.candidate_vs_bare import SIZE, random_encoder
from ude_core.evaluator import LocalEvaluator
from ude_core.heads import LinearHeads
from ude_core.noise import zero_noise
from ude_core.seeding import numpy_generator, torch_generator

PAIRS, BATCH = 7, 8


def saturated_step() -> tuple[float, dict[str, Any]]:
    encoder = random_encoder("mobilenetv2_100")
    rng = numpy_generator(0, "benchmark")
    images = rng.integers(0, 256, (BATCH, SIZE, SIZE), dtype=np.uint8)
    weight = torch.randn(1, encoder.embedding_dim, 2, generator=torch_generator(0))

    def step(scale: float, offset: float) -> float:
        head = LinearHeads(weight * scale, torch.tensor([[offset, -offset]]))
        evaluator = LocalEvaluator(
            encoder=encoder,
            attribute_head=head,
            images=images,
            attribute=np.zeros(BATCH, dtype=np.int64),
            objective="cross_entropy",
            regularization=0.0,
            pixels="deploy",
        )
        began = time.perf_counter()
        evaluator.gradient(zero_noise(SIZE), np.arange(BATCH))
        return time.perf_counter() - began

    # A margin of 92 nats: softmax's residual is about 1e-40, below the smallest normal float32.
    saturated, plain = (1e-3, 46.0), (1e-3, 0.0)
    step(*plain)
    pairs = [(step(*saturated), step(*plain)) for _ in range(PAIRS)]
    flushed = statistics.median(a / b for a, b in pairs)
    torch.set_flush_denormal(False)
    unflushed = statistics.median(step(*saturated) / step(*plain) for _ in range(3))
    torch.set_flush_denormal(True)
    return flushed, {
        "seconds a step": round(statistics.median(b for _, b in pairs), 4),
        "the same ratio without flushing": round(unflushed, 2),
    }
