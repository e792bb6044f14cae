"""Candidates to losses: the one place where learning a noise spends queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ude_core.batching import BACKWARD, FORWARD
from ude_core.encoders.base import Encoder
from ude_core.heads import LinearHeads
from ude_core.image_rows import Images
from ude_core.noise import apply_noise, to_pixels
from ude_core.objective import attribute_cross_entropy, edit_objective
from ude_core.transfer import upload
from ude_core.types import (
    Embeddings,
    Indices,
    Losses,
    MethodConfig,
    Noise,
    NoiseBatch,
    ObjectiveName,
    PixelPipeline,
)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a set of candidates was measured to be, each over its own minibatch; nats."""

    losses: Losses
    cross_entropy: Losses


@dataclass(frozen=True, slots=True)
class Gradient:
    """The objective of one noise on one minibatch, and its gradient by autograd."""

    loss: float
    cross_entropy: float
    gradient: Noise


class Evaluator(Protocol):
    """Where a learner spends its queries, on training images and their attribute."""

    @property
    def images(self) -> Images: ...

    @property
    def attribute(self) -> Int[np.ndarray, " images"]: ...

    def evaluate(
        self, noises: NoiseBatch, minibatches: Int[np.ndarray, "rows batch"]
    ) -> Evaluation:
        """Return the objective of each candidate on its minibatch. Costs len(noises)·B queries.

        Candidate j is evaluated on minibatch row j·rows // candidates: with one row all share it,
        with one row a pair the two of a pair share theirs.
        """

    def attribute_logits(self, noise: Noise, rows: Indices) -> Float[Tensor, "chosen groups"]:
        """Return what the attribute head says of these images under `noise`. Costs len(rows) queries."""

    def gradient(self, noise: Noise, minibatch: Indices) -> Gradient:
        """Return the objective of `noise` and its gradient, white-box. Costs B queries."""

    def embed(
        self, noises: NoiseBatch, minibatches: Int[np.ndarray, "noises batch"]
    ) -> tuple[Float[Tensor, "noises batch dim"], Evaluation]:
        """Return the embeddings of each noise's images, and what they say. Costs noises·B queries."""


