"""BiasAdv (Lim et al., 2023): images attacked so that a biased head errs and the debiased one holds.

A biased head f_b learns by generalised cross-entropy (1 - p_y^q)/q, which dwells on what is easy:
the bias. The debiased head f_d learns from each image by its relative difficulty,
W·CE(f_d(x), y) with W = CE_b/(CE_b + CE_d), and where the image is easy from an attacked copy x' of
it, β·(1 - W)·CE(f_d(x'), y). The copy is the maximum of CE(f_b(x'), y) - λ·CE(f_d(x'), y) in an L∞
ball, by projected sign steps; until the first attack it is the image itself.

The attack needs gradients through the encoder. It is dear, so it is shared: one x' an image and
disease, against the mean over the draws that train on the image, renewed every few epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ude_core.baselines.base import HeadProblem, trained_images
from ude_core.baselines.erm import Erm
from ude_core.batching import BACKWARD
from ude_core.encoders.base import Encoder
from ude_core.heads import (
    HeadTask,
    HeadTraining,
    LinearHeads,
    Minibatch,
    shuffled_minibatches,
)
from ude_core.image_rows import Images
from ude_core.noise import to_pixels
from ude_core.transfer import upload
from ude_core.types import Embeddings, Indices, Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasAdv(Erm):
    """`power` is q, `weight` λ and `adversarial_weight` β; ball and steps are in pixel units.

    The first attack comes after `every` epochs: heads at their start say nothing of the bias.
    """

    power: float
    radius: float
    step: float
    steps: int
    every: int
    weight: float
    adversarial_weight: float

    def train(self, problem: HeadProblem, images: Images, encoder: Encoder) -> LinearHeads:
        """Return the debiased heads."""
        plain, config, rng = problem.head_tasks, problem.config, problem.rng
        count, clean = len(plain), len(problem.embeddings)
        attacked = trained_images(problem.tasks)
        attack = partial(self._attacked_embeddings, problem.head_tasks, images, encoder)
        starts = dict(zip(attacked, np.cumsum([clean, *map(len, attacked.values())]), strict=False))
        # Rows beyond the clean ones are the attacked copies, equal to their images until attacked.
        copies = [problem.embeddings[torch.as_tensor(rows)] for rows in attacked.values()]
        table = torch.cat([problem.embeddings, *copies])
        copied = torch.stack(
            [
                _copy_rows(clean, attacked[task.disease], int(starts[task.disease]))
                for task in problem.tasks
            ]
        )
        # The first half of the heads are biased, the second debiased, on the same minibatches.
        training = HeadTraining(table, [*plain, *plain], classes=2, config=config, rng=rng)
        weigh = Weights(self.power, self.adversarial_weight)
        for epoch in range(config.epochs):
            if epoch and epoch % self.every == 0:
                heads = training.heads()
                for disease, rows in attacked.items():
                    own = [i for i, task in enumerate(problem.tasks) if task.disease == disease]
                    found = attack(heads, own, rows)
                    training.replace(np.arange(len(rows)) + int(starts[disease]), found)
            for batch in shuffled_minibatches(plain, config.batch_size, rng):
                training.step(_doubled(batch, copied), weigh)
        trained = training.heads()
        return LinearHeads(trained.weight[count:], trained.bias[count:])

    def training_queries(self, images: int, epochs: int) -> int:
        """Return steps + 1 passes an image and attack: each step is one, and so is embedding x'."""
        return images * (self.steps + 1) * ((epochs - 1) // self.every)

    def _attacked_embeddings(
        self,
        tasks: Sequence[HeadTask],
        images: Images,
        encoder: Encoder,
        heads: LinearHeads,
        own: Sequence[int],
        rows: Indices,
    ) -> Embeddings:
        """Return φ(x') of one disease's training images, attacked against the heads of its draws."""
        labels, trains = _membership([tasks[i] for i in own], rows)
        biased = LinearHeads(heads.weight[own], heads.bias[own])
        debiased_at = [len(tasks) + i for i in own]
        debiased = LinearHeads(heads.weight[debiased_at], heads.bias[debiased_at])
        parts: list[Tensor] = []
        done = 0
        while done < len(rows):
            part = BACKWARD.halving(
                encoder,
                encoder.batch_size,
                partial(
                    self._attack_part,
                    encoder,
                    images,
                    rows[done:],
                    labels[done:],
                    trains[:, done:],
                    biased,
                    debiased,
                ),
            )
            parts.append(part)
            done += len(part)
        return torch.cat(parts)

    def _attack_part(
        self,
        encoder: Encoder,
        images: Images,
        rows: Indices,
        labels: Int[Tensor, " images"],
        trains: Float[Tensor, "heads images"],
        biased: LinearHeads,
        debiased: LinearHeads,
        limit: int,
    ) -> Embeddings:
        """Return φ(x') of the first `limit` images, on the CPU."""
        pixels = to_pixels(images[rows[:limit]], encoder.device)
        attacked = self.attack(
            pixels, labels[:limit], trains[:, :limit], encoder, biased=biased, debiased=debiased
        )
        with torch.inference_mode():
            embeddings = encoder.encode(attacked).cpu()
        return embeddings.clone()  # out of inference mode: what trains on it may be differentiated

    def attack(
        self,
        pixels: Pixels,
        labels: Int[Tensor, " images"],
        trains: Float[Tensor, "heads images"],
        encoder: Encoder,
        *,
        biased: LinearHeads,
        debiased: LinearHeads,
    ) -> Pixels:
        """Return x' of each image: in the ball around it, and in [0, 1]. Costs steps queries an image.

        `trains` weighs each head's say over each image: 1 where the head's draw trains on it.
        """
        device = pixels.device
        biased, debiased = biased.to(device), debiased.to(device)
        labels, trains = upload(labels, device), upload(trains, device)
        share = trains / trains.sum(0, keepdim=True).clamp_min(1.0)
        low, high = (pixels - self.radius).clamp(0, 1), (pixels + self.radius).clamp(0, 1)
        attacked = pixels.clone()
        for _ in range(self.steps):
            with torch.enable_grad():
                variable = attacked.detach().requires_grad_()
                embeddings = encoder.encode(variable)
                gain = _cross_entropy(biased, embeddings, labels)
                gain = gain - self.weight * _cross_entropy(debiased, embeddings, labels)
                (gradient,) = torch.autograd.grad((share * gain).sum(), variable)
            attacked = (attacked + self.step * gradient.sign()).clamp(low, high)
        return attacked.detach()


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a doubled minibatch: generalised cross-entropy above, relative difficulty below."""

    power: float  # q
    adversarial_weight: float  # β

    def __call__(
        self, batch: Minibatch, probability: Float[Tensor, "heads batch classes"]
    ) -> Float[Tensor, "heads batch"]:
        """Return p_y^q/n of biased heads, W/n and β·(1 - W)/n (attacked copies) of debiased ones.

        The gradient of (1 - p_y^q)/q is that of the cross-entropy times p_y^q.
        """
        heads, width = len(batch.row) // 2, batch.row.shape[1] // 2
        own = probability.gather(-1, batch.target[..., None])[..., 0]
        own = own.clamp_min(torch.finfo(own.dtype).tiny)
        weights = torch.zeros_like(own)
        loss_biased, loss_debiased = -own[:heads, :width].log(), -own[heads:, :width].log()
        weights[:heads, :width] = own[:heads, :width] ** self.power
        difficulty = loss_biased / (loss_biased + loss_debiased).clamp_min(1e-8)
        weights[heads:, :width] = difficulty
        weights[heads:, width:] = self.adversarial_weight * (1 - difficulty)
        images = batch.present[:heads, :width].sum(1, keepdim=True).clamp_min(1.0)
        return weights * batch.present / images.repeat(2, 1)


def _doubled(batch: Minibatch, copied: Int[Tensor, "tasks images"]) -> Minibatch:
    """Return the minibatch for biased heads above debiased ones, attacked copies to the right."""
    owner = torch.arange(len(copied))[:, None]
    row = torch.cat([batch.row, copied[owner, batch.row]], dim=1)
    above = torch.cat([batch.present, torch.zeros_like(batch.present)], dim=1)
    below = batch.present.repeat(1, 2)
    return Minibatch(
        row=row.repeat(2, 1),
        target=batch.target.repeat(2, 2),
        present=torch.cat([above, below]),
    )


def _copy_rows(clean: int, rows: Indices, start: int) -> Int[Tensor, " images"]:
    """Return where each clean row's attacked copy lies; itself where it has none."""
    table = torch.arange(clean)
    table[torch.as_tensor(rows)] = start + torch.arange(len(rows))
    return table


def _membership(
    tasks: Sequence[HeadTask], rows: Indices
) -> tuple[Int[Tensor, " images"], Float[Tensor, "tasks images"]]:
    """Return the label of each image of `rows`, and 1 where a task trains on it."""
    labels = torch.zeros(len(rows), dtype=torch.long)
    trains = torch.zeros(len(tasks), len(rows))
    for index, task in enumerate(tasks):
        where = torch.as_tensor(np.searchsorted(rows, task.rows))
        labels[where] = torch.as_tensor(task.targets, dtype=torch.long)
        trains[index, where] = 1.0
    return labels, trains


def _cross_entropy(
    heads: LinearHeads, embeddings: Embeddings, labels: Int[Tensor, " images"]
) -> Float[Tensor, "heads images"]:
    log_probability = torch.log_softmax(heads.logits(embeddings), dim=-1)
    return -log_probability.gather(-1, labels.expand(len(log_probability), -1)[..., None])[..., 0]
