"""Fixtures that every test file may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.ledger import Ledger

torch.set_num_threads(1)  # tests run side by side: more threads than cores only wait


@pytest.fixture(autouse=True)
def _denormals_as_they_were() -> Iterator[None]:
    """Undo what `prepare_process` sets for a whole process: hypothesis needs denormals."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the real X-rays, or skip where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("UDE_SHARED_DATA", default))
    if not (folder / "nih.csv").is_file():
        pytest.skip(f"no real X-rays at {folder}; set UDE_SHARED_DATA")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of runs, the test file's own."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def ledger(config: StudyConfig, root: Path) -> Iterator[Ledger]:
    """Return the ledger of the study that the test file's own `config` describes."""
    from study.ledger import Ledger

    ledger = Ledger.create_or_open(config, root)
    yield ledger
    ledger.close()
