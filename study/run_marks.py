"""What MLflow is told of a study as a whole: who is on which front, in tags, colours and tables.

All of it follows from the ledger and the confirmation, so it may be written again at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from study.live.judged import Judged
from study.live.source import Snapshot
from study.names import PAGES
from study.pareto import (
    Control,
    Goal,
    Levelling,
    control_label,
    hypervolume,
    levelling,
    nadir,
    scoped,
)
from study.pareto_views import measured_text, title
from ude_core.types import Interval, Measured

CONFIRMED, FRONT, OTHER = "#00805c", "#0b6b8a", "#c3ccd3"
"""The colours of runs in MLflow: confirmed on the test split, on some front, and all others."""

_COLOR = "mlflow.runColor"
_MOST_ROWS = 12
_YES, _NO = "yes", "no"


def label_of(control: Control, level: Levelling) -> str:
    """Return the one word a trial gets for a disease: whom it helped, unless noise helps as much."""
    return control if control == "no better than noise" else level


def labels(
    metrics: Mapping[str, Measured], reference: Mapping[str, Measured], diseases: Sequence[str]
) -> dict[str, str]:
    """Return a complete trial's own tags: `label.<disease>`, and that it is on no front yet."""
    found = {_COLOR: OTHER, "confirmed": _NO}
    for disease in diseases:
        view = scoped(metrics, disease, diseases)
        level = levelling(view, scoped(reference, disease, diseases))
        found[f"label.{disease}"] = label_of(control_label(view), level)
        found[f"front.{disease}"] = _NO
    return found


def marks(now: Snapshot, judged: Mapping[str, Judged]) -> dict[int, dict[str, str]]:
    """Return the tags of every complete trial that depend on other trials, by its number."""
    confirmed = {p.trial for p in now.confirmation.points} if now.confirmation else set()
    fronts = {disease: front_numbers(now, each) for disease, each in judged.items()}
    somewhere = frozenset().union(*fronts.values())
    found = {}
    for number in now.trials.numbers[now.trials.complete].tolist():
        on_front = number in somewhere
        found[number] = {
            **{f"front.{d}": _YES if number in there else _NO for d, there in fronts.items()},
            "confirmed": _YES if number in confirmed else _NO,
            _COLOR: CONFIRMED if number in confirmed else FRONT if on_front else OTHER,
        }
    return found


def front_numbers(now: Snapshot, judged: Judged) -> frozenset[int]:
    """Return the trials on the front."""
    return frozenset(now.trials.numbers[judged.rows[judged.front]].tolist())


def description(now: Snapshot, judged: Mapping[str, Judged]) -> str:
    """Return the study in Markdown: how far it is, and each disease's front beside ERM."""
    counts = ", ".join(f"{count:,} {state}" for state, count in now.counts.items() if count)
    parts = [
        _safe(now.config.description),
        f"{counts or 'no trials'} of {now.config.budget.trials:,}; {now.queries:,} queries. "
        f"[Open the live front]({PAGES.lstrip('/')}/#/study/{now.study.name})",
        "Means with 95 % intervals in percentage points on the validation split. One nested run a "
        "trial; confirmed ones are green, those on a front blue, the others gray. Filters that "
        f"work: `tags.\"front.{now.diseases[0]}\" = 'yes'`, `tags.confirmed = 'yes'`, "
        f"`tags.\"label.{now.diseases[0]}\" = 'lifted'`.",
    ]
    for disease, each in judged.items():
        rows = table_rows(now, each, disease)[:_MOST_ROWS]
        headers, body = rows[0], rows[1:]
        volume = _hypervolume(each, now.goals)
        parts.append(f"### {_safe(disease.replace('_', ' '))} · hypervolume {volume:,.0f}")
        lines = [headers, ["---"] * len(headers), *body]
        parts.append("\n".join(f"| {' | '.join(map(_safe, line))} |" for line in lines))
    return "\n\n".join(part for part in parts if part)


def front_tables(now: Snapshot, judged: Mapping[str, Judged]) -> dict[str, dict[str, Any]]:
    """Return each disease's front as MLflow's viewer shows tables, by artefact path."""
    found = {}
    for disease, each in judged.items():
        headers, *body = table_rows(now, each, disease)
        found[f"fronts/{disease}.json"] = {"columns": headers, "data": body}
    return found


def table_rows(now: Snapshot, judged: Judged, disease: str) -> list[list[str]]:
    """Return the front as text, header first, ERM next, then by the first objective, best first."""
    goals = now.goals
    arrows = {"minimize": "↓", "maximize": "↑"}
    confirmed = {p.trial for p in now.confirmation.points} if now.confirmation else set()
    params = list(dict.fromkeys(name for each in now.trials.params for name in each))
    header = ["trial", *(f"{title(goal.name)} {arrows[goal.direction]}" for goal in goals)]
    rows = [[*header, "against ERM and noise", "confirmed", "queries", *params]]
    erm = [measured_text(judged.erm.get(goal.name)) for goal in goals]
    rows.append(["ERM", *erm, "reference", "–", "0", *("–" for _ in params)])
    values = [now.trials.seen(goal.name, disease, now.diseases) for goal in goals]
    sign = 1 if goals[0].direction == "minimize" else -1
    front = judged.front.nonzero()[0].tolist()
    front.sort(key=lambda at: (sign * judged.coordinates[at, 0], judged.rows[at]))
    for at in front:
        row = int(judged.rows[at])
        number = int(now.trials.numbers[row])
        rows.append(
            [
                str(number),
                *(measured_text(Interval(*map(float, value[row]))) for value in values),
                label_of(judged.control_of(at), judged.level_of(at)),
                _YES if number in confirmed else "–",
                f"{int(now.trials.queries[row]):,}",
                *(_short(now.trials.params[row].get(name, "–")) for name in params),
            ]
        )
    return rows


def _hypervolume(judged: Judged, goals: Sequence[Goal]) -> float:
    known = judged.usable
    worst = {goal.name: nadir(goal, known[:, i].tolist()) for i, goal in enumerate(goals)}
    return hypervolume(known.tolist(), goals, worst)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _safe(text: str) -> str:
    """Return text that Markdown shows as it is: no markup, no new cell, no link."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#|!~" else c for c in " ".join(text.split()))
