"""The pages as a reader sees them: in Chromium, inside a real MLflow server."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from finished import finished_study, measured, noise_of
from mlflow import MlflowClient
from mlflow_server import free_port

from study import serve
from study.names import Layout
from study.tracking import synchronize
from study.web.server import ROOT_VARIABLE, WITH_PASSWORDS
from ude_core.bundle_manifest import sha256
from ude_core.results import save_result
from ude_core.types import QueryCount, TrialResult

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine"),
]
_SECONDS = 180


class Server:
    """MLflow with the pages, as `ude-study serve` starts it."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=stream,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self.address = f"http://127.0.0.1:{command[command.index('--port') + 1]}"
        deadline = time.monotonic() + _SECONDS
        while self.status("/health") != 200:
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def status(self, path: str, headers: dict[str, str] | None = None) -> int:
        asked = urllib.request.Request(f"{self.address}{path}", headers=headers or {})
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    """A finished study of five trials, in the ledger and in MLflow."""
    root = tmp_path_factory.mktemp("pages")
    with finished_study(root) as study:
        synchronize(study.ledger, Layout.at(root))
        yield Layout.at(root)


@pytest.fixture(scope="module")
def server(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = serve.server_command(layout, free_port())
    log = tmp_path_factory.mktemp("log") / "server.log"
    started = Server(command, {ROOT_VARIABLE: str(layout.root), **serve.ENVIRONMENT}, log)
    yield started
    started.stop()


def test_a_reader_finds_a_point_and_exports_it(server: Server, layout: Layout) -> None:
    from chromium import chromium, page, painted, place_of

    with chromium() as browser:
        with page(browser) as opened:
            opened.goto(f"{server.address}/ude/", wait_until="commit")
            opened.click("text=tiny")
            seen = painted(opened)
            opened.select_option("#disease", "edema")
            seen = painted(opened, seen)
            assert "disease=edema" in opened.url
            opened.select_option("#x", "metric:selection_rate_symmetric_gap")
            seen = painted(opened, seen)
            title = "document.getElementById('front').layout.xaxis.title.text"
            assert "selection-rate gap" in opened.evaluate(title)

            # ERM's accuracy is 60.5: a drop of nothing leaves trial 4 (50) and trial 3 (60) out.
            opened.locator("#drop").fill("0")
            seen = painted(opened, seen)
            assert opened.inner_text("#kept").startswith("3 of 5 trials kept")
            opened.click("text=Clear the constraints")
            seen = painted(opened, seen)
            assert opened.inner_text("#kept").startswith("5 of 5 trials kept")

            opened.click("label:has-text('ellipses')")
            painted(opened, seen)
            x, y = place_of(opened, 1)
            opened.mouse.move(x - 4, y - 4)
            opened.mouse.move(x, y)
            tip = opened.locator(".tip")
            tip.wait_for()
            assert "Trial 1" in tip.inner_text()
            assert "TPR female" in tip.inner_text()
            opened.wait_for_function("document.querySelector('.tip img').naturalWidth > 0")

            opened.mouse.click(x, y)
            opened.wait_for_selector("#run[href]")
            for trial in (1, 2):
                opened.check(f"[aria-label='Compare trial {trial}']")
            opened.wait_for_selector("#comparison")
            assert "trial 2" in opened.inner_text("#comparison thead")
            opened.wait_for_function("document.querySelectorAll('#compare .maps img').length === 2")

            opened.click("#export")
            opened.wait_for_selector("#detail code")
            folder = layout.root / opened.inner_text("#detail code")
            manifest = folder / "manifest.json"
            registry = MlflowClient(layout.mlflow_uri)
            version = registry.get_model_version_by_alias("ude-noise-edema", "best")
            assert version.tags["ude.bundle"] == sha256(manifest.read_bytes())
            assert version.tags["ude.trial"] == str(json.loads(manifest.read_text())["trial"])

            opened.wait_for_selector("#history.js-plotly-plot")
            opened.wait_for_selector("#parallel.js-plotly-plot")
        with page(browser) as opened:  # MLflow's own page asks for users it may not have
            pass
        context = browser.new_context()
        run = context.new_page()
        run.set_default_timeout(120_000)
        run.goto(f"{server.address}/ude/#/study/tiny?disease=edema&trial=1", wait_until="commit")
        run.wait_for_selector("#run[href]")
        run.click("#run")
        run.wait_for_selector("h1:has-text('trial 00001'), h2:has-text('trial 00001')")
        assert re.search(r"#/experiments/\d+/runs/[0-9a-f]{32}", run.url)
        context.close()


def test_mlflows_own_table_shows_trials_metrics_and_the_front(server: Server) -> None:
    from chromium import chromium

    with chromium() as browser:
        opened = browser.new_context(viewport={"width": 1800, "height": 900}).new_page()
        opened.set_default_timeout(120_000)
        opened.goto(f"{server.address}/ude/#/study/tiny", wait_until="commit")
        opened.click("#mlflow:has-text('MLflow runs')")
        opened.wait_for_selector("text=trial 00004")
        for trial in range(5):
            assert opened.locator(f"text=trial 0000{trial}").count() == 1
        headers = opened.inner_text(".ag-header")
        for name in ("eo_gap", "accuracy", "front.edema", "confirmed"):
            assert name in headers
        colors = opened.evaluate(
            """[...document.querySelectorAll('.ag-row *')].map((n) => getComputedStyle(n).backgroundColor)"""
        )
        assert "rgb(11, 107, 138)" in colors  # the front
        assert "rgb(195, 204, 211)" in colors  # the others


def test_a_narrow_dark_window_and_the_keyboard(server: Server) -> None:
    from chromium import NARROW, chromium, page, painted

    with chromium() as browser, page(browser, NARROW, color_scheme="dark") as opened:
        opened.goto(f"{server.address}/ude/#/study/tiny?disease=edema", wait_until="commit")
        painted(opened)
        opened.wait_for_selector("#parallel.js-plotly-plot")
        assert opened.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
        ink, paper = opened.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        assert (ink, paper) == ("rgb(232, 238, 242)", "rgb(15, 22, 28)")
        opened.focus("[data-trial='1']")
        opened.keyboard.press("Enter")
        opened.wait_for_selector("#detail-title")
        opened.wait_for_function("document.activeElement.id === 'detail-title'")
        opened.keyboard.press("Tab")
        assert opened.evaluate("document.activeElement.id") == "export"
        unnamed = opened.evaluate(
            """[...document.querySelectorAll('select, button, input, a')].filter((n) => !n.closest('.modebar')
                && !(n.labels?.length || n.getAttribute('aria-label') || n.textContent.trim())).length"""
        )
        assert unnamed == 0


def test_points_appear_while_trials_end(server: Server, layout: Layout) -> None:
    from chromium import chromium, page, painted

    from study.ledger import Ledger

    ledger = Ledger.open("tiny", layout.root)
    with chromium() as browser, page(browser) as opened:
        opened.goto(f"{server.address}/ude/#/study/tiny?disease=edema", wait_until="commit")
        painted(opened)
        opened.evaluate("window.never_reloaded = true")
        before = len(ledger.trials())
        assert f"{before} complete" in opened.inner_text("#counts")
        number = ledger.ask().number
        result = TrialResult(
            noise_of(number), measured(3, 3, 80), (), QueryCount(noise=9), "improved"
        )
        save_result(result, ledger.places.trial(number))
        ledger.tell(number, result)
        opened.wait_for_selector(f"#counts:has-text('{before + 1} complete')")
        opened.wait_for_selector(f"[data-trial='{number}']")
        assert opened.evaluate("window.never_reloaded") is True
    ledger.close()


def test_a_foreign_host_is_refused(server: Server) -> None:
    for path in ("/ude/", "/ude/api/studies", "/ude"):
        assert server.status(path) == 200
        assert server.status(path, {"Host": "evil.example"}) == 403


def test_basic_auth_guards_the_pages_as_it_does_mlflow(layout: Layout, tmp_path: Path) -> None:
    port, password = free_port(), "a-password-for-tests"
    settings = tmp_path / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\nadmin_username = admin\n"
        f"database_uri = sqlite:///{tmp_path}/users.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    command = serve.server_command(layout, port)
    command[command.index("--app-name") + 1] = WITH_PASSWORDS
    environment = {
        **serve.ENVIRONMENT,
        ROOT_VARIABLE: str(layout.root),
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32,
    }
    server = Server(command, environment, tmp_path / "server.log")

    def basic(user: str, word: str) -> dict[str, str]:
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{word}'.encode()).decode()}"}

    try:
        own = server.status("/ajax-api/2.0/mlflow/experiments/search?max_results=1")
        paths = ("/ude/", "/ude/static/v/app.js", "/ude/api/studies", "/ude/api/studies/tiny/links")
        for path in paths:
            assert server.status(path) == own == 401
            assert server.status(path, basic("admin", "wrong")) == 401
            assert server.status(path, basic("admin", password)) == 200
            foreign = basic("admin", password) | {"Host": "evil.example"}
            assert server.status(path, foreign) == 403
        _add_user(server.address, basic("admin", password), "guest", "another-password")
        guest = basic("guest", "another-password")
        assert server.status("/ude/api/studies", guest) == 200
        assert server.status("/ude/api/studies/tiny/front?disease=edema", guest) == 404
    finally:
        server.stop()


def _add_user(address: str, headers: dict[str, str], name: str, password: str) -> None:
    body = f'{{"username": "{name}", "password": "{password}"}}'.encode()
    headers = headers | {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{address}/api/2.0/mlflow/users/create", body, headers)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert answer.status == 200
