"""Confirmation: once, on the test split, of points that beat noise; kept while nothing changes."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from finished import (
    DISEASES,
    GOALS,
    confirmed,
    finished_study,
    measured,
    noise_of,
    tiny_config,
)
from rich.console import Console

from study.api import Study
from study.confirm import confirm, confirmation_file, load_confirmation, standings_of
from study.confirm_view import confirmation_table
from study.export import export
from study.ledger import Ledger
from study.materials import load_materials
from study.pareto import Goal
from study.policies import parse_policy
from study.standing import dominance
from ude_core.bundle import verify_bundle
from ude_core.errors import FingerprintError, UserError
from ude_core.results import save_result
from ude_core.types import Interval, Measured, QueryCount, TrialResult, Undefined

AGAINST: dict[str, Measured] = {
    "edema/eo_gap_vs_erm": Interval(-18.0, -25.0, -11.0),
    "edema/controls_beaten": Interval(95.0, 95.0, 95.0),
    "edema/tpr.male_vs_erm": Interval(9.0, 2.0, 16.0),
    "edema/tpr.female_vs_erm": Interval(-3.0, -10.0, 4.0),
    "pneumonia/eo_gap_vs_erm": Interval(-8.0, -18.0, 2.0),
    "pneumonia/controls_beaten": Interval(100.0, 100.0, 100.0),
}


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """`confirm` flushes denormals in its process, which here is that of other tests too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with finished_study(tmp_path) as finished:
        yield finished


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand in for the engine's confirmation; return the list of its calls."""
    calls: list[dict[str, Any]] = []

    def confirm_noises(
        noises: Any, methods: Any, cohort: Any, encoder: Any, assets: Any, **settings: Any
    ) -> Any:
        calls.append({"noises": noises, "methods": methods} | settings)
        return SimpleNamespace(
            erm=measured(48, 50, 60),
            learnt={number: measured(30, 30, 65) | AGAINST for number in noises},
            random={number: measured(40, 40, 60) for number in noises},
            queries=7,
        )

    materials = SimpleNamespace(
        cohort=None,
        encoder=None,
        assets=None,
        fingerprints={"cohort": "c" * 64, "encoder": "e" * 64},
    )
    monkeypatch.setattr("ude_core.confirmation.confirm_noises", confirm_noises)
    monkeypatch.setattr("study.materials.load_materials", lambda *_: materials)
    monkeypatch.setattr("ude_core.runtime.prepare_process", lambda: None)
    return calls


def test_confirm_measures_the_front_that_beats_noise_once(
    study: Study, engine: list[dict[str, Any]]
) -> None:
    found, fresh = confirm(study)
    assert fresh
    (call,) = engine
    assert sorted(call["noises"]) == [0, 1, 2]
    assert torch.equal(call["noises"][1], noise_of(1))
    assert (call["repeats"], call["controls"]) == (2, 2)
    assert call["methods"][1].step_size == study.ledger.trial(1).params["step_size"]
    point = found.point(1)
    assert point is not None
    assert point.fronts == DISEASES
    assert point.optimism["edema/eo_gap"] == pytest.approx(-10.0)
    assert point.dominance["edema"] > 0.9
    assert point.standing == {
        "pleural_effusion": "not compared",
        "pneumonia": "no improvement on ERM",
        "edema": "confirmed",
    }
    assert (point.levelling["edema"], point.levelling["pneumonia"]) == ("lifted", "unknown")
    assert standings_of(study, "edema") == dict.fromkeys((0, 1, 2), "confirmed")
    assert load_confirmation(study) == found
    again, fresh = confirm(study)
    assert (again, fresh, len(engine)) == (found, False, 1)
    assert confirm(study, controls=3)[1]
    assert engine[-1]["controls"] == 3


def test_a_damaged_confirmation_is_made_again_and_never_exported(
    study: Study, engine: list[dict[str, Any]], tmp_path: Path
) -> None:
    found, _ = confirm(study)
    path = confirmation_file(study)
    for raw in (
        b"{",
        b"[]",
        b"{}",
        path.read_bytes().replace(b'"schema_version": 2', b'"schema_version": 9'),
    ):
        path.write_bytes(raw)
        with pytest.raises(UserError, match="run confirm again"):
            export(study, "edema", parse_policy("knee"), tmp_path / "out")
    assert confirm(study) == (found, True)


