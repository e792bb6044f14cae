"""The pages' server, within MLflow's own application: what it answers, to whom, and what it refuses."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from finished import DISEASES, SCORES, finished_study, measured
from flask import Flask, Response, request
from hypothesis import given, settings
from hypothesis import strategies as st
from test_live import tell

from study.api import Study
from study.names import Layout
from study.web import files
from study.web.app import create_pages
from study.web.guard import Door, Guarded

STATIC = Path(files.__file__).parent / "static"
HOSTILE = "<img src=x onerror=alert(1)>"


def fake_mlflow(users: dict[str, dict[str, str]] | None = None) -> Flask:
    """MLflow's API as far as the pages ask it; `users`: password and permission by user."""
    app = Flask("mlflow")

    def permission() -> str | Response:
        if users is None:
            return "EDIT"
        given = request.authorization
        user = users.get(given.username or "") if given else None
        if given is None or user is None or user["password"] != given.password:
            return Response("who?", 401, {"WWW-Authenticate": 'Basic realm="mlflow"'})
        return user["permission"]

    @app.get("/ajax-api/2.0/mlflow/experiments/search")
    def search() -> Any:
        right = permission()
        return {"experiments": []} if isinstance(right, str) else right

    @app.get("/ajax-api/2.0/mlflow/experiments/get-by-name")
    def by_name() -> Any:
        right = permission()
        if right == "NONE":
            return Response("no", 403)
        found = {"experiment_id": "7", "lifecycle_stage": "active"}
        return {"experiment": found} if isinstance(right, str) else right

    @app.post("/ajax-api/2.0/mlflow/experiments/set-experiment-tag")
    def tag() -> Any:
        return {} if permission() == "EDIT" else Response("no", 403)

    @app.post("/ajax-api/2.0/mlflow/runs/search")
    def runs() -> Any:
        asked = request.get_json()
        return {"runs": [{"info": {"run_id": "r" + asked["filter"][-4:-1]}}]}

    return app


def pages_of(root: Path, users: dict[str, dict[str, str]] | None = None) -> TestClient:
    door = Door(fake_mlflow(users))
    pages: Any = create_pages(Layout.at(root), door, guarded=users is not None)
    host = FastAPI()
    host.mount("/ude", pages if users is None else Guarded(pages, door))
    return TestClient(host, base_url="http://127.0.0.1")


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with finished_study(tmp_path) as found:
        yield found


@pytest.fixture
def client(study: Study, tmp_path: Path) -> TestClient:
    return pages_of(tmp_path)


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def test_a_study_is_listed_and_its_front_told(client: TestClient) -> None:
    (row,) = client.get("/ude/api/studies").json()["studies"]
    assert (row["study"], row["ended"], row["diseases"]) == ("tiny", len(SCORES), list(DISEASES))
    asked = {"disease": "edema", "column": ["metric:eo_gap", "param:step_size", "count:trial"]}
    view = client.get("/ude/api/studies/tiny/front", params=asked).json()
    assert view["trials"] == list(range(len(SCORES)))
    assert view["front"] == [1, 1, 1, 0, 1]
    assert view["columns"]["metric:eo_gap"]["mean"] == [10, 20, 40, 15, 5]
    assert view["columns"]["count:trial"]["value"] == view["trials"]
    assert view["references"][0]["metrics"]["accuracy"]["mean"] == 60.5
    assert view["diseases"] == [*DISEASES, "mean", "worst"]


def test_an_unchanged_study_is_not_sent_again(client: TestClient, study: Study) -> None:
    address = "/ude/api/studies/tiny/front?disease=edema&column=metric:eo_gap"
    first = client.get(address)
    again = client.get(address, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    tell(study, measured(1, 1, 99))
    changed = client.get(address, headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    assert len(changed.json()["trials"]) == len(SCORES) + 1


def test_a_trial_is_told_with_its_rates_and_its_run(client: TestClient) -> None:
    found = client.get("/ude/api/studies/tiny/trials/1?disease=edema").json()
    assert [
        (g["rate"], g["group"], g["trial"]["mean"], g["erm"]["mean"]) for g in found["groups"]
    ] == [
        ("tnr", "female", 70, 60),
        ("tnr", "male", 70, 60),
        ("tpr", "female", 70, 60),
        ("tpr", "male", 70, 60),
    ]
    assert (found["level"], found["control"], found["front"]) == ("lifted", "beats noise", True)
    run = client.get("/ude/api/studies/tiny/trials/1/run").json()
    assert run == {"experiment": "7", "run": "r001"}
    assert client.get("/ude/api/studies/tiny/links").json()["runs"].startswith("/experiments/7/")
    table = client.get("/ude/runs/tiny", follow_redirects=False)
    assert table.headers["location"] == "../../#/experiments/7/runs?viewStateShareKey=ude-trials"


def test_a_noise_is_a_picture_and_nothing_else_is(client: TestClient) -> None:
    small = client.get("/ude/api/studies/tiny/trials/1/noise.png?small=true")
    assert small.headers["content-type"] == "image/png"
    assert small.content.startswith(b"\x89PNG")
    assert len(client.get("/ude/api/studies/tiny/trials/1/noise.png").content) > 1000
    assert client.get("/ude/api/studies/tiny/trials/99/noise.png").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/api/studies/other/front?disease=edema",
        "/api/studies/tiny/front?disease=gout",
        "/api/studies/tiny/front?disease=edema&column=metric:__class__",
        "/api/studies/tiny/columns?disease=edema&column=secret",
        "/api/studies/tiny/trials/99?disease=edema",
        "/api/studies/tiny/importances?disease=edema&goal=queries",
        "/api/studies/..%2f..%2fetc/front?disease=edema",
        "/api/nothing",
        "/static/v/..%2fapp.py",
        "/static/v/app.py",
        "/static/v/__init__.py",
    ],
)
def test_what_is_not_there_is_said_in_a_line(client: TestClient, path: str) -> None:
    answer = client.get(f"/ude{path}")
    assert answer.status_code == 404
    assert "Traceback" not in answer.text
    assert "\n" not in answer.json()["detail"]


