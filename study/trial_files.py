"""A trial's folder as its worker sees it: the shared one itself, or a copy that a store mirrors."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from study.attempts import ATTEMPT, Attempt, FencedError, token_of
from study.harvest import WORKER
from study.names import trial_name
from study.trial_store import TrialStore, folder_of
from ude_core.results import RESULT_FILE, has_result
from ude_core.storage import atomic_write


class TrialFiles(Protocol):
    """One trial's files, claimed by one attempt at a time."""

    @property
    def folder(self) -> Path:
        """Where the worker writes, on a disk it can reach."""

    def done(self) -> bool:
        """Whether a result is there already."""

    def begin(self) -> str:
        """Claim the trial, with all that earlier attempts left in `folder`; return the claim's token."""

    def reached(self, iteration: int) -> None:
        """Say at which local iteration the trial was found. Raises GivenUpError, see `Attempt`."""

    def check(self) -> None:
        """Raise FencedError where another attempt has claimed the trial since."""

    def publish(self) -> None:
        """Have the driver see what is in `folder` now."""

    def close(self) -> None:
        """Leave nothing behind on this node but what is meant to stay."""


class SharedFiles:
    """A folder on a disk that worker and driver share: publishing is nothing to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._attempt: Attempt | None = None

    def done(self) -> bool:
        return has_result(self.folder)

    def begin(self) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._attempt = Attempt.begin(self.folder)
        return self._attempt.token

    def reached(self, iteration: int) -> None:
        if self._attempt is not None:
            self._attempt = self._attempt.reached(iteration)

    def check(self) -> None:
        if self._attempt is not None:
            self._attempt.check()

    def publish(self) -> None:
        return

    def close(self) -> None:
        return


class StoredFiles:
    """A folder of this attempt's own, mirrored to a store."""

    def __init__(self, store: TrialStore, study: str, number: int) -> None:
        self._store = store
        self._name = folder_of(study, number)
        self.folder = Path(tempfile.mkdtemp(prefix=f"ude-{study}-{trial_name(number)}-"))
        self._published: dict[str, tuple[int, int]] = {}
        self._attempt: Attempt | None = None

    def done(self) -> bool:
        return self._store.size(f"{self._name}/{RESULT_FILE}") is not None

    def begin(self) -> str:
        for name in self._store.names(self._name):
            if self._store.get(f"{self._name}/{name}", self.folder / name):
                self._published[name] = _version(self.folder / name)
        self._attempt = Attempt.begin(self.folder)
        self._put_claim()
        return self._attempt.token

    def reached(self, iteration: int) -> None:
        if self._attempt is not None:
            self._attempt = self._attempt.reached(iteration)
            self._put_claim()

    def check(self) -> None:
        if self._attempt is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            self._store.get(f"{self._name}/{ATTEMPT}", Path(folder) / ATTEMPT)
            if token_of(Path(folder)) != self._attempt.token:
                raise FencedError(f"trial {self._name} is in other hands; this attempt stops")

    def publish(self) -> None:
        names = {path.name for path in self.folder.iterdir() if path.suffix != ".tmp"}
        for name in sorted(names, key=lambda name: (name == RESULT_FILE, name)):
            version = _version(self.folder / name)
            if self._published.get(name) != version:
                self._store.put(self.folder / name, f"{self._name}/{name}")
                self._published[name] = version
        for name in self._published.keys() - names:
            self._store.delete(f"{self._name}/{name}")
            del self._published[name]

    def _put_claim(self) -> None:
        self._store.put(self.folder / ATTEMPT, f"{self._name}/{ATTEMPT}")
        self._published[ATTEMPT] = _version(self.folder / ATTEMPT)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def write_worker(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write down where an attempt runs: `facts` beside host and process."""
    content = {"host": socket.gethostname(), "pid": os.getpid(), **facts}
    atomic_write(folder / WORKER, json.dumps(content, sort_keys=True).encode())


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
