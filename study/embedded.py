"""The embedded SQLite databases: how they keep what is committed.

SQLite's own default waits for the disk several times a commit. With a write-ahead log it waits once,
and readers no longer stand in a writer's way. The log needs memory that all its processes share, so it
is for disks of this machine.
"""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

_OWN_DISKS = frozenset(
    {"apfs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"}
)
_WAIT_SECONDS = 5.0


def write_ahead(database: Path) -> None:
    """Give `database` a write-ahead log, made empty where there is none yet.

    Nothing is done on the disk of another machine, and where the file is in use or no database:
    whoever opens it next will say so.
    """
    if not on_own_disk(database):
        return
    with (
        contextlib.suppress(sqlite3.Error),
        closing(sqlite3.connect(database, timeout=_WAIT_SECONDS)) as opened,
    ):
        opened.execute("PRAGMA journal_mode = WAL")


def on_own_disk(path: Path) -> bool:
    """Return whether `path` lies on a disk that is known to be this machine's own."""
    place = path.absolute()
    mounted = [
        partition
        for partition in psutil.disk_partitions(all=True)
        if place.is_relative_to(partition.mountpoint)
    ]
    nearest = max(mounted, key=lambda one: len(one.mountpoint), default=None)
    return nearest is not None and nearest.fstype in _OWN_DISKS


def commit_without_waiting(database: Path) -> None:
    """Have this process's connections to `database` leave it to the log when the disk is reached.

    A power cut may take the last commits, and nothing else; they must be known elsewhere.
    """
    place = database.resolve()

    def relax(connection: Any, _: object) -> None:
        if isinstance(connection, sqlite3.Connection) and _file_of(connection) == place:
            connection.execute("PRAGMA synchronous = NORMAL")

    sa.event.listen(sa.Engine, "connect", relax)


def _file_of(connection: sqlite3.Connection) -> Path | None:
    for _, name, file in connection.execute("PRAGMA database_list"):
        if name == "main" and file:
            return Path(file).resolve()
    return None
