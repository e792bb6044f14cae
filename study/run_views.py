"""MLflow's views of a study as a whole: marks on its runs, a description, and fronts to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from study.api import Study
from study.live.judged import Judged, judge_all
from study.live.source import Snapshot, StudySource
from study.pareto import Front, compute_front
from study.pareto_views import fronts_html
from study.run_marks import description, front_numbers, front_tables, marks

if TYPE_CHECKING:
    from study.ledger import Ledger
    from study.runs import StudyRuns

_MOST_SHOWN = 1000
"""Dominated trials in the page kept as an artefact; the live page shows all."""


def source_of(ledger: Ledger) -> StudySource:
    """Return a driver's own study, to be looked at again and again."""
    study = Study(ledger.name, ledger.places.folder.parent, ledger.config, ledger)
    return StudySource(lambda: study)


def publish(runs: StudyRuns, source: StudySource, *, whole: bool = False) -> None:
    """Write what has changed of the tags and the description; `whole`: the artefacts too.

    Idempotent. Raises what MLflow raises.
    """
    now = source.snapshot()
    judged = judge_all(now)
    runs.mark(marks(now, judged), description(now, judged))
    if whole:
        runs.show_fronts(fronts_html(_fronts(now, judged)), front_tables(now, judged))


def _fronts(now: Snapshot, judged: Mapping[str, Judged]) -> list[Front]:
    records = now.study.ledger.trials()
    complete = [record for record in records if record.state == "complete"]
    step = max(1, len(complete) // _MOST_SHOWN)
    sample = {record.number for record in complete[::step]}
    return [
        compute_front(
            study=now.study.name,
            disease=disease,
            diseases=now.diseases,
            goals=now.goals,
            trials=[r for r in complete if r.number in sample or r.number in there],
            reference=now.reference,
            constraints=now.config.constraints,
        )
        for disease, each in judged.items()
        for there in (front_numbers(now, each),)
    ]
