"""Directions to search along, from the Jacobian of an open encoder at ε; what `jacobian` asks for. Ours.

What moves an open encoder's embedding of an X-ray moves the black box's too, far more than white noise
of that length does, and images agree on it more. No loss of the surrogate is followed: which of the
directions helps is the black box's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ude_core.batching import BACKWARD
from ude_core.encoders.base import Encoder
from ude_core.errors import NonFiniteLossError
from ude_core.image_rows import Images
from ude_core.noise import apply_noise, noise_l2, to_pixels, unit
from ude_core.storage import digest
from ude_core.transfer import upload
from ude_core.types import Indices, Noise, NoiseBatch, PixelPipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class SurrogateDirections:
    """Gradients of random combinations of an open encoder's embedding: a pure function.

    Each is by ε, over `images_per_direction` random images of `images`, and of RMS 1 a pixel.
    `spread` is the standard deviation of each of the embedding's coordinates on clean images: the
    combinations are of independent normal weights over it.
    """

    encoder: Encoder
    images: Images
    spread: Float[Tensor, " dim"]
    pixels: PixelPipeline
    images_per_direction: int
    passes: int  # images through the encoder, forward and backward, an iteration

    def __call__(self, noise: Noise, count: int, rng: torch.Generator) -> NoiseBatch:
        """Return `count` directions at `noise`, shape (count, 1, height, width); 0 where there is none.

        Raises NonFiniteLossError where a gradient is not finite.
        """
        size = (count, self.images_per_direction)
        rows = torch.randint(len(self.images), size, generator=rng).numpy()
        weights = torch.randn(count, len(self.spread), generator=rng) / self.spread
        made: NoiseBatch = BACKWARD.halving(
            self.encoder, self.encoder.batch_size, partial(self._gradients, noise, rows, weights)
        )
        if not bool(torch.isfinite(noise_l2(made)).all()):
            raise NonFiniteLossError(
                f"the surrogate's Jacobian is not finite at ‖ε‖₂ {float(noise_l2(noise)):g}; lower "
                "learning_rate or set max_norm"
            )
        scaled: NoiseBatch = unit(made) * noise.numel() ** 0.5
        return scaled

    def _gradients(
        self, noise: Noise, rows: Indices, weights: Float[Tensor, "count dim"], limit: int
    ) -> NoiseBatch:
        """Return the gradients, in passes of at most `limit` images, or of one direction's."""
        count, each = rows.shape
        size = max(1, limit // each)
        parts = [
            self._pass(noise, rows[at : at + size], weights[at : at + size])
            for at in range(0, count, size)
        ]
        return torch.cat(parts).cpu()

    def _pass(self, noise: Noise, rows: Indices, weights: Float[Tensor, "count dim"]) -> NoiseBatch:
        device = self.encoder.device
        count, each = rows.shape
        own = upload(noise, device)[None].repeat(count, 1, 1, 1).requires_grad_()
        pixels = to_pixels(self.images[rows.reshape(-1)], device)
        edited = apply_noise(pixels, own.repeat_interleave(each, 0), self.pixels)
        embeddings = self.encoder.encode(edited).reshape(count, each, -1)
        combined = (embeddings.mean(1) * upload(weights, device)).sum()
        gradients: NoiseBatch = torch.autograd.grad(combined, own)[0]
        return gradients

    @property
    def fingerprint(self) -> str:
        """Changes when a direction would."""
        parts = [self.spread.tolist(), len(self.images), self.images_per_direction]
        return digest("directions", self.encoder.fingerprint, self.pixels, parts)
