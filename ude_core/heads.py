"""Linear heads on cached embeddings, many trained at once: g (attribute), f (diseases), fresh probes.

φ is frozen and ε fixed by the time a head trains, so each image is embedded once a noise and the
heads of all diseases, repeats and seeds train as one batched problem.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ude_core.transfer import upload
from ude_core.types import Embeddings, HeadConfig, Indices

ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True, slots=True)
class LinearHeads:
    """Trained heads: logits = embeddings · weight + bias, on raw embeddings."""

    weight: Float[Tensor, "heads dim classes"]
    bias: Float[Tensor, "heads classes"]

    def logits(self, embeddings: Float[Tensor, "... dim"]) -> Float[Tensor, "heads ... classes"]:
        """Return the logits of every head on every embedding."""
        flat = embeddings.reshape(-1, embeddings.shape[-1])
        out = torch.einsum("nd,hdc->hnc", flat, self.weight) + self.bias[:, None]
        return out.reshape(len(self.weight), *embeddings.shape[:-1], -1)

    def to(self, device: torch.device) -> LinearHeads:
        """Return the heads on `device`, copied without waiting for it."""
        return LinearHeads(upload(self.weight, device), upload(self.bias, device))

    def margins(self, embeddings: Embeddings) -> Float[Tensor, "heads images"]:
        """Return logit(positive) - logit(negative) of two-class heads; positive predicts 1."""
        both = self.logits(embeddings)
        return both[..., 1] - both[..., 0]


@dataclass(frozen=True, slots=True)
class HeadTask:
    """One head to train: which rows of the embeddings, and the class of each."""

    rows: Indices
    targets: Int[np.ndarray, " chosen"]


@dataclass(frozen=True, slots=True)
class Minibatch:
    """One minibatch of every head; `present` is 0 where a shorter head has no image left."""

    row: Int[Tensor, "heads batch"]
    target: Int[Tensor, "heads batch"]
    present: Float[Tensor, "heads batch"]


Weigh = Callable[[Minibatch, Float[Tensor, "heads batch classes"]], Float[Tensor, "heads batch"]]
"""From a minibatch and what the heads make of it (probabilities) to the weight of each image's
cross-entropy in its head's loss, taken as constant. 0 where an image is not present."""


def mean_loss(batch: Minibatch, probability: Tensor) -> Float[Tensor, "heads batch"]:
    """Return the weights of the plain mean over the images that are present (ERM, Eq. 3)."""
    return batch.present / batch.present.sum(1, keepdim=True).clamp_min(1.0)


def train_heads(
    embeddings: Embeddings,
    tasks: Sequence[HeadTask],
    *,
    classes: int,
    config: HeadConfig,
    rng: torch.Generator,
) -> LinearHeads:
    """Train one linear head a task by AdamW on cross-entropy (Eq. 3), all in one batched problem.

    Constant learning rate, decoupled weight decay, minibatches reshuffled every epoch. Weight decay
    0 is plain Adam. Initial weights and minibatches come from `rng` alone.
    """
    training = HeadTraining(embeddings, tasks, classes=classes, config=config, rng=rng)
    for _ in range(config.epochs):
        for batch in shuffled_minibatches(tasks, config.batch_size, rng):
            training.step(batch, mean_loss)
    return training.heads()


class HeadTraining:
    """Linear heads on the way: one AdamW step on a weighted cross-entropy at a time.

    A head standardises by its own task's rows, where `config.standardize` says so.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        tasks: Sequence[HeadTask],
        *,
        classes: int,
        config: HeadConfig,
        rng: torch.Generator,
    ) -> None:
        heads, dim = len(tasks), embeddings.shape[1]
        rows = [torch.as_tensor(task.rows, dtype=torch.long) for task in tasks]
        self._config, self._classes = config, classes
        self._owner = torch.arange(heads)[:, None]
        self._shared, (self._shift, self._stretch) = _whitened(embeddings, config.standardize)
        self._centre, self._scale = _standardization(self._shared, rows, config.standardize)
        self._weight = _truncated_normal((heads, dim, classes), config.init_std, rng)
        self._bias = torch.zeros(heads, classes)
        parameters = (self._weight, self._bias)
        self._first = [torch.zeros_like(p) for p in parameters]
        self._second = [torch.zeros_like(p) for p in parameters]
        self._steps = 0

    def step(self, batch: Minibatch, weigh: Weigh) -> None:
        """Descend Σ weight·CE of every head's minibatch; a head without an image stays as it is."""
        self._steps += 1
        shared, centre, scale = self._shared, self._centre, self._scale
        heads, dim, classes = self._weight.shape
        where = (batch.row, self._owner)
        # One matrix product for all heads on all rows, (x - centre)·scale·W + b folded into it:
        # cheaper than a copy of every head's minibatch, though most of its logits go unused.
        folded = self._weight * scale[..., None]
        offset = self._bias - (centre[:, None] @ folded)[:, 0]
        every = (shared @ folded.transpose(0, 1).flatten(1)).reshape(-1, heads, classes)
        probability = torch.softmax(every[where] + offset[:, None], dim=-1)
        residual = probability - torch.nn.functional.one_hot(batch.target, classes)
        residual *= weigh(batch, probability)[..., None]
        total = residual.sum(1)
        spread = torch.zeros_like(every).index_put_(where, residual, accumulate=True)
        product = (shared.T @ spread.flatten(1)).reshape(dim, heads, classes).transpose(0, 1)
        slope = product - centre[..., None] * total[:, None]
        gradients = (slope * scale[..., None], total)
        # A head with no image left in this minibatch keeps its parameters and its moments.
        active = batch.present.any(1)
        for parameter, gradient, m, v in zip(
            (self._weight, self._bias), gradients, self._first, self._second, strict=True
        ):
            _adamw_step(parameter, gradient, m, v, self._steps, active, self._config)

    def replace(self, rows: Indices, embeddings: Embeddings) -> None:
        """Put other embeddings into these rows; what heads standardise by stays as it was."""
        whitened = (embeddings - self._shift) * self._stretch
        self._shared = self._shared.index_copy(0, torch.as_tensor(rows), whitened)

    def heads(self) -> LinearHeads:
        """Return the heads as they are now, on raw embeddings."""
        folded = self._weight * self._scale[..., None]
        bias = self._bias - (self._centre[:, None] @ folded)[:, 0]
        raw = folded * self._stretch[:, None]
        return LinearHeads(raw, bias - self._shift @ raw)


