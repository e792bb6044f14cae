"""Fig. 2 as a figure that answers to the pointer; the same numbers as `draw.sweep_png`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from study.pareto_views import measured_text, title
from study.report.ablation import PANELS, Dot, Sweep, means, series_title
from study.report.draw import COLORS, axis_title, position, ticks
from ude_core.types import Interval

_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")


def sweep_figure(sweep: Sweep) -> Any:
    """Return Fig. 2a or 2b for Plotly: a row a disease, EO on the left and accuracy on the right."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    diseases = list(sweep.erm)
    figure = make_subplots(
        rows=len(diseases),
        cols=len(PANELS),
        shared_xaxes=True,
        subplot_titles=[title(disease) for disease in diseases for _ in PANELS],
        vertical_spacing=0.3 / max(1, 2 * len(diseases)),
        horizontal_spacing=0.09,
    )
    for row, disease in enumerate(diseases, start=1):
        for column, metrics in enumerate(PANELS, start=1):
            for number, metric in enumerate(metrics):
                for index, method in enumerate(sweep.dots):
                    name = series_title(method, metric, len(sweep.dots) > 1)
                    dots = sweep.dots[method][disease][metric]
                    nth = number * len(sweep.dots) + index
                    at = partial(position, sweep, nth=nth, of=len(metrics) * len(sweep.dots))
                    for trace in _traces(sweep, dots, at, name, metric, index, legend=row == 1):
                        figure.add_trace(go.Scatter(**trace), row=row, col=column)
                erm = sweep.erm[disease].get(metric)
                if isinstance(erm, Interval):
                    figure.add_hline(
                        y=erm.mean,
                        line={"dash": "dash", "width": 1.3, "color": COLORS[metric]},
                        row=row,
                        col=column,
                    )
        figure.update_yaxes(title_text="EO gap (pp)", row=row, col=1)
        figure.update_yaxes(title_text="accuracy (%)", row=row, col=2)
    erm_key = {"x": [None], "y": [None], "mode": "lines", "name": "ERM"}
    figure.add_trace(go.Scatter(**erm_key, line={"dash": "dash", "color": "#444444"}), row=1, col=1)
    if sweep.knob == "regularization":
        where, text = ticks(sweep)
        figure.update_xaxes(tickvals=where, ticktext=text)
    figure.update_xaxes(title_text=axis_title(sweep), row=len(diseases))
    figure.update_layout(
        template="plotly_white",
        height=110 + 270 * len(diseases),
        margin={"l": 60, "r": 20, "t": 70, "b": 50},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "yref": "container", "x": 0},
        hovermode="closest",
    )
    figure.update_layout(legend={"y": 0.995, "yanchor": "top"})
    figure.update_annotations(font={"size": 13})
    return figure


def _traces(
    sweep: Sweep,
    dots: Sequence[Dot],
    at: Callable[[float], float],
    name: str,
    metric: str,
    index: int,
    *,
    legend: bool,
) -> list[dict[str, Any]]:
    if not dots:
        return []
    color = COLORS[metric]
    traces: list[dict[str, Any]] = [
        {
            "x": [at(dot.value) for dot in dots],
            "y": [dot.measured.mean for dot in dots],
            "mode": "markers",
            "name": name,
            "legendgroup": name,
            "showlegend": legend,
            "marker": {"color": color, "size": 7, "symbol": _SYMBOLS[index % len(_SYMBOLS)]},
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [max(0.0, dot.measured.high - dot.measured.mean) for dot in dots],
                "arrayminus": [max(0.0, dot.measured.mean - dot.measured.low) for dot in dots],
                "thickness": 1,
                "width": 0,
                "color": _faint(color),
            },
            "hovertext": [
                f"trial {dot.trial}<br>{axis_title(sweep)} {dot.value:g}<br>{measured_text(dot.measured)}"
                for dot in dots
            ],
            "hoverinfo": "text",
        }
    ]
    if sweep.alone:
        values, middle = means(dots)
        traces.append(
            {
                "x": [at(value) for value in values],
                "y": middle,
                "mode": "lines",
                "legendgroup": name,
                "showlegend": False,
                "line": {"color": color, "width": 2},
                "hoverinfo": "skip",
            }
        )
    return traces


def _faint(color: str) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.35)"
