"""One driver a study: a lease in the study's own database, taken and renewed atomically.

The owner is `user@host:pid`. A lease that is not renewed for `EXPIRY` seconds is free; one whose
owner died on this very machine is free at once. The clock is the database's own where it is a
server, so that drivers on several machines agree.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from types import TracebackType

import psutil
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from study.database import PATIENCE_SECONDS, made_once, patiently
from ude_core.errors import UserError

log = logging.getLogger(__name__)

EXPIRY = 30.0
"""Seconds after its last renewal that a lease is free."""

_RENEWAL = 5.0
_metadata = sa.MetaData()
_leases = sa.Table(
    "ude_leases",
    _metadata,
    sa.Column("study", sa.String(64), primary_key=True),
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("owner", sa.String(300), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("born", sa.Float, nullable=False),
    sa.Column("seen", sa.Float, nullable=False),
)


class StudyBusyError(UserError):
    """Another driver holds the study."""


class LeaseLostError(RuntimeError):
    """This driver was away for so long that another took the study over."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a study, and how long ago it was last heard of, in seconds."""

    name: str
    age: float

    @property
    def alive(self) -> bool:
        """Whether the lease still keeps others out."""
        return self.age < EXPIRY


class Lease:
    """The right to run a study, held from `with` to its end and renewed in the background.

    Thread-safe. `held` turns False once the lease is lost; the holder must then stop writing.
    """

    def __init__(self, engine: sa.Engine, study: str) -> None:
        self._engine = engine
        self._study = study
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._renew_for_ever, name="lease", daemon=True)

    @property
    def held(self) -> bool:
        """Whether nobody else has taken the study."""
        return not self._lost.is_set()

    def __enter__(self) -> Lease:
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=EXPIRY)
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.delete(_leases).where(_leases.c.token == self._token))
        except SQLAlchemyError as failure:
            log.warning(
                "the lease of %s was not given back: %s", self._study, type(failure).__name__
            )

    def check(self) -> None:
        """Raise LeaseLostError where another driver has the study: nothing may be written then."""
        if patiently(self._token_there) != self._token:
            self._lost.set()
            raise LeaseLostError(
                f"study {self._study!r} was taken over by another driver; this one stops"
            )

    def _token_there(self) -> str | None:
        with self._engine.connect() as connection:
            return connection.scalar(
                sa.select(_leases.c.token).where(_leases.c.study == self._study)
            )

    def _take(self) -> None:
        made_once(lambda: _metadata.create_all(self._engine))
        with self._engine.begin() as connection:
            now = _now(connection)
            row = connection.execute(
                sa.select(_leases).where(_leases.c.study == self._study)
            ).one_or_none()
            if row is not None:
                if now - row.seen < EXPIRY and not _died_here(row.host, row.pid, row.born):
                    raise StudyBusyError(
                        f"study {self._study!r} is being run by {row.owner} (heard of "
                        f"{max(0.0, now - row.seen):.0f} s ago); wait for it, stop it, or launch "
                        "under another --study name"
                    )
                # Deleting by token takes the lease only if nobody else took it in between.
                connection.execute(sa.delete(_leases).where(_leases.c.token == row.token))
            try:
                connection.execute(sa.insert(_leases).values(**self._row(now)))
            except IntegrityError:
                raise StudyBusyError(
                    f"study {self._study!r} was taken by another driver just now; wait for it"
                ) from None

    def _row(self, now: float) -> dict[str, object]:
        host, pid = socket.gethostname(), os.getpid()
        return {
            "study": self._study,
            "token": self._token,
            "owner": f"{_user()}@{host}:{pid}",
            "host": host,
            "pid": pid,
            "born": psutil.Process(pid).create_time(),
            "seen": now,
        }

    def _renew_for_ever(self) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(_RENEWAL):
            try:
                with self._engine.begin() as connection:
                    done = connection.execute(
                        sa.update(_leases)
                        .where(_leases.c.token == self._token)
                        .values(seen=_now(connection))
                    )
            except SQLAlchemyError as failure:
                log.warning("the lease was not renewed: %s", type(failure).__name__)
                # While the database is away nobody else can take the study either; and where only
                # we cannot reach it, `check` and the fenced trial folders keep us from writing.
                if time.monotonic() - renewed < PATIENCE_SECONDS:
                    continue
                self._lost.set()
                return
            if done.rowcount == 0:
                self._lost.set()
                return
            renewed = time.monotonic()


def owner_of(engine: sa.Engine, study: str) -> Owner | None:
    """Return who holds a study, or None."""
    if not sa.inspect(engine).has_table(_leases.name):
        return None
    with engine.connect() as connection:
        row = connection.execute(sa.select(_leases).where(_leases.c.study == study)).one_or_none()
        if row is None or _died_here(row.host, row.pid, row.born):
            return None
        return Owner(str(row.owner), _now(connection) - float(row.seen))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _now(connection: sa.Connection) -> float:
    if connection.dialect.name == "postgresql":
        return float(connection.scalar(sa.text("select extract(epoch from clock_timestamp())")))
    return time.time()


def _died_here(host: str, pid: int, born: float) -> bool:
    """Return whether the owner ran on this machine and its process is gone."""
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(pid).create_time() - born) > 2.0
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
