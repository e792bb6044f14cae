"""SPSA with momentum and ZO-SGD: the field's zeroth-order optimisers, beside GeZO for comparison.

Both estimate the gradient from antithetic losses, g = mean over c of (L(ε + δ_c) - L(ε - δ_c)) / 2s
along u_c = δ_c / s, and differ in how they step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ude_core.noise import Basis, project
from ude_core.optimizer import Candidates, require_finite
from ude_core.types import Losses, Noise, Perturbation


def antithetic_gradient(directions: Tensor, losses: Losses, step_size: float) -> Tensor:
    """Return the averaged two-sided estimate of the gradient, in the shape of one direction.

    `directions` are the unscaled u_c, shape (samples, ...); `losses` those of (ε - δ_c, ε + δ_c),
    interleaved as in Candidates. Unbiased up to O(s²) for unit-variance directions.
    """
    minus, plus = losses.reshape(-1, 2).unbind(1)
    slopes = (plus - minus) / (2 * step_size)
    return torch.einsum("c,c...->...", slopes.to(directions), directions) / len(directions)


@dataclass(frozen=True, slots=True)
class SpsaState:
    """Everything SPSA and ZO-SGD know between two calls."""

    noise: Noise
    velocity: Noise
    step_size: float  # s, the smoothing radius
    steps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spsa:
    """SPSA with gradient correction (SPSA-GC of BlackVIP; Nesterov's look-ahead on an SPSA estimate).

    Spall's gain sequences: learning rate a / (t + 1)^0.6, smoothing s / (t + 1)^0.1. Perturbations
    should be Rademacher, which SPSA's inverse moments ask for. With `momentum` 0 it is plain SPSA.
    """

    basis: Basis
    step_size: float = 0.01
    learning_rate: float = 0.01
    momentum: float = 0.9
    samples: int = 10
    perturbation: Perturbation = "rademacher"
    max_norm: float | None = None

    def init(self, noise: Noise) -> SpsaState:
        return SpsaState(noise, torch.zeros_like(noise), self.step_size, 0.0)

    def begin_epoch(self, state: SpsaState) -> SpsaState:
        return state

    def ask(self, state: SpsaState, rng: torch.Generator) -> Candidates:
        """Perturb the look-ahead point ε + μv."""
        centre = state.noise + self.momentum * state.velocity
        directions = self.basis.perturbations(self.samples, self.perturbation, rng)
        return Candidates(centre, directions * state.step_size)

    def tell(self, state: SpsaState, candidates: Candidates, losses: Losses) -> SpsaState:
        """Step: v ← μv - a_t·g, ε ← ε + v."""
        require_finite(losses, state.step_size)
        directions = candidates.directions / state.step_size
        gradient = antithetic_gradient(directions, losses, state.step_size)
        rate = self.learning_rate / (state.steps + 1) ** 0.6
        velocity = self.momentum * state.velocity - rate * gradient
        steps = state.steps + 1
        return SpsaState(
            project(state.noise + velocity, self.max_norm),
            velocity,
            self.step_size / (steps + 1) ** 0.1,
            steps,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoSgd:
    """ZO-SGD as in MeZO (Alg. 1 there): a constant step along the two-sided estimate, no momentum."""

    basis: Basis
    step_size: float = 0.01
    learning_rate: float = 0.01
    samples: int = 10
    perturbation: Perturbation = "normal"
    max_norm: float | None = None

    def init(self, noise: Noise) -> SpsaState:
        return SpsaState(noise, torch.zeros_like(noise), self.step_size, 0.0)

    def begin_epoch(self, state: SpsaState) -> SpsaState:
        return state

    def ask(self, state: SpsaState, rng: torch.Generator) -> Candidates:
        directions = self.basis.perturbations(self.samples, self.perturbation, rng)
        return Candidates(state.noise, directions * state.step_size)

    def tell(self, state: SpsaState, candidates: Candidates, losses: Losses) -> SpsaState:
        require_finite(losses, state.step_size)
        directions = candidates.directions / state.step_size
        gradient = antithetic_gradient(directions, losses, state.step_size)
        noise = project(state.noise - self.learning_rate * gradient, self.max_norm)
        return replace(state, noise=noise, steps=state.steps + 1)
