"""The words every other module speaks: shapes, measured values, settings of a trial, and its result.

Nothing here computes. Values are frozen, travel forward only, and say their shape and unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor

Noise = Float[Tensor, "1 height width"]
"""The universal edit ε, in pixel units ([0, 1] scale), broadcast over channels."""

NoiseBatch = Float[Tensor, "candidates 1 height width"]
Pixels = Float[Tensor, "images 1 height width"]
"""Images in pixel units; un-clamped where the edit pushed them outside [0, 1]."""

Embeddings = Float[Tensor, "images dim"]
Losses = Float[Tensor, " candidates"]
ImageArray = UInt8[np.ndarray, "images height width"]
Indices = Int[np.ndarray, " chosen"]


@dataclass(frozen=True, slots=True)
class Undefined:
    """A metric that has no value, and why: an empty cell or a zero denominator. Never 0.0."""

    reason: str


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval. Percentage points unless the metric's name says otherwise."""

    mean: float
    low: float
    high: float


Measured = Interval | Undefined
Metrics = dict[str, Measured]


def exactly(value: float) -> Interval:
    """Return a value known without sampling error as an interval of no width."""
    return Interval(value, value, value)


PixelPipeline = Literal["paper", "deploy"]
NEEDS_SURROGATE = ("guided", "jacobian", "distilled")
"""The methods that an open encoder guides (`surrogate`)."""

BatchMode = Literal["per_perturbation", "per_iteration"]
Perturbation = Literal["normal", "rademacher"]
BasisName = Literal["pixel", "low_frequency", "grid", "patch", "tile"]
ObjectiveName = Literal["cross_entropy", "confusion", "one_group"]
Precision = Literal["float32", "bfloat16"]
"""Of an encoder's arithmetic; pixels in and embeddings out are float32 either way."""

LearntMethod = Literal[
    "gezo",
    "spsa",
    "zo_sgd",
    "antithetic_adam",
    "guided",
    "jacobian",
    "cma_es",
    "distilled",
    "whitebox",
]
"""The paper's are gezo and whitebox; the others stand beside them for comparison (`optimizers`)."""

BaselineName = Literal["erm", "random_noise", "batch_sampling", "group_dro", "bias_adv", "sketch"]
"""What learns no noise and is scored as a trial all the same (`baselines`)."""

