"""Fig. 2: what λ and R do to fairness and accuracy. The data alone; `draw` draws it.

The values are those of the search (validation): an ablation looks at every setting, and the test
split is not there to be looked at by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from study.pareto import MEAN
from study.pareto_views import title
from study.report.choices import method_title
from study.report.collect import Ablation
from study.report.tables import Raw, csv_text, raw
from study.spaces import method_of
from ude_core.baselines.base import learns_noise
from ude_core.baselines.registry import settings_read
from ude_core.types import Interval, Measured, MethodConfig, MethodName

Knob = Literal["regularization", "local_iterations"]
PANELS: tuple[tuple[str, ...], ...] = (("eo_negative_gap", "eo_positive_gap"), ("accuracy",))
METRICS = tuple(name for panel in PANELS for name in panel)
_NO_R = frozenset({"whitebox"})


@dataclass(frozen=True, slots=True)
class Dot:
    """One trial: the setting's value and a metric measured there."""

    trial: int
    value: float
    measured: Interval


@dataclass(frozen=True, slots=True)
class Sweep:
    """How a setting was varied in one study, and what came of it.

    `dots[method][disease][metric]` are by value, then trial. `alone` says whether nothing but the
    setting (and the method) differs between a method's trials, so that a line through their means
    shows its effect; `others` are the settings that differ too. `erm[disease][metric]` is the
    dashed line. `fixed` is the setting's only value where it was not varied.
    """

    study: str
    knob: Knob
    dots: Mapping[str, Mapping[str, Mapping[str, Sequence[Dot]]]]
    erm: Mapping[str, Mapping[str, Measured]]
    others: tuple[str, ...]
    fixed: float | None

    @property
    def alone(self) -> bool:
        return not self.others

    @property
    def drawn(self) -> bool:
        """Whether the setting has at least two values to draw."""
        return bool(self.dots)

    @property
    def smallest(self) -> float:
        """The smallest value above 0, where the logarithm of the axis begins."""
        return min((value for value in self._values() if value > 0), default=1.0)

    @property
    def largest(self) -> float:
        """The largest value."""
        return max(self._values(), default=1.0)

    def _values(self) -> Iterator[float]:
        for diseases in self.dots.values():
            for metrics in diseases.values():
                for dots in metrics.values():
                    yield from (dot.value for dot in dots)

    def csv(self) -> str:
        """Return every dot and ERM's lines as CSV."""
        rows: list[tuple[Raw, ...]] = [
            (self.study, method, disease, metric, dot.value, dot.trial, *raw(dot.measured)[:3])
            for method, diseases in self.dots.items()
            for disease, metrics in diseases.items()
            for metric, dots in metrics.items()
            for dot in dots
        ]
        rows += [
            (self.study, "erm", disease, metric, None, None, *raw(value)[:3])
            for disease, metrics in self.erm.items()
            for metric, value in metrics.items()
        ]
        header = ("study", "method", "disease", "metric", self.knob, "trial", "mean", "low", "high")
        return csv_text(header, rows)


def sweep_of(source: Ablation, knob: Knob) -> Sweep:
    """Return how `knob` was varied in a study; of trials that learnt a noise and used the knob."""
    without = _NO_R if knob == "local_iterations" else frozenset()
    diseases = source.config.cohort.diseases
    settings: dict[int, MethodConfig] = {}
    for point in source.fronts[MEAN].points:
        method = method_of(source.config, point.params)
        if learns_noise(method.name) and method.name not in without:
            settings[point.trial] = method
    values = {float(getattr(method, knob)) for method in settings.values()}
    varied = len(values) > 1
    names: list[str] = sorted({method.name for method in settings.values()}) if varied else []
    dots: dict[str, dict[str, dict[str, list[Dot]]]] = {
        name: {
            disease: {
                metric: _dots(source, settings, name, knob, disease, metric) for metric in METRICS
            }
            for disease in diseases
        }
        for name in names
    }
    return Sweep(
        study=source.study,
        knob=knob,
        dots=dots,
        erm={
            disease: {
                metric: value
                for metric in METRICS
                if (value := source.fronts[disease].erm.get(metric)) is not None
            }
            for disease in diseases
        },
        others=_others(settings, knob) if varied else (),
        fixed=next(iter(values)) if len(values) == 1 else None,
    )


def _dots(
    source: Ablation,
    settings: Mapping[int, MethodConfig],
    name: str,
    knob: Knob,
    disease: str,
    metric: str,
) -> list[Dot]:
    found = []
    for point in source.fronts[disease].points:
        method = settings.get(point.trial)
        measured = point.metrics.get(metric)
        if method is not None and method.name == name and isinstance(measured, Interval):
            found.append(Dot(point.trial, float(getattr(method, knob)), measured))
    return sorted(found, key=lambda dot: (dot.value, dot.trial))


def _others(settings: Mapping[int, MethodConfig], knob: Knob) -> tuple[str, ...]:
    """Return the settings, other than `knob`, that differ between two trials of one method."""
    by_method: dict[MethodName, list[MethodConfig]] = {}
    for method in settings.values():
        by_method.setdefault(method.name, []).append(method)
    return tuple(
        field
        for field in MethodConfig.__dataclass_fields__
        if field not in (knob, "queries")
        and any(
            field in settings_read(name) and len({getattr(m, field) for m in some}) > 1
            for name, some in by_method.items()
        )
    )


def means(dots: Sequence[Dot]) -> tuple[list[float], list[float]]:
    """Return each distinct value and the mean over its trials.

    >>> dots = [Dot(0, 1.0, Interval(2, 0, 4)), Dot(1, 1.0, Interval(4, 0, 8))]
    >>> means(dots)
    ([1.0], [3.0])
    """
    values = sorted({dot.value for dot in dots})
    at = {value: [d.measured.mean for d in dots if d.value == value] for value in values}
    return values, [math.fsum(at[value]) / len(at[value]) for value in values]


def place(value: float, smallest: float) -> float:
    """Return where a λ lies along its axis: its logarithm, with 0 one decade under the smallest.

    >>> [place(value, 0.001) for value in (0.0, 0.001, 0.1)]
    [0.0, 1.0, 3.0]
    """
    return 0.0 if value <= 0 else 1.0 + math.log10(value / smallest)


def caption(sweep: Sweep) -> str:
    """Return what Fig. 2a or 2b shows, and how far it may be trusted."""
    what = "λ, the weight of ‖ε‖₂" if sweep.knob == "regularization" else "R, local iterations"
    text = (
        f"Study {sweep.study}, validation split: EO−, EO+ (lower is better) and accuracy against "
        f"{what}. Dots are trials with their 95 % intervals, dashed lines are ERM."
    )
    if sweep.alone:
        return f"{text} Lines join the means over the trials of one value."
    return (
        f"{text} Other settings differ between the trials too ({', '.join(sweep.others)}), so no "
        "line is drawn: the effect of this one alone takes a study that varies nothing else."
    )


def series_title(method: str, metric: str, several: bool) -> str:
    """Return the legend's name of one series."""
    short = {"eo_negative_gap": "EO−", "eo_positive_gap": "EO+"}.get(metric, title(metric))
    return f"{short}, {method_title(method)}" if several else short
