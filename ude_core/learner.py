"""Learning one noise, an epoch at a time, resumable at any local iteration."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, assert_never, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ude_core.baselines.base import learns_noise
from ude_core.distilled import Distilled, DistilledState, make_distilled
from ude_core.errors import NonFiniteLossError, SettingError
from ude_core.evaluator import Evaluator, Following
from ude_core.leakage import attribute_auc
from ude_core.noise import noise_l2, zero_noise
from ude_core.optimizer import AskTellOptimizer, OptimizerState
from ude_core.optimizers import make_optimizer
from ude_core.proposals import propose, shuffled, split_rows, state_from, state_parts
from ude_core.student import Student
from ude_core.surrogate import Guide
from ude_core.types import Interval, MethodConfig, Noise, Outcome, Progress
from ude_core.whitebox import Whitebox, WhiteboxState

CHECK_IMAGES = 256  # at most; and at most a quarter of the training images


@dataclass(frozen=True, slots=True)
class Schedule:
    """How many local iterations a trial makes at most, and what each costs.

    `check_images` are looked at between epochs, where the trial may end early; 0 where it may not.
    """

    iterations: int
    per_epoch: int
    queries_per_iteration: int
    check_images: int = 0

    @property
    def epochs(self) -> int:
        return math.ceil(self.iterations / self.per_epoch)

    @property
    def queries(self) -> int:
        checks = max(0, self.epochs - 1)
        return self.iterations * self.queries_per_iteration + checks * self.check_images


def plan(method: MethodConfig, images: int) -> Schedule:
    """Return the schedule of a method on `images` training images.

    Ask/tell: R iterations an epoch of 2·C·B queries each; distilled: of C·B. White-box: one pass an
    epoch, B queries a step. With `method.queries` the whole budget is spent on whole iterations and
    never exceeded.
    With `method.target_auc_band` (ours) a quarter of the training images, 256 at most, is held out
    of the minibatches, and costs that many queries after every epoch but the last; a trial that
    ends early spends less than planned.
    A method that learns no noise makes no iteration.
    Raises SettingError where the batch exceeds the cohort or one iteration exceeds the budget.
    """
    if not learns_noise(method.name):
        return Schedule(iterations=0, per_epoch=1, queries_per_iteration=0)
    check = 0 if method.target_auc_band is None else min(CHECK_IMAGES, images // 4)
    images -= check
    if method.batch_size > images:
        held = f", {check} held out for target_auc_band" if check else ""
        raise SettingError(
            f"batch_size is {method.batch_size} (expected at most the {images} training images"
            f"{held}); lower batch_size or add images"
        )
    match method.name:
        case "gezo" | "spsa" | "zo_sgd" | "antithetic_adam" | "guided" | "jacobian" | "cma_es":
            per_epoch, cost = method.local_iterations, 2 * method.samples * method.batch_size
        case "distilled":
            per_epoch, cost = method.local_iterations, method.samples * method.batch_size
        case "whitebox":
            per_epoch, cost = images // method.batch_size, method.batch_size
        case _:
            assert_never(method.name)
    if method.queries is None:
        return Schedule(method.epochs * per_epoch, per_epoch, cost, check)
    if method.queries < cost:
        raise SettingError(
            f"queries is {method.queries} (expected at least {cost}, one local iteration); "
            "raise the budget or lower samples or batch_size"
        )
    # One check fewer than epochs: a budget larger by one check buys whole epochs with theirs.
    whole, rest = divmod(method.queries + check, per_epoch * cost + check)
    return Schedule(whole * per_epoch + max(0, rest - check) // cost, per_epoch, cost, check)


class NoiseLearner:
    """One noise being learnt: `step` is one local iteration, `advance` the rest of the epoch.

    The learner is a pure function of (method, evaluator, seed): stopped and restored anywhere, it
    ends at the same ε, bit for bit, on the same kind of machine. `prior` is for `guided`, directions
    for `jacobian`, a student for `distilled`, and none of them for any other.
    """

    def __init__(
        self,
        method: MethodConfig,
        evaluator: Evaluator,
        seed: int,
        prior: Guide | None = None,
    ) -> None:
        self.method = method
        self.prior = prior
        self.evaluator = evaluator
        self.schedule = plan(method, len(evaluator.images))
        self.iteration = 0
        self._spent = 0
        self.outcome: Outcome = "improved"
        self.note = ""
        self._rng = torch.Generator().manual_seed(seed)
        image_size = evaluator.images.shape[-1]
        start = zero_noise(image_size)
        self._optimizer: AskTellOptimizer[Any] | Whitebox | Distilled
        self._state: OptimizerState
        if isinstance(prior, Student):
            self._optimizer = make_distilled(method, prior, evaluator)
            self._state = self._optimizer.init(start, self._rng)
        elif method.name == "whitebox":
            self._optimizer = Whitebox(learning_rate=method.learning_rate, max_norm=method.max_norm)
            self._state = self._optimizer.init(start)
        else:
            self._optimizer = make_optimizer(method, image_size, prior)
            self._state = self._optimizer.init(start)
        self._check_rows, self._train_rows = split_rows(
            len(evaluator.images), self.schedule.check_images
        )
        self._checks = 0
        self._reached = False
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
        """Queries spent so far, those of an iteration that failed included."""
        return self._spent + self._checks * self.schedule.check_images

    @property
    def surrogate_passes(self) -> int:
        """Images through the surrogate so far; 0 without one."""
        if isinstance(self._optimizer, Distilled):
            return self.iteration * self._optimizer.passes
        return self.iteration * self.prior.passes if self.prior else 0

    @property
    def finished(self) -> bool:
        over = self._reached or self.iteration >= self.schedule.iterations
        return over or self.outcome != "improved"

    def advance(self) -> Progress:
        """Run to the end of the current epoch and return what it came to."""
        while True:
            self.step()
            if self.at_epoch_end:
                return self.progress()

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last step ended an epoch, or all of them."""
        return self.finished or self.iteration % self.schedule.per_epoch == 0

    def step(self) -> None:
        """Make one local iteration; a non-finite loss ends the trial at its last finite noise."""
        began = time.perf_counter()
        if self.iteration % self.schedule.per_epoch == 0:
            self._begin_epoch()
        try:
            if isinstance(self._optimizer, Whitebox):
                self._whitebox_step(self._optimizer)
            elif isinstance(self._optimizer, Distilled):
                self._distilled_step(self._optimizer)
            else:
                self._ask_tell_step(self._optimizer)
        except NonFiniteLossError as error:
            self.outcome, self.note = "diverged", str(error)
        self.iteration += 1
        if self.iteration % self.schedule.per_epoch == 0:
            self._end_epoch()
        self._seconds += time.perf_counter() - began

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
        if isinstance(self._optimizer, Whitebox):
            self._order = shuffled(self._train_rows, self._rng)
        elif not isinstance(self._optimizer, Distilled):
            self._state = self._optimizer.begin_epoch(self._state)

    def _end_epoch(self) -> None:
        low, high = self._cross_entropy_range
        if low == high:
            self.outcome = "no_improvement"
            self.note = "the objective does not change with the noise"
        band = self.method.target_auc_band
        if band is None or self.finished:
            return
        rows = self._check_rows
        logits = self.evaluator.attribute_logits(self.noise, rows)  # check_images queries
        self._checks += 1
        auc = attribute_auc(logits, self.evaluator.attribute[rows])
        if isinstance(auc, Interval) and abs(auc.mean - 50) <= band:
            self._reached = True
            self.note = (
                f"stopped early: frozen attribute AUC {auc.mean:.1f} is within {band:g} of 50"
            )

    def _ask_tell_step(self, optimizer: AskTellOptimizer[Any]) -> None:
        if isinstance(self.evaluator, Following):
            self.evaluator.follow(self.method, *self.state_dict())
        asked = propose(self.method, optimizer, self._state, self._train_rows, self._rng)
        noises = asked.candidates.noises
        measured = self.evaluator.evaluate(noises, asked.minibatches)  # 2·C·B queries
        self._spent += self.schedule.queries_per_iteration
        self._state = optimizer.tell(self._state, asked.candidates, measured.losses)
        self._loss = float(measured.losses.min())
        self._observe(measured.cross_entropy)

    def _whitebox_step(self, optimizer: Whitebox) -> None:
        state = cast(WhiteboxState, self._state)
        start = self.iteration % self.schedule.per_epoch * self.method.batch_size
        minibatch = self._order[start : start + self.method.batch_size]
        measured = self.evaluator.gradient(state.noise, minibatch)  # B queries, with gradients
        self._spent += self.schedule.queries_per_iteration
        self._state = optimizer.tell(state, measured.gradient)
        self._loss = measured.loss
        self._observe(torch.tensor([measured.cross_entropy]))

    def _distilled_step(self, optimizer: Distilled) -> None:
        state = cast(DistilledState, self._state)
        question = optimizer.ask(state, self._train_rows, self._rng)
        noises, minibatches = question.noises, question.minibatches
        embeddings, measured = self.evaluator.embed(noises, minibatches)  # C·B queries
        self._spent += self.schedule.queries_per_iteration
        self._loss = float(measured.losses[0])
        self._observe(measured.cross_entropy)
        self._state = optimizer.tell(state, question, embeddings, self._train_rows, self._rng)

    def _observe(self, cross_entropy: Tensor) -> None:
        low, high = self._cross_entropy_range
        self._cross_entropy = float(cross_entropy.mean())
        self._cross_entropy_range = (
            min(low, float(cross_entropy.min())),
            max(high, float(cross_entropy.max())),
        )

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything needed to continue: tensors, and scalars that JSON can hold."""
        tensors, state = state_parts(self._state)
        tensors |= {"rng": self._rng.get_state(), "order": torch.from_numpy(self._order)}
        scalars: dict[str, Any] = {
            "iteration": self.iteration,
            "spent": self._spent,
            "outcome": self.outcome,
            "note": self.note,
            "seconds": self._seconds,
            "loss": self._loss,
            "cross_entropy": self._cross_entropy,
            "cross_entropy_range": list(self._cross_entropy_range),
            "checks": self._checks,
            "reached": self._reached,
            **state,
        }
        return tensors, scalars

    def load_state_dict(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned for the same method, images and seed.

        Raises FingerprintError where the state has other fields: another release's.
        """
        self._state = state_from(self._state, tensors, scalars)
        self._rng.set_state(tensors["rng"])
        self._order = tensors["order"].numpy()
        self.iteration, self._spent = scalars["iteration"], scalars["spent"]
        self.outcome, self.note = scalars["outcome"], scalars["note"]
        self._seconds = scalars["seconds"]
        self._loss, self._cross_entropy = scalars["loss"], scalars["cross_entropy"]
        low, high = scalars["cross_entropy_range"]
        self._cross_entropy_range = (low, high)
        self._checks, self._reached = scalars["checks"], scalars["reached"]
