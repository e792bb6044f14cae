"""Averaged antithetic estimate with Adam, in the coefficients of a basis: uses all 2C losses. Ours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ude_core.heads import ADAM_BETAS, ADAM_EPSILON
from ude_core.noise import Basis, noise_l2, project
from ude_core.optimizer import Candidates, require_finite
from ude_core.spsa import antithetic_gradient
from ude_core.types import Losses, Noise, Perturbation


@dataclass(frozen=True, slots=True)
class AntitheticState:
    """Everything the optimiser knows between two calls; `coefficients` synthesise to `noise`."""

    noise: Noise
    coefficients: Tensor  # (1, size, size)
    first_moment: Tensor
    second_moment: Tensor
    step_size: float  # s, the smoothing radius
    steps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AntitheticAdam:
    """Where GeZO keeps the best of 2C candidates, this averages what all of them say.

    The estimate (OpenAI-ES with antithetic pairs; MeZO's two-sided difference) is taken in the
    basis's coefficients and handed to Adam there, so the noise never leaves the basis.
    """

    basis: Basis
    step_size: float = 0.01
    learning_rate: float = 0.01
    samples: int = 10
    perturbation: Perturbation = "normal"
    max_norm: float | None = None

    def init(self, noise: Noise) -> AntitheticState:
        """Return the state before the first step. Raises ValueError unless `noise` is zero."""
        if noise.any():
            raise ValueError("expected a zero noise: coefficients of another are not known")
        zero = torch.zeros(1, self.basis.size, self.basis.size)
        return AntitheticState(noise, zero, zero, zero, self.step_size, 0.0)

    def begin_epoch(self, state: AntitheticState) -> AntitheticState:
        return state

    def ask(self, state: AntitheticState, rng: torch.Generator) -> Candidates:
        coefficients = self.basis.coefficients(self.samples, self.perturbation, rng)
        directions = self.basis.synthesize(coefficients) * state.step_size
        return Candidates(state.noise, directions, coefficients)

    def tell(
        self, state: AntitheticState, candidates: Candidates, losses: Losses
    ) -> AntitheticState:
        require_finite(losses, state.step_size)
        gradient = antithetic_gradient(_drawn(candidates), losses, state.step_size)
        beta1, beta2 = ADAM_BETAS
        steps = state.steps + 1
        first = beta1 * state.first_moment + (1 - beta1) * gradient
        second = beta2 * state.second_moment + (1 - beta2) * gradient**2
        denominator = (second / (1 - beta2**steps)).sqrt() + ADAM_EPSILON
        moved = state.coefficients - self.learning_rate * (first / (1 - beta1**steps)) / denominator
        noise = self.basis.synthesize(moved[None])[0]
        projected = project(noise, self.max_norm)
        norm = float(noise_l2(noise))
        kept = float(noise_l2(projected)) / norm if norm else 1.0
        return AntitheticState(projected, moved * kept, first, second, state.step_size, steps)


def _drawn(candidates: Candidates) -> Tensor:
    if candidates.coefficients is None:
        raise ValueError("expected candidates that this optimiser asked for")
    return candidates.coefficients
