"""A point is confirmed by the rule, for all points together, and by nothing else."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.metric_names import Direction
from study.pareto import Goal, levelling
from study.standing import dominance, holm, improvement_chance, shown_levelling, standings
from ude_core.types import Interval, Measured, Undefined

chances = st.lists(st.floats(0, 1), max_size=6)


def against(difference: float, half: float, beaten: float | None = 100.0) -> dict[str, Measured]:
    metrics: dict[str, Measured] = {
        "edema/eo_gap_vs_erm": Interval(difference, difference - half, difference + half)
    }
    if beaten is not None:
        metrics["edema/controls_beaten"] = Interval(beaten, beaten, beaten)
    return metrics


@settings(deadline=None)
@given(chances, st.floats(0.01, 0.2))
def test_holm_is_the_closure_of_bonferroni(values: list[float], level: float) -> None:
    """A hypothesis is rejected where Bonferroni rejects every subset that it is in."""
    everyone = range(len(values))
    subsets = [s for size in everyone for s in itertools.combinations(everyone, size + 1)]
    alive = [s for s in subsets if min(values[i] for i in s) > level / len(s)]
    expected = [not any(index in s for s in alive) for index in everyone]
    assert holm(values, level) == expected


@settings(deadline=None)
@given(chances, st.randoms(use_true_random=False))
def test_more_points_and_another_order_never_confirm_more(values: list[float], order) -> None:  # type: ignore[no-untyped-def]
    before = holm(values, 0.025)
    after = holm([*values, 0.5], 0.025)[: len(values)]
    assert all(had or not has for had, has in zip(before, after, strict=True))
    shuffled = order.sample(range(len(values)), len(values))
    moved = holm([values[index] for index in shuffled], 0.025)
    assert [before[index] for index in shuffled] == moved


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (against(-10, 5), "confirmed"),
        (against(-10, 5, 95.0), "confirmed"),  # 19 of 20
        (against(-10, 5, 90.0), "no better than noise"),
        (against(-10, 11), "no improvement on ERM"),
        (against(10, 5), "no improvement on ERM"),
        (against(-10, 5, None), "not compared"),
        ({"edema/eo_gap_vs_erm": Undefined("empty")}, "not compared"),
        ({}, "not compared"),
    ],
)
def test_a_point_stands_by_the_rule(metrics: dict[str, Measured], expected: str) -> None:
    assert standings({3: metrics}, {3: ("edema",)}) == {3: {"edema": expected}}


def test_all_points_are_one_family() -> None:
    just = against(-10, 9.9)  # one-sided p 0.024: enough alone
    assert standings({0: just}, {0: ("edema",)})[0]["edema"] == "confirmed"
    two = standings({0: just, 1: against(0, 5)}, {0: ("edema",), 1: ("edema",)})
    assert [two[trial]["edema"] for trial in (0, 1)] == ["no improvement on ERM"] * 2
    assert standings({0: just}, {0: ()}) == {0: {}}


def test_the_chance_of_an_exact_difference_is_certain() -> None:
    assert improvement_chance(Interval(-1, -1, -1)) == 0.0
    assert improvement_chance(Interval(0, 0, 0)) == 1.0
    assert improvement_chance(None) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([(5, 2), (0, 2), (1, 4)], "lifted"),
        ([(5, 2), (-5, 2), (0, 1)], "traded"),
        ([(5, 6), (-5, 2), (0, 1)], "levelled-down"),
        ([(5, 6), (-5, 6), (9, 10)], "unchanged"),
        ([], "unknown"),
    ],
)
def test_levelling_counts_what_chance_does_not_explain(
    changes: list[tuple[float, float]], expected: str
) -> None:
    metrics: dict[str, Measured] = {
        f"edema/tpr.group {index}_vs_erm": Interval(mean, mean - half, mean + half)
        for index, (mean, half) in enumerate(changes)
    }
    assert shown_levelling(metrics, "edema") == expected
    assert shown_levelling(metrics, "pneumonia") == "unknown"
    assert shown_levelling(metrics | {"edema/tnr.x_vs_erm": Undefined("x")}, "edema") == "unknown"


values = st.floats(0, 100)
widths = st.floats(0.1, 30)


@settings(deadline=None)
@given(values, values, widths, widths, st.sampled_from(["minimize", "maximize"]))
def test_one_objectives_dominance_is_a_probability(
    ours: float, erm: float, wide: float, other: float, direction: Direction
) -> None:
    goal = [Goal("accuracy", direction)]
    mine = {"edema/accuracy": Interval(ours, ours - wide, ours + wide)}
    theirs = {"edema/accuracy": Interval(erm, erm - other, erm + other)}
    ahead, behind = (dominance(*pair, goal, "edema") for pair in ((mine, theirs), (theirs, mine)))
    assert ahead is not None
    assert behind is not None
    assert ahead + behind == pytest.approx(1.0)
    better = ours > erm if direction == "maximize" else ours < erm
    assert ahead >= 0.5 if better else ahead <= 0.5
    two = dominance(mine, theirs, [*goal, *goal], "edema")
    assert two == pytest.approx(ahead**2)


@settings(deadline=None)
@given(st.lists(st.tuples(values, values), min_size=1, max_size=5))
def test_levelling_of_any_number_of_groups_turns_around(rates: list[tuple[float, float]]) -> None:
    before, after = (
        {f"tpr.group {i}": Interval(pair[side], 0, 100) for i, pair in enumerate(rates)}
        for side in (0, 1)
    )
    around = {"lifted": "levelled-down", "levelled-down": "lifted"}
    label = levelling(after, before)
    assert levelling(before, after) == around.get(label, label)
    assert levelling(before, before) == "unchanged"
    assert (label == "unchanged") == all(abs(a - b) <= 1 for a, b in rates)
