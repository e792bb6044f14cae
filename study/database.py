"""The way to the study database: SQLite under the root, or PostgreSQL by a URL in the environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy as sa
import tenacity
from optuna.exceptions import StorageInternalError

from study.embedded import write_ahead
from study.names import Layout, StudyLayout
from ude_core.errors import UserError

STORAGE_VARIABLE = "UDE_STUDY_STORAGE"
"""The environment variable with a database URL; a URL holds a password and is written nowhere."""

STORAGE_FILE_VARIABLE = "UDE_STUDY_STORAGE_FILE"
"""The same URL in a file: a mounted secret. The other variable wins."""

_LOCK_SECONDS = 60
PATIENCE_SECONDS = 120
"""How long a database may be away before a driver gives up."""

_CONNECT_SECONDS = 10

T = TypeVar("T")


class LedgerUnavailableError(RuntimeError):
    """The study database did not answer for minutes. What is on disk is whole: launch again later."""


def database_url(storage: str | None) -> str | None:
    """Return the URL of the database, or None for the embedded one.

    A PostgreSQL URL without a driver takes psycopg2, which the `postgresql` extra installs.
    """
    url = storage or os.environ.get(STORAGE_VARIABLE) or _url_in_file()
    for plain in ("postgresql://", "postgres://"):
        if url is not None and url.startswith(plain):
            return f"postgresql+psycopg2://{url.removeprefix(plain)}"
    return url


def _url_in_file() -> str | None:
    place = os.environ.get(STORAGE_FILE_VARIABLE)
    if not place:
        return None
    try:
        return Path(place).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{STORAGE_FILE_VARIABLE} is {place}: {reason}") from None


def study_names(layout: Layout, storage: str | None = None) -> tuple[str, ...]:
    """Return the names of all studies: of the database, or where there is none, under the root."""
    if database_url(storage) is None:
        return layout.studies()
    database = connect(layout.study("all"), storage, create=False)
    try:
        return tuple(sorted(patiently(lambda: optuna.get_all_study_names(storage=database))))
    finally:
        database.remove_session()
        database.engine.dispose()


def connect(
    places: StudyLayout, storage: str | None, *, create: bool
) -> optuna.storages.RDBStorage:
    """Return Optuna's storage of a study. Raises UserError where the URL cannot be used."""
    url = database_url(storage)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if create:
        places.folder.mkdir(parents=True, exist_ok=True)
    if url is None:
        url = f"sqlite:///{places.database}"
        if create:
            write_ahead(places.database)
        options = {"connect_args": {"timeout": _LOCK_SECONDS}}
    elif url.startswith("postgresql"):
        options["connect_args"] = {"connect_timeout": _CONNECT_SECONDS}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return patiently(
            lambda: made_once(lambda: optuna.storages.RDBStorage(url, engine_kwargs=options))
        )
    except ImportError:
        raise UserError(
            f"the database in {STORAGE_VARIABLE} needs a driver; install ude-study[postgresql]"
        ) from None
    except sa.exc.ArgumentError:
        raise UserError(
            f"the database URL in {STORAGE_VARIABLE} cannot be used; expected "
            "postgresql://user:password@host/database"
        ) from None


def made_once(make: Callable[[], T]) -> T:
    """Return what `make` makes; again, a few times, where others create the same tables meanwhile."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((sa.exc.IntegrityError, sa.exc.ProgrammingError)),
        wait=tenacity.wait_random(0.2, 1.0),
        stop=tenacity.stop_after_attempt(6),
        reraise=True,
    )
    return retrying(make)


def patiently(call: Callable[[], T]) -> T:
    """Return what `call` does, tried for about two minutes while the database is away."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((sa.exc.OperationalError, StorageInternalError)),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
        stop=tenacity.stop_after_delay(PATIENCE_SECONDS),
        reraise=True,
    )
    try:
        return retrying(call)
    except (sa.exc.OperationalError, StorageInternalError) as error:
        raise LedgerUnavailableError(
            f"the study database did not answer for two minutes ({type(error).__name__}); "
            "what is finished is kept: launch again when it is back"
        ) from None
