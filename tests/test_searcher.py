"""Trials go out through the searcher, and come back through what lies in their folders."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher
from small_study import EPOCH, RESULT, SPACE

from study import room
from study import searcher as searcher_module
from study.attempts import Attempt, Failure, FencedError, write_failure
from study.config import load_space
from study.harvest import curve_of, harvest, settle
from study.lease import LeaseLostError
from study.ledger import Ledger
from study.records import Assignment, TrialRecord
from study.searcher import LedgerSearcher
from ude_core.errors import UserError
from ude_core.results import save_result


class Held:
    """A lease that is held until it is not."""

    held = True

    def check(self) -> None:
        if not self.held:
            raise LeaseLostError("lost")


class Watcher:
    """Writes down all it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []

    def started(self, assignment: Assignment) -> None:
        self.heard.append(("started", assignment.number))

    def epoch(self, number: int, progress: Mapping[str, Any]) -> None:
        self.heard.append((f"epoch {progress['epoch']}", number))

    def finished(self, record: TrialRecord) -> None:
        self.heard.append((record.state, record.number))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE, encoding="utf-8")
    ledger = Ledger.create_or_open(load_space(path), tmp_path / "runs")
    yield ledger
    ledger.close()


def searcher(ledger: Ledger, *, remaining: int = 2, **options: Any) -> LedgerSearcher:
    settings = {"resumed": (), "concurrency": 2, **options}
    return LedgerSearcher(ledger, Held(), remaining=remaining, **settings)  # type: ignore[arg-type]


def test_it_hands_out_as_many_as_are_missing_and_no_more_at_once_than_it_may(
    ledger: Ledger,
) -> None:
    watcher = Watcher()
    search = searcher(ledger, remaining=3, observers=[watcher])
    first, second = search.suggest("a"), search.suggest("b")
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert [first["number"], second["number"]] == [0, 1]
    assert first["seed"] == ledger.seed_of(0)
    assert set(first["params"]) == {"step_size", "samples"}
    assert search.suggest("c") is None
    save_result(RESULT, ledger.places.trial(0))
    search.on_trial_result("a", {"progress/epoch": 1, "done": False})
    search.on_trial_result("a", {"progress": None})
    search.on_trial_complete("a", {"done": True})
    third = search.suggest("d")
    assert isinstance(third, dict)
    assert third["number"] == 2
    save_result(RESULT, ledger.places.trial(1))
    search.on_trial_complete("b", {"done": True})
    assert search.suggest("e") is None, "a running trial may yet lose its worker"
    assert watcher.heard == [
        ("started", 0),
        ("started", 1),
        ("epoch 1", 0),
        ("complete", 0),
        ("started", 2),
        ("complete", 1),
    ]
    assert [record.state for record in ledger.trials()] == ["complete", "complete", "running"]


def test_interrupted_trials_go_out_first_and_unchanged(ledger: Ledger) -> None:
    before = ledger.ask()
    search = searcher(ledger, remaining=1, resumed=ledger.running())
    again = search.suggest("a")
    assert isinstance(again, dict)
    assert (again["number"], again["params"]) == (before.number, dict(before.params))
    fresh = search.suggest("b")
    assert isinstance(fresh, dict)
    assert fresh["number"] == 1


def test_an_interrupted_trial_stays_open(ledger: Ledger) -> None:
    search = searcher(ledger)
    search.suggest("a")
    search.on_trial_complete("a", {"done": False})
    assert ledger.trial(0).state == "running"


def test_a_trial_that_lost_its_worker_is_handed_out_again(ledger: Ledger) -> None:
    search = searcher(ledger, remaining=1)
    first = search.suggest("a")
    assert search.suggest("b") is None
    search.on_trial_complete("a", error=True)
    assert search.suggest("b") == first
    save_result(RESULT, ledger.places.trial(0))
    search.on_trial_complete("b", {"done": True})
    assert search.suggest("c") == Searcher.FINISHED
    assert [record.state for record in ledger.trials()] == ["complete"]


