"""Group DRO (Sagawa et al., 2019): the loss of the worst (attribute, label) group counts most.

q_g ← q_g·exp(η·L_g), normalised; loss Σ q_g·L_g; minibatches with equal shares of every group; the
epoch is chosen by worst-group accuracy on patients of the training draw that are held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ude_core.baselines.balanced import balanced_minibatches
from ude_core.baselines.base import DiseaseTask, HeadProblem
from ude_core.baselines.erm import Erm
from ude_core.encoders.base import Encoder
from ude_core.heads import HeadTask, HeadTraining, LinearHeads, Minibatch
from ude_core.image_rows import Images
from ude_core.types import Embeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDro(Erm):
    """`step` is η; `held_out` the share of each group's training images that choose the epoch."""

    step: float
    held_out: float

    def train(self, problem: HeadProblem, images: Images, encoder: Encoder) -> LinearHeads:
        """Return each head as it was after the epoch of its best worst-group accuracy, held out."""
        config, rng = problem.config, problem.rng
        held = [hold_out(task.patients, task.cells, self.held_out, rng) for task in problem.tasks]
        kept = [
            HeadTask(task.head.rows[~out], task.head.targets[~out])
            for task, out in zip(problem.tasks, held, strict=True)
        ]
        groups = [task.cells[~out] for task, out in zip(problem.tasks, held, strict=True)]
        training = HeadTraining(problem.embeddings, kept, classes=2, config=config, rng=rng)
        weights = GroupWeights(kept, groups, rows=len(problem.embeddings), step=self.step)
        chosen = Chosen(problem.tasks, held, problem.embeddings)
        for _ in range(config.epochs):
            for batch in balanced_minibatches(kept, groups, config.batch_size, rng):
                training.step(batch, weights)
            chosen.see(training.heads())
        return chosen.best


class GroupWeights:
    """The weights q of every head's groups, and from them those of a minibatch's images."""

    def __init__(
        self,
        tasks: Sequence[HeadTask],
        groups: Sequence[Int[np.ndarray, " chosen"]],
        *,
        rows: int,
        step: float,
    ) -> None:
        self._step = step
        self._owner = torch.arange(len(tasks))[:, None]
        self._group_of = torch.zeros(len(tasks), rows, dtype=torch.long)
        count = 1 + max(int(own.max()) for own in groups)
        self.q: Float[Tensor, "heads groups"] = torch.zeros(len(tasks), count)
        for head, (task, own) in enumerate(zip(tasks, groups, strict=True)):
            self._group_of[head, torch.as_tensor(task.rows)] = torch.as_tensor(own)
            present = np.unique(own)
            self.q[head, torch.as_tensor(present)] = 1.0 / len(present)

    def __call__(
        self, batch: Minibatch, probability: Float[Tensor, "heads batch classes"]
    ) -> Float[Tensor, "heads batch"]:
        """Move q by the groups' losses on the minibatch, and return q_g / n_g of each image."""
        group = self._group_of[self._owner, batch.row]
        own = probability.gather(-1, batch.target[..., None])[..., 0]
        loss = -own.clamp_min(torch.finfo(own.dtype).tiny).log() * batch.present
        sums = torch.zeros_like(self.q).scatter_add_(1, group, loss)
        counts = torch.zeros_like(self.q).scatter_add_(1, group, batch.present)
        moved = self.q * torch.exp(self._step * sums / counts.clamp_min(1.0))
        self.q = moved / moved.sum(1, keepdim=True)
        share = self.q / counts.clamp_min(1.0)
        return share.gather(1, group) * batch.present


class Chosen:
    """Each head at its best so far, by worst-group accuracy on its held-out images."""

    def __init__(
        self,
        tasks: Sequence[DiseaseTask],
        held: Sequence[Bool[np.ndarray, " chosen"]],
        embeddings: Embeddings,
    ) -> None:
        self._tasks = list(tasks)
        self._held = list(held)
        self._embeddings = embeddings
        self._score = np.full(len(self._tasks), -np.inf)
        self._best: LinearHeads | None = None

    @property
    def best(self) -> LinearHeads:
        """The heads chosen. Raises ValueError where none were seen."""
        if self._best is None:
            raise ValueError("no heads were seen")
        return self._best

    def see(self, heads: LinearHeads) -> None:
        """Keep the heads that are better than before; the mean over groups settles equal worsts."""
        predicted = (heads.margins(self._embeddings) > 0).numpy()
        scores = np.array([self._worst(head, predicted[head]) for head in range(len(self._tasks))])
        better = torch.as_tensor(scores > self._score)
        self._score = np.maximum(scores, self._score)
        if self._best is None:
            self._best = heads
            return
        self._best = LinearHeads(
            torch.where(better[:, None, None], heads.weight, self._best.weight),
            torch.where(better[:, None], heads.bias, self._best.bias),
        )

    def _worst(self, head: int, predicted: Bool[np.ndarray, " images"]) -> float:
        task, out = self._tasks[head], self._held[head]
        right = predicted[task.head.rows[out]] == task.head.targets[out]
        cells = task.cells[out]
        by_group = [float(right[cells == group].mean()) for group in np.unique(cells)]
        # Accuracies of small groups tie often; a mean of at most 1 never outweighs a worst group.
        return min(by_group) + 1e-6 * float(np.mean(by_group)) if by_group else 0.0


def hold_out(
    patients: Int[np.ndarray, " chosen"],
    cells: Int[np.ndarray, " chosen"],
    share: float,
    rng: torch.Generator,
) -> Bool[np.ndarray, " chosen"]:
    """Return which images are held out: patients drawn until each cell has its share of images.

    A cell of two images or more gives one at least, and no cell gives its last: a patient whose
    going would take it stays. A patient is held out with all images of his, or not at all.
    """
    held = np.zeros(len(cells), dtype=bool)
    have = np.bincount(cells)
    wanted = np.where(have > 1, np.maximum(1, np.floor(share * have)), 0)
    taken = np.zeros_like(have)
    people, person = np.unique(patients, return_inverse=True)
    for patient in torch.randperm(len(people), generator=rng).tolist():
        own = np.bincount(cells[person == patient], minlength=len(have))
        short = (own > 0) & (taken < wanted)
        if short.any() and ((taken + own < have) | (own == 0)).all():
            held |= person == patient
            taken += own
        if (taken >= wanted).all():
            break
    return held
