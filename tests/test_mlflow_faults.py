"""A real MLflow server that is killed, restarted, emptied, or whose replies are lost."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow_server import LossyProxy, MlflowServer
from small_study import EPOCH, RESULT, SPACE

from study import tracking as tracking_module
from study.config import load_space
from study.lease import StudyBusyError
from study.ledger import Ledger
from study.names import Layout
from study.records import TrialRecord
from study.runs import StudyRuns
from study.tracking import Tracker, TrackingUnavailableError, synchronize
from ude_core.results import load_result, save_result
from ude_core.types import Interval

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def ledger(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ledger]:
    """A study of the test's own name, since all share the server."""
    monkeypatch.setattr(tracking_module, "_LONGEST_PAUSE", 1.0)
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE, encoding="utf-8")
    ledger = Ledger.create_or_open(
        load_space(path, study=request.node.originalname[:60]), tmp_path / "runs"
    )
    ledger.set_reference({"eo_gap": Interval(52.0, 40.0, 64.0)}, 10)
    yield ledger
    ledger.close()


@pytest.fixture
def layout(ledger: Ledger) -> Layout:
    return Layout.at(ledger.places.folder.parent)


def run_a_trial(ledger: Ledger, tracker: Tracker, *, fails: bool = False) -> TrialRecord:
    assignment = ledger.ask()
    tracker.started(assignment)
    tracker.epoch(assignment.number, asdict(EPOCH))
    if fails:
        record = ledger.fail(assignment.number, "OSError: the disk")
    else:
        value = 20.0 + assignment.number / 3
        result = replace(
            RESULT, metrics={**RESULT.metrics, "eo_gap": Interval(value, value - 1, value + 1)}
        )
        save_result(result, ledger.places.trial(assignment.number))
        record = ledger.tell(assignment.number, result)
    tracker.finished(record)
    return record


def check_agreement(ledger: Ledger, server: MlflowServer) -> dict[str, Run]:
    """Check that ledger, trial folders and MLflow tell the same, once, and nothing is RUNNING."""
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(ledger.name)
    assert experiment is not None
    everything = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    assert {run.info.status for run in everything} <= {"FINISHED", "FAILED", "KILLED"}
    active = client.search_runs([experiment.experiment_id])
    runs = {run.data.tags["ude.trial"]: run for run in active}
    assert len(runs) == len(active), "a run was recorded twice"
    records = [record for record in ledger.trials() if record.finished]
    assert set(runs) - {"study"} == {f"{record.number:05d}" for record in records}
    assert runs["study"].data.metrics["erm/eo_gap"] == 52.0
    for record in records:
        run = runs[f"{record.number:05d}"]
        assert run.data.tags["ude.state"] == record.state
        assert run.data.tags["mlflow.parentRunId"] == runs["study"].info.run_id
        for name, value in record.params.items():
            assert run.data.params[name] == str(value)
        if record.state == "complete":
            assert dict(record.metrics) == dict(load_result(record.folder).metrics)
        for name, measured in record.metrics.items():
            assert isinstance(measured, Interval)
            assert math.isclose(run.data.metrics[name], measured.mean)
        curve = client.get_metric_history(run.info.run_id, "epoch/loss")
        assert [point.step for point in curve] == [1] or record.state == "failed"
    return runs


def test_a_server_killed_in_mid_run_gets_everything_when_it_is_back(
    ledger: Ledger, layout: Layout, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_module, "_BACKLOG", 4)
    tracker = Tracker(ledger, layout, server.uri)
    tracker.start()
    run_a_trial(ledger, tracker)
    server.kill()
    try:
        began = time.monotonic()
        for number in range(1, 6):
            run_a_trial(ledger, tracker, fails=number == 3)
        assert time.monotonic() - began < 20, "the sweep waited for MLflow"
        assert tracker._tasks.qsize() <= 4 + 2
        time.sleep(2)
    finally:
        server.start()
    run_a_trial(ledger, tracker)
    assert tracker.close(complete=True) == ()
    runs = check_agreement(ledger, server)
    assert len(runs) == 1 + 7
    assert runs["study"].info.status == "FINISHED"


