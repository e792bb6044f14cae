"""How the embedded databases keep what is committed."""

import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import sqlalchemy as sa
from finished import tiny_config

from study.embedded import commit_without_waiting, on_own_disk, write_ahead
from study.ledger import Ledger


def pragma(database: Path, name: str) -> object:
    with closing(sqlite3.connect(database)) as opened:
        return opened.execute(f"PRAGMA {name}").fetchone()[0]


def mount(monkeypatch: pytest.MonkeyPatch, point: Path, kind: str) -> None:
    mounts = [
        SimpleNamespace(mountpoint="/", fstype="ext4"),
        SimpleNamespace(mountpoint=str(point), fstype=kind),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)


def test_a_study_commits_to_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount(monkeypatch, tmp_path, "ext4")
    ledger = Ledger.create_or_open(tiny_config(), tmp_path)
    assert pragma(ledger.places.database, "journal_mode") == "wal"
    with ledger._storage.engine.connect() as rows:
        assert rows.execute(sa.text("PRAGMA synchronous")).scalar() == 2  # FULL: it is the truth
    ledger.close()


def test_a_folder_of_another_machine_keeps_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount(monkeypatch, tmp_path, "nfs4")
    assert not on_own_disk(tmp_path / "study.db")
    write_ahead(tmp_path / "study.db")
    assert not (tmp_path / "study.db").exists()


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("not a database, and long enough to be read as one" * 20)
    write_ahead(tmp_path / "study.db")
    assert (tmp_path / "study.db").read_text().startswith("not a database")


def test_only_the_named_database_is_relaxed(tmp_path: Path) -> None:
    window, truth = tmp_path / "mlflow.db", tmp_path / "study.db"
    commit_without_waiting(window)
    for database, expected in ((window, 1), (truth, 2)):
        engine = sa.create_engine(f"sqlite:///{database}")
        with engine.connect() as rows:
            assert rows.execute(sa.text("PRAGMA synchronous")).scalar() == expected
        engine.dispose()
