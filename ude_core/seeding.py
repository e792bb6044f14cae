"""Streams of randomness: every generator is derived by name from one study seed, globals are never seeded."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, *path: str | int) -> int:
    """Return a 63-bit seed for the stream named by `path`, independent for every different path.

    >>> derive_seed(7, "trial", 3) == derive_seed(7, "trial", 3)
    True
    >>> derive_seed(7, "trial", 3) == derive_seed(7, "trial", 4)
    False
    """
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_generator(seed: int, *path: str | int) -> np.random.Generator:
    """Return NumPy's generator for the stream named by `path`."""
    return np.random.default_rng(derive_seed(seed, *path))


def torch_generator(seed: int, *path: str | int) -> torch.Generator:
    """Return torch's CPU generator for the stream named by `path`."""
    return torch.Generator().manual_seed(derive_seed(seed, *path))
