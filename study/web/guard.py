"""Who may see what: MLflow itself is asked, through its own API, with the caller's own credentials.

So the pages follow whatever authentication MLflow was started with, and its permissions: a study is
there for those who may read the experiment of its name. MLflow checks a password by a slow hash for
each request; an answer is kept for `KEPT_SECONDS`, which is how long a revoked user still reads.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from werkzeug.test import Client

KEPT_SECONDS = 20.0
_MOST_KEPT = 4096
_PASSED_ON = ("authorization", "cookie", "host", "x-mlflow-workspace")
_API = "/ajax-api/2.0/mlflow"


@dataclass(frozen=True, slots=True)
class Answer:
    """What MLflow said."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def json(self) -> Any:
        """Return its body, read as JSON."""
        return json.loads(self.body)


class Door:
    """MLflow's API within its own process, used as whoever sent a request."""

    def __init__(self, flask_app: Flask, prefix: str = "") -> None:
        self._flask_app = flask_app
        self._prefix = prefix
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[bytes, str], tuple[float, Answer]] = OrderedDict()

    def admitted(self, headers: Headers) -> Answer:
        """Ask whether the caller is let in at all: 200, or MLflow's own refusal."""
        return self._get("/experiments/search?max_results=1", headers)

    def experiment(self, study: str, headers: Headers) -> str | None:
        """Return the id of a study's experiment, or None where it is not there or not for the caller."""
        answer = self._get("/experiments/get-by-name", headers, {"experiment_name": study})
        if answer.status != 200:
            return None
        found = answer.json()["experiment"]
        return str(found["experiment_id"]) if found["lifecycle_stage"] == "active" else None

    def run(self, experiment: str, trial: str, headers: Headers) -> str | None:
        """Return the id of a trial's run, or None."""
        body = {
            "experiment_ids": [experiment],
            "filter": f"tags.`ude.trial` = '{trial}'",
            "max_results": 1,
        }
        answer = self._send("POST", "/runs/search", headers, body=body)
        runs = answer.json().get("runs") if answer.status == 200 else None
        return str(runs[0]["info"]["run_id"]) if runs else None

    def tag(self, experiment: str, key: str, value: str, headers: Headers) -> Answer:
        """Tag an experiment, which takes the right to change it."""
        body = {"experiment_id": experiment, "key": key, "value": value}
        return self._send("POST", "/experiments/set-experiment-tag", headers, body=body)

    def _get(self, path: str, headers: Headers, query: Mapping[str, str] | None = None) -> Answer:
        asked = f"{path} {json.dumps(query)}"
        credentials = "\0".join(headers.get(name, "") for name in _PASSED_ON)
        key = (hashlib.sha256(credentials.encode()).digest(), asked)
        with self._lock:
            at, answer = self._kept.get(key, (0.0, None))
        if answer is not None and time.monotonic() - at < KEPT_SECONDS:
            return answer
        answer = self._send("GET", path, headers, query=query)
        if answer.status == 200:  # a refusal is never kept: a new right counts at once
            with self._lock:
                self._kept[key] = (time.monotonic(), answer)
                while len(self._kept) > _MOST_KEPT:
                    self._kept.popitem(last=False)
        return answer

    def _send(
        self,
        method: str,
        path: str,
        headers: Headers,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        passed = {name: headers[name] for name in _PASSED_ON if name in headers}
        response = Client(self._flask_app).open(
            f"{self._prefix}{_API}{path}",
            method=method,
            headers=passed,
            query_string=query,
            json=body,
        )
        said = tuple((key, value) for key, value in response.headers.items())
        return Answer(response.status_code, said, response.get_data())


class Guarded:
    """An ASGI app that only those get to whom MLflow opens; all others get MLflow's own refusal."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            answer = await run_in_threadpool(self._door.admitted, Headers(scope=scope))
            if answer.status != 200:
                await _refuse(answer, send)
                return
        await self._app(scope, receive, send)


async def _refuse(answer: Answer, send: Send) -> None:
    kept = ("content-type", "www-authenticate", "location", "set-cookie")
    headers = [
        (key.lower().encode(), value.encode())
        for key, value in answer.headers
        if key.lower() in kept
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
