"""What the ledger says of one trial, and how measured values are written as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ude_core.types import Interval, Measured, Undefined

TrialState = Literal["waiting", "running", "complete", "failed", "pruned"]
TRIAL_STATES: tuple[TrialState, ...] = ("waiting", "running", "complete", "failed", "pruned")

ParameterValue = bool | int | float | str
Parameters = Mapping[str, ParameterValue]


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial as the ledger holds it.

    `metrics` has the contract's names and is empty until the trial ended; `queries` counts images
    through the encoder, 0 until then. `reason` says why a trial failed or was pruned. `outcome` is
    the engine's word on a finished noise (improved, no_improvement, diverged).
    """

    number: int
    state: TrialState
    params: Parameters
    seed: int
    metrics: Mapping[str, Measured] = field(default_factory=dict)
    queries: int = 0
    reason: str = ""
    folder: Path = Path()
    started: datetime | None = None
    ended: datetime | None = None
    outcome: str = ""

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


def measured_to_json(measured: Measured) -> dict[str, Any]:
    """Return `{"mean", "low", "high"}`, or `{"undefined": reason}`. Non-finite is undefined."""
    match measured:
        case Undefined(reason):
            return {"undefined": reason}
        case Interval(mean, low, high):
            if not all(math.isfinite(value) for value in (mean, low, high)):
                return {"undefined": f"not finite: {mean} [{low}, {high}]"}
            return {"mean": mean, "low": low, "high": high}


def measured_from_json(value: Mapping[str, Any]) -> Measured:
    """Return what `measured_to_json` wrote."""
    if "undefined" in value:
        return Undefined(str(value["undefined"]))
    return Interval(float(value["mean"]), float(value["low"]), float(value["high"]))


def metrics_to_json(metrics: Mapping[str, Measured]) -> dict[str, dict[str, Any]]:
    """Return every metric as `measured_to_json` writes it."""
    return {name: measured_to_json(measured) for name, measured in metrics.items()}


def metrics_from_json(value: Mapping[str, Mapping[str, Any]]) -> dict[str, Measured]:
    """Return what `metrics_to_json` wrote."""
    return {name: measured_from_json(measured) for name, measured in value.items()}
