"""The images' scripts, compose.yaml and the KubeRay manifests, without an engine to run them."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from study.cli import app
from study.config import load_space
from study.jobs import entrypoint

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
SCRIPTS = sorted(DOCKER.glob("*.sh"))
COMPOSE: dict[str, Any] = yaml.safe_load(
    re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DOCKER / "compose.yaml").read_text(encoding="utf-8"))
)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if name != "postgres"}
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
LOCAL = [sys.executable, str(DOCKER / "local_cluster.py")]


def manifest(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / "kuberay" / name).read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_can_be_run(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize(
    ("script", "missing"),
    [
        ("mlflow.sh", "MLFLOW_USERS_FILE"),
        ("ray-head.sh", "RAY_AUTH_TOKEN_PATH"),
        ("ray-worker.sh", "RAY_AUTH_TOKEN_PATH"),
        ("driver.sh", "RAY_AUTH_TOKEN_PATH"),
    ],
)
def test_nothing_starts_without_its_secrets(script: str, missing: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(DOCKER / script)],
        env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert missing in done.stderr


def test_secrets_are_made_once_and_closed(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    make = [str(DOCKER / "secrets.sh"), str(folder)]
    subprocess.run(make, check=True)
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert set(made) == set(COMPOSE["secrets"])
    plain = [made[name] for name in made if not name.endswith("_url")]
    assert len(set(plain)) == len(plain)
    assert all(len(secret) == 64 for secret in plain)
    assert made["mlflow_url"] == (
        f"postgresql+psycopg2://ude:{made['postgres_password']}@postgres/mlflow"
    )
    (folder / "ray_token").chmod(0o600)
    (folder / "ray_token").unlink()
    subprocess.run(make, check=True, env={**os.environ, "SECRET_MODE": "600"})
    again = {path.name: path.read_text() for path in folder.iterdir()}
    assert again.pop("ray_token") != made.pop("ray_token")
    assert again == made
    assert stat.S_IMODE((folder / "ray_token").stat().st_mode) == 0o600


def test_compose_refers_to_nothing_that_is_not_there() -> None:
    for name, service in SERVICES.items():
        for script in service.get("entrypoint", ()):
            assert (DOCKER / script).is_file(), name
        assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"]), name
        assert set(service.get("networks", ())) <= set(COMPOSE["networks"]), name
        assert set(service.get("depends_on", ())) <= set(SERVICES), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (DOCKER / source).exists(), volume
    for path in re.findall(r"COPY (?!--from)(.+) \S+\n", DOCKERFILE):
        for source in path.split():
            assert list(ROOT.glob(source)), source


def test_compose_hands_every_secret_over_as_a_file_that_is_mounted() -> None:
    for name, service in SERVICES.items():
        for variable, value in service["environment"].items():
            if str(value).startswith("/run/secrets/"):
                assert variable.endswith(("_FILE", "_PATH")), variable
                assert Path(value).name in service["secrets"], f"{name}: {variable}"
            else:
                assert not re.search(r"PASSWORD|TOKEN|SECRET|://\w+:\w+@", f"{variable}={value}")


def test_compose_gives_a_script_what_it_asks_for() -> None:
    for name, service in OURS.items():
        script = (DOCKER / service["entrypoint"][0]).read_text(encoding="utf-8")
        for variable in re.findall(r"\$\{(\w+):\?", script):
            assert variable in service["environment"], f"{name}: {variable}"
        known = script + "".join(path.read_text() for path in (ROOT / "study").glob("*.py"))
        for variable in service["environment"]:
            known_to_mlflow = variable in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME")
            assert variable in known or known_to_mlflow, f"{name}: nobody reads {variable}"


def test_compose_keeps_to_the_security_baseline() -> None:
    for name, service in OURS.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "privileged" not in service, name
        assert name == "driver" or service["healthcheck"]["test"], name
    for name, service in SERVICES.items():
        assert "no-new-privileges:true" in service["security_opt"], name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
    assert "records" not in SERVICES["ray-worker"]["networks"]
    assert "mlflow" not in [s for s in SERVICES if "cluster" in SERVICES[s]["networks"]]
    assert COMPOSE["networks"]["records"]["internal"] is True
    assert re.search(r"^USER ude$", DOCKERFILE, flags=re.MULTILINE)
    mlflow = (DOCKER / "mlflow.sh").read_text(encoding="utf-8")
    for setting in (
        "default_permission = NO_PERMISSIONS",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false",
        "MLFLOW_DISABLE_TELEMETRY=true",
        "--allowed-hosts",
        "${MLFLOW_APP:-ude-study-auth}",
    ):
        assert setting in mlflow


def test_gpu_workers_reserve_gpus() -> None:
    (device,) = SERVICES["ray-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_the_compose_plugin_agrees_where_it_is_installed(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    plugin = [docker or "docker", "compose"]
    if docker is None or _fails([*plugin, "version"]):
        assert set(COMPOSE) == {"name", "x-image", "x-worker", "services", "networks", "volumes",
                                "secrets"}  # fmt: skip
        return
    done = subprocess.run(
        [*plugin, "-f", str(DOCKER / "compose.yaml"), "--profile", "gpu", "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_dockerfile_installs_what_is_locked() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for package in ("torch", "torchvision", "setuptools", "Flask-WTF", "psycopg2-binary"):
        assert re.search(rf"^{package}==", lock, flags=re.MULTILINE | re.IGNORECASE), package
    assert "--constraint requirements.lock" in DOCKERFILE


def _fails(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def pods() -> list[tuple[str, dict[str, Any]]]:
    spec = manifest("raycluster.yaml")["spec"]
    groups = [
        ("head", spec["headGroupSpec"]),
        *((g["groupName"], g) for g in spec["workerGroupSpecs"]),
    ]
    return [(name, group["template"]["spec"]) for name, group in groups]


def test_the_ray_cluster_scales_and_keeps_to_the_baseline() -> None:
    cluster = manifest("raycluster.yaml")
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    spec = cluster["spec"]
    assert set(spec) == {"rayVersion", "authOptions", "enableInTreeAutoscaling",
                         "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}  # fmt: skip
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert f"ray=={spec['rayVersion']}" in lock.splitlines()
    assert spec["authOptions"]["mode"] == "token"
    assert spec["enableInTreeAutoscaling"] is True
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        quota = json.loads(json.loads(group["rayStartParams"]["resources"]))
        assert all(amount > 0 for amount in quota.values())
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["limits"] == container["resources"]["requests"]
            for variable in container.get("env", ()):
                assert not re.search(r"PASSWORD$|TOKEN$|SECRET", variable["name"])


def test_volumes_and_jobs_meet_the_cluster() -> None:
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for _, pod in pods()
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims == {manifest("storage.yaml")["metadata"]["name"]}
    job = manifest("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert (
        spec["clusterSelector"]["ray.io/cluster"] == manifest("raycluster.yaml")["metadata"]["name"]
    )
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"] == {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": "30",
    }
    check_command(shlex.split(spec["entrypoint"])[1:])


def check_command(words: list[str]) -> None:
    group = typer.main.get_command(app)
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    options = {name for parameter in command.params for name in parameter.opts}
    for word in words[1:]:
        assert not word.startswith("-") or word in options, word


def test_the_command_of_a_job_is_one_of_ours() -> None:
    first, space, last = entrypoint(load_space("demo"), "/shared/my runs").splitlines()
    words = shlex.split(first.removeprefix("exec ").removesuffix(f" <<'{last}'"))
    check_command(words[1:])
    assert words[-1] == "/shared/my runs"
    assert json.loads(space)["study"] == "demo"


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [*LOCAL, "--mlflow-port", str(port)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "--mlflow-port" in done.stderr


@pytest.mark.slow
def test_the_whole_service_on_this_machine() -> None:
    done = subprocess.run(
        [*LOCAL, "--trials", "3"], capture_output=True, text=True, check=False, timeout=570
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["trials"], found["runs"]) == (3, 4)
    assert (found["mlflow_without_password"], found["mlflow_with_password"]) == (401, 200)
    assert (found["pages_without_password"], found["pages_with_password"]) == (401, 200)


@pytest.mark.slow
def test_an_interrupted_service_leaves_nothing_behind() -> None:
    running = subprocess.Popen(LOCAL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert "PostgreSQL runs" in running.stdout.readline()
    time.sleep(1)
    family = _descendants(running.pid)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert (running.returncode, said.splitlines()[-1]) == (
        130,
        "interrupted: everything was stopped",
    )
    assert family
    assert not [process for process in family if process.is_running()]


def _descendants(pid: int) -> list[Any]:
    import psutil

    return psutil.Process(pid).children(recursive=True)
