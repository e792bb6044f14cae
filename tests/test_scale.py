"""The simulation of a large study holds in small: every trial ends once, whatever befalls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_small_simulation_ends_every_trial_once_on_both_databases(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.simulate_scale"]
    done = subprocess.run(
        [*command, "--trials", "60", "--workers", "12", "--recorded", "2"],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    lines = done.stdout.splitlines()
    for database in ("SQLite", "PostgreSQL"):
        assert f"{database}: terminal: 60" in lines
        assert f"{database}: duplicate: 0" in lines
    assert json.loads(lines[-1]).keys() == {"simulated_scale"}
