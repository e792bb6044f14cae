"""Active distillation: a student of the black box is taught where ε stands, and ε climbs it. Ours.

A round asks the black box for embeddings of images under the newest ε and under others on the way to
it, teaches an open network (`student`) to answer alike, and moves ε along the student's gradient of
Eq. 2, by steps of one length with momentum. Where the student errs, ε is drawn there, is asked about
next, and the error is mended: the noise is always judged by the black box itself. Substitute training
of Papernot et al. 2017 with the queries where the search is (DAgger, Ross et al. 2011), for one
universal noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ude_core.adam import adam_moments
from ude_core.errors import NonFiniteLossError, SettingError
from ude_core.evaluator import Evaluator
from ude_core.image_rows import Images
from ude_core.noise import apply_noise, make_basis, noise_l2, project, random_noise, to_pixels, unit
from ude_core.objective import edit_objective
from ude_core.optimizer import require_zero
from ude_core.student import Answers, Student, Weights
from ude_core.types import (
    BasisName,
    Embeddings,
    Indices,
    MethodConfig,
    Noise,
    NoiseBatch,
    ObjectiveName,
    PixelPipeline,
)

BETAS = (0.9, 0.99)  # of the student's Adam: what is right changes from round to round
MOMENTUM = 0.9  # of the climb
LESSON, STRIDE = 16, 16  # images a lesson and a step of the climb
EXPLORED = 8  # images a noise while exploring
RECENT = 768  # answers that half of every lesson is drawn from
MEMORY = 6144  # answers remembered beside the clean ones
EXPLORATION: tuple[tuple[BasisName, int], ...] = (
    ("pixel", 1),
    ("low_frequency", 4),
    ("tile", 14),
    ("tile", 7),
    ("tile", 4),
)
"""Bases of the random noises asked about first, and by how much their size divides the image's."""


@dataclass(frozen=True, slots=True)
class DistilledState:
    """Everything known between two rounds. Memory: answer i is of image `rows[i]` under `which[i]`."""

    noise: Noise  # ε
    direction: Noise  # mean of the latest gradients, each of length 1
    step_size: float
    weights: Weights
    weights_first: Weights
    weights_second: Weights
    lessons: int
    pending: NoiseBatch  # asked about next, the newest ε first
    noises: NoiseBatch  # remembered; the first is 0
    which: Int[Tensor, " memory"]
    rows: Int[Tensor, " memory"]
    answers: Answers


