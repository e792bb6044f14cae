"""Whether a cluster's head answers at all, asked before anything is prepared or paid for."""

from __future__ import annotations

import re
import socket

from ude_core.errors import UserError

_SECONDS = 10.0
_HOST_AND_PORT = re.compile(r"\[?([^\[\]/]+?)\]?:(\d+)")


def refuse_unreachable(address: str) -> None:
    """Raise UserError where nothing listens at `address`; Ray itself would try for minutes.

    What is not host:port, such as `auto`, is Ray's to find.
    """
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None:
        return
    try:
        socket.create_connection((match[1], int(match[2])), timeout=_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"--address {address}: nothing answers there ({reason}); name a running Ray cluster's "
            "head as host:port, or auto for the one on this machine"
        ) from None
