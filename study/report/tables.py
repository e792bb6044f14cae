"""What a table is, before anybody sees it: cells with text and a mark, and the same rows as data."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from study.metric_names import Direction
from study.trials_view import neutral
from ude_core.types import Interval, Measured

NOT_RUN = "not run"
UNDEFINED = "undefined"
NOTHING = "–"

Rank = Literal["", "best", "second"]
Raw = str | int | float | None


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its text, the width of its interval beside it, its rank, and why (a tooltip)."""

    text: str
    spread: str = ""
    rank: Rank = ""
    note: str = ""

    @property
    def empty(self) -> bool:
        """Whether it says only that there is no value."""
        return self.text in (NOT_RUN, UNDEFINED, NOTHING)


@dataclass(frozen=True, slots=True)
class Table:
    """A table to look at, and as data: `header` and `data` are the columns and rows of its CSV.

    The first column names the row. `caption` says what the numbers are. Tables of one `file` are
    one CSV (without its ending).
    """

    slug: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    header: tuple[str, ...]
    data: tuple[tuple[Raw, ...], ...]
    file: str

    @property
    def words(self) -> tuple[bool, ...]:
        """Which columns hold words, to be set from the left."""
        return tuple(
            not any(map(_is_number, column)) for column in zip(*self.rows, strict=True)
        ) or (True,) * len(self.columns)


def _is_number(cell: Cell) -> bool:
    return cell.text.lstrip("+−±")[:1].isdigit() or cell.text == NOT_RUN


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Raw]]) -> str:
    """Return rows as CSV (RFC 4180), formulas neutralised; None is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(map(neutral, header))
    for row in rows:
        writer.writerow(["" if cell is None else neutral(cell) for cell in row])
    return buffer.getvalue()


def cell_of(value: Measured | None, rank: Rank = "", *, missing: str = NOT_RUN) -> Cell:
    """Return a measured value as a cell: "12.3" with "±4.5", or with "+5.0 −4.1" where it is lopsided.

    >>> cell_of(Interval(12.3, 8.0, 16.6))
    Cell(text='12.3', spread='±4.3', rank='', note='12.3 [8.0, 16.6]')
    >>> cell_of(Interval(3.0, 0.0, 9.0)).spread
    '+6.0 −3.0'
    """
    if value is None:
        return Cell(missing)
    if not isinstance(value, Interval):
        return Cell(UNDEFINED, note=value.reason)
    up, down = f"{value.high - value.mean:.1f}", f"{value.mean - value.low:.1f}"
    spread = f"±{up}" if up == down else f"+{up} −{down}"
    return Cell(
        f"{value.mean:.1f}",
        "" if value.low == value.high else spread,
        rank,
        f"{value.mean:.1f} [{value.low:.1f}, {value.high:.1f}]",
    )


def ranks(values: Sequence[Measured | None], direction: Direction) -> list[Rank]:
    """Return which values are best and second best, as they are printed, to one decimal.

    Equal values share their rank; what is undefined or was not run has none.

    >>> ranks([Interval(3.04, 0, 9), Interval(1.0, 0, 9), Interval(3.01, 0, 9), None], "minimize")
    ['second', 'best', 'second', '']
    """
    shown = [round(v.mean, 1) if isinstance(v, Interval) else None for v in values]
    order = sorted({v for v in shown if v is not None}, reverse=direction == "maximize")
    places: Mapping[float, Rank] = dict(zip(order[:2], ("best", "second"), strict=False))
    return [places.get(value, "") if value is not None else "" for value in shown]


def raw(value: Measured | None) -> tuple[Raw, Raw, Raw, Raw]:
    """Return mean, low, high and the reason why there is none, for a CSV."""
    match value:
        case Interval(mean, low, high):
            return mean, low, high, ""
        case None:
            return None, None, None, NOT_RUN
        case _:
            return None, None, None, f"{UNDEFINED}: {value.reason}"


def signed(value: float | None, digits: int = 1) -> Cell:
    """Return a difference with its sign, or a dash.

    >>> signed(-3.04).text, signed(0.01).text, signed(None).text
    ('−3.0', '±0.0', '–')
    """
    if value is None:
        return Cell(NOTHING)
    rounded = round(value, digits)
    if rounded == 0:
        return Cell(f"±{0:.{digits}f}")
    return Cell(f"{'+' if rounded > 0 else '−'}{abs(rounded):.{digits}f}")
