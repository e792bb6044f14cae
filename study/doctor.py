"""What is installed, reachable, writable and fast enough: one verdict a line."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from study.database import STORAGE_VARIABLE
from study.names import Layout
from study.provenance import PACKAGES, package_versions
from ude_core.errors import UserError

Verdict = Literal["ok", "warn", "fail"]

_LITTLE_DISK = 2 * 1024**3
_SLOW_ENCODER = 200.0
_IMAGES = 256


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `fail` keeps studies from running, `warn` makes them slower or poorer."""

    name: str
    verdict: Verdict
    detail: str

    def as_json(self) -> dict[str, str]:
        """Return the finding as JSON values."""
        return asdict(self)


def examine(root: Path) -> list[Check]:
    """Return every finding. Nothing it does outlives it, and no check can stop the others."""
    layout = Layout.at(root)
    checks: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
        ("packages", _packages),
        ("root", lambda: _root(layout)),
        ("ledger", lambda: _ledger(layout)),
        ("mlflow", lambda: _mlflow(layout)),
        ("torch", _torch),
        ("encoder", _encoder),
    )
    found: list[Check] = []
    for name, check in checks:
        try:
            found += check()
        except Exception as error:  # noqa: BLE001 - a broken installation breaks in any way
            found.append(Check(name, "fail", f"{type(error).__name__}: {error}"))
    return found


def _packages() -> Iterator[Check]:
    version = platform.python_version()
    verdict: Verdict = "ok" if sys.version_info >= (3, 11) else "fail"
    yield Check("python", verdict, version)
    installed = package_versions()
    missing = sorted(set(PACKAGES) - set(installed))
    listed = ", ".join(f"{name} {found}" for name, found in installed.items())
    yield Check("packages", "ok", listed)
    if missing:
        yield Check("packages", "fail", f"not installed: {', '.join(missing)}")


def _root(layout: Layout) -> Iterator[Check]:
    place = layout.root
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            yield Check("root", "ok", f"{layout.root} can be written")
    except OSError as error:
        yield Check("root", "fail", f"{layout.root}: {error.strerror}; name another with --root")
    free = shutil.disk_usage(place).free
    verdict: Verdict = "ok" if free >= _LITTLE_DISK else "warn"
    yield Check("disk", verdict, f"{free / 1024**3:.1f} GiB free")


def _ledger(layout: Layout) -> Iterator[Check]:
    from study.overview import overview

    if os.environ.get(STORAGE_VARIABLE):
        yield Check("ledger", "ok", f"studies are in the database of {STORAGE_VARIABLE}")
        return
    rows = overview(layout)
    broken = [row for row in rows if row["state"] == "unreadable"]
    for row in broken:
        yield Check("ledger", "fail", f"{row['study']}: {row['problem']}")
    if not broken:
        yield Check("ledger", "ok", f"{len(rows)} studies can be read")


def _mlflow(layout: Layout) -> Iterator[Check]:
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if address.startswith("http"):
        yield _mlflow_server(address)
    elif not layout.mlflow_database.exists():
        yield Check("mlflow", "ok", "no runs yet; the first launch makes the database")
    else:
        path = f"file:{layout.mlflow_database}?mode=ro"
        with closing(sqlite3.connect(path, uri=True, timeout=5)) as database:
            (runs,) = database.execute("select count(*) from runs").fetchone()
        yield Check("mlflow", "ok", f"{runs} runs in {layout.mlflow_database.name}")


def _mlflow_server(address: str) -> Check:
    import httpx

    url = httpx.URL(address)
    shown = f"{url.scheme}://{url.host}:{url.port or ''}".rstrip(":")  # without user and password
    try:
        answer = httpx.get(url.join("/health"), timeout=5.0)
    except httpx.HTTPError as error:
        detail = f"{shown} does not answer ({type(error).__name__}); studies run without it"
        return Check("mlflow", "warn", detail)
    verdict: Verdict = "ok" if answer.is_success else "warn"
    return Check("mlflow", verdict, f"{shown} answers {answer.status_code}")


def _torch() -> Iterator[Check]:
    import torch

    cores = os.cpu_count() or 1
    threads = torch.get_num_threads()
    verdict: Verdict = "ok" if threads <= cores else "warn"
    yield Check("threads", verdict, f"torch uses {threads} of {cores} cores")
    flushed = torch.set_flush_denormal(True)
    torch.set_flush_denormal(False)  # this process is not a worker
    yield Check(
        "denormals",
        "ok" if flushed else "warn",
        "workers flush them to zero"
        if flushed
        else "this CPU cannot flush them: a white-box step may be 80 times slower",
    )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
    yield Check("gpu", "ok", names or "none; everything runs on the CPU")


def _encoder() -> Iterator[Check]:
    import torch

    from ude_core.encoders.phantom_vit import load_phantom_vit

    try:
        encoder = load_phantom_vit()
    except UserError as error:
        yield Check("encoder", "fail", str(error))
        return
    pixels = torch.rand(_IMAGES, 1, encoder.image_size, encoder.image_size)
    with torch.inference_mode():
        encoder.encode(pixels[:8])
        began = time.perf_counter()
        encoder.encode(pixels)
        rate = _IMAGES / (time.perf_counter() - began)
    verdict: Verdict = "ok" if rate >= _SLOW_ENCODER else "warn"
    yield Check("encoder", verdict, f"{encoder.name}: {rate:,.0f} images/s")
