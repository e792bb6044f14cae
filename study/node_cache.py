"""A study's data on each node's own disk: fetched by the first worker there, shared by the others.

Names hold the content's own key, so a file that is there is the right one and is never replaced.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from study.trial_store import TrialStore
from ude_core.storage import staged

STORE_FOLDER = "cache"


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A file that every worker reads: its name in any cache, where the driver has it, its size."""

    name: str
    source: str  # absolute, on the driver
    size: int  # bytes

    @classmethod
    def of(cls, source: Path, name: str) -> SharedFile:
        """Describe the driver's file `source`."""
        return cls(name, str(source), source.stat().st_size)


def publish(files: Sequence[SharedFile], store: TrialStore) -> None:
    """Upload what the store does not hold yet."""
    for file in files:
        name = f"{STORE_FOLDER}/{file.name}"
        if store.size(name) != file.size:
            store.put(Path(file.source), name)


def fetch(files: Sequence[SharedFile], cache: Path, store: TrialStore | None) -> None:
    """Bring every file into `cache`: from the store, or from the disk shared with the driver.

    Of all workers of a node one copies a file, and the others wait for it. Raises OSError where a
    file is not there or was cut short.
    """

    def copy(file: SharedFile, target: Path) -> None:
        if store is None:
            shutil.copyfile(file.source, target)
        elif not store.get(f"{STORE_FOLDER}/{file.name}", target):
            raise FileNotFoundError(f"{file.name} is not in the trial store; launch again")
        if target.stat().st_size != file.size:
            raise OSError(f"{file.name} was cut short on its way to {cache}")

    for file in files:
        fetch_once(cache / file.name, lambda target, file=file: copy(file, target))  # type: ignore[misc]


def fetch_once(target: Path, copy: Callable[[Path], None]) -> bool:
    """Have `copy` write `target` unless it is there; return whether this call did it.

    The lock dies with its process, so a worker killed while it copies keeps nobody waiting.
    """
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return False
        with staged(target) as temporary:
            copy(temporary)
    return True
