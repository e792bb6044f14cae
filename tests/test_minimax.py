"""Minimax picks the noise whose worst disease is least bad, and nothing else."""

from dataclasses import replace

import pytest
from finished import DISEASES, about, confirmed, hand_front, measured
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from study.minimax import minimax_choice
from study.pareto import Front
from ude_core.errors import UserError
from ude_core.types import Measured, Undefined

Gaps = tuple[int, int, int]


def scores(gaps: Gaps, accuracy: float = 60.0, *, control: float = -5.0) -> dict[str, Measured]:
    own = {f"{disease}/eo_gap": about(gap) for disease, gap in zip(DISEASES, gaps, strict=True)}
    return {**measured(0, 30, accuracy, control=control), **own}


def worst(rows: list[dict[str, Measured]]) -> Front:
    return hand_front(rows, "worst")


@given(st.lists(st.tuples(*[st.integers(0, 90)] * 3), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_no_other_noise_has_a_smaller_worst_gap(gaps: list[Gaps]) -> None:
    chosen = minimax_choice(worst([scores(one) for one in gaps]))
    assert chosen.mean("eo_gap") == min(max(one) for one in gaps)
    assert chosen.trial == min(range(len(gaps)), key=lambda i: (max(gaps[i]), i))


@given(
    st.lists(st.tuples(*[st.integers(0, 90)] * 3), min_size=2, max_size=6),
    st.permutations(range(3)),
)
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_diseases_does_not_matter(gaps: list[Gaps], order: list[int]) -> None:
    assume(len({max(one) for one in gaps}) == len(gaps))
    turned = [tuple(one[i] for i in order) for one in gaps]
    chosen = [minimax_choice(worst([scores(g) for g in rows])).trial for rows in (gaps, turned)]
    assert chosen[0] == chosen[1]


def test_a_small_mean_does_not_make_up_for_one_bad_disease() -> None:
    assert minimax_choice(worst([scores((1, 1, 40)), scores((30, 30, 30))])).trial == 1


def test_ties_go_to_the_more_accurate_then_to_the_earlier() -> None:
    assert minimax_choice(worst([scores((9, 9, 9), 60), scores((9, 1, 1), 70)])).trial == 1
    assert minimax_choice(worst([scores((9, 9, 9)), scores((9, 9, 9))])).trial == 0


def test_a_noise_that_random_noise_equals_in_some_disease_comes_last() -> None:
    rows = [scores((5, 5, 5)), scores((20, 20, 20))]
    rows[0]["edema/eo_gap_vs_random"] = about(0.5)
    assert minimax_choice(worst(rows)).trial == 1
    assert minimax_choice(worst(rows[:1])).trial == 0


def test_confirmed_noises_come_first() -> None:
    rows = [scores((5, 5, 5)), scores((20, 20, 20))]
    assert minimax_choice(worst(rows), confirmed((1, -2.0))).trial == 1
    assert minimax_choice(worst(rows), confirmed((1, 2.0))).trial == 0


def test_an_undefined_gap_or_a_broken_constraint_is_no_candidate() -> None:
    rows = [scores((5, 5, 5)), scores((20, 20, 20))]
    rows[0]["pneumonia/eo_gap"] = Undefined("no cell")
    assert minimax_choice(worst(rows)).trial == 1
    with pytest.raises(UserError, match="no noise for all diseases yet"):
        minimax_choice(worst(rows[:1]))
    front = worst([scores((5, 5, 5)), scores((20, 20, 20))])
    kept = replace(front, points=(replace(front.points[0], feasible=False), front.points[1]))
    assert minimax_choice(kept).trial == 1


def test_one_diseases_front_is_refused() -> None:
    with pytest.raises(UserError, match="is over the front 'worst', not 'edema'"):
        minimax_choice(hand_front([scores((1, 1, 1))], "edema"))
