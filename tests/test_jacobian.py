"""Directions from an open encoder's Jacobian, and the evolution strategy that searches along them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toy import TOY_BIAS, CountingEncoder, ToyEncoder, toy_cohort
from ude_core.assets import StudyAssets, prepare
from ude_core.batching import BACKWARD
from ude_core.cohorts.base import Cohort
from ude_core.directions import SurrogateDirections
from ude_core.errors import NonFiniteLossError, SettingError
from ude_core.jacobian import JacobianEs
from ude_core.noise import make_basis, noise_l2, zero_noise
from ude_core.optimizers import make_optimizer
from ude_core.student import embedding_spread
from ude_core.surrogate import Surrogate, prepare_surrogate
from ude_core.trial import Trial, run_trial
from ude_core.types import HeadConfig, MethodConfig, ScoringConfig, SplitConfig

SIZE, PIXELS = 16, 256
METHOD = MethodConfig(
    name="jacobian",
    objective="one_group",
    regularization=0.0,
    samples=8,
    batch_size=4,
    local_iterations=5,
    epochs=6,
    max_norm=2.0,
    step_size=0.01,
    learning_rate=0.02,
)


@dataclass(frozen=True)
class Squares(ToyEncoder):
    """Its embedding is the square of each pixel: the Jacobian is twice the image, on the diagonal."""

    embedding_dim: int = PIXELS
    batch_size: int = 6
    scale: float = 1.0

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.scale * pixels.flatten(1) ** 2


def squares(
    each: int, *, scale: float = 1.0, spread: torch.Tensor | None = None
) -> SurrogateDirections:
    rng = np.random.default_rng(3)
    return SurrogateDirections(
        encoder=Squares(scale=scale),
        images=rng.integers(1, 256, (9, SIZE, SIZE), dtype=np.uint8),
        spread=torch.ones(PIXELS) if spread is None else spread,
        pixels="paper",
        images_per_direction=each,
        passes=5 * each,
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("each", [1, 2, 4])
def test_a_direction_is_the_gradient_of_a_random_combination_at_the_noise(each: int) -> None:
    spread = torch.rand(PIXELS, generator=seeded(1)) + 0.5
    source = squares(each, spread=spread)
    noise = torch.randn(1, SIZE, SIZE, generator=seeded(2))
    made = source(noise, 5, seeded(7))

    rng = seeded(7)
    rows = torch.randint(9, (5, each), generator=rng).numpy()
    weights = torch.randn(5, PIXELS, generator=rng) / spread
    edited = torch.from_numpy(source.images[rows] / 255.0).float() + noise
    expected = 2 * edited.mean(1).flatten(1) * weights
    expected = expected / expected.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(made, expected.reshape(5, 1, SIZE, SIZE), rtol=1e-4, atol=1e-5)


def test_directions_have_rms_1_a_pixel_and_follow_the_generator_alone() -> None:
    source, noise = squares(2), zero_noise(SIZE)
    one, same, other = (source(noise, 40, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.allclose(one.square().mean((1, 2, 3)), torch.ones(40), rtol=1e-4)


def test_passes_of_half_the_images_make_the_same_directions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, noise = squares(2), zero_noise(SIZE)
    expected = source(noise, 7, seeded())
    encode, seen = Squares.encode, []

    def small(self: Squares, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return encode(self, pixels)

    monkeypatch.setattr(Squares, "encode", small)
    torch.testing.assert_close(source(noise, 7, seeded()), expected)
    assert seen == [6] + [2] * 7
    assert BACKWARD.of(source.encoder, 6) == 3


def test_no_gradient_is_no_direction_and_an_infinite_one_is_refused() -> None:
    assert not squares(1, scale=0.0)(zero_noise(SIZE), 3, seeded()).any()
    with pytest.raises(NonFiniteLossError, match="Jacobian is not finite"):
        squares(1)(torch.full((1, SIZE, SIZE), torch.inf), 3, seeded())


def test_what_hardly_varies_on_clean_images_is_not_blown_up() -> None:
    clean = torch.randn(500, 3, generator=seeded()) * torch.tensor([1.0, 2.0, 0.0])
    spread = embedding_spread(clean)
    assert torch.allclose(spread, torch.tensor([1.1, 2.1, 0.1]), atol=0.1)
    assert torch.equal(embedding_spread(torch.zeros(4, 2)), torch.ones(2))


def test_the_fingerprint_is_of_what_decides_a_direction() -> None:
    base = squares(1)
    others = (
        squares(2),
        squares(1, spread=torch.full((PIXELS,), 2.0)),
        replace(base, pixels="deploy"),
    )
    assert base.fingerprint == squares(1).fingerprint
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_steps_have_one_length_that_shortens_every_epoch_but_the_first() -> None:
    optimizer = JacobianEs(
        basis=make_basis("pixel", SIZE, SIZE),
        directions=squares(1),
        step_size=0.01,
        learning_rate=0.03,
        step_decay=0.5,
        momentum=0.9,
        samples=4,
    )
    rng, state = seeded(), optimizer.init(zero_noise(SIZE))
    lengths = []
    for _ in range(3):
        state = optimizer.begin_epoch(state)
        for _ in range(2):
            candidates = optimizer.ask(state, rng)
            losses = torch.randn(len(candidates), generator=rng)
            told = optimizer.tell(state, candidates, losses)
            lengths.append(float(noise_l2(told.noise - state.noise)) / SIZE)
            state = told
    assert lengths == pytest.approx([0.03, 0.03, 0.015, 0.015, 0.0075, 0.0075], rel=1e-3)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return toy_cohort()


@pytest.fixture(scope="module")
def assets(cohort: Cohort) -> StudyAssets:
    head = HeadConfig(learning_rate=0.02, standardize=True, epochs=20)
    scoring = ScoringConfig(
        repeats=2, bootstrap_draws=20, controls=1, disease_head=head, attribute_head=head
    )
    return prepare(
        cohort, ToyEncoder(), split=SplitConfig(), bias=TOY_BIAS, scoring=scoring, seed=1
    )


@pytest.fixture(scope="module")
def surrogate(cohort: Cohort, assets: StudyAssets) -> Surrogate:
    """Return another network than the one attacked: other weights after the same block means."""
    other = ToyEncoder(name="other", fingerprint="other-1", layer_seed=9)
    return prepare_surrogate(cohort, other, assets)


def test_it_hides_the_attribute_further_than_white_noise_of_as_many_queries(
    cohort: Cohort, assets: StudyAssets, surrogate: Surrogate
) -> None:
    """The other network shares its block means with the one attacked: 16 of 256 directions matter."""
    white = replace(METHOD, name="spsa", perturbation="normal", learning_rate=0.5)
    guided, blind = (
        run_trial(
            method,
            cohort,
            ToyEncoder(),
            assets,
            seed=2,
            prior=surrogate.directions(method) if method.name == "jacobian" else None,
        )
        for method in (METHOD, white)
    )
    assert guided.queries.noise == blind.queries.noise == 2 * 8 * 4 * 30
    assert guided.queries.surrogate == 8 * 30
    assert float(noise_l2(guided.noise)) <= 2.0 * (1 + 1e-5)
    clean, reached = (
        result.metrics["attribute_cross_entropy"].mean  # type: ignore[union-attr]
        for result in (blind, guided)
    )
    assert reached > clean + 0.3


def test_a_direction_over_several_images_costs_as_many_passes(
    cohort: Cohort, assets: StudyAssets
) -> None:
    open_encoder = CountingEncoder()
    opened = prepare_surrogate(cohort, open_encoder, assets)
    open_encoder.seen.clear()
    method = replace(METHOD, direction_images=3, epochs=1)
    result = run_trial(
        method, cohort, ToyEncoder(), assets, seed=2, prior=opened.directions(method)
    )
    assert result.queries.surrogate == sum(open_encoder.seen) == 8 * 3 * 5


def test_a_surrogate_without_branches_refuses_skip_gradients(surrogate: Surrogate) -> None:
    with pytest.raises(SettingError, match="has no residual branches"):
        surrogate.directions(replace(METHOD, skip_gradient=0.25))


def test_stopped_and_restored_it_ends_at_the_same_noise(
    cohort: Cohort, assets: StudyAssets, surrogate: Surrogate, tmp_path: Path
) -> None:
    def trial() -> Trial:
        return Trial(METHOD, cohort, ToyEncoder(), assets, 4, surrogate.directions(METHOD))

    straight = trial()
    while not straight.finished:
        straight.step()
    stopped = trial()
    for _ in range(13):
        stopped.step()
    stopped.save(tmp_path)
    restored = trial()
    assert restored.restore(tmp_path)
    while not restored.finished:
        restored.step()
    assert torch.equal(restored.learner.noise, straight.learner.noise)


def test_it_asks_for_directions_and_the_others_refuse_them(surrogate: Surrogate) -> None:
    with pytest.raises(SettingError, match="jacobian and no directions were given"):
        make_optimizer(METHOD, SIZE)
    directions = surrogate.directions(METHOD)
    with pytest.raises(SettingError, match=r"directions were given .* gezo \(expected jacobian\)"):
        make_optimizer(replace(METHOD, name="gezo"), SIZE, directions)
    with pytest.raises(SettingError, match=r"a prior was given .* jacobian \(expected guided\)"):
        make_optimizer(METHOD, SIZE, lambda noise: noise)
