"""What a trial really paid: every image through the encoder, counted before it is spent.

The ledger's `queries` are those of the attempt that succeeded; work that a killed worker repeats is
paid twice and shows here alone.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ude_core.encoders.base import Encoder
from ude_core.types import Embeddings, Pixels

_FILE = "queries.log"


class MeteredEncoder:
    """An encoder whose every call leaves a line `<attempt> <images>` in the trial's folder.

    `batch_size` may be smaller than the encoder's own, where memory is short: it changes how many
    images go through at once, and no parameter of the trial.
    """

    def __init__(self, encoder: Encoder, folder: Path, attempt: str, batch_size: int) -> None:
        self._encoder = encoder
        self._attempt = attempt
        self._batch_size = batch_size
        self._file = os.open(folder / _FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    @property
    def name(self) -> str:
        return self._encoder.name

    @property
    def embedding_dim(self) -> int:
        return self._encoder.embedding_dim

    @property
    def image_size(self) -> int:
        return self._encoder.image_size

    @property
    def fingerprint(self) -> str:
        return self._encoder.fingerprint

    @property
    def differentiable(self) -> bool:
        return self._encoder.differentiable

    @property
    def device(self) -> torch.device:
        return self._encoder.device

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def encode(self, pixels: Pixels) -> Embeddings:
        """Write the images down, then encode them."""
        os.write(self._file, f"{self._attempt} {len(pixels)}\n".encode())
        return self._encoder.encode(pixels)

    def close(self) -> None:
        """Give the file back; the encoder itself stays."""
        os.close(self._file)


def paid_queries(folder: Path) -> int:
    """Return the images that all attempts at a trial sent through the encoder; 0 where none did."""
    try:
        lines = (folder / _FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return 0
    counted = (line.rpartition(" ")[2] for line in lines)
    return sum(int(count) for count in counted if count.isdigit())
