"""Adam (Kingma and Ba 2015) as a function: what the learners of a noise share."""

from __future__ import annotations

from torch import Tensor

from ude_core.heads import ADAM_BETAS, ADAM_EPSILON


def adam_moments(
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    steps: int,
    betas: tuple[float, float] = ADAM_BETAS,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return numerator and denominator of the step, and both moments, after `steps` steps.

    All have the gradient's shape. The step is learning rate x numerator / denominator, downhill.
    """
    beta1, beta2 = betas
    first = beta1 * first + (1 - beta1) * gradient
    second = beta2 * second + (1 - beta2) * gradient**2
    denominator = (second / (1 - beta2**steps)).sqrt() + ADAM_EPSILON
    return first / (1 - beta1**steps), denominator, first, second