MethodName = Literal[LearntMethod, BaselineName]
Balance = Literal["attribute", "attribute_and_label"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodConfig:
    """How one noise is learnt, or what is done in place of it. The defaults are the paper's.

    A method reads its own settings and leaves the others alone (`baselines.registry.settings_read`).

    `queries` fixes what a trial may spend on learning the noise; the epochs then follow from it.
    `target_auc_band` (ours) ends a trial early, once the frozen attribute AUC is within so many
    points of 50; see `learner.plan` for what watching it costs.
    """

    name: MethodName = "gezo"
    regularization: float = 0.01  # λ, Eq. 2
    local_iterations: int = 10  # R
    step_size: float = 0.01  # s
    momentum: float = 0.9  # μ
    samples: int = 10  # C
    step_decay: float = 0.95  # k
    batch_size: int = 128  # B
    epochs: int = 50
    queries: int | None = None
    max_norm: float | None = None  # th, Eq. 1
    batch: BatchMode = "per_perturbation"
    perturbation: Perturbation = "normal"
    basis: BasisName = "pixel"
    basis_size: int = 14
    objective: ObjectiveName = "cross_entropy"
    target_group: int = 0  # one_group: which of the cohort's groups every image is to look like
    carry_state: bool = False
    learning_rate: float = (
        0.01  # of every method but gezo and cma_es; distilled, jacobian: a step's RMS a pixel
    )
    prior_weight: float = 0.5  # guided: share of each direction's square that is the prior's
    surrogate_images: int = 128  # guided: training images that a gradient of the prior is over
    direction_images: int = 1  # jacobian: training images that a direction is over
    skip_gradient: float = 1.0  # jacobian: γ, of a gradient, what a residual branch keeps
    student_rate: float = 1e-4  # distilled: learning rate of the student's network
    student_lessons: int = 24  # distilled: minibatches of 16 a round
    climb_steps: int = 16  # distilled: steps of ε a round
    target_auc_band: float | None = None  # percentage points
    pixels: PixelPipeline = "paper"
    balance: Balance = "attribute"  # batch_sampling: what every minibatch has equal shares of
    group_step: float = 0.01  # group_dro: η
    held_out: float = 0.2  # group_dro: share of a draw's training patients that chooses the epoch
    bias_power: float = 0.7  # bias_adv: q of the biased head's generalised cross-entropy
    attack_radius: float = 8 / 255  # bias_adv: L∞ ball, pixel units
    attack_step: float = 2 / 255  # bias_adv
    attack_steps: int = 10  # bias_adv
    attack_every: int = 10  # bias_adv: epochs from one attack to the next
    attack_weight: float = 2.0  # bias_adv: λ of the attack, of the debiased head's loss
    adversarial_weight: float = 0.4  # bias_adv: β, of the attacked images' loss
    sketch_blur: float = 0.03  # sketch: standard deviation of its blur, as a share of the side


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """How a linear head on cached embeddings is trained (section 3.2)."""

    learning_rate: float
    weight_decay: float = 0.0
    epochs: int = 50
    batch_size: int = 128
    init_std: float = 2e-5
    standardize: bool = False  # centre and scale embeddings by the head's own training rows first


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasConfig:
    """How strongly a disease is tied to the attribute in training, and how large evaluation cells are.

    Each attribute group contributes `train_per_group` images; the favoured group has a positive rate
    of 0.5 + gap/2, every other group 0.5 - gap/2. `gap` 0 is an unbiased training set.
    `per_disease` holds what differs for some disease, by the names of the fields above (Table 1 has
    cells of 200 for two diseases and of 100 for the third).
    """

    gap: float = 0.675
    favoured: str = "female"
    train_per_group: int = 80
    validation_per_cell: int = 20
    test_per_cell: int = 25
    per_disease: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, disease: str) -> BiasConfig:
        """Return the settings of one disease.

        >>> BiasConfig(per_disease={"pneumonia": {"test_per_cell": 10}}).of("pneumonia").test_per_cell
        10
        """
        return replace(self, per_disease={}, **self.per_disease.get(disease, {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """Shares of PATIENTS held for validation and for the test split; the rest train the noise."""

    validation: float = 0.25
    test: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringConfig:
    """How a noise is scored: draws, heads, intervals, and norm-matched random controls.

    What an embedding tells of the attribute is measured on at most `probe_images` of the training
    patients' images and as many of the validation patients'.
    """

    repeats: int = 10
    probe_images: int = 4000
    bootstrap_draws: int = 500
    controls: int = 2
    disease_head: HeadConfig = field(
        default_factory=lambda: HeadConfig(learning_rate=1.25e-4, weight_decay=0.05)
    )
    attribute_head: HeadConfig = field(default_factory=lambda: HeadConfig(learning_rate=1e-4))


@dataclass(frozen=True, slots=True)
class QueryCount:
    """Images passed once through the encoder, by what they were spent on.

    `attribute` are the clean images that the attribute head and ERM learn from. A study pays for
    them once (`StudyAssets.queries`), so a trial's own count of them is 0. `scoring` is embedding
    for scores, and what training heads takes (bias_adv's attacks).
    `surrogate` counts passes through an open surrogate encoder (`guided`), which nobody charges
    for: they are told apart and never part of `total`. Its head is a study's (`Surrogate.preparation`).
    """

    attribute: int = 0
    noise: int = 0
    scoring: int = 0
    surrogate: int = 0

    @property
    def total(self) -> int:
        return self.attribute + self.noise + self.scoring


@dataclass(frozen=True, slots=True)
class Progress:
    """What a running trial says at the end of an epoch; `epoch` counts from 1."""

    epoch: int
    epochs: int
    loss: float  # Eq. 2 (or its variant) of the last accepted step, nats
    attribute_cross_entropy: float  # of the current noise on held-out images, nats
    noise_l2: float
    step_size: float
    queries: int  # spent on learning the noise so far
    seconds: float


Outcome = Literal["improved", "no_improvement", "diverged", "not_learnt"]
"""How learning ended; `not_learnt` of a method that learns no noise."""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """One trial's noise and everything measured of it. Metric names are those of the contract.

    The noise of a method that has none is 0 everywhere.
    """

    noise: Noise
    metrics: Mapping[str, Measured]
    curve: tuple[Progress, ...]
    queries: QueryCount
    outcome: Outcome
    note: str = ""


Report = Callable[[Progress], None]
