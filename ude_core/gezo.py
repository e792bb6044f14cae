"""Greedy zeroth-order optimisation, Alg. 1 of the paper, as ask/tell.

The literal algorithm with three readings fixed: L_best is set to infinity once an epoch and
persists over the R local iterations (else line 9 never runs); the final ε is returned, not ε^R;
velocity and step size restart each epoch (line 2) unless `carry_state`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ude_core.noise import Basis, project
from ude_core.optimizer import Candidates, require_finite
from ude_core.types import Losses, Noise, Perturbation


@dataclass(frozen=True, slots=True)
class GezoState:
    """Everything GeZO knows between two calls."""

    noise: Noise  # ε
    velocity: Noise  # v
    step_size: float  # s
    best_loss: float  # L_best, nats


@dataclass(frozen=True, slots=True, kw_only=True)
class Gezo:
    """GeZO with its hyper-parameters; stateless, see GezoState."""

    basis: Basis
    step_size: float = 0.01  # s⁰
    step_decay: float = 0.95  # k
    momentum: float = 0.9  # μ
    samples: int = 10  # C
    perturbation: Perturbation = "normal"
    max_norm: float | None = None  # th, Eq. 1
    carry_state: bool = False

    def init(self, noise: Noise) -> GezoState:
        """Return the state before the first epoch."""
        return GezoState(noise, torch.zeros_like(noise), self.step_size, math.inf)

    def begin_epoch(self, state: GezoState) -> GezoState:
        """Line 2: v ← 0, s ← s⁰, L_best ← ∞; with `carry_state` only L_best restarts."""
        if self.carry_state:
            return replace(state, best_loss=math.inf)
        return self.init(state.noise)

    def ask(self, state: GezoState, rng: torch.Generator) -> Candidates:
        """Lines 13-16: C perturbations δ ~ N(0, 1)·s, each tried as ε - δ and ε + δ."""
        directions = self.basis.perturbations(self.samples, self.perturbation, rng)
        return Candidates(state.noise, directions * state.step_size)

    def tell(self, state: GezoState, candidates: Candidates, losses: Losses) -> GezoState:
        """Lines 4-9 and 18: move along the best candidate if it beats L_best, else shrink the step."""
        require_finite(losses, state.step_size)
        best = int(torch.argmin(losses))
        best_loss = float(losses[best])
        if best_loss >= state.best_loss:
            return replace(state, step_size=self.step_decay * state.step_size)  # line 9
        velocity = self.momentum * state.velocity + candidates.direction(best)  # line 5
        noise = project(state.noise + velocity, self.max_norm)  # line 6
        return replace(state, noise=noise, velocity=velocity, best_loss=best_loss)
