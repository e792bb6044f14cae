"""The chaos run: sixty short trials while workers, drivers and MLflow are killed, then the counting.

python -m benchmarks.chaos --seed 1

First the study runs in peace, as the reference. Then it runs again: every 5 s a random worker is
killed, every 45 s the driver (and launched again), and once MLflow for 20 s. `chaos_checks` compares
what both left. The seed decides who is killed and when MLflow goes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.chaos_checks import NAME, Findings, compare

SPACE = Path(__file__).with_name("chaos.yaml")
_COMMAND = "from study.cli import main; main()"
_WORKER_EVERY, _DRIVER_EVERY, _MLFLOW_AWAY = 5.0, 45.0, 20.0
_AT_WORK = 20.0
"""Seconds that every driver is left once it has workers, however slowly the machine starts it."""

_PATIENCE = 1800.0
_POLL = 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """The folder that all of a chaos run lives in, and what its processes are told."""

    folder: Path
    settings: tuple[str, ...]
    trials: int

    @property
    def log(self) -> Path:
        return self.folder / "drivers.log"

    def launch(self, root: str, mlflow: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a driver of the study under `root`."""
        sets = [part for setting in self.settings for part in ("--set", setting)]
        arguments = ["launch", str(SPACE), "--root", str(self.folder / root), "--json"]
        arguments += ["--trials", str(self.trials)]
        return self.command([*arguments, *sets, *options], mlflow)

    def command(self, arguments: Sequence[str], mlflow: str) -> subprocess.Popen[bytes]:
        """Start an `ude-study` command."""
        return self.start([sys.executable, "-c", _COMMAND, *arguments], mlflow)

    def start(self, command: Sequence[str], mlflow: str = "") -> subprocess.Popen[bytes]:
        """Start a process in a group of its own, its words in the log."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        environment = os.environ | {
            "HOME": str(home),
            "RAY_TMPDIR": str(self.folder / "ray"),
            "MLFLOW_TRACKING_URI": mlflow,
            "UDE_STUDY_STORAGE": "",
            "OMP_NUM_THREADS": "1",
        }
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )


class MlflowServer:
    """An MLflow server on a port of its own, to be killed and started again."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    @property
    def uri(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether it was started and not killed since."""
        return self._process is not None

    @property
    def database(self) -> Path:
        """Its SQLite file."""
        return self._place.folder / "mlflow.db"

    def start(self) -> None:
        """Start it; it answers some seconds later."""
        artifacts = self._place.folder / "artifacts"
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(artifacts)]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        self._process = self._place.start(command)

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                return
            time.sleep(_POLL)

    def kill(self) -> None:
        """Kill its whole process group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@dataclass(slots=True)
class Storm:
    """Kills on schedule until the study has reached its target."""

    place: Place
    server: MlflowServer
    rng: random.Random
    pace: float
    killed_workers: int = 0
    killed_drivers: int = 0
    left_behind: int = 0
    seen: set[psutil.Process] = field(default_factory=set)

    def run(self) -> int:
        """Launch, kill, launch again; return the exit status of the driver that got through."""
        away = time.monotonic() + self.pace * self.rng.uniform(15.0, 35.0)
        back = away + self.pace * _MLFLOW_AWAY
        every, life = self.pace * _WORKER_EVERY, self.pace * _DRIVER_EVERY
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            driver = self.place.launch("storm", self.server.uri)
            began, at_work, worker_kill = time.monotonic(), 0.0, 0.0
            try:
                while driver.poll() is None:
                    time.sleep(_POLL)
                    now = time.monotonic()
                    workers = self._look(driver.pid)
                    if workers and not at_work:
                        at_work, worker_kill = now, now + every
                    if away <= now < back:
                        away = float("inf")
                        self.server.kill()
                        print("MLflow killed", flush=True)
                    elif now >= back:
                        back = float("inf")
                        self.server.start()
                        print("MLflow started again", flush=True)
                    if at_work and now >= max(began + life, at_work + self.pace * _AT_WORK):
                        self._kill_driver(driver)
                    elif at_work and workers and now >= worker_kill:
                        worker_kill = now + every
                        self._kill_worker(workers)
            finally:
                if driver.poll() is None:
                    driver.kill()
                    driver.wait()
            if driver.returncode >= 0:
                return driver.returncode
        raise TimeoutError(f"the study did not end within {_PATIENCE:.0f} s")

    def _look(self, pid: int) -> list[psutil.Process]:
        """Return the driver's workers, oldest first, and remember all that it started."""
        try:
            children = psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.seen.update(children)
        workers = [child for child in children if _is_worker(child)]
        return sorted(workers, key=lambda one: (one.create_time(), one.pid))

    def _kill_worker(self, workers: Sequence[psutil.Process]) -> None:
        victim = self.rng.choice(workers)
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
            self.killed_workers += 1

    def _kill_driver(self, driver: subprocess.Popen[bytes]) -> None:
        driver.kill()
        driver.wait()
        self.killed_drivers += 1
        print(f"driver killed ({self.killed_workers} workers so far)", flush=True)
        _, alive = psutil.wait_procs(list(self.seen), timeout=5)
        self.left_behind += len(alive)
        self.clear()

    def clear(self) -> None:
        """End what a killed driver left behind."""
        for process in self.seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(list(self.seen), timeout=10)
        self.seen.clear()


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any("Trainable" in part for part in process.cmdline())
    return False


@contextlib.contextmanager
def _place(settings: Sequence[str], trials: int, *, keep: bool) -> Iterator[Place]:
    # Ray's sockets lie below it, and a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    try:
        yield Place(folder, tuple(settings), trials)
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def chaos(seed: int, settings: Sequence[str], *, trials: int, pace: float, keep: bool) -> Findings:
    """Run the study in peace and in the storm; return what the comparison found."""
    with _place(settings, trials, keep=keep) as place:
        began = time.monotonic()
        peace = place.launch("peace", "", "--workers", "2")
        storm: Storm | None = None
        server = MlflowServer(place)
        try:
            if peace.wait(timeout=_PATIENCE) != 0:
                raise RuntimeError(f"the reference did not end well:\n{_tail(place.log)}")
            print(f"in peace: {time.monotonic() - began:.0f} s", flush=True)
            began = time.monotonic()
            server.start()
            storm = Storm(place, server, random.Random(seed), pace)
            status = storm.run()
            print(
                f"in the storm: {time.monotonic() - began:.0f} s, exit status {status}; killed: "
                f"{storm.killed_workers} workers, {storm.killed_drivers} drivers (which left "
                f"{storm.left_behind} processes behind for over 5 s)",
                flush=True,
            )
            if status != 0:
                print(_tail(place.log))
            if not server.running:  # the study ended while MLflow was away
                server.start()
                server.wait()
                place.command(
                    ["sync", NAME, "--root", str(place.folder / "storm")], server.uri
                ).wait()
            return compare(place.folder / "peace", place.folder / "storm", server.database)
        finally:
            if peace.poll() is None:
                peace.send_signal(signal.SIGTERM)
                peace.wait()
            if storm is not None:
                storm.clear()
            server.kill()


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-4000:]


def main() -> None:
    """Run the chaos and end with one line of JSON; status 1 where anything was lost or differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument(
        "--pace", type=float, default=1.0, help="stretches all times, on a machine that is busy"
    )
    parser.add_argument("--keep", action="store_true", help="leave the folder for a look")
    chosen = parser.parse_args()
    findings = chaos(
        chosen.seed, chosen.settings, trials=chosen.trials, pace=chosen.pace, keep=chosen.keep
    )
    for problem in findings.problems:
        print(f"differs: {problem}")
    print(json.dumps(findings.figures()))
    sys.exit(0 if findings.good else 1)


if __name__ == "__main__":
    main()
