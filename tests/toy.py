"""A cohort and an encoder small enough to reason about: tests that need no chest X-ray use these."""

from dataclasses import dataclass

import numpy as np
import torch

from ude_core.cohorts.base import Cohort
from ude_core.types import BiasConfig

SIZE = 16
TOY_BIAS = BiasConfig(
    gap=0.7, favoured="female", train_per_group=40, validation_per_cell=15, test_per_cell=10
)
"""What `toy_cohort` has the patients for."""


@dataclass(frozen=True)
class ToyEncoder:
    """Block means through a fixed random layer and tanh: differentiable, bounded, instant."""

    name: str = "toy"
    embedding_dim: int = 24
    image_size: int = SIZE
    fingerprint: str = "toy-1"
    differentiable: bool = True
    batch_size: int = 64
    layer_seed: int = 4

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        pooled = torch.nn.functional.avg_pool2d(pixels, 4).flatten(1)
        layer = torch.randn(
            16, self.embedding_dim, generator=torch.Generator().manual_seed(self.layer_seed)
        )
        return torch.tanh((pooled - 0.4) @ layer * 2)


class CountingEncoder(ToyEncoder):
    """Counts every image that passes through it."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "seen", [])

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(pixels))
        return super().encode(pixels)


def toy_cohort(images: int = 400, seed: int = 0) -> Cohort:
    """Sex brightens the lower left block, each disease a block of its own; two images a patient."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(images // 2), 2)
    attribute = np.repeat(rng.integers(0, 2, images // 2), 2)
    labels = {d: rng.integers(0, 2, images) for d in ("pleural_effusion", "edema")}
    pixels = rng.normal(90, 25, (images, SIZE, SIZE))
    pixels[:, 12:, :4] += attribute[:, None, None] * 80
    pixels[:, 4:8, 4:8] += labels["pleural_effusion"][:, None, None] * 15
    pixels[:, 4:8, 8:12] += labels["edema"][:, None, None] * 15
    return Cohort(
        name="toy",
        images=np.clip(pixels, 0, 255).astype(np.uint8),
        patients=patients,
        attribute_name="sex",
        groups=("female", "male"),
        attribute=attribute,
        labels=labels,
        fingerprint=f"toy-cohort-{images}-{seed}",
    )
