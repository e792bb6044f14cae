"""What a trial's folder tells of its rungs, and that it was stopped at one.

`rungs.json` is the worker's word, `pruned.json` the driver's. A driver killed after it decided
finds the decision here; one killed before decides again, on the same values.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ude_core.results import progress_from_json, progress_to_json
from ude_core.rungs import Rung, rung_from_json, rung_to_json
from ude_core.storage import atomic_write
from ude_core.types import Progress, QueryCount

log = logging.getLogger(__name__)

_RUNGS, _PRUNED = "rungs.json", "pruned.json"


@dataclass(frozen=True, slots=True)
class RungRecord:
    """The rungs a trial has reached, its curve until the last, and what it would cost unpruned.

    `planned` counts the queries of learning and scoring, without any look.
    """

    rungs: tuple[Rung, ...]
    curve: tuple[Progress, ...]
    planned: int

    @property
    def spent(self) -> QueryCount:
        """Queries spent when the last rung was reached, its look included."""
        looks = sum(rung.scoring_queries for rung in self.rungs)
        return QueryCount(noise=self.rungs[-1].noise_queries, scoring=looks)

    @property
    def last(self) -> tuple[Rung, ...]:
        """The rungs reached together, last: those that are to be decided on."""
        return tuple(r for r in self.rungs if r.iteration == self.rungs[-1].iteration)


@dataclass(frozen=True, slots=True)
class Pruned:
    """The decision to stop a trial, what it had spent, and what stopping it saved, in queries."""

    reason: str
    queries: QueryCount
    saved: int


def write_rungs(folder: Path, record: RungRecord) -> None:
    """Keep the rungs that a trial has reached."""
    content = {
        "rungs": [rung_to_json(rung) for rung in record.rungs],
        "curve": [progress_to_json(progress) for progress in record.curve],
        "planned": record.planned,
    }
    atomic_write(folder / _RUNGS, json.dumps(content, allow_nan=False).encode())


def read_rungs(folder: Path) -> RungRecord | None:
    """Return the rungs that a trial has reached, or None before the first."""
    try:
        content = json.loads((folder / _RUNGS).read_text(encoding="utf-8"))
        return RungRecord(
            rungs=tuple(rung_from_json(rung) for rung in content["rungs"]),
            curve=tuple(progress_from_json(progress) for progress in content["curve"]),
            planned=int(content["planned"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s: not readable, taken as not there: %s", folder / _RUNGS, error)
        return None


def write_pruned(folder: Path, pruned: Pruned) -> None:
    """Keep the decision to stop a trial, before anything acts on it."""
    content = asdict(pruned)
    atomic_write(folder / _PRUNED, json.dumps(content).encode())


def read_pruned(folder: Path) -> Pruned | None:
    """Return the decision to stop a trial, if it was taken."""
    try:
        content = json.loads((folder / _PRUNED).read_text(encoding="utf-8"))
        spent = QueryCount(**content["queries"])
        return Pruned(str(content["reason"]), spent, int(content["saved"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s: not readable, the trial goes on: %s", folder / _PRUNED, error)
        return None


def rungs_of(folder: Path) -> Sequence[Rung]:
    """Return the rungs a trial has reached, none where its folder does not tell."""
    record = read_rungs(folder)
    return record.rungs if record is not None else ()
