"""The study database, the truth of a study: every trial, its parameters, seed, state and result.

One Optuna study in SQLite (embedded) or PostgreSQL. A trial's number is Optuna's and never
changes: a trial that a dead driver left running is handed out again, with its parameters and seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from study.config import StudyConfig, changed_settings
from study.database import LedgerUnavailableError, connect, database_url, patiently
from study.lease import Lease, Owner, owner_of
from study.metric_names import Direction
from study.names import Layout, StudyLayout
from study.records import Assignment, Parameters, TrialRecord
from study.samplers import make_sampler
from study.spaces import distributions
from study.verdicts import RESULT, STATES, judge, record_of
from ude_core.errors import FingerprintError, SettingError, UserError
from ude_core.results import metrics_from_json, metrics_to_json
from ude_core.seeding import derive_seed
from ude_core.types import Measured, TrialResult

__all__ = ["Ledger", "LedgerUnavailableError", "TrialRecord"]

SCHEMA_VERSION = 1
_SCHEMA, _CONFIG, _FINGERPRINTS = "ude.schema_version", "ude.config", "ude.fingerprints"
_REFERENCE, _PREPARATION = "ude.reference", "ude.preparation_queries"


class Ledger:
    """One study's trials.

    Guarantees: `tell`, `fail` and `prune` are idempotent; a trial is COMPLETE only if every
    objective is finite; `ask` never hands out more trials than were asked for. One process writes
    (the holder of `lease()`); any number may read. Every call raises LedgerUnavailableError where
    the database stays away for minutes.
    """

    def __init__(self, study: optuna.Study, storage: optuna.storages.RDBStorage, layout: Layout):
        self._study = study
        self._storage = storage
        self._layout = layout
        self._known: dict[int, TrialRecord] = {}
        self.config = StudyConfig.model_validate_json(json.dumps(study.user_attrs[_CONFIG]))

    @classmethod
    def create_or_open(
        cls, config: StudyConfig, root: Path | str, storage: str | None = None
    ) -> Ledger:
        """Return the ledger of `config`'s study, made if it is not there yet.

        Raises SettingError, naming the setting, where a study with trials differs in more than its
        target, resources and confirmation.
        """
        layout = Layout.at(root)
        database = connect(layout.study(config.name), storage, create=True)
        directions = [objective.direction for objective in config.objectives]
        study = patiently(lambda: _create(config.name, database, directions))
        if not study.get_trials(deepcopy=False) and directions != [
            direction.name.lower() for direction in study.directions
        ]:
            optuna.delete_study(study_name=config.name, storage=database)
            study = patiently(lambda: _create(config.name, database, directions))
        if _CONFIG not in study.user_attrs:
            study.set_user_attr(_SCHEMA, SCHEMA_VERSION)
            study.set_user_attr(_CONFIG, _json(config))
        _refuse_foreign_schema(study)
        ledger = cls(study, database, layout)
        if study.get_trials(deepcopy=False):
            _refuse_changes(ledger.config, config)
        ledger.config = config
        return ledger

    @classmethod
    def open(cls, name: str, root: Path | str, storage: str | None = None) -> Ledger:
        """Return the ledger of an existing study. Raises UserError where there is none."""
        layout = Layout.at(root)
        place = layout.study(name)
        missing = UserError(
            f"there is no study {name!r} under {layout.root}; known: "
            f"{', '.join(layout.studies()) or 'none'}"
        )
        if database_url(storage) is None and not place.database.is_file():
            raise missing
        database = connect(place, storage, create=False)
        try:
            study = patiently(lambda: optuna.load_study(study_name=place.name, storage=database))
        except KeyError:
            raise missing from None
        _refuse_foreign_schema(study)
        return cls(study, database, layout)

    @property
    def name(self) -> str:
        """The study's slug."""
        return self._study.study_name

    @property
    def places(self) -> StudyLayout:
        """Where the study keeps its files."""
        return self._layout.study(self.name)

    def lease(self) -> Lease:
        """Return the study's lease, to be entered by the driver. Entering raises StudyBusyError."""
        return Lease(self._storage.engine, self.name)

    def owner(self) -> Owner | None:
        """Return the driver that runs the study now, or None."""
        return patiently(lambda: owner_of(self._storage.engine, self.name))

    def keep_config(self) -> None:
        """Write the configuration this ledger was opened with: a new target, new resources."""
        if _json(self.config) != self._study.user_attrs.get(_CONFIG):
            self._study.set_user_attr(_CONFIG, _json(self.config))

    def check_fingerprints(self, fingerprints: Mapping[str, str]) -> None:
        """Keep the fingerprints of data and weights, or raise FingerprintError if they changed."""
        stored = self._study.user_attrs.get(_FINGERPRINTS)
        if stored is None or not self._study.get_trials(deepcopy=False):
            self._study.set_user_attr(_FINGERPRINTS, dict(fingerprints))
            return
        for what, fingerprint in fingerprints.items():
            if stored.get(what) != fingerprint:
                raise FingerprintError(
                    f"study {self.name!r}: the {what} changed since the study began (fingerprint "
                    f"{str(stored.get(what))[:12]}, now {fingerprint[:12]}); restore it, or launch "
                    "under another --study name"
                )

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """The fingerprints of cohort and encoder; empty before the first launch prepared them."""
        return dict(self._study.user_attrs.get(_FINGERPRINTS) or {})

    @property
    def reference(self) -> Mapping[str, Measured]:
        """ERM's metrics on un-edited images; empty before the first launch measured them."""
        return metrics_from_json(self._study.user_attrs.get(_REFERENCE) or {})

    def set_reference(self, metrics: Mapping[str, Measured], queries: int) -> None:
        """Keep ERM's metrics, and add the queries that preparing the study cost this time."""
        paid = int(self._study.user_attrs.get(_PREPARATION) or 0)
        self._study.set_user_attr(_REFERENCE, metrics_to_json(metrics))
        self._study.set_user_attr(_PREPARATION, paid + queries)

    def trials(self) -> list[TrialRecord]:
        """Return every trial, by number."""
        frozen = patiently(lambda: self._study.get_trials(deepcopy=False))
        return [self._record(trial) for trial in frozen]

    def trial(self, number: int) -> TrialRecord:
        """Return one trial. Raises UserError where there is none."""
        try:
            frozen = patiently(lambda: self._storage.get_trial(self._trial_id(number)))
        except KeyError:
            raise UserError(f"study {self.name!r} has no trial {number}") from None
        return self._record(frozen)

    def counts(self) -> dict[str, int]:
        """Return how many trials are complete, failed, running, waiting and pruned."""
        counts = dict.fromkeys(("complete", "failed", "running", "waiting", "pruned"), 0)
        for trial in patiently(lambda: self._study.get_trials(deepcopy=False)):
            counts[STATES[trial.state]] += 1
        return counts

    def queries(self) -> int:
        """Return the queries spent: preparation and every finished trial."""
        prepared = int(self._study.user_attrs.get(_PREPARATION) or 0)
        return prepared + sum(record.queries for record in self.trials())

    def running(self) -> list[Assignment]:
        """Return the trials handed out and not told of yet, by number, to be handed out again.

        A driver killed while it asked leaves a trial without some of its parameters: they are
        sampled now.
        """
        frozen = patiently(lambda: self._study.get_trials(deepcopy=False))
        open_ones = [trial for trial in frozen if trial.state == TrialState.RUNNING]
        return [patiently(partial(self._completed, trial)) for trial in open_ones]

    def enqueue(self, params: Parameters) -> None:
        """Have `params` handed out before the sampler is asked; once, however often enqueued.

        Parameters that are not given are sampled. Raises SettingError for unknown ones.
        """
        known = distributions(self.config)
        for name, value in params.items():
            if name not in known:
                raise SettingError(f"{name!r} is not searched by study {self.name!r}")
            if not known[name]._contains(known[name].to_internal_repr(value)):
                raise SettingError(f"{name} is {value!r}, outside its search ({known[name]})")
        self._study.enqueue_trial(dict(params), skip_if_exists=True)

    def ask(self) -> Assignment:
        """Hand out one new trial: the next enqueued one, or one the sampler proposes.

        The proposal is a function of the study's seed, the trial's number and the results so far.
        """
        before: set[int] | None = None

        def ask_once() -> Assignment:
            nonlocal before
            frozen = self._study.get_trials(deepcopy=False)
            running = {trial.number: trial for trial in frozen if trial.state == TrialState.RUNNING}
            if before is None:
                before = set(running)
            for number in running.keys() - before:  # asked for, and the answer was lost
                return self._completed(running[number])
            seed = derive_seed(self.config.seed, "sampler", len(frozen)) % 2**32
            self._study.sampler = make_sampler(self.config.sampler, seed)
            trial = self._study.ask(distributions(self.config))
            return Assignment(trial.number, dict(trial.params), self.seed_of(trial.number))

        return patiently(ask_once)

    def _completed(self, trial: FrozenTrial) -> Assignment:
        searched, params = distributions(self.config), dict(trial.params)
        if params.keys() != searched.keys():
            half_asked = optuna.trial.Trial(self._study, trial._trial_id)
            params = {name: half_asked._suggest(name, searched[name]) for name in searched}
        return Assignment(trial.number, params, self.seed_of(trial.number))

    def seed_of(self, number: int) -> int:
        """Return the seed of a trial: a function of the study's seed and the trial's number."""
        return derive_seed(self.config.seed, "trial", number)

    def tell(self, number: int, result: TrialResult) -> TrialRecord:
        """Close a trial with its result: complete, or failed where an objective has no value."""
        verdict = judge(result, [objective.metric for objective in self.config.objectives])
        if verdict.values is None:
            return self._close(number, verdict.content, state=TrialState.FAIL)
        return self._close(number, verdict.content, values=verdict.values)

    def fail(self, number: int, reason: str, *, queries: int = 0) -> TrialRecord:
        """Close a trial as failed, with its reason."""
        return self._close(number, {"reason": reason, "queries": queries}, state=TrialState.FAIL)

    def prune(self, number: int, reason: str, *, queries: int = 0) -> TrialRecord:
        """Close a trial as stopped early; it never enters a front."""
        return self._close(number, {"reason": reason, "queries": queries}, state=TrialState.PRUNED)

    def close(self) -> None:
        """Give the database connections back."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _close(
        self,
        number: int,
        content: Mapping[str, Any],
        *,
        values: list[float] | None = None,
        state: TrialState | None = None,
    ) -> TrialRecord:
        trial_id = patiently(lambda: self._trial_id(number))
        before = patiently(lambda: self._storage.get_trial(trial_id))
        if not before.state.is_finished():
            # The result goes first: a driver killed in between finds the trial running, and the
            # result again in the trial's folder.
            patiently(lambda: self._storage.set_trial_user_attr(trial_id, RESULT, dict(content)))
            patiently(lambda: self._study.tell(number, values, state=state, skip_if_finished=True))
        return self.trial(number)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        known = self._known.get(trial.number)
        if known is not None:
            return known
        record = record_of(trial, self.seed_of(trial.number), self.places.trial(trial.number))
        if trial.state.is_finished():
            self._known[trial.number] = record
        return record


def _create(
    name: str, database: optuna.storages.RDBStorage, directions: Sequence[Direction]
) -> optuna.Study:
    return optuna.create_study(
        study_name=name, storage=database, directions=directions, load_if_exists=True
    )


def _refuse_foreign_schema(study: optuna.Study) -> None:
    version = study.user_attrs.get(_SCHEMA)
    if version != SCHEMA_VERSION:
        raise UserError(
            f"study {study.study_name!r} has ledger schema {version!r} (expected {SCHEMA_VERSION}); "
            "it was written by another version of ude-study"
        )


def _refuse_changes(stored: StudyConfig, wanted: StudyConfig) -> None:
    changed = changed_settings(stored, wanted)
    if changed:
        more = f" (and {len(changed) - 1} more settings)" if len(changed) > 1 else ""
        raise SettingError(
            f"study {stored.name!r} was begun with {changed[0]}{more}; put it back, or launch "
            "under another --study name"
        )


def _json(config: StudyConfig) -> Any:
    return json.loads(config.model_dump_json(by_alias=True))
