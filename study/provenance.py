"""Which software made an artefact: package versions and the commit."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "mlflow",
    "numpy",
    "optuna",
    "pillow",
    "ray",
    "safetensors",
    "timm",
    "torch",
    "ude-study",
)


def package_versions() -> dict[str, str]:
    """Return the installed version of everything a result may depend on; absent ones are left out."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def commit() -> str:
    """Return the commit this code is checked out at, "+changes" added where files differ from it.

    "unknown" where the package is installed rather than checked out, or git is not there.
    """
    here = Path(__file__).resolve()
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name)
    head = _git(here.parent, "rev-parse", "HEAD") if tracked else None
    if head is None:
        return "unknown"
    changes = _git(here.parent, "status", "--porcelain", "--untracked-files=no")
    return head + ("+changes" if changes else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
