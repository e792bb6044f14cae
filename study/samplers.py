"""Who proposes the parameters of a new trial."""

from __future__ import annotations

from typing import assert_never

import optuna

from study.sections import Sampler


def make_sampler(settings: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler, its generator started at `seed`.

    TPE pretends that running trials went badly (constant liar), so that parallel workers spread.
    """
    match settings.name:
        case "tpe":
            return optuna.samplers.TPESampler(
                n_startup_trials=settings.startup_trials,
                multivariate=settings.multivariate,
                constant_liar=True,
                seed=seed,
            )
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case "nsgaii":
            return optuna.samplers.NSGAIISampler(population_size=settings.population, seed=seed)
        case _:
            assert_never(settings.name)
