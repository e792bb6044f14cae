"""SPSA with momentum and ZO-SGD: the field's zeroth-order optimisers, beside GeZO for comparison.

Both estimate the gradient from antithetic losses, g = mean over c of (L(ε + δ_c) - L(ε - δ_c)) / 2s
along u_c = δ_c / s, and differ in how they step. In a basis they descend in its coefficients, since
a noise is linear in them. Offering them here, and in bases other than `pixel`, is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ude_core.noise import Basis
from ude_core.optimizer import Candidates, landed, require_finite
from ude_core.types import Losses, Noise, Perturbation

SPALL_ALPHA, SPALL_GAMMA = 0.602, 0.101  # decay of the learning rate and of the smoothing radius


def antithetic_gradient(
    directions: Float[Tensor, "samples ..."], losses: Losses, step_size: float
) -> Tensor:
    """Return the averaged two-sided estimate of the gradient, in the shape of one direction.

    `directions` are the unscaled u_c; `losses` those of (ε - δ_c, ε + δ_c), interleaved as in
    Candidates. Unbiased up to O(s²) for independent directions of zero mean and unit variance.
    """
    minus, plus = losses.reshape(-1, 2).unbind(1)
    slopes = (plus - minus) / (2 * step_size)
    return torch.einsum("c,c...->...", slopes.to(directions), directions) / len(directions)


@dataclass(frozen=True, slots=True)
class SpsaState:
    """Everything SPSA knows between two calls."""

    noise: Noise  # ε
    velocity: Noise  # m
    step_size: float  # c_t, the smoothing radius
    steps: int  # t


@dataclass(frozen=True, slots=True, kw_only=True)
class Spsa:
    """SPSA with gradient correction: SPSA-GC of BlackVIP (Oh et al. 2023, section 4.2).

    Nesterov's look-ahead on an SPSA estimate, with Spall's gains (1998): learning rate
    a / (t + 1)^0.602, smoothing radius s / (t + 1)^0.101, t over the whole run. SPSA proper draws
    `rademacher` perturbations; `normal` ones give Gaussian smoothing. `momentum` 0 is plain SPSA.
    """

    basis: Basis
    step_size: float = 0.01  # s
    learning_rate: float = 0.01  # a
    momentum: float = 0.9  # β
    samples: int = 10
    perturbation: Perturbation = "rademacher"
    max_norm: float | None = None  # th, Eq. 1

    def init(self, noise: Noise) -> SpsaState:
        """Return the state before the first step."""
        return SpsaState(noise, torch.zeros_like(noise), self.step_size, 0)

    def begin_epoch(self, state: SpsaState) -> SpsaState:
        """Return `state`: gains and velocity run on over epochs."""
        return state

    def ask(self, state: SpsaState, rng: torch.Generator) -> Candidates:
        """Perturb the look-ahead point ε + βm."""
        centre = state.noise + self.momentum * state.velocity
        directions = self.basis.perturbations(self.samples, self.perturbation, rng)
        return Candidates(centre, directions * state.step_size)

    def tell(self, state: SpsaState, candidates: Candidates, losses: Losses) -> SpsaState:
        """Step: m ← βm - a_t·g(ε + βm), ε ← ε + m."""
        require_finite(losses, state.step_size)
        directions = candidates.directions / state.step_size
        gradient = antithetic_gradient(directions, losses, state.step_size)
        steps = state.steps + 1
        rate = self.learning_rate / steps**SPALL_ALPHA
        velocity = self.momentum * state.velocity - rate * gradient
        noise = landed(state.noise + velocity, self.max_norm, state.step_size)
        return SpsaState(noise, velocity, self.step_size / (steps + 1) ** SPALL_GAMMA, steps)


@dataclass(frozen=True, slots=True)
class ZoSgdState:
    """Everything ZO-SGD knows between two calls."""

    noise: Noise  # ε
    step_size: float  # s, the smoothing radius


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoSgd:
    """ZO-SGD as in MeZO (Malladi et al. 2023, Alg. 1): a constant step along the estimate.

    MeZO draws one direction a step; `samples` directions average to the n-SPSA of its section 2.
    """

    basis: Basis
    step_size: float = 0.01  # s
    learning_rate: float = 0.01  # η
    samples: int = 10
    perturbation: Perturbation = "normal"
    max_norm: float | None = None  # th, Eq. 1

    def init(self, noise: Noise) -> ZoSgdState:
        """Return the state before the first step."""
        return ZoSgdState(noise, self.step_size)

    def begin_epoch(self, state: ZoSgdState) -> ZoSgdState:
        """Return `state`: nothing restarts."""
        return state

    def ask(self, state: ZoSgdState, rng: torch.Generator) -> Candidates:
        """Perturb ε itself."""
        directions = self.basis.perturbations(self.samples, self.perturbation, rng)
        return Candidates(state.noise, directions * state.step_size)

    def tell(self, state: ZoSgdState, candidates: Candidates, losses: Losses) -> ZoSgdState:
        """Step: ε ← ε - η·g(ε)."""
        require_finite(losses, state.step_size)
        directions = candidates.directions / state.step_size
        gradient = antithetic_gradient(directions, losses, state.step_size)
        moved = state.noise - self.learning_rate * gradient
        return replace(state, noise=landed(moved, self.max_norm, state.step_size))
