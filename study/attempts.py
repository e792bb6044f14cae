"""Attempts at a trial: who may write into its folder, how often it was tried, and why it failed.

A trial folder is the channel that survives any death, so all of this lies in it, not in Ray.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from ude_core.storage import atomic_write

TRIES = 6
"""How many attempts may begin at the same place of a trial: one that gets no further gives up."""

FAILURE, ATTEMPT = "failure.json", "attempt"
_REASON_LENGTH = 500


class FencedError(RuntimeError):
    """Another attempt at the same trial has begun since: this one may write nothing more."""


class GivenUpError(RuntimeError):
    """The trial was tried as often as it may be."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt at a trial ended; a permanent failure is not tried again.

    Where the memory ran out, the next attempt works in smaller batches.
    """

    reason: str
    permanent: bool
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One worker's claim on a trial folder. The latest claim wins; earlier ones are fenced off.

    `tries` counts the attempts, this one included, that began at `iteration` or before it and came
    no further.
    """

    folder: Path
    token: str
    iteration: int
    tries: int

    @classmethod
    def begin(cls, folder: Path) -> Attempt:
        """Claim `folder`."""
        iteration, tries = _last(folder)
        return cls(folder, uuid.uuid4().hex, iteration, tries + 1)._written()

    def reached(self, iteration: int) -> Attempt:
        """Return the claim of a worker that found the trial at `iteration`; count its tries anew.

        Raises GivenUpError where too many attempts have begun there already.
        """
        if iteration > self.iteration:
            return Attempt(self.folder, self.token, iteration, 1)._written()
        if self.tries > TRIES:
            failure = read_failure(self.folder)
            why = failure.reason if failure else "the worker died without a word"
            raise GivenUpError(f"{why} ({TRIES} times at local iteration {iteration})")
        return self

    def check(self) -> None:
        """Raise FencedError where the claim was superseded: a worker may wake up hours late."""
        if token_of(self.folder) != self.token:
            raise FencedError(f"trial {self.folder.name} is in other hands; this attempt stops")

    def _written(self) -> Attempt:
        content = {"token": self.token, "iteration": self.iteration, "tries": self.tries}
        atomic_write(self.folder / ATTEMPT, json.dumps(content).encode())
        return self


def token_of(folder: Path) -> str | None:
    """Return the token of the latest claim on a trial's folder, or None where there is none."""
    token = _content(folder).get("token")
    return None if token is None else str(token)


def fence(folder: Path) -> None:
    """Take the folder from whoever holds it, and let its tries be counted from the start."""
    (folder / ATTEMPT).unlink(missing_ok=True)


def write_failure(folder: Path, failure: Failure) -> None:
    """Leave word of a failed attempt in the trial's folder; without room for it, none is left."""
    with contextlib.suppress(OSError):
        atomic_write(folder / FAILURE, json.dumps(asdict(failure)).encode())


def read_failure(folder: Path) -> Failure | None:
    """Return the word that the last failed attempt left, if any."""
    try:
        return Failure(**json.loads((folder / FAILURE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def reason_of(error: BaseException) -> str:
    """Return one line that says what an exception was, short enough for a table."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:_REASON_LENGTH]


def _last(folder: Path) -> tuple[int, int]:
    content = _content(folder)
    return int(content.get("iteration", 0)), int(content.get("tries", 0))


def _content(folder: Path) -> dict[str, str | int]:
    try:
        content: dict[str, str | int] = json.loads((folder / ATTEMPT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content
