"""From a trial's folder to the ledger: what a worker left there, whether or not its driver lived.

`result.json` means the trial is done, `pruned.json` that it was stopped early, `failure.json` why it
could not be.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from study.attempts import ATTEMPT, FAILURE, fence, read_failure
from study.ledger import Ledger
from study.meter import QUERIES, Paid, paid_queries, paid_so_far
from study.records import TrialRecord
from study.rung_records import read_pruned, read_rungs
from study.trial_store import TrialStore, folder_of
from ude_core.results import NOISE_FILE, PICTURE_FILE, RESULT_FILE, has_result, load_result
from ude_core.storage import CorruptFileError
from ude_core.trial import CHECKPOINT, PREVIOUS
from ude_core.types import Progress

log = logging.getLogger(__name__)

WORKER = "worker.json"
"""Which host, process, node and GPUs the latest attempt at a trial ran on."""


def settle(ledger: Ledger, number: int, *, given_up: bool) -> TrialRecord | None:
    """Close trial `number` by what its folder holds; None where it is still to be run.

    `given_up` says that no attempt will follow.
    """
    folder = ledger.places.trial(number)
    store = _store_of(ledger)
    if store is not None:
        _collect(store, ledger, number)
    if has_result(folder):
        try:
            return ledger.tell(number, load_result(folder))
        except (CorruptFileError, ValueError, KeyError, TypeError) as error:
            log.warning("trial %d: its result is unreadable and is made again: %s", number, error)
            (folder / RESULT_FILE).unlink()
            if store is not None:
                store.delete(f"{folder_of(ledger.name, number)}/{RESULT_FILE}")
    pruned = read_pruned(folder)
    if pruned is not None:
        for name in (CHECKPOINT, PREVIOUS):
            (folder / name).unlink(missing_ok=True)
        return ledger.prune(number, pruned.reason, spent=pruned.queries, saved=pruned.saved)
    failure = read_failure(folder)
    if failure is not None and (failure.permanent or given_up):
        return ledger.fail(number, failure.reason, queries=paid_queries(folder))
    if given_up:
        reason = "the worker died without a word, as often as it was retried"
        return ledger.fail(number, reason, queries=paid_queries(folder))
    return None


def fence_trial(ledger: Ledger, number: int) -> None:
    """Take a trial from whoever still works on it, and let its tries be counted from the start."""
    fence(ledger.places.trial(number))
    store = _store_of(ledger)
    if store is not None:
        store.delete(f"{folder_of(ledger.name, number)}/{ATTEMPT}")


def paid_for(ledger: Ledger, number: int) -> Paid:
    """Return what a trial has paid so far, by the log and the checkpoint its worker left."""
    store = _store_of(ledger)
    if store is None:
        return paid_so_far(ledger.places.trial(number))
    with tempfile.TemporaryDirectory() as folder:
        for name in (QUERIES, CHECKPOINT, PREVIOUS):
            store.get(f"{folder_of(ledger.name, number)}/{name}", Path(folder) / name)
        return paid_so_far(Path(folder))


def _store_of(ledger: Ledger) -> TrialStore | None:
    url = ledger.config.resources.trial_store
    return TrialStore.open(url) if url is not None else None


def _collect(store: TrialStore, ledger: Ledger, number: int) -> None:
    """Bring a trial's files to the driver; the result comes last, as it means the trial is whole."""
    folder = ledger.places.trial(number)
    if not has_result(folder):
        for name in (WORKER, FAILURE, QUERIES, NOISE_FILE, PICTURE_FILE, RESULT_FILE):
            store.get(f"{folder_of(ledger.name, number)}/{name}", folder / name)


def harvest(ledger: Ledger) -> list[TrialRecord]:
    """Close every running trial that in truth has ended, and return them."""
    settled = [settle(ledger, a.number, given_up=False) for a in ledger.running()]
    return [record for record in settled if record is not None]


def curve_of(folder: Path) -> tuple[Progress, ...]:
    """Return the epochs of a trial that ended, or nothing where the folder does not tell.

    A pruned trial's reach to the rung it was stopped at.
    """
    if not has_result(folder):
        record = read_rungs(folder) if read_pruned(folder) is not None else None
        return record.curve if record is not None else ()
    try:
        return load_result(folder).curve
    except (CorruptFileError, ValueError, KeyError, TypeError, OSError):
        return ()
