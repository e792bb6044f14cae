"""The page of a study of 5,000 trials, in headless Chromium inside a real MLflow server.

Bounds: the first paint of the front (every point, on a canvas) under 1.5 s with an empty browser cache,
an axis switch under 200 ms, the server's answer under 300 ms. When Plotly has taken over is told too.
The figure is the largest share of a bound; below 1 all are kept. Where there is no Chromium, only the
server is timed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    json_to_distribution,
)

from benchmarks.prefill import Row, fill_study
from study import serve
from study.config import StudyConfig
from study.ledger import Ledger
from study.live.source import Studies
from study.metric_names import DISEASE_METRICS, STUDY_METRICS
from study.names import Layout
from study.web.front import front_view
from study.web.server import ROOT_VARIABLE
from ude_core.results import metrics_to_json
from ude_core.seeding import numpy_generator
from ude_core.types import Interval, QueryCount, TrialResult

TRIALS, REPEATS, SWITCHES = 5_000, 5, 9
BOUNDS = {"first_paint_s": 1.5, "axis_switch_s": 0.2, "server_query_s": 0.3}
_DISEASES = ("pleural_effusion", "pneumonia", "edema")
_ASKED = (
    "metric:accuracy",
    "metric:eo_gap",
    "metric:psnr_db",
    "metric:selection_rate_symmetric_gap",
)
_SPACE = {
    "study": "pages",
    "cohort": {"kind": "phantom", "image_size": 64},
    "encoder": {"kind": "phantom_vit"},
    "search": {
        "regularization": {"low": 1e-4, "high": 0.03, "log": True},
        "local_iterations": {"low": 4, "high": 12},
        "step_size": {"low": 0.03, "high": 0.12, "log": True},
        "momentum": {"low": 0.2, "high": 0.8},
        "samples": {"low": 3, "high": 8},
        "basis": {"choices": ["low_frequency", "grid"]},
        "basis_size": {"low": 4, "high": 8},
    },
    "budget": {"trials": TRIALS},
}
_SWITCH = """async ([select, value]) => {
    const marks = () => performance.getEntriesByName("ude-front");
    const before = marks().length, began = performance.now();
    const choice = document.getElementById(select);
    choice.value = value;
    choice.dispatchEvent(new Event("change"));
    while (marks().length === before) await new Promise((done) => setTimeout(done, 1));
    return marks().at(-1).startTime - began;
}"""


def pages() -> tuple[float, dict[str, Any]]:
    """Return the largest share of a bound, and all that was timed."""
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout.at(folder)
        _make(layout)
        details: dict[str, Any] = {"trials": TRIALS, "cold_read_s": _cold(layout)}
        with _server(layout) as address:
            details |= _queries(address)
            if shutil.which("chromium"):
                details |= _chromium(address)
    shares = {name: details[name] / bound for name, bound in BOUNDS.items() if name in details}
    details = {k: round(v, 4) if isinstance(v, float) else v for k, v in details.items()}
    return max(shares.values()), details


def synthetic(rng: np.random.Generator) -> dict[str, Interval]:
    """Return a trial's metrics: gaps that cost accuracy, more or less, with intervals."""
    found = {}
    strength = rng.random()
    for disease in _DISEASES:
        for name in (*DISEASE_METRICS, *(f"{r}.{g}" for r in ("tpr", "tnr") for g in ("f", "m"))):
            found[f"{disease}/{name}"] = _value(name, strength, rng)
    return found | {name: _value(name, strength, rng) for name in STUDY_METRICS}


def _value(name: str, strength: float, rng: np.random.Generator) -> Interval:
    level = 60 * (1 - strength) if "gap" in name else 85 - 20 * strength
    mean = float(np.clip(level + rng.normal(0, 6), 0.5, 99))
    if name.endswith("_vs_random"):
        mean = float(rng.normal(-8, 8))
    return Interval(mean, mean - float(rng.uniform(2, 6)), mean + float(rng.uniform(2, 6)))


