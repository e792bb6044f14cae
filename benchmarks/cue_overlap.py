"""Where a learnt edit acts, on phantoms whose cues and diseases are known to the pixel.

A lift is how many times more of a layer the top 20 % of the smoothed |ε| holds than chance would:
1 is chance, 5 the most there can be. The figure is the lift of the planted sex cue on phantoms that
have one cue, the side marker; the details say how it is where a faint breast shadow is planted too,
and for coarse bases, whose coefficients cannot point at a marker.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ude_core.assets import prepare
from ude_core.cohorts.phantom import PhantomConfig, make_phantoms, phantom_masks
from ude_core.encoders.phantom_vit import load_phantom_vit
from ude_core.learner import NoiseLearner
from ude_core.saliency import lift, smoothed_magnitude, top_share
from ude_core.trial import trial_evaluator
from ude_core.types import (
    BasisName,
    BiasConfig,
    HeadConfig,
    MethodConfig,
    ScoringConfig,
    SplitConfig,
)

SIGMA, SHARE = 2.0, 0.2
TWO_CUES = PhantomConfig(patients=400, seed=1)
MARKER_ALONE = replace(TWO_CUES, breast_shadow=0.0)

WHITEBOX = MethodConfig(
    name="whitebox",
    objective="confusion",
    learning_rate=0.003,
    max_norm=1.0,
    batch_size=32,
    epochs=6,
    pixels="deploy",
)
GEZO = MethodConfig(
    objective="confusion",
    batch="per_iteration",
    batch_size=32,
    samples=5,
    step_size=0.06,
    momentum=0.5,
    regularization=0.003,
    queries=9000,
    pixels="deploy",
)
"""As the demo searches it, in the middle of its ranges, but for the basis."""


def lifts(phantoms: PhantomConfig, method: MethodConfig, *, seed: int = 0) -> dict[str, float]:
    """Learn a noise on `phantoms` and return the lift of the cue, its two parts, and each disease.

    A part that is not planted is left out.
    """
    cohort, encoder = make_phantoms(phantoms), load_phantom_vit()
    assets = prepare(
        cohort,
        encoder,
        split=SplitConfig(),
        bias=BiasConfig(train_per_group=20, validation_per_cell=5, test_per_cell=5),
        scoring=ScoringConfig(
            repeats=1, attribute_head=HeadConfig(learning_rate=0.001, standardize=True)
        ),
        seed=seed,
    )
    learner = NoiseLearner(method, trial_evaluator(method, cohort, encoder, assets), seed)
    while not learner.finished:
        learner.advance()
    region = top_share(smoothed_magnitude(learner.noise, SIGMA), SHARE)
    everything = phantom_masks(phantoms)
    layers: dict[str, Any] = {
        "cue": everything["cue"],
        "marker": phantom_masks(replace(phantoms, breast_shadow=0.0))["cue"],
        "breast shadow": phantom_masks(replace(phantoms, marker_contrast=0.0))["cue"],
        **{name: mask for name, mask in everything.items() if name != "cue"},
    }
    return {
        name: round(lift(region, mask.mean(axis=0)), 2)
        for name, mask in layers.items()
        if mask.any()
    }


def cue_overlap() -> tuple[float, dict[str, Any]]:
    bases: tuple[tuple[BasisName, int], ...] = (("low_frequency", 6), ("grid", 6), ("pixel", 14))
    learnt = {
        f"two cues, GeZO, {basis}" + (f" of {size}" if basis != "pixel" else ""): lifts(
            TWO_CUES, replace(GEZO, basis=basis, basis_size=size)
        )
        for basis, size in bases
    }
    alone = lifts(MARKER_ALONE, WHITEBOX)
    return alone["cue"], {
        "marker alone, white-box": alone,
        "two cues, white-box": lifts(TWO_CUES, WHITEBOX),
        **learnt,
    }
