"""How a trial is written into the database: each step of its life in one transaction.

Optuna's own calls commit once for every parameter and attribute, and look a trial up by reading the
study. Here a driver killed at any moment leaves a trial that is whole or not there, and a write
costs the same in a study of ten trials and of ten thousand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

from study.database import patiently
from study.records import Parameters

_TABLES: Mapping[str, sa.Table] = models.BaseModel.metadata.tables
_STUDIES, _TRIALS, _PARAMS = _TABLES["studies"], _TABLES["trials"], _TABLES["trial_params"]
_VALUES = _TABLES["trial_values"]
_USER, _SYSTEM = _TABLES["trial_user_attributes"], _TABLES["trial_system_attributes"]


def begin(
    storage: RDBStorage,
    study_id: int,
    number: int,
    params: Parameters,
    searched: Mapping[str, BaseDistribution],
    notes: Mapping[str, Any],
) -> FrozenTrial:
    """Write a new trial as running, with all its parameters, and return it.

    Its number is `number`, unless another process wrote one since the study was read.
    """
    attempts = 0

    def write() -> FrozenTrial:
        nonlocal attempts
        attempts += 1
        if attempts > 1:  # a connection that broke may have broken after the commit
            written = _find(storage, study_id, number)
            if written is not None:
                return written
        started = _now()
        with _transaction(storage) as rows:
            # Numbers follow from a count, so that creating trials must wait for each other.
            locked = sa.select(_STUDIES.c.study_id).where(_STUDIES.c.study_id == study_id)
            rows.execute(locked.with_for_update())
            count = sa.select(sa.func.count()).where(_TRIALS.c.study_id == study_id)
            given = rows.execute(count).scalar_one()
            new = _TRIALS.insert().values(
                study_id=study_id,
                number=given,
                state=TrialState.RUNNING,
                datetime_start=_stored(started),
            )
            key = rows.execute(new).inserted_primary_key
            assert key is not None
            trial_id = int(key[0])
            _add_params(rows, trial_id, params, searched)
            if notes:
                rows.execute(
                    _SYSTEM.insert(),
                    [
                        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
                        for key, value in notes.items()
                    ],
                )
        return _running(given, trial_id, started, params, searched, notes)

    return patiently(write)


def begin_waiting(
    storage: RDBStorage,
    trial_id: int,
    params: Parameters,
    searched: Mapping[str, BaseDistribution],
) -> FrozenTrial:
    """Write an enqueued trial, or one that lacks parameters, as running with `params`; return it."""

    def write() -> FrozenTrial:
        with _transaction(storage) as rows:
            trial = _locked(rows, trial_id)
            known = set(
                rows.scalars(sa.select(_PARAMS.c.param_name).where(_PARAMS.c.trial_id == trial_id))
            )
            attrs = rows.execute(
                sa.select(_SYSTEM.c.key, _SYSTEM.c.value_json).where(_SYSTEM.c.trial_id == trial_id)
            )
            notes = {key: json.loads(value) for key, value in attrs}
            started = trial.datetime_start and _local(trial.datetime_start)
            if trial.state == TrialState.WAITING:
                started = _now()
                rows.execute(
                    _TRIALS.update()
                    .where(_TRIALS.c.trial_id == trial_id)
                    .values(state=TrialState.RUNNING, datetime_start=_stored(started))
                )
            missing = {name: value for name, value in params.items() if name not in known}
            _add_params(rows, trial_id, missing, searched)
        return _running(trial.number, trial_id, started, params, searched, notes)

    return patiently(write)


def end(
    storage: RDBStorage,
    trial_id: int,
    state: TrialState,
    values: Sequence[float] | None,
    user_attrs: Mapping[str, Any],
    system_attrs: Mapping[str, Any],
) -> datetime | None:
    """Close a trial with all that is known of it; return when, or None where it was closed before.

    Values have to be finite.
    """

    def write() -> datetime | None:
        ended = _now()
        with _transaction(storage) as rows:
            if _locked(rows, trial_id).state.is_finished():
                return None
            for table, attrs in ((_USER, user_attrs), (_SYSTEM, system_attrs)):
                if attrs:
                    rows.execute(
                        table.delete().where(
                            table.c.trial_id == trial_id, table.c.key.in_(list(attrs))
                        )
                    )
                    rows.execute(
                        table.insert(),
                        [
                            {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
                            for key, value in attrs.items()
                        ],
                    )
            if values:
                rows.execute(
                    _VALUES.insert(),
                    [
                        {
                            "trial_id": trial_id,
                            "objective": objective,
                            "value": value,
                            "value_type": models.TrialValueModel.TrialValueType.FINITE,
                        }
                        for objective, value in enumerate(values)
                    ],
                )
            rows.execute(
                _TRIALS.update()
                .where(_TRIALS.c.trial_id == trial_id)
                .values(state=state, datetime_complete=_stored(ended))
            )
        return ended

    return patiently(write)


@contextmanager
def _transaction(storage: RDBStorage) -> Iterator[sa.Connection]:
    """Yield a connection whose statements are written together, or not at all.

    SQLite lets others write between a transaction's first reading and its first writing unless it
    is told beforehand that there will be writing.
    """
    try:
        with storage.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()
    except sa.exc.IntegrityError:
        raise
    except sa.exc.SQLAlchemyError as error:  # as Optuna's own calls say it
        raise StorageInternalError(str(error)) from error


def _locked(rows: sa.Connection, trial_id: int) -> Any:
    wanted = sa.select(_TRIALS.c.number, _TRIALS.c.state, _TRIALS.c.datetime_start)
    return rows.execute(wanted.where(_TRIALS.c.trial_id == trial_id).with_for_update()).one()


def _add_params(
    rows: sa.Connection,
    trial_id: int,
    params: Parameters,
    searched: Mapping[str, BaseDistribution],
) -> None:
    if params:
        rows.execute(
            _PARAMS.insert(),
            [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": searched[name].to_internal_repr(value),
                    "distribution_json": distribution_to_json(searched[name]),
                }
                for name, value in params.items()
            ],
        )


def _running(
    number: int,
    trial_id: int,
    started: datetime | None,
    params: Parameters,
    searched: Mapping[str, BaseDistribution],
    notes: Mapping[str, Any],
) -> FrozenTrial:
    return FrozenTrial(
        number=int(number),
        trial_id=int(trial_id),
        state=TrialState.RUNNING,
        value=None,
        values=None,
        datetime_start=started,
        datetime_complete=None,
        params=dict(params),
        distributions=dict(searched),
        user_attrs={},
        system_attrs=dict(notes),
        intermediate_values={},
    )


def _now() -> datetime:
    return datetime.now()  # local time, as in Optuna's own trials


def _stored(local: datetime) -> datetime:
    """Return a local time as Optuna's rows hold it: UTC, without saying so."""
    return local.astimezone(UTC).replace(tzinfo=None)


def _local(stored: datetime) -> datetime:
    return stored.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def _find(storage: RDBStorage, study_id: int, number: int) -> FrozenTrial | None:
    try:
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
    except KeyError:
        return None
    return storage.get_trial(trial_id)
