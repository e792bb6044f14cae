"""The finished trials of a study as columns: thousands of them are judged in milliseconds.

What a point is called (front, lifted, no better than noise) is decided as `study.pareto` decides it,
for a whole column at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from study.live.rows import FinishedRow
from study.metric_names import DISEASE_METRICS
from study.pareto import MEAN, WORST
from study.records import ParameterValue, TrialState

Ends = Float[np.ndarray, "trials 3"]
"""Mean, low and high of a metric, one row a trial; NaN where it is undefined or was not measured."""

_FIRST_ROOM = 256
_UNDEFINED = (np.nan, np.nan, np.nan)


@dataclass(frozen=True, slots=True)
class Trials:
    """All finished trials, in the order in which they became known. Never changes."""

    numbers: Int[np.ndarray, " trials"]
    states: tuple[TrialState, ...]
    queries: Int[np.ndarray, " trials"]
    ended: tuple[datetime | None, ...]
    params: tuple[Mapping[str, ParameterValue], ...]
    values: Float[np.ndarray, "trials metrics 3"]
    names: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.states)

    @property
    def complete(self) -> Bool[np.ndarray, " trials"]:
        """Which trials may enter a front."""
        return np.array([state == "complete" for state in self.states], dtype=bool)

    def metric(self, name: str) -> Ends:
        """Return a metric under its full name, NaN throughout where no trial measured it."""
        if name not in self.names:
            return np.full((len(self), 3), np.nan)
        return self.values[:, self.names[name]]

    def bare_names(self, disease: str, diseases: Sequence[str]) -> tuple[str, ...]:
        """Return the metrics that can be seen from `disease`, `mean` or `worst`, sorted."""
        own = {name for name in self.names if "/" not in name and _is_seen(name, disease)}
        scopes = diseases if disease in (MEAN, WORST) else (disease,)
        of_disease = {
            bare
            for name in self.names
            for one, slash, bare in (name.partition("/"),)
            if slash and one in scopes
        }
        return tuple(sorted(own | of_disease))

    def seen(self, bare: str, disease: str, diseases: Sequence[str]) -> Ends:
        """Return a metric under its bare name as `study.pareto.scoped` shows it."""
        if bare in self.names and _is_seen(bare, disease):
            return self.metric(bare)
        if disease not in (MEAN, WORST):
            return self.metric(f"{disease}/{bare}")
        each = np.stack([self.metric(f"{one}/{bare}") for one in diseases])
        if disease == MEAN:
            return np.asarray(each.mean(axis=0))
        larger_is_worse = DISEASE_METRICS.get(bare, "maximize") == "minimize"
        means = np.where(np.isnan(each[..., 0]), 0.0, each[..., 0])
        worst = (np.argmax if larger_is_worse else np.argmin)(means, axis=0)
        chosen: Ends = each[worst, np.arange(len(self))]
        chosen[np.isnan(each).any(axis=(0, 2))] = np.nan
        return chosen


def _is_seen(name: str, disease: str) -> bool:
    return disease == MEAN or name not in DISEASE_METRICS


class TrialTable:
    """Grows by finished trials; a row once written stays as it is, so that views of it stay true."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._values = np.empty((_FIRST_ROOM, 0, 3))
        self._numbers: list[int] = []
        self._states: list[TrialState] = []
        self._queries: list[int] = []
        self._ended: list[datetime | None] = []
        self._params: list[Mapping[str, ParameterValue]] = []

    @property
    def numbers(self) -> tuple[int, ...]:
        """The trials that are there."""
        return tuple(self._numbers)

    def add(self, rows: Iterable[FinishedRow]) -> None:
        """Add finished trials, each once."""
        for row in rows:
            place = len(self._numbers)
            columns = self._columns(row.metrics)
            if place == len(self._values):
                grown = np.full((2 * place, *self._values.shape[1:]), np.nan)
                grown[:place] = self._values
                self._values = grown
            if columns:
                self._values[place, columns] = [_ends(value) for value in row.metrics.values()]
            self._numbers.append(row.number)
            self._states.append(row.state)
            self._queries.append(row.queries)
            self._ended.append(row.ended)
            self._params.append(row.params)

    def view(self) -> Trials:
        """Return what is there now."""
        count = len(self._numbers)
        return Trials(
            numbers=np.array(self._numbers, dtype=int),
            states=tuple(self._states),
            queries=np.array(self._queries, dtype=int),
            ended=tuple(self._ended),
            params=tuple(self._params),
            values=self._values[:count],
            names=dict(self._names),
        )

    def _columns(self, metrics: Mapping[str, Any]) -> list[int]:
        new = [name for name in metrics if name not in self._names]
        if new:
            self._names |= {name: len(self._names) + i for i, name in enumerate(new)}
            room = len(self._values)
            added = np.full((room, len(new), 3), np.nan)
            self._values = np.concatenate([self._values, added], axis=1)
        return [self._names[name] for name in metrics]


def _ends(value: Mapping[str, Any]) -> tuple[float, float, float]:
    if "undefined" in value:
        return _UNDEFINED
    return value["mean"], value["low"], value["high"]
