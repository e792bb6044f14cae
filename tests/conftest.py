"""Fixtures that every test file may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the real X-rays, or skip where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("UDE_SHARED_DATA", default))
    if not (folder / "nih.csv").is_file():
        pytest.skip(f"no real X-rays at {folder}; set UDE_SHARED_DATA")
    return folder
