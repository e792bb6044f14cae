"""What every ask/tell optimiser guarantees, in one suite they all inherit; then each by hand."""

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from toy import CountingEncoder, ToyEncoder, toy_cohort
from ude_core.antithetic import AntitheticAdam, Guided
from ude_core.assets import StudyAssets, prepare
from ude_core.cma_es import CmaEs, Constants
from ude_core.cohorts.base import Cohort
from ude_core.directions import SurrogateDirections
from ude_core.errors import NonFiniteLossError, SettingError
from ude_core.evaluator import Evaluation, Gradient
from ude_core.learner import NoiseLearner, plan
from ude_core.noise import make_basis, noise_l2, zero_noise
from ude_core.optimizer import AskTellOptimizer, Candidates, landed
from ude_core.optimizers import make_optimizer
from ude_core.spsa import Spsa, SpsaState, ZoSgd, antithetic_gradient
from ude_core.storage import load_checked, save_checked
from ude_core.surrogate import SurrogatePrior, prepare_surrogate
from ude_core.trial import Trial, planned_queries, run_trial
from ude_core.types import (
    NEEDS_SURROGATE,
    BiasConfig,
    HeadConfig,
    MethodConfig,
    ScoringConfig,
    SplitConfig,
)

IMAGE, COEFFICIENTS = 8, 4
BASES = ("pixel", "low_frequency", "grid", "patch", "tile")
SHARED = MethodConfig(
    basis="low_frequency",
    basis_size=COEFFICIENTS,
    samples=8,
    batch_size=5,
    local_iterations=10,
    epochs=15,
    step_size=0.3,
)
METHODS = {
    method.name: method
    for method in (
        replace(SHARED, step_size=0.1),
        replace(SHARED, name="spsa", learning_rate=0.5, perturbation="rademacher"),
        replace(SHARED, name="zo_sgd", learning_rate=1.0),
        replace(SHARED, name="antithetic_adam", learning_rate=0.1),
        replace(SHARED, name="guided", learning_rate=0.1),
        replace(SHARED, name="jacobian", learning_rate=0.2),
        replace(SHARED, name="cma_es"),
    )
}


@pytest.fixture(params=METHODS, name="method")
def _method(request: pytest.FixtureRequest) -> MethodConfig:
    return METHODS[request.param]


def target_in(method: MethodConfig) -> torch.Tensor:
    basis = make_basis(method.basis, IMAGE, method.basis_size)
    return basis.perturbations(1, "normal", torch.Generator().manual_seed(2))[0]


