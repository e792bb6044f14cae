"""Every trial of a study, as a table, as JSON, and as CSV that no spreadsheet will run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from study.pareto_views import measured_text, own_params, params_text, title, varying
from study.records import TrialRecord
from ude_core.results import metrics_to_json
from ude_core.types import Interval, Measured

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def trials_table(study: str, records: Sequence[TrialRecord], metrics: Sequence[str]) -> Table:
    """Return one row a trial: state, the objectives with intervals, queries, parameters, reason."""
    table = Table(title=study, title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("state")
    methods = {record.method for record in records}
    if len(methods) > 1:
        table.add_column("method")
    for name in metrics:
        table.add_column(title(name), justify="right")
    table.add_column("queries", justify="right")
    table.add_column("parameters", overflow="fold")
    table.add_column("reason", overflow="fold")
    names = varying([own_params(record.params, record.method) for record in records])
    for record in records:
        table.add_row(
            str(record.number),
            record.state,
            *([record.method] if len(methods) > 1 else []),
            *(measured_text(record.metrics.get(name)) for name in metrics),
            f"{record.queries:,}",
            params_text(own_params(record.params, record.method), names),
            record.reason,
        )
    return table


def trials_json(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """Return the trials as JSON values; times are ISO 8601 in local time, null until they come."""
    return [
        {
            "trial": record.number,
            "state": record.state,
            "method": record.method,
            "seed": record.seed,
            "params": dict(record.params),
            "metrics": metrics_to_json(record.metrics),
            "queries": record.queries,
            "queries_by_phase": dict(record.queries_by_phase),
            "outcome": record.outcome,
            "reason": record.reason,
            "started": record.started.isoformat() if record.started else None,
            "ended": record.ended.isoformat() if record.ended else None,
        }
        for record in records
    ]


def preparation_json(reference: Mapping[str, Measured]) -> dict[str, int]:
    """Return what preparing the study cost before any trial, by phase, from its reference."""
    phases = {"attribute": "queries_attribute", "surrogate": "surrogate_passes"}
    known = {phase: reference.get(name) for phase, name in phases.items()}
    return {
        phase: round(value.mean) for phase, value in known.items() if isinstance(value, Interval)
    }


def trials_csv(records: Sequence[TrialRecord]) -> str:
    """Return one row a trial; a metric has three columns: its name, `.low` and `.high`.

    Undefined metrics are empty. Text that a spreadsheet would take for a formula gets a leading
    apostrophe.
    """
    params = sorted({name for record in records for name in record.params})
    metrics = sorted({name for record in records for name in record.metrics} - {"queries"})
    ends = [f"{name}{end}" for name in metrics for end in ("", ".low", ".high")]
    fixed = ["trial", "state", "method", "outcome", "seed", "queries", "reason"]
    buffer = io.StringIO()
    writer = csv.writer(buffer)  # RFC 4180: lines end in CR LF, and both are quoted inside a cell
    writer.writerow(map(neutral, [*fixed, *(f"params.{name}" for name in params), *ends]))
    for record in records:
        row: list[Any] = [
            record.number,
            record.state,
            record.method,
            record.outcome,
            record.seed,
            record.queries,
            record.reason,
            *(record.params.get(name, "") for name in params),
        ]
        for name in metrics:
            match record.metrics.get(name):
                case Interval(mean, low, high):
                    row += [mean, low, high]
                case _:
                    row += ["", "", ""]
        writer.writerow(map(neutral, row))
    return buffer.getvalue()


def neutral(cell: Any) -> Any:
    """Return the cell, text made harmless; numbers stay numbers.

    >>> neutral("=HYPERLINK(1)"), neutral(-3.5), neutral("knee")
    ("'=HYPERLINK(1)", -3.5, 'knee')
    """
    if isinstance(cell, str) and cell.lstrip(" ").startswith(_FORMULA):
        return f"'{cell}"
    return cell