def _make(layout: Layout) -> None:
    rng = numpy_generator(0, "pages")
    config = StudyConfig.model_validate_json(json.dumps(_SPACE))
    ledger = Ledger.create_or_open(config, layout.root)
    ledger.set_reference(synthetic(rng), 100)
    result = TrialResult(torch.zeros(1, 64, 64), synthetic(rng), (), QueryCount(9000), "improved")
    ledger.tell(ledger.ask().number, result)

    def vary(row: Row, rng: np.random.Generator) -> Row:
        content = json.loads(row["value_json"])
        content["metrics"] = metrics_to_json(synthetic(rng))
        return {**row, "value_json": json.dumps(content)}

    def within(row: Row, rng: np.random.Generator) -> Row:
        searched = json_to_distribution(row["distribution_json"])
        if isinstance(searched, CategoricalDistribution):
            return {**row, "param_value": float(rng.integers(len(searched.choices)))}
        assert isinstance(searched, FloatDistribution | IntDistribution)
        value = float(rng.uniform(searched.low, searched.high))
        whole = isinstance(searched, IntDistribution)
        return {**row, "param_value": float(round(value)) if whole else value}

    changes = {"trial_user_attributes": vary, "trial_params": within}
    fill_study(ledger._storage, ledger.study_id, TRIALS, rng, changes)
    ledger.close()


def _cold(layout: Layout) -> float:
    """Seconds that a server which has read nothing yet takes for its first answer."""
    studies = Studies(layout)
    began = time.perf_counter()
    json.dumps(front_view(studies.snapshot("pages"), "edema", _ASKED))
    took = time.perf_counter() - began
    studies.close()
    return took


@contextlib.contextmanager
def _server(layout: Layout) -> Iterator[str]:
    port = _free_port()
    log = layout.root / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            serve.server_command(layout, port),
            env={**os.environ, **serve.ENVIRONMENT, ROOT_VARIABLE: str(layout.root)},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError):
                _get(f"{address}/ude/api/studies")
                break
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(log.read_text(encoding="utf-8", errors="replace")[-2000:])
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((serve.HOST, 0))
        return int(probe.getsockname()[1])


def _get(url: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    asked = urllib.request.Request(url, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return int(answer.status), answer.read()
    except urllib.error.HTTPError as error:
        if error.code != 304:
            raise
        return 304, b""


def _queries(address: str) -> dict[str, Any]:
    """Time answers that were made for nobody before: another disease or column each time."""
    times, size = [], 0
    for disease in (*_DISEASES, "mean", "worst"):
        for extra in ("metric:auroc", "param:step_size"):
            columns = [("column", name) for name in (*_ASKED, extra)]
            query = urllib.parse.urlencode([("disease", disease), *columns])
            began = time.perf_counter()
            _, body = _get(f"{address}/ude/api/studies/pages/front?{query}")
            times.append(time.perf_counter() - began)
            size = len(body)
    return {
        "server_query_s": statistics.median(times),
        "server_query_slowest_s": max(times),
        "answer_bytes": size,
    }


def _chromium(address: str) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    arguments += ["--disable-component-update", "--disable-sync", "--no-first-run"]
    mark = "performance.getEntriesByName('ude-front')"
    paints, lively, switches = [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=arguments
        )
        for _ in range(REPEATS):
            context = browser.new_context(viewport={"width": 1360, "height": 900})
            page = context.new_page()
            page.goto(f"{address}/ude/#/study/pages?disease=edema", wait_until="commit")
            page.wait_for_function(f"{mark}.length > 0", timeout=120_000)
            drawn = page.evaluate("performance.getEntriesByName('ude-sketch')[0].startTime")
            paints.append(drawn / 1000)
            lively.append(page.evaluate(f"{mark}[0].startTime") / 1000)
            if len(paints) == REPEATS:
                page.wait_for_selector("#parallel.js-plotly-plot", timeout=120_000)
                page.wait_for_timeout(1000)
                axes = page.evaluate(
                    "[...document.getElementById('x').options].map((o) => o.value)"
                )
                for axis in axes[1 : SWITCHES + 1]:
                    switches.append(page.evaluate(_SWITCH, ["x", axis]) / 1000)
                    page.wait_for_timeout(300)
            context.close()
        browser.close()
    return {
        "first_paint_s": statistics.median(paints),
        "first_paint_slowest_s": max(paints),
        "interactive_s": statistics.median(lively),
        "axis_switch_s": statistics.median(switches),
        "axis_switch_slowest_s": max(switches),
        "load_average": os.getloadavg()[0],
    }
