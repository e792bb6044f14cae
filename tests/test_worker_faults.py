"""Workers that are killed, stopped, starved or fed with broken files: each fault for real."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lone_worker import handed_out, run_to_end, start, worker
from PIL import Image
from small_study import QUICK

from study import trainable as trainable_module
from study.attempts import TRIES, Attempt, fence, read_failure
from study.config import StudyConfig, load_space
from study.harvest import harvest, settle
from study.ledger import Ledger
from study.materials import load_materials
from study.meter import paid_queries
from study.sweep import launch
from ude_core.errors import FingerprintError
from ude_core.evaluator import LocalEvaluator
from ude_core.results import load_noise, load_result
from ude_core.trial import CHECKPOINT, PREVIOUS, Trial

SECONDS = 300


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    path = tmp_path_factory.mktemp("space") / "quick.yaml"
    path.write_text(QUICK, encoding="utf-8")
    return load_space(path, ["budget.queries_per_trial=256", "scoring.repeats=1"])


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers answer, and checkpoint, after every local iteration."""
    monkeypatch.setattr(trainable_module, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(trainable_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainable_module, "CHECKPOINT_SHARE", float("inf"))


@pytest.mark.slow
def test_a_result_of_a_worker_killed_just_after_it_is_kept(
    config: StudyConfig, root: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = handed_out(ledger)
    killed = start(config, root, trial, "kill_after_result")
    killed.communicate(timeout=SECONDS)
    assert killed.returncode == -signal.SIGKILL
    folder = ledger.places.trial(trial["number"])
    written = (folder / "result.json").read_bytes()
    monkeypatch.setattr(Trial, "step", lambda _: pytest.fail("learnt again"))
    assert run_to_end(worker(config, root, trial)) == [{"done": True}]
    (record,) = [one for one in harvest(ledger) if one.number == trial["number"]]
    assert record.state == "complete"
    assert (folder / "result.json").read_bytes() == written


@pytest.mark.slow
def test_a_worker_that_slept_through_anothers_result_changes_nothing(
    config: StudyConfig, root: Path, ledger: Ledger
) -> None:
    trial = handed_out(ledger)
    folder = ledger.places.trial(trial["number"])
    asleep = start(config, root, trial)
    try:
        assert asleep.stdout is not None
        assert json.loads(asleep.stdout.readline())["done"] is False
        asleep.send_signal(signal.SIGSTOP)
        fence(folder)
        run_to_end(worker(config, root, trial))
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        asleep.send_signal(signal.SIGCONT)
        said, _ = asleep.communicate(timeout=SECONDS)
    finally:
        if asleep.poll() is None:
            asleep.kill()
            asleep.communicate()
    assert asleep.returncode == 0
    assert json.loads(said.splitlines()[-1])["done"] is True
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} <= {"queries.log"}
    assert ledger.tell(trial["number"], load_result(folder)).state == "complete"


@pytest.mark.slow
def test_a_worker_out_of_memory_is_retried_in_smaller_batches(
    config: StudyConfig, root: Path, ledger: Ledger
) -> None:
    trial = handed_out(ledger)
    folder = ledger.places.trial(trial["number"])
    starved = start(config, root, trial, "starve")
    starved.communicate(timeout=SECONDS)
    assert starved.returncode == 1
    failure = read_failure(folder)
    assert failure is not None
    assert (failure.out_of_memory, failure.permanent) == (True, False)
    assert settle(ledger, trial["number"], given_up=False) is None
    again = worker(config, root, trial)
    run_to_end(again)
    assert ledger.tell(trial["number"], load_result(folder)).params == trial["params"]


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_memory_that_runs_out_again_fails_the_trial(
    config: StudyConfig,
    root: Path,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    batches = []

    def broken(evaluator: LocalEvaluator, *_: Any) -> None:
        batches.append(evaluator.encoder.batch_size)
        raise error

    monkeypatch.setattr(LocalEvaluator, "evaluate", broken)
    trial = handed_out(ledger)
    with pytest.raises(type(error)):
        worker(config, root, trial).step()
    assert worker(config, root, trial).step()["done"] is True
    assert batches[1] == batches[0] // 2
    record = settle(ledger, trial["number"], given_up=False)
    assert record is not None
    assert record.state == "failed"
    assert record.reason.startswith(type(error).__name__)
    assert "half as large" in record.reason
    assert record.params == trial["params"]


def test_a_trial_that_kills_its_worker_at_one_place_is_given_up(
    config: StudyConfig, root: Path, ledger: Ledger
) -> None:
    trial = handed_out(ledger)
    folder = ledger.places.trial(trial["number"])
    folder.mkdir(parents=True)
    for _ in range(TRIES):
        Attempt.begin(folder)
    said = worker(config, root, trial).step()
    assert said["done"] is True
    record = settle(ledger, trial["number"], given_up=False)
    assert record is not None
    assert record.state == "failed"
    assert f"died without a word ({TRIES} times at local iteration 0)" in record.reason


@pytest.mark.slow
@pytest.mark.usefixtures("often")
def test_tries_are_counted_anew_where_a_trial_gets_further_or_is_launched_again(
    config: StudyConfig, root: Path, ledger: Ledger
) -> None:
    trial = handed_out(ledger)
    folder = ledger.places.trial(trial["number"])
    longer = config.budget.model_copy(update={"queries_per_trial": 64 * (TRIES + 4)})
    config = config.model_copy(update={"budget": longer})
    for _ in range(TRIES + 2):
        fresh = worker(config, root, trial)
        assert fresh.step()["done"] is False
    for _ in range(TRIES):
        Attempt.begin(folder)
    fence(folder)
    assert "done" in worker(config, root, trial).step()
    assert read_failure(folder) is None


@pytest.mark.slow
@pytest.mark.usefixtures("often")
def test_what_is_paid_is_counted_with_what_was_repeated(
    config: StudyConfig, root: Path, ledger: Ledger
) -> None:
    straight, broken = handed_out(ledger), handed_out(ledger)
    run_to_end(worker(config, root, straight))
    folder = ledger.places.trial(straight["number"])
    assert paid_queries(folder) == load_result(folder).queries.total
    folder = ledger.places.trial(broken["number"])
    first = worker(config, root, broken)
    for _ in range(2):
        first.step()
    kept = {name: (folder / name).read_bytes() for name in (CHECKPOINT, PREVIOUS)}
    once = paid_queries(folder)
    first.step()
    lost = paid_queries(folder) - once
    for name, content in kept.items():
        (folder / name).write_bytes(content)  # as if killed before its last checkpoint
    run_to_end(worker(config, root, broken))
    assert paid_queries(folder) == load_result(folder).queries.total + lost


@pytest.mark.slow
@pytest.mark.usefixtures("often")
def test_a_corrupt_checkpoint_costs_no_more_than_the_step_to_the_one_before(
    config: StudyConfig, root: Path, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    trial = handed_out(ledger)
    folder = ledger.places.trial(trial["number"])
    run_to_end(worker(config, root, trial))
    straight = load_noise(folder)
    paid = paid_queries(folder)
    for left in folder.iterdir():
        left.unlink()
    stopped = worker(config, root, trial)
    for _ in range(3):
        stopped.step()
    (folder / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes()[:-1] + b"\x07")
    run_to_end(worker(config, root, trial))
    assert "checkpoint left aside" in caplog.text
    assert load_noise(folder).equal(straight)
    one_iteration = trial["params"].get("samples", 2) * 2 * 16
    assert paid_queries(folder) == paid + one_iteration


def test_images_that_changed_before_a_resume_stop_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    rows = []
    for number in range(120):
        name = f"images/{number:03}.png"
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(
            tmp_path / "data" / name
        )
        rows.append(
            {
                "Path": name,
                "PatientID": f"p{number:03}",
                "Frontal/Lateral": "Frontal",
                "Sex": "Male" if number % 2 else "Female",
                "Age": 50,
                "Edema": float(number // 2 % 2),
                "No Finding": 1.0 - number // 2 % 2,
            }
        )
    pd.DataFrame(rows).to_csv(tmp_path / "data" / "cohort.csv", index=False)
    space = tmp_path / "mini.yaml"
    space.write_text(
        QUICK.replace(
            "cohort: {kind: phantom, patients: 160}",
            "cohort: {kind: csv, root: data, csv: cohort.csv, diseases: [edema], image_size: 64}",
        ),
        encoding="utf-8",
    )
    config = load_space(space, ["bias.train_per_group=8", "bias.gap=0.5"])
    ledger = Ledger.create_or_open(config, tmp_path / "runs")
    materials = load_materials(config, tmp_path / "runs" / "cache")
    ledger.check_fingerprints(materials.fingerprints)
    ledger.ask()
    ledger.close()
    Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(images / "007.png")
    with pytest.raises(FingerprintError, match="the cohort changed since the study began"):
        launch(config, tmp_path / "runs", quiet=True)
