"""Looking at a trial before it is done: when, what is read off it, and what the look costs.

A rung is a share of the trial's own local iterations, so that trials whose R, C and B differ are
looked at after the same share of what each may spend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from ude_core.assets import StudyAssets
from ude_core.cohorts.base import Cohort
from ude_core.cohorts.bias import Draw
from ude_core.encoders.base import Encoder
from ude_core.errors import SettingError
from ude_core.evaluator import embed_images
from ude_core.image_rows import ImageRows
from ude_core.leakage import attribute_auc
from ude_core.objective import attribute_cross_entropy
from ude_core.scoring import disease_logits, score_points
from ude_core.seeding import numpy_generator
from ude_core.types import Interval, MethodConfig, Noise

FREE_METRICS = ("attribute_cross_entropy", "noise_l2")
"""What a look reads off the learner: of its last minibatch, and of ε."""


@dataclass(frozen=True, slots=True)
class RungPlan:
    """After which shares of its local iterations a trial is looked at, ascending, within (0, 1).

    With `repeats` 0 a look is free. Otherwise the noise is scored as `scoring` does, without
    controls, on the first `repeats` draws of every disease, thinned to the share `images` of their
    images; each image is paid for.
    Raises SettingError for shares that are out of range or out of order.
    """

    shares: tuple[float, ...]
    repeats: int = 0
    images: float = 1.0

    def __post_init__(self) -> None:
        ordered = list(self.shares) == sorted(set(self.shares))
        if not ordered or not all(0 < share < 1 for share in self.shares):
            raise SettingError(
                f"rungs are {self.shares} (expected ascending shares between 0 and 1)"
            )

    def due(self, iteration: int, iterations: int) -> tuple[float, ...]:
        """Return the shares that a trial of so many iterations has covered after `iteration`.

        >>> RungPlan((0.25, 0.5)).due(3, 10), RungPlan((0.25, 0.5)).due(5, 10)
        ((0.25,), (0.25, 0.5))
        """
        return tuple(s for s in self.shares if iteration >= math.ceil(s * iterations))


@dataclass(frozen=True, slots=True)
class Rung:
    """What one look found. `metrics` holds finite means under the names of the final metrics.

    Queries: `noise_queries` were spent on learning until then, `scoring_queries` by this look.
    """

    share: float
    iteration: int
    noise_queries: int
    scoring_queries: int
    metrics: Mapping[str, float]


def rung_to_json(rung: Rung) -> dict[str, Any]:
    """Return the rung as JSON values."""
    return asdict(rung) | {"metrics": dict(rung.metrics)}


def rung_from_json(content: Mapping[str, Any]) -> Rung:
    """Return what `rung_to_json` wrote."""
    return Rung(**content)


@dataclass(frozen=True, slots=True)
class Look:
    """The means of what was measured of an unfinished noise, and the queries that cost."""

    metrics: Mapping[str, float]
    queries: int


def look_at(
    noise: Noise,
    method: MethodConfig,
    cohort: Cohort,
    encoder: Encoder,
    assets: StudyAssets,
    *,
    repeats: int,
    images: float = 1.0,
) -> Look:
    """Score an unfinished noise on the study's own draws and heads' seeds, fewer of both.

    The first `repeats` draws of every disease, thinned to the share `images` of their images, the
    same for every noise of a study (whole, where a thin draw would be empty). Costs one query for
    each of those images. An undefined metric is left out.
    """
    draws: dict[str, Sequence[Draw]] = {
        disease: some[:repeats] for disease, some in assets.draws.items()
    }
    rows = _images_of(draws)
    kept = math.ceil(images * len(rows))
    thin = np.sort(numpy_generator(assets.seed, "look").permutation(rows)[:kept])
    thinned = {
        disease: [
            Draw(d.train[np.isin(d.train, thin)], d.evaluation[np.isin(d.evaluation, thin)])
            for d in some
        ]
        for disease, some in draws.items()
    }
    if all(len(d.train) and len(d.evaluation) for some in thinned.values() for d in some):
        draws, rows = dict(thinned), thin
    embeddings = embed_images(encoder, ImageRows(cohort.images, rows), noise, method.pixels)
    logits = disease_logits(
        embeddings, rows, cohort, draws, head=assets.scoring.disease_head, seed=assets.seed
    )
    measured = score_points(logits, rows, cohort)
    held_out = np.flatnonzero(np.isin(rows, assets.split.validation))
    truth = cohort.attribute[rows[held_out]]
    attribute = assets.attribute_head.logits(embeddings[held_out])[0]
    measured["attribute_auc_frozen"] = attribute_auc(attribute, truth)
    entropy = float(attribute_cross_entropy(attribute, torch.as_tensor(truth)))
    means = {
        name: value.mean
        for name, value in measured.items()
        if isinstance(value, Interval) and math.isfinite(value.mean)
    }
    if math.isfinite(entropy):
        means["attribute_cross_entropy"] = entropy
    return Look(means, len(rows))


def _images_of(draws: Mapping[str, Sequence[Draw]]) -> Int[np.ndarray, " images"]:
    """Return the images that any of the draws trains or evaluates on, sorted."""
    parts = [part for some in draws.values() for d in some for part in (d.train, d.evaluation)]
    return np.unique(np.concatenate(parts))
