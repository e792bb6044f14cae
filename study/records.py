"""What the ledger says of one trial, and how measured values are written as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from ude_core.types import Interval, Measured, MethodConfig, MethodName

TrialState = Literal["waiting", "running", "complete", "failed", "pruned"]
TRIAL_STATES: tuple[TrialState, ...] = ("waiting", "running", "complete", "failed", "pruned")

ParameterValue = bool | int | float | str
Parameters = Mapping[str, ParameterValue]


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial as the ledger holds it.

    `metrics` has the contract's names and is empty until the trial ended; `queries` counts images
    through the encoder, 0 until then, and `queries_by_phase` tells what on (`QueryCount`). `reason`
    says why a trial failed or was pruned. `outcome` is the engine's word on a finished noise
    (improved, no_improvement, diverged; not_learnt of a method without). `saved` are the queries
    that stopping a pruned trial left unspent. `method` is the trial's, searched or set.
    """

    number: int
    state: TrialState
    params: Parameters
    seed: int
    metrics: Mapping[str, Measured] = field(default_factory=dict)
    queries: int = 0
    queries_by_phase: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    folder: Path = Path()
    started: datetime | None = None
    ended: datetime | None = None
    outcome: str = ""
    saved: int = 0
    method: MethodName = MethodConfig().name

    @property
    def finished(self) -> bool:
        """Whether the trial has ended, well or not."""
        return self.state in ("complete", "failed", "pruned")


@dataclass(frozen=True, slots=True)
class Assignment:
    """A trial handed out to a worker: all that its outcome depends on, beside the study itself."""

    number: int
    params: Parameters
    seed: int


def looks_of(record: TrialRecord) -> int:
    """Return the queries that a finished trial's looks at rungs cost; 0 where they were free."""
    match record.metrics.get("queries_rungs"):
        case Interval(mean=queries):
            return round(queries)
        case _:
            return 0
