"""A front to look at: a table for the terminal, and one self-contained page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from study.pareto import Front, Point
from study.records import Parameters, ParameterValue
from ude_core.baselines.base import has_noise, learns_noise
from ude_core.baselines.registry import settings_read
from ude_core.types import Interval, Measured, MethodName

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ERM, _FRONT, _OTHER = "#444444", "#b2182b", "#9aa5b1"
_TITLES: Mapping[str, str] = {
    "eo_gap": "equal-opportunity gap",
    "selection_rate_symmetric_gap": "selection-rate gap",
    "noise_l2": "‖ε‖₂",
}


def front_table(
    front: Front, standings: Mapping[int, str] | None = None, *, everything: bool = False
) -> Table:
    """Return the front beside ERM, each value with its 95 % interval; `everything`: all trials.

    `standings` (`study.confirm.standings_of`) add a column: what the test split said of each.
    """
    table = Table(
        title=f"{front.study} · {front.disease} · hypervolume {front.hypervolume:,.0f}",
        caption="means with 95 % intervals, percentage points; validation split",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("trial", justify="right")
    for goal in front.goals:
        arrow = "↓" if goal.direction == "minimize" else "↑"
        table.add_column(f"{title(goal.name)} {arrow}", justify="right")
    methods = {point.method for point in front.points}
    if len(methods) > 1:
        table.add_column("method")
    table.add_column("against noise")
    table.add_column("against ERM")
    if standings:
        table.add_column("on the test split")
    table.add_column("parameters", overflow="fold")
    table.add_row("ERM", *(measured_text(front.erm.get(goal.name)) for goal in front.goals))
    shown = front.points if everything else front.best
    if not shown:
        why = "no trial keeps the constraints" if front.points else "no complete trial yet"
        table.add_row("–", *(why for _ in front.goals[:1]))
    params = varying([own_params(point.params, point.method) for point in shown])
    for point in shown:
        missed = "dominated" if point.feasible else "infeasible"
        star = "" if point.front or not everything else f" ({missed})"
        table.add_row(
            f"{point.trial}{star}",
            *(measured_text(point.metrics.get(goal.name)) for goal in front.goals),
            *([point.method] if len(methods) > 1 else []),
            point.control if has_noise(point.method) else "no noise",
            point.levelling,
            *([standings.get(point.trial, "–")] if standings else ()),
            params_text(own_params(point.params, point.method), params),
            style="dim" if point.control == "no better than noise" else None,
        )
    return table


def title(name: str) -> str:
    """Return a metric's name for people.

    >>> title("worst_group_accuracy")
    'worst group accuracy'
    """
    return _TITLES.get(name, name.replace("_", " "))


def measured_text(value: Measured | None) -> str:
    """Return "mean [low, high]", or a dash where there is no value; three decimals within ±1.

    >>> measured_text(Interval(12.34, 8.0, 17.06)), measured_text(Interval(0.98, 0.98, 0.98))
    ('12.3 [8.0, 17.1]', '0.980 [0.980, 0.980]')
    """
    if not isinstance(value, Interval):
        return "–"
    digits = 3 if max(map(abs, (value.mean, value.low, value.high))) <= 1 else 1
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def varying(several: Sequence[Parameters]) -> tuple[str, ...]:
    """Return the names whose value is not the same everywhere (all of them for one)."""
    names = sorted({name for params in several for name in params})
    if len(several) < 2:
        return tuple(names)
    return tuple(name for name in names if len({params.get(name) for params in several}) > 1)


def own_params(params: Parameters, method: MethodName) -> Parameters:
    """Return those of a trial's parameters that its method reads; its name stands elsewhere.

    >>> own_params({"name": "group_dro", "group_step": 0.1, "samples": 4}, "group_dro")
    {'group_step': 0.1}
    """
    read = settings_read(method) - {"name"}
    return {name: value for name, value in params.items() if name in read}


def params_text(params: Parameters, names: Sequence[str]) -> str:
    """Return "name=value" for each of `names` that the trial has."""
    return " ".join(f"{name}={_short(params[name])}" for name in names if name in params)


def _short(value: ParameterValue) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def front_html(front: Front) -> str:
    """Return one front as a page, see `fronts_html`."""
    return fronts_html([front])


def fronts_html(fronts: Sequence[Front]) -> str:
    """Return one HTML page with everything in it: it opens without a network and sends nothing.

    The first objective lies along x, the last along y, the second (of three) is the color. Bars
    are 95 % intervals. Names and values are escaped.
    """
    named = html.escape(
        " · ".join([*(one.study for one in fronts[:1]), *(one.disease for one in fronts)])
    )
    bodies = [
        _figure(front).to_html(
            full_html=False,
            include_plotlyjs=first,  # one copy serves all: it is 4.8 MB
            default_height="96vh",
            config={"displaylogo": False, "responsive": True},
        )
        for first, front in zip([True, *(False for _ in fronts[1:])], fronts, strict=True)
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{named}</title></head>'
        f"<body>{''.join(bodies)}</body></html>\n"
    )


def _figure(front: Front) -> go.Figure:
    import plotly.graph_objects as go

    x, y = front.goals[0].name, front.goals[-1].name
    defined = [p for p in front.points if _has(p.metrics, [goal.name for goal in front.goals])]
    figure = go.Figure()
    others = [point for point in defined if not point.front]
    names = varying([own_params(point.params, point.method) for point in defined])
    for group, label in ((others, "dominated"), (list(front.best), "front")):
        on_front = label == "front"
        color: object = _FRONT if on_front else _OTHER
        bar = None
        if on_front and len(front.goals) > 2:
            middle = front.goals[1].name
            color = [point.mean(middle) for point in group]
            bar = {"title": {"text": title(middle)}}
        figure.add_trace(
            go.Scatter(
                x=[point.mean(x) for point in group],
                y=[point.mean(y) for point in group],
                mode="markers",
                name=label,
                error_x=_bars([point.metrics[x] for point in group]) if on_front else None,
                error_y=_bars([point.metrics[y] for point in group]) if on_front else None,
                marker={
                    "size": 13 if on_front else 7,
                    "color": color,
                    "colorscale": "Viridis",
                    "colorbar": bar,
                    "symbol": [_symbol(point) for point in group],
                },
                hovertext=[_hover(point, front, names) for point in group],
                hoverinfo="text",
            )
        )
    if _has(front.erm, [x, y]):
        figure.add_trace(
            go.Scatter(
                x=[_mean(front.erm[x])],
                y=[_mean(front.erm[y])],
                mode="markers",
                name="ERM",
                error_x=_bars([front.erm[x]]),
                error_y=_bars([front.erm[y]]),
                marker={"size": 15, "color": _ERM, "symbol": "x"},
                hovertext=["ERM: no edit"],
                hoverinfo="text",
            )
        )
    name = html.escape(f"{front.study} · {front.disease}")
    reference = sorted({point.method for point in defined if not learns_noise(point.method)})
    diamonds = f"; diamonds: no learnt noise ({', '.join(reference)})" if reference else ""
    figure.update_layout(
        title={"text": f"{name}<br><sup>open circles: no better than random noise{diamonds}</sup>"},
        xaxis={"title": {"text": _axis(front, 0)}},
        yaxis={"title": {"text": _axis(front, -1)}},
        legend={"orientation": "h", "y": -0.1},
        template="plotly_white",
    )
    return figure


def _axis(front: Front, index: int) -> str:
    goal = front.goals[index]
    better = "lower" if goal.direction == "minimize" else "higher"
    return f"{title(goal.name)} ({better} is better)"


def _has(metrics: Mapping[str, Measured], names: Sequence[str]) -> bool:
    return all(isinstance(metrics.get(name), Interval) for name in names)


def _mean(value: Measured) -> float:
    return value.mean if isinstance(value, Interval) else float("nan")


def _bars(values: Sequence[Measured]) -> dict[str, object]:
    known = [value for value in values if isinstance(value, Interval)]
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, value.high - value.mean) for value in known],
        "arrayminus": [max(0.0, value.mean - value.low) for value in known],
        "color": "rgba(80,80,80,0.35)",
    }


def _symbol(point: Point) -> str:
    if not learns_noise(point.method):
        return "diamond"
    return "circle-open" if point.control == "no better than noise" else "circle"


def _hover(point: Point, front: Front, names: Sequence[str]) -> str:
    lines = [f"trial {point.trial} · {point.method}"]
    lines += [f"{title(g.name)}: {measured_text(point.metrics.get(g.name))}" for g in front.goals]
    lines += [point.control, f"against ERM: {point.levelling}"]
    own = own_params(point.params, point.method)
    lines += [f"{name}={_short(own[name])}" for name in names if name in own]
    return "<br>".join(html.escape(line) for line in lines)
