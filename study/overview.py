"""What there is: the studies under a root, and the encoders a study can name."""

from __future__ import annotations

from typing import Any, get_args

from rich.table import Table

from study.attempts import reason_of
from study.database import study_names
from study.encoder_sections import ENCODERS
from study.ledger import Ledger
from study.names import Layout
from ude_core.errors import UserError


def overview(layout: Layout) -> list[dict[str, Any]]:
    """Return one row a study, of the database or else of the root.

    Keys: study, state, owner, target, counts, queries.
    `state` is running (a driver holds it), done, waiting (below its target), or unreadable, with
    the reason as `problem`: one broken study does not hide the others.
    """
    rows = []
    for name in study_names(layout):
        try:
            rows.append(_row(name, layout))
        except (ValueError, KeyError, TypeError) as error:
            problem = str(error) if isinstance(error, UserError) else reason_of(error)
            rows.append({"study": name, "state": "unreadable", "problem": problem})
    return rows


def _row(name: str, layout: Layout) -> dict[str, Any]:
    ledger = Ledger.open(name, layout.root)
    try:
        counts, owner = ledger.counts(), ledger.owner()
        running = owner is not None and owner.alive
        target = ledger.config.budget.trials
        ended = counts["complete"] + counts["failed"] + counts["pruned"]
        state = "running" if running else "done" if ended >= target else "waiting"
        return {
            "study": name,
            "state": state,
            "owner": owner.name if owner else None,
            "target": target,
            "counts": counts,
            "queries": ledger.queries(),
        }
    finally:
        ledger.close()


def overview_table(rows: list[dict[str, Any]]) -> Table:
    """Return the studies as a table."""
    table = Table()
    for name in ("study", "state", "progress", "failed", "queries", "owner"):
        table.add_column(name, justify="right" if name in ("progress", "queries") else "left")
    for row in rows:
        if row["state"] == "unreadable":
            table.add_row(row["study"], row["state"], "–", "–", "–", row["problem"])
            continue
        counts = row["counts"]
        ended = counts["complete"] + counts["failed"] + counts["pruned"]
        table.add_row(
            row["study"],
            row["state"],
            f"{ended}/{row['target']}",
            str(counts["failed"]),
            f"{row['queries']:,}",
            row["owner"] or "–",
        )
    return table


def encoder_kinds() -> list[dict[str, Any]]:
    """Return every kind of encoder a search space can name, and its settings."""
    return [
        {
            "kind": get_args(section.model_fields["kind"].annotation)[0],
            "about": " ".join((section.__doc__ or "").split("\n\n")[0].split()),
            "settings": [name for name in section.model_fields if name != "kind"],
        }
        for section in ENCODERS
    ]