def quadratic(noises: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((noises - target) ** 2).mean(dim=(-3, -2, -1))


class Quadratic:
    """In place of an encoder: a quadratic in the noise, shifted a little by the minibatch."""

    def __init__(self, method: MethodConfig, images: int = 12) -> None:
        self.target = target_in(method)
        self.images = np.zeros((images, IMAGE, IMAGE), dtype=np.uint8)
        self.evaluated = 0

    def evaluate(self, noises: torch.Tensor, minibatches: np.ndarray) -> Evaluation:
        self.evaluated += len(noises) * minibatches.shape[1]
        owner = np.arange(len(noises)) * len(minibatches) // len(noises)
        shift = torch.as_tensor(minibatches[owner].sum(axis=1)) * 1e-3
        losses = quadratic(noises, self.target) + shift
        return Evaluation(losses, losses)

    def gradient(self, noise: torch.Tensor, minibatch: np.ndarray) -> Gradient:
        loss = float(quadratic(noise, self.target))
        return Gradient(loss, loss, 2 * (noise - self.target) / noise.numel())


class Flat(ToyEncoder):
    """An open encoder whose embedding is the image: its Jacobian's directions are white noise."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1)


def prior_for(method: MethodConfig) -> SurrogatePrior | SurrogateDirections | None:
    evaluator: Any = Quadratic(method)
    match method.name:
        case "guided":
            return SurrogatePrior(evaluator=evaluator, rows=np.arange(3))
        case "jacobian":
            return SurrogateDirections(
                encoder=Flat(),
                images=evaluator.images,
                spread=torch.ones(IMAGE * IMAGE),
                pixels="paper",
                images_per_direction=2,
                passes=2 * method.samples,
            )
        case _:
            return None


def optimizer_for(method: MethodConfig) -> AskTellOptimizer[Any]:
    return make_optimizer(method, IMAGE, prior_for(method))


def learner_for(method: MethodConfig, seed: int = 9) -> NoiseLearner:
    evaluator: Any = Quadratic(method)
    return NoiseLearner(method, evaluator, seed, prior_for(method))


def run(method: MethodConfig, steps: int) -> list[Any]:
    """Return the states of a run on the quadratic, the first one included."""
    optimizer, target = optimizer_for(method), target_in(method)
    rng = torch.Generator().manual_seed(4)
    states = [optimizer.init(zero_noise(IMAGE))]
    for step in range(steps):
        epoch_begins = step % method.local_iterations == 0
        state = optimizer.begin_epoch(states[-1]) if epoch_begins else states[-1]
        candidates = optimizer.ask(state, rng)
        losses = quadratic(candidates.noises, target)
        states.append(optimizer.tell(state, candidates, losses))
    return states


def same(one: Any, other: Any) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    return type(one) is type(other) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs
    )


class TestContract:
    """Every optimiser, one after another."""

    def test_the_start_is_the_zero_noise(self, method: MethodConfig) -> None:
        state = optimizer_for(method).init(zero_noise(IMAGE))
        assert state.noise.shape == (1, IMAGE, IMAGE)
        assert not state.noise.any()
        assert state.step_size == method.step_size
        assert not learner_for(method).noise.any()

    def test_a_state_is_a_frozen_value_of_tensors_and_numbers(self, method: MethodConfig) -> None:
        state = run(method, 2)[-1]
        assert is_dataclass(state)
        assert all(
            isinstance(getattr(state, f.name), torch.Tensor | float | int) for f in fields(state)
        )
        with pytest.raises(AttributeError):
            state.step_size = 1.0

    def test_it_is_pure(self, method: MethodConfig) -> None:
        optimizer, target = optimizer_for(method), target_in(method)
        state = run(method, 3)[-1]
        kept = replace(
            state,
            **{
                f.name: getattr(state, f.name).clone()
                for f in fields(state)
                if isinstance(getattr(state, f.name), torch.Tensor)
            },
        )
        rng = torch.Generator().manual_seed(6)
        before = rng.get_state()
        first = optimizer.ask(state, rng)
        rng.set_state(before)
        second = optimizer_for(method).ask(state, rng)
        assert torch.equal(first.noises, second.noises)
        losses = quadratic(first.noises, target)
        told = optimizer.tell(state, first, losses)
        assert same(told, optimizer_for(method).tell(state, second, losses))
        assert same(state, kept)
        assert not same(told, state)

    def test_candidates_are_antithetic_pairs(self, method: MethodConfig) -> None:
        state = run(method, 3)[-1]
        candidates = optimizer_for(method).ask(state, torch.Generator().manual_seed(6))
        assert len(candidates) == 2 * method.samples
        assert candidates.noises.shape == (2 * method.samples, 1, IMAGE, IMAGE)
        minus, plus = candidates.noises[0::2], candidates.noises[1::2]
        assert torch.allclose((minus + plus) / 2, candidates.centre.expand_as(minus), atol=1e-6)
        assert float((plus - minus).abs().max()) > 0

    def test_a_direction_is_a_step_size_a_pixel(self, method: MethodConfig) -> None:
        many = replace(method, samples=2000)
        state = optimizer_for(many).init(zero_noise(IMAGE))
        drawn = optimizer_for(many).ask(state, torch.Generator().manual_seed(6)).directions
        # 2,000 draws of 16 coefficients; guided repeats one direction, whose pixels are not even.
        tolerance = 0.5 if method.name == "guided" else 0.05
        rms = float((drawn**2).mean().sqrt())
        assert rms == pytest.approx(method.step_size, rel=tolerance)

    @pytest.mark.parametrize("basis", BASES)
    def test_it_descends_a_quadratic_in_every_basis(self, method: MethodConfig, basis: str) -> None:
        tried = replace(method, basis=basis)
        target = target_in(tried)
        end = run(tried, 150)[-1].noise
        assert float(quadratic(end, target)) < 0.5 * float(quadratic(zero_noise(IMAGE), target))
        learner = learner_for(tried)
        while not learner.finished:
            learner.advance()
        start = float(quadratic(zero_noise(IMAGE), target))
        assert float(quadratic(learner.noise, target)) < 0.5 * start

    @pytest.mark.parametrize("basis", [name for name in BASES if name != "pixel"])
    def test_the_noise_stays_in_its_basis(self, method: MethodConfig, basis: str) -> None:
        tried = replace(method, basis=basis)
        matrix = make_basis(basis, IMAGE, COEFFICIENTS).matrix
        assert matrix is not None
        inside = matrix @ torch.linalg.pinv(matrix)
        noise = run(tried, 20)[-1].noise
        assert torch.allclose(inside @ noise @ inside.T, noise, atol=1e-4)

    def test_the_ball_holds_after_every_tell(self, method: MethodConfig) -> None:
        states = run(replace(method, max_norm=0.7), 30)
        norms = [float(noise_l2(state.noise)) for state in states]
        assert max(norms) <= 0.7 * (1 + 1e-5)
        assert max(norms) > 0.69

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_loss_that_is_not_finite_names_the_step_size(
        self, method: MethodConfig, bad: float
    ) -> None:
        optimizer = optimizer_for(method)
        state = optimizer.init(zero_noise(IMAGE))
        candidates = optimizer.ask(state, torch.Generator().manual_seed(1))
        losses = quadratic(candidates.noises, target_in(method))
        losses[3] = bad
        with pytest.raises(NonFiniteLossError, match=f"1 of 16 .* step_size {method.step_size};"):
            optimizer.tell(state, candidates, losses)

    def test_a_noise_is_finite_however_large_the_losses(self, method: MethodConfig) -> None:
        optimizer = optimizer_for(replace(method, learning_rate=1e30))
        state = optimizer.init(zero_noise(IMAGE))
        candidates = optimizer.ask(state, torch.Generator().manual_seed(1))
        losses = quadratic(candidates.noises, target_in(method)) * 1e30
        try:
            state = optimizer.tell(state, candidates, losses)
        except NonFiniteLossError as error:
            assert "step_size" in str(error)  # noqa: PT017 - whether it raises depends on the method
        assert torch.isfinite(state.noise).all()

    def test_equal_losses_break_nothing(self, method: MethodConfig) -> None:
        optimizer = optimizer_for(method)
        state = optimizer.init(zero_noise(IMAGE))
        for _ in range(5):
            candidates = optimizer.ask(state, torch.Generator().manual_seed(1))
            state = optimizer.tell(state, candidates, torch.ones(len(candidates)))
        assert torch.isfinite(state.noise).all()
        assert state.step_size > 0

    @pytest.mark.parametrize("stop_after", [0, 1, 4, 10, 13])
    @pytest.mark.parametrize("basis", ["pixel", "low_frequency"])
    def test_restored_mid_epoch_it_ends_at_the_same_noise_bit_for_bit(
        self, method: MethodConfig, basis: str, stop_after: int, tmp_path: Any
    ) -> None:
        short = replace(method, epochs=2, basis=basis)
        whole = learner_for(short)
        while not whole.finished:
            whole.step()
        first = learner_for(short)
        for _ in range(stop_after):
            first.step()
        save_checked(tmp_path / "state", *first.state_dict())
        second = learner_for(short, seed=12345)
        second.load_state_dict(*load_checked(tmp_path / "state"))
        assert same(second._state, first._state)
        assert [type(getattr(second._state, f.name)) for f in fields(second._state)] == [
            type(getattr(first._state, f.name)) for f in fields(first._state)
        ]
        while not second.finished:
            second.step()
        assert same(second._state, whole._state)
        assert (second.queries, second.surrogate_passes) == (whole.queries, whole.surrogate_passes)

    @pytest.mark.parametrize("budget", [None, 999])
    @pytest.mark.parametrize("batch", ["per_perturbation", "per_iteration"])
    def test_it_spends_the_queries_of_the_schedule(
        self, method: MethodConfig, budget: int | None, batch: str
    ) -> None:
        tried = replace(method, queries=budget, batch=batch, epochs=2)
        learner = learner_for(tried)
        while not learner.finished:
            learner.advance()
        cost = 2 * tried.samples * tried.batch_size
        expected = 20 * cost if budget is None else 999 // cost * cost
        assert learner.queries == expected == plan(tried, 12).queries
        assert learner.evaluator.evaluated == expected
        assert learner.progress().queries == expected

    def test_a_trial_tells_what_it_spent(
        self, method: MethodConfig, cohort: Cohort, assets: StudyAssets
    ) -> None:
        tried = replace(
            method, samples=3, batch_size=16, local_iterations=2, epochs=2, surrogate_images=20
        )
        encoder, surrogate = CountingEncoder(), CountingEncoder()
        prior = None
        if method.name in NEEDS_SURROGATE:
            prior = prepare_surrogate(cohort, surrogate, assets).proposing(tried)
            surrogate.seen.clear()  # its head is the study's
        result = run_trial(tried, cohort, encoder, assets, seed=3, prior=prior)
        assert result.queries.total == sum(encoder.seen)
        assert result.queries.surrogate == sum(surrogate.seen)
        assert result.queries.total == planned_queries(
            tried,
            len(assets.scored),
            len(assets.split.train),
            SCORING.controls,
            diseases=len(cohort.diseases),
            head_epochs=SCORING.disease_head.epochs,
        )


HEAD = HeadConfig(learning_rate=0.02, standardize=True, epochs=20)
SCORING = ScoringConfig(
    repeats=2, bootstrap_draws=20, controls=1, disease_head=HEAD, attribute_head=HEAD
)
BIAS = BiasConfig(gap=0.7, train_per_group=40, validation_per_cell=15, test_per_cell=10)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return toy_cohort()


@pytest.fixture(scope="module")
def assets(cohort: Cohort) -> StudyAssets:
    return prepare(cohort, ToyEncoder(), split=SplitConfig(), bias=BIAS, scoring=SCORING, seed=5)


def test_the_suite_covers_every_ask_tell_method() -> None:
    from typing import get_args

    from ude_core.types import LearntMethod

    assert set(METHODS) == set(get_args(LearntMethod)) - {"whitebox", "distilled"}


def test_white_box_is_told_gradients() -> None:
    with pytest.raises(ValueError, match="told gradients"):
        make_optimizer(MethodConfig(name="whitebox"), IMAGE)


def test_white_box_can_be_saved_before_its_first_step(tmp_path: Any) -> None:
    learner = learner_for(replace(SHARED, name="whitebox"))
    save_checked(tmp_path / "state", *learner.state_dict())
    learner.load_state_dict(*load_checked(tmp_path / "state"))
    while not learner.finished:
        learner.step()
    assert learner.noise.any()


def test_guided_asks_for_a_prior_and_the_others_refuse_one() -> None:
    with pytest.raises(SettingError, match="guided and no prior was given"):
        make_optimizer(METHODS["guided"], IMAGE)
    with pytest.raises(SettingError, match=r"method.name is gezo \(expected guided\)"):
        make_optimizer(METHODS["gezo"], IMAGE, prior_for(METHODS["guided"]))
    with pytest.raises(SettingError, match=r"prior_weight is 1.5 \(expected in \[0, 1\]\)"):
        make_optimizer(replace(METHODS["guided"], prior_weight=1.5), IMAGE, lambda noise: noise)


def test_coefficients_of_another_start_are_unknown() -> None:
    for name in ("antithetic_adam", "guided", "cma_es"):
        with pytest.raises(ValueError, match="expected a zero noise"):
            optimizer_for(METHODS[name]).init(torch.ones(1, IMAGE, IMAGE))


def test_a_step_that_overflows_names_the_step_size() -> None:
    with pytest.raises(NonFiniteLossError, match=r"step_size 0\.1"):
        landed(torch.full((1, 2, 2), 1e30), 1.0, 0.1)


def test_the_estimate_is_exact_for_a_linear_loss_along_orthogonal_directions() -> None:
    slope = torch.tensor([1.0, -2.0, 0.5, 3.0])
    hadamard = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    directions = hadamard.reshape(4, 1, 2, 2)
    noises = Candidates(torch.zeros(1, 2, 2), 0.1 * directions).noises
    losses = noises.flatten(1) @ slope + 7
    estimate = antithetic_gradient(directions, losses, 0.1)
    assert torch.allclose(estimate.flatten(), slope, atol=1e-4)


def along_first_pixel(centre: torch.Tensor, step: float) -> Candidates:
    direction = torch.zeros(1, 1, 2, 2)
    direction[0, 0, 0, 0] = step
    return Candidates(centre, direction, direction / step)


def test_spsa_with_gradient_correction_by_hand() -> None:
    optimizer = Spsa(
        basis=make_basis("pixel", 2, 2), step_size=0.5, learning_rate=0.2, momentum=0.5, samples=1
    )
    state = optimizer.init(zero_noise(2))
    # L rises from 1 to 4 over 2s = 1 along u = 1: g = 3. m = -0.2·3, ε = -0.6.
    state = optimizer.tell(state, along_first_pixel(state.noise, 0.5), torch.tensor([1.0, 4.0]))
    assert float(state.noise[0, 0, 0]) == pytest.approx(-0.6)
    assert state.step_size == pytest.approx(0.5 / 2**0.101)
    # The next candidates surround the look-ahead ε + βm = -0.6 + 0.5·(-0.6).
    candidates = optimizer.ask(state, torch.Generator().manual_seed(1))
    assert float(candidates.centre[0, 0, 0]) == pytest.approx(-0.9)
    # g = 1 at t = 1: m = 0.5·(-0.6) - 0.2 / 2^0.602, ε = -0.6 + m.
    told = SpsaState(state.noise, state.velocity, 0.5, state.steps)
    state = optimizer.tell(told, along_first_pixel(candidates.centre, 0.5), torch.tensor([1.0, 2]))
    assert float(state.velocity[0, 0, 0]) == pytest.approx(-0.3 - 0.2 / 2**0.602)
    assert float(state.noise[0, 0, 0]) == pytest.approx(-0.9 - 0.2 / 2**0.602)


def test_zo_sgd_by_hand() -> None:
    optimizer = ZoSgd(basis=make_basis("pixel", 2, 2), step_size=0.5, learning_rate=0.2, samples=1)
    state = optimizer.init(zero_noise(2))
    state = optimizer.tell(state, along_first_pixel(state.noise, 0.5), torch.tensor([1.0, 4.0]))
    assert state.noise.flatten().tolist() == pytest.approx([-0.6, 0, 0, 0])
    assert state.step_size == 0.5


def test_antithetic_adam_is_torch_adam_on_its_own_estimates() -> None:
    basis = make_basis("low_frequency", IMAGE, COEFFICIENTS)
    optimizer = AntitheticAdam(basis=basis, learning_rate=0.05, samples=6)
    target = target_in(SHARED)
    variable = torch.zeros(1, COEFFICIENTS, COEFFICIENTS, requires_grad=True)
    theirs = torch.optim.Adam([variable], lr=0.05)
    state, rng = optimizer.init(zero_noise(IMAGE)), torch.Generator().manual_seed(1)
    for _ in range(20):
        candidates = optimizer.ask(state, rng)
        losses = quadratic(candidates.noises, target)
        variable.grad = antithetic_gradient(candidates.drawn, losses, state.step_size)
        state = optimizer.tell(state, candidates, losses)
        theirs.step()
    assert torch.allclose(state.coefficients, variable, atol=1e-5)
    assert torch.allclose(state.noise, basis.synthesize(variable.detach()[None])[0], atol=1e-5)


def test_the_adjoint_is_the_gradient_by_the_coefficients() -> None:
    for name in BASES:
        basis = make_basis(name, IMAGE, COEFFICIENTS)
        variable = torch.randn(2, 1, basis.size, basis.size, requires_grad=True)
        weights = torch.randn(2, 1, IMAGE, IMAGE, generator=torch.Generator().manual_seed(1))
        (basis.synthesize(variable) * weights).sum().backward()
        assert torch.allclose(basis.adjoint(weights), variable.grad, atol=1e-4)


def guided(prior: Any, weight: float, samples: int = 4) -> Guided:
    return Guided(
        basis=make_basis("low_frequency", IMAGE, COEFFICIENTS),
        learning_rate=0.1,
        step_size=0.05,
        samples=samples,
        prior=prior,
        prior_weight=weight,
    )


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_guided_direction_holds_the_prior_by_its_weight(weight: float) -> None:
    gradient = torch.randn(1, IMAGE, IMAGE, generator=torch.Generator().manual_seed(8))
    optimizer = guided(lambda noise: gradient, weight)
    state = optimizer.init(zero_noise(IMAGE))
    drawn = optimizer.ask(state, torch.Generator().manual_seed(1)).drawn.flatten(1)
    guide = optimizer.basis.adjoint(gradient[None]).flatten()
    cosines = drawn @ guide / guide.norm() / drawn.norm(dim=1)
    assert torch.allclose(cosines**2, torch.full((4,), weight), atol=1e-4)
    assert torch.allclose((drawn**2).mean(1), torch.ones(4), atol=1e-4)


def after(optimizer: AskTellOptimizer[Any], steps: int) -> float:
    state, rng = optimizer.init(zero_noise(IMAGE)), torch.Generator().manual_seed(1)
    for _ in range(steps):
        candidates = optimizer.ask(state, rng)
        losses = quadratic(candidates.noises, target_in(SHARED))
        state = optimizer.tell(state, candidates, losses)
    return float(quadratic(state.noise, target_in(SHARED)))


def test_a_prior_helps_where_it_is_right_and_does_no_harm_where_it_is_reversed_or_silent() -> None:
    target = target_in(SHARED)
    start = float(quadratic(zero_noise(IMAGE), target))
    alone = after(replace_prior(None), 12)
    right = after(replace_prior(lambda noise: noise - target), 12)
    reversed_ = after(replace_prior(lambda noise: target - noise), 12)
    silent = after(replace_prior(torch.zeros_like), 12)
    assert right < 0.7 * alone < start
    assert reversed_ == pytest.approx(right, rel=0.5)
    assert silent == pytest.approx(alone)


def replace_prior(prior: Any) -> AskTellOptimizer[Any]:
    if prior is None:
        basis = make_basis("low_frequency", IMAGE, COEFFICIENTS)
        return AntitheticAdam(basis=basis, learning_rate=0.1, step_size=0.05, samples=2)
    return guided(prior, 0.5, samples=2)


def test_a_surrogate_gradient_that_is_not_finite_is_an_error() -> None:
    optimizer = guided(lambda noise: torch.full_like(noise, math.nan), 0.5)
    with pytest.raises(NonFiniteLossError, match="the surrogate's gradient is not finite"):
        optimizer.ask(optimizer.init(zero_noise(IMAGE)), torch.Generator().manual_seed(1))


def test_cma_es_constants_by_hand() -> None:
    # Two parents of four winners in ten dimensions: w = (log 2.5, log 1.25) / their sum.
    c = Constants.of(10, 4)
    total = math.log(2.5) + math.log(1.25)
    assert c.weights.tolist() == pytest.approx([math.log(2.5) / total, math.log(1.25) / total])
    mu_eff = total**2 / (math.log(2.5) ** 2 + math.log(1.25) ** 2)
    assert c.mu_eff == pytest.approx(mu_eff)
    assert c.c_1 == pytest.approx(4 * 2 / (11.3**2 + mu_eff))
    assert c.c_mu == pytest.approx(4 * 2 * (mu_eff - 2 + 1 / mu_eff) / (144 + mu_eff))
    assert c.chi == pytest.approx(3.0847, abs=1e-3)  # E of a chi of 10 degrees: 3.0843
    assert Constants.of(1, 1).c_1 <= 1


def test_cma_es_learns_the_scale_of_each_coefficient() -> None:
    scales = torch.logspace(0, 3, 16).reshape(1, 4, 4)

    def ellipsoid(noises: torch.Tensor) -> torch.Tensor:
        return (scales * (noises - 1) ** 2).sum(dim=(-3, -2, -1))

    optimizer = CmaEs(basis=make_basis("pixel", 4, 4), step_size=0.5, samples=8)
    state, rng = optimizer.init(zero_noise(4)), torch.Generator().manual_seed(1)
    for _ in range(300):
        candidates = optimizer.ask(state, rng)
        state = optimizer.tell(state, candidates, ellipsoid(candidates.noises))
    assert float(ellipsoid(state.noise)) < 1e-6
    # Ideal is -1; -0.91 to -0.98 were seen over eight seeds, and what learnt nothing has 0.
    learnt = torch.stack((state.variance.flatten().log(), scales.flatten().log()))
    assert float(torch.corrcoef(learnt)[0, 1]) < -0.8


def test_cma_es_step_size_shrinks_at_the_wall_of_the_ball() -> None:
    optimizer = CmaEs(basis=make_basis("pixel", 4, 4), step_size=0.3, samples=8, max_norm=1.0)
    target = torch.full((1, 4, 4), 0.5)  # of norm 2: the best of the ball is half of it
    state, rng = optimizer.init(zero_noise(4)), torch.Generator().manual_seed(1)
    for _ in range(150):
        candidates = optimizer.ask(state, rng)
        state = optimizer.tell(state, candidates, quadratic(candidates.noises, target))
    assert state.step_size < 0.1
    assert float(noise_l2(state.noise)) == pytest.approx(1.0, abs=0.01)
    assert float((state.noise * target).sum()) > 0.9 * 2.0  # cosine over 0.9 with the best


def test_cma_es_step_size_does_not_drift_where_the_losses_say_nothing() -> None:
    # The log of σ walks at random: over 20 seeds its mean stays near 0 unless selection is biased.
    drifts = []
    for seed in range(20):
        optimizer = CmaEs(basis=make_basis("pixel", 4, 4), step_size=1.0, samples=8)
        state, rng = optimizer.init(zero_noise(4)), torch.Generator().manual_seed(seed)
        for _ in range(60):
            candidates = optimizer.ask(state, rng)
            state = optimizer.tell(state, candidates, torch.rand(16, generator=rng))
        drifts.append(math.log(state.step_size))
    # Seeds are fixed: no false alarms. The standard error of the mean is about 0.15.
    assert abs(sum(drifts) / len(drifts)) < 0.6


def test_a_guided_trial_hides_the_attribute_and_resumes(
    cohort: Cohort, assets: StudyAssets, tmp_path: Any
) -> None:
    method = replace(METHODS["guided"], batch_size=32, epochs=2, step_size=0.05, learning_rate=0.02)
    prior = prepare_surrogate(cohort, ToyEncoder(name="open"), assets).prior(method)
    whole = run_trial(method, cohort, ToyEncoder(), assets, seed=3, prior=prior)
    first, last = whole.curve[0], whole.curve[-1]
    assert last.attribute_cross_entropy > first.attribute_cross_entropy
    stopped = Trial(method, cohort, ToyEncoder(), assets, 3, prior)
    stopped.learner.step()
    stopped.save(tmp_path)
    resumed = Trial(method, cohort, ToyEncoder(), assets, 3, prior)
    assert resumed.restore(tmp_path)
    while not resumed.finished:
        resumed.advance()
    assert torch.equal(resumed.learner.noise, whole.noise)
    assert resumed.learner.surrogate_passes == whole.queries.surrogate


def test_a_checkpoint_of_another_surrogate_is_refused(
    cohort: Cohort, assets: StudyAssets, tmp_path: Any
) -> None:
    from ude_core.errors import FingerprintError

    method = replace(METHODS["guided"], batch_size=32, epochs=2, surrogate_images=16)
    prior = prepare_surrogate(cohort, ToyEncoder(), assets).prior(method)
    Trial(method, cohort, ToyEncoder(), assets, 3, prior).save(tmp_path)
    other = prepare_surrogate(cohort, ToyEncoder(fingerprint="b"), assets).prior(method)
    with pytest.raises(FingerprintError, match="other parameters"):
        Trial(method, cohort, ToyEncoder(), assets, 3, other).restore(tmp_path)


def test_a_closed_or_unfit_surrogate_is_refused(cohort: Cohort, assets: StudyAssets) -> None:
    for encoder, match in (
        (ToyEncoder(differentiable=False), "has no gradients"),
        (ToyEncoder(image_size=32), "takes 32 .expected the cohort's image size, 16"),
    ):
        with pytest.raises(SettingError, match=match):
            prepare_surrogate(cohort, encoder, assets)
    surrogate = prepare_surrogate(cohort, ToyEncoder(), assets)
    for images in (0, 9999):
        with pytest.raises(SettingError, match=f"surrogate_images is {images}"):
            surrogate.prior(replace(METHODS["guided"], surrogate_images=images))


BANDED = MethodConfig(
    name="antithetic_adam",
    basis="patch",
    basis_size=4,
    learning_rate=0.05,
    local_iterations=3,
    samples=4,
    batch_size=32,
    epochs=40,
    step_size=0.1,
    target_auc_band=10,
)


@pytest.mark.parametrize("name", ["antithetic_adam", "whitebox"])
def test_a_trial_ends_early_once_the_frozen_auc_is_in_the_band_and_pays_for_looking(
    name: Any, cohort: Cohort, assets: StudyAssets
) -> None:
    encoder = CountingEncoder()
    method = replace(BANDED, name=name, learning_rate=0.1, regularization=0.0, target_auc_band=30)
    trial = Trial(method, cohort, encoder, assets, 3)
    while not trial.finished:
        trial.advance()
    learner, schedule = trial.learner, trial.learner.schedule
    assert learner.outcome == "improved"
    assert "within 30 of 50" in learner.note
    assert learner.iteration < schedule.iterations
    assert learner.queries == sum(encoder.seen) < schedule.queries
    assert schedule.check_images == len(assets.split.train) // 4


def test_images_that_are_looked_at_are_never_learnt_from(
    cohort: Cohort, assets: StudyAssets
) -> None:
    learner = Trial(BANDED, cohort, ToyEncoder(), assets, 3).learner
    seen = set(learner._train_rows.tolist())
    assert not seen & set(learner._check_rows.tolist())
    assert len(seen) + learner.schedule.check_images == len(assets.split.train)


def test_a_trial_that_never_gets_there_spends_its_plan_and_resumes(
    cohort: Cohort, assets: StudyAssets, tmp_path: Any
) -> None:
    encoder = CountingEncoder()
    method = replace(BANDED, target_auc_band=1e-6, epochs=4)
    whole = Trial(method, cohort, encoder, assets, 3)
    while not whole.finished:
        whole.advance()
    assert whole.learner.queries == sum(encoder.seen) == whole.learner.schedule.queries
    assert whole.learner.note == ""
    stopped = Trial(method, cohort, ToyEncoder(), assets, 3)
    for _ in range(7):
        stopped.learner.step()
    stopped.save(tmp_path)
    resumed = Trial(method, cohort, ToyEncoder(), assets, 3)
    assert resumed.restore(tmp_path)
    while not resumed.finished:
        resumed.advance()
    assert torch.equal(resumed.learner.noise, whole.learner.noise)
    assert resumed.learner.queries == whole.learner.queries


@pytest.mark.parametrize("budget", range(120, 1300, 37))
def test_a_budget_buys_the_most_iterations_that_leave_room_to_look(budget: int) -> None:
    method = MethodConfig(
        samples=4, batch_size=10, local_iterations=3, queries=budget, target_auc_band=5
    )
    schedule = plan(method, 100)  # 80 queries an iteration, 25 images held out
    assert schedule.queries <= budget
    assert replace(schedule, iterations=schedule.iterations + 1).queries > budget


def test_a_batch_larger_than_what_is_left_is_refused() -> None:
    with pytest.raises(SettingError, match="at most the 75 training images, 25 held out"):
        plan(MethodConfig(batch_size=80, target_auc_band=5), 100)
