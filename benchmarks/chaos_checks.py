"""What a chaos run left: ledger, trial folders and MLflow against each other and against a run in peace."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.api import Study
from study.meter import paid_queries
from study.names import trial_number
from study.pareto import front_of
from study.records import TrialRecord
from study.run_metrics import metric_name
from ude_core.results import load_result, metrics_to_json
from ude_core.types import Interval

NAME = "chaos"
_RATIO = 1.1


@dataclass(frozen=True, slots=True)
class Findings:
    """What was counted. `queries_ratio` is images really encoded in the storm over those in peace."""

    target: int
    terminal: int
    lost: int
    duplicate: int
    running: int
    queries_ratio: float
    problems: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nothing was lost, doubled or left open, all agrees, and rework stayed small."""
        return (
            (self.terminal, self.lost, self.duplicate, self.running) == (self.target, 0, 0, 0)
            and self.queries_ratio <= _RATIO
            and not self.problems
        )

    def figures(self) -> dict[str, float]:
        """Return the contract's figures."""
        return {
            "terminal": self.terminal,
            "lost": self.lost,
            "duplicate": self.duplicate,
            "running": self.running,
            "queries_ratio": round(self.queries_ratio, 4),
        }


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """One active run as MLflow's own database holds it, read without MLflow."""

    trial: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]


def compare(peace: Path, storm: Path, mlflow: Path) -> Findings:
    """Return how the study under `storm`, recorded in `mlflow`, differs from that under `peace`."""
    calm, wild = Study.open(NAME, peace), Study.open(NAME, storm)
    try:
        return _compare(calm, wild, mlflow)
    finally:
        calm.ledger.close()
        wild.ledger.close()


def _compare(calm: Study, wild: Study, mlflow: Path) -> Findings:
    reference = {record.number: record for record in calm.ledger.trials()}
    records = {record.number: record for record in wild.ledger.trials()}
    runs = recorded_runs(mlflow)
    target = wild.config.budget.trials
    by_trial: dict[str, list[RecordedRun]] = {}
    for run in runs:
        by_trial.setdefault(run.trial, []).append(run)
    whole = [
        number
        for number in range(target)
        if number in records
        and records[number].state == reference[number].state
        and f"{number:05d}" in by_trial
    ]
    folders = {trial_number(path) for path in wild.ledger.places.trials.iterdir()}
    doubled = sum(len(found) - 1 for found in by_trial.values())
    unclosed = sum(record.state in ("running", "waiting") for record in records.values())
    problems = [
        *_same_as_in_peace(reference, records),
        *_same_front(calm, wild),
        *(f"trial {number} is in no ledger" for number in sorted(folders - records.keys())),
    ]
    for number in whole:
        problems += _agreement(records[number], by_trial[f"{number:05d}"][0])
    return Findings(
        target=target,
        terminal=sum(record.finished for record in records.values()),
        lost=target - len(whole),
        duplicate=doubled + max(0, len(records) - target) + len(folders - records.keys()),
        running=unclosed + sum(run.status == "RUNNING" for run in runs),
        queries_ratio=_paid(wild) / _paid(calm),
        problems=tuple(problems),
    )


def recorded_runs(database: Path) -> list[RecordedRun]:
    """Return every run that is not deleted, from MLflow's SQLite file."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        found = connection.execute(
            "select run_uuid, status from runs where lifecycle_stage = 'active'"
        ).fetchall()
        tables: dict[str, dict[str, dict[str, Any]]] = {}
        for table in ("tags", "params", "latest_metrics"):
            kept = tables.setdefault(table, {})
            for run, key, value in connection.execute(f"select run_uuid, key, value from {table}"):
                kept.setdefault(run, {})[key] = value
    return [
        RecordedRun(
            trial=str(tables["tags"].get(run, {}).get("ude.trial")),
            status=str(status),
            params=tables["params"].get(run, {}),
            metrics=tables["latest_metrics"].get(run, {}),
        )
        for run, status in found
    ]


def _same_as_in_peace(
    reference: Mapping[int, TrialRecord], records: Mapping[int, TrialRecord]
) -> Iterator[str]:
    for number, expected in reference.items():
        record = records.get(number)
        if record is None:
            continue
        for what in ("state", "params", "seed", "metrics", "queries"):
            if getattr(record, what) != getattr(expected, what):
                yield f"trial {number}: {what} are not those of the run in peace ({record.reason})"


def _same_front(calm: Study, wild: Study) -> Iterator[str]:
    for disease in (*wild.config.cohort.diseases, "mean", "worst"):
        fronts = [
            {point.trial for point in front_of(study, disease).points if point.front}
            for study in (calm, wild)
        ]
        if fronts[0] != fronts[1]:
            yield f"front of {disease}: {sorted(fronts[1])}, in peace {sorted(fronts[0])}"


def _agreement(record: TrialRecord, run: RecordedRun) -> Iterator[str]:
    """Compare a trial's ledger row with its folder and its MLflow run."""
    who = f"trial {record.number}"
    if record.state == "complete":
        result = load_result(record.folder)
        if metrics_to_json(result.metrics) != metrics_to_json(record.metrics):
            yield f"{who}: the folder's metrics are not the ledger's"
        if result.queries.total != record.queries:
            yield f"{who}: the folder's queries are not the ledger's"
        if run.status != "FINISHED":
            yield f"{who}: its run is {run.status}"
    for name, value in record.params.items():
        if run.params.get(name) != str(value):
            yield f"{who}: {name} is {value} and in MLflow {run.params.get(name)}"
    for name, measured in record.metrics.items():
        if isinstance(measured, Interval):
            recorded = run.metrics.get(metric_name(name), math.nan)
            if not math.isclose(recorded, measured.mean, rel_tol=1e-12, abs_tol=1e-12):
                yield f"{who}: {name} is {measured.mean} and in MLflow {recorded}"


def _paid(study: Study) -> int:
    """Return the images that the whole study sent through the encoder, repeated work included."""
    records = study.ledger.trials()
    preparation = study.ledger.queries() - sum(record.queries for record in records)
    return preparation + sum(paid_queries(record.folder) for record in records)
