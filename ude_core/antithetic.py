"""Adam on the averaged antithetic estimate, in the coefficients of a basis; guided or not. Ours.

Where GeZO keeps the best of 2C candidates, this averages what all of them say. The estimate is that
of evolution strategies with antithetic pairs (Salimans et al. 2017), handed to Adam.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ude_core.adam import adam_moments
from ude_core.errors import NonFiniteLossError
from ude_core.noise import Basis, noise_l2, unit
from ude_core.optimizer import Candidates, landed, require_finite, require_zero
from ude_core.spsa import antithetic_gradient
from ude_core.types import Losses, Noise, Perturbation

Prior = Callable[[Noise], Noise]
"""From ε to the direction a surrogate would climb (its gradient), of any length. A pure function."""


@dataclass(frozen=True, slots=True)
class AntitheticState:
    """Everything the optimiser knows between two calls; `coefficients` synthesise to `noise`."""

    noise: Noise  # ε
    coefficients: Float[Tensor, "1 size size"]
    first_moment: Float[Tensor, "1 size size"]
    second_moment: Float[Tensor, "1 size size"]
    step_size: float  # s, the smoothing radius
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AntitheticAdam:
    """Adam in the coefficients of a basis, so the noise never leaves it. Ours."""

    basis: Basis
    step_size: float = 0.01  # s
    learning_rate: float = 0.01
    samples: int = 10
    perturbation: Perturbation = "normal"
    max_norm: float | None = None  # th, Eq. 1

    def init(self, noise: Noise) -> AntitheticState:
        """Return the state before the first step. Raises ValueError unless `noise` is zero."""
        require_zero(noise)
        zero = torch.zeros(1, self.basis.size, self.basis.size)
        return AntitheticState(noise, zero, zero, zero, self.step_size, 0)

    def begin_epoch(self, state: AntitheticState) -> AntitheticState:
        """Return `state`: Adam's moments run on over epochs."""
        return state

    def ask(self, state: AntitheticState, rng: torch.Generator) -> Candidates:
        """Perturb the coefficients by s·u."""
        return self._around(state, self.basis.coefficients(self.samples, self.perturbation, rng))

    def tell(
        self, state: AntitheticState, candidates: Candidates, losses: Losses
    ) -> AntitheticState:
        """Make one Adam step along the averaged estimate; into the ball, if there is one."""
        require_finite(losses, state.step_size)
        gradient = antithetic_gradient(candidates.drawn, losses, state.step_size)
        steps = state.steps + 1
        numerator, denominator, first, second = adam_moments(
            gradient, state.first_moment, state.second_moment, steps
        )
        moved = state.coefficients - self.learning_rate * numerator / denominator
        noise = self.basis.synthesize(moved[None])[0]
        inside = landed(noise, self.max_norm, state.step_size)
        if inside is not noise:
            moved = moved * (float(noise_l2(inside)) / float(noise_l2(noise)))
        return AntitheticState(inside, moved, first, second, state.step_size, steps)

    def _around(
        self, state: AntitheticState, coefficients: Float[Tensor, "samples 1 size size"]
    ) -> Candidates:
        directions = self.basis.synthesize(coefficients) * state.step_size
        return Candidates(state.noise, directions, coefficients)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guided(AntitheticAdam):
    """Directions guided by an open surrogate's gradient; the black box only scores. Ours.

    Prior-guided random gradient-free estimation (P-RGF, Cheng et al. 2019, with a fixed mixture),
    near guided evolution strategies (Maheswaranathan et al. 2019), here with Adam and antithetic
    pairs: u = √n·(√w·v + √(1 - w)·ξ), v the prior's gradient in the basis's n coefficients and ξ a
    random direction orthogonal to it, both of length 1. A prior of the wrong sign does no harm, a
    useless one only wastes queries: the slope along v is measured, never assumed.
    """

    prior: Prior
    prior_weight: float = 0.5  # w, in [0, 1]; P-RGF's λ

    def ask(self, state: AntitheticState, rng: torch.Generator) -> Candidates:
        """Perturb along the prior at ε mixed with random directions; random ones where it is 0."""
        drawn = self.basis.coefficients(self.samples, self.perturbation, rng)
        guide = self.basis.adjoint(self.prior(state.noise)[None])[0]
        length = float(torch.linalg.vector_norm(guide))
        if not math.isfinite(length):
            raise NonFiniteLossError(
                f"the surrogate's gradient is not finite at step_size {state.step_size:g}; lower "
                "learning_rate or set max_norm"
            )
        if length == 0:
            return self._around(state, drawn)
        guide = guide / length
        across = drawn - (drawn * guide).sum(dim=(-3, -2, -1), keepdim=True) * guide
        mixed = math.sqrt(self.prior_weight) * guide + math.sqrt(1 - self.prior_weight) * unit(
            across
        )
        return self._around(state, mixed * math.sqrt(guide.numel()))
