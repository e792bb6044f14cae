"""The registry holds what the bundle holds, once, and gives it back without a pickle."""

import json
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from finished import finished_study
from mlflow import MlflowClient
from mlflow_server import MlflowServer
from typer.testing import CliRunner

from study import cli
from study.api import Study
from study.names import Layout
from study.policies import Policy, parse_policy
from study.publish import Published, export_point, publish
from study.runs import trial_run
from study.tracking import synchronize
from ude_core.bundle import load_bundle
from ude_core.editing import edit_images

KNEE = parse_policy("knee")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """A study that the root's own MLflow database knows."""
    root = tmp_path_factory.mktemp("registry")
    with finished_study(root) as finished:
        synchronize(finished.ledger, Layout.at(root))
        yield finished


def client_of(study: Study) -> MlflowClient:
    uri = Layout.at(study.root).mlflow_uri
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def versions(client: MlflowClient, name: str) -> list[int]:
    return sorted(int(one.version) for one in client.search_model_versions(f"name = '{name}'"))


# torch, the engine and the service cannot be imported: the code file stands alone.
_LOADS = """
import pickle, sys
for name in ("torch", "ude_core", "study"):
    sys.modules[name] = None
import cloudpickle, mlflow.pyfunc, numpy as np
def never(*args, **kwargs):
    raise AssertionError("a pickle was read")
for module in (pickle, cloudpickle):
    module.load = module.loads = never
uri, name, images, out = sys.argv[1:]
mlflow.set_tracking_uri(uri)
mlflow.set_registry_uri(uri)
model = mlflow.pyfunc.load_model(f"models:/{name}@best")
np.save(out, model.predict(np.load(images)), allow_pickle=False)
for wrong in (np.zeros((1, 9, 9), np.uint8), np.zeros((1, 64, 64), np.float32)):
    try:
        model.predict(wrong)
    except Exception as error:
        print(type(error).__name__)
    else:
        raise AssertionError(wrong.shape)
"""


def gray_levels(size: int) -> np.ndarray:
    return np.arange(256, dtype=np.uint8).repeat(size * size).reshape(256, size, size)


@pytest.mark.slow
def test_a_model_of_a_real_server_loads_alone_without_pickle_and_edits_bit_for_bit(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MlflowServer(tmp_path)
    server.start()
    try:
        synchronize(study.ledger, Layout.at(study.root), server.uri)
        out = tmp_path / "bundles"
        first = publish(study, KNEE, out, uri=server.uri)
        names = ["ude-noise-pleural_effusion", "ude-noise-pneumonia", "ude-noise-edema"]
        assert [one.note for one in first] == ["", "", ""]
        assert [one.registered and one.registered.name for one in first] == names
        assert all(one.registered and one.registered.fresh and not one.note for one in first)
        again = publish(study, KNEE, out, uri=server.uri)
        assert all(one.registered and not one.registered.fresh for one in again)
        client = MlflowClient(server.uri, server.uri)
        assert versions(client, "ude-noise-edema") == [1]

        np.save(tmp_path / "images.npy", gray_levels(64))
        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        edited = tmp_path / "edited.npy"
        command = [sys.executable, "-c", _LOADS, server.uri, "ude-noise-edema"]
        command += [str(tmp_path / "images.npy"), str(edited)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False,
                              cwd=tmp_path, env={"PATH": "", "HOME": str(tmp_path)})  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.split()) == 2
        expected = edit_images(load_bundle(out / "edema"), gray_levels(64))
        assert np.array_equal(np.load(edited), expected)
    finally:
        server.kill()
    away = publish(study, KNEE, tmp_path / "away", disease="edema", uri=server.uri)[0]
    assert away.exported.written
    assert away.registered is None
    assert "not registered in MLflow" in away.note


@pytest.mark.slow
def test_the_alias_follows_the_last_export_and_versions_are_made_once(
    study: Study, tmp_path: Path
) -> None:
    client, name = client_of(study), "ude-noise-pneumonia"
    one, two, back = (
        export_point(study, "pneumonia", trial, tmp_path / f"{trial}") for trial in (0, 2, 0)
    )
    assert [p.registered and p.registered.version for p in (one, two, back)] == [1, 2, 1]
    assert versions(client, name) == [1, 2]
    best = client.get_model_version_by_alias(name, "best")
    assert (best.version, best.tags["ude.trial"], best.tags["ude.policy"]) in (
        ("1", "0", "trial=0"), (1, "0", "trial=0"))  # fmt: skip
    run = client.get_run(best.run_id)
    assert run.info.run_name == "trial 00000"


@pytest.mark.slow
def test_minimax_has_a_model_of_its_own_and_the_command_says_where(
    study: Study, tmp_path: Path
) -> None:
    arguments = ["export", "tiny", "--policy", "minimax", "--out", str(tmp_path / "b")]
    arguments += ["--root", str(study.root), "--onnx"]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert "models:/ude-noise-minimax@best is version 1" in done.stdout
    said = json.loads(CliRunner().invoke(cli.app, [*arguments, "--json"]).stdout)
    assert said[0]["registered"] == {"name": "ude-noise-minimax", "version": 1, "fresh": False}
    model = client_of(study).get_model_version_by_alias("ude-noise-minimax", "best")
    files = client_of(study).list_artifacts(
        model.run_id, model.source.split("/", 2)[2] + "/artifacts/bundle"
    )
    assert "edit.onnx" in {Path(one.path).name for one in files}


def test_without_mlflow_the_export_is_done_and_says_so(tmp_path: Path) -> None:
    with finished_study(tmp_path) as fresh:
        done = export_point(fresh, "edema", 1, tmp_path / "out")
        assert done.exported.written
        assert done.registered is None
        assert "nothing of tiny is in MLflow yet" in done.note
        quiet = export_point(fresh, "edema", 1, tmp_path / "out", register=False)
        assert quiet == Published(quiet.exported)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
        away = publish(fresh, KNEE, tmp_path / "all", uri=nobody)
        assert len(away) == 3
        assert all(one.exported.written and "not registered in MLflow" in one.note for one in away)
    assert not (tmp_path / "mlflow.db").exists()


def copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


@pytest.mark.slow
def test_a_trial_that_mlflow_does_not_know_and_an_altered_bundle_are_not_registered(
    study: Study, tmp_path: Path
) -> None:
    from study.registry import register_bundle
    from ude_core.errors import BundleError

    client = client_of(study)
    done = export_point(study, "edema", 3, tmp_path / "b")
    assert done.registered is not None
    (tmp_path / "b" / "MODEL_CARD.md").write_text("better than it is")
    with pytest.raises(BundleError, match="altered"):
        register_bundle(client, tmp_path / "b")
    with finished_study(tmp_path / "other") as stranger:
        copy_database(
            Layout.at(study.root).mlflow_database, Layout.at(stranger.root).mlflow_database
        )
        run = trial_run(client, "tiny", 4)
        assert run is not None
        client_of(stranger).delete_run(run)
        unknown = publish(stranger, Policy("trial", 4), tmp_path / "c", disease="pneumonia")[0]
    assert unknown.exported.written
    assert "not in MLflow yet; ude-study sync tiny" in unknown.note
