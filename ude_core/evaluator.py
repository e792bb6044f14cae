"""Candidates to losses: the one place where learning a noise spends queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from ude_core.encoders.base import Encoder
from ude_core.heads import LinearHeads
from ude_core.noise import apply_noise, to_pixels
from ude_core.objective import attribute_cross_entropy, edit_objective
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
    """Scores noises against the frozen attribute head through an encoder in this process."""

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
        with one row a pair the two of a pair share theirs. A candidate always starts a new batch of
        the encoder's, so its loss does not depend on which others are evaluated beside it.
        """
        candidates, batch = len(noises), minibatches.shape[1]
        owner = np.arange(candidates) * len(minibatches) // candidates
        device = self.encoder.device
        together = max(1, self.encoder.batch_size // batch)
        logits = []
        for start in range(0, candidates, together):
            chosen = minibatches[owner[start : start + together]]
            clean = to_pixels(self.images[chosen.reshape(-1)], device)
            clean = clean.reshape(*chosen.shape, *clean.shape[1:])
            noise = noises[start : start + together].to(device)
            edited = apply_noise(clean, noise[:, None], self.pixels).flatten(0, 1)
            embeddings = self._encode(edited)
            logits.append(self.attribute_head.logits(embeddings)[0].reshape(*chosen.shape, -1))
        attribute = torch.as_tensor(self.attribute[minibatches[owner]])
        joined = torch.cat(logits)
        losses = edit_objective(
            joined,
            attribute,
            noises,
            objective=self.objective,
            regularization=self.regularization,
        )
        return Evaluation(losses, attribute_cross_entropy(joined, attribute))

    @torch.inference_mode()
    def attribute_logits(self, noise: Noise, rows: Indices) -> Float[torch.Tensor, "chosen groups"]:
        """Return what the attribute head says of these images under `noise`. Costs len(rows) queries."""
        embeddings = embed_images(self.encoder, self.images[rows], noise, self.pixels)
        return self.attribute_head.logits(embeddings)[0]

    def gradient(self, noise: Noise, minibatch: Indices) -> Gradient:
        """Return the objective of `noise` and its gradient, white-box. Costs B queries."""
        variable = noise.detach().clone().requires_grad_()
        clean = to_pixels(self.images[minibatch], self.encoder.device)
        edited = apply_noise(clean, variable.to(self.encoder.device), self.pixels)
        logits = self.attribute_head.logits(self.encoder.encode(edited).cpu())
        attribute = torch.as_tensor(self.attribute[minibatch])[None]
        loss = edit_objective(
            logits,
            attribute,
            variable[None],
            objective=self.objective,
            regularization=self.regularization,
        )[0]
        (gradient,) = torch.autograd.grad(loss, variable)
        cross_entropy = attribute_cross_entropy(logits.detach(), attribute)[0]
        return Gradient(float(loss.detach()), float(cross_entropy), gradient)

    def _encode(self, pixels: torch.Tensor) -> Embeddings:
        return torch.cat(
            [
                self.encoder.encode(part).cpu()
                for part in torch.split(pixels, self.encoder.batch_size)
            ]
        )


@torch.inference_mode()
def embed_images(
    encoder: Encoder,
    images: ImageArray,
    noise: Noise | None = None,
    pipeline: PixelPipeline = "paper",
) -> Float[torch.Tensor, "images dim"]:
    """Return φ(x + ε) of every image, or φ(x) without a noise, on the CPU. One query an image."""
    parts = []
    for start in range(0, len(images), encoder.batch_size):
        pixels = to_pixels(images[start : start + encoder.batch_size], encoder.device)
        if noise is not None:
            pixels = apply_noise(pixels, noise.to(encoder.device), pipeline)
        parts.append(encoder.encode(pixels).cpu())
    return torch.cat(parts)
