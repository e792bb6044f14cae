"""One trial from start to score: pure, resumable, checked, honest about its queries."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toy import TOY_BIAS, CountingEncoder, ToyEncoder, toy_cohort
from ude_core.assets import StudyAssets, prepare
from ude_core.cohorts.base import Cohort
from ude_core.confirmation import confirm_noises
from ude_core.errors import FingerprintError, SettingError
from ude_core.results import has_result, load_result, save_result
from ude_core.scoring import score_reference
from ude_core.storage import CorruptFileError, load_checked, save_checked
from ude_core.trial import CHECKPOINT, PREVIOUS, Trial, planned_queries, run_trial
from ude_core.types import (
    HeadConfig,
    Interval,
    MethodConfig,
    ScoringConfig,
    SplitConfig,
)

HEAD = HeadConfig(learning_rate=0.02, standardize=True, epochs=20)
SCORING = ScoringConfig(
    repeats=3, bootstrap_draws=50, controls=2, disease_head=HEAD, attribute_head=HEAD
)
METHOD = MethodConfig(
    local_iterations=3, samples=4, batch_size=32, epochs=3, step_size=0.1, pixels="deploy"
)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return toy_cohort()


@pytest.fixture(scope="module")
def assets(cohort: Cohort) -> StudyAssets:
    return prepare(
        cohort, ToyEncoder(), split=SplitConfig(), bias=TOY_BIAS, scoring=SCORING, seed=5
    )


def test_the_same_trial_twice_is_the_same_bit_for_bit(cohort: Cohort, assets: StudyAssets) -> None:
    torch.manual_seed(1)
    first = run_trial(METHOD, cohort, ToyEncoder(), assets, seed=3)
    torch.manual_seed(2)
    second = run_trial(METHOD, cohort, ToyEncoder(), assets, seed=3)
    assert torch.equal(first.noise, second.noise)
    assert first.metrics == second.metrics
    other = run_trial(METHOD, cohort, ToyEncoder(), assets, seed=4)
    assert not torch.equal(first.noise, other.noise)


def test_every_metric_of_the_contract_is_there(cohort: Cohort, assets: StudyAssets) -> None:
    metrics = run_trial(METHOD, cohort, ToyEncoder(), assets, seed=3).metrics
    compared = ("eo_gap", "selection_rate_symmetric_gap", "accuracy")
    fairness = ("eo_negative_gap", "eo_positive_gap", "selection_rate_ratio_gap", "tpr_ratio_gap")
    utility = ("auroc", "worst_group_accuracy")
    against = tuple(f"{name}_vs_random" for name in compared)
    per_disease = compared + fairness + utility + against
    for disease in cohort.diseases:
        for name in per_disease:
            assert f"{disease}/{name}" in metrics
    per_trial = (
        "eo_gap selection_rate_symmetric_gap accuracy attribute_auc_frozen "
        "attribute_auc_retrained attribute_cross_entropy eo_gap_vs_random noise_l2 psnr_db ssim "
        "queries"
    )
    assert set(per_trial.split()) <= set(metrics)


def test_query_counts_are_what_the_encoder_saw(cohort: Cohort) -> None:
    encoder = CountingEncoder()
    assets = prepare(cohort, encoder, split=SplitConfig(), bias=TOY_BIAS, scoring=SCORING, seed=5)
    assert assets.queries == sum(encoder.seen)
    encoder.seen.clear()
    result = run_trial(METHOD, cohort, encoder, assets, seed=3)
    assert result.queries.total == sum(encoder.seen)
    assert result.queries.noise == 3 * 3 * 2 * 4 * 32
    planned = planned_queries(
        METHOD,
        len(assets.scored),
        len(assets.split.train),
        2,
        diseases=2,
        head_epochs=HEAD.epochs,
    )
    assert planned == result.queries.total


def test_white_box_hides_the_attribute_of_a_differentiable_encoder(
    cohort: Cohort, assets: StudyAssets
) -> None:
    method = replace(METHOD, name="whitebox", epochs=8, learning_rate=0.02, batch_size=20)
    result = run_trial(method, cohort, ToyEncoder(), assets, seed=3)
    clean = score_reference(cohort, assets)["attribute_cross_entropy"]
    edited = result.metrics["attribute_cross_entropy"]
    assert isinstance(clean, Interval)
    assert isinstance(edited, Interval)
    assert edited.mean > clean.mean + 0.3
    assert result.queries.noise == 8 * (len(assets.split.train) // 20) * 20


def test_a_resumed_trial_ends_at_the_same_noise(
    cohort: Cohort, assets: StudyAssets, tmp_path: Path
) -> None:
    for method in (METHOD, replace(METHOD, name="whitebox")):
        whole = run_trial(method, cohort, ToyEncoder(), assets, seed=3)
        folder = tmp_path / method.name
        stopped = Trial(method, cohort, ToyEncoder(), assets, seed=3)
        stopped.advance()
        stopped.save(folder)
        resumed = Trial(method, cohort, ToyEncoder(), assets, seed=3)
        assert resumed.restore(folder)
        while not resumed.finished:
            resumed.advance()
        result = resumed.result()
        assert torch.equal(result.noise, whole.noise)
        assert [p.epoch for p in result.curve] == [1, 2, 3]


def test_a_flipped_checkpoint_falls_back_to_the_one_before(
    cohort: Cohort, assets: StudyAssets, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial = Trial(METHOD, cohort, ToyEncoder(), assets, seed=3)
    for _ in range(2):
        trial.advance()
        trial.save(tmp_path)
    content = bytearray((tmp_path / CHECKPOINT).read_bytes())
    content[-3] ^= 1
    (tmp_path / CHECKPOINT).write_bytes(bytes(content))
    resumed = Trial(METHOD, cohort, ToyEncoder(), assets, seed=3)
    assert resumed.restore(tmp_path)
    assert resumed.learner.iteration == 3
    assert "checksum" in caplog.text
    (tmp_path / PREVIOUS).unlink()
    assert not Trial(METHOD, cohort, ToyEncoder(), assets, seed=3).restore(tmp_path)


def test_a_checkpoint_of_another_trial_is_refused(
    cohort: Cohort, assets: StudyAssets, tmp_path: Path
) -> None:
    Trial(METHOD, cohort, ToyEncoder(), assets, seed=3).save(tmp_path)
    with pytest.raises(FingerprintError, match="other parameters, data or weights"):
        Trial(replace(METHOD, samples=5), cohort, ToyEncoder(), assets, seed=3).restore(tmp_path)


def test_a_checkpoint_whose_state_has_other_fields_is_refused_by_name(
    cohort: Cohort, assets: StudyAssets, tmp_path: Path
) -> None:
    trial = Trial(METHOD, cohort, ToyEncoder(), assets, seed=3)
    trial.save(tmp_path)
    tensors, scalars = load_checked(tmp_path / CHECKPOINT)
    tensors["state.moment"] = tensors.pop("state.noise")
    save_checked(tmp_path / CHECKPOINT, tensors, scalars)
    with pytest.raises(FingerprintError, match="GezoState was written by another release"):
        Trial(METHOD, cohort, ToyEncoder(), assets, seed=3).restore(tmp_path)


def test_results_survive_the_disk_and_a_changed_noise_does_not(
    cohort: Cohort, assets: StudyAssets, tmp_path: Path
) -> None:
    result = run_trial(METHOD, cohort, ToyEncoder(), assets, seed=3)
    assert not has_result(tmp_path)
    save_result(result, tmp_path)
    loaded = load_result(tmp_path)
    assert torch.equal(loaded.noise, result.noise)
    assert loaded.metrics == result.metrics
    assert loaded.curve == result.curve
    assert json.loads((tmp_path / "result.json").read_text())["outcome"] == "improved"
    content = bytearray((tmp_path / "noise.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "noise.safetensors").write_bytes(bytes(content))
    with pytest.raises(CorruptFileError):
        load_result(tmp_path)


def test_a_trial_that_diverges_at_once_is_written_and_read(
    cohort: Cohort, assets: StudyAssets, tmp_path: Path
) -> None:
    result = run_trial(replace(METHOD, step_size=1e38), cohort, ToyEncoder(), assets, seed=3)
    assert result.outcome == "diverged"
    assert torch.isfinite(result.noise).all()
    save_result(result, tmp_path)
    loaded = load_result(tmp_path)
    assert loaded.note == result.note
    assert math.isnan(loaded.curve[0].loss) == math.isnan(result.curve[0].loss)


def test_clean_embeddings_are_paid_for_once(cohort: Cohort, tmp_path: Path) -> None:
    encoder = CountingEncoder()
    settings = {"split": SplitConfig(), "bias": TOY_BIAS, "scoring": SCORING, "seed": 5}
    first = prepare(cohort, encoder, cache=tmp_path, **settings)
    again = prepare(cohort, encoder, cache=tmp_path, **settings)
    assert (first.queries, again.queries) == (len(first.development), 0)
    assert torch.equal(first.clean, again.clean)
    assert torch.equal(first.attribute_head.weight, again.attribute_head.weight)


def test_a_batch_larger_than_the_cohort_is_refused(cohort: Cohort, assets: StudyAssets) -> None:
    with pytest.raises(SettingError, match="batch_size is 999"):
        Trial(replace(METHOD, batch_size=999), cohort, ToyEncoder(), assets, seed=3)


def test_confirmation_scores_on_the_test_patients_alone(
    cohort: Cohort, assets: StudyAssets
) -> None:
    result = run_trial(METHOD, cohort, ToyEncoder(), assets, seed=3)
    encoder = CountingEncoder()
    confirmed = confirm_noises(
        {7: result.noise}, {7: METHOD}, cohort, encoder, assets, repeats=4, controls=3, seed=11
    )
    assert confirmed.queries == sum(encoder.seen)
    learnt, erm = confirmed.learnt[7], confirmed.erm
    for disease in cohort.diseases:
        for name in ("eo_gap", "accuracy", "auroc"):
            value = learnt[f"{disease}/{name}"]
            assert isinstance(value, Interval)
            assert value.low <= value.mean <= value.high
            assert isinstance(erm[f"{disease}/{name}"], Interval)
            assert isinstance(confirmed.random[7][f"{disease}/{name}"], Interval)
        share = learnt[f"{disease}/probability_better"]
        assert isinstance(share, Interval)
        assert share.mean in {0.0, 25.0, 50.0, 75.0, 100.0}
    # Permuting the images of everyone outside the test split must not change who is evaluated.
    assert not set(assets.split.test) & set(assets.development)


def test_erm_leans_on_the_attribute_under_amplification_only(cohort: Cohort) -> None:
    def gap(amplification: float) -> float:
        scoring = replace(SCORING, repeats=8)
        bias = replace(TOY_BIAS, gap=amplification)
        ready = prepare(
            cohort, ToyEncoder(), split=SplitConfig(), bias=bias, scoring=scoring, seed=5
        )
        value = score_reference(cohort, ready)["eo_gap"]
        assert isinstance(value, Interval)
        return value.mean

    assert gap(0.7) > gap(0.0) + 15


def test_a_noise_free_trial_has_no_psnr_and_no_controls(
    cohort: Cohort, assets: StudyAssets
) -> None:
    from ude_core.noise import zero_noise
    from ude_core.scoring import score_noise

    scored = score_noise(zero_noise(16), METHOD, cohort, ToyEncoder(), assets, seed=1)
    assert not isinstance(scored.metrics["psnr_db"], Interval)
    assert scored.metrics["ssim"] == Interval(1.0, 1.0, 1.0)
    assert "eo_gap_vs_random" not in scored.metrics
    clean = score_reference(cohort, assets)
    for name in ("eo_gap", "accuracy", "attribute_auc_retrained"):
        ours, reference = scored.metrics[name], clean[name]
        assert isinstance(ours, Interval)
        assert isinstance(reference, Interval)
        assert math.isclose(ours.mean, reference.mean, abs_tol=1e-9)
    assert np.isclose(scored.queries, len(assets.scored))
