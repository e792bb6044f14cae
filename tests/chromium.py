"""A real Chromium for tests, that reaches nothing but loopback and tells every error on its console."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
WIDE = {"width": 1360, "height": 900}
NARROW = {"width": 390, "height": 844}
PATIENCE = 60_000


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextlib.contextmanager
def page(browser: Browser, size: dict[str, int] = WIDE, **options: Any) -> Iterator[Page]:
    """A page that fails the test if its console has an error, or it asks any other host."""
    context = browser.new_context(viewport=size, **options)
    context.set_default_timeout(PATIENCE)
    problems: list[str] = []
    opened = context.new_page()
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda asked: _only_here(asked.url, problems))
    yield opened
    context.close()
    assert problems == []


def _only_here(url: str, problems: list[str]) -> None:
    if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
        problems.append(f"asked {url}")


PAINTED = "performance.getEntriesByName('ude-front').length > {seen}"


def painted(opened: Page, seen: int = 0) -> int:
    """Wait until the front was painted once more than `seen` times; return how often it was."""
    opened.wait_for_function(PAINTED.format(seen=seen))
    return int(opened.evaluate("performance.getEntriesByName('ude-front').length"))


def place_of(opened: Page, trial: int) -> tuple[float, float]:
    """Return where a front point of the chart lies on the screen."""
    x, y = opened.evaluate(
        """(trial) => {
            const plot = document.getElementById("front"), box = plot.getBoundingClientRect();
            const {xaxis, yaxis} = plot._fullLayout;
            const button = document.querySelector(`[data-trial="${trial}"]`);
            if (!button) throw new Error(`trial ${trial} is not in the table`);
            for (const trace of plot._fullData) {
                const at = (trace.customdata ?? []).indexOf(trial);
                if (at >= 0 && trace.hoverinfo === "none" && trace.marker.size === 13)
                    return [box.x + xaxis._offset + xaxis.d2p(trace.x[at]),
                            box.y + yaxis._offset + yaxis.d2p(trace.y[at])];
            }
            throw new Error(`trial ${trial} is not in the chart`);
        }""",
        trial,
    )
    return float(x), float(y)
