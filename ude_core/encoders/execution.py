"""How a frozen network is run: its precision, its memory layout, eager or compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ude_core.runtime import keep_float32
from ude_core.types import Embeddings, Pixels, Precision

_COMPILING: Mapping[str, Mapping[str, Any]] = {
    "cuda": {"mode": "max-autotune"},
    "cpu": {"options": {"freezing": True}},
}
"""What torch.compile is told, by device: on CUDA the tuned kernels replay as one CUDA graph; on a CPU
the weights, which never change, are packed once for the kernels."""


class Running(TypedDict, total=False):
    """How a network is run, and where: what every encoder of a local network takes.

    `batch_size` is the images a pass takes; without one, the device's usual.
    """

    device: str
    precision: Precision
    compile: bool
    batch_size: int | None


def memory_format(network: nn.Module) -> torch.memory_format:
    """Return channels-last for convolutional networks; a transformer's one patch embedding is none."""
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    return torch.channels_last if convolutions > 1 else torch.contiguous_format


class Execution:
    """Pixels to embeddings by `forward`, at a precision, compiled or not.

    float32 is IEEE float32: TF32 is turned off. bfloat16 is autocast; embeddings come back float32.
    Compiled, every pass has one shape: what is smaller is padded with black images, whose
    embeddings are thrown away. Passes with gradients are never compiled.
    """

    def __init__(
        self,
        forward: Callable[[Pixels], Tensor],
        device: torch.device,
        *,
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> None:
        self._forward = forward
        self._device = device
        self._autocast = precision == "bfloat16"
        self._compiled: Callable[[Pixels], Tensor] | None = None
        if device.type == "cuda":
            keep_float32()
        if compiled:
            how = _COMPILING.get(device.type, {})
            self._compiled = torch.compile(self._cast, dynamic=False, **how)

    def __call__(self, pixels: Pixels, batch: int) -> Embeddings:
        """Return the embeddings; compiled, in passes of exactly `batch` images."""
        if self._compiled is None or pixels.requires_grad:
            return self._cast(pixels)
        parts = []
        for part in torch.split(pixels, batch):
            missing = batch - len(part)
            whole = nn.functional.pad(part, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else part
            # Copied: the next replay of a CUDA graph writes over what this one returned.
            parts.append(self._compiled(whole)[: len(part)].clone())
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _cast(self, pixels: Pixels) -> Float[Tensor, "images dim"]:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            embeddings = self._forward(pixels)
        return embeddings.float()
