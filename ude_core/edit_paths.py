"""Which file becomes which: the inputs under a folder, and where their edited images go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ude_core.errors import BundleError

SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class Job:
    """One image to edit, and the PNG it becomes."""

    number: int
    input: Path
    output: Path


def plan(source: Path, target: Path) -> tuple[tuple[Job, ...], tuple[Path, ...]]:
    """Return the jobs, and the files under `source` that are no PNG or JPEG; nothing is written.

    Sub-folders are walked, links to folders are not, and `target` is left out where it lies inside
    `source`. Raises BundleError where there is no image, an output is an input, or two inputs would
    become one output.
    """
    if source.is_dir():
        files = _walk(source, leave_out=target.resolve())
        inputs = [path for path in files if path.suffix.lower() in SUFFIXES]
        skipped = tuple(path for path in files if path.suffix.lower() not in SUFFIXES)
        if not inputs:
            raise BundleError(f"{source} holds no PNG or JPEG")
        if target.is_file():
            raise BundleError(f"{target} is a file; {source} is a folder, so name a folder")
        outputs = [target / path.relative_to(source).with_suffix(".png") for path in inputs]
    else:
        if not source.is_file():
            raise BundleError(f"{source}: no such file or folder")
        inputs, skipped = [source], ()
        into_folder = target.is_dir() or not target.suffix
        outputs = [target / f"{source.stem}.png" if into_folder else target]
        if outputs[0].suffix.lower() != ".png":
            raise BundleError(f"{outputs[0]}: the edit is written lossless; end the name in .png")
    _check_outputs(inputs, outputs)
    pairs = enumerate(zip(inputs, outputs, strict=True))
    return tuple(Job(number, before, after) for number, (before, after) in pairs), skipped


def _walk(source: Path, *, leave_out: Path) -> list[Path]:
    found: list[Path] = []
    for folder, folders, names in os.walk(source, onerror=_refuse):
        here = Path(folder)
        # In place: os.walk goes into what is left. `apply x x` must still see its own files.
        folders[:] = sorted(name for name in folders if (here / name).resolve() != leave_out)
        found += [here / name for name in names if (here / name).is_file()]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise BundleError(f"{error.filename}: {error.strerror}; make the folder readable")


def _check_outputs(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    sources = {path.resolve() for path in inputs}
    identities = {_identity(path) for path in inputs}
    seen: dict[Path, Path] = {}
    for path, output in zip(inputs, outputs, strict=True):
        place = output.resolve()
        if place in sources or (output.exists() and _identity(output) in identities):
            raise BundleError(f"{output} is an input; name another place for the edited images")
        if place in seen:
            raise BundleError(
                f"{seen[place].name} and {path.name} would both become {output.name}; rename one"
            )
        if output.is_dir():
            raise BundleError(f"{output} is a folder; name another place for the edited images")
        seen[place] = path


def _identity(path: Path) -> tuple[int, int]:
    """Return what two names of one file share, hard links too."""
    facts = path.stat()
    return facts.st_dev, facts.st_ino
