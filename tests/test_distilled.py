"""Active distillation: what a student answers, what a round costs, and that ε hides the attribute."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from toy import CountingEncoder, ToyEncoder, toy_cohort
from ude_core.assets import StudyAssets, prepare
from ude_core.cohorts.base import Cohort
from ude_core.distilled import MEMORY, Distilled, DistilledState, make_distilled
from ude_core.errors import FingerprintError, SettingError
from ude_core.heads import LinearHeads
from ude_core.objective import edit_objective, group_margin
from ude_core.student import (
    Student,
    _flatten,
    _taught_parameters,
    _unflatten,
    coordinates,
    make_student,
)
from ude_core.surrogate import prepare_surrogate
from ude_core.trial import Trial, trial_evaluator
from ude_core.types import BiasConfig, HeadConfig, MethodConfig, ScoringConfig, SplitConfig

METHOD = MethodConfig(
    name="distilled",
    objective="one_group",
    regularization=0.0,
    samples=2,
    batch_size=16,
    local_iterations=3,
    epochs=4,
    max_norm=2.0,
    learning_rate=0.03,
    student_rate=3e-3,
    student_lessons=6,
    climb_steps=6,
)


class OpenToy(ToyEncoder):
    """Another network than the one attacked, which may be copied and taught."""

    def network_copy(self) -> nn.Module:
        layers = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16, 24), nn.Tanh())
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for parameter in layers.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        return layers


def open_toy() -> OpenToy:
    return OpenToy(name="open", fingerprint="open-1")


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return toy_cohort()


@pytest.fixture(scope="module")
def assets(cohort: Cohort) -> StudyAssets:
    return prepare(
        cohort,
        ToyEncoder(),
        split=SplitConfig(),
        bias=BiasConfig(train_per_group=20, validation_per_cell=5, test_per_cell=5),
        scoring=ScoringConfig(
            repeats=2, bootstrap_draws=20, controls=1, attribute_head=HeadConfig(learning_rate=0.05)
        ),
        seed=1,
    )


@pytest.fixture(scope="module")
def student(cohort: Cohort, assets: StudyAssets) -> Student:
    return prepare_surrogate(cohort, open_toy(), assets).student(assets)


def optimizer(
    method: MethodConfig, cohort: Cohort, assets: StudyAssets, student: Student
) -> Distilled:
    return make_distilled(method, student, trial_evaluator(method, cohort, ToyEncoder(), assets))


def test_coordinates_give_the_attribute_logits_back() -> None:
    rng = torch.Generator().manual_seed(0)
    clean = torch.randn(50, 8, generator=rng) @ torch.randn(8, 8, generator=rng)
    heads = LinearHeads(torch.randn(1, 8, 3, generator=rng), torch.randn(1, 3, generator=rng))
    space = coordinates(clean, heads)
    some = torch.randn(7, 8, generator=rng)
    logits = heads.logits(some)[0]
    expected = logits - logits.mean(1, keepdim=True)
    torch.testing.assert_close(space.logits(space.answers(some)), expected, rtol=1e-4, atol=1e-4)


def test_the_embedding_is_answered_in_units_of_its_spread() -> None:
    rng = torch.Generator().manual_seed(0)
    clean = torch.randn(90, 6, generator=rng) * torch.arange(1.0, 7.0)
    heads = LinearHeads(torch.randn(1, 6, 2, generator=rng), torch.zeros(1, 2))
    answers = coordinates(clean, heads).answers(clean)[:, 2:]
    spread = clean.std(0)
    expected = spread / (spread + 0.3 * spread.mean())
    torch.testing.assert_close(answers.std(0), expected, rtol=1e-4, atol=1e-4)


class _Deep(nn.Module):
    """Few weights first, as convolutional networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 2, 1), nn.Conv2d(2, 40, 3).to(memory_format=torch.channels_last)
        )
        self.head = nn.Linear(40, 30)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.network(pixels).mean((2, 3)))


