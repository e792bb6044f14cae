"""Files of a study where nodes share no disk: any filesystem that pyarrow has a URL for.

A file appears whole or not at all: it is written beside its place and moved over it. Object stores
such as S3 write whole objects anyway.
"""

from __future__ import annotations

import posixpath
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import tenacity

from study.names import trial_name
from ude_core.errors import UserError
from ude_core.storage import staged

_PATIENCE_SECONDS = 120

T = TypeVar("T")


class TrialStore:
    """Named files below one folder of a filesystem. Names are relative, with `/` between parts.

    Every call is repeated for about two minutes while the filesystem is away, then raises OSError.
    """

    def __init__(self, filesystem: pafs.FileSystem, folder: str) -> None:
        self._filesystem = filesystem
        self._folder = folder.rstrip("/")

    @classmethod
    def open(cls, url: str) -> TrialStore:
        """Return the store at `url`. Raises UserError where no filesystem goes by such a URL."""
        try:
            filesystem, folder = pafs.FileSystem.from_uri(url)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, ImportError) as error:
            said = " ".join(str(error).split())
            raise UserError(
                f"resources.trial_store is {url!r}: {said}; expected a URL such as "
                "s3://bucket/folder or file:///mnt/folder"
            ) from None
        return cls(filesystem, folder)

    def put(self, source: Path, name: str) -> None:
        """Write the content of `source` as `name`."""
        self._patiently(lambda: self._put(source, name))

    def get(self, name: str, target: Path) -> bool:
        """Write `name` to `target`, atomically; False where there is no such file."""
        return self._patiently(lambda: self._get(name, target))

    def size(self, name: str) -> int | None:
        """Return the bytes of `name`, or None where there is no such file."""
        info = self._patiently(lambda: self._filesystem.get_file_info(self._path(name)))
        return int(info.size) if info.type == pafs.FileType.File else None

    def names(self, folder: str) -> list[str]:
        """Return the names of the files directly in `folder`, sorted, without the folder."""
        selector = pafs.FileSelector(self._path(folder), allow_not_found=True)
        found = self._patiently(lambda: self._filesystem.get_file_info(selector))
        return sorted(info.base_name for info in found if info.type == pafs.FileType.File)

    def delete(self, name: str) -> None:
        """Remove `name`, if it is there."""

        def remove() -> None:
            try:
                self._filesystem.delete_file(self._path(name))
            except FileNotFoundError:
                return

        self._patiently(remove)

    def _put(self, source: Path, name: str) -> None:
        path = self._path(name)
        self._filesystem.create_dir(posixpath.dirname(path), recursive=True)
        beside = f"{path}.{uuid.uuid4().hex}.tmp"
        with source.open("rb") as read, self._filesystem.open_output_stream(beside) as written:
            shutil.copyfileobj(read, written)
        self._filesystem.move(beside, path)

    def _get(self, name: str, target: Path) -> bool:
        try:
            stream = self._filesystem.open_input_stream(self._path(name))
        except FileNotFoundError:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        with stream, staged(target) as temporary, temporary.open("wb") as written:
            shutil.copyfileobj(stream, written)
        return True

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _patiently(self, call: Callable[[], T]) -> T:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(OSError),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
            stop=tenacity.stop_after_delay(_PATIENCE_SECONDS),
            reraise=True,
        )
        return retrying(call)


def folder_of(study: str, number: int) -> str:
    """Return the folder of a trial in a store.

    >>> folder_of("demo", 7)
    'studies/demo/trials/00007'
    """
    return f"studies/{study}/trials/{trial_name(number)}"
