"""In place of a learner where a method learns no noise: it is finished before it begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ude_core.learner import Schedule
from ude_core.noise import noise_l2
from ude_core.types import Noise, Outcome, Progress


@dataclass(frozen=True, slots=True)
class FixedNoise:
    """A noise that is what it is, behind the face of `NoiseLearner`: no iteration, no query."""

    noise: Noise
    prior: None = None
    schedule: Schedule = field(default_factory=lambda: Schedule(0, 1, 0))
    iteration: int = 0
    queries: int = 0
    surrogate_passes: int = 0
    finished: bool = True
    at_epoch_end: bool = True
    outcome: Outcome = "not_learnt"
    note: str = ""

    def step(self) -> None:
        """Do nothing: there is nothing to learn."""

    def progress(self) -> Progress:
        """Return an epoch of nothing."""
        nothing = float("nan")
        return Progress(0, 0, nothing, nothing, float(noise_l2(self.noise)), nothing, 0, 0.0)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return no state: the noise follows from the method and the seed."""
        return {"noise": self.noise}, {}

    def load_state_dict(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Take up where it was, which is where it is."""
