"""What a trial costs beside its own work, at 100, 1,000 and 10,000 trials in the ledger.

A trial that does nothing runs through Ray Tune, ours and then stock (OptunaSearch over the same kind
of SQLite file, MLflowLoggerCallback), with as many workers, actors reused, the same metrics, random
sampling. The time runs until MLflow has everything, and leaves the start-up of Ray and the first
trials out. What TPE takes for a proposal is told apart. The two take turns, twice at each level, and
the faster turn of each counts: the machine may be shared.
"""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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
TRIALS, WARM_UP, WORKERS, ROUNDS = 200, 10, 2, 2
_MARK = "a mark"
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

    wrote = wrote_cpu = 0.0

    def wait(self) -> None:
        """Wait until MLflow has everything."""
        done = threading.Event()
        self._put(_MARK, lambda runs: done.set())
        done.wait()

    def _persist(self, task: Any) -> str | None:
        problem = super()._persist(task)
        if task.what != _MARK:  # it comes after Ray's shutdown, which is no trial's cost
            self.wrote, self.wrote_cpu = time.perf_counter(), time.process_time()
        return problem


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one trial: seconds of wall time, and of the driver's processor time."""

    wall: float
    cpu: float


@dataclass
class _Clock(tune.Callback):
    """When each trial was done with."""

    ends: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def started(self, assignment: Assignment) -> None: ...

    def epoch(self, number: int, progress: Mapping[str, Any]) -> None: ...

    def finished(self, record: TrialRecord) -> None:
        self._mark()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._mark()

    def per_trial(self, end: float, cpu_end: float) -> Cost:
        """Return what a trial after the warm-up cost, up to these times."""
        trials = len(self.ends) - WARM_UP
        return Cost(
            (end - self.ends[WARM_UP - 1]) / trials, (cpu_end - self.cpu[WARM_UP - 1]) / trials
        )

    def _mark(self) -> None:
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())


def overhead_vs_stock() -> tuple[float, dict[str, Any]]:
    """Return our seconds a trial over stock's, the largest of the levels' ratios."""
    found = _measure()
    ratios = {n: found["ours"][n].wall / found["stock"][n].wall for n in LEVELS}
    rounded = {level: round(ratio, 3) for level, ratio in ratios.items()}
    return max(ratios.values()), {**_details(), "ours over stock": rounded}


def overhead_growth() -> tuple[float, dict[str, Any]]:
    """Return our seconds a trial at 10,000 trials in the ledger over those at 100."""
    ours = _measure()["ours"]
    return ours[LEVELS[-1]].wall / ours[LEVELS[0]].wall, _details()


def _details() -> dict[str, Any]:
    details: dict[str, Any] = {"trials run at each level": TRIALS, "workers": WORKERS}
    for name, costs in _measure().items():
        proposal = name.endswith("TPE")
        what = "seconds a proposal" if proposal else "seconds a trial"
        details[f"{name}, {what}"] = {n: round(cost.wall, 4) for n, cost in costs.items()}
        if not proposal:
            details[f"{name}, driver's processor seconds a trial"] = {
                n: round(cost.cpu, 4) for n, cost in costs.items()
            }
            details[f"{name}, trials a second"] = {
                n: round(1 / cost.wall, 1) for n, cost in costs.items()
            }
    return details


@functools.cache
def _measure() -> dict[str, dict[int, Cost]]:
    found: dict[str, dict[int, Cost]] = {
        name: {} for name in ("ours", "stock", "ours, TPE", "stock, TPE")
    }
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as stock:
        for level, _ in itertools.product(LEVELS, range(ROUNDS)):
            costs = dict(zip(("ours", "ours, TPE"), _ours(Path(ours), level), strict=True))
            with _ray():
                costs |= dict(zip(("stock", "stock, TPE"), _stock(Path(stock), level), strict=True))
            for name, cost in costs.items():
                best = found[name].setdefault(level, cost)
                found[name][level] = min(best, cost, key=lambda one: one.wall)
    return found


def _ours(root: Path, level: int) -> tuple[Cost, Cost]:
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
        end, cpu_end = max(clock.ends[-1], tracker.wrote), max(clock.cpu[-1], tracker.wrote_cpu)
        problems = tracker.close(complete=False)
    counts = ledger.counts()
    assert not problems, problems
    assert counts["complete"] >= level + TRIALS, counts
    seconds = _tpe_seconds(ledger)
    ledger.close()
    return clock.per_trial(end, cpu_end), seconds


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
    if len(there) >= level:
        return
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


def _tpe_seconds(ledger: Ledger) -> Cost:
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


def _stock(root: Path, level: int) -> tuple[Cost, Cost]:
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
    return clock.per_trial(clock.ends[-1], clock.cpu[-1]), seconds


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


def _median(call: Callable[[], object], times: int = 3) -> Cost:
    costs = []
    for _ in range(times):
        began, cpu = time.perf_counter(), time.process_time()
        call()
        costs.append(Cost(time.perf_counter() - began, time.process_time() - cpu))
    return sorted(costs, key=lambda cost: cost.cpu)[times // 2]