def test_the_first_weights_are_not_taught_and_the_others_keep_their_layout() -> None:
    module = _Deep()
    named = _taught_parameters(module)
    assert list(named) == [
        "network.1.weight",
        "network.1.bias",
        "head.weight",
        "head.bias",
    ]
    pixels = torch.rand(3, 1, 8, 8)
    expected = module(pixels)
    weights = torch.cat([_flatten(parameter.detach()) for parameter in named.values()])
    student = Student(
        module=module,
        taught=tuple(named),
        weights=weights,
        rates=torch.ones_like(weights),
        coordinates=coordinates(
            torch.rand(9, 28), LinearHeads(torch.rand(1, 28, 2), torch.rand(1, 2))
        ),
        clean_answers=torch.zeros(0, 30),
        passes=0,
        fingerprint="deep",
    )
    assert torch.equal(student.answer(weights, pixels), expected)
    kernel = module.network[1].weight
    assert _unflatten(_flatten(kernel), kernel).stride() == kernel.stride()
    variable = weights.clone().requires_grad_()
    gradient = torch.autograd.grad(student.answer(variable, pixels).sum(), variable)[0]
    by_parameter = torch.autograd.grad(module(pixels).sum(), list(named.values()))
    assert torch.equal(gradient, torch.cat([_flatten(part) for part in by_parameter]))


def test_an_untaught_student_answers_the_ridge_fit_of_the_clean_images(
    cohort: Cohort, assets: StudyAssets
) -> None:
    surrogate = prepare_surrogate(cohort, open_toy(), assets)
    where = np.searchsorted(assets.development, surrogate.train)
    rng = torch.Generator().manual_seed(0)
    wide = torch.cat((surrogate.clean, torch.randn(len(where), 400, generator=rng)), dim=1)
    made = make_student(surrogate.encoder, wide, assets.clean[where], assets.attribute_head)
    head = made.module.head
    fitted = wide @ head.weight.T + head.bias
    error = (fitted - made.clean_answers).square().mean()
    assert error < 0.5 * made.clean_answers.square().mean()


def test_a_group_margin_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    assert float(group_margin(logits, 2)) == pytest.approx((4.5 + 3.0) / 2)
    loss = edit_objective(
        logits[None],
        torch.zeros(1, 2, dtype=torch.long),
        torch.full((1, 1, 2, 2), 0.5),
        objective="one_group",
        regularization=2.0,
        target_group=2,
    )
    assert float(loss[0]) == pytest.approx(-3.75 + 2.0 * 1.0)


def test_a_round_costs_what_was_planned_and_the_student_nothing(
    cohort: Cohort, assets: StudyAssets, student: Student
) -> None:
    encoder = CountingEncoder()
    trial = Trial(METHOD, cohort, encoder, assets, 3, student)
    for rounds in (1, 2, 3):
        trial.step()
        assert sum(encoder.seen) == trial.learner.queries == rounds * 2 * 16
        assert trial.learner.surrogate_passes == rounds * (6 * 16 + 6 * 16)


def test_the_first_round_explores_and_later_ones_ask_on_the_way(
    cohort: Cohort, assets: StudyAssets, student: Student
) -> None:
    made = optimizer(METHOD, cohort, assets, student)
    rng = torch.Generator().manual_seed(0)
    state = made.init(torch.zeros(1, 16, 16), rng)
    rows = np.arange(len(made.images))
    question = made.ask(state, rows, rng)
    assert question.minibatches.shape == (4, 8)
    norms = torch.linalg.vector_norm(question.noises, dim=(1, 2, 3))
    assert bool(((norms >= 0.6 - 1e-5) & (norms <= 2 + 1e-5)).all())
    embeddings = torch.stack(
        [ToyEncoder().encode(made._edited(r, n)) for n, r in zip(*_parts(question), strict=True)]
    )
    state = made.tell(state, question, embeddings, rows, rng)
    assert state.pending.shape == (2, 1, 16, 16)
    assert torch.equal(state.pending[0], state.noise)
    assert not torch.equal(state.pending[1], state.noise)
    assert made.ask(state, rows, rng).minibatches.shape == (2, 16)


def _parts(question: object) -> tuple[object, object]:
    return question.noises, question.minibatches