def test_a_trial_given_up_fails_with_the_workers_last_word(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searcher_module, "LOSSES", 0)
    search = searcher(ledger)
    search.suggest("a")
    search.suggest("b")
    write_failure(ledger.places.trial(0), Failure("MemoryError: too big", permanent=False))
    search.on_trial_complete("a", error=True)
    search.on_trial_complete("b", error=True)
    assert ledger.trial(0).state == "failed"
    assert ledger.trial(0).reason == "MemoryError: too big"
    assert "without a word" in ledger.trial(1).reason


def test_a_permanent_failure_is_not_retried(ledger: Ledger) -> None:
    search = searcher(ledger)
    search.suggest("a")
    write_failure(ledger.places.trial(0), Failure("SettingError: batch", permanent=True))
    search.on_trial_complete("a", {"done": True})
    assert ledger.trial(0).state == "failed"


def test_a_result_wins_over_an_error(ledger: Ledger) -> None:
    search = searcher(ledger)
    search.suggest("a")
    save_result(RESULT, ledger.places.trial(0))
    search.on_trial_complete("a", error=True)
    assert ledger.trial(0).state == "complete"


def test_nothing_goes_out_after_a_stop(ledger: Ledger) -> None:
    stop = threading.Event()
    search = searcher(ledger, stop=stop)
    stop.set()
    assert search.suggest("a") == Searcher.FINISHED
    assert ledger.trials() == []


def test_a_full_disk_stops_the_study_and_fails_no_trial(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = searcher(ledger)
    search.suggest("a")
    monkeypatch.setattr(room, "ROOM_BYTES", 2**70)
    search.on_trial_complete("a", error=True)
    assert ledger.trial(0).state == "running"
    assert search.suggest("b") == Searcher.FINISHED
    with pytest.raises(UserError, match="make room"):
        room.check_room(ledger.places.folder)


def test_a_driver_without_its_lease_writes_nothing(ledger: Ledger) -> None:
    search = searcher(ledger)
    search.suggest("a")
    save_result(RESULT, ledger.places.trial(0))
    search._lease.held = False  # type: ignore[misc]
    with pytest.raises(LeaseLostError):
        search.on_trial_complete("a", {"done": True})
    with pytest.raises(LeaseLostError):
        search.suggest("b")
    assert [record.state for record in ledger.trials()] == ["running"]


def test_harvest_closes_what_a_dead_driver_left(ledger: Ledger) -> None:
    for _ in range(4):
        ledger.ask()
    save_result(RESULT, ledger.places.trial(0))
    write_failure(ledger.places.trial(1), Failure("FingerprintError: other", permanent=True))
    write_failure(ledger.places.trial(2), Failure("OSError: a node went", permanent=False))
    assert [(record.number, record.state) for record in harvest(ledger)] == [
        (0, "complete"),
        (1, "failed"),
    ]
    assert [assignment.number for assignment in ledger.running()] == [2, 3]
    assert harvest(ledger) == []


@pytest.mark.parametrize("damage", ["{", "[]", '{"schema_version": 99}', "{}"])
def test_a_torn_result_is_made_again(ledger: Ledger, damage: str) -> None:
    folder = ledger.places.trial(ledger.ask().number)
    save_result(RESULT, folder)
    (folder / "result.json").write_text(damage, encoding="utf-8")
    assert settle(ledger, 0, given_up=False) is None
    assert not (folder / "result.json").exists()
    assert ledger.trial(0).state == "running"


def test_a_result_whose_noise_was_changed_is_made_again(ledger: Ledger) -> None:
    folder = ledger.places.trial(ledger.ask().number)
    save_result(RESULT, folder)
    noise = folder / "noise.safetensors"
    noise.write_bytes(noise.read_bytes()[:-1] + b"\x01")
    assert settle(ledger, 0, given_up=False) is None


def test_a_later_attempt_fences_the_earlier_off(tmp_path: Path) -> None:
    early = Attempt.begin(tmp_path)
    early.check()
    late = Attempt.begin(tmp_path)
    late.check()
    with pytest.raises(FencedError):
        early.check()


def test_a_curve_is_read_from_a_finished_folder_alone(tmp_path: Path) -> None:
    assert curve_of(tmp_path) == ()
    save_result(RESULT, tmp_path)
    assert curve_of(tmp_path) == (EPOCH,)
