"""Whether the disk has room for what a study writes: asked before it starts, and before each trial."""

from __future__ import annotations

import shutil
from pathlib import Path

from ude_core.errors import UserError

ROOM_BYTES = 64 * 1024**2


def has_room(root: Path) -> bool:
    """Return whether `root` can take a few more trials."""
    return shutil.disk_usage(root).free >= ROOM_BYTES


def check_room(root: Path) -> None:
    """Make the folder `root`. Raises UserError where it cannot be made or its disk is full."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        room = has_room(root)
    except OSError as error:
        raise UserError(f"--root {root}: {error.strerror}; name a folder to write to") from None
    if not room:
        raise UserError(
            f"--root {root}: under {ROOM_BYTES // 1024**2} MiB are free; what is finished is kept: "
            "make room and launch again, or name another folder"
        )
