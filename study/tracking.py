"""The driver's own thread for MLflow: Tune's loop never waits for it, and its death stops nothing."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from study.attempts import reason_of
from study.environment import prepare_mlflow
from study.harvest import curve_of
from study.ledger import Ledger
from study.names import Layout
from study.publish import publish, source_of
from study.records import Assignment, TrialRecord
from study.rung_records import rungs_of
from ude_core.types import Progress

if TYPE_CHECKING:
    from study.runs import StudyRuns

log = logging.getLogger(__name__)

_BACKLOG = 2000
_LONGEST_PAUSE = 15.0
_LAST_CHANCE = 60.0
_REASON_LENGTH = 160
_BETWEEN_LOOKS = 10.0
_SHARE_OF_LOOKS = 20.0  # a look at the fronts takes at most a twentieth of this thread
_PERMANENT = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"})


@dataclass(frozen=True, slots=True)
class _Task:
    what: str
    write: Callable[[StudyRuns], None]
    again: bool = True  # until it succeeds; what is soon written anew need not be


class Tracker:
    """Records a study in MLflow, in order, in the background.

    A write that fails is repeated until it succeeds or the study ends. While MLflow is away, at most
    `_BACKLOG` writes wait in memory: what comes on top is left out, and taken from the ledger and
    the trial folders once MLflow has caught up. What could not be written by the end is returned by
    `close`, and made up for by the next launch or by `synchronize`.
    """

    def __init__(self, ledger: Ledger, layout: Layout, uri: str | None = None) -> None:
        self._ledger = ledger
        self._layout = layout
        self._uri = uri
        self._tasks: queue.Queue[_Task | None] = queue.Queue()
        self._deadline: float | None = None
        self._closing = threading.Event()
        self._left_out = threading.Event()
        self._lock = threading.Lock()
        self._problems: dict[str, str] = {}
        self._began: dict[int, datetime | None] = {}
        self._runs: StudyRuns | None = None
        self._source = source_of(ledger)
        self._news = False
        self._next_look = 0.0
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> None:
        """Begin to record, with what earlier launches left unrecorded."""
        self._put("the study", lambda runs: runs.begin())
        self._put("earlier trials", self._catch_up)
        self._thread.start()

    def started(self, assignment: Assignment) -> None:
        """Open a trial's run."""
        self._began[assignment.number] = self._ledger.trial(assignment.number).started
        self._offer(f"trial {assignment.number}", lambda runs: runs.started(assignment))

    def epoch(self, number: int, progress: Mapping[str, Any]) -> None:
        """Record an epoch."""
        value, began = Progress(**progress), self._began.get(number)
        self._offer(f"trial {number}", lambda runs: runs.epoch(number, value, began))

    def finished(self, record: TrialRecord) -> None:
        """Record a finished trial and close its run."""
        self._began.pop(record.number, None)
        self._news = True
        self._offer(f"trial {record.number}", lambda runs: _finish(runs, record))

    def close(self, *, complete: bool) -> tuple[str, ...]:
        """Write what is left, for at most a minute; return what could not be written.

        Closing again does nothing.
        """
        if not self._thread.is_alive():
            return ()
        self._put_left_out()
        self._put("the fronts", lambda runs: publish(runs, self._source, whole=True))
        saved = self._ledger.queries_saved()
        self._put("the end", lambda runs: runs.end(complete=complete, saved=saved))
        self._deadline = time.monotonic() + _LAST_CHANCE
        self._tasks.put(None)
        self._closing.set()
        self._thread.join(timeout=2 * _LAST_CHANCE)
        if self._thread.is_alive():
            self._problems["MLflow"] = "did not answer until the end"
        return tuple(f"{what}: {reason}" for what, reason in self._problems.items())

    def _offer(self, what: str, write: Callable[[StudyRuns], None]) -> None:
        if self._tasks.qsize() < _BACKLOG:
            self._put(what, write)
        else:
            self._left_out.set()

    def _put(self, what: str, write: Callable[[StudyRuns], None]) -> None:
        self._tasks.put(_Task(what, write))

    def _put_left_out(self) -> None:
        with self._lock:  # else the end could slip in between
            if self._left_out.is_set():
                self._left_out.clear()
                self._put("what was left out", self._catch_up)

    def _put_fronts(self) -> None:
        """Have the fronts written soon, at most every few seconds however fast trials end."""
        if self._news and time.monotonic() >= self._next_look:
            self._news = False
            self._tasks.put(_Task("the fronts", self._publish, again=False))

    def _publish(self, runs: StudyRuns) -> None:
        began = time.monotonic()
        try:
            publish(runs, self._source)
        finally:
            took = time.monotonic() - began
            self._next_look = began + max(_BETWEEN_LOOKS, _SHARE_OF_LOOKS * took)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            problem = self._persist(task)
            if problem is not None:
                self._problems[task.what] = problem
                continue
            self._problems.pop(task.what, None)
            if self._tasks.empty():
                self._put_left_out()
                self._put_fronts()

    def _catch_up(self, runs: StudyRuns) -> None:
        catch_up(runs, self._ledger)

    def _persist(self, task: _Task) -> str | None:
        """Do `task`, again and again; return why it was given up."""
        pause = 0.5
        while True:
            try:
                task.write(self._connected())
            except Exception as error:  # noqa: BLE001  a study goes on whatever its window does
                reason = reason_of(error)[:_REASON_LENGTH]
                if not task.again:
                    return reason
                if getattr(error, "error_code", None) in _PERMANENT:
                    log.warning("not recorded in MLflow: %s: %s", task.what, reason)
                    return reason
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    return reason
                log.info("MLflow: %s: %s; trying again", task.what, reason)
            else:
                return None
            if self._deadline is None:
                self._closing.wait(pause)
            else:
                time.sleep(min(pause, max(0.0, self._deadline - time.monotonic())))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _connected(self) -> StudyRuns:
        if self._runs is None:
            self._runs = connect_runs(self._ledger, self._layout, self._uri)
        return self._runs


