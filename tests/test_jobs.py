"""Ray Jobs from afar: what is submitted, what is refused, and what is said where nobody answers."""

import json
import os
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from small_study import QUICK
from test_readme import command_of
from typer.testing import CliRunner

from study import cli, jobs
from study.config import StudyConfig, load_space
from study.database import STORAGE_FILE_VARIABLE, database_url
from study.environment import MLFLOW_PASSWORD_FILE, prepare_mlflow
from study.lease import StudyBusyError
from ude_core.errors import UserError


@dataclass
class Info:
    submission_id: str | None
    status: str = "RUNNING"
    message: str | None = None
    driver_exit_code: int | None = None


@dataclass
class FakeRay:
    """Ray's jobs, as its client shows them."""

    known: list[Info] = field(default_factory=list)
    submitted: list[dict[str, Any]] = field(default_factory=list)
    lost_race: bool = False

    def list_jobs(self) -> list[Info]:
        return self.known

    def submit_job(self, **job: Any) -> None:
        if self.lost_race:
            raise RuntimeError(f"Job with submission_id {job['submission_id']} already exists.")
        self.submitted.append(job)
        self.known.append(Info(job["submission_id"]))

    def stop_job(self, name: str) -> None:
        (job,) = (info for info in self.known if info.submission_id == name)
        job.status = "STOPPED"


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(jobs, "JobSubmissionClient", lambda address: fake)
    return fake


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    (tmp_path / "quick.yaml").write_text(QUICK, encoding="utf-8")
    return load_space(tmp_path / "quick.yaml", ["method.momentum=0.5"])


def test_a_study_is_one_job_at_a_time_and_counts_them(ray: FakeRay, config: StudyConfig) -> None:
    cluster = jobs.Jobs("http://head:8265")
    ray.known += [Info(None), Info("ude-study.quick-2.7"), Info("raysubmit_1")]
    assert cluster.submit(config).id == "ude-study.quick.1"
    with pytest.raises(StudyBusyError, match=r"ude-study\.quick\.1"):
        cluster.submit(config)
    assert cluster.stop("quick").status == "STOPPED"
    with pytest.raises(UserError, match="has ended"):
        cluster.stop("quick")
    assert cluster.submit(config).id == "ude-study.quick.2"
    latest = cluster.latest("quick")
    assert latest is not None
    assert (latest.number, latest.ended) == (2, False)


def test_of_two_submitters_one_wins(ray: FakeRay, config: StudyConfig) -> None:
    ray.lost_race = True
    with pytest.raises(StudyBusyError, match=r"ude-study\.quick\.1"):
        jobs.Jobs("http://head:8265").submit(config)


def test_a_job_is_the_study_and_stops_gently(
    ray: FakeRay, config: StudyConfig, tmp_path: Path
) -> None:
    jobs.Jobs("http://head:8265").submit(config, root="/shared", environment={"OMP": "1"})
    (job,) = ray.submitted
    assert job["runtime_env"] == {
        "env_vars": {
            "RAY_JOB_STOP_SIGNAL": "SIGINT",
            "RAY_JOB_STOP_WAIT_TIME_S": "30",
            "OMP": "1",
        }
    }
    echo = tmp_path / "ude-study"
    echo.write_text('#!/bin/sh\necho "$@"\ncat "$2"\n', encoding="utf-8")
    echo.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", job["entrypoint"]],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    command, space = done.stdout.splitlines()
    assert command == "launch /dev/stdin --address auto --root /shared"
    (tmp_path / "again.yaml").write_text(space, encoding="utf-8")
    assert load_space(tmp_path / "again.yaml") == config