@runtime_checkable
class Following(Protocol):
    """An evaluator that must know where its learner stands, since others propose in its place."""

    def follow(
        self, method: MethodConfig, tensors: dict[str, Tensor], scalars: dict[str, Any]
    ) -> None:
        """Hear a learner's state before every iteration, as its `state_dict` tells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEvaluator:
    """Scores noises against the frozen attribute head through an encoder in this process.

    What does not fit into memory is tried again in passes of half the size (`batching`).
    """

    encoder: Encoder
    attribute_head: LinearHeads
    images: Images
    attribute: Int[np.ndarray, " images"]
    objective: ObjectiveName
    regularization: float  # λ
    pixels: PixelPipeline
    target_group: int = 0

    @torch.inference_mode()
    def evaluate(
        self, noises: NoiseBatch, minibatches: Int[np.ndarray, "rows batch"]
    ) -> Evaluation:
        """Return the objective of each candidate; see `Evaluator`. Nothing waits before the end."""
        measured: list[Tensor] = []
        remaining = range(len(noises))
        while remaining:
            group = FORWARD.halving(
                self.encoder,
                self.encoder.batch_size,
                partial(self._score_first, noises, minibatches, remaining),
            )
            measured.append(group)
            remaining = remaining[group.shape[1] :]
        return Evaluation(*torch.cat(measured, dim=1).cpu().unbind())

    @torch.inference_mode()
    def evaluate_groups(
        self,
        noises: NoiseBatch,
        minibatches: Int[np.ndarray, "rows batch"],
        groups: Sequence[range],
        limit: int,
    ) -> Evaluation:
        """Return what `evaluate` measures of some of its groups (`group_ranges`), in passes of `limit`.

        Bit for bit: a group is handed to the encoder in the same shapes, whoever evaluates the
        others. Raises what the allocator raises where memory runs out.
        """
        values = [self._score(noises, minibatches, group, limit) for group in groups]
        return Evaluation(*torch.cat(values, dim=1).cpu().unbind() if values else torch.empty(2, 0))

    @torch.inference_mode()
    def attribute_logits(self, noise: Noise, rows: Indices) -> Float[Tensor, "chosen groups"]:
        """Return what the attribute head says of these images under `noise`. Costs len(rows) queries."""
        embeddings = embed_images(self.encoder, self.images[rows], noise, self.pixels)
        return self.attribute_head.logits(embeddings)[0]

    @torch.inference_mode()
    def embed(
        self, noises: NoiseBatch, minibatches: Int[np.ndarray, "noises batch"]
    ) -> tuple[Float[Tensor, "noises batch dim"], Evaluation]:
        """Return the embeddings of each noise's images, and what they say. Costs noises·B queries."""
        embeddings = torch.stack(
            [
                embed_images(self.encoder, self.images[rows], noise, self.pixels)
                for noise, rows in zip(noises, minibatches, strict=True)
            ]
        )
        logits = self.attribute_head.logits(embeddings)[0]
        attribute = torch.as_tensor(self.attribute[minibatches])
        losses = edit_objective(
            logits,
            attribute,
            noises,
            objective=self.objective,
            regularization=self.regularization,
            target_group=self.target_group,
        )
        return embeddings, Evaluation(losses, attribute_cross_entropy(logits, attribute))

    def gradient(self, noise: Noise, minibatch: Indices) -> Gradient:
        """Return the objective of `noise` and its gradient, white-box. Costs B queries."""
        return BACKWARD.halving(
            self.encoder, len(minibatch), partial(self._gradient, noise, minibatch)
        )

    def _gradient(self, noise: Noise, minibatch: Indices, limit: int) -> Gradient:
        """Return the mean over parts of at most `limit` images, each weighted by its images."""
        device = self.encoder.device
        variable = upload(noise.detach(), device).clone().requires_grad_()
        head = self.attribute_head.to(device)
        sums = torch.zeros(2, device=device)
        gradient = torch.zeros_like(variable)
        for start in range(0, len(minibatch), limit):
            part = minibatch[start : start + limit]
            edited = apply_noise(to_pixels(self.images[part], device), variable, self.pixels)
            logits = head.logits(self.encoder.encode(edited))
            attribute = upload(torch.as_tensor(self.attribute[part])[None], device)
            loss = edit_objective(
                logits,
                attribute,
                variable[None],
                objective=self.objective,
                regularization=self.regularization,
                target_group=self.target_group,
            )[0]
            share = len(part) / len(minibatch)
            gradient += share * torch.autograd.grad(loss, variable)[0]
            cross_entropy = attribute_cross_entropy(logits.detach(), attribute)[0]
            sums += share * torch.stack((loss.detach(), cross_entropy))
        loss_sum, cross_entropy_sum = sums.tolist()
        return Gradient(loss_sum, cross_entropy_sum, gradient.cpu())

    def _score_first(
        self,
        noises: NoiseBatch,
        minibatches: Int[np.ndarray, "rows batch"],
        remaining: range,
        limit: int,
    ) -> Float[Tensor, "measure candidates"]:
        first = group_ranges(remaining, minibatches.shape[1], limit)[0]
        return self._score(noises, minibatches, first, limit)

    def _score(
        self,
        noises: NoiseBatch,
        minibatches: Int[np.ndarray, "rows batch"],
        group: range,
        limit: int,
    ) -> Float[Tensor, "measure candidates"]:
        """Return losses and cross-entropies of one group of candidates, on the device."""
        device = self.encoder.device
        chosen = minibatches[[j * len(minibatches) // len(noises) for j in group]]
        noise = upload(noises[group.start : group.stop], device)
        embeddings = [
            self._embed(noise, chosen[:, first : first + limit])
            for first in range(0, chosen.shape[1], limit)
        ]
        head = self.attribute_head.to(device)
        logits = head.logits(torch.cat(embeddings, dim=1))[0]
        attribute = upload(torch.as_tensor(self.attribute[chosen]), device)
        losses = edit_objective(
            logits,
            attribute,
            noise,
            objective=self.objective,
            regularization=self.regularization,
            target_group=self.target_group,
        )
        return torch.stack((losses, attribute_cross_entropy(logits, attribute)))

    def _embed(
        self, noises: NoiseBatch, chosen: Int[np.ndarray, "candidates part"]
    ) -> Float[Tensor, "candidates part dim"]:
        """Return the embeddings of each candidate's images, in one pass."""
        clean = to_pixels(self.images[chosen.reshape(-1)], self.encoder.device)
        clean = clean.reshape(*chosen.shape, *clean.shape[1:])
        edited = apply_noise(clean, noises[:, None], self.pixels).flatten(0, 1)
        return self.encoder.encode(edited).reshape(*chosen.shape, -1)


def group_ranges(candidates: range, batch: int, limit: int) -> list[range]:
    """Return the candidates cut into groups, in order.

    A group is as many whole candidates as fill one pass of `limit` images, at least one; a
    candidate of more images takes several passes, which no other shares.
    """
    size = max(1, limit // batch)
    return [candidates[at : at + size] for at in range(0, len(candidates), size)]


@torch.inference_mode()
def embed_images(
    encoder: Encoder,
    images: Images,
    noise: Noise | None = None,
    pipeline: PixelPipeline = "paper",
) -> Float[Tensor, "images dim"]:
    """Return φ(x + ε) of every image, or φ(x) without a noise, on the CPU. One query an image."""
    placed = None if noise is None else upload(noise, encoder.device)
    embeddings = torch.empty(len(images), encoder.embedding_dim)
    start, before = 0, slice(0, 0)
    made = embeddings[before]
    while start < len(images):
        part = partial(_embed_part, encoder, images, placed, pipeline, start)
        coming = FORWARD.halving(encoder, encoder.batch_size, part)
        # Fetched one pass late: the next is under way by then, and no third piles up behind it.
        embeddings[before] = made.cpu()
        before, made = slice(start, start + len(coming)), coming
        start = before.stop
    embeddings[before] = made.cpu()
    return embeddings


def _embed_part(
    encoder: Encoder,
    images: Images,
    noise: Noise | None,
    pipeline: PixelPipeline,
    start: int,
    limit: int,
) -> Embeddings:
    pixels = to_pixels(images[start : start + limit], encoder.device)
    if noise is not None:
        pixels = apply_noise(pixels, noise, pipeline)
    return encoder.encode(pixels)