def connect_runs(ledger: Ledger, layout: Layout, uri: str | None) -> StudyRuns:
    """Return the study's runs in MLflow. Raises what MLflow raises where it is away."""
    prepare_mlflow()
    from study.runs import StudyRuns  # imports MLflow: seconds

    return StudyRuns(ledger.config, layout, uri)


def catch_up(runs: StudyRuns, ledger: Ledger, *, everything: bool = False) -> int:
    """Record ERM and the finished trials that MLflow lacks, or all; return how many trials.

    ERM goes first: pages that compare with it find it as soon as they find a trial.
    """
    reference = ledger.reference
    if reference:
        runs.reference(reference)
    recorded = {} if everything else runs.states()
    missing = [
        record
        for record in ledger.trials()
        if record.finished and recorded.get(record.number) != record.state
    ]
    for record in missing:
        _finish(runs, record)
    return len(missing)


def synchronize(
    ledger: Ledger, layout: Layout, uri: str | None = None, *, everything: bool = False
) -> int:
    """Make MLflow tell what the ledger tells, in an empty or half-filled server; idempotent.

    Returns how many trials were written. Nothing is left RUNNING. Raises StudyBusyError while a
    driver runs the study, since that records it itself, and TrackingUnavailableError where MLflow
    does not answer.
    """
    with ledger.lease():
        try:
            runs = connect_runs(ledger, layout, uri)
            runs.begin()
            written = catch_up(runs, ledger, everything=everything)
            publish(runs, source_of(ledger), whole=True)
            ended = sum(record.finished for record in ledger.trials())
            complete = ended >= ledger.config.budget.trials
            runs.end(complete=complete, saved=ledger.queries_saved())
        except Exception as error:  # noqa: BLE001  MLflow and requests raise a dozen unrelated kinds
            raise TrackingUnavailableError(
                f"study {ledger.name!r} was not written to MLflow whole ({reason_of(error)}); "
                "nothing is lost: sync again when it answers"
            ) from None
    return written


class TrackingUnavailableError(RuntimeError):
    """MLflow did not take what it was given. The ledger holds all of it."""


def _finish(runs: StudyRuns, record: TrialRecord) -> None:
    runs.finished(record, curve_of(record.folder), rungs_of(record.folder))
