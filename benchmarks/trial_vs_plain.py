"""A whole trial against the way it is usually written, same encoder, cohort, budget and draws.

The plain way: JPEG files decoded anew for every minibatch, one candidate through the encoder at a
time, each disease head trained through the encoder for all its epochs, ERM recomputed by every
trial. Its head training is measured for a few minibatches and multiplied out, which is said in the
details; everything else of it is run in full.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ude_core.assets import StudyAssets, prepare
from ude_core.cohorts.base import Cohort
from ude_core.cohorts.phantom import PhantomConfig, make_phantoms
from ude_core.encoders.base import Encoder
from ude_core.encoders.phantom_vit import load_phantom_vit
from ude_core.noise import make_basis, noise_l2
from ude_core.seeding import numpy_generator, torch_generator
from ude_core.trial import run_trial
from ude_core.types import BiasConfig, HeadConfig, MethodConfig, ScoringConfig, SplitConfig

METHOD = MethodConfig(
    local_iterations=5, samples=5, batch_size=32, epochs=2, basis="grid", basis_size=4
)
BIAS = BiasConfig(train_per_group=60, validation_per_cell=20, test_per_cell=20)
HEAD = HeadConfig(learning_rate=0.01, weight_decay=0.05, epochs=50)
SCORING = ScoringConfig(repeats=5, bootstrap_draws=200, controls=0, disease_head=HEAD)
MEASURED_BATCHES = 10


def trial_vs_plain() -> tuple[float, dict[str, Any]]:
    cohort = make_phantoms(PhantomConfig(patients=400, seed=3))
    encoder = load_phantom_vit()
    assets = prepare(cohort, encoder, split=SplitConfig(), bias=BIAS, scoring=SCORING, seed=1)
    run_trial(METHOD, cohort, encoder, assets, seed=1)
    began = time.perf_counter()
    run_trial(METHOD, cohort, encoder, assets, seed=1)
    ours = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        noise_seconds = _plain_noise(cohort, encoder, assets, Path(folder))
        batch_seconds, batches = _plain_heads(cohort, encoder, assets, Path(folder))
    # Heads for every disease and repeat, on the edited images and again for ERM.
    head_seconds = 2 * batch_seconds * batches
    plain = noise_seconds + head_seconds
    return plain / ours, {
        "ours, seconds": round(ours, 2),
        "plain noise, seconds": round(noise_seconds, 2),
        "plain heads, seconds": round(head_seconds, 2),
        "plain heads extrapolated from batches": MEASURED_BATCHES,
        "plain head batches in a trial": 2 * batches,
    }


def _decode(folder: Path, rows: np.ndarray) -> torch.Tensor:
    images = []
    for row in rows:
        path = folder / f"{row}.jpg"
        with Image.open(path) as image:
            images.append(np.asarray(image, dtype=np.float32) / 255)
    return torch.from_numpy(np.stack(images))[:, None]


@torch.no_grad()
def _plain_noise(cohort: Cohort, encoder: Encoder, assets: StudyAssets, folder: Path) -> float:
    for row, pixels in enumerate(cohort.images):
        Image.fromarray(pixels).save(folder / f"{row}.jpg", quality=95)
    rng, rows = torch_generator(1), numpy_generator(1, "plain")
    basis = make_basis(METHOD.basis, cohort.image_size, METHOD.basis_size)
    noise = torch.zeros(1, cohort.image_size, cohort.image_size)
    head, train = assets.attribute_head, assets.split.train
    began = time.perf_counter()
    for _ in range(METHOD.epochs):
        velocity, step, best = torch.zeros_like(noise), METHOD.step_size, float("inf")
        for _ in range(METHOD.local_iterations):
            chosen = None
            for _ in range(METHOD.samples):
                delta = basis.perturbations(1, "normal", rng)[0] * step
                minibatch = rows.permutation(train)[: METHOD.batch_size]
                for sign in (-1.0, 1.0):
                    candidate = noise + sign * delta
                    logits = head.logits(encoder.encode(_decode(folder, minibatch) + candidate))[0]
                    truth = torch.as_tensor(cohort.attribute[minibatch])
                    entropy = torch.nn.functional.cross_entropy(logits, truth)
                    loss = float(METHOD.regularization * noise_l2(candidate) - entropy)
                    if loss < best:
                        best, chosen = loss, sign * delta
            if chosen is None:
                step *= METHOD.step_decay
            else:
                velocity = METHOD.momentum * velocity + chosen
                noise = noise + velocity
    return time.perf_counter() - began


def _plain_heads(
    cohort: Cohort, encoder: Encoder, assets: StudyAssets, folder: Path
) -> tuple[float, int]:
    """Return seconds a minibatch of training a head through the encoder, and how many there are."""
    draws = [draw for some in assets.draws.values() for draw in some]
    batches = sum(-(-len(draw.train) // HEAD.batch_size) for draw in draws) * HEAD.epochs
    head = torch.nn.Linear(encoder.embedding_dim, 2)
    optimizer = torch.optim.AdamW(head.parameters(), lr=HEAD.learning_rate)
    disease = cohort.diseases[0]
    train = assets.draws[disease][0].train
    size = len(train) // -(-len(train) // HEAD.batch_size)  # the mean minibatch
    began = time.perf_counter()
    for index in range(MEASURED_BATCHES):
        rows = numpy_generator(index, "plain head").permutation(train)[:size]
        with torch.no_grad():
            embeddings = encoder.encode(_decode(folder, rows))
        loss = torch.nn.functional.cross_entropy(
            head(embeddings), torch.as_tensor(cohort.labels[disease][rows])
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return (time.perf_counter() - began) / MEASURED_BATCHES, batches
