"""The edit as a step of a torchvision pipeline, for training and for serving.

    edit = UniversalEditTransform.load("bundle", encoder_fingerprint=encoder.fingerprint)
    prepare = transforms.Compose([transforms.Resize((224, 224)), edit, transforms.ToTensor(), normalize])

It goes after resizing and before normalising, and may be pickled for a DataLoader's workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import overload

import torch
from PIL import Image
from torch import Tensor

from ude_core.bundle import Bundle, check_made_for, load_bundle
from ude_core.editing import check_size, edit_image
from ude_core.errors import BundleError
from ude_core.noise import LEVELS, apply_noise


@dataclass(frozen=True, slots=True, eq=False)
class UniversalEditTransform:
    """Calls to it edit one image, or a batch of them; what comes out is of the kind that went in."""

    bundle: Bundle

    @classmethod
    def load(
        cls, folder: Path | str, *, encoder_fingerprint: str | None = None
    ) -> UniversalEditTransform:
        """Return the edit of a bundle. Raises BundleError where it is altered, or for another encoder."""
        bundle = load_bundle(Path(folder))
        if encoder_fingerprint is not None:
            check_made_for(bundle.facts, encoder_fingerprint=encoder_fingerprint)
        return cls(bundle)

    @overload
    def __call__(self, image: Image.Image) -> Image.Image: ...
    @overload
    def __call__(self, image: Tensor) -> Tensor: ...
    def __call__(self, image: Image.Image | Tensor) -> Image.Image | Tensor:
        """Return the edited image, or tensor of shape (..., height, width).

        Pillow images and uint8 tensors are clamped and rounded (`deploy`). Float tensors hold
        pixels in [0, 1] and come out as the encoder saw them in the trial, un-clamped where the
        bundle's pipeline is `paper`. Raises BundleError for another size, type or range.
        """
        if isinstance(image, Image.Image):
            return edit_image(self.bundle, image)
        check_size(self.bundle, image.shape[-2:], "tensor")
        noise = self.bundle.noise[0].to(image.device)
        if image.dtype == torch.uint8:
            edited = apply_noise(image.float().div_(LEVELS), noise, "deploy")
            return edited.mul_(LEVELS).round_().to(torch.uint8)
        if image.dtype != torch.float32:
            raise BundleError(
                f"tensor is {image.dtype} (expected uint8, or float32 in [0, 1]); convert it first"
            )
        if image.numel() and not (float(image.min()) >= 0.0 and float(image.max()) <= 1.0):
            raise BundleError(
                f"tensor holds values from {float(image.min()):g} to {float(image.max()):g} "
                "(expected [0, 1]); put the edit before normalisation"
            )
        return apply_noise(image, noise, self.bundle.facts.pixels)
