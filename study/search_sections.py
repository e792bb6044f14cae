"""The sections that say how a study searches: sampler, constraints, warm start."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, assert_never

from pydantic import Field, model_validator

from study.documents import Path as DocumentPath
from study.explain import nearest
from study.metric_names import DISEASE_METRICS, STUDY_METRICS
from study.ranges import complaint
from study.records import ParameterValue
from study.searched import Between, Choices, Searched, is_integer
from study.sections import Count, MethodSection, Section

SamplerName = Literal["tpe", "nsgaii", "nsgaiii", "gp", "qmc", "random", "grid"]
Probability = Annotated[float, Field(ge=0, le=1)]

CONSTRAINED_SAMPLERS: frozenset[SamplerName] = frozenset({"tpe", "nsgaii", "nsgaiii", "gp"})
"""Those that keep away from points like infeasible ones; the others only have them left out."""

ACCURACY_DROP = "accuracy_drop"
"""A metric for constraints alone: ERM's accuracy minus the trial's, percentage points."""

WORST = "worst"
LARGEST_GRID = 1_000_000
_MOST_GP_TRIALS = 300  # its models take seconds a proposal by then, growing with the cube


class Sampler(Section):
    """Who proposes parameters; each sampler reads the options named beside it and no others.

    `batch`, for every sampler: proposals are made in batches of so many trials, each batch from the
    results of the batches before it alone. The study is then the same whatever the number of
    workers and whichever of them is faster; workers wait at the end of each batch.
    """

    name: SamplerName = "tpe"
    batch: Count | None = None
    startup_trials: Count = 10  # tpe, gp: random ones before the first model
    multivariate: bool = False  # tpe: parameters together, not each by itself
    group: bool = False  # tpe, with multivariate
    constant_liar: bool = True  # tpe: running trials count as bad, so that workers spread
    population: Annotated[int, Field(ge=2)] = 24  # nsgaii, nsgaiii
    crossover_probability: Probability = 0.9  # nsgaii, nsgaiii
    swapping_probability: Probability = 0.5  # nsgaii, nsgaiii
    mutation_probability: Probability | None = None  # nsgaii, nsgaiii; none: 1 / parameters
    dividing: Count = 3  # nsgaiii: parts of each axis between reference points
    sequence: Literal["sobol", "halton"] = "sobol"  # qmc
    scramble: bool = True  # qmc
    grid_points: Annotated[int, Field(ge=2)] = 5  # grid: values of each range

    @model_validator(mode="after")
    def _options_hold(self) -> Sampler:
        if self.group and not self.multivariate:
            raise ValueError("group needs multivariate: true")
        return self


class Constraint(Section):
    """What a trial must keep to be feasible: one bound on one metric.

    `metric` is a study-level name, `<disease>/<metric>`, or `worst/<metric>` (the disease where it
    is worst). `relative_to: erm` bounds the difference to ERM. `accuracy_drop` is short for ERM's
    accuracy minus the trial's: `{metric: worst/accuracy_drop, at_most: 2}`.
    """

    metric: str
    at_most: float | None = None
    at_least: float | None = None
    relative_to: Literal["erm"] | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Constraint:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("a constraint takes one bound: give at_most or at_least")
        return self

    @property
    def label(self) -> str:
        """The constraint in a few characters, its key in the ledger."""
        metric = f"{self.metric} vs ERM" if self.relative_to else self.metric
        if self.at_most is not None:
            return f"{metric} <= {self.at_most:g}"
        return f"{metric} >= {self.at_least:g}"


class WarmStart(Section):
    """Points that are tried before the sampler is asked, in this order.

    `paper_defaults`: the paper's values. `points`: given here; what a point leaves out is sampled.
    `from_study`: the front of an earlier study under the same root or in the same database; of
    its points, those parameters that are searched here, where they fit.
    """

    paper_defaults: bool = False
    points: Annotated[tuple[dict[str, ParameterValue], ...], Field(strict=False)] = ()
    from_study: str | None = None


def paper_point(search: Mapping[str, Searched]) -> dict[str, ParameterValue]:
    """Return the paper's value of each searched parameter that has one."""
    values = {name: MethodSection.model_fields[name].default for name in search}
    return {name: value for name, value in values.items() if value is not None}


