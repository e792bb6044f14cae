"""Which trials are stopped before their end: the settings, and the rule on several metrics.

Pure: it knows neither Ray nor files (`scheduler`, `rung_records`), so a recorded study can be
replayed through it.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, Protocol

import moocore
import numpy as np
from pydantic import Field

from study.metric_names import DISEASE_METRICS, STUDY_METRICS
from study.objectives import DEFAULT_OBJECTIVES, Objective
from study.sections import Count, Section, Share
from ude_core.rungs import FREE_METRICS, Rung, RungPlan

LOOKED_AT = frozenset(
    {
        *FREE_METRICS,
        "attribute_auc_frozen",
        *(n for n in STUDY_METRICS.keys() & DISEASE_METRICS.keys() if not n.endswith("_vs_random")),
    }
)
"""The per-trial metrics that a look can tell; beside them every `<disease>/<metric>` of scoring."""


class Pruning(Section):
    """Who goes on at a rung. Rungs lie at `grace` of a trial's own queries, and each
    `reduction_factor` times further.

    pareto_rank: a trial is stopped where at least `keep` of the trials that reached the rung stand
    before it in non-dominated rank on `metrics` (and, within a rank, in mean place over them). One
    that nobody dominates goes on, and so do the first `peers` to arrive.
    asha: Ray's ASHAScheduler on the one metric named; it keeps 1/`reduction_factor` of them.
    `repeats`: draws scored at each rung, thinned to the share `images` of their images and paid for
    as scoring; 0 leaves the free metrics alone.
    """

    name: Literal["off", "pareto_rank", "asha"] = "off"
    grace: Share = 0.25
    reduction_factor: Annotated[float, Field(gt=1)] = 2.0
    metrics: Annotated[tuple[Objective, ...], Field(min_length=1, strict=False)] = (
        DEFAULT_OBJECTIVES
    )
    repeats: Annotated[int, Field(ge=0)] = 1
    images: Annotated[float, Field(gt=0, le=1)] = 0.4
    keep: Share = 0.4
    peers: Count = 1

    @property
    def shares(self) -> tuple[float, ...]:
        """The rungs, as shares of a trial's local iterations.

        >>> Pruning(grace=0.2, reduction_factor=2).shares
        (0.2, 0.4, 0.8)
        """
        steps = (self.grace * self.reduction_factor**k for k in itertools.count())
        return tuple(itertools.takewhile(lambda share: share < 1, steps))

    def plan(self) -> RungPlan:
        """Return when and how the engine is to look; never, where nothing is pruned."""
        return (
            RungPlan(()) if self.name == "off" else RungPlan(self.shares, self.repeats, self.images)
        )


def pruning_problems(
    pruning: Pruning, diseases: Sequence[str], repeats: int, *, batched: bool, stored: bool
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the path and complaint of every setting that does not fit the others.

    `repeats` are the draws there are to score; `batched` says that `sampler.batch` is set, `stored` that
    trial folders travel through `resources.trial_store`.
    """
    if pruning.name == "off":
        return
    if stored:
        yield (
            ("pruning", "name"),
            "pruning.name needs trial folders on a disk that driver and workers share, and "
            "resources.trial_store is set; leave one of them out",
        )
    if pruning.name == "asha" and len(pruning.metrics) > 1:
        yield (
            ("pruning", "metrics"),
            f"pruning.metrics names {len(pruning.metrics)} metrics (asha compares by one); keep one, "
            "or set pruning.name: pareto_rank",
        )
    if pruning.name == "asha" and batched:
        yield (
            ("pruning", "name"),
            "pruning.name is asha, which goes by who arrives first, and sampler.batch asks for the "
            "same study whoever does; set pruning.name: pareto_rank, or leave sampler.batch out",
        )
    if pruning.repeats > repeats:
        yield (
            ("pruning", "repeats"),
            f"pruning.repeats is {pruning.repeats} (expected at most scoring.repeats, {repeats})",
        )
    per_disease = [n for n in DISEASE_METRICS if not n.endswith("_vs_random")]
    known = LOOKED_AT | {f"{d}/{name}" for d in diseases for name in per_disease}
    for index, metric in enumerate(compared.metric for compared in pruning.metrics):
        path = ("pruning", "metrics", index, "metric")
        if metric not in known:
            yield (
                path,
                (
                    f"pruning.metrics.{index}.metric {metric!r} is not known at a rung (expected "
                    f"{', '.join(sorted(LOOKED_AT))}, or <disease>/<metric>)"
                ),
            )
        elif metric not in FREE_METRICS and not pruning.repeats:
            yield (
                path,
                (
                    f"pruning.metrics.{index}.metric {metric!r} is scored, and pruning.repeats is 0 "
                    f"(expected at least 1, or metrics among {', '.join(FREE_METRICS)})"
                ),
            )


def standings(
    rows: Mapping[int, Mapping[str, float]], metrics: Sequence[Objective]
) -> dict[int, tuple[int, float]]:
    """Return every trial's (non-dominated rank, mean place over the metrics), lower is better.

    Rank 0 is dominated by nobody; a trial without one of the metrics is last.
    """
    names = [metric.metric for metric in metrics]
    whole = [
        n for n, row in rows.items() if all(math.isfinite(row.get(k, math.nan)) for k in names)
    ]
    last = (len(rows), float(len(rows)))
    if not whole:
        return dict.fromkeys(rows, last)
    # Signs by hand: of one metric alone, moocore takes `maximise=[False]` for True.
    signs = np.array([-1 if metric.direction == "maximize" else 1 for metric in metrics])
    values = signs * np.array([[rows[number][name] for name in names] for number in whole])
    found = moocore.pareto_rank(values)
    places = (values[:, None, :] > values[None, :, :]).sum(axis=1).mean(axis=1)
    known = {n: (int(r), float(p)) for n, r, p in zip(whole, found, places, strict=True)}
    return dict.fromkeys(rows, last) | known


def stops(number: int, rows: Mapping[int, Mapping[str, float]], settings: Pruning) -> str | None:
    """Return why trial `number` is stopped at a rung, or None where it goes on.

    `rows` holds the metrics there of every trial that reached the rung, its own included.
    """
    if len(rows) <= settings.peers:
        return None
    stand = standings(rows, settings.metrics)
    better = sum(other < stand[number] for other in stand.values())
    if stand[number][0] == 0 or better < settings.keep * len(rows):
        return None
    own = ", ".join(
        f"{m.metric} {rows[number].get(m.metric, math.nan):.4g}" for m in settings.metrics
    )
    return f"{better} of {len(rows)} trials stand before it ({own})"


class Rule(Protocol):
    """Decides at a rung, and remembers whom it saw there."""

    def saw(self, number: int, rung: Rung) -> str | None:
        """Take note of a trial at a rung; return why it is stopped there, or None."""


class ParetoRule:
    """By non-dominated rank on several metrics (`stops`).

    With `batch`, a trial is held against those of earlier batches alone, all of which have ended
    where trials go out in batches: whoever arrives first then makes no difference.
    """

    def __init__(self, settings: Pruning, batch: int | None = None) -> None:
        self._settings = settings
        self._batch = batch
        self._reached: dict[float, dict[int, Mapping[str, float]]] = defaultdict(dict)

    def saw(self, number: int, rung: Rung) -> str | None:
        """Take note of a trial at a rung; return why it is stopped there, or None."""
        reached = self._reached[rung.share]
        reached[number] = rung.metrics
        if self._batch is None:
            return stops(number, reached, self._settings)
        below = number // self._batch * self._batch
        seen = {other: row for other, row in reached.items() if other < below or other == number}
        return stops(number, seen, self._settings)
