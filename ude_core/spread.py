"""One iteration's candidates over several workers: only losses travel, and no bit of ε changes.

Each worker is a replica of the learner (`replica`): it proposes the same candidates from the same
generator, measures its share, and is told everybody's losses with the next order. Shares are whole
groups of candidates, cut as one worker alone cuts them, so a loss is the same whoever measures it,
however many workers there are, and whichever of them are lost on the way.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ude_core.batching import FORWARD, is_out_of_memory, pass_limit
from ude_core.evaluator import Evaluation, Gradient, LocalEvaluator, group_ranges
from ude_core.image_rows import Images
from ude_core.messages import (
    Behind,
    Measured,
    Order,
    OutOfMemory,
    Start,
    Unfit,
    pack_order,
    unpack_reply,
)
from ude_core.proposals import proposal_digest
from ude_core.replica import materials_digest
from ude_core.types import Indices, Losses, MethodConfig, Noise, NoiseBatch

log = logging.getLogger(__name__)


class WorkerLostError(RuntimeError):
    """A worker is gone, or does not answer in time."""


class Crew(Protocol):
    """Workers that each hold a `Replica`, reached by number from 0. One order at a time each."""

    def __len__(self) -> int: ...

    def send(self, worker: int, message: bytes, images: int) -> None:
        """Hand a worker an order, without waiting for its reply, that sends `images` through the encoder.

        Raises WorkerLostError.
        """

    def receive(self, worker: int) -> bytes:
        """Wait for the reply to the last order of this worker. Raises WorkerLostError."""


class SpreadEvaluator:
    """Evaluates candidates here and on a crew; everything else here. See `evaluator.Evaluator`.

    A lost worker's share is measured by those that are left, in the end by this process alone, and
    a learner that begins later asks the whole crew again.
    """

    def __init__(self, local: LocalEvaluator, crew: Crew) -> None:
        self._local = local
        self._crew = crew
        self._materials = materials_digest(local)
        self._start: Start | None = None
        self._iteration = -1
        self._told: Losses | None = None
        self._in_step: set[int] = set()
        self._lost: set[int] = set()

    @property
    def images(self) -> Images:
        return self._local.images

    @property
    def attribute(self) -> Int[np.ndarray, " images"]:
        return self._local.attribute

    def attribute_logits(self, noise: Noise, rows: Indices) -> Float[Tensor, "chosen groups"]:
        """Return what the attribute head says of these images under `noise`, measured here."""
        return self._local.attribute_logits(noise, rows)

    def embed(
        self, noises: NoiseBatch, minibatches: Int[np.ndarray, "noises batch"]
    ) -> tuple[Float[Tensor, "noises batch dim"], Evaluation]:
        """Return the embeddings of each noise's images, and what they say, measured here."""
        return self._local.embed(noises, minibatches)

    def gradient(self, noise: Noise, minibatch: Indices) -> Gradient:
        """Return the objective of `noise` and its gradient, measured here."""
        return self._local.gradient(noise, minibatch)

    def follow(
        self, method: MethodConfig, tensors: dict[str, Tensor], scalars: dict[str, Any]
    ) -> None:
        """Hear where the learner stands: whoever is not in step starts from there."""
        before, iteration = self._start, int(scalars["iteration"])
        goes_on = before is not None and before.method == method and self._told is not None
        if not goes_on or iteration != self._iteration + 1:
            self._in_step.clear()
            self._lost.clear()
            self._told = None
        self._iteration = iteration
        self._start = Start(method, self._materials, tensors, scalars)

    def evaluate(
        self, noises: NoiseBatch, minibatches: Int[np.ndarray, "rows batch"]
    ) -> Evaluation:
        """Return the objective of each candidate, bit for bit what the local evaluator returns.

        `follow` comes first. Costs len(noises)·B queries, over all workers together.
        """
        proposal = proposal_digest(noises, minibatches)
        batch, encoder = minibatches.shape[1], self._local.encoder
        measured: dict[int, Tensor] = {}
        begun: set[int] = set()
        limit = pass_limit(encoder)
        pending = group_ranges(range(len(noises)), batch, limit)
        informed = False
        while pending:
            here, *shares = deal(pending, 1 + len(self._crew) - len(self._lost))
            workers = [w for w in range(len(self._crew)) if w not in self._lost]
            # Those without a share are told the last losses all the same, once: to stay in step.
            asked = {w: s for w, s in zip(workers, shares, strict=True) if s or not informed}
            sent = {w: s for w, s in asked.items() if self._send(w, s, batch, limit, begun)}
            failure = self._measure_here(noises, minibatches, here, limit, measured)
            for worker, share in sent.items():
                reply = self._receive(worker, share, proposal, begun, measured)
                failure = failure or reply
            informed = True
            if failure:
                limit = FORWARD.lower(encoder, limit, failure)
            pending = [
                part
                for group in pending
                if group.start not in measured
                for part in group_ranges(group, batch, limit)
            ]
        values = torch.cat([measured[start] for start in sorted(measured)], dim=1)
        self._told = values[0]
        return Evaluation(*values.unbind())

    def _measure_here(
        self,
        noises: NoiseBatch,
        minibatches: Int[np.ndarray, "rows batch"],
        share: Sequence[range],
        limit: int,
        measured: dict[int, Tensor],
    ) -> str:
        """Measure a share in this process; return why memory ran out, or nothing."""
        try:
            found = self._local.evaluate_groups(noises, minibatches, share, limit)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return str(error).partition("\n")[0]
        measured |= _by_group(share, torch.stack((found.losses, found.cross_entropy)))
        return ""

    def _send(
        self, worker: int, share: Sequence[range], batch: int, limit: int, begun: set[int]
    ) -> bool:
        """Hand a worker its share, with a start where it needs one; whether that went well."""
        start = None
        if worker not in self._in_step:
            start = self._start
            begun.add(worker)
        order = Order(self._iteration, share, limit, self._told, start)
        try:
            self._crew.send(worker, pack_order(order), batch * sum(map(len, share)))
        except WorkerLostError as error:
            self._lose(worker, str(error))
            return False
        return True

    def _receive(
        self,
        worker: int,
        share: Sequence[range],
        proposal: str,
        begun: set[int],
        measured: dict[int, Tensor],
    ) -> str:
        """Take a worker's reply; return why its memory ran out, or nothing."""
        try:
            reply = unpack_reply(self._crew.receive(worker))
        except WorkerLostError as error:
            self._lose(worker, str(error))
            return ""
        match reply:
            case Measured(proposal=theirs, values=values) if theirs == proposal:
                self._in_step.add(worker)
                measured |= _by_group(share, values)
            case OutOfMemory(reason=reason):
                self._in_step.add(worker)
                return reason
            case Unfit(reason=reason):
                self._lose(worker, reason)
            case Measured() | Behind():
                self._in_step.discard(worker)
                if worker in begun:
                    self._lose(worker, "it proposes other candidates from the same state")
        return ""

    def _lose(self, worker: int, reason: str) -> None:
        self._lost.add(worker)
        self._in_step.discard(worker)
        log.warning("worker %d of %d is left out: %s", worker + 1, len(self._crew), reason)


def _by_group(
    share: Sequence[range], values: Float[Tensor, "measure candidates"]
) -> dict[int, Tensor]:
    """Return each group's values under its first candidate."""
    parts = torch.split(values, [len(group) for group in share], dim=1)
    return {group.start: part for group, part in zip(share, parts, strict=True)}


def deal(groups: Sequence[range], workers: int) -> list[Sequence[range]]:
    """Return `workers` shares of consecutive groups, as even as they go; the first are the larger.

    >>> deal([range(0, 2), range(2, 4), range(4, 6)], 2)
    [[range(0, 2), range(2, 4)], [range(4, 6)]]
    """
    size, more = divmod(len(groups), workers)
    bounds = [size * worker + min(worker, more) for worker in range(workers + 1)]
    return [groups[first:last] for first, last in pairwise(bounds)]
