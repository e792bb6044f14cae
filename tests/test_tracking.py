"""MLflow mirrors the ledger: idempotent, nested, closed, and never in the way of a sweep."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from small_study import EPOCH, RESULT, SPACE

from study import tracking as tracking_module
from study.config import load_space
from study.ledger import Ledger
from study.names import Layout
from study.records import TrialRecord
from study.run_metrics import metric_name
from study.runs import StudyRuns
from study.tracking import Tracker
from ude_core.results import save_result
from ude_core.types import Interval, Undefined


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without studies, made once: its migrations take seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def layout(tmp_path: Path, empty_database: Path) -> Layout:
    layout = Layout.at(tmp_path / "runs")
    layout.root.mkdir()
    shutil.copy(empty_database, layout.mlflow_database)
    return layout


@pytest.fixture
def ledger(tmp_path: Path, layout: Layout) -> Iterator[Ledger]:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE, encoding="utf-8")
    ledger = Ledger.create_or_open(load_space(path), layout.root)
    yield ledger
    ledger.close()


def finished_trial(ledger: Ledger, **metrics: Any) -> TrialRecord:
    number = ledger.ask().number
    result = replace(RESULT, metrics={**RESULT.metrics, **metrics})
    save_result(result, ledger.places.trial(number))
    return ledger.tell(number, result)


def recorded(layout: Layout) -> dict[str, Run]:
    client = MlflowClient(layout.mlflow_uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    named = {run.info.run_name: run for run in runs}
    assert len(named) == len(runs), "a run was recorded twice"
    return named


def test_a_study_is_one_experiment_with_nested_closed_runs(ledger: Ledger, layout: Layout) -> None:
    record = finished_trial(ledger, **{"edema/tpr_ratio_gap": Undefined("TPR of male is 0")})
    failed = ledger.fail(ledger.ask().number, "OSError: the disk")
    runs = StudyRuns(ledger.config, layout)
    runs.begin()
    runs.reference({"eo_gap": Interval(52.0, 40.0, 64.0)})
    for closed in (record, failed):
        runs.finished(closed, (EPOCH, replace(EPOCH, epoch=2, seconds=1.5)))
    runs.end(complete=True)

    client = MlflowClient(layout.mlflow_uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    found = recorded(layout)
    assert set(found) == {"tiny", "trial 00000", "trial 00001"}
    parent, child = found["tiny"], found["trial 00000"]
    assert parent.data.metrics["erm/eo_gap"] == 52.0
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert [run.info.status for run in (parent, child, found["trial 00001"])] == [
        "FINISHED",
        "FINISHED",
        "FAILED",
    ]
    metrics = child.data.metrics
    assert (metrics["eo_gap"], metrics["eo_gap.low"], metrics["eo_gap.high"]) == (20.0, 19.0, 21.0)
    assert metrics["queries_spent"] == 42
    assert "edema/tpr_ratio_gap" not in metrics
    assert "TPR of male is 0" in child.data.tags["ude.undefined"]
    assert found["trial 00001"].data.tags["ude.reason"] == "OSError: the disk"
    assert child.data.params["step_size"] == str(record.params["step_size"])
    assert child.data.params["batch_size"] == "128"
    history = client.get_metric_history(child.info.run_id, "epoch/loss")
    assert [(point.step, point.value) for point in history] == [(1, -0.5), (2, -0.5)]
    assert [item.path for item in client.list_artifacts(child.info.run_id)] == ["noise.png"]
    assert (layout.mlflow_artifacts / "tiny").is_dir()


def test_recording_again_changes_nothing(ledger: Ledger, layout: Layout) -> None:
    record = finished_trial(ledger)
    for _ in range(2):
        runs = StudyRuns(ledger.config, layout)
        for _ in range(2):
            runs.begin()
            runs.finished(record, (EPOCH,))
            runs.end(complete=True)
    run = recorded(layout)["trial 00000"]
    client = MlflowClient(layout.mlflow_uri)
    for name in ("epoch/loss", "eo_gap", "eo_gap.low"):
        assert len(client.get_metric_history(run.info.run_id, name)) == 1


def test_an_interrupted_trial_is_closed_and_continues_in_its_run(
    ledger: Ledger, layout: Layout
) -> None:
    assignment = ledger.ask()
    runs = StudyRuns(ledger.config, layout)
    runs.started(assignment, ledger.trial(assignment.number).started)
    runs.epochs(0, [EPOCH], ledger.trial(0).started)
    assert recorded(layout)["trial 00000"].info.status == "RUNNING"
    runs.end(complete=False)
    assert {run.info.status for run in recorded(layout).values()} == {"KILLED"}

    again = StudyRuns(ledger.config, layout)
    again.started(assignment, ledger.trial(assignment.number).started)
    save_result(RESULT, ledger.places.trial(0))
    again.finished(ledger.tell(0, RESULT), (EPOCH, replace(EPOCH, epoch=2, seconds=1.0)))
    run = recorded(layout)["trial 00000"]
    assert run.info.status == "FINISHED"
    client = MlflowClient(layout.mlflow_uri)
    history = client.get_metric_history(run.info.run_id, "epoch/loss")
    assert [point.step for point in history] == [1, 2]


def test_a_run_whose_creation_was_lost_on_the_way_is_found(
    ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = StudyRuns(ledger.config, layout)
    create = MlflowClient.create_run

    def lossy(self: MlflowClient, *args: Any, **kwargs: Any) -> Run:
        create(self, *args, **kwargs)
        raise ConnectionError("the reply was lost")

    monkeypatch.setattr(MlflowClient, "create_run", lossy)
    assignment = ledger.ask()
    with pytest.raises(ConnectionError):
        runs.started(assignment, ledger.trial(assignment.number).started)
    monkeypatch.undo()
    runs.started(assignment, ledger.trial(assignment.number).started)
    assert set(recorded(layout)) == {"tiny", "trial 00000"}
    assert recorded(layout)["trial 00000"].data.params["samples"]


def test_the_tracker_records_in_the_background_and_catches_up(
    ledger: Ledger, layout: Layout
) -> None:
    finished_trial(ledger)
    ledger.set_reference({"eo_gap": Interval(52.0, 40.0, 64.0)}, 10)
    tracker = Tracker(ledger, layout)
    tracker.start()
    assignment = ledger.ask()
    tracker.started(assignment)
    tracker.epoch(assignment.number, asdict(EPOCH))
    save_result(RESULT, ledger.places.trial(assignment.number))
    tracker.finished(ledger.tell(assignment.number, RESULT))
    assert tracker.close(complete=True) == ()
    assert tracker.close(complete=False) == ()
    found = recorded(layout)
    assert {name: run.info.status for name, run in found.items()} == dict.fromkeys(
        ("tiny", "trial 00000", "trial 00001"), "FINISHED"
    )


def test_a_short_trial_is_written_once_and_with_its_own_times(
    ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    log_batch = MlflowClient.log_batch

    def counting(self: MlflowClient, run_id: str, *args: Any, **kwargs: Any) -> None:
        written.append(run_id)
        log_batch(self, run_id, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", counting)
    monkeypatch.setattr(tracking_module, "_GATHER_SECONDS", 60.0)
    tracker = Tracker(ledger, layout)
    tracker.start()
    ready = threading.Event()
    tracker._put("a mark", lambda runs: ready.set())
    assert ready.wait(120), "it makes up for earlier trials first"
    short, failing = ledger.ask(), ledger.ask()
    for trial in (short, failing):
        tracker.started(trial)
    for epoch in (EPOCH, replace(EPOCH, epoch=2, seconds=1.5)):
        tracker.epoch(short.number, asdict(epoch))
        tracker.epoch(failing.number, asdict(epoch))
    both = (EPOCH, replace(EPOCH, epoch=2, seconds=1.5))
    save_result(replace(RESULT, curve=both), ledger.places.trial(short.number))
    tracker.finished(ledger.tell(short.number, replace(RESULT, curve=both)))
    tracker.finished(ledger.fail(failing.number, "OSError: the disk"))
    assert tracker.close(complete=True) == ()
    found, client = recorded(layout), MlflowClient(layout.mlflow_uri)
    for number, status in ((0, "FINISHED"), (1, "FAILED")):
        run, record = found[f"trial 0000{number}"], ledger.trial(number)
        assert written.count(run.info.run_id) == 1
        assert run.info.status == status
        assert record.started is not None
        assert run.info.start_time == round(1000 * record.started.timestamp())
        assert run.info.end_time >= run.info.start_time
        assert run.data.params["step_size"] == str(record.params["step_size"])
        history = client.get_metric_history(run.info.run_id, "epoch/loss")
        assert [point.step for point in history] == [1, 2]


def test_epochs_written_before_are_not_written_again(ledger: Ledger, layout: Layout) -> None:
    runs = StudyRuns(ledger.config, layout)
    assignment = ledger.ask()
    runs.started(assignment, ledger.trial(0).started)
    runs.epochs(0, [EPOCH], ledger.trial(0).started)
    runs.finished(
        ledger.tell(0, RESULT), [replace(EPOCH, seconds=9.0), replace(EPOCH, epoch=2, seconds=9.5)]
    )
    run = recorded(layout)["trial 00000"]
    history = MlflowClient(layout.mlflow_uri).get_metric_history(run.info.run_id, "epoch/loss")
    assert [point.step for point in history] == [1, 2]


def test_a_server_that_is_away_is_reported_and_made_up_for(
    ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_module, "_LAST_CHANCE", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        tracker = Tracker(ledger, layout, f"http://127.0.0.1:{port}")
        tracker.start()
        began = time.monotonic()
        tracker.finished(finished_trial(ledger))
        assert time.monotonic() - began < 2, "the sweep waited for MLflow"
        problems = tracker.close(complete=True)
    assert problems
    assert any("trial 0" in problem for problem in problems)
    monkeypatch.setattr(tracking_module, "_LAST_CHANCE", 60.0)
    later = Tracker(ledger, layout)
    later.start()
    assert later.close(complete=True) == ()
    assert recorded(layout)["trial 00000"].info.status == "FINISHED"


def test_nothing_that_names_a_machine_or_a_person_is_recorded(
    ledger: Ledger, layout: Layout
) -> None:
    runs = StudyRuns(ledger.config, layout)
    runs.begin()
    runs.finished(finished_trial(ledger), (EPOCH,))
    runs.end(complete=True)
    for run in recorded(layout).values():
        said = " ".join([*run.data.tags.values(), *run.data.params.values()])
        assert socket.gethostname() not in said.split()
        assert str(layout.root) not in said
        assert run.info.user_id in ("", "unknown")


def test_metric_names_are_those_mlflow_accepts() -> None:
    assert metric_name("edema/tpr.female") == "edema/tpr.female"
    assert metric_name("edema/tpr.age≥65+") == "edema/tpr.age_65_"