def fit_probe(
    embeddings: Embeddings, targets: Int[np.ndarray, " images"], *, classes: int
) -> LinearHeads:
    """Fit a fresh linear probe: L2-regularised logistic regression (C = 1) on standardised embeddings.

    The convex problem is solved to convergence (L-BFGS, float64), so the probe has no seed.
    """
    data = embeddings.to(torch.float64, copy=True)  # the one copy: a worker's memory is counted
    centre, scale = data.mean(0), data.std(0, correction=0).clamp_min(1e-12).reciprocal()
    data.sub_(centre).mul_(scale)
    target = torch.as_tensor(targets, dtype=torch.long)
    weight = torch.zeros(data.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        fit = torch.nn.functional.cross_entropy(data @ weight + bias, target, reduction="sum")
        loss = (fit + 0.5 * (weight**2).sum()) / len(target)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    raw = weight.detach() * scale[:, None]
    shifted = bias.detach() - centre @ raw
    return LinearHeads(raw.float()[None], shifted.float()[None])


def shuffled_minibatches(
    tasks: Sequence[HeadTask], batch_size: int, rng: torch.Generator
) -> list[Minibatch]:
    """Return one epoch: every head's images once, in a new order."""
    return minibatches(
        tasks, [torch.randperm(len(t.rows), generator=rng) for t in tasks], batch_size
    )


def minibatches(
    tasks: Sequence[HeadTask], orders: Sequence[Int[Tensor, " order"]], batch_size: int
) -> list[Minibatch]:
    """Return each task's images in its order, cut into minibatches, padded where one is shorter."""
    longest = max(len(order) for order in orders)
    row = torch.zeros(len(tasks), longest, dtype=torch.long)
    target = torch.zeros(len(tasks), longest, dtype=torch.long)
    present = torch.zeros(len(tasks), longest)
    for head, (task, order) in enumerate(zip(tasks, orders, strict=True)):
        row[head, : len(order)] = torch.as_tensor(task.rows, dtype=torch.long)[order]
        target[head, : len(order)] = torch.as_tensor(task.targets, dtype=torch.long)[order]
        present[head, : len(order)] = 1.0
    parts = (torch.split(table, batch_size, dim=1) for table in (row, target, present))
    return [Minibatch(*part) for part in zip(*parts, strict=True)]


def _adamw_step(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    step: int,
    active: Tensor,
    config: HeadConfig,
) -> None:
    """AdamW in place (Loshchilov & Hutter, Alg. 2) for the active heads."""
    beta1, beta2 = ADAM_BETAS
    mask = active.reshape(-1, *([1] * (parameter.dim() - 1)))
    first.copy_(torch.where(mask, beta1 * first + (1 - beta1) * gradient, first))
    second.copy_(torch.where(mask, beta2 * second + (1 - beta2) * gradient**2, second))
    denominator = (second / (1 - beta2**step)).sqrt_().add_(ADAM_EPSILON)
    update = (first / (1 - beta1**step)) / denominator + config.weight_decay * parameter
    parameter.sub_(torch.where(mask, config.learning_rate * update, torch.zeros_like(update)))


def _whitened(embeddings: Embeddings, standardize: bool) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return embeddings centred and scaled over all rows, so that heads may fold their own in."""
    dim = embeddings.shape[1]
    if not standardize:
        return embeddings, (torch.zeros(dim), torch.ones(dim))
    shift = embeddings.mean(0)
    stretch = embeddings.std(0, correction=0).clamp_min(1e-6).reciprocal()
    return (embeddings - shift) * stretch, (shift, stretch)


def _standardization(
    embeddings: Embeddings, rows: Sequence[Tensor], standardize: bool
) -> tuple[Float[Tensor, "heads dim"], Float[Tensor, "heads dim"]]:
    """Return the centre and the scale of each head's own training rows."""
    if not standardize:
        shape = (len(rows), embeddings.shape[1])
        return torch.zeros(shape), torch.ones(shape)
    centre = torch.stack([embeddings[row].mean(0) for row in rows])
    spread = torch.stack([embeddings[row].std(0, correction=0) for row in rows])
    return centre, spread.clamp_min(1e-6).reciprocal()


def _truncated_normal(shape: tuple[int, ...], std: float, rng: torch.Generator) -> Tensor:
    return torch.nn.init.trunc_normal_(
        torch.empty(shape), std=std, a=-2 * std, b=2 * std, generator=rng
    )
