"""Whole sweeps on a real local Ray: to the target, through kills and stops, and never twice."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from small_study import QUICK

from study.config import load_space
from study.harvest import curve_of
from study.ledger import Ledger
from study.materials import load_materials
from study.meter import paid_queries
from study.records import TrialRecord
from study.rung_records import read_rungs
from study.spaces import method_of
from study.sweep import Outcome
from ude_core.results import load_noise
from ude_core.trial import Trial

DRIVER = """\
import json, sys
from study.config import load_space
from study.sweep import launch

if __name__ == "__main__":
    outcome = launch(load_space(sys.argv[1], sys.argv[3:]), sys.argv[2], quiet=True)
    print(json.dumps({"counts": outcome.counts, "ray": "ray" in sys.modules,
                      "problems": outcome.tracking_problems, "finished": outcome.finished}))
    sys.exit(outcome.exit_code)
"""
LONG = "budget.queries_per_trial=12000"
GROUPS = "method.batch_size=32"  # two groups an iteration through the encoder: one a worker
SECONDS = 300


class Drivers:
    """Starts drivers of one study in a root of their own."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "runs"
        self.space = folder / "quick.yaml"
        self.space.write_text(QUICK, encoding="utf-8")
        self.script = folder / "driver.py"
        self.script.write_text(DRIVER, encoding="utf-8")
        self.log = folder / "driver.log"
        home = folder / "home"
        home.mkdir()
        self.environment = {
            **os.environ,
            "HOME": str(home),
            "MLFLOW_TRACKING_URI": "",
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        }
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(self.script), str(self.space), str(self.root), *overrides]
        with self.log.open("a", encoding="utf-8") as log:
            driver = subprocess.Popen(
                command, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.started.append(driver)
        return driver

    def finish(self, driver: subprocess.Popen[str], status: int = 0) -> dict[str, object]:
        said, _ = driver.communicate(timeout=SECONDS)
        assert driver.returncode == status, self.log.read_text(encoding="utf-8")[-4000:]
        answer: dict[str, object] = json.loads(said) if said.strip() else {}
        return answer

    def run(self, *overrides: str, status: int = 0) -> dict[str, object]:
        return self.finish(self.start(*overrides), status)

    def trials(self) -> list[TrialRecord]:
        ledger = Ledger.open("quick", self.root)
        try:
            return ledger.trials()
        finally:
            ledger.close()

    def wait_for_checkpoint(self) -> None:
        self.wait_for(lambda: any(self.root.glob("quick/trials/*/checkpoint.safetensors")))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text(encoding="utf-8")[-4000:]
            time.sleep(0.2)

    def check_little_was_repeated(self) -> None:
        """Check that a kill cost far less than the trials it hit."""
        for record in self.trials():
            assert record.queries <= paid_queries(record.folder) < 1.5 * record.queries

    def check_agreement(self) -> None:
        """Check that the ledger, MLflow and the directory tree tell the same story."""
        records = self.trials()
        assert [record.number for record in records] == list(range(len(records)))
        with contextlib.closing(sqlite3.connect(self.root / "mlflow.db")) as database:
            rows = database.execute("select name, status from runs").fetchall()
        expected = {"complete": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}
        assert sorted(rows) == sorted(
            [("quick", "FINISHED")]
            + [(f"trial {record.number:05d}", expected[record.state]) for record in records]
        )
        folders = sorted(path.name for path in (self.root / "quick" / "trials").iterdir())
        assert folders == [f"{record.number:05d}" for record in records]
        for record in records:
            left = {path.name for path in record.folder.iterdir()}
            assert {"result.json", "noise.safetensors", "noise.png"} <= left
            assert not {name for name in left if name.endswith(".tmp") or "checkpoint" in name}


@pytest.fixture
def drivers(tmp_path: Path) -> Iterator[Drivers]:
    made = Drivers(tmp_path)
    yield made
    for driver in made.started:
        if driver.poll() is None:
            for child in psutil.Process(driver.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            driver.kill()
            driver.communicate()


@pytest.mark.parametrize(
    ("counts", "interrupted", "status"),
    [
        ({"complete": 3, "failed": 0, "pruned": 0}, None, 0),
        ({"complete": 2, "failed": 0, "pruned": 1}, None, 0),
        ({"complete": 2, "failed": 1, "pruned": 0}, None, 3),
        ({"complete": 2, "failed": 0, "pruned": 0}, None, 3),
        ({"complete": 3, "failed": 0, "pruned": 0}, signal.SIGTERM, 143),
        ({"complete": 2, "failed": 1, "pruned": 0}, signal.SIGINT, 130),
    ],
)
def test_the_exit_status_follows_the_ledger(
    counts: dict[str, int], interrupted: int | None, status: int
) -> None:
    outcome = Outcome(study="quick", target=3, counts=counts, queries=0, interrupted=interrupted)
    assert outcome.exit_code == status


@pytest.mark.slow
def test_a_sweep_reaches_its_target_and_launching_again_continues(drivers: Drivers) -> None:
    first = drivers.run()
    assert first["problems"] == []
    assert first["counts"] == {
        "complete": 3,
        "failed": 0,
        "running": 0,
        "waiting": 0,
        "pruned": 0,
    }
    drivers.check_agreement()
    before = drivers.trials()

    again = drivers.run()
    assert again["ray"] is False
    assert drivers.trials() == before

    drivers.run("budget.trials=4")
    assert drivers.trials()[:3] == before
    assert len(drivers.trials()) == 4
    drivers.check_agreement()


@pytest.mark.slow
def test_a_killed_driver_loses_nothing_and_repeats_nothing(drivers: Drivers) -> None:
    driver = drivers.start(LONG, "budget.trials=2")
    drivers.wait_for_checkpoint()
    second = drivers.start(LONG, "budget.trials=2")
    drivers.finish(second, status=1)
    assert "StudyBusyError" in drivers.log.read_text(encoding="utf-8")
    driver.kill()
    driver.communicate()
    before = {record.number: (record.params, record.seed) for record in drivers.trials()}
    assert before

    drivers.run(LONG, "budget.trials=2")
    records = drivers.trials()
    assert len(records) == 2
    for record in records:
        assert record.state == "complete"
        if record.number in before:
            assert (record.params, record.seed) == before[record.number]
    drivers.check_agreement()
    drivers.check_little_was_repeated()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_driver_keeps_its_trials_state(
    drivers: Drivers, number: signal.Signals, status: int
) -> None:
    driver = drivers.start(LONG, "budget.trials=2")
    drivers.wait_for_checkpoint()
    driver.send_signal(number)
    drivers.finish(driver, status=status)
    records = drivers.trials()
    assert {record.state for record in records} <= {"running", "complete"}
    assert any(record.state == "running" for record in records)
    with contextlib.closing(sqlite3.connect(drivers.root / "mlflow.db")) as database:
        states = database.execute("select distinct status from runs").fetchall()
    assert ("RUNNING",) not in states
    drivers.run(LONG, "budget.trials=2")
    assert [record.state for record in drivers.trials()] == ["complete", "complete"]
    drivers.check_agreement()


@pytest.mark.slow
def test_a_killed_worker_is_retried_from_its_checkpoint(drivers: Drivers) -> None:
    driver = drivers.start(LONG, "budget.trials=2")
    drivers.wait_for_checkpoint()
    workers = [
        child
        for child in psutil.Process(driver.pid).children(recursive=True)
        if any("Trainable" in part for part in child.cmdline())
    ]
    assert workers
    workers[0].kill()
    drivers.finish(driver)
    assert [record.state for record in drivers.trials()] == ["complete", "complete"]
    drivers.check_agreement()
    drivers.check_little_was_repeated()


KILLED_AS_IT_PRUNES = """\
import os, signal
import study.scheduler

def write_and_die(folder, pruned, write=study.scheduler.write_pruned):
    write(folder, pruned)
    os.kill(os.getpid(), signal.SIGKILL)

study.scheduler.write_pruned = write_and_die
"""
PRUNING = (
    "budget.trials=6",
    "sampler.name=random",
    "pruning={name: pareto_rank, peers: 1, keep: 0.4,"
    " metrics: [{metric: noise_l2, direction: minimize}]}",
)


@pytest.mark.slow
def test_pruned_trials_end_as_pruned_though_the_driver_dies_as_it_prunes(drivers: Drivers) -> None:
    whole = drivers.script.read_text(encoding="utf-8")
    drivers.script.write_text(KILLED_AS_IT_PRUNES + whole, encoding="utf-8")
    drivers.finish(drivers.start(*PRUNING), status=-signal.SIGKILL)
    decided = [path.parent.name for path in drivers.root.glob("quick/trials/*/pruned.json")]
    assert len(decided) == 1
    assert "pruned" not in {record.state for record in drivers.trials()}

    drivers.script.write_text(whole, encoding="utf-8")
    drivers.run(*PRUNING)
    records = {record.folder.name: record for record in drivers.trials()}
    assert len(records) == 6
    assert {record.state for record in records.values()} == {"complete", "pruned"}
    assert records[decided[0]].state == "pruned"
    with contextlib.closing(sqlite3.connect(drivers.root / "mlflow.db")) as database:
        status = dict(database.execute("select name, status from runs").fetchall())
        tags = dict(database.execute("select key, value from tags").fetchall())
        named = "select distinct r.name from runs r join metrics m using (run_uuid) where m.key = ?"
        curves = {name for (name,) in database.execute(named, ("epoch/loss",))}
        rungs = {name for (name,) in database.execute(named, ("rung/noise_l2",))}
    saved = 0
    for name, record in records.items():
        told = read_rungs(record.folder)
        assert told is not None
        looks = sum(rung.scoring_queries for rung in told.rungs)
        if record.state == "pruned":
            assert status[f"trial {name}"] == "KILLED"
            assert record.queries == told.spent.total
            saved += told.planned - told.spent.total
            assert not list(record.folder.glob("*checkpoint*"))
        else:
            assert status[f"trial {name}"] == "FINISHED"
            assert record.queries == told.planned + looks
            saved -= looks
        assert f"trial {name}" in rungs
        assert (f"trial {name}" in curves) == bool(curve_of(record.folder))
    assert saved > 0
    assert tags["ude.queries_saved"] == str(saved)


@pytest.mark.slow
def test_a_trial_that_diverges_fails_and_the_others_go_on(drivers: Drivers) -> None:
    search = "search.step_size={choices: [0.05, 1e38]}"
    drivers.run(search, "budget.trials=4", "sampler.name=random", status=3)
    records = drivers.trials()
    assert {record.params["step_size"]: record.state for record in records} == {
        0.05: "complete",
        1e38: "failed",
    }
    assert all(record.reason for record in records if record.state == "failed")


def test_a_bad_space_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    from study.sweep import launch
    from ude_core.errors import UserError

    path = tmp_path / "quick.yaml"
    path.write_text(QUICK, encoding="utf-8")
    config = load_space(path, ["method.batch_size=4096", "budget.queries_per_trial=100000"])
    with pytest.raises(UserError, match="batch_size is 4096"):
        launch(config, tmp_path / "runs", quiet=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="name a folder"):
        launch(config, tmp_path / "file", quiet=True)


@pytest.mark.slow
def test_a_trial_over_two_workers_learns_the_noise_of_one(drivers: Drivers) -> None:
    drivers.run("budget.trials=1", "resources.workers=1", "resources.workers_per_trial=2", GROUPS)
    (record,) = drivers.trials()
    config = load_space(drivers.space, [GROUPS])
    materials = load_materials(config, drivers.root / "cache")
    method = method_of(config, record.params)
    alone = Trial(method, materials.cohort, materials.encoder, materials.assets, record.seed)
    while not alone.finished:
        alone.advance()
    assert load_noise(record.folder).equal(alone.learner.noise)
