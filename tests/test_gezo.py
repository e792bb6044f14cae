"""Alg. 1 by hand on a tiny quadratic, every branch, and the contract of ask/tell."""

import math

import numpy as np
import pytest
import torch

from ude_core.errors import NonFiniteLossError
from ude_core.evaluator import Evaluation
from ude_core.gezo import Gezo, GezoState
from ude_core.learner import NoiseLearner, plan
from ude_core.noise import make_basis
from ude_core.optimizer import Candidates
from ude_core.types import MethodConfig

TARGET = torch.tensor([[[3.0, 0.0], [0.0, 0.0]]])


def quadratic(noises: torch.Tensor) -> torch.Tensor:
    return ((noises - TARGET) ** 2).sum(dim=(-3, -2, -1))


def axis(*values: float) -> torch.Tensor:
    """Directions along the first pixel, one a value: the run below can be followed by hand."""
    out = torch.zeros(len(values), 1, 2, 2)
    out[:, 0, 0, 0] = torch.tensor(values)
    return out


@pytest.fixture
def gezo() -> Gezo:
    return Gezo(basis=make_basis("pixel", 2, 2), step_size=1.0, step_decay=0.5, momentum=0.5)


def tell(gezo: Gezo, state: GezoState, *steps: float) -> GezoState:
    candidates = Candidates(state.noise, axis(*steps))
    return gezo.tell(state, candidates, quadratic(candidates.noises))


def test_a_run_of_algorithm_1_by_hand(gezo: Gezo) -> None:
    state = gezo.begin_epoch(gezo.init(torch.zeros(1, 2, 2)))
    assert (state.best_loss, state.step_size) == (math.inf, 1.0)

    # r=1: candidates -1, +1, -0.5, +0.5 lose 16, 4, 12.25, 6.25. v = 0 + 1, ε = 1, L_best = 4.
    state = tell(gezo, state, 1.0, 0.5)
    assert state.noise[0, 0, 0] == 1.0
    assert state.velocity[0, 0, 0] == 1.0
    assert state.best_loss == 4.0
    assert state.step_size == 1.0

    # r=2: from ε=1, candidates 0.5 and 1.5 lose 6.25 and 2.25 < 4. v = 0.5·1 + 0.5 = 1, ε = 2.
    state = tell(gezo, state, 0.5)
    assert state.noise[0, 0, 0] == 2.0
    assert state.velocity[0, 0, 0] == 1.0
    assert state.best_loss == 2.25

    # r=3: from ε=2, candidates 2 - 0.4 and 2 + 0.4 lose 1.96 and 0.36: improved, overshoots to 2.9.
    state = tell(gezo, state, 0.4)
    assert state.noise[0, 0, 0] == pytest.approx(2.9)
    assert state.best_loss == pytest.approx(0.36)

    # r=4: from ε=2.9, candidates 2.0 and 3.8 lose 1.0 and 0.64: nothing beats 0.36, though 0.64 is
    # better than where others started. ε and v stay, the step shrinks.
    before = state
    state = tell(gezo, state, 0.9)
    assert torch.equal(state.noise, before.noise)
    assert torch.equal(state.velocity, before.velocity)
    assert state.best_loss == before.best_loss
    assert state.step_size == 0.5

    # r=5: still not improved: the step shrinks again.
    state = tell(gezo, state, 0.9)
    assert state.step_size == 0.25

    # r=6: the -δ side wins: candidates 2.9 - (-0.1) = 3.0 (loss 0) and 2.8; v = 0.5·0.9 + 0.1.
    state = tell(gezo, state, -0.1)
    assert state.best_loss == pytest.approx(0.0, abs=1e-9)
    assert state.velocity[0, 0, 0] == pytest.approx(0.55)
    assert state.noise[0, 0, 0] == pytest.approx(3.45)

    # A new epoch: v, s and L_best restart, ε stays.
    restarted = gezo.begin_epoch(state)
    assert torch.equal(restarted.noise, state.noise)
    assert not restarted.velocity.any()
    assert (restarted.best_loss, restarted.step_size) == (math.inf, 1.0)


def test_carry_state_keeps_velocity_and_step() -> None:
    carrying = Gezo(
        basis=make_basis("pixel", 2, 2), step_size=1.0, step_decay=0.5, carry_state=True
    )
    state = tell(carrying, carrying.init(torch.zeros(1, 2, 2)), 1.0)
    state = tell(carrying, state, 0.001)
    after = carrying.begin_epoch(state)
    assert torch.equal(after.velocity, state.velocity)
    assert after.step_size == state.step_size
    assert after.best_loss == math.inf


def test_a_tie_with_the_best_loss_is_no_improvement(gezo: Gezo) -> None:
    state = GezoState(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), 1.0, best_loss=4.0)
    assert tell(gezo, state, 1.0).step_size == 0.5


def test_the_ball_holds_after_every_step() -> None:
    bounded = Gezo(basis=make_basis("pixel", 2, 2), step_size=1.0, max_norm=0.7)
    state = tell(bounded, bounded.init(torch.zeros(1, 2, 2)), 5.0)
    assert float(torch.linalg.vector_norm(state.noise)) == pytest.approx(0.7)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_loss_names_the_step_size(gezo: Gezo, bad: float) -> None:
    state = gezo.init(torch.zeros(1, 2, 2))
    candidates = Candidates(state.noise, axis(1.0))
    with pytest.raises(NonFiniteLossError, match="step_size 1;"):
        gezo.tell(state, candidates, torch.tensor([1.0, bad]))


