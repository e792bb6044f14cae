"""What runs in a worker, driven by hand: steps, checkpoints, results, failures. No Ray is started."""

from pathlib import Path

import pytest
from lone_worker import handed_out, run_to_end, worker
from small_study import QUICK

from study import trainable as trainable_module
from study.attempts import Attempt, read_failure
from study.config import StudyConfig, load_space
from study.ledger import Ledger
from study.rung_records import Pruned, read_rungs, write_pruned
from ude_core import trial as trial_module
from ude_core.errors import PermanentEncoderError
from ude_core.results import has_result, load_noise, load_result
from ude_core.trial import CHECKPOINT, Trial


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    path = tmp_path_factory.mktemp("space") / "quick.yaml"
    path.write_text(QUICK, encoding="utf-8")
    return load_space(path)


def test_a_worker_runs_one_trial_after_another(
    config: StudyConfig, root: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable_module, "STEP_SECONDS", 0.0)
    first, second = handed_out(ledger), handed_out(ledger)
    one = worker(config, root, first)
    said = run_to_end(one)
    epochs = [step["progress"]["epoch"] for step in said if step.get("progress")]
    assert epochs == list(range(1, len(epochs) + 1))
    folder = ledger.places.trial(first["number"])
    assert has_result(folder)
    assert not (folder / CHECKPOINT).exists()
    assert one.reset_config(second)
    run_to_end(one)
    assert has_result(ledger.places.trial(second["number"]))


def test_short_epochs_are_reported_together_and_kept_one_by_one(
    config: StudyConfig, root: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable_module, "STEP_SECONDS", 600.0)
    monkeypatch.setattr(trainable_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainable_module, "CHECKPOINT_SHARE", float("inf"))
    saved: list[int] = []
    save = Trial.save
    monkeypatch.setattr(
        Trial, "save", lambda self, folder: (saved.append(self.iteration), save(self, folder))
    )
    trial = handed_out(ledger)
    said = run_to_end(worker(config, root, trial))
    curve = load_result(ledger.places.trial(trial["number"])).curve
    assert len(curve) > 1
    assert [step["progress"]["epoch"] for step in said if step.get("progress")] == [len(curve)]
    assert saved == list(range(1, saved[-1] + 1)), "no iteration would have to be repeated"


def test_a_trial_with_a_result_is_not_run_again(
    config: StudyConfig, root: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = handed_out(ledger)
    run_to_end(worker(config, root, trial))
    monkeypatch.setattr(Trial, "result", lambda _: pytest.fail("scored again"))
    assert run_to_end(worker(config, root, trial)) == [{"done": True}]


def test_a_stopped_trial_continues_to_the_same_noise(
    config: StudyConfig, root: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable_module, "STEP_SECONDS", 0.0)
    trial = handed_out(ledger)
    folder = ledger.places.trial(trial["number"])
    run_to_end(worker(config, root, trial))
    straight = load_noise(folder)
    for left in folder.iterdir():
        left.unlink()

    stopped = worker(config, root, trial)
    for _ in range(3):
        stopped.step()
    stopped.cleanup()
    assert (folder / CHECKPOINT).exists()
    run_to_end(worker(config, root, trial))
    assert load_noise(folder).equal(straight)


def test_an_attempt_that_was_superseded_writes_nothing(
    config: StudyConfig, root: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable_module, "CHECKPOINT_SECONDS", 0.0)
    trial = handed_out(ledger)
    folder = ledger.places.trial(trial["number"])
    asleep = worker(config, root, trial)
    asleep.step()
    kept = (folder / CHECKPOINT).read_bytes()
    Attempt.begin(folder)
    said = run_to_end(asleep)
    assert "in other hands" in said[-1]["note"]
    asleep.cleanup()
    assert not has_result(folder)
    assert (folder / CHECKPOINT).read_bytes() == kept


@pytest.mark.parametrize(
    ("error", "permanent"),
    [(PermanentEncoderError("401"), True), (OSError("the disk"), False)],
)
def test_a_failure_leaves_word_and_says_whether_to_try_again(
    config: StudyConfig,
    root: Path,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    permanent: bool,
) -> None:
    def broken(_: Trial) -> None:
        raise error

    monkeypatch.setattr(Trial, "result", broken)
    trial = handed_out(ledger)
    one = worker(config, root, trial)
    if permanent:
        assert run_to_end(one)[-1]["done"]
    else:
        with pytest.raises(type(error)):
            run_to_end(one)
    failure = read_failure(ledger.places.trial(trial["number"]))
    assert failure is not None
    assert failure.permanent is permanent
    assert failure.reason.startswith(type(error).__name__)


def test_a_worker_waits_at_each_rung_and_says_it_again_to_a_later_driver(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rungs.yaml"
    path.write_text(QUICK, encoding="utf-8")
    config = load_space(path, ["pruning.name=pareto_rank"])
    ledger = Ledger.create_or_open(config, root)
    trial = handed_out(ledger)
    folder = ledger.places.trial(trial["number"])
    ledger.close()
    one = worker(config, root, trial)
    while "rung" not in (said := one.step()):
        assert not said["done"]
    told = read_rungs(folder)
    assert told is not None
    assert [rung.share for rung in told.rungs] == [0.25]
    assert told.spent.scoring > 0
    assert told.planned > told.spent.total

    (folder / CHECKPOINT).unlink()
    write_pruned(folder, Pruned("stopped", told.spent, 1))
    one.cleanup()
    assert not (folder / CHECKPOINT).exists()
    (folder / "pruned.json").unlink()
    one.cleanup()

    monkeypatch.setattr(trial_module, "look_at", lambda *_, **__: pytest.fail("looked again"))
    again = worker(config, root, trial)
    assert again.step()["rung"] == 1
    assert read_rungs(folder) == told
    monkeypatch.undo()
    later = [step["rung"] for step in run_to_end(again) if "rung" in step]
    assert later == [2]
    everything = read_rungs(folder)
    assert everything is not None
    looks = sum(rung.scoring_queries for rung in everything.rungs)
    assert load_result(folder).queries.total == everything.planned + looks
