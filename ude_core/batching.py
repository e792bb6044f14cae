"""How many images one pass of an encoder takes: its own batch size, halved where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from typing import TypeVar

import torch
from torch.utils.weak import WeakIdKeyDictionary

from ude_core.encoders.base import Encoder
from ude_core.errors import EncoderMemoryError

log = logging.getLogger(__name__)

T = TypeVar("T")

_MEMORY_WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "alloc_failed",
    "could not create a primitive",  # oneDNN, where it has no memory left for its code
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator, of an accelerator or of the CPU, said that memory ran out."""
    if isinstance(error, EncoderMemoryError):
        return False
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _MEMORY_WORDS)


class BatchLimits:
    """The batch that fits, by encoder, for as long as this process holds it.

    Another batch may round differently, so a limit is lowered by memory alone and never raised
    again: after the first halving every later pass has one size.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._lowered: MutableMapping[Encoder, int] = WeakIdKeyDictionary()

    def of(self, encoder: Encoder, wanted: int) -> int:
        """Return `wanted`, or less where more was found not to fit."""
        return min(wanted, self._lowered.get(encoder, wanted))

    def cap(self, encoder: Encoder, limit: int) -> None:
        """Lower the limit to one that was found elsewhere."""
        self._lowered[encoder] = self.of(encoder, limit)

    def lower(self, encoder: Encoder, failed: int, reason: str) -> int:
        """Return the limit from now on: half of `failed`, for which memory did not suffice.

        Raises EncoderMemoryError where that was a single image.
        """
        if failed <= 1:
            raise EncoderMemoryError(
                f"memory ran out on a {self._kind} of one image through {encoder.name} on "
                f"{encoder.device}: {reason}"
            )
        half = failed // 2
        self._lowered[encoder] = half
        log.warning(
            "memory ran out on a %s of %d images through %s: %d from now on",
            self._kind,
            failed,
            encoder.name,
            half,
        )
        if encoder.device.type == "cuda":
            torch.cuda.empty_cache()
        return half

    def halving(self, encoder: Encoder, wanted: int, call: Callable[[int], T]) -> T:
        """Return `call(limit)`, called again with half the limit each time memory runs out.

        `call` must have no effect but its result. Raises EncoderMemoryError at one image.
        """
        while True:
            limit = self.of(encoder, wanted)
            try:
                return call(limit)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            # Out here the error is gone, and with it the frames that hold the tensors of `call`.
            self.lower(encoder, limit, reason)


FORWARD = BatchLimits("pass")
BACKWARD = BatchLimits("pass with gradients")


def pass_limit(encoder: Encoder) -> int:
    """Return how many images one forward pass takes: `encoder.batch_size`, less where memory ran out."""
    return FORWARD.of(encoder, encoder.batch_size)
