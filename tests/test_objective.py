"""Eq. 2 against a calculation by hand, and where each objective has its optimum."""

import math

import pytest
import torch

from ude_core.objective import attribute_cross_entropy, edit_objective, uniform_cross_entropy


def test_eq_2_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.log(3.0), 0.0]]])
    attribute = torch.tensor([[0, 1]])
    noise = torch.zeros(1, 1, 2, 2)
    noise[0, 0] = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    # CE = (ln 2 + ln 4) / 2, the norm is 5 and not 25.
    expected = -(math.log(2) + math.log(4)) / 2 + 0.01 * 5
    got = edit_objective(logits, attribute, noise, objective="cross_entropy", regularization=0.01)
    assert got.shape == (1,)
    assert float(got[0]) == pytest.approx(expected)


def test_confusion_has_its_floor_at_the_uniform_prediction() -> None:
    at_floor = uniform_cross_entropy(torch.zeros(4, 3))
    assert float(at_floor) == pytest.approx(math.log(3))
    assert float(uniform_cross_entropy(torch.tensor([[5.0, 0.0, 0.0]]))) > float(at_floor)


def test_cross_entropy_runs_on_to_flip_the_prediction_and_confusion_does_not() -> None:
    attribute, noise = torch.tensor([[0]]), torch.zeros(1, 1, 1, 1)
    confused, flipped = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[-9.0, 9.0]]])
    paper, ours = (
        [
            float(edit_objective(x, attribute, noise, objective=name, regularization=0.0)[0])
            for x in (confused, flipped)
        ]
        for name in ("cross_entropy", "confusion")
    )
    assert paper[1] < paper[0]
    assert ours[1] > ours[0]


def test_cross_entropy_is_the_mean_over_the_minibatch() -> None:
    logits = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))
    attribute = torch.arange(21).reshape(3, 7) % 4
    expected = torch.stack(
        [torch.nn.functional.cross_entropy(x, y) for x, y in zip(logits, attribute, strict=True)]
    )
    assert torch.allclose(attribute_cross_entropy(logits, attribute), expected)
