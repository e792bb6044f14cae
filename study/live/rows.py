"""The rows of a study that a reader has not seen yet, in as few queries as there are tables.

Optuna's own reading builds every trial anew, seconds for thousands of them, and a finished trial
never changes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import TrialState as OptunaState

from study.records import ParameterValue, TrialState
from study.verdicts import RESULT, STATES

_AT_ONCE = 500

_trials = models.TrialModel.__table__
_params = models.TrialParamModel.__table__
_attrs = models.TrialUserAttributeModel.__table__
_about = models.StudyUserAttributeModel.__table__


@dataclass(frozen=True, slots=True)
class FinishedRow:
    """One finished trial; `metrics` as `metrics_to_json` writes them, under the contract's names."""

    number: int
    state: TrialState
    params: Mapping[str, ParameterValue]
    metrics: Mapping[str, Mapping[str, Any]]
    queries: int
    ended: datetime | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a study is: a cheap look. Two that are equal mean that no trial has changed."""

    counts: Mapping[TrialState, int]
    last_ended: datetime | None
    about: Mapping[str, str]  # the study's attributes, as JSON text


def standing(connection: sa.Connection, study_id: int) -> Standing:
    """Return how far a study is."""
    found = connection.execute(
        sa.select(_trials.c.state, sa.func.count(), sa.func.max(_trials.c.datetime_complete))
        .where(_trials.c.study_id == study_id)
        .group_by(_trials.c.state)
    ).all()
    about = connection.execute(
        sa.select(_about.c.key, _about.c.value_json).where(_about.c.study_id == study_id)
    )
    ends = [ended for state, _, ended in found if ended is not None]
    return Standing(
        counts={STATES[state]: count for state, count, _ in found},
        last_ended=max(ends, default=None),
        about={str(row.key): str(row.value_json) for row in about},
    )


def new_rows(
    connection: sa.Connection, study_id: int, known: Collection[int]
) -> Iterator[FinishedRow]:
    """Yield the finished trials whose numbers are not `known`, by number."""
    finished = [state for state in OptunaState if state.is_finished()]
    found = connection.execute(
        sa.select(
            _trials.c.trial_id, _trials.c.number, _trials.c.state, _trials.c.datetime_complete
        )
        .where(_trials.c.study_id == study_id, _trials.c.state.in_(finished))
        .order_by(_trials.c.number)
    )
    wanted = [row for row in found if row.number not in known]
    for start in range(0, len(wanted), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        ids = [row.trial_id for row in part]
        params = _params_of(connection, ids)
        results = _results_of(connection, ids)
        for row in part:
            content = json.loads(results.get(row.trial_id, "{}"))
            yield FinishedRow(
                number=row.number,
                state=STATES[row.state],
                params=params.get(row.trial_id, {}),
                metrics=content.get("metrics") or {},
                queries=int(content.get("queries") or 0),
                ended=row.datetime_complete,
            )


def _results_of(connection: sa.Connection, ids: list[int]) -> dict[int, str]:
    found = connection.execute(
        sa.select(_attrs.c.trial_id, _attrs.c.value_json).where(
            _attrs.c.trial_id.in_(ids), _attrs.c.key == RESULT
        )
    )
    return {int(row.trial_id): str(row.value_json) for row in found}


def _params_of(connection: sa.Connection, ids: list[int]) -> dict[int, dict[str, ParameterValue]]:
    found: dict[int, dict[str, ParameterValue]] = {}
    rows = connection.execute(
        sa.select(
            _params.c.trial_id,
            _params.c.param_name,
            _params.c.param_value,
            _params.c.distribution_json,
        )
        .where(_params.c.trial_id.in_(ids))
        .order_by(_params.c.param_id)
    )
    for trial_id, name, value, distribution in rows:
        external = _distribution(distribution).to_external_repr(value)
        found.setdefault(trial_id, {})[name] = external
    return found


@lru_cache(maxsize=256)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)
