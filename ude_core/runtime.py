"""What every process that runs the engine sets once, before its first tensor."""

from __future__ import annotations

import ctypes
import sys

import torch

_NO_MMAP, _TRIM_ABOVE, _GROW_BY = (-4, 0), (-1, 2**31 - 1), (-2, 64 * 1024**2)
"""Of glibc's mallopt(3): M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD, with what they are set to."""


def prepare_process(threads: int | None = None) -> None:
    """Flush denormals, fix the CPU threads, keep fp32 products in fp32, and keep freed memory.

    A saturated attribute head sends denormal gradients back, which make a CPU step up to 80 times
    slower. A fixed thread count is part of "the same trial gives the same noise".
    """
    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
    keep_float32()
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Have the C library (glibc) reuse what is freed, not hand it back to the system.

    An encoder's pass frees and takes the same large activations over and over; handed back, every one
    is mapped and zeroed anew by the kernel, which takes as long as the convolutions. The peak stays.
    """
    if sys.platform != "linux":
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option, value in (_NO_MMAP, _TRIM_ABOVE, _GROW_BY):
            set_option(option, value)


def keep_float32() -> None:
    """Turn TF32 off: matrix products and convolutions of float32 tensors round as float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