@dataclass(frozen=True, slots=True)
class Question:
    """Noises, and the training images each is asked about."""

    noises: NoiseBatch
    minibatches: Int[np.ndarray, "noises batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """One round of asking, teaching and climbing as ask/tell; stateless, see DistilledState."""

    student: Student
    images: Images
    attribute: Int[np.ndarray, " images"]
    objective: ObjectiveName
    target_group: int
    regularization: float  # λ
    pixels: PixelPipeline
    samples: int  # C, noises asked about a round
    batch_size: int  # B, images a noise
    max_norm: float | None  # th, Eq. 1
    learning_rate: float  # of the climb
    student_rate: float
    lessons: int  # a round
    climb: int  # steps a round

    def init(self, noise: Noise, rng: torch.Generator) -> DistilledState:
        """Return the state before the first round, which explores. Raises ValueError unless 0."""
        require_zero(noise)
        student = self.student
        known = len(student.clean_answers)
        none = torch.zeros_like(student.weights)
        return DistilledState(
            noise=noise,
            direction=torch.zeros_like(noise),
            step_size=self.learning_rate,
            weights=student.weights,
            weights_first=none,
            weights_second=none,
            lessons=0,
            pending=self._exploration(noise.shape[-1], rng),
            noises=noise[None],
            which=torch.zeros(known, dtype=torch.long),
            rows=torch.arange(known),
            answers=student.clean_answers,
        )

    @property
    def queries(self) -> int:
        """Queries a round."""
        return self.samples * self.batch_size

    @property
    def passes(self) -> int:
        """Images through the student, forward and backward, a round."""
        return self.lessons * LESSON + self.climb * STRIDE

    def ask(self, state: DistilledState, rows: Indices, rng: torch.Generator) -> Question:
        """Return the pending noises, each with its own random share of the round's C·B images."""
        share = self.queries // len(state.pending)
        drawn = [
            rows[torch.randint(len(rows), (share,), generator=rng).numpy()] for _ in state.pending
        ]
        return Question(state.pending, np.stack(drawn))

    def tell(
        self,
        state: DistilledState,
        question: Question,
        embeddings: Float[Tensor, "noises batch dim"],
        rows: Indices,
        rng: torch.Generator,
    ) -> DistilledState:
        """Remember the black box's embeddings, teach, climb. Raises NonFiniteLossError."""
        remembered = self._remember(state, question, embeddings.flatten(0, 1))
        taught = self._teach(remembered, rng)
        return self._climb(taught, rows, rng)

    def _exploration(self, image_size: int, rng: torch.Generator) -> NoiseBatch:
        """Return random noises of every basis and of 30 to 100 % of the ball, or of a norm of 5."""
        count = _most_divisor(self.queries, self.queries // EXPLORED)
        noises = []
        for index in range(count):
            name, divisor = EXPLORATION[index % len(EXPLORATION)]
            basis = make_basis(name, image_size, max(1, image_size // divisor))
            share = 0.3 + 0.7 * float(torch.rand(1, generator=rng))
            norm = share * (self.max_norm or 5.0)
            noises.append(random_noise(basis, norm, "normal", rng))
        return torch.stack(noises)

    def _remember(
        self, state: DistilledState, question: Question, embeddings: Embeddings
    ) -> DistilledState:
        clean = len(self.student.clean_answers)
        share = question.minibatches.shape[1]
        which = torch.arange(len(question.noises)).repeat_interleave(share) + len(state.noises)
        which = torch.cat((state.which, which))
        rows = torch.cat((state.rows, torch.from_numpy(question.minibatches.reshape(-1))))
        answers = torch.cat((state.answers, self.student.coordinates.answers(embeddings)))
        noises = torch.cat((state.noises, question.noises))
        surplus = max(0, len(which) - clean - MEMORY)
        kept = torch.cat((torch.arange(clean), torch.arange(clean + surplus, len(which))))
        used, which = torch.unique(which[kept], return_inverse=True)
        return replace(
            state, noises=noises[used], which=which, rows=rows[kept], answers=answers[kept]
        )

    def _teach(self, state: DistilledState, rng: torch.Generator) -> DistilledState:
        """Give the round's lessons: half of each from the latest answers, half from all."""
        weights, first, second = state.weights, state.weights_first, state.weights_second
        importance = self.student.coordinates.importance
        known, given = len(state.which), state.lessons
        for _ in range(self.lessons):
            recent = torch.randint(max(0, known - RECENT), known, (LESSON // 2,), generator=rng)
            any_time = torch.randint(known, (LESSON - LESSON // 2,), generator=rng)
            lesson = torch.cat((recent, any_time))
            pixels = self._edited(state.rows[lesson].numpy(), state.noises[state.which[lesson]])
            variable = weights.detach().requires_grad_()
            answers = self.student.answer(variable, pixels)
            loss = torch.nn.functional.huber_loss(answers, state.answers[lesson], reduction="none")
            total = (loss * importance).sum() / LESSON
            gradient = torch.autograd.grad(total, variable)[0]
            given += 1
            numerator, denominator, first, second = adam_moments(
                gradient, first, second, given, BETAS
            )
            step = numerator / denominator
            weights = weights - self.student_rate * self.student.rates * step
        return replace(
            state, weights=weights, weights_first=first, weights_second=second, lessons=given
        )

    def _climb(self, state: DistilledState, rows: Indices, rng: torch.Generator) -> DistilledState:
        """Move ε along the student's gradients; what is asked next lies evenly on the way.

        A step's length is `learning_rate` a pixel, root mean square. Not Adam's: pixel by pixel it
        follows what is only this student's as far as what is the black box's too.
        """
        noise, direction = state.noise, state.direction
        length = self.learning_rate * noise.numel() ** 0.5
        stops = {self.climb * (i + 1) // self.samples for i in range(self.samples - 1)}
        way: list[Noise] = []
        for index in range(self.climb):
            chosen = rows[torch.randint(len(rows), (STRIDE,), generator=rng).numpy()]
            gradient = self._gradient(state.weights, noise, chosen)
            direction = MOMENTUM * direction + (1 - MOMENTUM) * unit(gradient)
            noise = project(noise - length * unit(direction), self.max_norm)
            if index + 1 in stops:
                way.append(noise)
        return replace(state, noise=noise, direction=direction, pending=torch.stack([noise, *way]))

    def _gradient(self, weights: Weights, noise: Noise, chosen: Indices) -> Noise:
        """Return the gradient of Eq. 2 (or its variant) as the student sees it, over `chosen`."""
        variable = noise.detach().requires_grad_()
        answers = self.student.answer(weights, self._edited(chosen, variable))
        logits = self.student.coordinates.logits(answers)
        loss = edit_objective(
            logits[None],
            torch.as_tensor(self.attribute[chosen])[None],
            variable[None],
            objective=self.objective,
            regularization=self.regularization,
            target_group=self.target_group,
        )[0]
        gradient: Noise = torch.autograd.grad(loss, variable)[0]
        if not bool(torch.isfinite(gradient).all()):
            raise NonFiniteLossError(
                f"the student's gradient is not finite at ‖ε‖₂ {float(noise_l2(noise)):g}; lower "
                "learning_rate or student_rate, or set max_norm"
            )
        return gradient

    def _edited(self, rows: Indices, noises: Tensor) -> Tensor:
        return apply_noise(to_pixels(self.images[rows]), noises, self.pixels)


def _most_divisor(whole: int, most: int) -> int:
    """Return the largest divisor of `whole` that is at most `most`, so that shares are equal."""
    return max(part for part in range(1, max(1, most) + 1) if whole % part == 0)


def make_distilled(method: MethodConfig, student: Student, evaluator: Evaluator) -> Distilled:
    """Return the optimiser `distilled` of this method, over the evaluator's training images.
    Raises SettingError where the method is another, or its steps are fewer than the noises asked.
    """
    if method.name != "distilled":
        raise SettingError(
            f"a student was given and method.name is {method.name} (expected distilled); drop one"
        )
    if method.climb_steps < method.samples:
        raise SettingError(
            f"climb_steps is {method.climb_steps} (expected at least samples, {method.samples}: each "
            "round asks about so many noises on the way); raise climb_steps or lower samples"
        )
    return Distilled(
        student=student,
        images=evaluator.images,
        attribute=evaluator.attribute,
        objective=method.objective,
        target_group=method.target_group,
        regularization=method.regularization,
        pixels=method.pixels,
        samples=method.samples,
        batch_size=method.batch_size,
        max_norm=method.max_norm,
        learning_rate=method.learning_rate,
        student_rate=method.student_rate,
        lessons=method.student_lessons,
        climb=method.climb_steps,
    )
