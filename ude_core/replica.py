"""The worker's side of a spread evaluation: it proposes what the learner proposes, and measures a share.

A replica holds images, encoder and head of its own, and follows the learner's optimiser: equal
state, equal generator and equal losses make an equal next iteration, so no candidate ever travels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ude_core.batching import FORWARD, is_out_of_memory
from ude_core.evaluator import LocalEvaluator
from ude_core.learner import plan
from ude_core.messages import (
    Behind,
    Measured,
    Order,
    OutOfMemory,
    Reply,
    Start,
    Unfit,
    pack_reply,
    unpack_order,
)
from ude_core.noise import zero_noise
from ude_core.optimizer import AskTellOptimizer, OptimizerState
from ude_core.optimizers import Proposing, make_optimizer
from ude_core.proposals import Proposal, proposal_digest, propose, split_rows, state_from
from ude_core.storage import digest
from ude_core.types import NEEDS_SURROGATE, Indices, Losses, MethodConfig

PriorOf = Callable[[MethodConfig], Proposing | None]
"""From a method to what proposes with it; None for all but `guided` and `jacobian`."""


def no_prior(method: MethodConfig) -> None:
    """Return None: there is no surrogate."""


@dataclass(slots=True)
class _Following:
    """A learner followed: what it will propose next is a function of this and its losses."""

    method: MethodConfig
    evaluator: LocalEvaluator
    optimizer: AskTellOptimizer[Any]
    state: OptimizerState
    rng: torch.Generator
    rows: Indices
    iterations_per_epoch: int
    iteration: int
    proposal: Proposal

    @classmethod
    def begin(cls, start: Start, evaluator: LocalEvaluator, prior: Proposing | None) -> _Following:
        method = start.method
        schedule = plan(method, len(evaluator.images))
        image_size = evaluator.images.shape[-1]
        optimizer = make_optimizer(method, image_size, prior)
        tensors, scalars = dict(start.tensors), dict(start.scalars)
        state = state_from(optimizer.init(zero_noise(image_size)), tensors, scalars)
        rng = torch.Generator()
        rng.set_state(tensors["rng"])
        _, rows = split_rows(len(evaluator.images), schedule.check_images)
        return cls(
            method=method,
            evaluator=replace(
                evaluator,
                objective=method.objective,
                regularization=method.regularization,
                target_group=method.target_group,
                pixels=method.pixels,
            ),
            optimizer=optimizer,
            state=state,
            rng=rng,
            rows=rows,
            iterations_per_epoch=schedule.per_epoch,
            iteration=scalars["iteration"],
            proposal=propose(method, optimizer, state, rows, rng),
        )

    def go_on(self, losses: Losses) -> None:
        """Tell the losses of this iteration and propose the next."""
        self.state = self.optimizer.tell(self.state, self.proposal.candidates, losses)
        self.iteration += 1
        if self.iteration % self.iterations_per_epoch == 0:
            self.state = self.optimizer.begin_epoch(self.state)
        self.proposal = propose(self.method, self.optimizer, self.state, self.rows, self.rng)


class Replica:
    """Answers orders, one at a time; a worker's process, actor or thread holds one."""

    def __init__(self, evaluator: LocalEvaluator, prior_of: PriorOf = no_prior) -> None:
        """`evaluator` holds what the learner's own does; its objective is set by each order's start.

        `prior_of` gives what guides a method. A guided replica makes the surrogate's passes again.
        """
        self._evaluator = evaluator
        self._prior_of = prior_of
        self._materials = materials_digest(evaluator)
        self._following: _Following | None = None

    def answer(self, message: bytes) -> bytes:
        """Return the reply to an order, both as `messages` writes them."""
        return pack_reply(self._answer(unpack_order(message)))

    def _answer(self, order: Order) -> Reply:
        if order.start is not None:
            if order.start.materials != self._materials:
                return Unfit("its images, encoder, batch size or attribute head are others")
            prior = self._prior_of(order.start.method)
            if order.start.method.name in NEEDS_SURROGATE and prior is None:
                return Unfit("it has no surrogate")
            self._following = _Following.begin(order.start, self._evaluator, prior)
        following = self._following
        if following is None:
            return Behind()
        if following.iteration == order.iteration - 1 and order.told is not None:
            following.go_on(order.told)
        if following.iteration != order.iteration:
            return Behind()
        try:
            return _measure(following, order)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        if self._evaluator.encoder.device.type == "cuda":
            torch.cuda.empty_cache()
        return OutOfMemory(reason)


def _measure(following: _Following, order: Order) -> Measured:
    evaluator, asked = following.evaluator, following.proposal
    FORWARD.cap(evaluator.encoder, order.limit)
    noises = asked.candidates.noises
    measured = evaluator.evaluate_groups(noises, asked.minibatches, order.groups, order.limit)
    return Measured(
        proposal_digest(noises, asked.minibatches),
        torch.stack((measured.losses, measured.cross_entropy)),
    )


def materials_digest(evaluator: LocalEvaluator) -> str:
    """Return what a learner and its replicas must have in common, as a sha256."""
    head, encoder = evaluator.attribute_head, evaluator.encoder
    return digest(
        encoder.fingerprint,
        encoder.batch_size,
        evaluator.images.shape,
        np.asarray(evaluator.attribute).tolist(),
        _bits(head.weight),
        _bits(head.bias),
    )


def _bits(tensor: Tensor) -> str:
    return tensor.contiguous().numpy().tobytes().hex()