def test_lost_replies_leave_no_ghost(ledger: Ledger, layout: Layout, server: MlflowServer) -> None:
    """Each kind of write is carried out once, and its reply lost the first time."""
    seen: set[bytes] = set()

    def lost(request: bytes) -> bool:
        line = request.split(b"\r\n", 1)[0]
        if not line.startswith(b"POST") or b"/search" in line:
            return False
        body = request.partition(b"\r\n\r\n")[2]
        kind = line + (b"" if b"runs/create" not in line else body[:2000])
        first = kind not in seen
        seen.add(kind)
        return first

    proxy = LossyProxy(server.port, lost)
    try:
        tracker = Tracker(ledger, layout, proxy.uri)
        tracker.start()
        for number in range(3):
            run_a_trial(ledger, tracker, fails=number == 1)
        assert tracker.close(complete=True) == ()
    finally:
        proxy.close()
    assert proxy.dropped >= 4
    assert len(check_agreement(ledger, server)) == 1 + 3


def test_a_run_made_behind_our_back_is_deleted(
    ledger: Ledger, layout: Layout, server: MlflowServer
) -> None:
    """A creation that the server finishes only after we looked for it."""
    tracker = Tracker(ledger, layout, server.uri)
    tracker.start()
    run_a_trial(ledger, tracker)
    assert tracker.close(complete=False) == ()
    runs = check_agreement(ledger, server)
    tags = {key: runs["00000"].data.tags[key] for key in ("ude.study", "ude.trial")}
    MlflowClient(server.uri).create_run(runs["00000"].info.experiment_id, tags=tags)
    assert synchronize(ledger, layout, server.uri) == 0
    after = check_agreement(ledger, server)
    assert after["00000"].info.run_id == runs["00000"].info.run_id


def test_a_run_whose_closing_was_lost_is_closed_by_the_next_launch(
    ledger: Ledger, layout: Layout, server: MlflowServer
) -> None:
    """A driver killed between a trial's last write and the closing of its run."""
    runs = StudyRuns(ledger.config, layout, server.uri)
    runs.begin()
    assignment = ledger.ask()
    runs.started(assignment, ledger.trial(assignment.number).started)
    save_result(RESULT, ledger.places.trial(assignment.number))
    runs.finished(ledger.tell(assignment.number, RESULT), (EPOCH,))
    MlflowClient(server.uri).update_run(runs._runs["00000"], status="RUNNING")
    tracker = Tracker(ledger, layout, server.uri)
    tracker.start()
    assert tracker.close(complete=True) == ()
    check_agreement(ledger, server)


def test_sync_fills_an_empty_and_a_half_filled_server(
    ledger: Ledger, layout: Layout, server: MlflowServer
) -> None:
    offline = Tracker(ledger, layout)
    for number in range(3):
        run_a_trial(ledger, offline, fails=number == 2)
    orphan = ledger.ask()
    assert synchronize(ledger, layout, server.uri) == 3
    first = check_agreement(ledger, server)
    assert first["study"].info.status == "KILLED"
    assert synchronize(ledger, layout, server.uri) == 0
    assert synchronize(ledger, layout, server.uri, everything=True) == 3
    save_result(RESULT, ledger.places.trial(orphan.number))
    ledger.tell(orphan.number, RESULT)
    client = MlflowClient(server.uri)
    client.delete_run(first["00001"].info.run_id)
    client.update_run(first["00002"].info.run_id, status="RUNNING")
    assert synchronize(ledger, layout, server.uri) == 3
    assert check_agreement(ledger, server)["study"].info.status == "FINISHED"


def test_sync_refuses_a_running_study_and_a_silent_server(
    ledger: Ledger, layout: Layout, server: MlflowServer
) -> None:
    with ledger.lease(), pytest.raises(StudyBusyError):
        synchronize(ledger, layout, server.uri)
    with pytest.raises(TrackingUnavailableError, match="sync again when it answers"):
        synchronize(ledger, layout, "http://127.0.0.1:1")
