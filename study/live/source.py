"""The studies under a root, each kept in memory and brought up to date when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from study.api import Study
from study.config import StudyConfig
from study.confirm import Confirmation, confirmation_file, load_confirmation
from study.database import LedgerUnavailableError, study_names
from study.live.rows import Standing, new_rows, standing
from study.live.table import Trials, TrialTable
from study.names import Layout
from study.pareto import Goal, goals_of
from study.records import TRIAL_STATES
from ude_core.errors import UserError
from ude_core.storage import digest
from ude_core.types import Measured

DATABASE_PROBLEMS = (SQLAlchemyError, StorageInternalError, LedgerUnavailableError)
"""What a database that is away or damaged raises."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A study at one moment. Equal `version`s mean that nothing of it has changed."""

    study: Study
    version: str
    counts: Mapping[str, int]
    queries: int
    trials: Trials
    reference: Mapping[str, Measured]
    confirmation: Confirmation | None
    running: bool

    @property
    def config(self) -> StudyConfig:
        """The study's configuration."""
        return self.study.config

    @property
    def diseases(self) -> tuple[str, ...]:
        """The study's diseases."""
        return tuple(self.config.cohort.diseases)

    @property
    def goals(self) -> tuple[Goal, ...]:
        """The axes of the study's fronts."""
        return goals_of((goal.metric, goal.direction) for goal in self.config.objectives)


class StudySource:
    """One study, read again only as far as it has changed. Safe to call from many threads."""

    def __init__(self, open_study: Callable[[], Study]) -> None:
        self._open = open_study
        self._lock = threading.Lock()
        self._study: Study | None = None
        self._table = TrialTable()
        self._snapshot: Snapshot | None = None
        self._config = ""

    def snapshot(self) -> Snapshot:
        """Return the study as it is now. Raises UserError where it cannot be read."""
        with self._lock:
            study = self._study or self._open()
            self._study = study
            engine, study_id = study.ledger.engine, study.ledger.study_id
            with engine.connect() as connection:
                now = standing(connection, study_id)
                version = self._version(study, now)
                last = self._snapshot
                if last is not None and last.version == version:
                    return last
                known = frozenset(self._table.numbers)
                self._table.add(new_rows(connection, study_id, known))
            self._snapshot = self._assemble(study, now, version)
            return self._snapshot

    def close(self) -> None:
        """Give the database connections back."""
        with self._lock:
            if self._study is not None:
                self._study.ledger.close()
                self._study = None

    def _version(self, study: Study, now: Standing) -> str:
        file = confirmation_file(study)
        confirmed = file.stat().st_mtime_ns if file.is_file() else 0
        owner = study.ledger.owner()
        running = owner is not None and owner.alive
        parts = [sorted(now.counts.items()), str(now.last_ended), dict(now.about)]
        return f"{digest(*parts, confirmed, running)[:20]}{'r' if running else ''}"

    def _assemble(self, study: Study, now: Standing, version: str) -> Snapshot:
        text = now.about.get("ude.config", "")
        if text != self._config:  # a later launch may have raised the target
            config = StudyConfig.model_validate_json(text)
            study = Study(study.name, study.root, config, study.ledger)
            self._study, self._config = study, text
        trials = self._table.view()
        try:
            confirmation = load_confirmation(study)
        except UserError:  # damaged: `confirm` says so, and the pages show the search alone
            confirmation = None
        return Snapshot(
            study=study,
            version=version,
            counts={state: now.counts.get(state, 0) for state in TRIAL_STATES},
            queries=study.ledger.preparation_queries + int(trials.queries.sum()),
            trials=trials,
            reference=study.ledger.reference,
            confirmation=confirmation,
            running=version.endswith("r"),
        )


class Studies:
    """Every study of a root, or of the database named in the environment."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._lock = threading.Lock()
        self._sources: dict[str, StudySource] = {}

    def names(self) -> tuple[str, ...]:
        """Return the names of all studies, sorted."""
        return study_names(self.layout)

    def snapshot(self, name: str) -> Snapshot:
        """Return a study as it is now. Raises UserError where there is none, or it is unreadable."""
        with self._lock:
            source = self._sources.get(name)
            if source is None:
                if name not in self.names():
                    raise UserError(f"there is no study {name!r}")
                source = self._sources[name] = StudySource(partial(self._open, name))
        return source.snapshot()

    def _open(self, name: str) -> Study:
        return Study.open(name, self.layout.root)

    def summary(self, name: str) -> dict[str, Any]:
        """Return one line about a study, or why it cannot be read."""
        try:
            now = self.snapshot(name)
        except (UserError, ValueError, KeyError, TypeError, *DATABASE_PROBLEMS) as error:
            problem = str(error) if isinstance(error, UserError) else type(error).__name__
            return {"study": name, "state": "unreadable", "problem": problem}
        ended = sum(now.counts[state] for state in ("complete", "failed", "pruned"))
        target = now.config.budget.trials
        return {
            "study": name,
            "display": now.config.study,
            "description": now.config.description,
            "state": "running" if now.running else "done" if ended >= target else "waiting",
            "counts": dict(now.counts),
            "ended": ended,
            "target": target,
            "queries": now.queries,
            "diseases": list(now.diseases),
            "confirmed": 0 if now.confirmation is None else len(now.confirmation.points),
        }

    def close(self) -> None:
        """Give every database connection back."""
        with self._lock:
            for source in self._sources.values():
                source.close()
            self._sources.clear()
