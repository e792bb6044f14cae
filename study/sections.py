"""The sections of a study's configuration: plain frozen values, checked against their ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from study.ranges import complaint
from ude_core.types import (
    Balance,
    BasisName,
    BatchMode,
    BiasConfig,
    HeadConfig,
    MethodConfig,
    MethodName,
    ObjectiveName,
    Perturbation,
    PixelPipeline,
    ScoringConfig,
    SplitConfig,
)

_METHOD = MethodConfig()
_BIAS = BiasConfig()
_SPLIT = SplitConfig()
_SCORING = ScoringConfig()

Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen section: unknown keys, wrong types and non-finite numbers are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True
    )


class MethodSection(Section):
    """The method, and every parameter of it that is not searched. Words; the paper's letters.

    A method leaves the parameters of others unread (`ude_core.baselines.registry.settings_read`).
    """

    name: MethodName = _METHOD.name
    regularization: float = _METHOD.regularization  # λ
    local_iterations: int = _METHOD.local_iterations  # R
    step_size: float = _METHOD.step_size  # s
    momentum: float = _METHOD.momentum  # μ
    samples: int = _METHOD.samples  # C
    step_decay: float = _METHOD.step_decay  # k
    batch_size: int = _METHOD.batch_size  # B
    epochs: int = _METHOD.epochs
    max_norm: float | None = _METHOD.max_norm  # th
    batch: BatchMode = _METHOD.batch
    perturbation: Perturbation = _METHOD.perturbation
    basis: BasisName = _METHOD.basis
    basis_size: int = _METHOD.basis_size
    objective: ObjectiveName = _METHOD.objective
    carry_state: bool = _METHOD.carry_state
    learning_rate: float = _METHOD.learning_rate
    prior_weight: float = _METHOD.prior_weight
    surrogate_images: int = _METHOD.surrogate_images
    direction_images: int = _METHOD.direction_images
    skip_gradient: float = _METHOD.skip_gradient  # γ
    student_rate: float = _METHOD.student_rate
    student_lessons: int = _METHOD.student_lessons
    climb_steps: int = _METHOD.climb_steps
    target_group: int = _METHOD.target_group
    target_auc_band: float | None = _METHOD.target_auc_band
    pixels: PixelPipeline = _METHOD.pixels
    balance: Balance = _METHOD.balance
    group_step: float = _METHOD.group_step  # η of group DRO
    held_out: float = _METHOD.held_out
    bias_power: float = _METHOD.bias_power  # q of BiasAdv
    attack_radius: float = _METHOD.attack_radius
    attack_step: float = _METHOD.attack_step
    attack_steps: int = _METHOD.attack_steps
    attack_every: int = _METHOD.attack_every
    attack_weight: float = _METHOD.attack_weight  # λ of BiasAdv
    adversarial_weight: float = _METHOD.adversarial_weight  # β of BiasAdv
    sketch_blur: float = _METHOD.sketch_blur

    @field_validator("*")
    @classmethod
    def _in_range(cls, value: Any, info: Any) -> Any:
        wrong = complaint(info.field_name, value)
        if wrong:
            raise ValueError(wrong)
        return value

    def to_engine(
        self, parameters: Mapping[str, Any] | None = None, *, queries: int | None = None
    ) -> MethodConfig:
        """Return the engine's setting, with `parameters` in place of this section's values."""
        return MethodConfig(**{**self.model_dump(), **(parameters or {})}, queries=queries)


class HeadSection(Section):
    """How a linear head on cached embeddings is trained."""

    learning_rate: Positive
    weight_decay: NotNegative = 0.0
    epochs: Count = 50
    batch_size: Count = 128
    init_std: NotNegative = 2e-5
    standardize: bool = False

    def to_engine(self) -> HeadConfig:
        """Return the engine's setting."""
        return HeadConfig(**self.model_dump())


def _head(head: HeadConfig) -> HeadSection:
    return HeadSection(
        learning_rate=head.learning_rate,
        weight_decay=head.weight_decay,
        epochs=head.epochs,
        batch_size=head.batch_size,
        init_std=head.init_std,
        standardize=head.standardize,
    )


class ScoringSection(Section):
    """How a noise is scored."""

    repeats: Count = _SCORING.repeats
    probe_images: Annotated[int, Field(ge=2)] = _SCORING.probe_images
    bootstrap_draws: Count = _SCORING.bootstrap_draws
    controls: Annotated[int, Field(ge=0)] = _SCORING.controls
    disease_head: HeadSection = Field(default_factory=lambda: _head(_SCORING.disease_head))
    attribute_head: HeadSection = Field(default_factory=lambda: _head(_SCORING.attribute_head))

    def to_engine(self) -> ScoringConfig:
        """Return the engine's setting."""
        return ScoringConfig(
            repeats=self.repeats,
            probe_images=self.probe_images,
            bootstrap_draws=self.bootstrap_draws,
            controls=self.controls,
            disease_head=self.disease_head.to_engine(),
            attribute_head=self.attribute_head.to_engine(),
        )


class DiseaseBias(Section):
    """What differs for one disease; null stays as it is for all."""

    gap: Annotated[float, Field(ge=0, le=1)] | None = None
    favoured: Annotated[str, Field(min_length=1)] | None = None
    train_per_group: Annotated[int, Field(ge=2)] | None = None
    validation_per_cell: Count | None = None
    test_per_cell: Count | None = None


class BiasSection(Section):
    """How strongly each disease is tied to the attribute in training."""

    gap: Annotated[float, Field(ge=0, le=1)] = _BIAS.gap
    favoured: Annotated[str, Field(min_length=1)] = _BIAS.favoured
    train_per_group: Annotated[int, Field(ge=2)] = _BIAS.train_per_group
    validation_per_cell: Count = _BIAS.validation_per_cell
    test_per_cell: Count = _BIAS.test_per_cell
    per_disease: dict[Slug, DiseaseBias] = Field(default_factory=dict)

    def to_engine(self) -> BiasConfig:
        """Return the engine's setting."""
        given = self.model_dump()
        given["per_disease"] = {
            disease: {name: value for name, value in own.items() if value is not None}
            for disease, own in given["per_disease"].items()
        }
        return BiasConfig(**given)


class SplitSection(Section):
    """Shares of patients held for validation and test; the rest train the noise.

    A cohort with a published test split keeps it: the other patients then validate and train in the
    proportion of `validation` to what remains.
    """

    validation: Share = _SPLIT.validation
    test: Share = _SPLIT.test

    @model_validator(mode="after")
    def _leaves_training(self) -> SplitSection:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation + test is {self.validation + self.test:g} (expected under 1); "
                "the rest trains the noise"
            )
        return self

    def to_engine(self) -> SplitConfig:
        """Return the engine's setting."""
        return SplitConfig(**self.model_dump())


class Budget(Section):
    """What the study may spend: trials, queries a trial on learning its noise, and queries in all.

    `queries` counts every image through the encoder, preparation and scoring too. A trial whose
    plan does not fit into what is left is not begun; raising it continues the study.
    """

    trials: Count = 20
    queries_per_trial: Count | None = None
    queries: Count | None = None


class Confirm(Section):
    """How the front's points are confirmed on the test split."""

    repeats: Count = 20
    controls: Annotated[int, Field(ge=0)] = 20
