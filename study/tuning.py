"""Ray Tune as the muscle of a study: it places trials, restarts them, and remembers nothing."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.stopper import Stopper

from study.lease import Lease
from study.ledger import Ledger
from study.names import trial_name
from study.observers import Observer
from study.query_budget import QueryBudget
from study.records import Assignment
from study.scheduler import PruningScheduler, make_rule
from study.searcher import LedgerSearcher
from study.sections import Resources
from study.trainable import NoiseTrainable, WorkerOrder

_RETRIES = 3
_OBJECT_STORE_BYTES = 128 * 1024**2


class _StopAll(Stopper):
    """Ends the run once it was interrupted, or once another driver took the study."""

    def __init__(self, stop: threading.Event, lease: Lease) -> None:
        self._stop = stop
        self._lease = lease

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Return whether every trial is to checkpoint and stop now."""
        return self._stop.is_set() or not self._lease.held

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its settings to a file that nobody reads

    def __deepcopy__(self, memo: dict[int, Any]) -> _StopAll:
        return self


def run_trials(
    ledger: Ledger,
    lease: Lease,
    *,
    resumed: Sequence[Assignment],
    remaining: int,
    observers: Sequence[Observer],
    stop: threading.Event,
    budget: QueryBudget | None = None,
    address: str | None = None,
    trainable: type[tune.Trainable] = NoiseTrainable,
) -> None:
    """Run `resumed` trials and `remaining` new ones; the ledger says afterwards what came of them.

    Returns early once `stop` is set, after every worker has kept its state. `trainable` is what a
    worker runs: it leaves a trial's result in the trial's folder.
    """
    resources = ledger.config.resources
    concurrency = min(resources.workers, len(resumed) + remaining)
    searcher = LedgerSearcher(
        ledger,
        lease,
        resumed=resumed,
        remaining=remaining,
        concurrency=concurrency,
        observers=observers,
        stop=stop,
        budget=budget,
    )
    rule = make_rule(ledger.config.pruning, ledger.config.sampler.batch)
    places = ledger.places
    shutil.rmtree(places.ray, ignore_errors=True)
    order = WorkerOrder(
        config=ledger.config.model_dump_json(by_alias=True), root=str(places.folder.parent)
    )
    # Ray prints what happens to its processes; standard output is for results.
    with contextlib.redirect_stdout(sys.stderr), _ray(resources, address):
        placed = tune.with_resources(
            tune.with_parameters(trainable, order=order),
            _placement(resources),
        )
        tune.Tuner(
            placed,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=None if rule is None else PruningScheduler(ledger, lease, rule),
                num_samples=len(resumed) + remaining,
                max_concurrent_trials=concurrency,
                reuse_actors=True,
                trial_name_creator=_name_of,
                trial_dirname_creator=_name_of,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(places.ray),
                stop=_StopAll(stop, lease),
                failure_config=tune.FailureConfig(max_failures=_RETRIES),
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
                verbose=0,
            ),
        ).fit()


def _placement(resources: Resources) -> tune.PlacementGroupFactory:
    """Return what one trial takes: as many equal places as it has workers, the first its own."""
    place = {"CPU": float(resources.cpus_per_trial)}
    if resources.gpus_per_trial:
        place["GPU"] = resources.gpus_per_trial
    return tune.PlacementGroupFactory([place.copy() for _ in range(resources.workers_per_trial)])


def _name_of(trial: TuneTrial) -> str:
    return trial_name(int(trial.config["number"]))


@contextlib.contextmanager
def _ray(resources: Resources, address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray in this machine with room for every worker."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    with _own_signal_handlers():
        _init(resources, address, quiet)
    try:
        yield
    finally:
        _shut_down()


def _init(resources: Resources, address: str | None, quiet: dict[str, Any]) -> None:
    if address is None:
        places = resources.workers * resources.workers_per_trial
        cpus = max(psutil.cpu_count() or 1, places * resources.cpus_per_trial)
        gpus = math.ceil(places * resources.gpus_per_trial)
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=None if gpus else 0,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **quiet,
        )
    else:
        ray.init(address=address, **quiet)


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep the driver's handlers: Ray puts one in their place that exits without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shut_down() -> None:
    """Leave Ray.

    A reference to one of its objects that another thread's garbage collection frees while Ray shuts
    down ends the whole process: they are collected here first, and none may be meanwhile.
    """
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()
