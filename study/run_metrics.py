"""From what a trial measured to what MLflow stores: names it accepts, values with times and steps."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from mlflow.entities import Metric

from ude_core.rungs import Rung
from ude_core.types import Interval, Measured, Progress

_CURVE = ("loss", "attribute_cross_entropy", "noise_l2", "step_size", "queries")


def metric_name(name: str) -> str:
    """Return `name` as MLflow accepts it: letters, digits, and ` _-./:`; others become `_`.

    >>> metric_name("edema/tpr.age≥65")
    'edema/tpr.age_65'
    """
    return re.sub(r"[^A-Za-z0-9_\-. /:]", "_", name)


def interval_metrics(metrics: Mapping[str, Measured], timestamp: int) -> Iterator[Metric]:
    """Yield each defined metric as its mean, `.low` and `.high`; undefined ones stay away."""
    for name, measured in metrics.items():
        if isinstance(measured, Interval):
            plain = metric_name(name)
            yield Metric(plain, measured.mean, timestamp, 0)
            yield Metric(f"{plain}.low", measured.low, timestamp, 0)
            yield Metric(f"{plain}.high", measured.high, timestamp, 0)


def curve_metrics(curve: Iterable[Progress], started: datetime | None) -> Iterator[Metric]:
    """Yield each epoch's values, timed from `started`; what is not finite stays away."""
    begin = milliseconds(started)
    for progress in curve:
        timestamp = begin + round(1000 * progress.seconds)
        for name in _CURVE:
            value = float(getattr(progress, name))
            if math.isfinite(value):
                yield Metric(f"epoch/{name}", value, timestamp, progress.epoch)


def rung_metrics(rungs: Sequence[Rung], timestamp: int) -> Iterator[Metric]:
    """A rung's step is its share of the trial's learning, in percent."""
    for rung in rungs:
        for name, value in rung.metrics.items():
            yield Metric(f"rung/{metric_name(name)}", value, timestamp, round(100 * rung.share))


def milliseconds(when: datetime | None) -> int:
    """Return a time as MLflow takes it: milliseconds since 1970, 0 for none."""
    return 0 if when is None else round(1000 * when.timestamp())
