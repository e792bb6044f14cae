"""The driver's own thread for MLflow: Tune's loop never waits for it, and its death stops nothing."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from study.attempts import reason_of
from study.embedded import commit_without_waiting, write_ahead
from study.environment import prepare_mlflow
from study.harvest import curve_of
from study.ledger import Ledger
from study.names import Layout
from study.records import Assignment, TrialRecord
from study.run_views import publish, source_of
from study.rung_records import rungs_of
from ude_core.types import Progress

if TYPE_CHECKING:
    from study.runs import StudyRuns

log = logging.getLogger(__name__)

_BACKLOG = 2000
_GATHER_SECONDS = 0.5
"""How long news of trials is gathered before it is written: a short trial is then written once."""

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


@dataclass(frozen=True, slots=True)
class _News:
    """What came of one trial since its last write."""

    number: int
    began: datetime | None
    assignment: Assignment | None = None
    epochs: tuple[Progress, ...] = ()
    record: TrialRecord | None = None

    @property
    def what(self) -> str:
        return f"trial {self.number}"

    @property
    def again(self) -> bool:
        return True

    def then(self, later: _News) -> _News:
        """Return both as one: the end of a trial says all that its beginning would have."""
        return replace(
            later,
            began=self.began or later.began,
            assignment=later.assignment or self.assignment,
            epochs=self.epochs + later.epochs,
        )

    def write(self, runs: StudyRuns) -> None:
        if self.record is not None:
            _finish(runs, self.record, self.epochs)
            return
        if self.assignment is not None:
            runs.started(self.assignment, self.began)
        if self.epochs:
            runs.epochs(self.number, self.epochs, self.began)


class Tracker:
    """Records a study in MLflow, in order, in the background.

    News of trials is gathered for a moment, and a trial's is written together. A write that fails is
    repeated until it succeeds or the study ends. While MLflow is away, at most `_BACKLOG` writes wait
    in memory: what comes on top is left out, and taken from the ledger and the trial folders once
    MLflow has caught up. What could not be written by the end is returned by `close`, and made up for
    by the next launch or by `synchronize`.
    """

    def __init__(self, ledger: Ledger, layout: Layout, uri: str | None = None) -> None:
        self._ledger = ledger
        self._layout = layout
        self._uri = uri
        self._tasks: queue.Queue[_Task | _News | None] = queue.Queue()
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
        number = assignment.number
        self._began[number] = self._ledger.trial(number).started
        self._offer(_News(number, self._began[number], assignment=assignment))

    def epoch(self, number: int, progress: Mapping[str, Any]) -> None:
        """Record an epoch."""
        self._offer(_News(number, self._began.get(number), epochs=(Progress(**progress),)))

    def finished(self, record: TrialRecord) -> None:
        """Record a finished trial and close its run."""
        self._began.pop(record.number, None)
        self._news = True
        self._offer(_News(record.number, record.started, record=record))

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

    def _offer(self, news: _News) -> None:
        if self._tasks.qsize() < _BACKLOG:
            self._tasks.put(news)
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
        over = False
        while not over:
            *tasks, last = self._gathered()
            over = last is None
            for task in _merged(tasks if last is None else [*tasks, last]):
                problem = self._persist(task)
                if problem is not None:
                    self._problems[task.what] = problem
                    continue
                self._problems.pop(task.what, None)
                if self._tasks.empty():
                    self._put_left_out()
                    self._put_fronts()

    def _gathered(self) -> list[_Task | _News | None]:
        """Return the next task, with what follows it at once where it is news of a trial."""
        tasks = [self._tasks.get()]
        until = time.monotonic() + _GATHER_SECONDS
        while isinstance(tasks[-1], _News):
            try:
                tasks.append(self._tasks.get(timeout=max(0.0, until - time.monotonic())))
            except queue.Empty:
                break
        return tasks

    def _catch_up(self, runs: StudyRuns) -> None:
        catch_up(runs, self._ledger)

    def _persist(self, task: _Task | _News) -> str | None:
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


def _merged(tasks: Sequence[_Task | _News | None]) -> list[_Task | _News]:
    """Return the tasks in their order, all news of a trial in the place of its first."""
    merged: dict[int | str, _Task | _News] = {}
    for task in tasks:
        if isinstance(task, _Task):
            merged[task.what] = task
        elif task is not None:
            before = merged.get(task.number)
            merged[task.number] = before.then(task) if isinstance(before, _News) else task
    return list(merged.values())


def connect_runs(ledger: Ledger, layout: Layout, uri: str | None) -> StudyRuns:
    """Return the study's runs in MLflow. Raises what MLflow raises where it is away."""
    prepare_mlflow()
    from study.runs import StudyRuns  # imports MLflow: seconds

    if uri is None:  # what it may lose with the power, the ledger knows
        write_ahead(layout.mlflow_database)
        commit_without_waiting(layout.mlflow_database)
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


def _finish(runs: StudyRuns, record: TrialRecord, epochs: Sequence[Progress] = ()) -> None:
    """Record a finished trial; `epochs` are what is known of one that left no curve."""
    runs.finished(record, curve_of(record.folder) or epochs, rungs_of(record.folder))