def fits(name: str, value: object, searched: Searched) -> bool:
    """Return whether `value` is one that the search of parameter `name` may propose."""
    match searched:
        case Choices(choices=choices):
            return any(type(choice) is type(value) and choice == value for choice in choices)
        case Between(low=low, high=high, integer=integer):
            if isinstance(value, bool) or not isinstance(value, int | float):
                return False
            whole = not (integer or is_integer(name)) or value == int(value)
            return whole and low <= value <= high and complaint(name, value) is None
        case _:
            assert_never(searched)


def grid_size(sampler: Sampler, search: Mapping[str, Searched]) -> int:
    """Return how many points the grid over `search` has."""
    return math.prod(_grid_levels(name, one, sampler) for name, one in search.items())


def _grid_levels(name: str, searched: Searched, sampler: Sampler) -> int:
    match searched:
        case Choices(choices=choices):
            return len(choices)
        case Between(low=low, high=high, integer=integer):
            if integer or is_integer(name):
                return min(sampler.grid_points, int(high) - int(low) + 1)
            return sampler.grid_points
        case _:
            assert_never(searched)


def sampler_problems(
    sampler: Sampler, search: Mapping[str, Searched], *, objectives: int, trials: int
) -> Iterator[tuple[DocumentPath, str]]:
    """Yield what the sampler cannot do."""
    path: DocumentPath = ("sampler", "name")
    if sampler.name == "nsgaiii" and objectives < 2:
        yield (
            path,
            "sampler.name nsgaiii spreads over several objectives, and there is one; "
            "use nsgaii or tpe",
        )
    if sampler.name == "gp" and trials > _MOST_GP_TRIALS:
        yield (
            path,
            f"sampler.name gp takes at most {_MOST_GP_TRIALS} trials (budget.trials is {trials}): "
            "each proposal fits its models anew; use tpe",
        )
    if sampler.name == "grid" and grid_size(sampler, search) > LARGEST_GRID:
        yield (
            path,
            f"sampler.name grid has {grid_size(sampler, search):,} points (at most "
            f"{LARGEST_GRID:,}); search fewer parameters, lower sampler.grid_points, or use qmc",
        )


def constraint_problems(
    constraints: Sequence[Constraint], diseases: Sequence[str]
) -> Iterator[tuple[DocumentPath, str]]:
    """Yield the constraints on what is not measured, and those that appear twice."""
    by_disease = {*DISEASE_METRICS, ACCURACY_DROP}
    known = {
        *STUDY_METRICS,
        ACCURACY_DROP,
        *(f"{one}/{metric}" for one in (*diseases, WORST) for metric in by_disease),
    }
    for index, constraint in enumerate(constraints):
        path = ("constraints", index, "metric")
        name = constraint.metric
        bare = name.rpartition("/")[2]
        if name not in known:
            hint = nearest(name, known)
            yield path, f"constraints.{index}.metric {name!r} is not measured{hint}"
        elif constraint.relative_to and (
            bare not in DISEASE_METRICS or bare.endswith("_vs_random")
        ):
            yield (
                path,
                f"constraints.{index}.metric {name!r} cannot be held against ERM; "
                "remove relative_to",
            )
        if constraint.label in {other.label for other in constraints[:index]}:
            yield path, f"constraints.{index} ({constraint.label}) appears twice"


def warm_start_problems(
    warm_start: WarmStart, search: Mapping[str, Searched]
) -> Iterator[tuple[DocumentPath, str]]:
    """Yield the known points that the search could not propose itself."""
    if warm_start.paper_defaults:
        for name, value in paper_point(search).items():
            if not fits(name, value, search[name]):
                yield (
                    ("warm_start", "paper_defaults"),
                    f"warm_start.paper_defaults: the paper's {name} is {value!r}, outside "
                    f"search.{name}; widen it, or list warm_start.points instead",
                )
    for index, point in enumerate(warm_start.points):
        for name, value in point.items():
            place: DocumentPath = ("warm_start", "points", index, name)
            where = f"warm_start.points.{index}.{name}"
            if name not in search:
                yield place, f"{where} is not searched{nearest(name, search)}"
            elif not fits(name, value, search[name]):
                yield place, f"{where} is {value!r}, outside search.{name}"
