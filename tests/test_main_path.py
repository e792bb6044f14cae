"""The newcomer's path as a person walks it: launch, pareto, confirm, export, verify, apply, again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from mlflow_server import free_port
from PIL import Image

from study import Study, load_space
from study.materials import load_cohort
from ude_core.encoders.phantom_vit import load_phantom_vit
from ude_core.evaluator import embed_images
from ude_core.results import load_noise

pytestmark = pytest.mark.slow

SMALL = (
    "cohort.patients=500",
    "bias.train_per_group=50",
    "bias.validation_per_cell=25",
    "bias.test_per_cell=25",
    "scoring.repeats=3",
    "scoring.bootstrap_draws=50",
    "budget.queries_per_trial=2000",
    "confirm.repeats=3",
    "confirm.controls=2",
)
DISEASES = ("pleural_effusion", "pneumonia", "edema")


class Shell:
    """The installed command, in a home of its own."""

    def __init__(self, home: Path) -> None:
        self.root = home / "runs"
        self.env = {
            **os.environ,
            "HOME": str(home),
            "RAY_TMPDIR": "/tmp",
            "UDE_STUDY_ROOT": str(self.root),
        }

    def run(self, *words: str, status: int = 0) -> str:
        command = [str(Path(sys.executable).parent / "ude-study"), *words]
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def serving(self, port: int) -> Iterator[str]:
        command = [str(Path(sys.executable).parent / "ude-study"), "serve", "--port", str(port)]
        server = subprocess.Popen(
            command,
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            while not _answers(f"{address}/health"):
                assert server.poll() is None
                time.sleep(0.3)
            yield address
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5.0).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    shell = Shell(tmp_path_factory.mktemp("home"))
    shell.run("launch", "demo", "--trials", "3", *_sets())
    shell.run("confirm", "demo")
    shell.run(
        "export", "demo", "--all-diseases", "--policy", "min-gap", "--out", str(shell.root / "out")
    )
    return shell


def test_status_is_as_in_the_contract(shell: Shell) -> None:
    status = json.loads(shell.run("status", "demo", "--json"))
    assert status["counts"] == {
        "complete": 3,
        "failed": 0,
        "running": 0,
        "waiting": 0,
        "pruned": 0,
    }
    assert (status["study"], status["target"]) == ("demo", 3)
    trials = json.loads(shell.run("trials", "demo", "--json"))["trials"]
    assert status["queries"] > sum(trial["queries"] for trial in trials) > 3 * 2000 * 0.8


def test_pareto_is_as_in_the_contract(shell: Shell) -> None:
    for disease in DISEASES:
        front = json.loads(shell.run("pareto", "demo", "--disease", disease, "--json"))
        assert {objective["direction"] for objective in front["objectives"]} == {
            "minimize",
            "maximize",
        }
        assert front["disease"] == disease
        assert len(front["points"]) == 3
        assert any(point["front"] for point in front["points"])
        for point in front["points"]:
            assert set(point["metrics"]["eo_gap"]) >= {"mean", "low", "high"}
        assert set(front["reference"]["erm"]["eo_gap"]) >= {"mean", "low", "high"}
        assert front["hypervolume"] >= 0


def test_a_second_launch_runs_nothing_again(shell: Shell) -> None:
    before = shell.run("trials", "demo", "--json")
    results = sorted(shell.root.glob("demo/trials/*/result.json"))
    stamps = [path.stat().st_mtime_ns for path in results]
    shell.run("launch", "demo", "--trials", "3", *_sets())
    assert shell.run("trials", "demo", "--json") == before
    assert [path.stat().st_mtime_ns for path in results] == stamps
    assert "unchanged" in shell.run("confirm", "demo")


def test_another_setting_under_the_same_name_is_refused_in_one_line(shell: Shell) -> None:
    said = shell.run("launch", "demo", "--trials", "3", *_sets(), "--set", "seed=8", status=2)
    assert len(said.strip().splitlines()) == 1
    assert "seed" in said


def test_the_mlflow_record_equals_the_ledger(shell: Shell) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{shell.root}/mlflow.db")
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    children = {r.data.tags["ude.trial"]: r for r in runs if "ude.trial" in r.data.tags}
    assert len(runs) == 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    for _, trial in Study.open("demo", root=shell.root).trials().iterrows():
        run = children[f"{trial['number']:05d}"]
        for name in ("eo_gap", "accuracy", "edema/eo_gap", "edema/eo_gap.high"):
            assert run.data.metrics[name] == pytest.approx(trial[name])
        assert float(run.data.params["step_size"]) == pytest.approx(trial["params.step_size"])
        assert "noise.png" in [a.path for a in client.list_artifacts(run.info.run_id)]


def test_a_flipped_byte_is_refused(shell: Shell, tmp_path: Path) -> None:
    bundle = shell.root / "out" / "edema"
    shell.run("verify", str(bundle))
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    content = bytearray((copy / "noise.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "noise.safetensors").write_bytes(bytes(content))
    said = shell.run("verify", str(copy), status=2)
    assert "noise.safetensors" in said


def test_applied_files_embed_exactly_as_the_trial_scored(shell: Shell, tmp_path: Path) -> None:
    """PNGs in, PNGs out, through the encoder: bit for bit φ(apply(x, ε)) of the trial."""
    bundle = shell.root / "out" / "edema"
    trial = json.loads((bundle / "manifest.json").read_text())["trial"]
    config = load_space("demo", list(SMALL))
    images = np.array(load_cohort(config, None).images[:40])
    source, edited = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for index, pixels in enumerate(images):
        Image.fromarray(pixels).save(source / f"{index:03}.png")
    shell.run("apply", str(bundle), str(source), str(edited))
    files = sorted(edited.glob("*.png"))
    assert [file.name for file in files] == [f"{index:03}.png" for index in range(40)]
    from_files = np.stack([np.asarray(Image.open(file)) for file in files])
    encoder = load_phantom_vit()
    noise = load_noise(shell.root / "demo" / "trials" / f"{trial:05d}")
    assert torch.equal(
        embed_images(encoder, from_files), embed_images(encoder, images, noise, "deploy")
    )
    assert not torch.equal(embed_images(encoder, from_files), embed_images(encoder, images))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_from_the_sweep_to_the_browser_to_an_edited_film(shell: Shell, tmp_path: Path) -> None:
    """README, word by word: serve, the page, its export, films, verify, apply."""
    from chromium import chromium, page, painted

    port = free_port()
    with shell.serving(port) as address, chromium() as browser, page(browser) as opened:
        opened.goto(f"{address}/ude/", wait_until="commit")
        opened.click("text=demo")
        painted(opened)
        opened.locator("[data-trial]").first.click()
        opened.click("#export")
        opened.wait_for_selector("#detail code")
        bundle = shell.root / opened.inner_text("#detail code")
    assert "pixels" in json.loads((bundle / "manifest.json").read_text())
    shell.run("verify", str(bundle))
    films, edited = tmp_path / "images", tmp_path / "edited"
    assert "5 synthetic" in shell.run("cohort", "films", "demo", str(films), "--count", "5")
    assert "holds files" in shell.run("cohort", "films", "demo", str(films), status=2)
    assert "patients" in shell.run("cohort", "films", "nih_mini", str(tmp_path / "no"), status=2)
    shell.run("apply", str(bundle), str(films), str(edited))
    for film in sorted(films.iterdir()):
        before, after = (np.asarray(Image.open(f / film.name)) for f in (films, edited))
        assert before.shape == after.shape
        assert (before != after).any()


def test_python_reads_the_same_study(shell: Shell, tmp_path: Path) -> None:
    study = Study.open("demo", root=shell.root)
    assert list(study.trials()["state"]) == ["complete"] * 3
    front = study.front("edema")
    assert front["front"].any()
    folder = study.export("edema", tmp_path / "bundle", policy="min-gap")
    assert (folder / "noise.safetensors").read_bytes() == (
        shell.root / "out" / "edema" / "noise.safetensors"
    ).read_bytes()


def _sets() -> list[str]:
    return [word for change in SMALL for word in ("--set", change)]
