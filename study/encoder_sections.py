"""The encoders a study can name: one section a kind, and the union of them all."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from study.sections import Count, Positive, Section
from ude_core.encoders.execution import Running
from ude_core.encoders.phantom_vit import IMAGE_SIZE as PHANTOM_VIT_SIZE
from ude_core.types import Precision


class PhantomVitEncoder(Section):
    """The small vision transformer that ships with the package."""

    kind: Literal["phantom_vit"] = "phantom_vit"

    @property
    def image_size(self) -> int:
        """Side of the square images it takes, in pixels."""
        return PHANTOM_VIT_SIZE


class LocalNetwork(Section):
    """How a network of this process is run.

    `batch_size` is the images a pass takes: the device's usual (null), a number, or `measured`,
    once a machine kind.
    """

    precision: Precision = "float32"
    compile: bool = False
    batch_size: Count | Literal["measured"] | None = None

    def running(self, device: str) -> Running:
        """Return the engine's setting; a batch that is to be measured starts as the usual one."""
        batch = None if self.batch_size == "measured" else self.batch_size
        return Running(
            device=device, precision=self.precision, compile=self.compile, batch_size=batch
        )


class TimmEncoder(LocalNetwork):
    """A frozen timm model from a local checkpoint, which may be relative to `cohort.root`.

    Pixels in [0, 1] are normalized as (x - mean) / std, the same for all `channels`.
    """

    kind: Literal["timm"]
    model: Annotated[str, Field(min_length=1)]
    checkpoint: Annotated[str, Field(min_length=1)]
    image_size: Annotated[int, Field(ge=8)] = 224
    mean: float = 0.5
    std: Positive = 0.5
    channels: Count = 3
    model_options: dict[str, str | int | float | bool | None] = Field(default_factory=dict)


class MedicalMaeEncoder(LocalNetwork):
    """A masked autoencoder's ViT, as Medical_MAE published it, from a local checkpoint.

    `preprocessing` is what the weights were trained with, or none as in the paper's official code.
    `heads` is needed for a width outside the MAE family alone.
    """

    kind: Literal["medical_mae"]
    checkpoint: Annotated[str, Field(min_length=1)]
    image_size: Annotated[int, Field(ge=8)] = 224
    preprocessing: Literal["medical_mae", "official_code"] = "medical_mae"
    global_pool: bool = False
    heads: Count | None = None


EncoderSection = Annotated[
    PhantomVitEncoder | TimmEncoder | MedicalMaeEncoder, Field(discriminator="kind")
]
ENCODERS = (PhantomVitEncoder, TimmEncoder, MedicalMaeEncoder)
