"""An open encoder that guides the search while the black box only scores. Ours.

The surrogate has its own attribute head, trained on the same un-edited training images. Its passes
cost no query of the black box and are counted apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ude_core.assets import StudyAssets, cached_embeddings
from ude_core.cohorts.base import Cohort
from ude_core.directions import SurrogateDirections
from ude_core.encoders.base import Encoder, Teachable
from ude_core.encoders.skip_gradient import past_branches
from ude_core.errors import SettingError
from ude_core.evaluator import LocalEvaluator
from ude_core.heads import HeadTask, LinearHeads, train_heads
from ude_core.image_rows import ImageRows
from ude_core.seeding import numpy_generator, torch_generator
from ude_core.storage import digest
from ude_core.student import Student, embedding_spread, make_student
from ude_core.types import Embeddings, Indices, MethodConfig, Noise


@dataclass(frozen=True, slots=True, kw_only=True)
class SurrogatePrior:
    """The gradient of a surrogate's objective at ε, over fixed training images: a pure function."""

    evaluator: LocalEvaluator
    rows: Indices

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


Guide = SurrogatePrior | SurrogateDirections | Student
"""What guides a trial: of `guided`, of `jacobian` and of `distilled`; of no other method."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surrogate:
    """An open encoder and its attribute head: what every guided trial of a study shares.

    `train` are the training images of the cohort and `order` a fixed shuffle of them.
    """

    encoder: Encoder
    attribute_head: LinearHeads
    clean: Embeddings  # of the training images, by this encoder
    cohort: Cohort
    train: Int[np.ndarray, " images"]
    order: Indices
    preparation: int  # passes really paid for the head: 0 where its embeddings were cached

    def student(self, assets: StudyAssets) -> Student:
        """Return a student with this network, taught nothing but the clean images.

        Raises SettingError where the network cannot be copied.
        """
        if not isinstance(self.encoder, Teachable):
            raise SettingError(
                f"surrogate {self.encoder.name} cannot learn (expected a network in this process); "
                "choose another, or method guided"
            )
        where = np.searchsorted(assets.development, self.train)
        return make_student(self.encoder, self.clean, assets.clean[where], assets.attribute_head)

    def prior(self, method: MethodConfig) -> SurrogatePrior:
        """Return the prior for `method`, over the first `surrogate_images` of the shuffle.

        Raises SettingError where there are fewer training images.
        """
        check_surrogate_images(method, len(self.train))
        chosen = self.train[self.order[: method.surrogate_images]]
        evaluator = LocalEvaluator(
            encoder=self.encoder,
            attribute_head=self.attribute_head,
            images=ImageRows(self.cohort.images, chosen),
            attribute=self.cohort.attribute[chosen],
            objective=method.objective,
            regularization=method.regularization,
            target_group=method.target_group,
            pixels=method.pixels,
        )
        return SurrogatePrior(evaluator=evaluator, rows=np.arange(len(chosen)))

    def directions(self, method: MethodConfig) -> SurrogateDirections:
        """Return what `jacobian` searches along, over all training images.

        Raises SettingError for a `skip_gradient` that the network cannot do.
        """
        return SurrogateDirections(
            encoder=past_branches(self.encoder, method.skip_gradient),
            images=ImageRows(self.cohort.images, self.train),
            spread=embedding_spread(self.clean),
            pixels=method.pixels,
            images_per_direction=method.direction_images,
            passes=method.samples * method.direction_images,
        )

    def proposing(self, method: MethodConfig) -> SurrogatePrior | SurrogateDirections | None:
        """Return what proposes with a trial of `guided` or `jacobian`; None for any other."""
        match method.name:
            case "guided":
                return self.prior(method)
            case "jacobian":
                return self.directions(method)
            case _:
                return None

    def guide(self, method: MethodConfig, assets: StudyAssets) -> Guide | None:
        """Return what guides a trial of `method`, a student included; None where nothing does."""
        return self.student(assets) if method.name == "distilled" else self.proposing(method)


def prepare_surrogate(
    cohort: Cohort, encoder: Encoder, assets: StudyAssets, *, cache: Path | None = None
) -> Surrogate:
    """Return `encoder` with its attribute head, trained as the study's own is, from the same seed.

    Raises SettingError where the encoder has no gradients or takes other images.
    """
    if not encoder.differentiable:
        raise SettingError(f"surrogate {encoder.name} has no gradients; choose an open encoder")
    if encoder.image_size != cohort.image_size:
        raise SettingError(
            f"surrogate {encoder.name} takes {encoder.image_size} (expected the cohort's image size, "
            f"{cohort.image_size}); choose another"
        )
    train = assets.split.train
    clean, passes = cached_embeddings(cohort, encoder, train, cache)
    head = train_heads(
        clean,
        [HeadTask(np.arange(len(train)), cohort.attribute[train])],
        classes=len(cohort.groups),
        config=assets.scoring.attribute_head,
        rng=torch_generator(assets.seed, "surrogate head"),
    )
    return Surrogate(
        encoder=encoder,
        attribute_head=head,
        clean=clean,
        cohort=cohort,
        train=train,
        order=numpy_generator(assets.seed, "surrogate images").permutation(len(train)),
        preparation=passes,
    )


def check_surrogate_images(method: MethodConfig, train_size: int) -> None:
    """Raise SettingError where `method` wants more images a gradient than there are to train on."""
    if not 1 <= method.surrogate_images <= train_size:
        raise SettingError(
            f"surrogate_images is {method.surrogate_images} (expected 1 to the {train_size} "
            "training images); change it"
        )
