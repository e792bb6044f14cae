"""From a search section to Optuna's distributions, and from sampled parameters to a method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, assert_never

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from study.config import StudyConfig
from study.records import Parameters
from study.searched import Between, Choices, Searched, is_integer
from ude_core.learner import plan
from ude_core.surrogate import check_surrogate_images
from ude_core.trial import planned_queries
from ude_core.types import MethodConfig

_CORNERS = 4096


def distributions(config: StudyConfig) -> dict[str, BaseDistribution]:
    """Return what Optuna samples from, by parameter."""
    return {name: _distribution(name, searched) for name, searched in config.search.items()}


def _distribution(name: str, searched: Searched) -> BaseDistribution:
    match searched:
        case Between(low=low, high=high, log=log, integer=integer):
            if integer or is_integer(name):
                return IntDistribution(int(low), int(high), log=log)
            return FloatDistribution(low, high, log=log)
        case Choices(choices=choices):
            return CategoricalDistribution(choices)
        case _:
            assert_never(searched)


def method_of(config: StudyConfig, params: Parameters) -> MethodConfig:
    """Return the method of a trial with these parameters."""
    return config.method.to_engine(params, queries=config.budget.queries_per_trial)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one trial of a space may cost, in queries: the cheapest and the dearest."""

    low: int
    high: int


def cost(config: StudyConfig, *, scored_size: int, train_size: int) -> Cost:
    """Return the range of queries a trial may spend, learning and scoring together.

    It is taken over the corners of the space (its bounds and choices), since the cost rises or
    falls steadily in each parameter, and as if nothing were pruned. Raises SettingError where a
    corner cannot run: a batch larger than the training images, or a single iteration above the
    budget.
    """
    looks = paid_looks(config)
    costs = [
        most_queries(config, method, scored_size, train_size, looks) for method in corners(config)
    ]
    return Cost(min(costs), max(costs))


def most_queries(
    config: StudyConfig,
    method: MethodConfig,
    scored_size: int,
    train_size: int,
    looks: int = 0,
) -> int:
    """Return an upper bound of what a trial of `method` may spend in this study."""
    return planned_queries(
        method,
        scored_size,
        train_size,
        config.scoring.controls,
        looks,
        diseases=len(config.cohort.diseases),
        head_epochs=config.scoring.disease_head.epochs,
    )


def paid_looks(config: StudyConfig) -> int:
    """Return how many looks at a trial before its end are paid for, at most."""
    plan_of_looks = config.pruning.plan()
    return len(plan_of_looks.shares) if plan_of_looks.repeats else 0


def check_batches(config: StudyConfig, train_size: int) -> None:
    """Raise SettingError where a method of the space cannot run on so many training images."""
    for method in corners(config):
        plan(method, train_size)
        if method.name == "guided":
            check_surrogate_images(method, train_size)


def corners(config: StudyConfig) -> Iterator[MethodConfig]:
    """Yield the methods at the bounds and choices of the parameters that decide the cost."""
    costly = (
        "name",
        "samples",
        "local_iterations",
        "batch_size",
        "epochs",
        "target_auc_band",
        "surrogate_images",
        "attack_steps",
        "attack_every",
    )
    points: list[dict[str, Any]] = [{}]
    for name in costly:
        if name not in config.search:
            continue
        values = extremes(name, config.search[name])
        points = [{**point, name: value} for point in points for value in values][:_CORNERS]
    for point in points:
        yield method_of(config, point)


def extremes(name: str, searched: Searched) -> tuple[Any, ...]:
    """Return the bounds or the choices of a searched parameter."""
    match searched:
        case Between(low=low, high=high):
            return (int(low), int(high)) if is_integer(name) else (low, high)
        case Choices(choices=choices):
            return choices
        case _:
            assert_never(searched)


def describe(
    config: StudyConfig, *, development_size: int, scored_size: int, train_size: int
) -> dict[str, Any]:
    """Return what a launch would do, as JSON values, without doing it."""
    per_trial = cost(config, scored_size=scored_size, train_size=train_size)
    trials = config.budget.trials
    return {
        "study": config.name,
        "trials": trials,
        "workers": config.resources.workers,
        "images": {
            "development": development_size,
            "train": train_size,
            "scored": scored_size,
        },
        "objectives": [objective.model_dump() for objective in config.objectives],
        "search": {
            name: searched.model_dump(mode="json", by_alias=True)
            for name, searched in config.search.items()
        },
        "method": {
            name: value
            for name, value in config.method.model_dump(mode="json").items()
            if name not in config.search
        },
        "queries_per_trial": {"low": per_trial.low, "high": per_trial.high},
        "queries": {
            "low": trials * per_trial.low + development_size,
            "high": trials * per_trial.high + development_size,
        },
    }
