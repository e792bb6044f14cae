"""How often a metric's 95 % interval holds the truth, on simulated tables whose truth is known.

The figure is the lowest coverage of any metric in any table of two groups, in percent; the highest
stands in the details. Each table has equal (label x group) cells; its images are predicted right
with the rates of the scenario, independently. One cell of this benchmark is 1,000 tables, so a
coverage of 95 % shows as 93.6 to 96.4 two times in three and as 92.9 to 97.1 nineteen times in
twenty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ude_core.metrics.bootstrap import score
from ude_core.metrics.disparity import counted_metrics
from ude_core.metrics.rates import Cells
from ude_core.seeding import numpy_generator
from ude_core.types import Interval

METRICS = (
    "eo_negative_gap",
    "eo_positive_gap",
    "eo_gap",
    "selection_rate_ratio_gap",
    "selection_rate_symmetric_gap",
    "tpr_ratio_gap",
    "accuracy",
    "worst_group_accuracy",
)
CELL_SIZES = (25, 100, 400)
TABLES, DRAWS = 1000, 500


@dataclass(frozen=True, slots=True)
class Scenario:
    """The true rates of every group."""

    tnr: tuple[float, ...]
    tpr: tuple[float, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(f"group {index}" for index in range(len(self.tpr)))


SCENARIOS: Mapping[str, Scenario] = {
    "no gap": Scenario((0.75, 0.75), (0.75, 0.75)),
    "no gap, rates of 0.9": Scenario((0.9, 0.9), (0.9, 0.9)),
    "EO- 0, EO+ 10": Scenario((0.75, 0.75), (0.8, 0.7)),
    "EO- 10, EO+ 10": Scenario((0.7, 0.8), (0.8, 0.7)),
    "EO- 10, EO+ 30": Scenario((0.7, 0.8), (0.9, 0.6)),
    "EO- 52, EO+ 31": Scenario((0.35, 0.87), (0.9, 0.59)),
    "three groups, EO- 5, EO+ 20": Scenario((0.75, 0.75, 0.7), (0.9, 0.8, 0.7)),
}


def true_values(scenario: Scenario) -> dict[str, float]:
    """Return every metric of an endless table with these rates, percentage points."""
    predicted = np.array([1 - np.array(scenario.tnr), np.array(scenario.tpr)])
    cells = Cells(np.ones_like(predicted), predicted)
    values = {
        name: metric.value(cells) for name, metric in counted_metrics(scenario.groups).items()
    }
    return {name: value for name, value in values.items() if isinstance(value, float)}


def simulated_table(
    scenario: Scenario, per_cell: int, rng: np.random.Generator
) -> tuple[
    Int[np.ndarray, " images"], Int[np.ndarray, " images"], Float[np.ndarray, "repeats images"]
]:
    """Return labels, groups and one repeat of scores of a table with `per_cell` images a cell."""
    positive_rate = np.array([1 - np.array(scenario.tnr), np.array(scenario.tpr)])
    groups = positive_rate.shape[1]
    labels = np.repeat([0, 1], per_cell * groups)
    attribute = np.tile(np.repeat(np.arange(groups), per_cell), 2)
    positive = rng.random(len(labels)) < positive_rate[labels, attribute]
    return labels, attribute, np.where(positive, 1.0, -1.0)[None]


def hits(scenario: Scenario, per_cell: int, tables: range, *, draws: int = DRAWS) -> dict[str, int]:
    """Return how many of these tables have an interval that holds the truth; undefined ones miss.

    Table number i is the same whatever else is asked for.
    """
    truth = true_values(scenario)
    found = dict.fromkeys(METRICS, 0)
    for index in tables:
        rng = numpy_generator(0, "coverage", per_cell, index)
        labels, attribute, scores = simulated_table(scenario, per_cell, rng)
        measured = score(labels, attribute, scenario.groups, scores, draws=draws, rng=rng)
        for name in METRICS:
            value = measured[name]
            if isinstance(value, Interval):
                # A truth that a metric takes exactly, 0 say, must not fall to rounding.
                found[name] += value.low - 1e-9 <= truth[name] <= value.high + 1e-9
    return found


def row_name(scenario: str, per_cell: int) -> str:
    """Return the name of one row of the table."""
    return f"{scenario}, {per_cell} a cell"


def summary(rows: Mapping[str, Mapping[str, float]]) -> tuple[float, dict[str, Any]]:
    """Return the benchmark's figure and details from its table."""
    of_two = {key: row for key, row in rows.items() if not key.startswith("three groups")}
    values = [value for row in of_two.values() for value in row.values()]
    outside = [
        f"{key}: {name} {value}"
        for key, row in rows.items()
        for name, value in row.items()
        if not 92 <= value <= 98
    ]
    return min(values), {
        "highest of two groups": max(values),
        "outside 92 to 98": outside or "none",
        "tables a cell": TABLES,
        "bootstrap draws": DRAWS,
        **rows,
    }


def coverage() -> tuple[float, dict[str, Any]]:
    rows = {
        row_name(name, size): percent(hits(scenario, size, range(TABLES)))
        for name, scenario in SCENARIOS.items()
        for size in CELL_SIZES
    }
    return summary(rows)


def percent(found: Mapping[str, int]) -> dict[str, float]:
    """Return the hits of `TABLES` tables in percent."""
    return {name: round(100 * count / TABLES, 1) for name, count in found.items()}
