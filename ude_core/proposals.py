"""What one local iteration asks for, as a function of an optimiser's state and a generator alone.

A learner and its replicas elsewhere call the same functions here, so equal states and generators
propose the same candidates on the same images, bit for bit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ude_core.errors import FingerprintError
from ude_core.optimizer import AskTellOptimizer, Candidates, OptimizerState
from ude_core.types import Indices, MethodConfig, NoiseBatch

S = TypeVar("S", bound=OptimizerState)


@dataclass(frozen=True, slots=True)
class Proposal:
    """Candidates and the minibatches they are to be evaluated on: one row a pair, or one for all."""

    candidates: Candidates
    minibatches: Int[np.ndarray, "rows batch"]


def propose(
    method: MethodConfig,
    optimizer: AskTellOptimizer[Any],
    state: OptimizerState,
    rows: Indices,
    rng: torch.Generator,
) -> Proposal:
    """Ask for candidates, then draw minibatches from the training images `rows`; both from `rng`."""
    candidates = optimizer.ask(state, rng)
    count = method.samples if method.batch == "per_perturbation" else 1
    drawn = [shuffled(rows, rng)[: method.batch_size] for _ in range(count)]
    return Proposal(candidates, np.stack(drawn))


def shuffled(rows: Indices, rng: torch.Generator) -> Indices:
    """Return `rows` in a random order."""
    order: Indices = rows[torch.randperm(len(rows), generator=rng).numpy()]
    return order


def split_rows(images: int, check: int) -> tuple[Indices, Indices]:
    """Return `check` images spread evenly, to be looked at between epochs, and the rest, to train."""
    rows = np.arange(images)
    held = rows[:check] * images // max(1, check)
    return held, np.setdiff1d(rows, held)


def proposal_digest(noises: NoiseBatch, minibatches: Int[np.ndarray, "rows batch"]) -> str:
    """Return the sha256 of every bit of a proposal."""
    content = hashlib.sha256(noises.contiguous().numpy().tobytes())
    content.update(minibatches.astype("<i8").tobytes())
    return content.hexdigest()


def state_parts(state: OptimizerState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a state as tensors, and scalars that JSON can hold, by names that begin with `state.`"""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for field in fields(state):
        value = getattr(state, field.name)
        if isinstance(value, Tensor):
            # Cloned: a state may hold one tensor twice, which a file may not.
            tensors[f"state.{field.name}"] = value.clone()
        else:
            scalars[f"state.{field.name}"] = value
    return tensors, scalars


def state_from(like: S, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> S:
    """Return the state that `state_parts` took apart; `like` is any state of the same optimiser.

    Raises FingerprintError where the parts are of a state with other fields: another release's.
    """
    found = {key for key in (*tensors, *scalars) if key.startswith("state.")}
    if found != {f"state.{field.name}" for field in fields(like)}:
        raise FingerprintError(
            f"the checkpoint's {type(like).__name__} was written by another release of this program; "
            "continue with that release, or start a study under another name"
        )
    values: dict[str, Any] = {}
    for field in fields(like):
        key, current = f"state.{field.name}", getattr(like, field.name)
        is_tensor = isinstance(current, Tensor)
        values[field.name] = tensors[key] if is_tensor else type(current)(scalars[key])
    return type(like)(**values)
