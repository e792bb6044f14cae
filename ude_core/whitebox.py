"""White-box UDE: Adam on Eq. 2 with the encoder's own gradients; ONE optimiser for the whole run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ude_core.adam import adam_moments
from ude_core.errors import NonFiniteLossError
from ude_core.noise import project
from ude_core.types import Noise


@dataclass(frozen=True, slots=True)
class WhiteboxState:
    """Everything white-box UDE knows between two steps."""

    noise: Noise  # ε
    first_moment: Noise
    second_moment: Noise
    step_size: float
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Whitebox:
    """Adam with the paper's learning rate 0.01; stateless, see WhiteboxState."""

    learning_rate: float = 0.01
    max_norm: float | None = None  # th, Eq. 1

    def init(self, noise: Noise) -> WhiteboxState:
        """Return the state before the first step."""
        zero = torch.zeros_like(noise)
        return WhiteboxState(noise, zero, zero, self.learning_rate, 0)

    def tell(self, state: WhiteboxState, gradient: Noise) -> WhiteboxState:
        """Return the state after one Adam step. Raises NonFiniteLossError on a non-finite gradient."""
        if not bool(torch.isfinite(gradient).all()):
            raise NonFiniteLossError(
                f"the gradient is not finite at learning_rate {self.learning_rate:g}; lower it"
            )
        steps = state.steps + 1
        numerator, denominator, first, second = adam_moments(
            gradient, state.first_moment, state.second_moment, steps
        )
        noise = state.noise - self.learning_rate * numerator / denominator
        return WhiteboxState(project(noise, self.max_norm), first, second, state.step_size, steps)
