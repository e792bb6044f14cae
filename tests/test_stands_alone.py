"""The engine and its benchmarks run where nothing of the service is installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ABSENT = """\
import sys

SERVICE = (
    "ray optuna mlflow typer click pydantic plotly sqlalchemy alembic moocore rich tenacity "
    "pyarrow psutil yaml"
).split()


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in SERVICE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


assert not set(SERVICE) & sys.modules.keys()
sys.meta_path.insert(0, Absent())
"""
EVERYTHING = """
import json, pkgutil
from importlib import import_module

import benchmarks.__main__ as bench
import ude_core
from ude_core.assets import prepare
from ude_core.cohorts.phantom import PhantomConfig, make_phantoms
from ude_core.encoders.phantom_vit import load_phantom_vit
from ude_core.trial import run_trial
from ude_core.types import BiasConfig, MethodConfig, ScoringConfig, SplitConfig

modules = [m.name for m in pkgutil.walk_packages(ude_core.__path__, "ude_core.")]
for name in modules:
    import_module(name)
found = [name for name in bench.ENGINE if callable(bench.find(name))]
absent = []
for name in bench.SERVICE:
    try:
        bench.find(name)
    except ModuleNotFoundError:
        absent.append(name)
cohort, encoder = make_phantoms(PhantomConfig(patients=160, seed=1)), load_phantom_vit()
assets = prepare(
    cohort,
    encoder,
    split=SplitConfig(validation=0.3, test=0.3),
    bias=BiasConfig(gap=0.5, train_per_group=16, validation_per_cell=3, test_per_cell=3),
    scoring=ScoringConfig(repeats=1, bootstrap_draws=20, controls=0),
    seed=1,
)
method = MethodConfig(local_iterations=1, samples=1, batch_size=8, epochs=1)
result = run_trial(method, cohort, encoder, assets, seed=1)
print(json.dumps([len(modules), found, absent, result.queries.noise]))
"""
ONE = """
from benchmarks.__main__ import main

main(["--only", "saturated_step", "--results", sys.argv[1]])
"""


def run(code: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", ABSENT + code, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_the_engine_needs_nothing_of_the_service() -> None:
    modules, found, absent, queries = json.loads(run(EVERYTHING)[-1])
    assert modules > 50
    assert {"saturated_step", "candidate_vs_bare_vit_b16", "worker_memory"} <= set(found)
    assert {"overhead_vs_stock", "utilisation"} <= set(absent)
    assert not set(found) & set(absent)
    assert queries == 2 * 8


@pytest.mark.slow
def test_a_benchmark_of_the_engine_runs_and_names_the_machine(tmp_path: Path) -> None:
    figure = json.loads(run(ONE, str(tmp_path))[-1])["saturated_step"]
    kept = json.loads((tmp_path / "saturated_step.json").read_text())
    assert kept["figure"] == figure > 0
    assert kept["machine"]["cores"] >= 1