def test_memory_is_bounded_and_keeps_the_clean_images_and_the_latest(
    cohort: Cohort, assets: StudyAssets, student: Student
) -> None:
    made = optimizer(replace(METHOD, student_lessons=1, climb_steps=2), cohort, assets, student)
    rng = torch.Generator().manual_seed(0)
    state = made.init(torch.zeros(1, 16, 16), rng)
    rows = np.arange(len(made.images))
    question = made.ask(state, rows, rng)
    clean = len(student.clean_answers)
    many = MEMORY - 8
    state = replace(
        state,
        which=torch.cat((state.which, torch.ones(many, dtype=torch.long))),
        rows=torch.cat((state.rows, torch.zeros(many, dtype=torch.long))),
        answers=torch.cat((state.answers, torch.zeros(many, state.answers.shape[1]))),
        noises=torch.cat((state.noises, torch.full((1, 1, 16, 16), 0.1))),
    )
    after = made._remember(state, question, torch.zeros(32, 24))
    assert len(after.which) == len(after.rows) == len(after.answers) == clean + MEMORY
    assert torch.equal(after.answers[:clean], student.clean_answers)
    assert torch.equal(after.noises[after.which[-32:]][::8], question.noises)
    assert torch.equal(after.noises[after.which[:clean]].abs().sum(), torch.tensor(0.0))


def test_it_hides_the_attribute_within_the_ball_and_resumes_bit_for_bit(
    cohort: Cohort, assets: StudyAssets, student: Student, tmp_path: Path
) -> None:
    trial = Trial(METHOD, cohort, ToyEncoder(), assets, 3, student)
    trial.advance()
    trial.save(tmp_path)
    while not trial.finished:
        trial.advance()
    again = Trial(METHOD, cohort, ToyEncoder(), assets, 3, student)
    assert again.restore(tmp_path)
    while not again.finished:
        again.advance()
    assert torch.equal(again.learner.noise, trial.learner.noise)
    assert float(torch.linalg.vector_norm(trial.learner.noise)) <= 2.0 + 1e-5
    result = trial.result()
    learnt = result.metrics["attribute_cross_entropy"].mean
    local = trial_evaluator(METHOD, cohort, ToyEncoder(), assets)
    rows = np.arange(len(local.images))
    rng = torch.Generator().manual_seed(5)
    for _ in range(20):
        noise = torch.randn(1, 16, 16, generator=rng)
        noise = noise * (2.0 / float(torch.linalg.vector_norm(noise)))
        random = local.embed(noise[None], rows[None])[1].cross_entropy[0]
        assert learnt > float(random)


def test_a_checkpoint_of_another_student_is_refused(
    cohort: Cohort, assets: StudyAssets, student: Student, tmp_path: Path
) -> None:
    Trial(METHOD, cohort, ToyEncoder(), assets, 3, student).save(tmp_path)
    other = replace(student, fingerprint="open-2")
    with pytest.raises(FingerprintError, match="other parameters"):
        Trial(METHOD, cohort, ToyEncoder(), assets, 3, other).restore(tmp_path)


def test_what_cannot_be_taught_is_refused(
    cohort: Cohort, assets: StudyAssets, student: Student
) -> None:
    closed = prepare_surrogate(cohort, ToyEncoder(name="fixed"), assets)
    with pytest.raises(SettingError, match="surrogate fixed cannot learn"):
        closed.student(assets)
    with pytest.raises(SettingError, match="no student was given"):
        Trial(METHOD, cohort, ToyEncoder(), assets, 3)
    with pytest.raises(SettingError, match=r"target_group is 2 \(expected 0 to 1, one of female"):
        Trial(replace(METHOD, target_group=2), cohort, ToyEncoder(), assets, 3, student)
    with pytest.raises(SettingError, match=r"climb_steps is 1 \(expected at least samples, 2"):
        Trial(replace(METHOD, climb_steps=1), cohort, ToyEncoder(), assets, 3, student)
    with pytest.raises(SettingError, match=r"a student was given and method\.name is gezo"):
        Trial(replace(METHOD, name="gezo"), cohort, ToyEncoder(), assets, 3, student)


def test_a_state_is_tensors_and_numbers(
    cohort: Cohort, assets: StudyAssets, student: Student
) -> None:
    made = optimizer(METHOD, cohort, assets, student)
    state = made.init(torch.zeros(1, 16, 16), torch.Generator().manual_seed(0))
    assert isinstance(state, DistilledState)
    assert len(state.weights) == sum(p.numel() for p in student.module.parameters())
    with pytest.raises(ValueError, match="zero"):
        made.init(torch.ones(1, 16, 16), torch.Generator().manual_seed(0))
