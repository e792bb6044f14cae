"""Minibatches with equal shares of every group, for all heads at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ude_core.heads import HeadTask, Minibatch, minibatches


def balanced_minibatches(
    tasks: Sequence[HeadTask],
    groups: Sequence[Int[np.ndarray, " chosen"]],
    batch_size: int,
    rng: torch.Generator,
) -> list[Minibatch]:
    """Return one epoch of minibatches, each with ⌊B/|G|⌋ images (1 at least) of each group of its task.

    `groups` has each image's group. As many minibatches as ERM's epoch has: a group smaller than its
    share is gone through again in a new order, a larger one is not seen whole in one epoch. Groups
    that a task has no image of have no share.
    """
    batches = max(-(-len(task.rows) // batch_size) for task in tasks)
    orders, widths = [], []
    for own in groups:
        present = np.unique(own)
        share = max(1, batch_size // len(present))
        members = [torch.as_tensor(np.flatnonzero(own == group)) for group in present]
        columns = [_cycled(some, share * batches, rng).reshape(batches, share) for some in members]
        orders.append(torch.cat(columns, dim=1))
        widths.append(share * len(present))
    # Tasks with other numbers of groups may have narrower minibatches, so each is cut by itself.
    return [
        minibatches(tasks, [order[batch] for order in orders], max(widths))[0]
        for batch in range(batches)
    ]


def _cycled(
    members: Int[Tensor, " members"], count: int, rng: torch.Generator
) -> Int[Tensor, " count"]:
    """Return `count` of `members`, each as often as any other, give or take one."""
    rounds = -(-count // len(members))
    orders = [members[torch.randperm(len(members), generator=rng)] for _ in range(rounds)]
    return torch.cat(orders)[:count]
