"""A small network that tries to read the attribute where a linear probe may fail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ude_core.types import Embeddings

HIDDEN = 32
MEMBERS = 2  # trained side by side and averaged: one small network's AUC depends on its start
STEPS = 80
_LEARNING_RATE = 1e-2
_WEIGHT_DECAY = 0.1
_INPUT_NOISE = (
    0.5  # standard deviations of a feature: what keeps a few hundred images unlearnt by heart
)


@dataclass(frozen=True, slots=True)
class MlpProbe:
    """Networks with one hidden layer, on raw embeddings; `logits` is the mean of their log-odds."""

    centre: Float[Tensor, " dim"]
    scale: Float[Tensor, " dim"]
    inner: Float[Tensor, "members dim hidden"]
    inner_bias: Float[Tensor, "members 1 hidden"]
    outer: Float[Tensor, "members hidden classes"]
    outer_bias: Float[Tensor, "members 1 classes"]

    def logits(self, embeddings: Embeddings) -> Float[Tensor, "images classes"]:
        """Return the mean log-probabilities over the members."""
        data = (embeddings - self.centre) * self.scale
        return torch.log_softmax(self._forward(data.expand(len(self.inner), -1, -1)), dim=-1).mean(
            0
        )

    def _forward(
        self, data: Float[Tensor, "members images dim"]
    ) -> Float[Tensor, "members images classes"]:
        hidden = torch.nn.functional.relu(torch.baddbmm(self.inner_bias, data, self.inner))
        return torch.baddbmm(self.outer_bias, hidden, self.outer)


def fit_mlp_probe(
    embeddings: Embeddings,
    targets: Int[np.ndarray, " images"],
    *,
    classes: int,
    rng: torch.Generator,
) -> MlpProbe:
    """Fit a fresh probe of one hidden layer by AdamW on all images at once, noise on its inputs.

    Starts and noise come from `rng` alone.
    """
    centre = embeddings.mean(0)
    scale = embeddings.std(0, correction=0).clamp_min(1e-6).reciprocal()
    data = (embeddings - centre).mul_(scale)
    noisy = torch.empty_like(data)
    target = torch.as_tensor(targets, dtype=torch.long).expand(MEMBERS, -1)
    dim = data.shape[1]
    inner = torch.randn(MEMBERS, dim, HIDDEN, generator=rng) / dim**0.5
    outer = torch.randn(MEMBERS, HIDDEN, classes, generator=rng) / HIDDEN**0.5
    probe = MlpProbe(
        centre,
        scale,
        inner.requires_grad_(),
        torch.zeros(MEMBERS, 1, HIDDEN, requires_grad=True),
        outer.requires_grad_(),
        torch.zeros(MEMBERS, 1, classes, requires_grad=True),
    )
    parameters = (probe.inner, probe.inner_bias, probe.outer, probe.outer_bias)
    solver = torch.optim.AdamW(parameters, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    with torch.enable_grad():
        for _ in range(STEPS):
            solver.zero_grad()
            noisy.normal_(generator=rng).mul_(_INPUT_NOISE).add_(data)
            logits = probe._forward(noisy.expand(MEMBERS, -1, -1))
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), target.flatten(), reduction="sum"
            )
            (loss / len(data)).backward()  # type: ignore[no-untyped-call]
            solver.step()
    return MlpProbe(centre, scale, *(parameter.detach() for parameter in parameters))
