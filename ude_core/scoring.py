"""One noise, every measurement: heads retrained on φ(x + ε), and what the other rooms say of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from ude_core.assets import StudyAssets
from ude_core.baselines.base import DiseaseTask, HeadProblem, learns_noise, trained_images
from ude_core.baselines.erm import train_erm
from ude_core.baselines.registry import make_baseline
from ude_core.cohorts.base import Cohort
from ude_core.cohorts.bias import Draw
from ude_core.controls import COMPARED, against_controls, control_noises
from ude_core.encoders.base import Encoder
from ude_core.evaluator import embed_images
from ude_core.fidelity import fidelity
from ude_core.heads import HeadTask, LinearHeads
from ude_core.image_rows import ImageRows
from ude_core.leakage import attribute_metrics
from ude_core.metrics.bootstrap import score
from ude_core.metrics.disparity import evaluate
from ude_core.seeding import numpy_generator, torch_generator
from ude_core.types import (
    Embeddings,
    HeadConfig,
    Interval,
    Measured,
    MethodConfig,
    Metrics,
    Noise,
    Undefined,
    exactly,
)

Logits = Mapping[str, Float[np.ndarray, "repeats images"]]
"""For each disease the logits of every repeat; NaN where an image was not evaluated."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The metrics of one noise and the queries they cost."""

    metrics: Metrics
    queries: int


def disease_tasks(
    rows: Int[np.ndarray, " images"], cohort: Cohort, draws: Mapping[str, Sequence[Draw]]
) -> list[DiseaseTask]:
    """Return the training part of every draw, disease by disease; `rows` (sorted) are embedded."""
    return [
        DiseaseTask(
            disease=disease,
            head=HeadTask(np.searchsorted(rows, draw.train), cohort.labels[disease][draw.train]),
            attribute=cohort.attribute[draw.train],
            patients=cohort.patients[draw.train],
        )
        for disease, some in draws.items()
        for draw in some
    ]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Images as a method sees them, embedded; `train` is how it trains heads on them.

    `queries` were spent on the embedding and will be on training.
    """

    embeddings: Embeddings
    train: Callable[[HeadProblem], LinearHeads]
    queries: int


def embed_for(
    noise: Noise,
    method: MethodConfig,
    cohort: Cohort,
    encoder: Encoder,
    rows: Int[np.ndarray, " images"],
    draws: Mapping[str, Sequence[Draw]],
    *,
    clean: Callable[[], Embeddings],
    head: HeadConfig,
) -> Embedded:
    """Return the cohort's images `rows` as a trial of `method` hands them to its heads.

    A method that edits nothing asks for `clean`, φ(x) of the same images, which was paid for before.
    """
    baseline = make_baseline(method)
    images = baseline.edited(ImageRows(cohort.images, rows))
    edits = learns_noise(method.name) or baseline.edit != "nothing"
    embeddings = embed_images(encoder, images, noise, method.pixels) if edits else clean()
    trained = trained_images(disease_tasks(rows, cohort, draws))
    training = baseline.training_queries(sum(map(len, trained.values())), head.epochs)
    return Embedded(
        embeddings,
        partial(baseline.train, images=images, encoder=encoder),
        (len(rows) if edits else 0) + training,
    )


def disease_logits(
    embeddings: Embeddings,
    rows: Int[np.ndarray, " images"],
    cohort: Cohort,
    draws: Mapping[str, Sequence[Draw]],
    *,
    head: HeadConfig,
    seed: int,
    train: Callable[[HeadProblem], LinearHeads] = train_erm,
) -> Logits:
    """Train every head of every draw and return its logits, NaN outside the draw's evaluation.

    `embeddings` are those of the cohort's images `rows` (sorted), edited as a method
    does; `train` is how the method trains heads. Heads take their seeds from `seed` alone, so two
    methods are compared on the same draws and the same starts.
    """
    problem = HeadProblem(
        embeddings=embeddings,
        tasks=disease_tasks(rows, cohort, draws),
        config=head,
        rng=torch_generator(seed, "disease heads"),
    )
    heads = train(problem)
    pairs = [(disease, draw) for disease, some in draws.items() for draw in some]
    margins = heads.margins(embeddings).numpy()
    logits: dict[str, Float[np.ndarray, "repeats images"]] = {}
    for disease, some in draws.items():
        chosen = [index for index, (name, _) in enumerate(pairs) if name == disease]
        logits[disease] = np.full((len(some), len(rows)), np.nan)
        for repeat, index in enumerate(chosen):
            where = np.searchsorted(rows, some[repeat].evaluation)
            logits[disease][repeat, where] = margins[index, where]
    return logits


def score_logits(
    logits: Logits,
    rows: Int[np.ndarray, " images"],
    cohort: Cohort,
    *,
    bootstrap_draws: int,
    seed: int,
) -> Metrics:
    """Return `<disease>/<metric>` over the repeats, and each compared metric's mean over diseases."""
    metrics: Metrics = {}
    for disease, values in logits.items():
        used = ~np.isnan(values).all(axis=0)
        measured = score(
            cohort.labels[disease][rows][used],
            cohort.attribute[rows][used],
            cohort.groups,
            values[:, used],
            draws=bootstrap_draws,
            rng=numpy_generator(seed, "bootstrap", disease),
        )
        metrics |= {f"{disease}/{name}": value for name, value in measured.items()}
    return metrics | {name: mean_over_diseases(metrics, name, logits) for name in COMPARED}


