"""Who is stopped at a rung, how that survives the driver, and what it is said to have saved."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from small_study import EPOCH, RESULT, SPACE
from test_searcher import Held

from study.config import load_space
from study.harvest import curve_of, harvest
from study.lease import LeaseLostError
from study.ledger import Ledger
from study.objectives import Objective
from study.pruning import ParetoRule, Pruning, standings, stops
from study.rung_records import RungRecord, read_pruned, write_rungs
from study.scheduler import PruningScheduler, make_rule
from ude_core.errors import SettingError
from ude_core.results import save_result
from ude_core.rungs import Rung
from ude_core.trial import CHECKPOINT
from ude_core.types import QueryCount

METRICS = (
    Objective(metric="eo_gap", direction="minimize"),
    Objective(metric="accuracy", direction="maximize"),
)
RULE = Pruning(name="pareto_rank", metrics=METRICS, keep=0.5, peers=2, grace=0.5)
SETTINGS = """
pruning:
  name: pareto_rank
  grace: 0.5
  metrics: [{metric: eo_gap, direction: minimize}, {metric: accuracy, direction: maximize}]
  keep: 0.5
  peers: 2
"""


def at(eo_gap: float, accuracy: float) -> dict[str, float]:
    return {"eo_gap": eo_gap, "accuracy": accuracy}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE + SETTINGS, encoding="utf-8")
    ledger = Ledger.create_or_open(load_space(path), tmp_path / "runs")
    yield ledger
    ledger.close()


def reach(ledger: Ledger, number: int, eo_gap: float, accuracy: float, share: float = 0.5) -> None:
    """Have a worker write that its trial reached a rung."""
    rung = Rung(share, 4, 100, 30, at(eo_gap, accuracy))
    write_rungs(ledger.places.trial(number), RungRecord((rung,), (EPOCH,), 400))


def scheduler(ledger: Ledger, lease: Any = None) -> PruningScheduler:
    rule = make_rule(ledger.config.pruning)
    assert rule is not None
    return PruningScheduler(ledger, lease or Held(), rule)


def hear(one: PruningScheduler, number: int) -> str:
    trial: Any = SimpleNamespace(config={"number": number})
    return one.on_trial_result(None, trial, {"rung": 1, "done": False})


def test_ranks_are_the_fronts_peeled_off_one_by_one() -> None:
    rows = {0: at(10, 60), 1: at(20, 70), 2: at(20, 60), 3: at(30, 50), 4: {"eo_gap": 1.0}}
    ranked = {number: rank for number, (rank, _) in standings(rows, METRICS).items()}
    assert ranked == {0: 0, 1: 0, 2: 1, 3: 2, 4: 5}
    assert standings({4: {"eo_gap": 1.0}}, METRICS) == {4: (1, 1.0)}
    one = {number: {"eo_gap": float(number)} for number in range(3)}
    assert standings(one, METRICS[:1]) == {0: (0, 0.0), 1: (1, 1.0), 2: (2, 2.0)}


def test_within_a_rank_the_better_on_the_mean_stands_first() -> None:
    rows = {0: at(10, 60), 1: at(12, 50), 2: at(20, 59), 3: at(21, 58)}
    stand = standings(rows, METRICS)
    assert stand[1] == (1, 2.0)
    assert stand[2] == (1, 1.5)
    assert stops(1, rows, RULE) is not None
    assert stops(2, rows, RULE) is None


def test_the_dominated_half_is_stopped_and_the_front_never() -> None:
    rows = {0: at(10, 60), 1: at(20, 70), 2: at(20, 60), 3: at(30, 50)}
    assert [stops(number, rows, RULE) is not None for number in rows] == [False, False, True, True]
    reason = stops(3, rows, RULE)
    assert reason == "3 of 4 trials stand before it (eo_gap 30, accuracy 50)"
    allied = {number: at(number, number) for number in range(6)}
    assert not any(stops(number, allied, RULE) for number in allied)


def test_the_first_to_arrive_are_never_stopped() -> None:
    assert stops(1, {0: at(10, 60), 1: at(50, 10)}, RULE) is None
    assert stops(2, {0: at(10, 60), 1: at(50, 10), 2: at(60, 0)}, RULE) is not None


def test_with_batches_the_order_of_arrival_makes_no_difference() -> None:
    """Numbers 0-3 end before 4-7 begin; within a batch any order is possible."""
    rungs = {n: Rung(0.5, 4, 100, 0, at(10 + n, 60 - n)) for n in range(8)}
    orders = [[0, 1, 2, 3, 4, 5, 6, 7], [2, 0, 3, 1, 7, 6, 5, 4], [3, 2, 1, 0, 5, 7, 4, 6]]

    def stopped(batch: int | None) -> list[set[int]]:
        rules = [(ParetoRule(RULE, batch), order) for order in orders]
        return [{n for n in order if rule.saw(n, rungs[n])} for rule, order in rules]

    assert len({frozenset(one) for one in stopped(4)}) == 1
    assert stopped(4)[0] == {4, 5, 6, 7}
    assert len({frozenset(one) for one in stopped(None)}) > 1


def test_a_trial_without_a_metric_ranks_last() -> None:
    rows = {0: at(10, 60), 1: at(20, 50), 2: {}}
    assert stops(2, rows, RULE) == "2 of 3 trials stand before it (eo_gap nan, accuracy nan)"


def test_a_stopped_trial_ends_as_pruned_with_what_it_spent(ledger: Ledger) -> None:
    one = scheduler(ledger)
    for number, (gap, accuracy) in enumerate([(10, 60), (20, 50), (30, 40)]):
        ledger.ask()
        reach(ledger, number, gap, accuracy)
        expected = TrialScheduler.STOP if number == 2 else TrialScheduler.CONTINUE
        assert hear(one, number) == expected
    folder = ledger.places.trial(2)
    (folder / CHECKPOINT).touch()
    (record,) = harvest(ledger)
    assert (record.number, record.state) == (2, "pruned")
    assert (record.queries, record.saved) == (130, 270)
    assert (record.queries_by_phase["noise"], record.queries_by_phase["scoring"]) == (100, 30)
    assert record.reason == (
        "stopped at 50% of its learning: 2 of 3 trials stand before it (eo_gap 30, accuracy 40)"
    )
    assert not (folder / CHECKPOINT).exists()
    assert curve_of(folder) == (EPOCH,)
    assert ledger.counts()["pruned"] == 1
    assert ledger.queries() == 130
    assert ledger.queries_saved() == 270


def test_between_rungs_and_in_the_first_place_everyone_goes_on(ledger: Ledger) -> None:
    one = scheduler(ledger)
    trial: Any = SimpleNamespace(config={"number": 0})
    assert one.on_trial_result(None, trial, {"done": False}) == TrialScheduler.CONTINUE
    assert one.on_trial_result(None, trial, {"rung": 1}) == TrialScheduler.CONTINUE


def test_a_later_driver_knows_the_rungs_and_decides_the_same(ledger: Ledger) -> None:
    for number, (gap, accuracy) in enumerate([(10, 60), (20, 50), (30, 40)]):
        ledger.ask()
        reach(ledger, number, gap, accuracy)
    assert hear(scheduler(ledger), 2) == TrialScheduler.STOP


def test_a_decision_survives_the_driver_that_took_it(ledger: Ledger) -> None:
    one = scheduler(ledger)
    for number in range(3):
        ledger.ask()
        reach(ledger, number, 10 + number, 60 - number)
        hear(one, number)
    assert read_pruned(ledger.places.trial(2)) is not None
    assert ledger.trial(2).state == "running"
    assert [assignment.number for assignment in ledger.running()] == [0, 1, 2]
    harvest(ledger)
    assert [assignment.number for assignment in ledger.running()] == [0, 1]
    assert harvest(ledger) == []


def test_a_result_wins_over_a_decision(ledger: Ledger) -> None:
    one = scheduler(ledger)
    for number in range(3):
        ledger.ask()
        reach(ledger, number, 10 + number, 60 - number)
        hear(one, number)
    save_result(RESULT, ledger.places.trial(2))
    assert {record.state for record in harvest(ledger)} == {"complete"}


def test_a_driver_without_its_lease_decides_nothing(ledger: Ledger) -> None:
    lease = Held()
    one = scheduler(ledger, lease)
    for number in range(3):
        ledger.ask()
        reach(ledger, number, 10 + number, 60 - number)
        lease.held = number < 2  # type: ignore[misc]
        if number < 2:
            hear(one, number)
    with pytest.raises(LeaseLostError):
        hear(one, 2)
    assert read_pruned(ledger.places.trial(2)) is None


@pytest.mark.parametrize("name", ["rungs.json", "pruned.json"])
def test_a_damaged_word_is_as_none(ledger: Ledger, name: str) -> None:
    ledger.ask()
    reach(ledger, 0, 10, 60)
    (ledger.places.trial(0) / name).write_text('{"rungs": [{}]', encoding="utf-8")
    assert harvest(ledger) == []
    scheduler(ledger)


def test_asha_compares_by_one_metric_and_remembers_across_drivers(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE, encoding="utf-8")
    asha = "pruning={name: asha, grace: 0.5, metrics: [{metric: accuracy, direction: maximize}]}"
    ledger = Ledger.create_or_open(load_space(path, [asha]), tmp_path / "runs")
    try:
        one = scheduler(ledger)
        for number, accuracy in enumerate([60.0, 40.0, 70.0]):
            ledger.ask()
            reach(ledger, number, 10, accuracy)
            expected = TrialScheduler.STOP if accuracy < 50 else TrialScheduler.CONTINUE
            assert hear(one, number) == expected
        ledger.ask()
        reach(ledger, 3, 10, 50.0)
        assert hear(scheduler(ledger), 3) == TrialScheduler.STOP
        rung = Rung(0.5, 4, 100, 0, {})
        write_rungs(ledger.places.trial(3), RungRecord((rung,), (), 400))
        assert hear(one, 3) == TrialScheduler.CONTINUE
    finally:
        ledger.close()


def test_the_sampler_goes_on_after_pruned_trials(ledger: Ledger) -> None:
    """TPE models both complete and pruned trials of a study with several objectives."""
    for number in range(14):
        ledger.ask()
        if number % 2:
            ledger.prune(number, "stopped", spent=QueryCount(noise=100, scoring=30), saved=270)
        else:
            ledger.tell(number, RESULT)
    assert ledger.ask().number == 14
    assert ledger.counts()["pruned"] == 7
    assert ledger.queries_saved() == 7 * 270


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("grace: 0", "pruning.grace"),
        ("reduction_factor: 1", "pruning.reduction_factor"),
        ("name: median", "pruning.name"),
        ("repeats: 99", "pruning.repeats is 99 \\(expected at most scoring.repeats, 10\\)"),
        ("name: asha", "asha compares by one"),
        ("repeats: 0", "'eo_gap' is scored, and pruning.repeats is 0"),
        (
            "metrics: [{metric: psnr, direction: maximize}]",
            "'psnr' is not known at a rung",
        ),
        ("metrics: []", "pruning.metrics"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, setting: str, said: str) -> None:
    path = tmp_path / "tiny.yaml"
    key, _, value = setting.partition(": ")
    path.write_text(SPACE, encoding="utf-8")
    overrides = ["pruning.name=pareto_rank", f"pruning.{key}={value}"]
    with pytest.raises(SettingError, match=said):
        load_space(path, overrides)


def test_asha_does_not_go_with_batches(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE, encoding="utf-8")
    asha = "pruning={name: asha, metrics: [{metric: accuracy, direction: maximize}]}"
    with pytest.raises(SettingError, match=r"or leave sampler\.batch out"):
        load_space(path, [asha, "sampler.batch=4"])


def test_status_tells_what_was_saved(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from study.cli import app

    ledger.prune(ledger.ask().number, "stopped", spent=QueryCount(noise=100, scoring=30), saved=270)
    root = str(ledger.places.folder.parent)
    said = CliRunner().invoke(app, ["status", "tiny", "--root", root, "--json"])
    status = json.loads(said.stdout)
    assert (status["counts"]["pruned"], status["queries_saved"]) == (1, 270)
    told = CliRunner().invoke(app, ["status", "tiny", "--root", root])
    assert "270 saved by pruning" in told.stdout


def test_pruning_needs_folders_that_driver_and_workers_share(tmp_path: Path) -> None:
    path = tmp_path / "quick.yaml"
    path.write_text(SPACE)
    settings = ["pruning.name=pareto_rank", f"resources.trial_store=file://{tmp_path}/store"]
    with pytest.raises(SettingError, match="needs trial folders on a disk"):
        load_space(path, settings)
