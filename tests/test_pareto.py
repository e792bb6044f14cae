"""The front is what brute force says it is; labels say what the numbers mean."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from study.metric_names import Direction
from study.pareto import (
    Front,
    Goal,
    compute_front,
    control_label,
    front_to_json,
    levelling,
    non_dominated,
    scoped,
)
from study.pareto_views import front_html, front_table
from study.records import TrialRecord
from ude_core.errors import UserError
from ude_core.types import Interval, Measured, Undefined

GOALS = (
    Goal("eo_gap", "minimize"),
    Goal("selection_rate_symmetric_gap", "minimize"),
    Goal("accuracy", "maximize"),
)
DISEASES = ("pleural_effusion", "edema")


def about(mean: float, half: float = 2.0) -> Interval:
    return Interval(mean, mean - half, mean + half)


def measured(eo: float, rate: float, accuracy: float, **more: float) -> dict[str, Measured]:
    values = {"eo_gap": eo, "selection_rate_symmetric_gap": rate, "accuracy": accuracy} | more
    return {
        f"{disease}/{name}": about(value) for disease in DISEASES for name, value in values.items()
    }


def trial(
    number: int,
    metrics: Mapping[str, Measured],
    state: str = "complete",
    **params: float | str,
) -> TrialRecord:
    return TrialRecord(
        number=number,
        state=state,
        params=params or {"step_size": 0.01 * number},
        seed=number,
        metrics=metrics,
        queries=100,
        reason="",
        folder=Path(),
    )


def front(trials: Sequence[TrialRecord], disease: str = "edema", **erm: float) -> Front:
    return compute_front(
        study="demo",
        disease=disease,
        diseases=DISEASES,
        goals=GOALS,
        trials=trials,
        reference=measured(50, 50, 60, **erm),
    )


def members(result: Front) -> list[int]:
    return [point.trial for point in result.points if point.front]


def test_a_hand_made_front() -> None:
    result = front(
        [
            trial(0, measured(10, 20, 70)),
            trial(1, measured(20, 10, 70)),
            trial(2, measured(20, 20, 70)),  # beaten by both
            trial(3, measured(30, 30, 75)),
            trial(4, measured(10, 20, 70)),  # equal to 0: neither beats the other
        ]
    )
    assert members(result) == [0, 1, 3, 4]
    assert [point.trial for point in result.best] == [0, 4, 1, 3]


@pytest.mark.parametrize("state", ["failed", "pruned", "running", "waiting"])
def test_only_complete_trials_count(state: str) -> None:
    result = front([trial(0, measured(0, 0, 100), state), trial(1, measured(9, 9, 50))])
    assert [point.trial for point in result.points] == [1]
    assert members(result) == [1]


@pytest.mark.parametrize("name", [goal.name for goal in GOALS])
def test_undefined_never_enters_a_front(name: str) -> None:
    metrics = measured(0, 0, 100) | {f"edema/{name}": Undefined("an empty cell")}
    trials = [trial(0, metrics), trial(1, measured(9, 9, 50))]
    assert members(front(trials)) == [1]
    assert members(front(trials, "pleural_effusion")) == [0]
    assert members(front(trials, "mean")) == [1]
    assert members(front(trials, "worst")) == [1]
    entry = front_to_json(front(trials))["points"][0]["metrics"][name]
    assert entry == {"mean": None, "low": None, "high": None, "undefined": "an empty cell"}


def test_a_study_without_complete_trials_has_an_empty_front() -> None:
    result = front([])
    assert (result.points, result.hypervolume) == ((), 0.0)
    json.dumps(front_to_json(result), allow_nan=False)


def dominates(a: Sequence[float], b: Sequence[float], signs: Sequence[int]) -> bool:
    pairs = [(s * x, s * y) for s, x, y in zip(signs, a, b, strict=True)]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


numbers = st.one_of(st.integers(0, 6).map(float), st.floats(0, 100))


@given(
    st.lists(st.one_of(st.none(), st.tuples(numbers, numbers, numbers)), max_size=14),
    st.tuples(*[st.sampled_from(["minimize", "maximize"])] * 3),
)
@settings(max_examples=200, deadline=None)
def test_the_front_is_what_brute_force_finds(
    rows: list[tuple[float, float, float] | None], directions: tuple[str, str, str]
) -> None:
    goals = [Goal(f"m{index}", way) for index, way in enumerate(directions)]
    signs = [1 if way == "minimize" else -1 for way in directions]
    defined = [row for row in rows if row is not None]
    expected = [
        row is not None and not any(dominates(other, row, signs) for other in defined)
        for row in rows
    ]
    assert non_dominated(rows, goals) == expected


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_hypervolume_counts_the_cells_between_front_and_nadir(
    cells: list[tuple[int, int, int]],
) -> None:
    trials = [trial(i, measured(20 * a, 20 * b, 20 * c)) for i, (a, b, c) in enumerate(cells)]
    filled = sum(
        any(a <= x and b <= y and c > z for a, b, c in cells)
        for x, y, z in itertools.product(range(5), repeat=3)
    )
    result = front(trials)
    assert result.nadir == {"eo_gap": 100, "selection_rate_symmetric_gap": 100, "accuracy": 0}
    assert result.hypervolume == pytest.approx(20.0**3 * filled)
    rows = np.array([[20 * a, 20 * b, 100 - 20 * c] for a, b, c in cells], dtype=float)
    assert result.hypervolume == pytest.approx(moocore.hypervolume(rows, ref=[100] * 3))


def test_an_unbounded_objective_takes_the_worst_trial_as_its_nadir() -> None:
    result = compute_front(
        study="s",
        disease="edema",
        diseases=DISEASES,
        goals=(Goal("eo_gap", "minimize"), Goal("queries", "minimize")),
        trials=[
            trial(0, measured(10, 0, 0) | {"queries": about(300)}),
            trial(1, measured(20, 0, 0) | {"queries": about(100)}),
        ],
        reference={},
    )
    assert members(result) == [0, 1]
    assert result.nadir == {"eo_gap": 100, "queries": 300}
    assert result.hypervolume == pytest.approx(80 * 200)


def test_mean_and_worst_disease() -> None:
    metrics: dict[str, Measured] = {
        "pleural_effusion/eo_gap": about(10),
        "edema/eo_gap": about(30),
        "pleural_effusion/accuracy": about(70),
        "edema/accuracy": about(60),
        "pleural_effusion/tpr.female": about(80),
        "edema/tpr.female": about(50),
        "eo_gap": about(20, 1.0),
        "noise_l2": about(4),
    }
    mean, worst = (scoped(metrics, name, DISEASES) for name in ("mean", "worst"))
    assert mean["eo_gap"] == about(20, 1.0)  # as the engine measured it
    assert mean["accuracy"] == about(65)
    assert worst["eo_gap"] == about(30)
    assert worst["accuracy"] == about(60)
    assert worst["tpr.female"] == about(50)
    assert mean["noise_l2"] == worst["noise_l2"] == about(4)
    edema = scoped(metrics, "edema", DISEASES)
    assert edema["eo_gap"] == about(30)
    assert "pleural_effusion/eo_gap" not in edema


def test_an_unknown_disease_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="expected one of pleural_effusion, edema, mean, worst"):
        front([], "gout")


@pytest.mark.parametrize(
    ("difference", "label"),
    [
        (about(-0.1), "beats noise"),
        (about(0.0), "no better than noise"),
        (about(3.0), "no better than noise"),
        (Undefined("x"), "not compared"),
        (None, "not compared"),
    ],
)
def test_the_control_label(difference: Measured | None, label: str) -> None:
    metrics = {} if difference is None else {"eo_gap_vs_random": difference}
    assert control_label(metrics) == label


def rates(*values: float) -> dict[str, Measured]:
    names = ("tpr.female", "tpr.male", "tnr.female", "tnr.male")
    return {name: about(value) for name, value in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("edited", "label"),
    [
        ((97, 67, 80, 80), "lifted"),
        ((90, 67, 80, 80), "traded"),  # the paper's Table 2
        ((90, 40, 80, 80), "levelled-down"),
        ((97, 40, 70, 60), "levelled-down"),
        ((97.9, 39.2, 80, 80), "unchanged"),
    ],
)
def test_the_levelling_label(edited: tuple[float, ...], label: str) -> None:
    assert levelling(rates(*edited), rates(97, 40, 80, 80)) == label


def test_levelling_is_unknown_where_a_rate_is() -> None:
    erm = rates(97, 40, 80, 80)
    assert levelling({}, {}) == "unknown"
    assert levelling(rates(1, 2, 3, 4) | {"tpr.male": Undefined("empty")}, erm) == "unknown"
    assert levelling({"tpr.male": about(1)}, erm) == "unknown"


def test_json_is_the_contract() -> None:
    extra = {"eo_gap_vs_random": -3.0, "tpr.female": 80.0}
    result = front([trial(0, measured(10, 20, 70, **extra), step_size=0.1)], **{"tpr.female": 70.0})
    value = json.loads(json.dumps(front_to_json(result), allow_nan=False))
    assert value["study"] == "demo"
    assert value["disease"] == "edema"
    assert value["objectives"] == [
        {"name": "eo_gap", "direction": "minimize"},
        {"name": "selection_rate_symmetric_gap", "direction": "minimize"},
        {"name": "accuracy", "direction": "maximize"},
    ]
    (point,) = value["points"]
    assert point["trial"] == 0
    assert point["params"] == {"step_size": 0.1}
    assert point["front"] is True
    assert point["metrics"]["eo_gap"] == {"mean": 10.0, "low": 8.0, "high": 12.0}
    assert point["metrics"]["edema/eo_gap"] == point["metrics"]["eo_gap"]
    assert point["control"] == "beats noise"
    assert point["levelling"] == "lifted"
    assert value["reference"]["erm"]["accuracy"]["mean"] == 60.0
    assert value["hypervolume"] == pytest.approx(90 * 80 * 70)


def test_the_test_splits_word_stands_beside_each_point() -> None:
    result = front([trial(0, measured(10, 20, 70)), trial(1, measured(20, 10, 70))])
    said = {0: "confirmed", 1: "no improvement on ERM"}
    points = front_to_json(result, said)["points"]
    assert [(p["standing"], p["confirmed"]) for p in points] == [
        ("confirmed", True),
        ("no improvement on ERM", False),
    ]
    assert [p["confirmed"] for p in front_to_json(result)["points"]] == [None, None]
    console = Console(width=200)
    with console.capture() as captured:
        console.print(front_table(result, said))
    assert "no improvement on ERM" in captured.get()
    with console.capture() as captured:
        console.print(front_table(result))
    assert "on the test split" not in captured.get()


def test_the_table_shows_erm_every_point_and_its_interval() -> None:
    trials = [
        trial(0, measured(10, 20, 70, eo_gap_vs_random=4.0), step_size=0.1, basis="pixel"),
        trial(1, measured(20, 10, 70), step_size=0.2, basis="pixel"),
        trial(2, measured(90, 90, 1), step_size=0.3, basis="pixel"),
    ]
    console = Console(width=200, record=True, file=None, quiet=True)
    with console.capture() as captured:
        console.quiet = False
        console.print(front_table(front(trials)))
        console.print(front_table(front(trials), everything=True))
    text = captured.get()
    assert "ERM" in text
    assert "10.0 [8.0, 12.0]" in text
    assert "no better than noise" in text
    assert "step_size=0.1" in text
    assert "basis=" not in text  # the same in every trial
    assert "2 (dominated)" in text


def test_a_front_names_the_method_of_every_trial_and_its_own_parameters_alone() -> None:
    gezo = {"name": "gezo", "group_step": 0.5, "step_size": 0.03}
    trials = [
        replace(trial(0, measured(10, 10, 70), **gezo), method="gezo"),
        replace(trial(1, measured(5, 5, 65), **gezo | {"name": "group_dro"}), method="group_dro"),
    ]
    found = front(trials)
    assert [point["method"] for point in front_to_json(found)["points"]] == ["gezo", "group_dro"]
    console = Console(width=200)
    with console.capture() as captured:
        console.print(front_table(found))
    text = captured.get()
    (learnt,), (other,) = (
        [line for line in text.splitlines() if f" {name} " in line]
        for name in ("gezo", "group_dro")
    )
    assert "step_size=0.03" in learnt
    assert "group_step" not in learnt
    assert "group_step=0.5" in other
    assert "step_size" not in other
    assert "no noise" in other
    page = front_html(found)
    assert "diamonds: no learnt noise (group_dro)" in page


def test_the_page_needs_no_network_and_escapes_names() -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    trials = [
        trial(0, measured(10, 20, 70), basis=evil),
        trial(1, measured(20, 10, 70), basis="pixel"),
        trial(2, {}),
    ]
    page = front_html(front(trials))
    assert "<script src" not in page
    assert evil not in page
    assert "<img src=x" not in page
    assert "ERM: no edit" in page
    assert front_html(front([])).startswith("<!doctype html>")


@pytest.mark.parametrize(("direction", "best"), [("minimize", 0), ("maximize", 2)])
def test_one_objective_alone_has_its_best_value_as_front(direction: Direction, best: int) -> None:
    flags = non_dominated([(1.0,), (2.0,), (3.0,), None], [Goal("eo_gap", direction)])
    assert flags == [index == best for index in range(4)]