def test_history_and_importances(client: TestClient, study: Study) -> None:
    history = client.get("/ude/api/studies/tiny/history?disease=edema").json()
    assert history["hypervolume"] == sorted(history["hypervolume"])
    assert (history["trials"][-1], history["queries"][-1]) == (5, study.ledger.queries())
    few = client.get("/ude/api/studies/tiny/importances?disease=edema&goal=accuracy").json()
    assert few["importances"] == []
    assert "complete trials" in few["why"]
    for accuracy in range(8):
        tell(study, measured(30, 30, 60 + accuracy))
    more = client.get("/ude/api/studies/tiny/importances?disease=edema&goal=accuracy").json()
    assert [one["name"] for one in more["importances"]] == ["step_size"]


def test_an_export_writes_one_bundle_once(client: TestClient, tmp_path: Path) -> None:
    body, headers = {"disease": "edema", "trial": 1}, {"X-UDE-Study": "1"}
    address = "/ude/api/studies/tiny/export"
    done = client.post(address, json=body, headers=headers).json()
    assert (done["written"], done["folder"]) == (True, "tiny/bundles/edema-trial-1")
    assert (tmp_path / done["folder"] / "manifest.json").is_file()
    assert client.post(address, json=body, headers=headers).json()["written"] is False
    gone = client.post(address, json={"disease": "edema", "trial": 99}, headers=headers)
    assert gone.status_code == 404
    assert (
        client.post(address, json={**body, "disease": "../x"}, headers=headers).status_code == 404
    )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-UDE-Study": "1", "Origin": "http://evil.example"},
        {"X-UDE-Study": "1", "Origin": "null"},
        {"X-UDE-Study": "1", "Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1"},
    ],
)
def test_only_the_page_itself_may_export(
    client: TestClient, tmp_path: Path, headers: dict[str, str]
) -> None:
    body = {"disease": "edema", "trial": 1}
    answer = client.post("/ude/api/studies/tiny/export", json=body, headers=headers)
    assert answer.status_code == 403
    assert not (tmp_path / "tiny" / "bundles").exists()


def test_a_password_is_asked_for_everything(study: Study, tmp_path: Path) -> None:
    users = {
        "reader": {"password": "a", "permission": "READ"},
        "editor": {"password": "b", "permission": "EDIT"},
        "nobody": {"password": "c", "permission": "NONE"},
    }
    client = pages_of(tmp_path, users)
    static = f"/ude/static/{files.version()}/app.js"
    for path in ("/ude/", static, "/ude/api/studies", "/ude/api/studies/tiny/front?disease=edema"):
        refused = client.get(path)
        assert (refused.status_code, refused.text) == (401, "who?")
        assert refused.headers["www-authenticate"] == 'Basic realm="mlflow"'
        assert client.get(path, headers=basic("reader", "wrong")).status_code == 401
        assert client.get(path, headers=basic("reader", "a")).status_code == 200
    hidden = basic("nobody", "c")
    assert client.get("/ude/api/studies", headers=hidden).json() == {"studies": []}
    assert (
        client.get("/ude/api/studies/tiny/history?disease=edema", headers=hidden).status_code == 404
    )
    assert client.get("/ude/api/studies/tiny/trials/1/noise.png", headers=hidden).status_code == 404

    def export(user: str, password: str) -> int:
        return client.post(
            "/ude/api/studies/tiny/export",
            json={"disease": "edema", "trial": 1},
            headers=basic(user, password) | {"X-UDE-Study": "1"},
        ).status_code

    assert [export("nobody", "c"), export("reader", "a"), export("editor", "b")] == [404, 403, 200]


def test_the_page_lets_nothing_in_from_elsewhere(client: TestClient) -> None:
    page = client.get("/ude/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self' 'unsafe-eval'" in policy
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page.text)
    assert "{version}" not in page.text
    assert not re.search(r"<script(?![^>]*\bsrc=)", page.text)
    plotly = client.get(f"/ude/static/{files.version()}/plotly.min.js")
    assert "immutable" in plotly.headers["cache-control"]
    assert plotly.headers["content-encoding"] == "gzip"
    assert plotly.text.lstrip().startswith("/**\n* plotly.js")
    assert "immutable" not in client.get("/ude/static/old/app.js").headers["cache-control"]


@pytest.mark.parametrize("script", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_scripts_never_turn_text_into_markup(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=40))
def test_any_header_is_survived(data: bytes) -> None:
    from starlette.datastructures import Headers

    door = Door(fake_mlflow({}))
    headers = Headers(raw=[(b"authorization", data.replace(b"\n", b"").replace(b"\r", b""))])
    assert door.admitted(headers).status == 401


def test_the_entry_points_are_declared_and_light() -> None:
    """Looking an application up by name imports nothing heavy."""
    code = (
        "import sys, study.web.server as s; "
        "assert not {'torch', 'mlflow', 'optuna'} & set(sys.modules); print(s.PLAIN)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ude-study"
    declared = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'ude-study = "study.web.server:plain"' in declared
    assert 'ude-study-auth = "study.web.server:with_passwords"' in declared


def test_names_stay_text_in_json(study: Study, tmp_path: Path) -> None:
    study.ledger.config = study.config.model_copy(update={"description": HOSTILE})
    study.ledger.keep_config()
    answer = pages_of(tmp_path).get("/ude/api/studies")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert json.loads(answer.text)["studies"][0]["description"] == HOSTILE
