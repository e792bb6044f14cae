"""How MLflow starts our pages: `mlflow server --app-name ude-study`, or `ude-study-auth` for passwords.

Both are MLflow's own application with ours mounted before its catch-all, so that its Host check and
its headers cover our routes. `ude-study-auth` is its basic-auth application, and ours guarded by it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route

from study.names import PAGES, Layout

if TYPE_CHECKING:
    from fastapi import FastAPI

ROOT_VARIABLE = "UDE_STUDY_ROOT"
PLAIN, WITH_PASSWORDS = "ude-study", "ude-study-auth"


def plain() -> FastAPI:
    """Return MLflow's application with the pages, open to whoever reaches it."""
    from mlflow.server.fastapi_app import app

    return _add_pages(app, guarded=False)


def with_passwords() -> FastAPI:
    """Return MLflow's basic-auth application with the pages behind the same passwords."""
    from mlflow.server.auth import create_app

    app: Any = create_app()
    return _add_pages(app, guarded=True)


def _add_pages(app: FastAPI, *, guarded: bool) -> FastAPI:
    from mlflow.server import app as flask_app

    from study.web.app import create_pages
    from study.web.guard import Door, Guarded

    prefix = os.environ.get("_MLFLOW_STATIC_PREFIX", "").rstrip("/")
    layout = Layout.at(Path(os.environ.get(ROOT_VARIABLE, "runs")))
    door = Door(flask_app, prefix)
    pages: Any = create_pages(layout, door, guarded=guarded)
    inner = Guarded(pages, door) if guarded else pages
    place = f"{prefix}{PAGES}"

    async def with_slash(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{place}/")

    app.router.routes[:0] = [Route(place, with_slash), Mount(place, app=inner)]
    return app
