"""To a device without waiting: pinned, asynchronous copies, so that a stream never runs dry."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor on `device`; to CUDA by a pinned copy that nobody waits for."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def upload_bytes(
    images: UInt8[np.ndarray, "*shape"], device: torch.device
) -> UInt8[Tensor, "*shape"]:
    """Return a copy of 8-bit images on `device`: staged once, in pinned memory, on the way to CUDA."""
    if device.type != "cuda":
        return torch.tensor(images).to(device)
    staged = torch.empty(images.shape, dtype=torch.uint8, pin_memory=True)
    staged.numpy()[...] = images
    return staged.to(device, non_blocking=True)
