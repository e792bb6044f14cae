"""The driver of a study: prepare, take the lease, harvest, run what is missing, and say how it ended.

Launching is resuming: `launch` brings a study to its target from wherever it stands.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from study.config import StudyConfig
from study.environment import prepare_ray
from study.harvest import fence_trial, harvest, paid_for
from study.lease import Lease, LeaseLostError
from study.ledger import Ledger
from study.materials import load_materials
from study.names import Layout
from study.node_cache import publish
from study.observers import Observer
from study.package import Package, pack
from study.plan import plan_study
from study.progress import ProgressView
from study.query_budget import QueryBudget
from study.reachable import refuse_unreachable
from study.room import check_room, make_root
from study.spaces import check_batches, method_of, most_queries, paid_looks
from study.tracking import Tracker
from study.trial_store import TrialStore
from study.warm_start import warm_start
from ude_core.errors import SettingError
from ude_core.runtime import prepare_process
from ude_core.scoring import score_reference
from ude_core.types import exactly


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a launch ended. `queries` are images through the encoder, the whole study's."""

    study: str
    target: int
    counts: Mapping[str, int]
    queries: int
    interrupted: int | None = None  # the signal
    tracking_problems: tuple[str, ...] = ()
    ending: str = ""  # why it ended before its target, where that was no failure

    @property
    def finished(self) -> int:
        """How many trials have ended, well or not."""
        return sum(self.counts[state] for state in ("complete", "failed", "pruned"))

    @property
    def exit_code(self) -> int:
        """0 done; 3 with failed or missing trials; 128 + signal where it was interrupted.

        A study that used up its queries or its search space is done.
        """
        if self.interrupted is not None:
            return 128 + self.interrupted
        missing = self.finished < self.target and not self.ending
        return 3 if self.counts["failed"] or missing else 0


class _InterruptedError(BaseException):
    """A signal came while nothing ran that could be stopped gently."""


class Interruption:
    """Turns SIGINT and SIGTERM into a request to stop; the second one of them insists."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal: int | None = None
        self.gentle = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[Interruption]:
        """Listen to signals, which only a process's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, self._hear)
        try:
            yield self
        except _InterruptedError:
            pass
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        insisting = self.event.is_set()
        self.signal = self.signal or number
        self.event.set()
        if insisting or not self.gentle:
            raise _InterruptedError


def launch(
    config: StudyConfig,
    root: Path | str = "runs",
    *,
    address: str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    quiet: bool = False,
) -> Outcome:
    """Run or continue the study of `config` up to its target of trials.

    `address` is a Ray cluster (none: this machine), `storage` a database URL (none: SQLite under
    `root`), `tracking_uri` an MLflow server (none: SQLite under `root`).
    Raises UserError for what the user can mend, before any trial: a cohort, a setting, another
    driver, changed data. Trials that fail do not raise: see `Outcome`.
    """
    layout = Layout.at(root)
    make_root(layout.root)
    interruption = Interruption()
    ledger = Ledger.create_or_open(config, layout.root, storage)
    tracker = Tracker(ledger, layout, tracking_uri)
    try:
        with interruption.listening(), ledger.lease() as lease:
            ledger.keep_config()
            warm_start(ledger, layout.root, storage)
            _bring_to_target(ledger, lease, layout, interruption, tracker, address, quiet)
        outcome = Outcome(
            study=ledger.name,
            target=config.budget.trials,
            counts=ledger.counts(),
            queries=ledger.queries(),
            interrupted=interruption.signal,
            ending=ledger.ending,
        )
        complete = outcome.finished >= outcome.target or bool(outcome.ending)
        problems = tracker.close(complete=complete)
        return replace(outcome, tracking_problems=problems)
    finally:
        tracker.close(complete=False)
        ledger.close()


def _bring_to_target(
    ledger: Ledger,
    lease: Lease,
    layout: Layout,
    interruption: Interruption,
    tracker: Tracker,
    address: str | None,
    quiet: bool,
) -> None:
    harvest(ledger)
    resumed = ledger.running()
    remaining = ledger.config.budget.trials - len(resumed) - _finished(ledger)
    if not resumed and remaining <= 0:
        tracker.start()
        return
    ledger.set_ending("")
    if address is not None:
        refuse_unreachable(address)
    package, budget = _prepare(ledger, layout)
    for assignment in resumed:
        fence_trial(ledger, assignment.number)
    tracker.start()
    prepare_ray()
    from study.tuning import run_trials  # imports Ray: seconds

    with ProgressView(ledger, quiet=quiet) as view:
        observers: Sequence[Observer] = (view, tracker)
        interruption.gentle = True
        run_trials(
            ledger,
            lease,
            resumed=resumed,
            remaining=max(0, remaining),
            observers=observers,
            stop=interruption.event,
            package=package,
            budget=budget,
            address=address,
        )
        interruption.gentle = False
        for record in harvest(ledger):
            for observer in observers:
                observer.finished(record)
    check_room(layout.root)
    if not lease.held:
        raise LeaseLostError(f"study {ledger.name!r} was taken over by another driver")


def _prepare(ledger: Ledger, layout: Layout) -> tuple[Package, QueryBudget | None]:
    """Make what all trials share, once, on disk; measure ERM; refuse changed data and weights.

    Returns what workers need of it, and the account of the study's queries where they are limited.
    """
    config = ledger.config
    prepare_process()
    limit = config.budget.queries
    if limit is not None and not ledger.reference:
        planned = plan_study(config)
        cheapest = (
            planned["queries"]["low"]
            - (planned["trials"] - 1) * (planned["queries_per_trial"]["low"])
        )
        if cheapest > limit:
            raise SettingError(
                f"budget.queries is {limit:,}; preparing the study and its cheapest trial take "
                f"{cheapest:,}; raise it"
            )
    materials = load_materials(config, layout.cache)
    train = len(materials.assets.split.train)
    check_batches(config, train)
    ledger.check_fingerprints(materials.fingerprints)
    if not ledger.reference:
        reference = score_reference(materials.cohort, materials.assets)
        if materials.surrogate is not None:
            reference |= {"surrogate_passes": exactly(materials.surrogate.preparation)}
        ledger.set_reference(reference, materials.assets.queries)
    package = pack(materials, config, layout.cache)
    if config.resources.trial_store is not None:
        publish(package.files, TrialStore.open(config.resources.trial_store))
    if limit is None:
        return package, None
    scored, looks = len(materials.assets.scored), paid_looks(config)
    budget = QueryBudget(
        limit,
        ledger.preparation_queries,
        lambda params: most_queries(config, method_of(config, params), scored, train, looks),
        ledger.trials(),
        lambda number: paid_for(ledger, number),
        # A store hears of queries with each checkpoint, not with each call of the encoder.
        counted=config.resources.trial_store is None,
    )
    return package, budget


def _finished(ledger: Ledger) -> int:
    counts = ledger.counts()
    return counts["complete"] + counts["failed"] + counts["pruned"]
