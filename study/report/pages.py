"""One report as Markdown and as one HTML page that opens without a network and sends nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from study.report.tables import Cell, Table

_MARKDOWN = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_[]|#"}
    | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure to look at. `png` is its bytes, or empty with `missing` saying why there is none.

    `data` are its CSV files by name. `live` is a Plotly figure drawn in the page, beside the PNG
    that Markdown, printers and browsers without scripts show.
    """

    slug: str
    title: str
    caption: str
    png: bytes = b""
    missing: str = ""
    data: Mapping[str, str] | None = None
    live: Any = None

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"

    @property
    def html(self) -> Markup:
        """The live figure as a fragment without Plotly itself, which the page holds once."""
        fragment = self.live.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=f"plot-{self.slug}",
            config={"displayModeBar": False, "responsive": True},
        )
        return Markup(fragment)  # Plotly writes its values as JSON, with < escaped


@dataclass(frozen=True, slots=True)
class Part:
    """One section of a report: a heading, words, then tables and figures."""

    title: str
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is written: facts at the top (name, value), then the parts."""

    study: str
    description: str
    warning: str
    facts: Sequence[tuple[str, str]]
    parts: Sequence[Part]

    @property
    def tables(self) -> list[Table]:
        return [table for part in self.parts for table in part.tables]

    @property
    def figures(self) -> list[Figure]:
        return [figure for part in self.parts for figure in part.figures]


def html_page(report: Report) -> str:
    """Return the page: styles, pictures and (where a figure is live) Plotly once, all inside."""
    script = ""
    if any(figure.live is not None for figure in report.figures):
        from plotly.offline import get_plotlyjs

        script = get_plotlyjs()
    page = _environment(autoescape=True).get_template("report.html.j2")
    return page.render(report=report, plotly=Markup(script))  # Plotly's own code


def markdown_page(report: Report) -> str:
    """Return the Markdown, which shows the PNG files beside it."""
    return _environment(autoescape=False).get_template("report.md.j2").render(report=report)


def markdown_cell(cell: Cell) -> str:
    """Return a cell in Markdown: best in bold, second best underlined, text escaped.

    >>> markdown_cell(Cell("1.0", "±0.5", "best")), markdown_cell(Cell("a|b", rank="second"))
    ('**1.0** ±0.5', '<u>a\\\\|b</u>')
    """
    text = escaped(cell.text)
    match cell.rank:
        case "best":
            text = f"**{text}**"
        case "second":
            text = f"<u>{text}</u>"
        case _:
            pass
    return f"{text} {cell.spread}" if cell.spread else text


def markdown_row(cells: Iterable[str]) -> str:
    """Return one line of a Markdown table.

    >>> markdown_row(["a", "b"])
    '| a | b |'
    """
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """Return text that Markdown takes literally, on one line.

    >>> escaped("a_b | <i>")
    'a\\\\_b \\\\| &lt;i&gt;'
    """
    return " ".join(text.split()).translate(_MARKDOWN)


def _environment(*, autoescape: bool) -> Environment:
    made = Environment(
        loader=PackageLoader("study.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"markdown_cell": markdown_cell, "md": escaped, "row": markdown_row}
    made.filters["rule"] = lambda words: "---" if words else "---:"
    return made
