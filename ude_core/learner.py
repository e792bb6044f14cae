"""Learning one noise, an epoch at a time, resumable at any local iteration."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields
from typing import Any, Literal, assert_never

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ude_core.errors import NonFiniteLossError, SettingError
from ude_core.evaluator import LocalEvaluator
from ude_core.gezo import Gezo, GezoState
from ude_core.noise import make_basis, noise_l2, zero_noise
from ude_core.types import MethodConfig, Noise, Progress
from ude_core.whitebox import Whitebox, WhiteboxState

Outcome = Literal["improved", "no_improvement", "diverged"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How many local iterations a trial makes, and what each costs."""

    iterations: int
    per_epoch: int
    queries_per_iteration: int

    @property
    def epochs(self) -> int:
        return math.ceil(self.iterations / self.per_epoch)

    @property
    def queries(self) -> int:
        return self.iterations * self.queries_per_iteration


def plan(method: MethodConfig, images: int) -> Schedule:
    """Return the schedule of a method on `images` training images.

    GeZO: R iterations an epoch of 2·C·B queries each. White-box: one pass an epoch, B queries a
    step. With `method.queries` the whole budget is spent on whole iterations and never exceeded.
    Raises SettingError where the batch exceeds the cohort or one iteration exceeds the budget.
    """
    if method.batch_size > images:
        raise SettingError(
            f"batch_size is {method.batch_size} (expected at most the {images} training images); "
            "lower batch_size or add images"
        )
    match method.name:
        case "gezo":
            per_epoch, cost = method.local_iterations, 2 * method.samples * method.batch_size
        case "whitebox":
            per_epoch, cost = images // method.batch_size, method.batch_size
        case _:
            assert_never(method.name)
    if method.queries is None:
        return Schedule(method.epochs * per_epoch, per_epoch, cost)
    if method.queries < cost:
        raise SettingError(
            f"queries is {method.queries} (expected at least {cost}, one local iteration); "
            "raise the budget or lower samples or batch_size"
        )
    return Schedule(method.queries // cost, per_epoch, cost)


class NoiseLearner:
    """One noise being learnt: `step` is one local iteration, `advance` the rest of the epoch.

    The learner is a pure function of (method, evaluator, seed): stopped and restored anywhere, it
    ends at the same ε, bit for bit, on the same kind of machine.
    """

    def __init__(self, method: MethodConfig, evaluator: LocalEvaluator, seed: int) -> None:
        self.method = method
        self.evaluator = evaluator
        self.schedule = plan(method, len(evaluator.images))
        self.iteration = 0
        self.outcome: Outcome = "improved"
        self.note = ""
        self._rng = torch.Generator().manual_seed(seed)
        image_size = evaluator.images.shape[-1]
        start = zero_noise(image_size)
        self._gezo = Gezo(
            basis=make_basis(method.basis, image_size, method.basis_size),
            step_size=method.step_size,
            step_decay=method.step_decay,
            momentum=method.momentum,
            samples=method.samples,
            perturbation=method.perturbation,
            max_norm=method.max_norm,
            carry_state=method.carry_state,
        )
        self._whitebox = Whitebox(learning_rate=method.learning_rate, max_norm=method.max_norm)
        self._state: GezoState | WhiteboxState = (
            self._gezo.init(start) if method.name == "gezo" else self._whitebox.init(start)
        )
        self._order: Int[np.ndarray, " images"] = np.empty(0, dtype=np.int64)
        self._loss = math.nan
        self._cross_entropy = math.nan
        self._cross_entropy_range = (math.inf, -math.inf)
        self._seconds = 0.0

    @property
    def noise(self) -> Noise:
        """The current ε: always finite."""
        return self._state.noise

    @property
    def queries(self) -> int:
        """Queries spent so far."""
        return self.iteration * self.schedule.queries_per_iteration

    @property
    def finished(self) -> bool:
        return self.outcome != "improved" or self.iteration >= self.schedule.iterations

    def advance(self) -> Progress:
        """Run to the end of the current epoch and return what it came to."""
        while True:
            self.step()
            if self.finished or self.iteration % self.schedule.per_epoch == 0:
                break
        return self.progress()

    def step(self) -> None:
        """Make one local iteration; a non-finite loss ends the trial at its last finite noise."""
        began = time.perf_counter()
        if self.iteration % self.schedule.per_epoch == 0:
            self._begin_epoch()
        try:
            if isinstance(self._state, GezoState):
                self._gezo_step(self._state)
            else:
                self._whitebox_step(self._state)
        except NonFiniteLossError as error:
            self.outcome, self.note = "diverged", str(error)
        self.iteration += 1
        self._seconds += time.perf_counter() - began
        low, high = self._cross_entropy_range
        if self.iteration % self.schedule.per_epoch == 0 and low == high:
            self.outcome = "no_improvement"
            self.note = "the objective does not change with the noise"

    def progress(self) -> Progress:
        """Return where the learner stands."""
        return Progress(
            epoch=math.ceil(self.iteration / self.schedule.per_epoch),
            epochs=self.schedule.epochs,
            loss=self._loss,
            attribute_cross_entropy=self._cross_entropy,
            noise_l2=float(noise_l2(self.noise)),
            step_size=self._state.step_size,
            queries=self.queries,
            seconds=self._seconds,
        )

    def _begin_epoch(self) -> None:
        self._cross_entropy_range = (math.inf, -math.inf)
        if isinstance(self._state, GezoState):
            self._state = self._gezo.begin_epoch(self._state)
        else:
            self._order = self._permutation()

    def _gezo_step(self, state: GezoState) -> None:
        candidates = self._gezo.ask(state, self._rng)
        rows = self.method.samples if self.method.batch == "per_perturbation" else 1
        size = self.method.batch_size
        minibatches = np.stack([self._permutation()[:size] for _ in range(rows)])
        measured = self.evaluator.evaluate(candidates.noises, minibatches)  # 2·C·B queries
        self._state = self._gezo.tell(state, candidates, measured.losses)
        self._loss = float(measured.losses.min())
        self._observe(measured.cross_entropy)

    def _whitebox_step(self, state: WhiteboxState) -> None:
        start = self.iteration % self.schedule.per_epoch * self.method.batch_size
        minibatch = self._order[start : start + self.method.batch_size]
        measured = self.evaluator.gradient(state.noise, minibatch)  # B queries, with gradients
        self._state = self._whitebox.tell(state, measured.gradient)
        self._loss = measured.loss
        self._observe(torch.tensor([measured.cross_entropy]))

    def _observe(self, cross_entropy: Tensor) -> None:
        low, high = self._cross_entropy_range
        self._cross_entropy = float(cross_entropy.mean())
        self._cross_entropy_range = (
            min(low, float(cross_entropy.min())),
            max(high, float(cross_entropy.max())),
        )

    def _permutation(self) -> Int[np.ndarray, " images"]:
        order: Int[np.ndarray, " images"] = torch.randperm(
            len(self.evaluator.images), generator=self._rng
        ).numpy()
        return order

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything needed to continue: tensors, and scalars that JSON can hold."""
        tensors = {"rng": self._rng.get_state(), "order": torch.from_numpy(self._order)}
        scalars: dict[str, Any] = {
            "iteration": self.iteration,
            "outcome": self.outcome,
            "note": self.note,
            "seconds": self._seconds,
            "loss": self._loss,
            "cross_entropy": self._cross_entropy,
            "cross_entropy_range": list(self._cross_entropy_range),
        }
        for field in fields(self._state):
            value = getattr(self._state, field.name)
            (tensors if isinstance(value, Tensor) else scalars)[f"state.{field.name}"] = value
        return tensors, scalars

    def load_state_dict(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned for the same method, images and seed."""
        values: dict[str, Any] = {
            field.name: tensors.get(f"state.{field.name}", scalars.get(f"state.{field.name}"))
            for field in fields(self._state)
        }
        self._state = type(self._state)(**values)
        self._rng.set_state(tensors["rng"])
        self._order = tensors["order"].numpy()
        self.iteration = scalars["iteration"]
        self.outcome, self.note = scalars["outcome"], scalars["note"]
        self._seconds = scalars["seconds"]
        self._loss, self._cross_entropy = scalars["loss"], scalars["cross_entropy"]
        low, high = scalars["cross_entropy_range"]
        self._cross_entropy_range = (low, high)
