"""The phantom cohort shows the paper's problem, and the engine mends it, with the demo's settings."""

from dataclasses import replace

import pytest
import torch

from study import load_space
from ude_core.assets import StudyAssets, prepare
from ude_core.cohorts.base import Cohort
from ude_core.cohorts.phantom import phantom_masks
from ude_core.encoders.phantom_vit import PhantomVit, load_phantom_vit
from ude_core.scoring import score_noise, score_reference
from ude_core.types import Interval, Measured, MethodConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoder() -> PhantomVit:
    return load_phantom_vit()


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    from study.materials import load_cohort

    return load_cohort(load_space("demo"), None)


def assets_with(cohort: Cohort, encoder: PhantomVit, gap: float) -> StudyAssets:
    config = load_space("demo")
    return prepare(
        cohort,
        encoder,
        split=config.split.to_engine(),
        bias=replace(config.bias.to_engine(), gap=gap),
        scoring=config.scoring.to_engine(),
        seed=config.seed,
    )


def mean_of(measured: Measured) -> float:
    assert isinstance(measured, Interval)
    return measured.mean


def test_erm_is_unfair_under_amplification_and_fair_without(
    cohort: Cohort, encoder: PhantomVit
) -> None:
    amplified = score_reference(cohort, assets_with(cohort, encoder, 0.675))
    balanced = score_reference(cohort, assets_with(cohort, encoder, 0.0))
    gaps = {d: mean_of(amplified[f"{d}/eo_gap"]) for d in cohort.diseases}
    assert sum(gap >= 25 for gap in gaps.values()) >= 2, gaps
    without = {d: mean_of(balanced[f"{d}/eo_gap"]) for d in cohort.diseases}
    assert max(without.values()) < 12, without


def test_erasing_the_marker_is_a_fair_edit(cohort: Cohort, encoder: PhantomVit) -> None:
    """The known answer: darkening both markers' corners brings the gap down and accuracy up."""
    assets = assets_with(cohort, encoder, 0.675)
    config = load_space("demo").cohort.to_engine()
    cue = torch.from_numpy(phantom_masks(config)["cue"]).float().mean(0)
    noise = torch.zeros(1, 64, 64)
    noise[:, :20] = -0.4 * (cue[:20] > 0.02).float()
    method = MethodConfig(pixels="deploy")
    edited = score_noise(noise, method, cohort, encoder, assets, seed=1).metrics
    erm = score_reference(cohort, assets)
    assert mean_of(edited["eo_gap"]) < 0.5 * mean_of(erm["eo_gap"])
    assert mean_of(edited["accuracy"]) > mean_of(erm["accuracy"])
    assert mean_of(edited["attribute_auc_retrained"]) < 75
