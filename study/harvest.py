"""From a trial's folder to the ledger: what a worker left there, whether or not its driver lived.

A trial folder is the channel that survives any death: `result.json` means the trial is done,
`pruned.json` that it was stopped early, `failure.json` why it could not be.
"""

from __future__ import annotations

import json
import logging
import uuid
from dataclasses import dataclass
from pathlib import Path

from study.ledger import Ledger
from study.records import TrialRecord
from study.rung_records import read_pruned, read_rungs
from ude_core.results import has_result, load_result
from ude_core.storage import CorruptFileError, atomic_write
from ude_core.trial import CHECKPOINT, PREVIOUS
from ude_core.types import Progress

log = logging.getLogger(__name__)

_FAILURE, _ATTEMPT = "failure.json", "attempt"
_REASON_LENGTH = 500


class FencedError(RuntimeError):
    """Another attempt at the same trial has begun since: this one may write nothing more."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt at a trial ended; a permanent failure is not tried again."""

    reason: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """One worker's claim on a trial folder. The latest claim wins; earlier ones are fenced off."""

    folder: Path
    token: str

    @classmethod
    def begin(cls, folder: Path) -> Attempt:
        """Claim `folder`."""
        attempt = cls(folder, uuid.uuid4().hex)
        atomic_write(folder / _ATTEMPT, attempt.token.encode())
        return attempt

    def check(self) -> None:
        """Raise FencedError where the claim was superseded: a worker may wake up hours late."""
        if (self.folder / _ATTEMPT).read_text(encoding="utf-8") != self.token:
            raise FencedError(f"trial {self.folder.name} is in other hands; this attempt stops")


def write_failure(folder: Path, failure: Failure) -> None:
    """Leave word of a failed attempt in the trial's folder."""
    content = {"reason": failure.reason, "permanent": failure.permanent}
    atomic_write(folder / _FAILURE, json.dumps(content).encode())


def read_failure(folder: Path) -> Failure | None:
    """Return the word that the last failed attempt left, if any."""
    try:
        content = json.loads((folder / _FAILURE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Failure(reason=str(content["reason"]), permanent=bool(content["permanent"]))


def reason_of(error: BaseException) -> str:
    """Return one line that says what an exception was, short enough for a table."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:_REASON_LENGTH]


def settle(ledger: Ledger, number: int, *, given_up: bool) -> TrialRecord | None:
    """Close trial `number` by what its folder holds; None where it is still to be run.

    `given_up` says that no attempt will follow.
    """
    folder = ledger.places.trial(number)
    if has_result(folder):
        try:
            return ledger.tell(number, load_result(folder))
        except (CorruptFileError, ValueError, KeyError, TypeError) as error:
            log.warning("trial %d: its result is unreadable and is made again: %s", number, error)
            (folder / "result.json").unlink()
    pruned = read_pruned(folder)
    if pruned is not None:
        for name in (CHECKPOINT, PREVIOUS):
            (folder / name).unlink(missing_ok=True)
        return ledger.prune(number, pruned.reason, spent=pruned.queries, saved=pruned.saved)
    failure = read_failure(folder)
    if failure is not None and (failure.permanent or given_up):
        return ledger.fail(number, failure.reason)
    if given_up:
        return ledger.fail(number, "the worker died without a word, as often as it was retried")
    return None


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
