"""Batch sampling (Puyol-Antón et al., 2021): every minibatch has equal shares of every group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from ude_core.baselines.balanced import balanced_minibatches
from ude_core.baselines.base import HeadProblem
from ude_core.baselines.erm import Erm
from ude_core.encoders.base import Encoder
from ude_core.heads import HeadTraining, LinearHeads, mean_loss
from ude_core.image_rows import Images
from ude_core.types import Balance


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSampling(Erm):
    """Cross-entropy over minibatches of B/|A| images from each attribute group.

    `balance: attribute_and_label` (an option of ours) takes equal shares of every (attribute, label)
    cell. Where a draw has equally many images of every attribute group, as bias amplification makes
    it, the literal method sees what ERM sees.
    """

    balance: Balance

    def train(self, problem: HeadProblem, images: Images, encoder: Encoder) -> LinearHeads:
        """Return heads trained on balanced minibatches."""
        match self.balance:
            case "attribute":
                groups = [task.attribute for task in problem.tasks]
            case "attribute_and_label":
                groups = [task.cells for task in problem.tasks]
            case _:
                assert_never(self.balance)
        tasks, config, rng = problem.head_tasks, problem.config, problem.rng
        training = HeadTraining(problem.embeddings, tasks, classes=2, config=config, rng=rng)
        for _ in range(config.epochs):
            for batch in balanced_minibatches(tasks, groups, config.batch_size, rng):
                training.step(batch, mean_loss)
        return training.heads()
