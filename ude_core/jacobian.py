"""An evolution strategy whose directions are an open encoder's Jacobian's; the black box scores. Ours.

Antithetic pairs, as evolution strategies have them (Salimans et al. 2017), and all losses used; steps
of one length along a running sum of the estimates. White noise of 50,000 pixels tells next to nothing
of a gradient; directions from the Jacobian of another network at ε tell tens of times as much a query.
The estimate is the true gradient times the directions' covariance, and goes on where a surrogate's own
gradient stops being right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ude_core.noise import Basis, unit
from ude_core.optimizer import Candidates, landed, require_finite
from ude_core.spsa import antithetic_gradient
from ude_core.types import Losses, Noise, NoiseBatch


class Directions(Protocol):
    """From ε to directions of RMS 1 a pixel, by a generator. A pure function."""

    def __call__(self, noise: Noise, count: int, rng: torch.Generator) -> NoiseBatch: ...


@dataclass(frozen=True, slots=True)
class JacobianState:
    """Everything the optimiser knows between two calls."""

    noise: Noise  # ε
    estimate: Float[Tensor, "1 size size"]  # running sum of the estimates, in coefficients
    step_size: float  # s, the smoothing radius
    learning_rate: float  # RMS a pixel of the next step
    epochs: int  # begun


@dataclass(frozen=True, slots=True, kw_only=True)
class JacobianEs:
    """Steps of one length along momentum over the averaged antithetic estimate, in a basis.

    `learning_rate` is a step's RMS a pixel; `step_decay` shortens it every epoch but the first.
    Steps of a set length: the estimate's own is for the most part its error's.
    """

    basis: Basis
    directions: Directions
    step_size: float  # s
    learning_rate: float
    step_decay: float  # k
    momentum: float  # μ
    samples: int  # C
    max_norm: float | None = None  # th, Eq. 1

    def init(self, noise: Noise) -> JacobianState:
        """Return the state before the first step."""
        zero = torch.zeros(1, self.basis.size, self.basis.size)
        return JacobianState(noise, zero, self.step_size, self.learning_rate, 0)

    def begin_epoch(self, state: JacobianState) -> JacobianState:
        """Shorten the steps to come; momentum runs on over epochs."""
        decay = self.step_decay if state.epochs else 1.0
        return replace(state, learning_rate=state.learning_rate * decay, epochs=state.epochs + 1)

    def ask(self, state: JacobianState, rng: torch.Generator) -> Candidates:
        """Perturb ε by s·u, u from the surrogate's Jacobian at ε. Raises NonFiniteLossError."""
        drawn = self.basis.adjoint(self.directions(state.noise, self.samples, rng))
        drawn = unit(drawn) * self.basis.size  # of unit variance, as every basis draws them
        return Candidates(state.noise, self.basis.synthesize(drawn) * state.step_size, drawn)

    def tell(self, state: JacobianState, candidates: Candidates, losses: Losses) -> JacobianState:
        """Step along the running sum, by the length that is due; into the ball, if there is one."""
        require_finite(losses, state.step_size)
        gradient = antithetic_gradient(candidates.drawn, losses, state.step_size)
        estimate = self.momentum * state.estimate + gradient
        step = self.basis.synthesize(estimate[None])[0]
        moved = state.noise - state.learning_rate * step.numel() ** 0.5 * unit(step)
        noise = landed(moved, self.max_norm, state.step_size)
        return replace(state, noise=noise, estimate=estimate)
