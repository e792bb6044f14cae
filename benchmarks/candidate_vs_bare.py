"""GeZO's candidate evaluation against the encoder alone: images a second over images a second.

The bare figure is the forward pass on ready-made tensors at the evaluator's batch size; ours adds
gathering, the edit, clamping, quantising, the attribute head and Eq. 2. Weights do not matter for
speed, so both networks are randomly initialised. Pairs are interleaved and the median ratio kept.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from ude_core.encoders.timm_encoder import TimmEncoder
from ude_core.evaluator import LocalEvaluator
from ude_core.heads import LinearHeads
from ude_core.noise import make_basis, to_pixels
from ude_core.seeding import numpy_generator, torch_generator

SIZE, PAIRS = 224, 5


def mobilenetv2() -> tuple[float, dict[str, Any]]:
    return _ratio("mobilenetv2_100", samples=4, batch=32)


def vit_b16() -> tuple[float, dict[str, Any]]:
    return _ratio("vit_base_patch16_224", samples=2, batch=8)


def random_encoder(model: str) -> TimmEncoder:
    """Return the architecture with random weights, loaded as a checkpoint would be."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        torch.manual_seed(0)
        save_file(timm.create_model(model, num_classes=0).state_dict(), path)
        return TimmEncoder(model, path, image_size=SIZE)


def _ratio(model: str, *, samples: int, batch: int) -> tuple[float, dict[str, Any]]:
    encoder = random_encoder(model)
    rng = numpy_generator(0, "benchmark")
    images = rng.integers(0, 256, (4 * batch, SIZE, SIZE), dtype=np.uint8)
    evaluator = LocalEvaluator(
        encoder=encoder,
        attribute_head=LinearHeads(torch.zeros(1, encoder.embedding_dim, 2), torch.zeros(1, 2)),
        images=images,
        attribute=rng.integers(0, 2, len(images)),
        objective="cross_entropy",
        regularization=0.01,
        pixels="deploy",
    )
    noises = make_basis("pixel", SIZE, SIZE).perturbations(
        2 * samples, "normal", torch_generator(0)
    )
    minibatches = np.stack([rng.permutation(len(images))[:batch] for _ in range(samples)])
    count = 2 * samples * batch
    at_once = encoder.batch_size
    ready = to_pixels(images[:at_once])

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(count // at_once):
                encoder.encode(ready)

    def ours() -> None:
        evaluator.evaluate(0.01 * noises, minibatches)

    bare()
    ours()
    pairs = [(_seconds(bare), _seconds(ours)) for _ in range(PAIRS)]
    ratio = statistics.median(alone / whole for alone, whole in pairs)
    return ratio, {
        "images a call": count,
        "batch": at_once,
        "bare images a second": round(count / statistics.median(p[0] for p in pairs), 1),
        "candidate images a second": round(count / statistics.median(p[1] for p in pairs), 1),
        "ratios": [round(alone / whole, 3) for alone, whole in pairs],
    }


def _seconds(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
