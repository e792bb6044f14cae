"""How often a study of pure noise ends with an improvement declared.

Images are random, labels and attribute are drawn apart from them: no noise can help, and the true
gaps of every head are 0. Each study scores candidate noises on validation draws with the engine,
takes the front of `study.pareto`, confirms it with the engine on the test split, and judges it with
`study.standing`. The figure is the share of studies, in percent, in which any point is confirmed;
the details say how often the best point of the validation front would have been declared without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from study.confirm import worth_confirming
from study.pareto import compute_front, goals_of
from study.records import TrialRecord
from study.standing import standings
from ude_core.assets import prepare
from ude_core.cohorts.base import Cohort
from ude_core.confirmation import confirm_noises
from ude_core.noise import make_basis, random_noise
from ude_core.scoring import score_noise, score_reference
from ude_core.seeding import derive_seed, numpy_generator, torch_generator
from ude_core.types import (
    BiasConfig,
    Embeddings,
    HeadConfig,
    Interval,
    Measured,
    MethodConfig,
    Noise,
    Pixels,
    ScoringConfig,
    SplitConfig,
)

STUDIES, CANDIDATES = 200, 8
DISEASES = ("pleural_effusion", "edema")
SIZE, DIM, PATIENTS = 8, 16, 900
GOALS = goals_of(
    [
        ("eo_gap", "minimize"),
        ("selection_rate_symmetric_gap", "minimize"),
        ("accuracy", "maximize"),
    ]
)
_METHOD = MethodConfig()
_HEAD = HeadConfig(learning_rate=0.1, epochs=8, batch_size=256, standardize=True)
_SCORING = ScoringConfig(
    repeats=4, bootstrap_draws=200, controls=1, disease_head=_HEAD, attribute_head=_HEAD
)
_BIAS = BiasConfig(train_per_group=100, validation_per_cell=30, test_per_cell=40)
_CONFIRM_REPEATS, _CONFIRM_CONTROLS = 4, 20


class RandomFeatures:
    """A fast frozen encoder: tanh of random projections of the pixels. Knows nothing of labels."""

    image_size = SIZE
    embedding_dim = DIM
    differentiable = False
    device = torch.device("cpu")
    name = "random features"
    batch_size = 1024

    def __init__(self, seed: int) -> None:
        rng = torch_generator(seed, "random features")
        self.weight = torch.randn(SIZE * SIZE, DIM, generator=rng) / SIZE
        self.fingerprint = f"random-features-{seed}"

    def encode(self, pixels: Pixels) -> Embeddings:
        """Return the embeddings of the images."""
        return torch.tanh(4 * (pixels.flatten(1) - 0.5) @ self.weight)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one study of noise ended.

    `confirmed`: some point of some front. `smaller`: on some disease the front's best point has a
    smaller validation gap than ERM. `apart`: its 95 % interval lies under ERM's mean.
    """

    confirmed: bool
    smaller: bool
    apart: bool
    points: int


def noise_cohort(seed: int) -> Cohort:
    """Return images, labels and an attribute that know nothing of each other."""
    rng = numpy_generator(seed, "pure noise")
    return Cohort(
        name="pure noise",
        images=rng.integers(0, 256, (PATIENTS, SIZE, SIZE), dtype=np.uint8),
        patients=np.arange(PATIENTS),
        attribute_name="sex",
        groups=("female", "male"),
        attribute=rng.integers(0, 2, PATIENTS),
        labels={disease: rng.integers(0, 2, PATIENTS) for disease in DISEASES},
        fingerprint=f"noise-{seed}",
    )


def study_of_noise(seed: int) -> Outcome:
    """Run one study on a cohort without anything to find."""
    cohort, encoder = noise_cohort(seed), RandomFeatures(seed)
    assets = prepare(cohort, encoder, split=SplitConfig(), bias=_BIAS, scoring=_SCORING, seed=seed)
    reference = score_reference(cohort, assets)
    noises = candidate_noises(seed)
    trials = []
    for number, noise in enumerate(noises):
        own = derive_seed(seed, "trial", number)
        metrics = score_noise(noise, _METHOD, cohort, encoder, assets, seed=own).metrics
        trials.append(TrialRecord(number, "complete", {}, own, metrics))
    fronts = {
        disease: compute_front(
            study="noise",
            disease=disease,
            diseases=DISEASES,
            goals=GOALS,
            trials=trials,
            reference=reference,
        )
        for disease in DISEASES
    }
    chosen = worth_confirming(fronts)
    found = confirm_noises(
        {number: noises[number] for number in chosen},
        dict.fromkeys(chosen, _METHOD),
        cohort,
        encoder,
        assets,
        repeats=_CONFIRM_REPEATS,
        controls=_CONFIRM_CONTROLS,
        seed=derive_seed(seed, "confirm"),
    )
    stand = standings(found.learnt, chosen)
    best = [(front.best[0].metrics["eo_gap"], front.erm["eo_gap"]) for front in fronts.values()]
    return Outcome(
        confirmed=any("confirmed" in by.values() for by in stand.values()),
        smaller=any(_mean(ours) < _mean(erm) for ours, erm in best),
        apart=any(_high(ours) < _mean(erm) for ours, erm in best),
        points=sum(map(len, chosen.values())),
    )


def candidate_noises(seed: int) -> Sequence[Noise]:
    """Return what the study tries: random noises of several norms."""
    basis = make_basis("pixel", SIZE, 1)
    norms = np.linspace(0.5, 4.0, CANDIDATES)
    return [
        random_noise(basis, float(norm), "normal", torch_generator(seed, "candidate", index))
        for index, norm in enumerate(norms)
    ]


def selection_honesty() -> tuple[float, dict[str, Any]]:
    outcomes = [study_of_noise(seed) for seed in range(STUDIES)]
    return share([o.confirmed for o in outcomes]), {
        "studies": STUDIES,
        "points confirmed a study, mean": round(float(np.mean([o.points for o in outcomes])), 2),
        "declared by the validation front's best, smaller gap than ERM, percent": share(
            [o.smaller for o in outcomes]
        ),
        "declared by the validation front's best, interval under ERM's gap, percent": share(
            [o.apart for o in outcomes]
        ),
    }


def share(flags: Sequence[bool]) -> float:
    """Return the share of true ones, in percent."""
    return round(100 * sum(flags) / len(flags), 2)


def _mean(value: Measured) -> float:
    return value.mean if isinstance(value, Interval) else float("nan")


def _high(value: Measured) -> float:
    return value.high if isinstance(value, Interval) else float("nan")
