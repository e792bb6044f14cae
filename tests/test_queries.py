"""Every image through the encoder is counted once, under the phase that it was spent on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from study.records import TrialRecord
from study.trials_view import preparation_json, trials_json
from study.verdicts import judge
from toy import CountingEncoder, ToyEncoder, toy_cohort
from ude_core.assets import StudyAssets, prepare
from ude_core.cohorts.base import Cohort
from ude_core.directions import SurrogateDirections
from ude_core.results import load_result, save_result
from ude_core.scoring import score_reference
from ude_core.surrogate import SurrogatePrior, prepare_surrogate
from ude_core.trial import Trial
from ude_core.types import (
    NEEDS_SURROGATE,
    BiasConfig,
    HeadConfig,
    Interval,
    MethodConfig,
    QueryCount,
    ScoringConfig,
    SplitConfig,
)

HEAD = HeadConfig(learning_rate=0.02, standardize=True, epochs=10)
SETTINGS: dict[str, Any] = {
    "split": SplitConfig(),
    "bias": BiasConfig(gap=0.7, train_per_group=40, validation_per_cell=15, test_per_cell=10),
    "scoring": ScoringConfig(
        repeats=1, bootstrap_draws=10, controls=2, disease_head=HEAD, attribute_head=HEAD
    ),
    "seed": 5,
}
METHOD = MethodConfig(local_iterations=3, samples=2, batch_size=16, epochs=2, step_size=0.1)
METHODS = {
    "per_perturbation": METHOD,
    "per_iteration": replace(METHOD, batch="per_iteration"),
    "budget": replace(METHOD, queries=500),
    "early stop": replace(METHOD, target_auc_band=1e-9),
    "whitebox": replace(METHOD, name="whitebox", batch_size=20),
    "cma_es": replace(METHOD, name="cma_es"),
    "guided": replace(METHOD, name="guided", surrogate_images=20),
    "jacobian": replace(METHOD, name="jacobian", direction_images=3),
    "diverged": replace(METHOD, step_size=1e38),
    "no norm, no controls": replace(METHOD, name="whitebox", batch_size=20, learning_rate=0.0),
}


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return toy_cohort()


@pytest.fixture(scope="module")
def assets(cohort: Cohort) -> StudyAssets:
    return prepare(cohort, ToyEncoder(), **SETTINGS)


def test_the_attribute_phase_is_paid_once_a_study(cohort: Cohort, tmp_path: Path) -> None:
    encoder = CountingEncoder()
    first = prepare(cohort, encoder, cache=tmp_path, **SETTINGS)
    assert first.queries == sum(encoder.seen) == len(first.development)
    paid = score_reference(cohort, first)
    assert sum(encoder.seen) == first.queries
    assert preparation_json(paid) == {"attribute": first.queries}
    encoder.seen.clear()
    again = prepare(cohort, encoder, cache=tmp_path, **SETTINGS)
    assert again.queries == sum(encoder.seen) == 0


@pytest.mark.parametrize("name", METHODS)
def test_noise_and_scoring_are_what_the_encoder_saw(
    name: str, cohort: Cohort, assets: StudyAssets, tmp_path: Path
) -> None:
    method, encoder, surrogate = METHODS[name], CountingEncoder(), CountingEncoder()
    guided = method.name in NEEDS_SURROGATE
    prior: SurrogatePrior | SurrogateDirections | None = None
    if guided:
        prior = prepare_surrogate(cohort, surrogate, assets).proposing(method)
        surrogate.seen.clear()
    trial = Trial(method, cohort, encoder, assets, 3, prior)
    while not trial.finished:
        progress = trial.advance()
        assert progress.queries == sum(encoder.seen)
    noise = sum(encoder.seen)
    assert noise > 0
    encoder.seen.clear()
    result = trial.result()
    assert result.queries == QueryCount(
        attribute=0, noise=noise, scoring=sum(encoder.seen), surrogate=sum(surrogate.seen)
    )
    for metric, count in (
        ("queries", result.queries.total),
        ("queries_noise", result.queries.noise),
        ("queries_scoring", result.queries.scoring),
    ):
        assert result.metrics[metric] == Interval(count, count, count)
    assert ("surrogate_passes" in result.metrics) == guided
    save_result(result, tmp_path)
    assert load_result(tmp_path).queries == result.queries


def test_an_iteration_that_asked_nothing_costs_nothing(cohort: Cohort, assets: StudyAssets) -> None:
    """The surrogate's gradient overflows, so the black box is never asked about that iteration."""
    method, encoder = METHODS["guided"], CountingEncoder()
    prior = prepare_surrogate(cohort, ToyEncoder(name="open"), assets).prior(method)

    class Broken(type(prior)):  # type: ignore[misc]
        def __call__(self, noise: torch.Tensor) -> torch.Tensor:
            whole = super().__call__(noise)
            return whole if not noise.any() else whole * torch.inf

    broken = Broken(evaluator=prior.evaluator, rows=prior.rows)
    trial = Trial(method, cohort, encoder, assets, 3, broken)
    while not trial.finished:
        trial.advance()
    assert trial.learner.outcome == "diverged"
    assert trial.learner.iteration == 2
    assert trial.learner.queries == sum(encoder.seen) == 2 * 2 * 16


def test_a_resumed_trial_counts_on(cohort: Cohort, assets: StudyAssets, tmp_path: Path) -> None:
    encoder = CountingEncoder()
    stopped = Trial(METHODS["early stop"], cohort, encoder, assets, 3)
    for _ in range(4):
        stopped.step()
    stopped.save(tmp_path)
    resumed = Trial(METHODS["early stop"], cohort, encoder, assets, 3)
    assert resumed.restore(tmp_path)
    while not resumed.finished:
        resumed.advance()
    assert resumed.learner.queries == sum(encoder.seen)


def test_the_ledger_and_the_listing_keep_the_phases(cohort: Cohort, assets: StudyAssets) -> None:
    trial = Trial(METHOD, cohort, ToyEncoder(), assets, 3)
    while not trial.finished:
        trial.advance()
    result = trial.result()
    content = judge(result, ["eo_gap"]).content
    record = TrialRecord(0, "complete", {}, 1, queries_by_phase=content["queries_by_phase"])
    phases = trials_json([record])[0]["queries_by_phase"]
    assert phases == {
        "attribute": 0,
        "noise": 2 * 3 * 2 * 2 * 16,
        "scoring": 3 * len(assets.scored),
        "surrogate": 0,
    }
    assert content["queries"] == phases["noise"] + phases["scoring"]
