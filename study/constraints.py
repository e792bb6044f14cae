"""Whether a trial keeps what the study demands of every solution, and by how much it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from study.config import StudyConfig
from study.metric_names import DISEASE_METRICS
from study.search_sections import ACCURACY_DROP, CONSTRAINED_SAMPLERS, WORST, Constraint
from ude_core.types import Interval, Measured

UNJUDGED = 100.0
"""The violation where a metric is undefined: large against percentage points and decibels."""


def violations(
    constraints: Sequence[Constraint],
    metrics: Mapping[str, Measured],
    reference: Mapping[str, Measured],
    diseases: Sequence[str],
) -> dict[str, float]:
    """Return by how much each constraint is violated, by its label, in the metric's unit.

    Feasible when none is above 0. `reference` is ERM's metrics. What cannot be judged, because a
    metric is undefined, counts as violated.
    """
    return {
        constraint.label: _violation(constraint, metrics, reference, diseases)
        for constraint in constraints
    }


def feasible(
    constraints: Sequence[Constraint],
    metrics: Mapping[str, Measured],
    reference: Mapping[str, Measured],
    diseases: Sequence[str],
) -> bool:
    """Return whether no constraint is violated."""
    return all(
        value <= 0 for value in violations(constraints, metrics, reference, diseases).values()
    )


def sampler_notes(violated: Mapping[str, float]) -> dict[str, float]:
    """Return violations as `optuna.Trial.set_constraint` keeps them beside a trial."""
    return {f"constraints:{label}": value for label, value in violated.items()}


def constraints_note(config: StudyConfig) -> str | None:
    """Return what is to be known of the study's constraints, where its sampler does not use them."""
    if not config.constraints or config.sampler.name in CONSTRAINED_SAMPLERS:
        return None
    return (
        f"sampler {config.sampler.name} proposes without regard to the constraints; "
        "they only keep trials off the front"
    )


def _violation(
    constraint: Constraint,
    metrics: Mapping[str, Measured],
    reference: Mapping[str, Measured],
    diseases: Sequence[str],
) -> float:
    scope, slash, bare = constraint.metric.rpartition("/")
    scopes = [f"{disease}/" for disease in diseases] if scope == WORST else [f"{scope}{slash}"]
    names = [f"{one}{bare}" for one in scopes]
    found = [_value(name, constraint, metrics, reference) for name in names]
    values = [value for value in found if value is not None]
    if len(values) < len(names):
        return UNJUDGED
    worst = max(values) if _larger_is_worse(bare) else min(values)
    if constraint.at_most is not None:
        return worst - constraint.at_most
    assert constraint.at_least is not None
    return constraint.at_least - worst


def _value(
    name: str,
    constraint: Constraint,
    metrics: Mapping[str, Measured],
    reference: Mapping[str, Measured],
) -> float | None:
    scope, slash, bare = name.rpartition("/")
    if bare == ACCURACY_DROP:
        measured = f"{scope}{slash}accuracy"
        change = _difference(metrics.get(measured), reference.get(measured))
        return None if change is None else -change
    if constraint.relative_to is not None:
        return _difference(metrics.get(name), reference.get(name))
    return _mean(metrics.get(name))


def _larger_is_worse(bare: str) -> bool:
    return bare == ACCURACY_DROP or DISEASE_METRICS.get(bare) == "minimize"


def _difference(value: Measured | None, reference: Measured | None) -> float | None:
    ours, erm = _mean(value), _mean(reference)
    return None if ours is None or erm is None else ours - erm


def _mean(value: Measured | None) -> float | None:
    return value.mean if isinstance(value, Interval) else None
