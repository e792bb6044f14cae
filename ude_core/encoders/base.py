"""The seam every foundation model stands behind: pixels in, embeddings out, frozen, in eval mode."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import nn

from ude_core.types import Embeddings, Pixels


@runtime_checkable
class Encoder(Protocol):
    """A frozen encoder φ.

    Guarantees: `encode` is a pure function (same pixels, same embeddings, on one machine), never
    trains, does its own channel expansion and normalisation, and accepts pixels outside [0, 1].
    Embeddings come back float32, one row an image, in the order of the images.
    """

    @property
    def name(self) -> str: ...

    @property
    def embedding_dim(self) -> int: ...

    @property
    def image_size(self) -> int:
        """Side of the square images it takes, in pixels."""

    @property
    def fingerprint(self) -> str:
        """sha256 over architecture, weights and preprocessing: changes when an embedding would."""

    @property
    def differentiable(self) -> bool:
        """Whether autograd reaches the pixels through `encode` (white-box)."""

    @property
    def device(self) -> torch.device:
        """Where pixels should lie when they are handed over; embeddings come back there."""

    @property
    def batch_size(self) -> int:
        """How many images one forward pass takes best on this device. Part of reproducibility:
        another batch size may round differently."""

    def encode(self, pixels: Pixels) -> Embeddings:
        """Return φ(pixels), shape (images, embedding_dim). One query an image."""


@runtime_checkable
class Residual(Encoder, Protocol):
    """An open encoder whose gradients may be led past the residual branches of its network."""

    def with_skip_gradient(self, share: float) -> Encoder | None:
        """Return φ with the same embeddings, and gradients of which `share` passes each branch.

        None where its network has no residual branches that are known.
        """


@runtime_checkable
class Teachable(Encoder, Protocol):
    """An open encoder whose network may be copied and taught: what a student is made of."""

    def network_copy(self) -> nn.Module:
        """Return φ as a module of its own, pixels in and embeddings out, its weights free to learn.

        It must not draw random numbers and must have neither state nor modes beside its weights.
        """
