"""Ray Tune as the muscle of a study: it places trials, restarts them, and remembers nothing."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.stopper import Stopper

from study.cluster import connected, trial_resources
from study.lease import Lease
from study.ledger import Ledger
from study.names import trial_name
from study.observers import Observer
from study.package import Package
from study.query_budget import QueryBudget
from study.records import Assignment
from study.resources import Resources
from study.room import has_room
from study.scheduler import PruningScheduler, make_rule
from study.searcher import LedgerSearcher
from study.trainable import NoiseTrainable, WorkerOrder


class _StopAll(Stopper):
    """Ends the run once it was interrupted, the storage is full or gone, or the study was taken."""

    def __init__(self, stop: threading.Event, lease: Lease, folder: Path) -> None:
        self._stop = stop
        self._lease = lease
        self._folder = folder

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Return whether every trial is to checkpoint and stop now."""
        return self._stop.is_set() or not self._lease.held or not has_room(self._folder)

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
    package: Package | None = None,
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
        config=ledger.config.model_dump_json(by_alias=True),
        root=str(places.folder.parent),
        package=package,
    )
    # Ray prints what happens to its processes; standard output is for results.
    with contextlib.redirect_stdout(sys.stderr), connected(resources, address):
        placed = tune.with_resources(
            tune.with_parameters(trainable, order=order),
            _placement(resources),
        )
        tune.Tuner(
            placed,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=None if rule is None else PruningScheduler(ledger, lease, rule),
                num_samples=-1,  # the searcher says when it is enough
                max_concurrent_trials=concurrency,
                reuse_actors=True,
                trial_name_creator=_name_of,
                trial_dirname_creator=_name_of,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=_tune_storage(ledger),
                stop=_StopAll(stop, lease, places.folder),
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
                verbose=0,
            ),
        ).fit()


def _placement(resources: Resources) -> tune.PlacementGroupFactory:
    """Return what one trial takes: as many equal places as it has workers, the first its own."""
    place = trial_resources(resources)
    return tune.PlacementGroupFactory([place.copy() for _ in range(resources.workers_per_trial)])


def _name_of(trial: TuneTrial) -> str:
    return trial_name(int(trial.config["number"]))


def _tune_storage(ledger: Ledger) -> str:
    """Return where Tune keeps files of its own, which every node must reach."""
    store = ledger.config.resources.trial_store
    return f"{store.rstrip('/')}/ray/{ledger.name}" if store else str(ledger.places.ray)
