"""What a trial really paid: every image through the encoder, counted before it is spent.

The ledger's `queries` are those of the attempt that succeeded; work that a killed worker repeats is
paid twice and shows here alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ude_core.encoders.base import Encoder
from ude_core.storage import CorruptFileError, load_checked
from ude_core.trial import CHECKPOINT, PREVIOUS
from ude_core.types import Embeddings, Pixels

QUERIES = "queries.log"


@dataclass(frozen=True, slots=True)
class Paid:
    """What all attempts at a trial sent through the encoder, and what of it need not be repeated."""

    queries: int = 0
    kept: int = 0


class MeteredEncoder:
    """An encoder whose every call leaves a line `<attempt> <images>` in the open trial's folder.

    One serves all trials of a process, so that what is known of its memory (`ude_core.batching`)
    outlives a trial. What the other workers of a spread trial are to encode is noted here too.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._attempt = ""
        self._batch_size = encoder.batch_size
        self._file: int | None = None

    def open(self, folder: Path, attempt: str, *, frugal: bool) -> None:
        """Count for an attempt at the trial in `folder`, the attempt before it being closed.

        A frugal one sends half as many images through at once: no parameter of the trial changes.
        """
        self.close()
        whole = self._encoder.batch_size
        self._attempt, self._batch_size = attempt, max(1, whole // 2) if frugal else whole
        self._file = os.open(folder / QUERIES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

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
        self.note(len(pixels))
        return self._encoder.encode(pixels)

    def note(self, images: int) -> None:
        """Write images down that are about to be encoded, here or by another worker of the trial."""
        if self._file is not None:
            os.write(self._file, f"{self._attempt} {images}\n".encode())

    def close(self) -> None:
        """Give the file back; the encoder itself stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def paid_so_far(folder: Path) -> Paid:
    """Return what was paid for the trial in `folder`, and what of it its next attempt begins with."""
    paid = paid_queries(folder)
    for name in (CHECKPOINT, PREVIOUS):
        try:
            _, scalars = load_checked(folder / name)
        except (CorruptFileError, OSError):
            continue
        return Paid(paid, kept=min(paid, int(scalars["spent"])))
    return Paid(paid)


def paid_queries(folder: Path) -> int:
    """Return the images that all attempts at a trial sent through the encoder; 0 where none did."""
    try:
        lines = (folder / QUERIES).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return 0
    counted = (line.rpartition(" ")[2] for line in lines)
    return sum(int(count) for count in counted if count.isdigit())
