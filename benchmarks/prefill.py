"""Long histories made at once: a study, or an MLflow experiment, filled with copies of one trial.

Writing ten thousand trials one by one would take longer than everything measured on top of them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import sqlalchemy as sa
from optuna.storages import RDBStorage

Row = dict[str, Any]
Change = Callable[[Row, np.random.Generator], Row]
_AT_ONCE = 20_000


def fill_study(
    storage: RDBStorage,
    study_id: int,
    upto: int,
    rng: np.random.Generator,
    vary: Mapping[str, Change] | None = None,
) -> None:
    """Copy the study's first trial, which must be complete, until it has `upto` trials.

    Copies have parameters of their own, and values near the original's. `vary` changes rows of
    other tables, or changes them otherwise.
    """
    changes = {**_CHANGES, **(vary or {})}
    tables = tables_of(storage.engine)
    with storage.engine.begin() as connection:
        trials = tables["trials"]
        count = sa.select(sa.func.count()).select_from(trials).where(trials.c.study_id == study_id)
        there = int(connection.scalar(count) or 0)
        first = _one(connection, trials, trials.c.study_id == study_id, trials.c.number == 0)
        last = int(connection.scalar(sa.select(sa.func.max(trials.c.trial_id))) or 0)
        original = first["trial_id"]
        ids = {number: last + 1 + number - there for number in range(there, upto)}
        _insert(
            connection,
            trials,
            ({**first, "trial_id": one, "number": number} for number, one in ids.items()),
        )
        for name in ("trial_params", "trial_values", "trial_user_attributes"):
            table = tables[name]
            key = next(column.name for column in table.primary_key)
            rows = _all(connection, table, table.c.trial_id == original)
            change = changes.get(name, _as_it_is)
            _insert(
                connection,
                table,
                (
                    {**change(_without(row, key), rng), "trial_id": one}
                    for one in ids.values()
                    for row in rows
                ),
            )
        if connection.dialect.name == "postgresql":
            connection.execute(
                sa.text("select setval(pg_get_serial_sequence('trials', 'trial_id'), :last)"),
                {"last": max([last, *ids.values()])},
            )


def fill_runs(url: str, run_id: str, tags: Iterable[Mapping[str, str]]) -> None:
    """Copy the MLflow run `run_id` once for each of `tags`, which replace some of its own tags."""
    engine = sa.create_engine(url)
    tables = tables_of(engine)
    copies = [(uuid.uuid4().hex, changed) for changed in tags]
    with engine.begin() as connection:
        for name in ("runs", "params", "metrics", "latest_metrics", "tags"):
            table = tables[name]
            rows = _all(connection, table, table.c.run_uuid == run_id)
            _insert(
                connection,
                table,
                (
                    {**_retagged(row, changed), "run_uuid": copy}
                    for copy, changed in copies
                    for row in rows
                ),
            )
    engine.dispose()


def _as_it_is(row: Row, rng: np.random.Generator) -> Row:
    return row


def _new_param(row: Row, rng: np.random.Generator) -> Row:
    return {**row, "param_value": row["param_value"] * (0.5 + rng.random())}


def _new_value(row: Row, rng: np.random.Generator) -> Row:
    return {**row, "value": row["value"] * (0.5 + rng.random())}


_CHANGES: Mapping[str, Change] = {
    "trial_params": _new_param,
    "trial_values": _new_value,
}


def _retagged(row: Row, tags: Mapping[str, str]) -> Row:
    if row.get("key") in tags and "value" in row:
        return {**row, "value": tags[row["key"]]}
    return row


def tables_of(engine: sa.Engine) -> Mapping[str, sa.Table]:
    """Return the tables of a database, by name."""
    metadata = sa.MetaData()
    metadata.reflect(engine)
    return metadata.tables


def _all(connection: sa.Connection, table: sa.Table, *where: Any) -> list[Row]:
    return [dict(row) for row in connection.execute(sa.select(table).where(*where)).mappings()]


def _one(connection: sa.Connection, table: sa.Table, *where: Any) -> Row:
    return dict(connection.execute(sa.select(table).where(*where)).mappings().one())


def _without(row: Row, key: str) -> Row:
    return {name: value for name, value in row.items() if name != key}


def _insert(connection: sa.Connection, table: sa.Table, rows: Iterable[Row]) -> None:
    kept = list(rows)
    for start in range(0, len(kept), _AT_ONCE):
        connection.execute(sa.insert(table), kept[start : start + _AT_ONCE])
