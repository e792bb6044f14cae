"""A study in its database: how it is made, opened and guarded, and what is known of it as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import optuna
import sqlalchemy as sa

from study.config import StudyConfig, changed_settings
from study.database import connect, database_url, patiently
from study.lease import Lease, Owner, owner_of
from study.metric_names import Direction
from study.names import Layout, StudyLayout
from ude_core.errors import FingerprintError, SettingError, UserError
from ude_core.results import metrics_from_json, metrics_to_json
from ude_core.types import Measured

SCHEMA_VERSION = 1
_SCHEMA, _CONFIG, _FINGERPRINTS = "ude.schema_version", "ude.config", "ude.fingerprints"
_REFERENCE, _PREPARATION, _ENDING = "ude.reference", "ude.preparation_queries", "ude.ending"
_WARM_STARTED = "ude.warm_started"


class OpenStudy:
    """One study, as a whole; its trials are `study.ledger.Ledger`'s."""

    def __init__(self, study: optuna.Study, storage: optuna.storages.RDBStorage, layout: Layout):
        self._study = study
        self._storage = storage
        self._layout = layout
        self.config = StudyConfig.model_validate_json(json.dumps(study.user_attrs[_CONFIG]))

    @classmethod
    def create_or_open(
        cls, config: StudyConfig, root: Path | str, storage: str | None = None
    ) -> Self:
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
    def open(cls, name: str, root: Path | str, storage: str | None = None) -> Self:
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
    def engine(self) -> sa.Engine:
        """The database's engine, for readers of whole tables; they never write."""
        return self._storage.engine

    @property
    def study_id(self) -> int:
        """The study's key in the database's tables."""
        return int(self._study._study_id)

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
        self._study.set_user_attr(_REFERENCE, metrics_to_json(metrics))
        self._study.set_user_attr(_PREPARATION, self.preparation_queries + queries)

    @property
    def preparation_queries(self) -> int:
        """The queries that preparing the study cost, over all launches."""
        return int(self._study.user_attrs.get(_PREPARATION) or 0)

    @property
    def ending(self) -> str:
        """Why the last launch ended before the target, where that was no failure; else nothing."""
        return str(self._study.user_attrs.get(_ENDING) or "")

    def set_ending(self, reason: str) -> None:
        """Keep why this launch ends before its target; nothing where it goes on."""
        if reason != self.ending:
            self._study.set_user_attr(_ENDING, reason)

    @property
    def warm_started(self) -> bool:
        """Whether the points to begin with were enqueued, all of them."""
        return bool(self._study.user_attrs.get(_WARM_STARTED))

    def set_warm_started(self) -> None:
        """Keep that they were: what was known then is not looked up again."""
        self._study.set_user_attr(_WARM_STARTED, True)

    def close(self) -> None:
        """Give the database connections back."""
        self._storage.remove_session()
        self._storage.engine.dispose()


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
