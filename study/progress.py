"""A study on the terminal: a live table, or one plain line a trial where nobody looks."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from study.ledger import Ledger
from study.objectives import Objective
from study.records import Assignment, TrialRecord
from ude_core.types import Interval

_REFRESH_PER_SECOND = 4


class ProgressView:
    """Watches one launch. Writes to standard error, so that results can be piped.

    Thread-safe: Tune's loop tells, rich's thread draws.
    """

    def __init__(self, ledger: Ledger, *, quiet: bool = False, console: Console | None = None):
        self._name = ledger.name
        self._target = ledger.config.budget.trials
        self._objectives = ledger.config.objectives
        self._workers = ledger.config.resources.workers
        self._console = console or Console(stderr=True, quiet=quiet)
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._finished = 0
        self._failed = 0
        self._queries = 0
        self._ended_here = 0
        self._running: dict[int, Mapping[str, Any]] = {}
        self._best: dict[str, tuple[float, int]] = {}
        for record in ledger.trials():
            if record.finished:
                self._count(record)
        self._queries = 0
        self._live: Live | None = None

    def __enter__(self) -> ProgressView:
        if self._console.is_terminal and not self._console.quiet:
            self._live = Live(
                get_renderable=self._table,
                console=self._console,
                refresh_per_second=_REFRESH_PER_SECOND,
                transient=True,
            )
            self._live.start()
        else:
            self._console.print(
                f"{self._name}: {self._finished} of {self._target} trials done, "
                f"{self._workers} workers starting"
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, assignment: Assignment) -> None:
        """Show a trial as running."""
        with self._lock:
            self._running[assignment.number] = {}

    def epoch(self, number: int, progress: Mapping[str, Any]) -> None:
        """Show how far a trial is."""
        with self._lock:
            before = self._running.get(number, {})
            self._queries += int(progress["queries"]) - int(before.get("queries", 0))
            self._running[number] = progress

    def finished(self, record: TrialRecord) -> None:
        """Count a trial, and print its line where there is no table."""
        with self._lock:
            learnt = int(self._running.pop(record.number, {}).get("queries", 0))
            self._queries += max(0, record.queries - learnt)
            self._ended_here += 1
            self._count(record)
            line = self._line(record)
        if self._live is None:
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _count(self, record: TrialRecord) -> None:
        self._finished += 1
        self._failed += record.state == "failed"
        if record.state != "complete":
            return
        for objective in self._objectives:
            value = record.metrics.get(objective.metric)
            if isinstance(value, Interval) and self._improves(objective, value.mean):
                self._best[objective.metric] = (value.mean, record.number)

    def _improves(self, objective: Objective, value: float) -> bool:
        if objective.metric not in self._best:
            return True
        best = self._best[objective.metric][0]
        return value < best if objective.direction == "minimize" else value > best

    def _line(self, record: TrialRecord) -> str:
        values = [
            f"{objective.metric} {value.mean:.1f}"
            for objective in self._objectives
            if isinstance(value := record.metrics.get(objective.metric), Interval)
        ]
        told = ", ".join(values) if record.state == "complete" else record.reason
        return (
            f"{self._name} {self._finished}/{self._target}: trial {record.number:05d} "
            f"{record.state}: {told} ({record.queries} queries, {self._rate():.0f}/s, "
            f"{self._time_left()} left)"
        )

    def _rate(self) -> float:
        return self._queries / max(1e-9, time.monotonic() - self._began)

    def _time_left(self) -> str:
        if not self._ended_here:
            return "?"
        left = max(0, self._target - self._finished)
        seconds = round((time.monotonic() - self._began) / self._ended_here * left)
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

    def _table(self) -> Table:
        with self._lock:
            table = Table(
                title=f"study {self._name}", title_justify="left", expand=False, show_header=False
            )
            table.add_column("")
            table.add_column("", justify="right")
            failed = f" ({self._failed} failed)" if self._failed else ""
            table.add_row("trials done", f"{self._finished} of {self._target}{failed}")
            table.add_row("queries a second", f"{self._rate():,.0f}")
            table.add_row("time left", self._time_left())
            for objective in self._objectives:
                if objective.metric in self._best:
                    value, number = self._best[objective.metric]
                    table.add_row(f"best {objective.metric}", f"{value:.1f} (trial {number})")
            for number, progress in sorted(self._running.items()):
                epoch = f"epoch {progress['epoch']} of {progress['epochs']}" if progress else "…"
                table.add_row(f"trial {number}", epoch)
            return table
