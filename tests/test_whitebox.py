"""White-box UDE is Adam: the functional optimiser equals torch's own, over the whole run."""

import pytest
import torch

from toy import ToyEncoder, toy_cohort
from ude_core.errors import NonFiniteLossError
from ude_core.evaluator import LocalEvaluator
from ude_core.heads import LinearHeads
from ude_core.whitebox import Whitebox


def test_it_is_torch_adam() -> None:
    target = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(1))
    ours = Whitebox(learning_rate=0.05)
    state = ours.init(torch.zeros(1, 4, 4))
    variable = torch.zeros(1, 4, 4, requires_grad=True)
    theirs = torch.optim.Adam([variable], lr=0.05)
    for _ in range(30):
        state = ours.tell(state, 2 * (state.noise - target))
        theirs.zero_grad()
        ((variable - target) ** 2).sum().backward()
        theirs.step()
    assert torch.allclose(state.noise, variable, atol=1e-6)


def test_the_ball_holds() -> None:
    optimiser = Whitebox(learning_rate=1.0, max_norm=0.5)
    state = optimiser.tell(optimiser.init(torch.zeros(1, 4, 4)), torch.ones(1, 4, 4))
    assert float(torch.linalg.vector_norm(state.noise)) == pytest.approx(0.5)


def test_a_non_finite_gradient_is_an_error() -> None:
    optimiser = Whitebox()
    state = optimiser.init(torch.zeros(1, 2, 2))
    with pytest.raises(NonFiniteLossError, match=r"learning_rate 0\.01"):
        optimiser.tell(state, torch.full((1, 2, 2), torch.nan))


def test_the_gradient_is_that_of_finite_differences() -> None:
    cohort = toy_cohort(40)
    rng = torch.Generator().manual_seed(3)
    head = LinearHeads(torch.randn(1, 24, 2, generator=rng), torch.zeros(1, 2))
    evaluator = LocalEvaluator(
        encoder=ToyEncoder(),
        attribute_head=head,
        images=cohort.images,
        attribute=cohort.attribute,
        objective="cross_entropy",
        regularization=0.1,
        pixels="paper",
    )
    noise = torch.randn(1, 16, 16, generator=rng) * 0.1
    direction = torch.randn(1, 16, 16, generator=rng)
    rows = torch.arange(20).numpy()
    measured = evaluator.gradient(noise, rows)
    step = 1e-3
    both = evaluator.evaluate(
        torch.stack((noise - step * direction, noise + step * direction)), rows[None]
    )
    slope = float(both.losses[1] - both.losses[0]) / (2 * step)
    assert slope == pytest.approx(float((measured.gradient * direction).sum()), rel=0.02)
    assert measured.loss == pytest.approx(float(both.losses.mean()), abs=1e-3)
