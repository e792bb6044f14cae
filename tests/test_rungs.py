"""Looking at a trial before its end: at its own share, counted to the image, and without a trace."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toy import TOY_BIAS, CountingEncoder, ToyEncoder, toy_cohort
from ude_core.assets import StudyAssets, prepare
from ude_core.cohorts.base import Cohort
from ude_core.errors import SettingError
from ude_core.rungs import RungPlan, look_at
from ude_core.scoring import score_noise
from ude_core.trial import Trial, planned_queries
from ude_core.types import (
    HeadConfig,
    Interval,
    MethodConfig,
    ScoringConfig,
    SplitConfig,
)

HEAD = HeadConfig(learning_rate=0.02, standardize=True, epochs=5)
SCORING = ScoringConfig(
    repeats=3, bootstrap_draws=20, controls=1, disease_head=HEAD, attribute_head=HEAD
)
METHOD = MethodConfig(local_iterations=3, samples=2, batch_size=16, epochs=4, step_size=0.1)
LOOKS = RungPlan((0.25, 0.5), repeats=1)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return toy_cohort()


@pytest.fixture(scope="module")
def assets(cohort: Cohort) -> StudyAssets:
    return prepare(
        cohort, ToyEncoder(), split=SplitConfig(), bias=TOY_BIAS, scoring=SCORING, seed=5
    )


def learnt(trial: Trial) -> Trial:
    while not trial.finished:
        trial.step()
    return trial


def test_trials_of_unlike_schedules_are_looked_at_after_the_same_share(
    cohort: Cohort, assets: StudyAssets
) -> None:
    for method in (
        METHOD,
        replace(METHOD, local_iterations=5, samples=1),
        replace(METHOD, epochs=1, queries=700),
        replace(METHOD, name="whitebox", learning_rate=0.02),
    ):
        free = RungPlan(LOOKS.shares)
        trial = learnt(Trial(method, cohort, ToyEncoder(), assets, 3, looks=free))
        whole = trial.learner.schedule
        assert [rung.share for rung in trial.rungs] == [0.25, 0.5]
        for rung in trial.rungs:
            assert rung.iteration == int(np.ceil(rung.share * whole.iterations))
            assert rung.noise_queries == rung.iteration * whole.queries_per_iteration
            assert rung.scoring_queries == 0
            assert set(rung.metrics) == {"attribute_cross_entropy", "noise_l2"}


def test_looking_costs_what_the_encoder_saw_and_changes_no_noise(
    cohort: Cohort, assets: StudyAssets
) -> None:
    encoder = CountingEncoder()
    looked = learnt(Trial(METHOD, cohort, encoder, assets, 3, looks=LOOKS))
    result = looked.result()
    assert result.queries.total == sum(encoder.seen)
    assert result.queries.total <= planned_queries(
        METHOD,
        len(assets.scored),
        len(assets.split.train),
        1,
        looks=2,
        diseases=2,
        head_epochs=HEAD.epochs,
    )
    looks = sum(rung.scoring_queries for rung in looked.rungs)
    assert looks > 0
    assert result.metrics["queries_rungs"] == Interval(looks, looks, looks)
    plain = learnt(Trial(METHOD, cohort, ToyEncoder(), assets, 3)).result()
    assert torch.equal(plain.noise, result.noise)
    assert plain.queries.total == result.queries.total - looks
    assert "queries_rungs" not in plain.metrics


def test_a_look_on_all_draws_is_the_final_score(cohort: Cohort, assets: StudyAssets) -> None:
    trial = learnt(Trial(METHOD, cohort, ToyEncoder(), assets, 3))
    arguments = (trial.learner.noise, METHOD, cohort, ToyEncoder(), assets)
    look = look_at(*arguments, repeats=SCORING.repeats)
    final = score_noise(*arguments, seed=3).metrics
    for name in ("eo_gap", "accuracy", "edema/eo_gap", "edema/worst_group_accuracy"):
        measured = final[name]
        assert isinstance(measured, Interval)
        # Heads see their rows in the same order from the same start: equal but for rounding.
        assert look.metrics[name] == pytest.approx(measured.mean, abs=1.5)
    assert look.queries <= len(assets.development)


def test_a_trial_stopped_after_a_look_pays_for_it_once(
    cohort: Cohort, assets: StudyAssets, tmp_path: Path
) -> None:
    straight = learnt(Trial(METHOD, cohort, ToyEncoder(), assets, 3, looks=LOOKS))
    first, second = CountingEncoder(), CountingEncoder()
    stopped = Trial(METHOD, cohort, first, assets, 3, looks=LOOKS)
    while not stopped.rungs:
        stopped.step()
    stopped.save(tmp_path)
    resumed = Trial(METHOD, cohort, second, assets, 3, looks=LOOKS)
    assert resumed.restore(tmp_path)
    assert resumed.rungs == stopped.rungs
    learnt(resumed)
    assert resumed.rungs == straight.rungs
    assert resumed.result().queries == straight.result().queries
    assert sum(first.seen) + sum(second.seen) == straight.result().queries.total


def test_a_trial_too_short_for_two_rungs_is_looked_at_once_for_both(
    cohort: Cohort, assets: StudyAssets
) -> None:
    short = replace(METHOD, local_iterations=2, epochs=1)
    encoder = CountingEncoder()
    trial = learnt(Trial(short, cohort, encoder, assets, 3, looks=LOOKS))
    assert [(r.share, r.iteration) for r in trial.rungs] == [(0.25, 1), (0.5, 1)]
    assert trial.rungs[0].scoring_queries > 0
    assert trial.rungs[1].scoring_queries == 0
    assert trial.rungs[0].metrics == trial.rungs[1].metrics
    assert trial.result().queries.total == sum(encoder.seen)


def test_a_trial_that_diverges_has_no_rung_after(cohort: Cohort, assets: StudyAssets) -> None:
    trial = learnt(
        Trial(replace(METHOD, step_size=1e38), cohort, ToyEncoder(), assets, 3, looks=LOOKS)
    )
    assert trial.learner.outcome == "diverged"
    assert trial.rungs == []


@pytest.mark.parametrize("shares", [(0.5, 0.25), (0.25, 0.25), (0.0, 0.5), (0.5, 1.0)])
def test_rungs_out_of_order_or_range_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match="ascending shares between 0 and 1"):
        RungPlan(shares)
