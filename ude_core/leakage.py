"""What embeddings still tell of the attribute: the frozen classifier's word, and fresh probes'."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int

from ude_core.assets import StudyAssets
from ude_core.cohorts.base import Cohort
from ude_core.heads import fit_probe
from ude_core.metrics.rates import aurocs
from ude_core.objective import attribute_cross_entropy
from ude_core.probes import fit_mlp_probe
from ude_core.seeding import torch_generator
from ude_core.types import Embeddings, Measured, Metrics, Undefined, exactly


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
    held_out = embeddings[validation]
    frozen = assets.attribute_head.logits(held_out)[0]
    entropy = attribute_cross_entropy(frozen, torch.as_tensor(truth))
    return {
        "attribute_auc_frozen": attribute_auc(frozen, truth),
        "attribute_auc_retrained": attribute_auc(probe.logits(held_out)[0], truth),
        "attribute_auc_retrained_mlp": attribute_auc(network.logits(held_out), truth),
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
