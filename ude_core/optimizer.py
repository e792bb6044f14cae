"""The seam every black-box optimiser stands behind: ask for candidates, tell their losses.

An optimiser never sees data, embeddings or the encoder. Its state is a frozen value; that value
and the generator's state are the whole checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ude_core.errors import NonFiniteLossError
from ude_core.types import Losses, Noise, NoiseBatch


class OptimizerState(Protocol):
    """What every optimiser's state has: a frozen dataclass of tensors and floats."""

    @property
    def noise(self) -> Noise: ...

    @property
    def step_size(self) -> float: ...


S = TypeVar("S", bound=OptimizerState)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Antithetic candidates around `centre`: for each δ the pair (ε - δ, ε + δ), in that order.

    The pair shares its minibatch: candidate j is to be evaluated on minibatch j // 2.
    """

    centre: Noise
    directions: Float[Tensor, "samples 1 height width"]
    coefficients: Float[Tensor, "samples 1 size size"] | None = (
        None  # drawn, where a basis is searched
    )

    def __len__(self) -> int:
        return 2 * len(self.directions)

    @property
    def noises(self) -> NoiseBatch:
        """Return all candidates, shape (2·samples, 1, height, width)."""
        pair = torch.stack((-self.directions, self.directions), dim=1)
        return self.centre + pair.flatten(0, 1)

    def direction(self, index: int) -> Noise:
        """Return d·δ of candidate `index` (Alg. 1 line 18)."""
        return self.directions[index // 2] * (1.0 if index % 2 else -1.0)


class AskTellOptimizer(Protocol[S]):
    """A zeroth-order optimiser of one noise.

    Guarantees: every method is pure; the same state, generator state and losses give the same
    candidates and the same next state, bit for bit. `tell` costs nothing: the 2·samples·B queries
    are paid between `ask` and `tell`, in the caller's sight.
    """

    def init(self, noise: Noise) -> S: ...

    def begin_epoch(self, state: S) -> S: ...

    def ask(self, state: S, rng: torch.Generator) -> Candidates: ...

    def tell(self, state: S, candidates: Candidates, losses: Losses) -> S:
        """Return the next state. Raises NonFiniteLossError where a loss is NaN or infinite."""


def require_finite(losses: Losses, step_size: float) -> None:
    """Raise NonFiniteLossError, naming the step size, unless every loss is finite."""
    if not bool(torch.isfinite(losses).all()):
        bad = int((~torch.isfinite(losses)).sum())
        raise NonFiniteLossError(
            f"{bad} of {len(losses)} candidate losses are not finite at step_size {step_size:g}; "
            "lower step_size or set max_norm"
        )
