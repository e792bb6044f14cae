"""Edit image files: one, or a folder with its sub-folders, side by side in threads.

Files come out as PNG, lossless, clamped and rounded to the bit depth they came with (8 bits, or
16-bit gray); the few gray levels that rounding changes are part of the `deploy` pipeline and
foreign to `paper`. Everything is edited into a scratch folder first and renamed at the end: a bad
image among a thousand, or a kill, leaves nothing half-done.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ude_core.bundle import Bundle
from ude_core.edit_paths import Job, plan
from ude_core.editing import edit_image
from ude_core.errors import BundleError
from ude_core.image_files import encode_png, open_image
from ude_core.storage import sync_folder

MAX_WORKERS = 8
_SCRATCH, _LEFTOVER_SECONDS = ".ude-apply.", 3600
_TOLD = 10

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True, slots=True)
class EditedFiles:
    """What `edit_path` did: written or already there, and files of a folder that are no images."""

    written: tuple[Path, ...]
    unchanged: tuple[Path, ...]
    skipped: tuple[Path, ...]


def edit_path(
    bundle: Bundle,
    source: Path,
    target: Path,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> EditedFiles:
    """Edit one image file, or every PNG and JPEG under a folder, into PNGs.

    Names and sub-folders are kept, with the suffix .png. All outputs appear together at the end, or
    none. An output that is there already and differs is refused unless `overwrite`; an input is
    never overwritten. `workers` threads (a core each, 8 at most, when left out). Raises BundleError
    listing what is wrong, at most ten lines' worth.
    """
    jobs, skipped = plan(source, target)
    into = target if source.is_dir() else jobs[0].output.parent
    with _scratch(into) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the header's size decides
        edit = _Editor(bundle, folder, overwrite=overwrite)
        edited = _in_threads(edit, jobs, workers or default_workers(), progress)
        if edit.problems:
            raise BundleError(_told(edit.problems))
        written = [(job, made) for job, made in zip(jobs, edited, strict=True) if made is not None]
        _put_in_place(written)
    unchanged = [job.output for job, made in zip(jobs, edited, strict=True) if made is None]
    return EditedFiles(tuple(job.output for job, _ in written), tuple(unchanged), skipped)


def default_workers() -> int:
    """Return the cores this process may use, 8 at most: reading and writing PNG leaves Python's lock."""
    return min(MAX_WORKERS, len(os.sched_getaffinity(0)))


class _Editor:
    """Edits one job at a time into the scratch folder; after a problem it only looks for more."""

    def __init__(self, bundle: Bundle, folder: Path, *, overwrite: bool) -> None:
        self._bundle = bundle
        self._folder = folder
        self._overwrite = overwrite
        self.problems: list[str] = []

    def __call__(self, job: Job) -> Path | None:
        """Return the edited file in the scratch folder; None where it is there already."""
        try:
            image = open_image(job.input, self._bundle)
            if self.problems:
                return None
            raw = encode_png(edit_image(self._bundle, image, place=str(job.input)))
        except BundleError as error:
            self.problems.append(str(error))
            return None
        if job.output.exists():
            if job.output.read_bytes() == raw:
                return None
            if not self._overwrite:
                self.problems.append(
                    f"{job.output} exists and differs; name another place or overwrite it"
                )
                return None
        made = self._folder / f"{job.number}.png"
        with made.open("xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        return made


def _in_threads(
    edit: _Editor, jobs: Sequence[Job], workers: int, progress: Progress | None
) -> list[Path | None]:
    pool = ThreadPoolExecutor(max_workers=max(1, min(workers, len(jobs))))
    done: list[Path | None] = []
    try:
        for made in pool.map(edit, jobs):
            done.append(made)
            if progress is not None:
                progress(len(done), len(jobs))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C, a full disk: what has not begun never does
    return done


def _put_in_place(written: Sequence[tuple[Job, Path]]) -> None:
    folders = {job.output.parent for job, _ in written}
    for folder in sorted(folders):
        folder.mkdir(parents=True, exist_ok=True)
    for job, made in written:
        made.replace(job.output)
    for folder in sorted(folders):
        sync_folder(folder)


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """Yield an empty folder in `target`; folders made for it go again where nothing came of them."""
    missing = [folder for folder in (target, *target.parents) if not folder.exists()]
    target.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    folder = target / f"{_SCRATCH}{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()


def _remove_leftovers(target: Path) -> None:
    """Remove what killed runs left; a live one is younger than this."""
    for leftover in target.glob(f"{_SCRATCH}*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def _told(problems: Sequence[str]) -> str:
    more = f" (and {len(problems) - _TOLD} more)" if len(problems) > _TOLD else ""
    return "; ".join(sorted(problems)[:_TOLD]) + more
