"""How a trial is written into the database: each step of its life in one transaction.

Optuna's own calls commit once for every parameter and attribute, and look a trial up by reading the
study. Here a driver killed at any moment leaves a trial that is whole or not there, and a write
costs the same in a study of ten trials and of ten thousand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from study.database import patiently
from study.records import Parameters


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
        with _create_scoped_session(storage.scoped_session) as session:
            # Numbers follow from a count, so that creating trials must wait for each other.
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            trial = models.TrialModel(
                study_id=study_id, state=TrialState.RUNNING, datetime_start=_now()
            )
            session.add(trial)
            session.flush()
            trial.number = trial.count_past_trials(session)
            _add_params(session, int(trial.trial_id), params, searched)
            session.add_all(
                models.TrialSystemAttributeModel(
                    trial_id=trial.trial_id, key=key, value_json=json.dumps(value)
                )
                for key, value in notes.items()
            )
            return _running(trial, params, searched, notes)

    return patiently(write)


def begin_waiting(
    storage: RDBStorage,
    trial_id: int,
    params: Parameters,
    searched: Mapping[str, BaseDistribution],
) -> FrozenTrial:
    """Write an enqueued trial, or one that lacks parameters, as running with `params`; return it."""

    def write() -> FrozenTrial:
        with _create_scoped_session(storage.scoped_session) as session:
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            known = {param.param_name for param in trial.params}
            notes = {attr.key: json.loads(attr.value_json) for attr in trial.system_attributes}
            if trial.state == TrialState.WAITING:
                trial.state, trial.datetime_start = TrialState.RUNNING, _now()
            missing = {name: value for name, value in params.items() if name not in known}
            _add_params(session, trial_id, missing, searched)
            return _running(trial, params, searched, notes)

    return patiently(write)


def end(
    storage: RDBStorage,
    trial_id: int,
    state: TrialState,
    values: Sequence[float] | None,
    user_attrs: Mapping[str, Any],
    system_attrs: Mapping[str, Any],
) -> datetime | None:
    """Close a trial with all that is known of it; return when, or None where it was closed before."""

    def write() -> datetime | None:
        with _create_scoped_session(storage.scoped_session) as session:
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            if trial.state.is_finished():
                return None
            for model, attrs in (
                (models.TrialUserAttributeModel, user_attrs),
                (models.TrialSystemAttributeModel, system_attrs),
            ):
                for key, value in attrs.items():
                    storage._set_trial_attr_without_commit(session, model, trial_id, key, value)
            for objective, value in enumerate(values or ()):
                storage._set_trial_value_without_commit(session, trial, objective, value)
            ended = _now()
            trial.state, trial.datetime_complete = state, ended
            return ended

    return patiently(write)


def _add_params(
    session: Session,
    trial_id: int,
    params: Parameters,
    searched: Mapping[str, BaseDistribution],
) -> None:
    session.add_all(
        models.TrialParamModel(
            trial_id=trial_id,
            param_name=name,
            param_value=searched[name].to_internal_repr(value),
            distribution_json=distribution_to_json(searched[name]),
        )
        for name, value in params.items()
    )


def _running(
    trial: models.TrialModel,
    params: Parameters,
    searched: Mapping[str, BaseDistribution],
    notes: Mapping[str, Any],
) -> FrozenTrial:
    return FrozenTrial(
        number=int(trial.number),
        trial_id=int(trial.trial_id),
        state=TrialState.RUNNING,
        value=None,
        values=None,
        datetime_start=trial.datetime_start,
        datetime_complete=None,
        params=dict(params),
        distributions=dict(searched),
        user_attrs={},
        system_attrs=dict(notes),
        intermediate_values={},
    )


def _now() -> datetime:
    return datetime.now()  # local time, as in Optuna's own rows


def _find(storage: RDBStorage, study_id: int, number: int) -> FrozenTrial | None:
    try:
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
    except KeyError:
        return None
    return storage.get_trial(trial_id)
