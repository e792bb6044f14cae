"""The page and its files, from the package itself, and Plotly from its own: nothing from elsewhere."""

from __future__ import annotations

import gzip
import importlib.metadata
from functools import lru_cache
from importlib import resources

from fastapi import HTTPException, Request, Response

from ude_core.storage import digest

PLOTLY = "plotly.min.js"
_KINDS = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_SMALLEST_TO_COMPRESS = 1024

POLICY = "; ".join(
    (
        "default-src 'none'",
        # Plotly's WebGL compiles functions, hence unsafe-eval; text in a page never runs.
        "script-src 'self' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'self'",
    )
)
"""The pages' Content-Security-Policy."""


def page() -> Response:
    """Return the page, its files named by their versions so that browsers may keep them."""
    text = (resources.files("study.web") / "static" / "index.html").read_text(encoding="utf-8")
    return Response(text.replace("{version}", version()), media_type="text/html; charset=utf-8")


@lru_cache(maxsize=1)
def version() -> str:
    """Return what changes whenever a file does."""
    own = resources.files("study.web") / "static"
    parts = sorted((entry.name, entry.read_text(encoding="utf-8")) for entry in own.iterdir())
    return digest(parts, importlib.metadata.version("plotly"))[:12]


def file(wanted: str, name: str, request: Request) -> Response:
    """Return one of the page's files. Raises 404 for any other name."""
    found = _content(name)
    if found is None:
        raise HTTPException(404, f"{name} is no file of this page")
    plain, packed = found
    kept = "private, max-age=31536000, immutable" if wanted == version() else "private, no-cache"
    headers = {"Cache-Control": kept, "Vary": "Accept-Encoding"}
    if packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        plain = packed
    kind = f"{_KINDS[name.rpartition('.')[2]]}; charset=utf-8"
    return Response(plain, media_type=kind, headers=headers)


@lru_cache(maxsize=32)
def _content(name: str) -> tuple[bytes, bytes | None] | None:
    """Return a file and the same compressed; only names that are in the package."""
    if name == PLOTLY:
        data = (resources.files("plotly") / "package_data" / PLOTLY).read_bytes()
    else:
        folder = resources.files("study.web") / "static"
        known = {entry.name: entry for entry in folder.iterdir()}
        if name not in known or name.rpartition(".")[2] not in _KINDS:
            return None
        data = known[name].read_bytes()
    packed = gzip.compress(data, 6, mtime=0) if len(data) >= _SMALLEST_TO_COMPRESS else None
    return data, packed
