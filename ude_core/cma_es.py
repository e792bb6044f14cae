"""Separable CMA-ES in the coefficients of a basis, with mirrored sampling.

Ros & Hansen 2008 (sep-CMA-ES: a diagonal covariance, learnt (n + 2)/3 times faster), with the
constants of Hansen's tutorial (2016, arXiv:1604.00772, Table 1). Mirrored pairs with pairwise
selection (Auger, Brockhoff & Hansen 2011): of each ± pair only the better one is recombined, since
keeping both would cancel them and bias the step size downwards. Offering it for ε is ours, and so
is the ball: winners outside are brought inside before they are recombined, else σ would grow for
ever against its wall. They were ranked outside, so it settles near the best of the ball, not on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ude_core.noise import Basis, noise_l2
from ude_core.optimizer import Candidates, landed, require_finite, require_zero
from ude_core.types import Losses, Noise


@dataclass(frozen=True, slots=True)
class CmaEsState:
    """Everything CMA-ES knows between two calls; `mean` synthesises to `noise`."""

    noise: Noise  # ε
    mean: Float[Tensor, "1 size size"]  # m
    variance: Float[Tensor, "1 size size"]  # the diagonal of C
    step_path: Float[Tensor, "1 size size"]  # p_σ
    variance_path: Float[Tensor, "1 size size"]  # p_c
    step_size: float  # σ
    steps: int


@dataclass(frozen=True, slots=True)
class Constants:
    """The strategy parameters of Hansen's tutorial, Table 1, in its letters."""

    weights: Float[Tensor, " parents"]
    mu_eff: float
    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float
    chi: float  # E‖N(0, I)‖

    @classmethod
    def of(cls, dimension: int, pairs: int) -> Constants:
        """Return them for `dimension` coefficients and `pairs` winners, the best half of which breed."""
        n, parents = dimension, max(1, pairs // 2)
        weights = math.log(parents + 0.5) - torch.arange(1, parents + 1).double().log()
        weights /= weights.sum()
        mu_eff = float(1 / (weights**2).sum())
        c_sigma = (mu_eff + 2) / (n + mu_eff + 5)
        faster = (n + 2) / 3  # Ros & Hansen 2008, section 3
        c_1 = min(1.0, faster * 2 / ((n + 1.3) ** 2 + mu_eff))
        c_mu = faster * 2 * (mu_eff - 2 + 1 / mu_eff) / ((n + 2) ** 2 + mu_eff)
        return cls(
            weights=weights.float(),
            mu_eff=mu_eff,
            c_sigma=c_sigma,
            d_sigma=1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma,
            c_c=(4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n),
            c_1=c_1,
            c_mu=min(1 - c_1, c_mu),
            chi=math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CmaEs:
    """Separable CMA-ES with mirrored sampling; always normal perturbations, as its constants ask.

    It ranks pairs against each other, so `batch: per_iteration` (one minibatch for all) suits it.
    """

    basis: Basis
    step_size: float = 0.01  # σ⁰
    samples: int = 10
    max_norm: float | None = None  # th, Eq. 1

    def init(self, noise: Noise) -> CmaEsState:
        """Return the state before the first step. Raises ValueError unless `noise` is zero."""
        require_zero(noise)
        zero = torch.zeros(1, self.basis.size, self.basis.size)
        return CmaEsState(noise, zero, torch.ones_like(zero), zero, zero, self.step_size, 0)

    def begin_epoch(self, state: CmaEsState) -> CmaEsState:
        """Return `state`: the distribution runs on over epochs."""
        return state

    def ask(self, state: CmaEsState, rng: torch.Generator) -> Candidates:
        """Draw y ~ N(0, C) a pair and try m - σy and m + σy."""
        drawn = self.basis.coefficients(self.samples, "normal", rng) * state.variance.sqrt()
        return Candidates(state.noise, self.basis.synthesize(drawn) * state.step_size, drawn)

    def tell(self, state: CmaEsState, candidates: Candidates, losses: Losses) -> CmaEsState:
        """Move the mean to the weighted best, then adapt σ and C (tutorial, equations in brackets)."""
        require_finite(losses, state.step_size)
        c = Constants.of(state.mean.numel(), self.samples)
        minus, plus = losses.reshape(-1, 2).unbind(1)
        better = torch.where(
            (plus < minus)[:, None, None, None], candidates.drawn, -candidates.drawn
        )
        order = torch.argsort(torch.minimum(minus, plus), stable=True)[: len(c.weights)]
        parents = self._inside(state, better[order])
        step = torch.einsum("p,p...->...", c.weights, parents)  # <y>_w (41)
        moved = state.mean + state.step_size * step  # (42)
        noise = landed(self.basis.synthesize(moved[None])[0], self.max_norm, state.step_size)

        steps = state.steps + 1
        gain = math.sqrt(c.c_sigma * (2 - c.c_sigma) * c.mu_eff)
        whitened = step / state.variance.sqrt()
        step_path = (1 - c.c_sigma) * state.step_path + gain * whitened  # (43)
        length = float(torch.linalg.vector_norm(step_path))
        step_size = state.step_size * math.exp(
            min(1.0, c.c_sigma / c.d_sigma * (length / c.chi - 1))  # (44), capped at e a step
        )
        expected = math.sqrt(1 - (1 - c.c_sigma) ** (2 * steps))
        moving = length / expected < (1.4 + 2 / (state.mean.numel() + 1)) * c.chi  # h_σ
        gain = math.sqrt(c.c_c * (2 - c.c_c) * c.mu_eff) if moving else 0.0
        variance_path = (1 - c.c_c) * state.variance_path + gain * step  # (45)
        kept = 1 - c.c_1 - c.c_mu + (0.0 if moving else c.c_1 * c.c_c * (2 - c.c_c))
        rank_mu = torch.einsum("p,p...->...", c.weights, parents**2)
        variance = kept * state.variance + c.c_1 * variance_path**2 + c.c_mu * rank_mu  # (47)
        return CmaEsState(noise, moved, variance, step_path, variance_path, step_size, steps)

    def _inside(
        self, state: CmaEsState, parents: Float[Tensor, "parents 1 size size"]
    ) -> Float[Tensor, "parents 1 size size"]:
        """Return the y whose m + σy lie in the ball, which is convex: so does their mean, then."""
        if self.max_norm is None:
            return parents
        points = state.mean + state.step_size * parents
        norms = noise_l2(self.basis.synthesize(points))
        scale = (self.max_norm / norms.clamp_min(self.max_norm))[:, None, None, None]
        return (scale * points - state.mean) / state.step_size
