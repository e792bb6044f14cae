"""ERM: heads on φ(x) by cross-entropy alone; how a learnt noise's heads are trained too (Eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass

from ude_core.baselines.base import Edit, HeadProblem
from ude_core.encoders.base import Encoder
from ude_core.heads import LinearHeads, train_heads
from ude_core.image_rows import Images
from ude_core.noise import zero_noise
from ude_core.types import Noise


def train_erm(problem: HeadProblem) -> LinearHeads:
    """Return one head a task, trained on the mean cross-entropy."""
    return train_heads(
        problem.embeddings,
        problem.head_tasks,
        classes=2,
        config=problem.config,
        rng=problem.rng,
    )


@dataclass(frozen=True, slots=True)
class Erm:
    """Images as they are, heads by plain cross-entropy. The other baselines change parts of it."""

    edit: Edit = "nothing"

    def noise(self, image_size: int, seed: int) -> Noise:
        """Return ε = 0."""
        return zero_noise(image_size)

    def edited(self, images: Images) -> Images:
        """Return the images as they are."""
        return images

    def train(self, problem: HeadProblem, images: Images, encoder: Encoder) -> LinearHeads:
        """Return heads trained on the mean cross-entropy."""
        return train_erm(problem)

    def training_queries(self, images: int, epochs: int) -> int:
        """Return 0: cached embeddings are all it needs."""
        return 0
