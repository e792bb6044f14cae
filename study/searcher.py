"""Ray Tune's searcher over the ledger: trials go out with `ask`, and come back through their folders."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

from ray.tune.search import Searcher

from study.harvest import settle
from study.lease import Lease
from study.ledger import Ledger
from study.observers import Observer
from study.proposals import NothingToAskError
from study.query_budget import QueryBudget
from study.records import Assignment
from study.room import has_room

LOSSES = 20
"""How many workers a trial may lose in one launch; `attempts.TRIES` is the finer bound."""


class LedgerSearcher(Searcher):
    """Hands out `resumed` trials first, then new ones, `remaining` in all, `concurrency` at once.

    What Tune reports of a trial's end is only the signal to look into its folder. A trial that lost
    its worker is handed out again from here, as a new trial of Tune's: its own retries leave out a
    worker that dies between two trials, and one whose single death reaches it twice. Where there is
    nothing more to hand out, the reason is kept in the ledger as the study's `ending`.
    """

    def __init__(
        self,
        ledger: Ledger,
        lease: Lease,
        *,
        resumed: Iterable[Assignment],
        remaining: int,
        concurrency: int,
        observers: Sequence[Observer] = (),
        stop: threading.Event | None = None,
        budget: QueryBudget | None = None,
    ) -> None:
        super().__init__()
        self._ledger = ledger
        self._lease = lease
        self._resumed = deque(resumed)
        self._remaining = remaining
        self._concurrency = concurrency
        self._observers = tuple(observers)
        self._stop = stop or threading.Event()
        self._live: dict[str, Assignment] = {}
        self._budget = budget
        self._losses: Counter[int] = Counter()

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Tell Tune that this searcher limits itself, so that none of its state is copied."""
        self._concurrency = max_concurrent
        return True

    def suggest(  # type: ignore[override]
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """Return the next trial as `{number, params, seed}`, None to wait, or FINISHED."""
        if not has_room(self._ledger.places.folder):
            self._stop.set()
        exhausted = not self._resumed and self._remaining <= 0
        if self._stop.is_set() or (exhausted and not self._live):
            return str(Searcher.FINISHED)
        if exhausted or len(self._live) >= self._concurrency:
            return None  # one that runs may yet lose its worker
        if self._resumed:
            asked = self._ask_again()
        else:
            self._lease.check()
            asked = self._ask()
        if not isinstance(asked, Assignment):
            return asked
        assignment = asked
        self._live[trial_id] = assignment
        for observer in self._observers:
            observer.started(assignment)
        return {
            "number": assignment.number,
            "params": dict(assignment.params),
            "seed": assignment.seed,
        }

    def _ask_again(self) -> Assignment | str | None:
        """Return a trial whose last worker was lost, None to wait, or FINISHED.

        One that the budget has no room for stays open, for a launch with more of it.
        """
        assignment = self._resumed[0]
        if self._budget is not None:
            try:
                self._budget.admit_again(assignment)
            except NothingToAskError as reason:
                self._resumed.rotate(-1)
                return self._wait_or_end(reason)
        return self._resumed.popleft()

    def _wait_or_end(self, reason: NothingToAskError) -> str | None:
        # A trial that ends may leave room in the budget, or fail and free its parameters.
        if self._live:
            return None
        self._ledger.set_ending(str(reason))
        self._remaining = 0
        self._resumed.clear()
        return str(Searcher.FINISHED)

    def _ask(self) -> Assignment | str | None:
        """Return a new trial, None to wait for one that runs, or FINISHED."""
        if self._ledger.blocked():
            return None if self._live else str(Searcher.FINISHED)
        try:
            assignment = self._ledger.ask(self._budget.admit if self._budget else None)
        except NothingToAskError as reason:
            return self._wait_or_end(reason)
        self._remaining -= 1
        if self._budget is not None:
            self._budget.began(assignment)
        return assignment

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass an epoch on to the observers."""
        assignment = self._live.get(trial_id)
        # Tune hands nested values over flattened.
        fields = {k: v for k, v in result.items() if k.startswith("progress/")}
        progress = {name.removeprefix("progress/"): value for name, value in fields.items()}
        if assignment is not None and progress:
            for observer in self._observers:
                observer.epoch(assignment.number, progress)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Close the trial in the ledger, or queue it again where its worker was lost.

        One that was interrupted stays open.
        """
        assignment = self._live.pop(trial_id, None)
        if assignment is None:
            return
        number = assignment.number
        self._lease.check()
        # Without room on the disk every trial would fail: they stay open for a later launch.
        lost = error and has_room(self._ledger.places.folder)
        given_up = lost and self._losses[number] >= LOSSES
        record = settle(self._ledger, number, given_up=given_up)
        if record is None and lost:
            self._losses[number] += 1
            self._resumed.append(assignment)
        if record is not None:
            if self._budget is not None:
                self._budget.ended(record)
            for observer in self._observers:
                observer.finished(record)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger is the only memory, and no pickle is read on a resume."""

    def restore(self, checkpoint_path: str) -> None:
        """Refuse: a study is continued by launching it again."""
        raise NotImplementedError("launch the study again; Tuner.restore is not used")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its settings to a file that nobody reads

    def __deepcopy__(self, memo: dict[int, Any]) -> LedgerSearcher:
        return self
