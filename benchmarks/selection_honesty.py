"""How often a study of pure noise ends with an improvement declared.

Images are random, labels and attribute are drawn apart from them: no noise can help, and the true
gaps of every head are 0. Each study scores candidate noises on validation draws with the engine,
takes the front of `study.pareto`, confirms it with the engine on the test split, and judges it with
`study.standing`. The figure is the share of studies, in percent, in which any point is confirmed;
the details say how often the validation front's best point would have been declared without that.
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
DISEASE = "edema"
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

    `confirmed`: some point of the front was. `searched` and `tested`: how much smaller the gap of
    the front's best point is than ERM's, percentage points, on validation and on the test split.
    """

    confirmed: bool
    searched: float
    tested: float
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
        labels={DISEASE: rng.integers(0, 2, PATIENTS)},
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
    front = compute_front(
        study="noise",
        disease=DISEASE,
        diseases=(DISEASE,),
        goals=GOALS,
        trials=trials,
        reference=reference,
    )
    # The best point is looked at even where its validation controls leave it out.
    best = front.best[0].trial
    worthy = worth_confirming({DISEASE: front})
    chosen = worthy | {best: (DISEASE,)}
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
    stand = standings(found.learnt, worthy)
    name = f"{DISEASE}/eo_gap"
    return Outcome(
        confirmed=any("confirmed" in by.values() for by in stand.values()),
        searched=_mean(reference[name]) - _mean(trials[best].metrics[name]),
        tested=_mean(found.erm[name]) - _mean(found.learnt[best][name]),
        points=len(worthy),
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
    return summary([study_of_noise(seed) for seed in range(STUDIES)])


def summary(outcomes: Sequence[Outcome]) -> tuple[float, dict[str, Any]]:
    """Return the benchmark's figure and details."""
    return _share([o.confirmed for o in outcomes]), {
        "studies": len(outcomes),
        "points confirmed a study, mean": _average([o.points for o in outcomes]),
        "validation's best has a smaller gap than ERM, percent": _share(
            [o.searched > 0 for o in outcomes]
        ),
        "the same noise on the test split, percent": _share([o.tested > 0 for o in outcomes]),
        "its gap under ERM's on validation, points": _average([o.searched for o in outcomes]),
        "its gap under ERM's on the test split, points": _average([o.tested for o in outcomes]),
    }


def _share(flags: Sequence[bool]) -> float:
    return round(100 * sum(flags) / len(flags), 2)


def _average(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 2)


def _mean(value: Measured) -> float:
    return value.mean if isinstance(value, Interval) else float("nan")
