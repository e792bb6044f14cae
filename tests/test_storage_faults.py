"""Storage that is full, read-only or gone, on a small file system of its own."""

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from lone_worker import handed_out, run_to_end, worker
from ray.tune.search import Searcher
from small_study import QUICK

from study import trainable as trainable_module
from study.config import StudyConfig, load_space
from study.ledger import Ledger
from study.names import Layout
from study.room import check_room, has_room
from study.searcher import LedgerSearcher
from study.sweep import launch
from study.tuning import _StopAll
from ude_core.errors import UserError
from ude_core.results import load_result
from ude_core.storage import load_checked
from ude_core.trial import CHECKPOINT, PREVIOUS

MEBIBYTE = 1024**2


class Held:
    """A lease that nobody takes."""

    held = True

    def check(self) -> None:
        pass


class SmallDisk:
    """A file system in memory, 80 MiB large."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def mount(self, *options: str) -> None:
        subprocess.run(
            ["mount", "-t", "tmpfs", *options, "ude-test", str(self.folder)],
            check=True,
            capture_output=True,
        )

    def fill(self, left: int) -> None:
        """Leave `left` bytes free."""
        stat = os.statvfs(self.folder)
        with self._filler.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, stat.f_bavail * stat.f_frsize - left)

    def empty(self) -> None:
        self._filler.unlink()

    def set_read_only(self, read_only: bool) -> None:
        option = "remount,ro" if read_only else "remount,rw"
        subprocess.run(["mount", "-o", option, str(self.folder)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    made = SmallDisk(folder)
    try:
        made.mount("-o", f"size={80 * MEBIBYTE}")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a file system of one's own needs the right to mount: {error}")
    yield made
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    path = tmp_path / "quick.yaml"
    path.write_text(QUICK, encoding="utf-8")
    return load_space(path, ["budget.queries_per_trial=256", "scoring.repeats=1"])


def test_a_full_disk_is_refused_before_anything_is_made(
    disk: SmallDisk, config: StudyConfig
) -> None:
    disk.fill(MEBIBYTE)
    with pytest.raises(UserError, match="make room and launch again"):
        launch(config, disk.folder / "runs", quiet=True)
    assert list((disk.folder / "runs").iterdir()) == []


def test_a_read_only_disk_is_refused_in_one_line(disk: SmallDisk, config: StudyConfig) -> None:
    root = disk.folder / "runs"
    root.mkdir()
    disk.set_read_only(True)
    with pytest.raises(UserError, match="read-only, or not yours"):
        launch(config, root, quiet=True)
    assert not has_room(root)
    disk.set_read_only(False)
    check_room(root)


@pytest.mark.slow
def test_a_disk_that_fills_tears_no_file_and_the_trial_continues_once_there_is_room(
    disk: SmallDisk, config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable_module, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(trainable_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainable_module, "CHECKPOINT_SHARE", float("inf"))
    root = disk.folder / "runs"
    ledger = Ledger.create_or_open(config, root)
    stop = threading.Event()
    search = LedgerSearcher(
        ledger,
        Held(),  # type: ignore[arg-type]
        resumed=(),
        remaining=2,
        concurrency=2,
        stop=stop,
    )
    stopper = _StopAll(stop, Held(), root)  # type: ignore[arg-type]
    trial = search.suggest("a")
    assert isinstance(trial, dict)
    folder = ledger.places.trial(trial["number"])
    first = worker(config, root, trial)
    first.step()
    assert not stopper.stop_all()
    disk.fill(0)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        run_to_end(first)
    left = {path.name for path in folder.iterdir()}
    assert not {name for name in left if name.endswith(".tmp") or name.startswith("result")}
    assert left & {CHECKPOINT, PREVIOUS}
    for name in left & {CHECKPOINT, PREVIOUS}:
        load_checked(folder / name)
    assert stopper.stop_all()
    assert search.suggest("b") == Searcher.FINISHED
    search.on_trial_complete("a", error=True)
    disk.empty()
    assert ledger.counts()["running"] == 1
    assert not _StopAll(threading.Event(), Held(), root).stop_all()  # type: ignore[arg-type]
    run_to_end(worker(config, root, trial))
    assert ledger.tell(trial["number"], load_result(folder)).state == "complete"
    ledger.close()


def test_storage_that_went_away_stops_the_worker_and_is_not_made_anew(
    config: StudyConfig, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    ledger = Ledger.create_or_open(config, root)
    trial = handed_out(ledger)
    one = worker(config, root, trial)
    one.step()
    root.rename(tmp_path / "elsewhere")
    assert one.step()["done"] is True
    one.cleanup()
    assert not has_room(root)
    assert not root.exists()
    with pytest.raises(UserError, match="bring the storage back"):
        check_room(root)
    (tmp_path / "elsewhere").rename(root)
    check_room(Layout.at(root).root)
    assert ledger.trial(trial["number"]).state == "running"
    ledger.close()
