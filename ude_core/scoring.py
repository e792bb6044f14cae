"""One noise, every measurement: heads retrained on φ(x + ε), fairness, leakage, fidelity, controls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int

from ude_core.assets import StudyAssets
from ude_core.baselines.base import DiseaseTask, HeadProblem, learns_noise, trained_images
from ude_core.baselines.erm import train_erm
from ude_core.baselines.registry import make_baseline
from ude_core.cohorts.base import Cohort
from ude_core.cohorts.bias import Draw
from ude_core.encoders.base import Encoder
from ude_core.evaluator import embed_images
from ude_core.fidelity import fidelity
from ude_core.heads import HeadTask, LinearHeads, fit_probe
from ude_core.image_rows import ImageRows
from ude_core.metrics.bootstrap import score
from ude_core.metrics.disparity import evaluate
from ude_core.metrics.rates import aurocs
from ude_core.noise import make_basis, noise_l2, random_noise
from ude_core.objective import attribute_cross_entropy
from ude_core.probes import fit_mlp_probe
from ude_core.seeding import numpy_generator, torch_generator
from ude_core.types import (
    Embeddings,
    HeadConfig,
    Interval,
    Measured,
    MethodConfig,
    Noise,
    Undefined,
    exactly,
)

COMPARED = ("eo_gap", "selection_rate_symmetric_gap", "accuracy")

Metrics = dict[str, Measured]
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


def attribute_metrics(embeddings: Embeddings, cohort: Cohort, assets: StudyAssets) -> Metrics:
    """Return what the embeddings of `assets.scored` still tell of the validation patients' attribute.

    attribute_auc_frozen: of g, percentage points; under 50 its prediction is flipped.
    attribute_auc_retrained: of a fresh linear probe trained on the edited training images
    (`assets.probe`).
    attribute_auc_retrained_mlp: of a fresh small network, trained on the same.
    attribute_cross_entropy: of g, nats; log(groups) is perfect confusion.
    """
    chosen = assets.probe
    train = np.searchsorted(assets.scored, chosen.train)
    validation = np.searchsorted(assets.scored, chosen.evaluation)
    truth = cohort.attribute[chosen.evaluation]
    known, told = embeddings[train], cohort.attribute[chosen.train]
    probe = fit_probe(known, told, classes=len(cohort.groups))
    network = fit_mlp_probe(
        known, told, classes=len(cohort.groups), rng=torch_generator(assets.seed, "mlp probe")
    )
    frozen = assets.attribute_head.logits(embeddings[validation])[0]
    entropy = attribute_cross_entropy(frozen, torch.as_tensor(truth))
    return {
        "attribute_auc_frozen": attribute_auc(frozen, truth),
        "attribute_auc_retrained": attribute_auc(probe.logits(embeddings[validation])[0], truth),
        "attribute_auc_retrained_mlp": attribute_auc(network.logits(embeddings[validation]), truth),
        "attribute_cross_entropy": exactly(float(entropy)),
    }


def attribute_auc(
    logits: Float[torch.Tensor, "images groups"], truth: Int[np.ndarray, " images"]
) -> Measured:
    """Return the AUC of the attribute, percentage points; one-vs-rest mean for more than two groups."""
    groups = range(1, 2) if logits.shape[1] == 2 else range(logits.shape[1])
    weights = np.ones((1, len(truth)))
    values = []
    for group in groups:
        rest = [other for other in range(logits.shape[1]) if other != group]
        odds = logits[:, group] - torch.logsumexp(logits[:, rest], dim=-1)
        own = (truth == group).astype(np.int64)
        values.append(float(aurocs(own, odds.double().numpy()[None], weights)[0, 0]))
    if any(math.isnan(value) for value in values):
        return Undefined("the validation patients are all of one attribute group")
    return exactly(100.0 * math.fsum(values) / len(values))


def control_noises(noise: Noise, method: MethodConfig, count: int, seed: int) -> list[Noise]:
    """Return `count` random noises of the norm, basis and perturbation of a learnt one.

    None where nothing was learnt: random noise is not held against itself.
    """
    norm = float(noise_l2(noise))
    if norm == 0.0 or not learns_noise(method.name):
        return []
    basis = make_basis(method.basis, noise.shape[-1], method.basis_size)
    return [
        random_noise(basis, norm, method.perturbation, torch_generator(seed, "control", index))
        for index in range(count)
    ]


def against_controls(
    metrics: Mapping[str, Measured], controls: Sequence[Metrics], diseases: Sequence[str]
) -> Metrics:
    """Return `<metric>_vs_random`: learnt minus the mean control; low and high are over the controls.

    Negative is better for gaps, positive for accuracy. `controls_beaten` is the share, in percent,
    of controls whose eo_gap is larger than the learnt noise's.
    """
    if not controls:
        return {}
    out: Metrics = {}
    for prefix in ("", *(f"{disease}/" for disease in diseases)):
        for name in COMPARED:
            out[f"{prefix}{name}_vs_random"] = _difference(metrics, controls, prefix + name)
        gap = metrics[f"{prefix}eo_gap"]
        others = [control[f"{prefix}eo_gap"] for control in controls]
        if isinstance(gap, Interval):
            beaten = [isinstance(o, Interval) and o.mean > gap.mean for o in others]
            out[f"{prefix}controls_beaten"] = exactly(100.0 * sum(beaten) / len(beaten))
    return out


def _difference(
    metrics: Mapping[str, Measured], controls: Sequence[Metrics], name: str
) -> Measured:
    learnt = metrics[name]
    if isinstance(learnt, Undefined):
        return learnt
    others = []
    for control in controls:
        other = control[name]
        if isinstance(other, Undefined):
            return Undefined(f"of a random control: {other.reason}")
        others.append(other.mean)
    mean = math.fsum(others) / len(others)
    return Interval(learnt.mean - mean, learnt.mean - max(others), learnt.mean - min(others))


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