def test_a_job_without_a_root_says_so(config: StudyConfig) -> None:
    done = subprocess.run(
        ["sh", "-c", jobs.entrypoint(config, None)],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "UDE_STUDY_ROOT" in done.stderr
    with pytest.raises(UserError, match="absolute path"):
        jobs.entrypoint(config, "runs")


@pytest.mark.parametrize(
    "assignment",
    [
        "MLFLOW_TRACKING_PASSWORD=x",
        "AWS_SECRET_ACCESS_KEY=x",
        "API_KEY=x",
        "RAY_AUTH_TOKEN=x",
        "DATABASE=postgresql://user:word@host/db",
        "no assignment",
        "1=2",
    ],
)
def test_a_secret_is_not_submitted(assignment: str) -> None:
    with pytest.raises(UserError, match="--env"):
        jobs.environment_of([assignment])


def test_what_is_no_secret_is_submitted() -> None:
    assert jobs.environment_of(["A=b=c", "PASSWORD_FILE=/run/x", "MONKEY=1", "E="]) == {
        "A": "b=c",
        "PASSWORD_FILE": "/run/x",
        "MONKEY": "1",
        "E": "",
    }


@pytest.mark.parametrize(
    "command",
    [("submit", "demo"), ("stop", "demo"), ("logs", "demo"), ("logs", "demo", "-f")],
)
def test_a_cluster_that_does_not_answer_is_one_line(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli.app, [*command, "--address", "http://127.0.0.1:1"])
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: --address http://127.0.0.1:1: ")
    assert done.stderr.count("\n") == 1


def test_the_command_line_submits_and_stops(ray: FakeRay, config: StudyConfig) -> None:
    said = CliRunner().invoke(cli.app, ["submit", "demo", "--workers", "7", "--json"])
    assert json.loads(said.stdout)["job"] == "ude-study.demo.1"
    assert '"workers":7' in ray.submitted[0]["entrypoint"]
    again = CliRunner().invoke(cli.app, ["submit", "demo"])
    assert again.exit_code == 2
    assert "ude-study.demo.1" in again.stderr
    assert "ude-study.demo.1: stopped" in CliRunner().invoke(cli.app, ["stop", "demo"]).stdout
    missing = CliRunner().invoke(cli.app, ["logs", "typo"])
    assert (missing.exit_code, "no job of study 'typo'" in missing.stderr) == (2, True)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", None, 1), ("STOPPED", -15, 1)],
)
def test_waiting_ends_with_the_studys_own_status(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch, status: str, code: int | None, expected: int
) -> None:
    def follow(self: jobs.Jobs, study: str) -> Any:
        ray.known[-1].status, ray.known[-1].driver_exit_code = status, code
        yield "a line\n"

    monkeypatch.setattr(jobs.Jobs, "follow", follow)
    done = CliRunner().invoke(cli.app, ["submit", "demo", "--wait"])
    assert (done.exit_code, done.stdout) == (expected, "a line\n")


def test_secrets_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("postgresql://u:p@h/d\n", encoding="utf-8")
    monkeypatch.delenv("UDE_STUDY_STORAGE", raising=False)
    monkeypatch.setenv(STORAGE_FILE_VARIABLE, str(secret))
    assert database_url(None) == "postgresql+psycopg2://u:p@h/d"
    monkeypatch.setenv(MLFLOW_PASSWORD_FILE, str(secret))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    prepare_mlflow()
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "postgresql://u:p@h/d"
    secret.unlink()
    for read in (lambda: database_url(None), prepare_mlflow):
        with pytest.raises(UserError, match="No such file"):
            read()


def test_the_page_on_clusters_names_commands_that_exist() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "cluster.md"
    text = page.read_text(encoding="utf-8")
    lines = re.findall(r"^ude-study .*?(?=  #|$)", text, flags=re.MULTILINE)
    assert len(lines) >= 7
    for line in lines:
        command, words = command_of(shlex.split(line, comments=True)[1:])
        options = {name for parameter in command.params for name in parameter.opts}  # type: ignore[attr-defined]
        assert {word for word in words if word.startswith("-")} <= options, line
    for place in re.findall(r"(?<=[ `])docker/[\w./]+", text):
        assert (page.parents[1] / place).exists() or place == "docker/secrets", place
