"""What a trial costs beside its own work, at 100, 1,000 and 10,000 trials in the ledger.

A trial that does nothing runs through Ray Tune, ours and then stock (OptunaSearch over the same kind
of SQLite file, MLflowLoggerCallback), with as many workers, actors reused, the same metrics, random
sampling. The time runs until MLflow has everything, and leaves the start-up of Ray and the first
trials out. What TPE takes for a proposal is told apart.
"""

from __future__ import annotations

import functools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import ray
import torch
from mlflow import MlflowClient
from optuna.distributions import FloatDistribution, IntDistribution
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch

from benchmarks.prefill import fill_runs, fill_study
from study.config import StudyConfig
from study.ledger import Ledger
from study.names import Layout, trial_name
from study.progress import ProgressView
from study.proposals import Proposer
from study.records import Assignment, TrialRecord
from study.tracking import Tracker
from study.trainable import WorkerOrder
from study.tuning import run_trials
from ude_core.results import save_result
from ude_core.seeding import numpy_generator
from ude_core.types import Interval, Progress, QueryCount, TrialResult

LEVELS = (100, 1_000, 10_000)
TRIALS, WARM_UP, WORKERS = 40, 10, 2
METRICS = {"eo_gap": 20.0, "selection_rate_symmetric_gap": 30.0, "accuracy": 60.0}
_MODES = ["min", "min", "max"]
_EPOCH = Progress(1, 1, -0.5, 0.6, 1.0, 0.01, 20, 0.5)
RESULT = TrialResult(
    noise=torch.zeros(1, 64, 64),
    metrics={name: Interval(value, value - 1, value + 1) for name, value in METRICS.items()},
    curve=(_EPOCH,),
    queries=QueryCount(noise=40, scoring=2),
    outcome="improved",
)
CONFIG = {
    "study": "overhead",
    "cohort": {"kind": "phantom", "image_size": 64},
    "encoder": {"kind": "phantom_vit"},
    "search": {
        "step_size": {"low": 0.001, "high": 0.1, "log": True},
        "momentum": {"low": 0.0, "high": 0.9},
        "samples": {"low": 1, "high": 16},
    },
    "budget": {"trials": 1_000_000},
    "resources": {"workers": WORKERS},
    "sampler": {"name": "random"},
}


class Nothing(tune.Trainable):
    """Ours: leaves a result in the trial's folder at once."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], order: WorkerOrder
    ) -> None:
        self._places = Layout.at(order.root).study("overhead")
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._folder = self._places.trial(int(new_config["number"]))
        return True

    def step(self) -> dict[str, Any]:
        save_result(RESULT, self._folder)
        return {"done": True}


class StockNothing(tune.Trainable):
    """Stock: reports its metrics once."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        return {**METRICS, "done": True}


class _TimedTracker(Tracker):
    """Says when its last write was done."""

    wrote = 0.0
    _given = _done = 0

    def wait(self) -> None:
        """Wait until MLflow has everything."""
        while self._done < self._given:
            time.sleep(0.01)

    def _put(self, what: str, write: Any) -> None:
        self._given += 1
        super()._put(what, write)

    def _persist(self, task: Any) -> str | None:
        problem = super()._persist(task)
        self.wrote = time.perf_counter()
        self._done += 1
        return problem


@dataclass
class _Clock(tune.Callback):
    """When each trial was done with."""

    ends: list[float] = field(default_factory=list)

    def started(self, assignment: Assignment) -> None: ...

    def epoch(self, number: int, progress: Mapping[str, Any]) -> None: ...

    def finished(self, record: TrialRecord) -> None:
        self.ends.append(time.perf_counter())

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.ends.append(time.perf_counter())

    def per_trial(self, end: float) -> float:
        """Seconds a trial after the warm-up, up to `end`."""
        return (end - self.ends[WARM_UP - 1]) / (len(self.ends) - WARM_UP)


def overhead_vs_stock() -> tuple[float, dict[str, Any]]:
    """Return our seconds a trial over stock's, the largest of the levels' ratios."""
    measured = _measure()
    ratios = [measured["ours"][n] / measured["stock"][n] for n in LEVELS]
    return max(ratios), _details(measured) | {
        "ours over stock": dict(zip(LEVELS, (round(r, 3) for r in ratios), strict=True))
    }


def overhead_growth() -> tuple[float, dict[str, Any]]:
    """Return our seconds a trial at 10,000 trials in the ledger over those at 100."""
    measured = _measure()
    return measured["ours"][LEVELS[-1]] / measured["ours"][LEVELS[0]], _details(measured)


