"""A study kept in memory says what the ledger says: the same fronts, labels and history."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from finished import DISEASES, SCORES, finished_study, measured, noise_of
from hypothesis import given, settings
from hypothesis import strategies as st

from study.api import Study
from study.live.judged import judge, judge_all
from study.live.rows import FinishedRow
from study.live.source import Studies, StudySource
from study.live.table import TrialTable
from study.names import Layout
from study.pareto import MEAN, WORST, front_of, scoped
from study.run_marks import CONFIRMED, FRONT, OTHER, description, front_tables, marks
from study.web.history import history_view
from ude_core.errors import UserError
from ude_core.results import metrics_to_json, save_result
from ude_core.types import Interval, Measured, QueryCount, TrialResult, Undefined


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with finished_study(tmp_path) as found:
        yield found


def tell(study: Study, metrics: dict[str, Measured]) -> int:
    number = study.ledger.ask().number
    result = TrialResult(noise_of(number), metrics, (), QueryCount(noise=7), "improved")
    save_result(result, study.ledger.places.trial(number))
    study.ledger.tell(number, result)
    return number


@pytest.mark.parametrize("disease", [*DISEASES, MEAN, WORST])
def test_fronts_are_those_of_the_ledger(study: Study, disease: str) -> None:
    gone = {name: Undefined("no men") for name in measured(0, 0, 0) if name.startswith("edema/tpr")}
    tell(study, {**measured(8, 8, 75), **gone})
    tell(study, {**measured(30, 30, 30, control=None, tpr=50)})
    now = StudySource(lambda: study).snapshot()
    judged, front = judge(now, disease), front_of(study, disease)
    said = [
        (int(number), bool(on_front), judged.level_of(at), judged.control_of(at))
        for at, (number, on_front) in enumerate(
            zip(now.trials.numbers[judged.rows], judged.front, strict=True)
        )
    ]
    assert said == [(p.trial, p.front, p.levelling, p.control) for p in front.points]
    assert history_view(now, disease)["hypervolume"][-1] == pytest.approx(front.hypervolume)


value = st.floats(0, 100)
interval = st.tuples(value, value, value).map(lambda ends: Interval(*ends))
metric = st.one_of(interval, interval, st.just(Undefined("an empty cell")))
NAMES = ("eo_gap", "accuracy", "tpr.female", "auroc")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {f"{d}/{name}": metric for d in ("a", "b") for name in NAMES} | {"noise_l2": interval}
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["a", "b", MEAN, WORST]),
)
def test_columns_are_scoped_metrics(trials: list[dict[str, Measured]], disease: str) -> None:
    table = TrialTable()
    table.add(
        FinishedRow(i, "complete", {}, metrics_to_json(one), 1, None)
        for i, one in enumerate(trials)
    )
    view = table.view()
    for row, one in enumerate(trials):
        for name, expected in scoped(one, disease, ("a", "b")).items():
            ends = view.seen(name, disease, ("a", "b"))[row]
            if isinstance(expected, Undefined):
                assert np.isnan(ends).all()
            else:
                wanted = (expected.mean, expected.low, expected.high)
                assert ends.tolist() == pytest.approx(wanted)


def test_only_news_is_read_and_an_older_view_stays_true(study: Study) -> None:
    source = StudySource(lambda: study)
    before = source.snapshot()
    assert source.snapshot() is before
    number = tell(study, {**measured(1, 1, 90), "edema/new_metric": Interval(1, 1, 1)})
    after = source.snapshot()
    assert after.version != before.version
    assert (len(before.trials), len(after.trials)) == (len(SCORES), len(SCORES) + 1)
    assert after.trials.numbers[-1] == number
    assert "edema/new_metric" not in before.trials.names
    assert math.isnan(after.trials.metric("edema/new_metric")[0, 0])
    assert after.queries == study.ledger.queries()
    assert dict(after.counts) == study.ledger.counts()


def test_a_failed_trial_counts_and_is_no_point(study: Study) -> None:
    study.ledger.fail(study.ledger.ask().number, "OSError: the disk", queries=5)
    now = StudySource(lambda: study).snapshot()
    assert now.counts["failed"] == 1
    assert len(judge(now, "edema").rows) == len(SCORES)
    assert now.queries == study.ledger.queries()


def test_a_broken_study_does_not_hide_the_others(study: Study, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.db").write_bytes(b"no database")
    studies = Studies(Layout.at(tmp_path))
    assert {name: studies.summary(name)["state"] for name in studies.names()} == {
        "broken": "unreadable",
        "tiny": "waiting",
    }
    with pytest.raises(UserError, match="no study 'other'"):
        studies.snapshot("other")
    studies.close()


def test_marks_and_the_description_name_the_front(study: Study) -> None:
    now = StudySource(lambda: study).snapshot()
    judged = judge_all(now)
    found = marks(now, judged)
    front = {point.trial for point in front_of(study, "edema").best}
    assert {number for number, tags in found.items() if tags["front.edema"] == "yes"} == front
    assert {number for number, tags in found.items() if tags["mlflow.runColor"] == FRONT} == front
    assert {tags["confirmed"] for tags in found.values()} == {"no"}
    text = description(now, judged)
    assert "(ude/#/study/tiny)" in text
    assert all(f"| {number} |" in text for number in front)
    assert CONFIRMED != OTHER
    tables = front_tables(now, judged)
    assert set(tables) == {f"fronts/{disease}.json" for disease in DISEASES}
    for table in tables.values():
        assert {len(row) for row in table["data"]} == {len(table["columns"])}


def test_a_description_shows_markup_as_text(study: Study) -> None:
    hostile = "<img src=x onerror=alert(1)> [a](javascript:b) | *c*"
    study.ledger.config = study.config.model_copy(update={"description": hostile})
    study.ledger.keep_config()
    now = StudySource(lambda: study).snapshot()
    text = description(now, judge_all(now))
    assert "\\<img" in text
    assert "\\[a\\]\\(javascript" in text
    assert "\\| \\*c\\*" in text
