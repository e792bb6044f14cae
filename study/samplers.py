"""Who proposes the parameters of a new trial: Optuna's samplers, a quasi-random sequence, a grid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from scipy.stats import qmc

from study.records import Parameters, ParameterValue
from study.search_sections import Sampler
from ude_core.seeding import numpy_generator

Searched = Mapping[str, BaseDistribution]


def make_sampler(settings: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    """Return Optuna's sampler of that name, its generator started at `seed`.

    Raises ValueError for `qmc` and `grid`, whose points follow from a trial's number alone.
    """
    with warnings.catch_warnings():
        # Optuna calls some options experimental: who named them in a space has chosen.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _make_sampler(settings, seed)


def _make_sampler(settings: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    match settings.name:
        case "tpe":
            return optuna.samplers.TPESampler(
                n_startup_trials=settings.startup_trials,
                multivariate=settings.multivariate,
                group=settings.group,
                constant_liar=settings.constant_liar,
                seed=seed,
            )
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case "nsgaii":
            return optuna.samplers.NSGAIISampler(
                population_size=settings.population,
                mutation_prob=settings.mutation_probability,
                crossover_prob=settings.crossover_probability,
                swapping_prob=settings.swapping_probability,
                seed=seed,
            )
        case "nsgaiii":
            return optuna.samplers.NSGAIIISampler(
                population_size=settings.population,
                mutation_prob=settings.mutation_probability,
                crossover_prob=settings.crossover_probability,
                swapping_prob=settings.swapping_probability,
                dividing_parameter=settings.dividing,
                seed=seed,
            )
        case "gp":
            return optuna.samplers.GPSampler(n_startup_trials=settings.startup_trials, seed=seed)
        case "qmc" | "grid":
            raise ValueError(f"{settings.name} is no sampler of Optuna's here")


def sequence_point(settings: Sampler, searched: Searched, number: int, seed: int) -> Parameters:
    """Return point `number` of the quasi-random sequence that `seed` scrambles."""
    make = qmc.Sobol if settings.sequence == "sobol" else qmc.Halton
    sequence = make(
        len(searched), scramble=settings.scramble, rng=numpy_generator(seed, "sequence")
    )
    if number:
        sequence.fast_forward(number)
    return point_at(searched, [float(share) for share in sequence.random(1)[0]])


def random_point(searched: Searched, rng: np.random.Generator) -> Parameters:
    """Return a uniformly drawn point."""
    return point_at(searched, [float(share) for share in rng.random(len(searched))])


def point_at(searched: Searched, shares: Sequence[float]) -> Parameters:
    """Return the point at these shares, in [0, 1), of each parameter's range, in the order given."""
    return {
        name: _value_at(distribution, share)
        for (name, distribution), share in zip(searched.items(), shares, strict=True)
    }


def grid_levels(settings: Sampler, searched: Searched) -> dict[str, Sequence[ParameterValue]]:
    """Return the values of each parameter that the grid crosses.

    All choices of a list; of a range, `grid_points` values from end to end, evenly spaced (in the
    logarithm where the search is).
    """
    return {name: _levels(one, settings.grid_points) for name, one in searched.items()}


def space_size(searched: Searched) -> int | None:
    """Return how many different points the search has, or None where it is continuous."""
    size = 1
    for distribution in searched.values():
        match distribution:
            case IntDistribution(low=low, high=high, step=step):
                size *= (high - low) // step + 1
            case CategoricalDistribution(choices=choices):
                size *= len(choices)
            case _:
                return None
    return size


def key_of(searched: Searched, params: Parameters) -> tuple[float, ...] | None:
    """Return what two equal points have in common, or None where `params` are not complete."""
    if params.keys() != searched.keys():
        return None
    return tuple(one.to_internal_repr(params[name]) for name, one in searched.items())


def _levels(distribution: BaseDistribution, points: int) -> Sequence[ParameterValue]:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return tuple(choices)  # type: ignore[arg-type]
        case IntDistribution(low=low, high=high, log=log):
            count = min(points, high - low + 1)
            if count == high - low + 1:
                return tuple(range(low, high + 1))
            return tuple(sorted({round(value) for value in _spaced(low, high, count, log=log)}))
        case FloatDistribution(low=low, high=high, log=log):
            return tuple(_spaced(low, high, points, log=log))
    raise ValueError(f"no grid over {distribution}")


def _spaced(low: float, high: float, count: int, *, log: bool) -> list[float]:
    space = np.geomspace if log else np.linspace
    values = [float(value) for value in space(low, high, count)]
    return [low, *values[1:-1], high]  # the ends exactly: rounding must not leave the range


def _value_at(distribution: BaseDistribution, share: float) -> ParameterValue:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return choices[min(int(share * len(choices)), len(choices) - 1)]  # type: ignore[return-value]
        case IntDistribution(low=low, high=high, log=log):
            value = _between(low - 0.5, high + 0.5, share, log=log)
            return min(max(round(value), low), high)
        case FloatDistribution(low=low, high=high, log=log):
            return min(max(_between(low, high, share, log=log), low), high)
    raise ValueError(f"no point in {distribution}")


def _between(low: float, high: float, share: float, *, log: bool) -> float:
    if log:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)
