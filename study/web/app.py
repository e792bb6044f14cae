"""The routes of the pages: one page, its files, and a JSON API that reads; one route writes a bundle."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from study.names import Layout, trial_name
from study.run_table import runs_view
from study.web import files
from study.web.guard import Door
from study.web.readers import Answers, Readers
from ude_core.errors import UserError

Number = Annotated[int, Path(ge=0, le=10**9)]
Columns = Annotated[list[str] | None, Query(max_length=64)]


def create_pages(layout: Layout, door: Door, *, guarded: bool) -> FastAPI:
    """Return the pages of every study under `layout`, to be mounted inside MLflow's application.

    `guarded`: callers see the studies whose experiments MLflow lets them read, and no others.
    """
    pages = FastAPI(title="UDE Study", docs_url=None, redoc_url=None, openapi_url=None)
    readers = Readers(layout, door, guarded=guarded)
    answers = Answers()
    _add_manners(pages)
    _add_files(pages)
    _add_fronts(pages, readers, answers, door)
    _add_trials(pages, readers, answers, door)
    threading.Thread(target=readers.warm, name="ude-warm", daemon=True).start()
    return pages


def _add_manners(pages: FastAPI) -> None:
    @pages.middleware("http")
    async def headers(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = files.POLICY
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.setdefault("Cache-Control", "private, no-cache")
        return response

    @pages.exception_handler(UserError)
    async def told(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=404)


def _add_files(pages: FastAPI) -> None:
    @pages.get("/")
    def page() -> Response:
        return files.page()

    @pages.get("/static/{version}/{name}")
    def file(version: str, name: str, request: Request) -> Response:
        return files.file(version, name, request)


def _add_fronts(pages: FastAPI, readers: Readers, answers: Answers, door: Door) -> None:
    @pages.get("/api/studies")
    def studies(request: Request) -> Response:
        rows = [readers.studies().summary(name) for name in readers.visible(request)]
        return answers.reply(request, ("studies", rows), lambda: {"studies": rows})

    @pages.get("/api/studies/{study}/front")
    def front(study: str, request: Request, disease: str, column: Columns = None) -> Response:
        from study.web.front import front_view

        now, names = readers.snapshot(study, request), tuple(column or ())
        key = ("front", now.version, study, disease, names)
        return answers.reply(request, key, lambda: front_view(now, disease, names))

    @pages.get("/api/studies/{study}/links")
    def links(study: str, request: Request) -> dict[str, str | None]:
        name = readers.snapshot(study, request).study.name
        experiment = door.experiment(name, request.headers)
        return {"runs": runs_view(experiment) if experiment else None}

    @pages.get("/runs/{study}")
    def runs(study: str, request: Request) -> Response:
        name = readers.snapshot(study, request).study.name
        experiment = door.experiment(name, request.headers)
        if experiment is None:
            raise HTTPException(404, f"MLflow has no runs of {name}; ude-study sync writes them")
        return RedirectResponse(f"../../#{runs_view(experiment)}")

    @pages.get("/api/studies/{study}/columns")
    def columns(study: str, request: Request, disease: str, column: Columns = None) -> Response:
        from study.live.judged import complete_rows
        from study.web.front import columns_view

        now, names = readers.snapshot(study, request), tuple(column or ())

        def make() -> dict[str, Any]:
            found = columns_view(now, disease, names, complete_rows(now))
            return {"version": now.version, "columns": found}

        return answers.reply(request, ("columns", now.version, study, disease, names), make)

    @pages.get("/api/studies/{study}/history")
    def history(study: str, request: Request, disease: str) -> Response:
        from study.web.history import history_view

        now = readers.snapshot(study, request)
        key = ("history", now.version, study, disease)
        return answers.reply(request, key, lambda: history_view(now, disease))

    @pages.get("/api/studies/{study}/importances")
    def importances(study: str, request: Request, disease: str, goal: str) -> Response:
        from study.web.importances import importances_view

        now = readers.snapshot(study, request)
        key = ("importances", now.version, study, disease, goal)
        return answers.reply(request, key, lambda: importances_view(now, disease, goal))


def _add_trials(pages: FastAPI, readers: Readers, answers: Answers, door: Door) -> None:
    @pages.get("/api/studies/{study}/trials/{number}")
    def trial(study: str, number: Number, request: Request, disease: str) -> Response:
        from study.web.detail import detail_view

        now = readers.snapshot(study, request)
        key = ("trial", now.version, study, disease, number)
        return answers.reply(request, key, lambda: detail_view(now, disease, number))

    @pages.get("/api/studies/{study}/trials/{number}/run")
    def run(study: str, number: Number, request: Request) -> dict[str, str | None]:
        name = readers.snapshot(study, request).study.name
        experiment = door.experiment(name, request.headers)
        found = door.run(experiment, trial_name(number), request.headers) if experiment else None
        return {"experiment": experiment, "run": found}

    @pages.get("/api/studies/{study}/trials/{number}/noise.png")
    def noise(study: str, number: Number, request: Request, small: bool = False) -> Response:
        from study.web.detail import noise_path, noise_png

        path = noise_path(readers.snapshot(study, request), number)
        if not path.is_file():
            raise HTTPException(404, f"trial {number} has no noise here")
        kept = {"Cache-Control": "private, max-age=3600"}
        return Response(noise_png(path, thumbnail=small), media_type="image/png", headers=kept)

    @pages.post("/api/studies/{study}/export")
    def export(
        study: str,
        request: Request,
        disease: Annotated[str, Body(max_length=200)],
        trial: Annotated[int, Body(ge=0, le=10**9)],
    ) -> dict[str, Any]:
        from study.live.judged import refuse_unknown_disease
        from study.web.exporting import export_trial

        readers.refuse_foreign_page(request)
        now = readers.snapshot(study, request)
        refuse_unknown_disease(now, disease)
        readers.note_export(now.study.name, request, disease, trial)
        return export_trial(now, disease, trial)

    @pages.get("/api/{rest:path}")
    def unknown(rest: str) -> Response:
        raise HTTPException(404, "there is nothing here")
