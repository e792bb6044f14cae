"""What a caller of the pages may read and write, and the answers kept ready for him."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastapi import HTTPException, Request, Response

from study.names import Layout
from study.web.guard import Door
from ude_core.errors import UserError

if TYPE_CHECKING:
    from study.live.source import Snapshot, Studies

log = logging.getLogger(__name__)

HEADER = "x-ude-study"
"""A header that a page of another origin cannot send without being asked first (CORS)."""

_MOST_KEPT = 64


class Readers:
    """The studies, as far as each caller may see them: all of them where MLflow asks no password."""

    def __init__(self, layout: Layout, door: Door, *, guarded: bool) -> None:
        self._layout = layout
        self._door = door
        self._guarded = guarded
        self._lock = threading.Lock()
        self._studies: Studies | None = None

    def studies(self) -> Studies:
        """Return every study there is; the first call imports torch, seconds."""
        with self._lock:
            if self._studies is None:
                from study.live.source import Studies

                self._studies = Studies(self._layout)
            return self._studies

    def warm(self) -> None:
        """Load what the first caller would wait for."""
        try:
            import study.web.detail
            import study.web.history  # noqa: F401

            studies = self.studies()
            for name in studies.names():
                studies.summary(name)
        except Exception:  # whoever asks is told
            log.exception("the studies could not be read in advance")

    def visible(self, request: Request) -> list[str]:
        """Return the names of the studies that the caller may see."""
        names = self.studies().names()
        return [name for name in names if self._may_see(name, request)]

    def snapshot(self, study: str, request: Request) -> Snapshot:
        """Return a study as it is now. Raises UserError where there is none that the caller may see."""
        if not self._may_see(study, request):
            raise UserError(f"there is no study {study!r}")
        from study.live.source import DATABASE_PROBLEMS

        try:
            return self.studies().snapshot(study)
        except DATABASE_PROBLEMS as error:  # its text may hold the database's URL
            log.warning("study %s: %s", study, type(error).__name__)
            raise HTTPException(503, f"the database of {study} does not answer") from None

    def refuse_foreign_page(self, request: Request) -> None:
        """Raise 403 where a request that writes was not sent by one of our own pages."""
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        site = request.headers.get("sec-fetch-site", "same-origin")
        own = origin is None or urlsplit(origin).netloc == host
        if not own or site != "same-origin" or request.headers.get(HEADER) != "1":
            raise HTTPException(403, "only this page itself may export")

    def note_export(self, study: str, request: Request, disease: str, trial: int) -> None:
        """Write down in MLflow that a trial is exported. Raises 403 where the caller may not write."""
        experiment = self._door.experiment(study, request.headers)
        if experiment is None:
            if self._guarded:
                raise HTTPException(403, f"MLflow lets you change nothing of {study}")
            return
        answer = self._door.tag(experiment, f"ude.export.{disease}", str(trial), request.headers)
        if answer.status != 200 and self._guarded:
            raise HTTPException(403, f"MLflow lets you read {study}, not change it")

    def _may_see(self, study: str, request: Request) -> bool:
        return not self._guarded or self._door.experiment(study, request.headers) is not None


class Answers:
    """The last answers, ready to be sent: a poll by several readers costs one computation."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def reply(self, request: Request, key: tuple[object, ...], make: Callable[[], Any]) -> Response:
        """Return 304 where the caller has the answer of `key` already, else its JSON."""
        text = json.dumps(key, default=str)
        tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:24]}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(self._json(tag, make), media_type="application/json", headers={"ETag": tag})

    def _json(self, tag: str, make: Callable[[], Any]) -> bytes:
        with self._lock:
            if tag in self._kept:
                self._kept.move_to_end(tag)
                return self._kept[tag]
        data = json.dumps(make(), allow_nan=False, separators=(",", ":")).encode()
        with self._lock:
            self._kept[tag] = data
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return data
