"""Names and places: the only module that turns a study's name into paths, and paths back into names."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from ude_core.errors import UserError

PAGES = "/ude"
"""Where our pages lie within the MLflow server."""


def study_page(address: str, study: str) -> str:
    """Return the address of a study's page on the server at `address`."""
    return f"{address.rstrip('/')}{PAGES}/#/study/{study}"


def runs_page(address: str, study: str) -> str:
    """Return the address that leads to MLflow's table of a study's trials, with its columns."""
    return f"{address.rstrip('/')}{PAGES}/runs/{study}"


SLUG_LENGTH = 63
_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_DISPLAY_LENGTH = 300
_RESERVED = frozenset({"cache", "mlartifacts"})
_TRIAL_FOLDER = re.compile(r"\d{5,}")


def slug(display: str) -> str:
    """Return the study name that `display` stands for: lower case letters, digits, `-` and `_`.

    A valid name stands for itself. Any other display name is folded to one and ends in eight
    hexadecimal digits of its own hash, so that two display names never meet in one study.
    Raises UserError for names that are empty, too long, reserved, or hold control characters.

    >>> slug("nih_mini")
    'nih_mini'
    >>> slug("Étude du sexe")
    'etude-du-sexe-2a81dd8e'
    """
    if len(display) > _DISPLAY_LENGTH:
        raise UserError(
            f"the study name has {len(display)} characters (at most {_DISPLAY_LENGTH}); shorten it"
        )
    if any(unicodedata.category(character).startswith("C") for character in display):
        raise UserError(f"the study name {display!r} holds a control character; remove it")
    if display.startswith("-"):
        raise UserError(f"the study name {display!r} starts with '-'; start it with a letter")
    if display in _RESERVED:
        raise UserError(f"the study name {display!r} is reserved; choose another")
    if _SLUG.fullmatch(display):
        return display
    ascii_name = unicodedata.normalize("NFKD", display).encode("ascii", "ignore").decode().lower()
    folded = re.sub(r"[^a-z0-9_]+", "-", ascii_name).strip("-_")
    if not any(character.isalnum() for character in display):
        raise UserError(f"the study name {display!r} has no letter or digit; choose another")
    digest = hashlib.sha256(display.encode()).hexdigest()[:8]
    return f"{(folded or 'study')[: SLUG_LENGTH - 9]}-{digest}"


@dataclass(frozen=True, slots=True)
class StudyLayout:
    """Where one study keeps its files."""

    name: str
    folder: Path

    @property
    def database(self) -> Path:
        """The embedded ledger (SQLite)."""
        return self.folder / "study.db"

    @property
    def trials(self) -> Path:
        return self.folder / "trials"

    @property
    def ray(self) -> Path:
        """Ray Tune's own files: written by Ray, never read back, removed at the next launch."""
        return self.folder / "ray"

    @property
    def log(self) -> Path:
        return self.folder / "study.log"

    @property
    def bundles(self) -> Path:
        """What was exported from the pages, and by the demo."""
        return self.folder / "bundles"

    def trial(self, number: int) -> Path:
        """Return the folder of trial `number`."""
        return self.trials / trial_name(number)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of the embedded default lives, under one root."""

    root: Path

    @classmethod
    def at(cls, root: Path | str) -> Layout:
        """Return the layout under `root`, made absolute: Tune changes the working directory."""
        return cls(Path(root).expanduser().resolve())

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def mlflow_database(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.root / "mlartifacts"

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.mlflow_database}"

    def study(self, display: str) -> StudyLayout:
        """Return the places of the study that `display` stands for."""
        name = slug(display)
        return StudyLayout(name=name, folder=self.root / name)

    def studies(self) -> tuple[str, ...]:
        """Return the names of the embedded studies under the root, sorted."""
        if not self.root.is_dir():
            return ()
        return tuple(
            sorted(
                child.name
                for child in self.root.iterdir()
                if _SLUG.fullmatch(child.name) and (child / "study.db").is_file()
            )
        )


def trial_name(number: int) -> str:
    """Return the folder name of trial `number`.

    >>> trial_name(7)
    '00007'
    """
    return f"{number:05d}"


def trial_number(folder: Path) -> int:
    """Return the trial that `folder` belongs to. Raises UserError where it is no trial folder."""
    if not _TRIAL_FOLDER.fullmatch(folder.name):
        raise UserError(f"{folder.name!r} is not a trial folder (expected digits such as '00007')")
    return int(folder.name)