def test_confirm_stops_where_the_data_changed(
    study: Study, engine: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = SimpleNamespace(fingerprints={"cohort": "x" * 64, "encoder": "e" * 64})
    monkeypatch.setattr("study.materials.load_materials", lambda *_: changed)
    with pytest.raises(FingerprintError, match="cohort changed"):
        confirm(study)
    assert engine == []


def test_a_study_without_complete_trials_has_nothing_to_confirm(tmp_path: Path) -> None:
    config = tiny_config()
    ledger = Ledger.create_or_open(config, tmp_path)
    empty = Study(name="tiny", root=tmp_path, config=config, ledger=ledger)
    with pytest.raises(UserError, match="no complete trial to confirm"):
        confirm(empty)
    ledger.close()


@pytest.mark.parametrize(
    ("ours", "erm", "low", "high"),
    [
        (measured(10, 10, 80), measured(50, 50, 60), 0.99, 1.0),
        (measured(50, 50, 60), measured(10, 10, 80), 0.0, 0.01),
        (measured(30, 30, 60), measured(30, 30, 60), 0.124, 0.126),  # three fair coins
    ],
)
def test_dominance_is_the_chance_of_winning_every_objective(
    ours: dict[str, Measured], erm: dict[str, Measured], low: float, high: float
) -> None:
    chance = dominance(ours, erm, GOALS, "edema")
    assert chance is not None
    assert low <= chance <= high
    assert dominance(ours | {"edema/eo_gap": Undefined("x")}, erm, GOALS, "edema") is None
    assert dominance(ours, {}, GOALS, "edema") is None


def test_dominance_of_exact_values_is_certain() -> None:
    goal = [Goal("queries", "minimize")]
    exact = {f"edema/{'queries'}": Interval(1, 1, 1)}
    worse = {"edema/queries": Interval(2, 2, 2)}
    assert dominance(exact, worse, goal, "edema") == 1.0
    assert dominance(worse, exact, goal, "edema") == 0.0
    assert dominance(exact, exact, goal, "edema") == 0.5


def test_the_confirmation_table_holds_noise_beside_its_control() -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(confirmation_table(confirmed((1, -2.0)), "edema", GOALS))
    text = captured.get()
    for expected in ("ERM", "random", "30.0 [26.0, 34.0]", "90 %", "-10.0", "confirmed", "lifted"):
        assert expected in text


def test_the_real_engine_confirms_on_patients_the_search_never_saw(tmp_path: Path) -> None:
    config = tiny_config(
        cohort={"kind": "phantom", "patients": 150},
        bias={"train_per_group": 8, "validation_per_cell": 4, "test_per_cell": 4},
        scoring={"repeats": 2, "bootstrap_draws": 20, "controls": 1},
    )
    materials = load_materials(config, tmp_path / "cache")
    ledger = Ledger.create_or_open(config, tmp_path)
    ledger.check_fingerprints(materials.fingerprints)
    ledger.set_reference(measured(50, 55, 60), 0)
    for scores in (measured(10, 40, 62), measured(20, 12, 66)):
        number = ledger.ask().number
        result = TrialResult(noise_of(number), scores, (), QueryCount(noise=10), "improved")
        save_result(result, ledger.places.trial(number))
        ledger.tell(number, result)
    study = Study(name="tiny", root=tmp_path, config=config, ledger=ledger)
    found, fresh = confirm(study)
    assert fresh
    assert [point.trial for point in found.points] == [0, 1]
    for point in found.points:
        for disease in DISEASES:
            assert isinstance(point.metrics[f"{disease}/eo_gap_vs_random"], Interval)
            assert isinstance(point.random[f"{disease}/accuracy"], Interval)
            assert 0.0 <= point.dominance[disease] <= 1.0
            assert isinstance(point.metrics[f"{disease}/tpr.female_vs_erm"], Interval)
            difference = point.metrics[f"{disease}/eo_gap_vs_erm"]
            ours, erm = point.metrics[f"{disease}/eo_gap"], found.erm[f"{disease}/eo_gap"]
            assert isinstance(ours, Interval)
            assert isinstance(erm, Interval)
            assert isinstance(difference, Interval)
            assert difference.mean == pytest.approx(ours.mean - erm.mean)
        assert set(point.standing) == set(point.levelling) == set(point.fronts)
    assert isinstance(found.erm["edema/auroc"], Interval)
    assert found.queries > 0
    text = confirmation_file(study).read_bytes()
    confirmation_file(study).unlink()
    assert confirm(study) == (found, True)
    assert confirmation_file(study).read_bytes() == text
    done = export(study, "edema", parse_policy("knee"), tmp_path / "bundle")
    assert verify_bundle(done.folder).stage == "confirmed"
    ledger.close()
