"""Studies as Ray Jobs: a driver that runs on the cluster's head, started and stopped from afar.

A study's jobs are `ude-study.<study>.<n>`: Ray itself refuses an id twice, so of two submitters one
wins. The cluster keeps the secrets; what is submitted is shown in Ray's dashboard.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shlex
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ray.job_submission import JobStatus, JobSubmissionClient

from study.config import StudyConfig
from study.lease import StudyBusyError
from ude_core.errors import UserError

_PREFIX = "ude-study"
_STOP_SECONDS = 30
_GRACE_SECONDS = 15
_REASON_LENGTH = 300
_ENVIRONMENT = {
    # Ray's default of SIGTERM and three seconds would lose the last checkpoints.
    "RAY_JOB_STOP_SIGNAL": "SIGINT",
    "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS),
}
_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|(^|_)KEY(_|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Job:
    """One submission of a study. `status` is Ray's: PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED."""

    id: str
    number: int
    status: str
    message: str
    exit_code: int | None

    @property
    def ended(self) -> bool:
        """Whether its driver is gone."""
        return JobStatus(self.status).is_terminal()


class JobStuckError(RuntimeError):
    """A driver that was told to stop, or waited for, and goes on."""


class Jobs:
    """The studies of one cluster, by name. Raises UserError where the cluster cannot be reached."""

    def __init__(self, address: str) -> None:
        logging.getLogger("ray").setLevel(logging.ERROR)
        self.address = address
        with self._told():
            self._client = JobSubmissionClient(address)

    def submit(
        self,
        config: StudyConfig,
        *,
        root: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Job:
        """Start or continue the study of `config` on the cluster.

        `root` is a folder there (none: the cluster's own UDE_STUDY_ROOT); paths in `config` are the
        cluster's too. Raises StudyBusyError where a job runs the study already.
        """
        refuse_secrets(environment or {})
        latest = self.latest(config.name)
        if latest is not None and not latest.ended:
            raise self._busy(config.name, latest.id)
        number = 1 if latest is None else latest.number + 1
        name = f"{_PREFIX}.{config.name}.{number}"
        with self._told():
            try:
                self._client.submit_job(
                    entrypoint=entrypoint(config, root),
                    submission_id=name,
                    runtime_env={"env_vars": {**_ENVIRONMENT, **(environment or {})}},
                    metadata={"study": config.name},
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                raise self._busy(config.name, name) from None
        return self._known(config.name)

    def latest(self, study: str) -> Job | None:
        """Return the last job of a study, or None. A restarted head has forgotten them."""
        with self._told():
            found = [job for info in self._client.list_jobs() if (job := _job(info, study))]
        return max(found, key=lambda job: job.number, default=None)

    def stop(self, study: str) -> Job:
        """Have the driver of a study keep its workers' state and end; return its job.

        Raises UserError where none runs, and JobStuckError where it does not end.
        """
        job = self._known(study)
        if job.ended:
            raise UserError(f"study {study!r} does not run on {self.address} ({job.id} has ended)")
        with self._told():
            self._client.stop_job(job.id)
        return self.wait(study, _STOP_SECONDS + _GRACE_SECONDS)

    def wait(self, study: str, seconds: float) -> Job:
        """Wait until the last job of a study has ended. Raises JobStuckError after `seconds`."""
        deadline = time.monotonic() + seconds
        while not (job := self._known(study)).ended:
            if time.monotonic() > deadline:
                raise JobStuckError(f"{job.id} did not end within {seconds:.0f} s")
            time.sleep(0.5)
        return job

    def logs(self, study: str) -> str:
        """Return what the last driver of a study has written."""
        job = self._known(study)
        with self._told():
            return str(self._client.get_job_logs(job.id))

    def follow(self, study: str) -> Iterator[str]:
        """Yield what the last driver of a study writes, until it ends."""
        job = self._known(study)
        tail = self._client.tail_job_logs(job.id)
        with asyncio.Runner() as runner:
            while True:
                with self._told():
                    text = runner.run(_next(tail))
                if text is None:
                    return
                yield text

    def _known(self, study: str) -> Job:
        job = self.latest(study)
        if job is None:
            raise UserError(
                f"no job of study {study!r} is known on {self.address}; submit it, or see "
                "`ude-study status`, which asks the study database"
            )
        return job

    def _busy(self, study: str, job: str) -> StudyBusyError:
        return StudyBusyError(
            f"study {study!r} runs as {job} on {self.address}; wait for it, or stop it with "
            f"`ude-study stop {study}`"
        )

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say in one line where the cluster is away, or refuses us."""
        try:
            yield
        except UserError:
            raise
        except (OSError, RuntimeError) as error:
            said = " ".join(str(error).split())[:_REASON_LENGTH]
            raise UserError(
                f"--address {self.address}: {said}; name the dashboard of the cluster's head, and "
                "its token in RAY_AUTH_TOKEN_PATH"
            ) from None


def entrypoint(config: StudyConfig, root: str | None) -> str:
    """Return the command that the head runs for a job; the space comes with it.

    Raises UserError for a relative `root`.
    """
    if root is not None and not PurePosixPath(root).is_absolute():
        raise UserError(f"--root {root}: expected an absolute path, as the cluster's nodes see it")
    folder = '"${UDE_STUDY_ROOT:?is not set on the head; submit with --root}"'
    place = shlex.quote(root) if root is not None else folder
    return (
        f"exec ude-study launch /dev/stdin --address auto --root {place} <<'SPACE'\n"
        f"{space_of(config)}\nSPACE"
    )


def space_of(config: StudyConfig) -> str:
    """Return a space that says the same as `config`: JSON on one line, which YAML contains."""
    searched = dict.fromkeys(config.search, True)
    return config.model_dump_json(by_alias=True, exclude={"method": searched})


def environment_of(assignments: Sequence[str]) -> dict[str, str]:
    """Return `NAME=VALUE` assignments as a mapping. Raises UserError for what is none."""
    values: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(f"--env {assignment!r}: expected NAME=VALUE")
        values[name] = value
    refuse_secrets(values)
    return values


def refuse_secrets(environment: Mapping[str, str]) -> None:
    """Raise UserError for a variable that looks like a secret: everyone reads it in the dashboard."""
    for name, value in environment.items():
        place = name.endswith(("_FILE", "_PATH"))
        if (_SECRET.search(name) and not place) or urlsplit(value).password:
            raise UserError(
                f"--env {name} looks like a secret, and Ray's dashboard shows it; put it in a file "
                f"on the cluster and give its path ({name}_FILE), or in the cluster's own "
                "environment"
            )


async def _next(tail: AsyncIterator[str]) -> str | None:
    return await anext(tail, None)


def _job(info: Any, study: str) -> Job | None:
    match = re.fullmatch(rf"{_PREFIX}\.{re.escape(study)}\.(\d+)", info.submission_id or "")
    if match is None:
        return None
    return Job(
        id=info.submission_id,
        number=int(match[1]),
        status=str(info.status),
        message=str(info.message or ""),
        exit_code=info.driver_exit_code,
    )
