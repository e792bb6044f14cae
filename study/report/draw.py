"""The figures as PNG, by Matplotlib's object interface: no global state, no display, no dates."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from study.pareto_views import title
from study.report.ablation import PANELS, Dot, Sweep, means, place, series_title
from study.report.pictures import Panel, Regions
from ude_core.types import Interval

COLORS: Mapping[str, str] = {
    "eo_negative_gap": "#2166ac",
    "eo_positive_gap": "#b2182b",
    "accuracy": "#1b7837",
}
MARKS = ("o", "s", "^", "D", "v", "P", "X")
_DPI = 150


def sweep_png(sweep: Sweep) -> bytes:
    """Return Fig. 2a or 2b: a row a disease, EO on the left and accuracy on the right."""
    diseases = list(sweep.erm)
    figure = Figure(
        figsize=(9.0, 0.9 + 2.5 * len(diseases)),
        layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06),
    )
    axes = figure.subplots(len(diseases), len(PANELS), squeeze=False, sharex=True)
    for row, disease in enumerate(diseases):
        for column, metrics in enumerate(PANELS):
            _sweep_axes(axes[row, column], sweep, disease, metrics)
            if row == len(diseases) - 1:
                axes[row, column].set_xlabel(axis_title(sweep))
        axes[row, 0].set_ylabel("EO gap (pp)")
        axes[row, 1].set_ylabel("accuracy (%)")
    handles = {
        label: handle
        for axis in axes[0]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False
    )
    return png(figure)


def axis_title(sweep: Sweep) -> str:
    """Return the title of the setting's axis."""
    return "λ" if sweep.knob == "regularization" else "R, local iterations"


def ticks(sweep: Sweep) -> tuple[list[float], list[str]]:
    """Return where λ's axis has its ticks, and what they read: 0, then powers of ten."""
    at, text = [0.0], ["0"]
    first = int(np.floor(np.log10(sweep.smallest)))
    for power in range(first, int(np.ceil(np.log10(sweep.largest))) + 1):
        where = place(10.0**power, sweep.smallest)
        if where >= 0.5:
            at.append(where)
            text.append(f"{10.0**power:g}")
    return at, text


def position(sweep: Sweep, value: float, nth: int = 0, of: int = 1) -> float:
    """Return where a value of the setting lies on its axis; series stand a little apart."""
    at = [_along(sweep, known) for known in (sweep.smallest, sweep.largest)]
    apart = 0.012 * max(at[1] - at[0], 1e-9)
    return _along(sweep, value) + apart * (nth - (of - 1) / 2)


def _along(sweep: Sweep, value: float) -> float:
    return place(value, sweep.smallest) if sweep.knob == "regularization" else value


def _sweep_axes(axes: Axes, sweep: Sweep, disease: str, metrics: Sequence[str]) -> None:
    many = len(metrics) * len(sweep.dots)
    for number, metric in enumerate(metrics):
        for index, method in enumerate(sweep.dots):
            dots = sweep.dots[method][disease][metric]
            label = series_title(method, metric, len(sweep.dots) > 1)
            at = partial(position, sweep, nth=number * len(sweep.dots) + index, of=many)
            _series(axes, dots, at, COLORS[metric], MARKS[index % len(MARKS)], label)
            if sweep.alone and dots:
                values, middle = means(dots)
                axes.plot(list(map(at, values)), middle, color=COLORS[metric], linewidth=1.6)
        erm = sweep.erm[disease].get(metric)
        if isinstance(erm, Interval):
            axes.axhline(erm.mean, color=COLORS[metric], linestyle=(0, (5, 4)), linewidth=1.2)
    axes.plot([], [], color="#444444", linestyle=(0, (5, 4)), linewidth=1.2, label="ERM")
    axes.set_title(title(disease), loc="left", fontsize=10)
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if sweep.knob == "regularization":
        where, text = ticks(sweep)
        axes.xaxis.set_major_locator(FixedLocator(where))
        axes.xaxis.set_major_formatter(FixedFormatter(text))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _series(
    axes: Axes,
    dots: Sequence[Dot],
    place_of: Callable[[float], float],
    color: str,
    mark: str,
    label: str,
) -> None:
    at = [place_of(dot.value) for dot in dots]
    mean = [dot.measured.mean for dot in dots]
    below = [max(0.0, dot.measured.mean - dot.measured.low) for dot in dots]
    above = [max(0.0, dot.measured.high - dot.measured.mean) for dot in dots]
    axes.errorbar(
        at, mean, yerr=[below, above], fmt="none", ecolor=color, elinewidth=0.9, alpha=0.35
    )
    axes.plot(at, mean, mark, color=color, markersize=4.5, alpha=0.9, label=label)


def pairs_png(panels: Sequence[Sequence[Panel]]) -> bytes:
    """Return Fig. 3: a row a disease, originals and their edits side by side."""
    rows, columns = len(panels), max(len(row) for row in panels)
    figure = Figure(figsize=(1.75 * columns, 0.25 + 1.95 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, some in enumerate(panels):
        for column in range(columns):
            axis = axes[row, column]
            _bare(axis)
            if column >= len(some):
                axis.set_visible(False)
                continue
            panel = some[column]
            if panel.image is None:
                _say(axis, panel.why)
            else:
                axis.imshow(panel.image, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
            axis.set_title(panel.title, fontsize=8)
        axes[row, 0].set_ylabel(title(some[0].disease), fontsize=9)
    return png(figure)


def regions_png(regions: Sequence[Regions]) -> bytes:
    """Return Fig. 4: a row a method: the top of the smoothed |ε|, then its outline on mean films."""
    columns = 1 + max(len(one.films) for one in regions)
    figure = Figure(figsize=(2.75 * columns + 0.5, 0.2 + 3.05 * len(regions)), layout="constrained")
    axes = figure.subplots(len(regions), columns, squeeze=False)
    for row, one in enumerate(regions):
        shown = np.where(one.top, one.magnitude / max(one.magnitude.max(), 1e-12), np.nan)
        first = axes[row, 0]
        first.set_facecolor("#101018")
        picture = first.imshow(shown, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
        first.set_title(f"{one.title}: top 20 % of |ε|", fontsize=9)
        bar = figure.colorbar(picture, ax=first, fraction=0.046, pad=0.02)
        bar.set_label("share of the largest", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        _bare(first)
        for column, (label, film) in enumerate(one.films.items(), start=1):
            axis = axes[row, column]
            _bare(axis)
            axis.set_title(label, fontsize=9)
            if film is None:
                _say(axis, "fewer than five patients")
                continue
            axis.imshow(film, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
            overlay = np.zeros((*one.top.shape, 4))
            overlay[one.top] = (1.0, 0.5, 0.05, 0.25)
            axis.imshow(overlay, interpolation="nearest")
            if one.top.any():
                axis.contour(one.top.astype(float), levels=[0.5], colors="#ff7f0e", linewidths=1.1)
    return png(figure)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format="png",
        dpi=_DPI,
        bbox_inches="tight",
        pad_inches=0.08,
        metadata={"Software": None},
    )
    return buffer.getvalue()


def _bare(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _say(axis: Axes, text: str) -> None:
    axis.set_facecolor("#f2f2f2")
    axis.set_aspect("equal")
    axis.text(
        0.5,
        0.5,
        text,
        ha="center",
        va="center",
        fontsize=8,
        color="#666666",
        transform=axis.transAxes,
    )
