"""Whether the disk has room for what a study writes: asked before it starts, and before each trial."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ude_core.errors import UserError

ROOM_BYTES = 64 * 1024**2


def has_room(root: Path) -> bool:
    """Return whether `root` is there, may be written, and can take a few more trials."""
    try:
        return os.access(root, os.W_OK) and shutil.disk_usage(root).free >= ROOM_BYTES
    except OSError:  # gone, or a file server that does not answer
        return False


def check_room(root: Path) -> None:
    """Raise UserError, saying why, where `root` cannot take a few more trials."""
    if has_room(root):
        return
    if not root.is_dir():
        raise UserError(
            f"--root {root}: there is no such folder now; what is finished is kept: bring the "
            "storage back and launch again"
        )
    if not os.access(root, os.W_OK):
        raise UserError(
            f"--root {root}: it cannot be written (read-only, or not yours); what is finished is "
            "kept: make it writable and launch again, or name another folder"
        )
    raise UserError(
        f"--root {root}: under {ROOM_BYTES // 1024**2} MiB are free; what is finished is kept: "
        "make room and launch again, or name another folder"
    )


def make_root(root: Path) -> None:
    """Make the folder `root`. Raises UserError where it cannot be made or written, or is full."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--root {root}: {error.strerror}; name a folder to write to") from None
    check_room(root)
