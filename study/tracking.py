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

from study.environment import prepare_mlflow
from study.harvest import curve_of, reason_of
from study.ledger import Ledger
from study.names import Layout
from study.records import Assignment, TrialRecord
from study.rung_records import rungs_of
from ude_core.types import Measured, Progress

if TYPE_CHECKING:
    from study.runs import StudyRuns

log = logging.getLogger(__name__)

_BACKLOG = 2000
_LONGEST_PAUSE = 15.0
_LAST_CHANCE = 60.0
_PERMANENT = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"})


@dataclass(frozen=True, slots=True)
class _Task:
    what: str
    write: Callable[[StudyRuns], None]


class Tracker:
    """Records a study in MLflow, in order, in the background.

    A write that fails is repeated until it succeeds or the study ends. What could not be written
    is returned by `close`, and made up for by the next launch, from the ledger.
    """

    def __init__(self, ledger: Ledger, layout: Layout, uri: str | None = None) -> None:
        self._ledger = ledger
        self._config = ledger.config
        self._layout = layout
        self._uri = uri
        self._tasks: queue.Queue[_Task | None] = queue.Queue()
        self._deadline: float | None = None
        self._closing = threading.Event()
        self._problems: list[str] = []
        self._began: dict[int, datetime | None] = {}
        self._runs: StudyRuns | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> None:
        """Begin to record, with what earlier launches left unrecorded."""
        records = [record for record in self._ledger.trials() if record.finished]
        reference = self._ledger.reference
        self._put("the study", lambda runs: runs.begin())
        if reference:
            self.reference(reference)
        self._put("earlier trials", lambda runs: _catch_up(runs, records))
        self._thread.start()

    def reference(self, metrics: Mapping[str, Measured]) -> None:
        """Record ERM's metrics."""
        self._put("the reference", lambda runs: runs.reference(metrics))

    def started(self, assignment: Assignment) -> None:
        """Open a trial's run."""
        self._began[assignment.number] = self._ledger.trial(assignment.number).started
        self._put(f"trial {assignment.number}", lambda runs: runs.started(assignment))

    def epoch(self, number: int, progress: Mapping[str, Any]) -> None:
        """Record an epoch; left out while MLflow is behind, since `finished` brings the curve."""
        if self._tasks.qsize() < _BACKLOG:
            value = Progress(**progress)
            began = self._began.get(number)
            self._put(f"trial {number}", lambda runs: runs.epoch(number, value, began))

    def finished(self, record: TrialRecord) -> None:
        """Record a finished trial and close its run."""
        self._put(f"trial {record.number}", lambda runs: _finish(runs, record))

    def close(self, *, complete: bool) -> tuple[str, ...]:
        """Write what is left, for at most a minute; return what could not be written.

        Closing again does nothing.
        """
        if not self._thread.is_alive():
            return ()
        saved = self._ledger.queries_saved()
        self._put("the end", lambda runs: runs.end(complete=complete, saved=saved))
        self._deadline = time.monotonic() + _LAST_CHANCE
        self._tasks.put(None)
        self._closing.set()
        self._thread.join(timeout=2 * _LAST_CHANCE)
        if self._thread.is_alive():
            self._problems.append("MLflow did not answer until the end")
        return tuple(self._problems)

    def _put(self, what: str, write: Callable[[StudyRuns], None]) -> None:
        self._tasks.put(_Task(what, write))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            problem = self._persist(task)
            if problem is not None:
                self._problems.append(problem)

    def _persist(self, task: _Task) -> str | None:
        """Do `task`, again and again; return why it was given up."""
        pause = 0.5
        while True:
            try:
                task.write(self._connected())
            except Exception as error:  # noqa: BLE001  a study goes on whatever its window does
                reason = f"{task.what}: {reason_of(error)}"
                if getattr(error, "error_code", None) in _PERMANENT:
                    log.warning("not recorded in MLflow: %s", reason)
                    return reason
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    return reason
                log.info("MLflow: %s; trying again", reason)
            else:
                return None
            if self._deadline is None:
                self._closing.wait(pause)
            else:
                time.sleep(min(pause, max(0.0, self._deadline - time.monotonic())))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _connected(self) -> StudyRuns:
        if self._runs is None:
            prepare_mlflow()
            from study.runs import StudyRuns  # imports MLflow: seconds

            self._runs = StudyRuns(self._config, self._layout, self._uri)
        return self._runs


def _catch_up(runs: StudyRuns, records: list[TrialRecord]) -> None:
    """Record the finished trials that an earlier launch could not."""
    recorded = runs.states()
    for record in records:
        if recorded.get(record.number) != record.state:
            _finish(runs, record)


def _finish(runs: StudyRuns, record: TrialRecord) -> None:
    runs.finished(record, curve_of(record.folder), rungs_of(record.folder))
