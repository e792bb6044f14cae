"""The untouched test split, once: chosen noises, ERM and norm-matched random noises on fresh draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ude_core.assets import StudyAssets
from ude_core.cohorts.base import Cohort
from ude_core.cohorts.bias import Draw, confirmation_draws
from ude_core.controls import against_controls, control_noises
from ude_core.encoders.base import Encoder
from ude_core.evaluator import embed_images
from ude_core.image_rows import ImageRows
from ude_core.metrics.disparity import evaluate
from ude_core.metrics.paired import paired_differences
from ude_core.scoring import (
    Logits,
    disease_logits,
    embed_for,
    score_logits,
    score_points,
)
from ude_core.seeding import derive_seed, numpy_generator
from ude_core.types import (
    Indices,
    Interval,
    Measured,
    MethodConfig,
    Metrics,
    Noise,
    PixelPipeline,
    Undefined,
    exactly,
)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What the test split says.

    `learnt[key]` also carries every `_vs_random` metric, `controls_beaten`,
    `<disease>/<metric>_vs_erm`: its own minus ERM's, paired (`metrics.paired`), and
    `<disease>/probability_better`: the share, in percent, of fresh draws whose eo_gap is under
    ERM's on the same draw. `random[key]` is the mean over the controls of that noise.
    """

    erm: Metrics
    learnt: Mapping[int, Metrics]
    random: Mapping[int, Metrics]
    queries: int


def confirm_noises(
    noises: Mapping[int, Noise],
    methods: Mapping[int, MethodConfig],
    cohort: Cohort,
    encoder: Encoder,
    assets: StudyAssets,
    *,
    repeats: int,
    controls: int | Mapping[int, int],
    seed: int,
) -> Confirmation:
    """Score trials on the test patients over fresh draws; heads train on development patients.

    A trial is a noise and its method; a baseline's noise is 0, and it trains its heads in its own
    way. All noises, their controls and ERM meet the same draws, head starts and bootstrap
    resamples, so what is said of one noise does not depend on the others. `controls` may be given
    by key.
    """
    draws = confirmation_draws(cohort, assets.split, assets.bias, repeats, seed)
    rows = _used_rows(draws)
    images = ImageRows(cohort.images, rows)
    spent = 0

    head = assets.scoring.disease_head

    def logits_of(noise: Noise, pipeline: PixelPipeline) -> Logits:
        nonlocal spent
        spent += len(rows)
        embeddings = embed_images(encoder, images, noise, pipeline)
        return disease_logits(embeddings, rows, cohort, draws, head=head, seed=seed)

    def logits_by(noise: Noise, method: MethodConfig) -> Logits:
        nonlocal spent
        found = embed_for(
            noise, method, cohort, encoder, rows, draws, clean=lambda: clean, head=head
        )
        spent += found.queries
        return disease_logits(
            found.embeddings, rows, cohort, draws, head=head, seed=seed, train=found.train
        )

    def with_intervals(logits: Logits) -> Metrics:
        resamples = assets.scoring.bootstrap_draws
        return score_logits(logits, rows, cohort, bootstrap_draws=resamples, seed=seed)

    clean = embed_images(encoder, images)
    spent += len(rows)
    erm_logits = disease_logits(clean, rows, cohort, draws, head=head, seed=seed)
    erm = with_intervals(erm_logits)
    learnt: dict[int, Metrics] = {}
    random: dict[int, Metrics] = {}
    for key, noise in noises.items():
        method = methods[key]
        logits = logits_by(noise, method)
        metrics = with_intervals(logits)
        own = derive_seed(seed, "controls", key)
        count = controls if isinstance(controls, int) else controls[key]
        others = [
            score_points(logits_of(control, method.pixels), rows, cohort)
            for control in control_noises(noise, method, count, own)
        ]
        metrics |= against_controls(metrics, others, cohort.diseases)
        for disease in cohort.diseases:
            better = _share_better(logits[disease], erm_logits[disease], disease, rows, cohort)
            metrics[f"{disease}/probability_better"] = better
            against = paired_differences(
                cohort.labels[disease][rows],
                cohort.attribute[rows],
                cohort.groups,
                logits[disease],
                erm_logits[disease],
                metrics=compared_with_erm(cohort.groups),
                draws=assets.scoring.bootstrap_draws,
                rng=numpy_generator(seed, "paired", disease),
            )
            metrics |= {f"{disease}/{name}_vs_erm": value for name, value in against.items()}
        learnt[key] = metrics
        if others:
            random[key] = _mean_of(others)
    return Confirmation(erm, learnt, random, spent)


def compared_with_erm(groups: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics whose difference to ERM's is measured: two of all, two of every group."""
    rates = (f"{rate}.{group}" for group in groups for rate in ("tpr", "tnr"))
    return ("eo_gap", "accuracy", *rates)


def _share_better(
    ours: Float[np.ndarray, "repeats images"],
    erm: Float[np.ndarray, "repeats images"],
    disease: str,
    rows: Indices,
    cohort: Cohort,
) -> Measured:
    """Return the share, in percent, of draws whose eo_gap is under ERM's on the same draw."""
    better = 0
    for mine, reference in zip(ours, erm, strict=True):
        learnt, baseline = (_eo_gap(scores, disease, rows, cohort) for scores in (mine, reference))
        if isinstance(learnt, Undefined):
            return learnt
        if isinstance(baseline, Undefined):
            return baseline
        better += learnt < baseline
    return exactly(100.0 * better / len(ours))


def _eo_gap(
    scores: Float[np.ndarray, " images"], disease: str, rows: Indices, cohort: Cohort
) -> float | Undefined:
    used = ~np.isnan(scores)
    labels, attribute = cohort.labels[disease][rows][used], cohort.attribute[rows][used]
    return evaluate(labels, attribute, cohort.groups, scores[used])["eo_gap"]


def _used_rows(draws: Mapping[str, Sequence[Draw]]) -> Indices:
    parts = [
        part for some in draws.values() for draw in some for part in (draw.train, draw.evaluation)
    ]
    return np.unique(np.concatenate(parts))


def _mean_of(several: Sequence[Metrics]) -> Metrics:
    """Return the mean over controls; low and high are the smallest and the largest control."""
    out: Metrics = {}
    for name in several[0]:
        values = [metrics[name] for metrics in several]
        undefined = next((v for v in values if isinstance(v, Undefined)), None)
        if undefined is not None:
            out[name] = undefined
            continue
        means = [v.mean for v in values if isinstance(v, Interval)]
        out[name] = Interval(math.fsum(means) / len(means), min(means), max(means))
    return out
