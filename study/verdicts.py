"""How a trial's end is judged, written into the database, and read back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from study.records import TrialRecord, TrialState
from ude_core.results import metrics_from_json, metrics_to_json
from ude_core.types import (
    Interval,
    Measured,
    MethodName,
    TrialResult,
    Undefined,
)

RESULT = "ude.result"
"""The trial attribute that holds everything but parameters, state and times."""

STATES: Mapping[OptunaState, TrialState] = {
    OptunaState.WAITING: "waiting",
    OptunaState.RUNNING: "running",
    OptunaState.COMPLETE: "complete",
    OptunaState.FAIL: "failed",
    OptunaState.PRUNED: "pruned",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be written of a finished trial; `values` of the objectives, None if it failed."""

    content: Mapping[str, Any]
    values: list[float] | None


def judge(result: TrialResult, objectives: Sequence[str]) -> Verdict:
    """Return the verdict on a result: failed unless every objective is a finite number.

    A diverged trial fails too; what was measured of its last finite noise is kept.
    """
    metrics = {name: _finite(measured) for name, measured in result.metrics.items()}
    values: list[float] = []
    problems: list[str] = []
    if result.outcome == "diverged":
        problems.append(f"diverged: {result.note}")
    for name in objectives:
        match metrics.get(name, Undefined("the trial did not measure it")):
            case Interval(mean=mean):
                values.append(mean)
            case Undefined(reason=reason):
                problems.append(f"{name}: {reason}")
    content = {
        "metrics": metrics_to_json(metrics),
        "queries": result.queries.total,
        "queries_by_phase": asdict(result.queries),
        "outcome": result.outcome,
        "reason": "; ".join(problems) or result.note,
    }
    return Verdict(content, None if problems else values)


def record_of(trial: FrozenTrial, seed: int, folder: Path, method: MethodName) -> TrialRecord:
    """Return one row of the database as a record; `method` is the study's where none is searched."""
    content = trial.user_attrs.get(RESULT) or {}
    params = dict(trial.params or trial.system_attrs.get("fixed_params") or {})
    return TrialRecord(
        number=trial.number,
        state=STATES[trial.state],
        params=params,
        seed=seed,
        metrics=metrics_from_json(content.get("metrics") or {}),
        queries=int(content.get("queries") or 0),
        queries_by_phase=content.get("queries_by_phase") or {},
        reason=str(content.get("reason") or ""),
        folder=folder,
        started=trial.datetime_start,
        ended=trial.datetime_complete,
        outcome=str(content.get("outcome") or ""),
        saved=int(content.get("saved") or 0),
        method=params.get("name", method),
    )


def _finite(measured: Measured) -> Measured:
    if isinstance(measured, Interval) and not all(
        math.isfinite(value) for value in (measured.mean, measured.low, measured.high)
    ):
        return Undefined(f"not finite: {measured.mean} [{measured.low}, {measured.high}]")
    return measured