def _details(measured: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
    rounded = {
        f"{name}, {unit}": {level: round(seconds, 4) for level, seconds in measured[name].items()}
        for name, unit in (
            ("ours", "seconds a trial"),
            ("stock", "seconds a trial"),
            ("ours, TPE", "seconds a proposal"),
            ("stock, TPE", "seconds a proposal"),
        )
    }
    for name in ("ours", "stock"):
        rounded[f"{name}, trials a second"] = {
            level: round(1 / seconds, 1) for level, seconds in measured[name].items()
        }
    return rounded | {"trials run at each level": TRIALS, "workers": WORKERS}


@functools.cache
def _measure() -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {
        name: {} for name in ("ours", "stock", "ours, TPE", "stock, TPE")
    }
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as stock:
        for level in LEVELS:
            found["ours"][level], found["ours, TPE"][level] = _ours(Path(ours), level)
        with _ray():
            for level in LEVELS:
                found["stock"][level], found["stock, TPE"][level] = _stock(Path(stock), level)
    return found


def _ours(root: Path, level: int) -> tuple[float, float]:
    config = StudyConfig.model_validate_json(json.dumps(CONFIG))
    layout = Layout.at(root)
    ledger = Ledger.create_or_open(config, root)
    if not ledger.trials():
        _first_trial(ledger, layout)
    fill_study(ledger._storage, ledger._study._study_id, level, numpy_generator(level, "prefill"))
    _fill_ours(layout, level)
    tracker, clock = _TimedTracker(ledger, layout), _Clock()
    with ledger.lease() as lease, ProgressView(ledger, quiet=True) as view:
        tracker.start()
        tracker.wait()  # what a launch reads of MLflow is no trial's cost
        run_trials(
            ledger,
            lease,
            resumed=(),
            remaining=TRIALS,
            observers=(view, tracker, clock),
            stop=threading.Event(),
            trainable=Nothing,
        )
        tracker.wait()
        end = max(clock.ends[-1], tracker.wrote)
        problems = tracker.close(complete=False)
    counts = ledger.counts()
    assert not problems, problems
    assert counts["complete"] == level + TRIALS, counts
    seconds = _tpe_seconds(ledger)
    ledger.close()
    return clock.per_trial(end), seconds


def _first_trial(ledger: Ledger, layout: Layout) -> None:
    number = ledger.ask().number
    save_result(RESULT, ledger.places.trial(number))
    tracker = Tracker(ledger, layout)
    ledger.tell(number, RESULT)
    tracker.start()
    assert not tracker.close(complete=False)


def _fill_ours(layout: Layout, level: int) -> None:
    client = MlflowClient(layout.mlflow_uri)
    there = _trial_runs(client, "overhead")
    tags = (
        {"ude.trial": trial_name(number), "mlflow.runName": f"trial {trial_name(number)}"}
        for number in range(len(there), level)
    )
    fill_runs(layout.mlflow_uri, there[-1], tags)


def _trial_runs(client: MlflowClient, name: str) -> list[str]:
    """Return the run of every trial, the latest first."""
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found: list[str] = []
    token = None
    while True:
        page = client.search_runs([experiment.experiment_id], page_token=token, max_results=5000)
        found += [run.info.run_id for run in page if run.data.tags.get("ude.trial") != "study"]
        token = page.token
        if not token:
            return found


def _tpe_seconds(ledger: Ledger) -> float:
    sampler = ledger.config.sampler.model_copy(update={"name": "tpe"})
    config = ledger.config.model_copy(update={"sampler": sampler})
    proposer = Proposer(config, ledger._frozen(), notes={}, keep=lambda key, value: None)
    return _median(lambda: proposer.begun(proposer.propose()))


@contextmanager
def _ray() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=WORKERS,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=128 * 1024**2,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


def _stock(root: Path, level: int) -> tuple[float, float]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{root}/study.db")
    uri = f"sqlite:///{root}/mlflow.db"
    if not (root / "tune").exists():
        _run_stock(storage, uri, root, trials=1)
    study = optuna.load_study(study_name="stock", storage=storage)
    fill_study(storage, study._study_id, level, numpy_generator(level, "prefill"))
    there = _trial_runs(MlflowClient(uri), "stock")
    tags: Iterable[dict[str, str]] = ({} for _ in range(level - len(there)))
    fill_runs(uri, there[-1], tags)
    clock = _run_stock(storage, uri, root, trials=TRIALS)
    study = optuna.load_study(
        study_name="stock", storage=storage, sampler=optuna.samplers.TPESampler(constant_liar=True)
    )
    seconds = _median(lambda: study.ask(_space()))
    storage.remove_session()
    storage.engine.dispose()
    return clock.per_trial(clock.ends[-1]) if level else 0.0, seconds


def _run_stock(storage: optuna.storages.RDBStorage, uri: str, root: Path, *, trials: int) -> _Clock:
    search = OptunaSearch(
        _space(),
        metric=list(METRICS),
        mode=_MODES,
        sampler=optuna.samplers.RandomSampler(seed=1),
        study_name="stock",
        storage=storage,
    )
    clock = _Clock()
    tune.Tuner(
        StockNothing,
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=trials,
            max_concurrent_trials=WORKERS,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"run{time.time_ns()}",
            storage_path=str(root / "tune"),
            callbacks=[MLflowLoggerCallback(tracking_uri=uri, experiment_name="stock"), clock],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()
    assert len(clock.ends) == trials
    return clock


def _space() -> dict[str, optuna.distributions.BaseDistribution]:
    return {
        "step_size": FloatDistribution(0.001, 0.1, log=True),
        "momentum": FloatDistribution(0.0, 0.9),
        "samples": IntDistribution(1, 16),
    }


def _median(call: Any, times: int = 3) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
