"""Eq. 2: what a noise is scored by while it is learnt, in nats. Lower hides the attribute better."""

from __future__ import annotations

from typing import assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ude_core.noise import noise_l2
from ude_core.types import Losses, NoiseBatch, ObjectiveName


def attribute_cross_entropy(
    logits: Float[Tensor, "*batch images groups"], attribute: Int[Tensor, "*batch images"]
) -> Float[Tensor, "*batch"]:
    """Return the mean cross-entropy of the frozen attribute head g, in nats (the sum of Eq. 1)."""
    log_probability = torch.log_softmax(logits, dim=-1)
    return -log_probability.gather(-1, attribute.unsqueeze(-1)).squeeze(-1).mean(-1)


def uniform_cross_entropy(
    logits: Float[Tensor, "*batch images groups"],
) -> Float[Tensor, "*batch"]:
    """Return the mean cross-entropy from the uniform distribution to g's, in nats.

    Its floor, log(groups), is perfect confusion: minimising it does not run on to flip g.
    """
    return -torch.log_softmax(logits, dim=-1).mean(-1).mean(-1)


def group_margin(
    logits: Float[Tensor, "*batch images groups"], group: int
) -> Float[Tensor, "*batch"]:
    """Return the mean of a group's logit less the mean of the others', in nats: no bound, no sign of a."""
    others = (logits.sum(-1) - logits[..., group]) / (logits.shape[-1] - 1)
    return (logits[..., group] - others).mean(-1)


def edit_objective(
    logits: Float[Tensor, "candidates images groups"],
    attribute: Int[Tensor, "candidates images"],
    noises: NoiseBatch,
    *,
    objective: ObjectiveName,
    regularization: float,
    target_group: int = 0,
) -> Losses:
    """Return the objective of each candidate noise, shape (candidates,), in nats.

    cross_entropy: -CE(a, g(φ(x + ε))) + λ‖ε‖₂, Eq. 2 with the norm not squared.
    confusion (ours): the uniform cross-entropy in place of -CE.
    one_group (ours): minus the margin of `target_group`, so that every image looks like one group's.
    Its gradients do not cancel between groups, as those of -CE nearly do at ε = 0.
    """
    match objective:
        case "cross_entropy":
            confusion = -attribute_cross_entropy(logits, attribute)
        case "confusion":
            confusion = uniform_cross_entropy(logits)
        case "one_group":
            confusion = -group_margin(logits, target_group)
        case _:
            assert_never(objective)
    return confusion + regularization * noise_l2(noises)