def score_points(
    logits: Logits,
    rows: Int[np.ndarray, " images"],
    cohort: Cohort,
) -> Metrics:
    """Return what `score_logits` does, the means alone: for controls, whose intervals nobody reads."""
    metrics: Metrics = {}
    for disease, values in logits.items():
        tables = []
        for scores in values:
            used = ~np.isnan(scores)
            labels, attribute = cohort.labels[disease][rows][used], cohort.attribute[rows][used]
            tables.append(evaluate(labels, attribute, cohort.groups, scores[used]))
        for name in tables[0]:
            metrics[f"{disease}/{name}"] = _mean([table[name] for table in tables])
    return metrics | {name: mean_over_diseases(metrics, name, logits) for name in COMPARED}


def mean_over_diseases(
    metrics: Mapping[str, Measured], name: str, diseases: Iterable[str]
) -> Measured:
    """Return the mean of `<disease>/name`; its interval is the mean of theirs, which is conservative."""
    values = [metrics[f"{disease}/{name}"] for disease in diseases]
    for value in values:
        if isinstance(value, Undefined):
            return value
    known = [value for value in values if isinstance(value, Interval)]
    return Interval(
        math.fsum(v.mean for v in known) / len(known),
        math.fsum(v.low for v in known) / len(known),
        math.fsum(v.high for v in known) / len(known),
    )


def score_noise(
    noise: Noise,
    method: MethodConfig,
    cohort: Cohort,
    encoder: Encoder,
    assets: StudyAssets,
    *,
    seed: int,
) -> Scored:
    """Score a trial on the development patients, a learnt noise beside random ones of its own norm.

    Costs (1 + controls) x `assets.scored` queries: each image is embedded once a noise, for all
    diseases, repeats and probes together. What baselines cost beside or instead: `embed_for`.
    """
    rows = assets.scored
    images = ImageRows(cohort.images, rows)
    embedded = embed_for(
        noise,
        method,
        cohort,
        encoder,
        rows,
        assets.draws,
        clean=lambda: assets.clean_scored,
        head=assets.scoring.disease_head,
    )
    metrics = _development_metrics(embedded.embeddings, cohort, assets, embedded.train)
    metrics |= attribute_metrics(embedded.embeddings, cohort, assets)
    seen = make_baseline(method).edited(images)
    metrics |= fidelity(images, noise, method.pixels, seen=None if seen is images else seen)
    controls = []
    for draw in control_noises(noise, method, assets.scoring.controls, seed):
        control = embed_images(encoder, images, draw, method.pixels)
        controls.append(score_points(_development_logits(control, cohort, assets), rows, cohort))
    metrics |= against_controls(metrics, controls, cohort.diseases)
    return Scored(metrics, embedded.queries + len(rows) * len(controls))


def score_reference(cohort: Cohort, assets: StudyAssets) -> Metrics:
    """Return the same metrics for ERM: heads on φ(x), the embeddings `prepare` already paid for.

    `queries_attribute` is what they cost: the study's, since every trial shares them.
    """
    clean = assets.clean_scored
    metrics = _development_metrics(clean, cohort, assets)
    metrics |= attribute_metrics(clean, cohort, assets)
    return metrics | {"noise_l2": exactly(0.0), "queries_attribute": exactly(assets.queries)}


def _development_metrics(
    embeddings: Embeddings,
    cohort: Cohort,
    assets: StudyAssets,
    train: Callable[[HeadProblem], LinearHeads] = train_erm,
) -> Metrics:
    return score_logits(
        _development_logits(embeddings, cohort, assets, train),
        assets.scored,
        cohort,
        bootstrap_draws=assets.scoring.bootstrap_draws,
        seed=assets.seed,
    )


def _development_logits(
    embeddings: Embeddings,
    cohort: Cohort,
    assets: StudyAssets,
    train: Callable[[HeadProblem], LinearHeads] = train_erm,
) -> Logits:
    return disease_logits(
        embeddings,
        assets.scored,
        cohort,
        assets.draws,
        head=assets.scoring.disease_head,
        seed=assets.seed,
        train=train,
    )


def _mean(values: Sequence[float | Undefined]) -> Measured:
    undefined = next((value for value in values if isinstance(value, Undefined)), None)
    if undefined is not None:
        return undefined
    return exactly(math.fsum(v for v in values if isinstance(v, float)) / len(values))
