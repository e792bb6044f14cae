"""Candidates to losses: the one place where learning a noise spends queries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ude_core.batching import BACKWARD, FORWARD
from ude_core.encoders.base import Encoder
from ude_core.heads import LinearHeads
from ude_core.noise import apply_noise, to_pixels
from ude_core.objective import attribute_cross_entropy, edit_objective
from ude_core.transfer import upload
from ude_core.types import (
    Embeddings,
    ImageArray,
    Indices,
    Losses,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEvaluator:
    """Scores noises against the frozen attribute head through an encoder in this process.

    What does not fit into memory is tried again in passes of half the size (`batching`).
    """

    encoder: Encoder
    attribute_head: LinearHeads
    images: ImageArray
    attribute: Int[np.ndarray, " images"]
    objective: ObjectiveName
    regularization: float  # λ
    pixels: PixelPipeline

    @torch.inference_mode()
    def evaluate(
        self, noises: NoiseBatch, minibatches: Int[np.ndarray, "rows batch"]
    ) -> Evaluation:
        """Return the objective of each candidate on its minibatch. Costs len(noises)·B queries.

        Candidate j is evaluated on minibatch row j·rows // candidates: with one row all share it,
        with one row a pair the two of a pair share theirs. Nothing is waited for before the end.
        """
        measured: list[Tensor] = []
        start = 0
        while start < len(noises):
            group = FORWARD.halving(
                self.encoder,
                self.encoder.batch_size,
                partial(self._score, noises, minibatches, start),
            )
            measured.append(group)
            start += group.shape[1]
        return Evaluation(*torch.cat(measured, dim=1).cpu().unbind())

    @torch.inference_mode()
    def evaluate_group(
        self,
        noises: NoiseBatch,
        minibatches: Int[np.ndarray, "rows batch"],
        start: int,
        limit: int,
    ) -> Evaluation:
        """Return what `evaluate` measures of the one group of candidates that begins at `start`.

        Bit for bit, for passes of `limit` images: a group is handed to the encoder in the same
        shapes, whoever evaluates the others. Raises what the allocator raises without memory.
        """
        return Evaluation(*self._score(noises, minibatches, start, limit).cpu().unbind())

    @torch.inference_mode()
    def attribute_logits(self, noise: Noise, rows: Indices) -> Float[Tensor, "chosen groups"]:
        """Return what the attribute head says of these images under `noise`. Costs len(rows) queries."""
        embeddings = embed_images(self.encoder, self.images[rows], noise, self.pixels)
        return self.attribute_head.logits(embeddings)[0]

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
            )[0]
            share = len(part) / len(minibatch)
            gradient += share * torch.autograd.grad(loss, variable)[0]
            cross_entropy = attribute_cross_entropy(logits.detach(), attribute)[0]
            sums += share * torch.stack((loss.detach(), cross_entropy))
        loss_sum, cross_entropy_sum = sums.tolist()
        return Gradient(loss_sum, cross_entropy_sum, gradient.cpu())

    def _score(
        self,
        noises: NoiseBatch,
        minibatches: Int[np.ndarray, "rows batch"],
        start: int,
        limit: int,
    ) -> Float[Tensor, "measure candidates"]:
        """Return losses and cross-entropies of the group that begins at `start`, on the device."""
        device = self.encoder.device
        group = range(start, group_end(start, len(noises), minibatches.shape[1], limit))
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


def group_end(start: int, candidates: int, batch: int, limit: int) -> int:
    """Return where the group of candidates that begins at `start` ends.

    A group is as many whole candidates as fill one pass of `limit` images, at least one; a
    candidate of more images takes several passes, which no other shares.
    """
    return min(candidates, start + max(1, limit // batch))


@torch.inference_mode()
def embed_images(
    encoder: Encoder,
    images: ImageArray,
    noise: Noise | None = None,
    pipeline: PixelPipeline = "paper",
) -> Float[Tensor, "images dim"]:
    """Return φ(x + ε) of every image, or φ(x) without a noise, on the CPU. One query an image."""
    placed = None if noise is None else upload(noise, encoder.device)
    parts: list[Tensor] = []
    start = 0
    while start < len(images):
        part = partial(_embed_part, encoder, images, placed, pipeline, start)
        parts.append(FORWARD.halving(encoder, encoder.batch_size, part))
        start += len(parts[-1])
        # Fetched one pass late: the next is under way by then, and no third piles up behind it.
        if len(parts) > 1:
            parts[-2] = parts[-2].cpu()
    return torch.cat([part.cpu() for part in parts])


def _embed_part(
    encoder: Encoder,
    images: ImageArray,
    noise: Noise | None,
    pipeline: PixelPipeline,
    start: int,
    limit: int,
) -> Embeddings:
    pixels = to_pixels(images[start : start + limit], encoder.device)
    if noise is not None:
        pixels = apply_noise(pixels, noise, pipeline)
    return encoder.encode(pixels)
