"""The seam behind which every method of a study stands: what it does to images, and to heads.

A method that learns a noise differs from ERM by that noise alone (`Erm` trains its heads). A
baseline may edit the images, train the heads in another way, or both. Draws, head starts, metrics
and confirmation are those of every other method.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Int
from typing_extensions import TypeIs

from ude_core.encoders.base import Encoder
from ude_core.heads import HeadTask, LinearHeads
from ude_core.image_rows import Images
from ude_core.types import (
    BaselineName,
    Embeddings,
    HeadConfig,
    Indices,
    LearntMethod,
    MethodName,
    Noise,
)

BASELINES: tuple[BaselineName, ...] = typing.get_args(BaselineName)

Edit = Literal["nothing", "noise", "transform"]


def learns_noise(name: MethodName) -> TypeIs[LearntMethod]:
    """Return whether the method learns a noise; a baseline does not.

    >>> learns_noise("gezo"), learns_noise("random_noise")
    (True, False)
    """
    return name not in BASELINES


def has_noise(name: MethodName) -> bool:
    """Return whether a trial of the method has a noise, learnt or not, that could be exported."""
    return learns_noise(name) or name == "random_noise"


@dataclass(frozen=True, slots=True, eq=False)
class DiseaseTask:
    """The training part of one draw of one disease, as a method sees it.

    `head` has rows of the embeddings and labels; `attribute` and `patients` are of the same images.
    """

    disease: str
    head: HeadTask
    attribute: Int[np.ndarray, " chosen"]
    patients: Int[np.ndarray, " chosen"]

    @property
    def cells(self) -> Int[np.ndarray, " chosen"]:
        """Each image's (attribute, label) cell, as 2·attribute + label."""
        cells: Int[np.ndarray, " chosen"] = 2 * self.attribute + self.head.targets
        return cells


@dataclass(frozen=True, slots=True, eq=False)
class HeadProblem:
    """Everything the heads of a trial are trained from: no evaluation image's label is in it.

    The tasks' rows are of `embeddings`.
    """

    embeddings: Embeddings
    tasks: Sequence[DiseaseTask]
    config: HeadConfig
    rng: torch.Generator

    @property
    def head_tasks(self) -> list[HeadTask]:
        """The tasks without the attribute."""
        return [task.head for task in self.tasks]


class Baseline(Protocol):
    """What a method does, its settings held by the value that implements this.

    Guarantees: a pure function of the problem and the generator in it; all tasks train together.
    """

    @property
    def edit(self) -> Edit:
        """What it does to images, in training and in evaluation alike."""

    def noise(self, image_size: int, seed: int) -> Noise:
        """Return the noise it has without learning: 0 for most."""

    def edited(self, images: Images) -> Images:
        """Return the images as it sees them, before any noise."""

    def train(self, problem: HeadProblem, images: Images, encoder: Encoder) -> LinearHeads:
        """Return one two-class head a task, in the order of the tasks.

        `images` are what the problem's embeddings are of, in the same order.
        """

    def training_queries(self, images: int, epochs: int) -> int:
        """Return what `train` spends for heads of so many epochs.

        `images` are the training images, each counted once for every disease it trains
        (`trained_images`).
        """


def trained_images(tasks: Sequence[DiseaseTask]) -> dict[str, Indices]:
    """Return, by disease, the rows that any of its tasks trains on, sorted."""
    rows: dict[str, list[Indices]] = {}
    for task in tasks:
        rows.setdefault(task.disease, []).append(task.head.rows)
    return {disease: np.unique(np.concatenate(some)) for disease, some in rows.items()}
