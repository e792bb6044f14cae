"""What every process that runs the engine sets once, before its first tensor."""

from __future__ import annotations

import torch


def prepare_process(threads: int | None = None) -> None:
    """Flush denormals, fix the number of CPU threads, and keep fp32 products in fp32.

    A saturated attribute head sends denormal gradients back, which make a CPU step up to 80 times
    slower. A fixed thread count is part of "the same trial gives the same noise".
    """
    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
    keep_float32()


def keep_float32() -> None:
    """Turn TF32 off: matrix products and convolutions of float32 tensors round as float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
