"""The valid range of every parameter of the method, in one table, for settings and searches alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Range:
    """Where a number may lie, and the letter it has in the paper."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    letter: str = ""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        letter = f"{self.letter} " if self.letter else ""
        if math.isinf(self.high):
            return f"{letter}{'>' if self.low_open else '>='} {self.low:g}"
        left, right = "(" if self.low_open else "[", ")" if self.high_open else "]"
        return f"{letter}in {left}{self.low:g}, {self.high:g}{right}"


PARAMETERS: Mapping[str, Range] = MappingProxyType(
    {
        "regularization": Range(0, letter="λ"),
        "local_iterations": Range(1, letter="R"),
        "step_size": Range(0, low_open=True, letter="s"),
        "momentum": Range(0, 1, high_open=True, letter="μ"),
        "samples": Range(1, letter="C"),
        "step_decay": Range(0, 1, low_open=True, letter="k"),
        "batch_size": Range(1, letter="B"),
        "epochs": Range(1),
        "max_norm": Range(0, low_open=True, letter="th"),
        "basis_size": Range(1),
        "learning_rate": Range(0, low_open=True),
        "prior_weight": Range(0, 1),
        "surrogate_images": Range(1),
        "direction_images": Range(1),
        "skip_gradient": Range(0, 1, low_open=True, letter="γ"),
        "target_group": Range(0),
        "student_rate": Range(0, low_open=True),
        "student_lessons": Range(1),
        "climb_steps": Range(1),
        "target_auc_band": Range(0, 50, low_open=True),
        "group_step": Range(0, letter="η"),
        "held_out": Range(0, 0.5, low_open=True),
        "bias_power": Range(0, 1, low_open=True, letter="q"),
        "attack_radius": Range(0, 1, low_open=True),
        "attack_step": Range(0, 1, low_open=True),
        "attack_steps": Range(1),
        "attack_every": Range(1),
        "attack_weight": Range(0, letter="λ of BiasAdv"),
        "adversarial_weight": Range(0, letter="β"),
        "sketch_blur": Range(0, 1, low_open=True),
    }
)


def complaint(name: str, value: object) -> str | None:
    """Return what is wrong with `value` for parameter `name`, with the valid range, or None."""
    limits = PARAMETERS.get(name)
    if limits is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return None if value in limits else f"expected {limits}"
