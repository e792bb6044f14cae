"""Candidates over several workers: the same ε bit for bit, whoever measures what and whoever is lost."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from toy import SIZE, ToyEncoder, toy_cohort
from ude_core import spread
from ude_core.batching import FORWARD, pass_limit
from ude_core.cohorts.phantom import PhantomConfig, make_phantoms
from ude_core.crew import ProcessCrew
from ude_core.directions import SurrogateDirections
from ude_core.encoders.phantom_vit import load_phantom_vit
from ude_core.evaluator import LocalEvaluator
from ude_core.heads import LinearHeads
from ude_core.learner import NoiseLearner
from ude_core.replica import Replica
from ude_core.spread import SpreadEvaluator, WorkerLostError, deal
from ude_core.surrogate import SurrogatePrior
from ude_core.types import MethodConfig

METHOD = MethodConfig(
    local_iterations=2, samples=4, batch_size=10, epochs=3, step_size=0.05, basis_size=4
)


def evaluator(**changes: Any) -> LocalEvaluator:
    cohort = toy_cohort(60)
    generator = torch.Generator().manual_seed(2)
    values: dict[str, Any] = {
        "encoder": ToyEncoder(batch_size=20),
        "attribute_head": LinearHeads(
            torch.randn(1, 24, 2, generator=generator), torch.zeros(1, 2)
        ),
        "images": cohort.images,
        "attribute": cohort.attribute,
        "objective": "cross_entropy",
        "regularization": 0.01,
        "pixels": "paper",
    }
    return LocalEvaluator(**values | changes)


class ShrinkingEncoder(ToyEncoder):
    """Takes images of any size, and looks at 16 x 16 of their pixels."""

    def __init__(self, image_size: int, batch_size: int) -> None:
        super().__init__(image_size=image_size, batch_size=batch_size)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        step = pixels.shape[-1] // SIZE
        return super().encode(pixels[..., ::step, ::step])


class Crew:
    """Replicas in this process. `lose` names the (worker, order) pairs at which a worker is gone."""

    def __init__(
        self, workers: int, lose: set[tuple[int, int]] | None = None, **changes: Any
    ) -> None:
        encoder = changes.pop("encoder", None)
        self.replicas = [
            Replica(
                evaluator(encoder=encoder() if encoder else ToyEncoder(batch_size=20), **changes)
            )
            for _ in range(workers)
        ]
        self.lose = lose or set()
        self.orders = [0] * workers
        self.waiting: dict[int, bytes] = {}
        self.travelled: list[int] = []

    def __len__(self) -> int:
        return len(self.replicas)

    def send(self, worker: int, message: bytes, images: int) -> None:
        self.orders[worker] += 1
        self.travelled.append(len(message))
        self.waiting[worker] = message

    def receive(self, worker: int) -> bytes:
        message = self.waiting.pop(worker)
        if (worker, self.orders[worker]) in self.lose:
            raise WorkerLostError("its process has ended")
        reply = self.replicas[worker].answer(message)
        self.travelled.append(len(reply))
        return reply


def outcome(learner: NoiseLearner) -> dict[str, Any]:
    while not learner.finished:
        learner.advance()
    tensors, scalars = learner.state_dict()
    scalars.pop("seconds")
    return scalars | {name: tensor.tolist() for name, tensor in tensors.items()}


def local_outcome(method: MethodConfig, **changes: Any) -> dict[str, Any]:
    return outcome(NoiseLearner(method, evaluator(**changes), seed=7))


@pytest.mark.parametrize("basis", ["pixel", "tile"])
@pytest.mark.parametrize("name", ["gezo", "antithetic_adam", "cma_es"])
def test_any_number_of_workers_learns_the_same_noise(name: Any, basis: Any) -> None:
    method = replace(METHOD, name=name, basis=basis, objective="confusion", pixels="deploy")
    expected = local_outcome(method, objective="confusion", pixels="deploy")
    for workers in (1, 2, 3, 4):
        crew = Crew(workers - 1)
        local = evaluator(objective="confusion", pixels="deploy")
        learner = NoiseLearner(method, SpreadEvaluator(local, crew), seed=7)
        assert outcome(learner) == expected
        assert crew.orders == [6] * (workers - 1), "one order an iteration, whether or not a share"


@pytest.mark.parametrize(
    "changes",
    [{"batch": "per_iteration"}, {"target_auc_band": 0.1}, {"batch_size": 7, "samples": 5}],
)
def test_so_it_is_with_other_settings(changes: Any) -> None:
    method = replace(METHOD, **changes)
    crew = Crew(2)
    got = outcome(NoiseLearner(method, SpreadEvaluator(evaluator(), crew), seed=7))
    assert got == local_outcome(method)


@pytest.mark.parametrize("cut", [[0, 0, 4], [4, 0, 4], [1, 2, 4], [1, 4, 4], [0, 4, 4]])
def test_any_split_measures_the_same(cut: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def uneven(groups: Any, workers: int) -> Any:
        first, second, last = cut
        return [groups[:first], groups[first:second], groups[second:last]]

    monkeypatch.setattr(spread, "deal", uneven)
    crew = Crew(2)
    assert outcome(NoiseLearner(METHOD, SpreadEvaluator(evaluator(), crew), seed=7)) == (
        local_outcome(METHOD)
    )


@pytest.mark.parametrize("lose", [{(0, 1)}, {(1, 3)}, {(0, 2), (1, 2)}, {(0, 4), (1, 5), (2, 1)}])
def test_a_worker_lost_in_mid_iteration_changes_nothing(
    lose: set[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    crew = Crew(3, lose)
    with caplog.at_level(logging.WARNING, "ude_core.spread"):
        got = outcome(NoiseLearner(METHOD, SpreadEvaluator(evaluator(), crew), seed=7))
    assert got == local_outcome(METHOD)
    assert len(caplog.records) == len(lose)


def test_a_learner_that_was_stopped_continues_on_another_crew() -> None:
    first = NoiseLearner(METHOD, SpreadEvaluator(evaluator(), Crew(2)), seed=7)
    for _ in range(3):
        first.step()
    second = NoiseLearner(METHOD, SpreadEvaluator(evaluator(), Crew(1)), seed=99)
    second.load_state_dict(*first.state_dict())
    assert outcome(second) == local_outcome(METHOD)


def test_a_crew_follows_one_learner_after_another_and_those_it_lost_return() -> None:
    crew = Crew(2, {(0, 2)})
    local = evaluator()
    assert outcome(NoiseLearner(METHOD, SpreadEvaluator(local, crew), seed=7)) == (
        local_outcome(METHOD)
    )
    orders = crew.orders[0]
    other = replace(METHOD, name="antithetic_adam", basis="tile")
    assert outcome(NoiseLearner(other, SpreadEvaluator(local, crew), seed=7)) == local_outcome(
        other
    )
    assert crew.orders[0] == orders + 6


def test_a_worker_that_was_swapped_for_a_blank_one_is_started_again() -> None:
    crew = Crew(2)
    shared = SpreadEvaluator(evaluator(), crew)
    learner = NoiseLearner(METHOD, shared, seed=7)
    learner.step()
    crew.replicas[1] = Replica(evaluator())
    learner.step()
    assert shared._in_step == {0}
    assert outcome(learner) == local_outcome(METHOD)
    assert shared._in_step == {0, 1}


def test_a_worker_with_other_materials_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    head = LinearHeads(torch.ones(1, 24, 2), torch.zeros(1, 2))
    crew = Crew(1, attribute_head=head)
    with caplog.at_level(logging.WARNING, "ude_core.spread"):
        got = outcome(NoiseLearner(METHOD, SpreadEvaluator(evaluator(), crew), seed=7))
    assert got == local_outcome(METHOD)
    assert crew.orders == [1]
    assert "attribute head are others" in caplog.text


def test_a_worker_that_proposes_otherwise_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ude_core.replica.proposal_digest", lambda *_: "of another processor")
    crew = Crew(1)
    with caplog.at_level(logging.WARNING, "ude_core.spread"):
        got = outcome(NoiseLearner(METHOD, SpreadEvaluator(evaluator(), crew), seed=7))
    assert got == local_outcome(METHOD)
    assert crew.orders == [1]
    assert "other candidates" in caplog.text


def test_a_worker_out_of_memory_halves_the_passes_of_all() -> None:
    class Small(ToyEncoder):
        def encode(self, pixels: torch.Tensor) -> torch.Tensor:
            if len(pixels) > 10:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().encode(pixels)

    crew = Crew(2, encoder=partial(Small, batch_size=20))
    local = evaluator()
    got = outcome(NoiseLearner(METHOD, SpreadEvaluator(local, crew), seed=7))
    halved = ToyEncoder(batch_size=20)
    FORWARD.cap(halved, 10)
    expected = local_outcome(METHOD, encoder=halved)
    assert np.allclose(got["state.noise"], expected["state.noise"], atol=1e-5)
    assert pass_limit(local.encoder) == 10
    assert crew.orders == [7, 7], "one order more in the first iteration, none after it"


def test_losses_travel_and_nothing_else() -> None:
    """Under 10 kB an iteration in all, the same for images of any size, once a trial has begun."""
    amounts = []
    for size in (SIZE, 4 * SIZE):
        images = toy_cohort(60).images.repeat(size // SIZE, axis=1).repeat(size // SIZE, axis=2)
        encoder = ShrinkingEncoder(image_size=size, batch_size=20)
        crew = Crew(3, images=images, encoder=partial(ShrinkingEncoder, size, batch_size=20))
        method = replace(METHOD, samples=10)
        local = evaluator(images=images, encoder=encoder)
        learner = NoiseLearner(method, SpreadEvaluator(local, crew), seed=7)
        learner.step()
        begun = sum(crew.travelled)
        crew.travelled.clear()
        learner.step()
        assert begun > sum(crew.travelled)
        amounts.append(sum(crew.travelled))
    assert amounts[0] == amounts[1] < 10_000


@pytest.mark.parametrize("name", ["guided", "jacobian"])
@pytest.mark.parametrize("informed", [True, False])
def test_a_guided_method_needs_its_surrogate_everywhere(
    informed: bool, name: Literal["guided", "jacobian"], caplog: pytest.LogCaptureFixture
) -> None:
    method = replace(METHOD, name=name, surrogate_images=8)
    surrogate = evaluator(encoder=ToyEncoder(name="open"))
    prior: SurrogatePrior | SurrogateDirections
    prior = SurrogatePrior(evaluator=surrogate, rows=np.arange(8))
    if name == "jacobian":
        prior = SurrogateDirections(
            encoder=surrogate.encoder,
            images=surrogate.images,
            spread=torch.ones(surrogate.encoder.embedding_dim),
            pixels="paper",
            images_per_direction=2,
            passes=2 * method.samples,
        )
    crew = Crew(2)
    if informed:
        crew.replicas = [Replica(evaluator(), lambda _: prior) for _ in range(2)]
    shared = SpreadEvaluator(evaluator(), crew)
    with caplog.at_level(logging.WARNING, "ude_core.spread"):
        got = outcome(NoiseLearner(method, shared, 7, prior))
    assert got == outcome(NoiseLearner(method, evaluator(), 7, prior))
    assert shared._in_step == ({0, 1} if informed else set())
    assert ("no surrogate" in caplog.text) is not informed


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_shares_are_even_and_complete(count: int, workers: int) -> None:
    groups = [range(2 * g, 2 * g + 2) for g in range(count)]
    shares = deal(groups, workers)
    assert [group for share in shares for group in share] == groups
    assert len(shares) == workers
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


def phantom_evaluator() -> LocalEvaluator:
    cohort = make_phantoms(PhantomConfig(patients=40))
    generator = torch.Generator().manual_seed(2)
    encoder = load_phantom_vit()
    head = torch.randn(1, encoder.embedding_dim, 2, generator=generator)
    return evaluator(
        encoder=encoder,
        attribute_head=LinearHeads(head, torch.zeros(1, 2)),
        images=cohort.images,
        attribute=cohort.attribute,
    )


def phantom_replica(worker: int) -> Replica:
    return Replica(phantom_evaluator())


@pytest.mark.slow
def test_processes_learn_the_same_noise_though_one_is_killed(tmp_path: Path) -> None:
    method = replace(METHOD, batch_size=32, samples=3)
    expected = outcome(NoiseLearner(method, phantom_evaluator(), seed=7))
    with ProcessCrew(2, phantom_replica, threads=torch.get_num_threads()) as crew:
        local = phantom_evaluator()
        learner = NoiseLearner(method, SpreadEvaluator(local, crew), seed=7)
        learner.step()
        evaluator_of = learner.evaluator
        assert isinstance(evaluator_of, SpreadEvaluator)
        assert evaluator_of._in_step == {0, 1}, "both measured their share"
        crew._processes[1].kill()
        assert outcome(learner) == expected
        assert evaluator_of._in_step == {0}
    assert not any(process.is_alive() for process in crew._processes)