def test_candidates_are_antithetic_pairs_in_order() -> None:
    candidates = Candidates(torch.ones(1, 2, 2), axis(0.25, 2.0))
    assert candidates.noises[:, 0, 0, 0].tolist() == [0.75, 1.25, -1.0, 3.0]
    for index in range(len(candidates)):
        moved = candidates.centre + candidates.direction(index)
        assert torch.equal(moved, candidates.noises[index])


class RecordingEvaluator:
    """A quadratic in place of an encoder; keeps what it was asked to evaluate."""

    def __init__(self, images: int = 12, size: int = 2) -> None:
        self.images = np.zeros((images, size, size), dtype=np.uint8)
        self.minibatches: list[np.ndarray] = []

    def evaluate(self, noises: torch.Tensor, minibatches: np.ndarray) -> Evaluation:
        self.minibatches.append(minibatches)
        losses = quadratic(noises) + torch.as_tensor(minibatches.sum()) * 1e-3
        return Evaluation(losses, losses)


TINY = MethodConfig(local_iterations=3, samples=4, batch_size=5, epochs=4, step_size=0.3)


def test_the_pair_shares_its_minibatch_and_perturbations_do_not() -> None:
    evaluator = RecordingEvaluator()
    learner = NoiseLearner(TINY, evaluator, seed=1)
    learner.step()
    (minibatches,) = evaluator.minibatches
    # Candidate j is evaluated on row j·rows // candidates = j // 2: one row a ± pair.
    assert minibatches.shape == (4, 5)
    assert all(len(set(row)) == 5 for row in minibatches.tolist())
    assert len({tuple(row) for row in minibatches.tolist()}) > 1


def test_one_minibatch_per_iteration_serves_all_candidates() -> None:
    from dataclasses import replace

    evaluator = RecordingEvaluator()
    NoiseLearner(replace(TINY, batch="per_iteration"), evaluator, seed=1).step()
    assert evaluator.minibatches[0].shape == (1, 5)


@pytest.mark.parametrize("stop_after", range(1, 12))
def test_restored_at_any_iteration_the_noise_is_the_same_bit_for_bit(stop_after: int) -> None:
    whole = NoiseLearner(TINY, RecordingEvaluator(), seed=9)
    while not whole.finished:
        whole.step()
    first = NoiseLearner(TINY, RecordingEvaluator(), seed=9)
    for _ in range(stop_after):
        first.step()
    tensors, scalars = first.state_dict()
    second = NoiseLearner(TINY, RecordingEvaluator(), seed=12345)
    second.load_state_dict(tensors, scalars)
    while not second.finished:
        second.step()
    assert torch.equal(second.noise, whole.noise)
    assert second.queries == whole.queries


def test_gezo_descends_a_quadratic_in_every_basis() -> None:
    for name in ("pixel", "low_frequency", "grid", "patch"):
        method = MethodConfig(
            basis=name,
            basis_size=2,
            local_iterations=20,
            samples=8,
            batch_size=5,
            epochs=5,
            step_size=0.3,
        )
        learner = NoiseLearner(method, RecordingEvaluator(), seed=3)
        start = float(quadratic(learner.noise[None])[0])
        while not learner.finished:
            learner.advance()
        assert float(quadratic(learner.noise[None])[0]) < 0.3 * start


def test_a_constant_objective_ends_as_no_improvement() -> None:
    class Constant(RecordingEvaluator):
        def evaluate(self, noises: torch.Tensor, minibatches: np.ndarray) -> Evaluation:
            flat = torch.full((len(noises),), 0.69)
            return Evaluation(flat + 0.01 * noises.flatten(1).norm(dim=1), flat)

    learner = NoiseLearner(TINY, Constant(), seed=1)
    learner.advance()
    assert learner.outcome == "no_improvement"
    assert learner.finished


def test_a_diverging_trial_keeps_its_last_finite_noise() -> None:
    class Diverging(RecordingEvaluator):
        def evaluate(self, noises: torch.Tensor, minibatches: np.ndarray) -> Evaluation:
            measured = super().evaluate(noises, minibatches)
            if len(self.minibatches) > 2:
                return Evaluation(torch.full_like(measured.losses, math.nan), measured.losses)
            return measured

    learner = NoiseLearner(TINY, Diverging(), seed=1)
    while not learner.finished:
        learner.advance()
    assert learner.outcome == "diverged"
    assert "step_size" in learner.note
    assert torch.isfinite(learner.noise).all()
    assert learner.noise.any()


def test_the_query_budget_is_spent_in_whole_iterations_and_never_exceeded() -> None:
    method = MethodConfig(local_iterations=3, samples=4, batch_size=5, queries=999)
    schedule = plan(method, images=12)
    assert schedule.queries_per_iteration == 40
    assert schedule.queries == 960
    assert schedule.epochs == 8
    learner = NoiseLearner(method, RecordingEvaluator(), seed=1)
    while not learner.finished:
        learner.advance()
    assert learner.queries == 960


def test_the_paper_defaults_cost_what_method_says() -> None:
    assert plan(MethodConfig(), images=1000).queries == 1_280_000
