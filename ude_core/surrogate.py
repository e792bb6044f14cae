"""An open encoder that guides the search while the black box only scores. Ours.

The surrogate has its own attribute head, trained on the same un-edited training images. Its passes
cost no query of the black box and are counted apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ude_core.assets import StudyAssets
from ude_core.cohorts.base import Cohort
from ude_core.encoders.base import Encoder
from ude_core.errors import SettingError
from ude_core.evaluator import LocalEvaluator, embed_images
from ude_core.heads import HeadTask, train_heads
from ude_core.seeding import numpy_generator, torch_generator
from ude_core.storage import digest
from ude_core.types import Indices, MethodConfig, Noise


@dataclass(frozen=True, slots=True, kw_only=True)
class SurrogatePrior:
    """The gradient of a surrogate's objective at ε, over fixed training images: a pure function."""

    evaluator: LocalEvaluator
    rows: Indices
    preparation: int  # passes spent on training its attribute head

    def __call__(self, noise: Noise) -> Noise:
        """Return the gradient of Eq. 2 (or its variant) through the surrogate at `noise`."""
        return self.evaluator.gradient(noise, self.rows).gradient

    @property
    def passes(self) -> int:
        """Images through the surrogate a call."""
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Changes when a gradient would."""
        head = self.evaluator.attribute_head
        parts = [head.weight.tolist(), head.bias.tolist(), self.rows.tolist()]
        return digest(self.evaluator.encoder.fingerprint, self.evaluator.objective, parts)


def make_surrogate(
    method: MethodConfig,
    cohort: Cohort,
    encoder: Encoder,
    assets: StudyAssets,
    *,
    images: int = 128,
) -> SurrogatePrior:
    """Return the prior that `encoder` gives for `method`, over `images` fixed training images.

    Its head is trained as the study's own attribute head is, from the same seed. Raises SettingError
    where the encoder has no gradients or takes other images.
    """
    if not encoder.differentiable:
        raise SettingError(f"surrogate {encoder.name} has no gradients; choose an open encoder")
    if encoder.image_size != cohort.image_size:
        raise SettingError(
            f"surrogate {encoder.name} takes {encoder.image_size} (expected the cohort's image size, "
            f"{cohort.image_size}); choose another"
        )
    train = assets.split.train
    if not 1 <= images <= len(train):
        raise SettingError(
            f"images is {images} (expected 1 to the {len(train)} training images); change it"
        )
    head = train_heads(
        embed_images(encoder, cohort.images[train]),
        [HeadTask(np.arange(len(train)), cohort.attribute[train])],
        classes=len(cohort.groups),
        config=assets.scoring.attribute_head,
        rng=torch_generator(assets.seed, "surrogate head"),
    )
    evaluator = LocalEvaluator(
        encoder=encoder,
        attribute_head=head,
        images=cohort.images[train],
        attribute=cohort.attribute[train],
        objective=method.objective,
        regularization=method.regularization,
        pixels=method.pixels,
    )
    rows = numpy_generator(assets.seed, "surrogate images").permutation(len(train))[:images]
    return SurrogatePrior(evaluator=evaluator, rows=rows, preparation=len(train))
