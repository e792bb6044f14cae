"""The seam every black-box optimiser stands behind: ask for candidates, tell their losses.

An optimiser never sees data, embeddings or the encoder. Its state is a frozen value; that value
and the generator's state are the whole checkpoint.
"""

from __future__ import annotations

from dataclasses import Field, dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ude_core.errors import NonFiniteLossError
from ude_core.noise import noise_l2, project
from ude_core.types import Losses, Noise, NoiseBatch


class OptimizerState(Protocol):
    """What every optimiser's state has: a frozen dataclass of tensors, floats and ints."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def noise(self) -> Noise: ...

    @property
    def step_size(self) -> float: ...


S = TypeVar("S", bound=OptimizerState)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Antithetic candidates around `centre`: for each δ the pair (ε - δ, ε + δ), in that order.

    The pair shares its minibatch: candidate j is to be evaluated on minibatch j // 2. Where an
    optimiser works in a basis's coefficients, `coefficients` are what it drew for each δ.
    """

    centre: Noise
    directions: Float[Tensor, "samples 1 height width"]
    coefficients: Float[Tensor, "samples 1 size size"] | None = None

    def __len__(self) -> int:
        return 2 * len(self.directions)

    @property
    def noises(self) -> NoiseBatch:
        """Return all candidates, shape (2·samples, 1, height, width)."""
        pair = torch.stack((-self.directions, self.directions), dim=1)
        return self.centre + pair.flatten(0, 1)

    @property
    def drawn(self) -> Float[Tensor, "samples 1 size size"]:
        """Return the coefficients. Raises ValueError where these candidates have none."""
        if self.coefficients is None:
            raise ValueError("these candidates carry no coefficients; tell the optimiser its own")
        return self.coefficients

    def direction(self, index: int) -> Noise:
        """Return d·δ of candidate `index` (Alg. 1 line 18)."""
        return self.directions[index // 2] * (1.0 if index % 2 else -1.0)


class AskTellOptimizer(Protocol[S]):
    """A zeroth-order optimiser of one noise.

    Guarantees: every method is pure; the same state, generator state and losses give the same
    candidates and the same next state, bit for bit. `tell` costs nothing: the 2·samples·B queries
    are paid between `ask` and `tell`, in the caller's sight. A state's noise is finite, and inside
    the ball where there is one. One contract suite, `tests/test_optimizers.py`, holds for all.
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


def landed(noise: Noise, max_norm: float | None, step_size: float) -> Noise:
    """Return `noise` inside the ball of Eq. 1. Raises NonFiniteLossError where a step overflowed."""
    if not bool(torch.isfinite(noise_l2(noise))):
        raise NonFiniteLossError(
            f"the noise overflows after a step at step_size {step_size:g}; lower learning_rate, or "
            "raise step_size if losses are divided by a tiny one"
        )
    return project(noise, max_norm)


def require_zero(noise: Noise) -> None:
    """Raise ValueError unless `noise` is zero, the one start whose coefficients every basis knows."""
    if noise.any():
        raise ValueError(
            "the start is not zero (expected a zero noise): its coefficients are unknown"
        )
