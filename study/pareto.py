"""What no other trial beats: the front of one disease, held against ERM and against random noise.

A front is over the study's objectives, measured on that disease (`mean`: averaged over all,
`worst`: the worst disease of each metric). Only complete trials count, and an Undefined objective
never enters a front. Tables and pages are `study.pareto_views`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import moocore
import numpy as np
from jaxtyping import Float

from study.constraints import feasible
from study.metric_names import DISEASE_METRICS, STUDY_METRICS, Direction
from study.records import Parameters, TrialRecord
from study.search_sections import Constraint
from ude_core.errors import UserError
from ude_core.results import measured_to_json
from ude_core.types import Interval, Measured, MethodConfig, MethodName, Metrics, Undefined

if TYPE_CHECKING:
    from study.api import Study
    from study.ledger import Ledger

MEAN, WORST = "mean", "worst"
_NONE: Mapping[int, str] = {}
LEVEL_TOLERANCE_PP = 1.0
_UNBOUNDED = frozenset({"attribute_cross_entropy", "noise_l2", "psnr_db", "queries"})

Control = Literal["beats noise", "no better than noise", "not compared"]
Levelling = Literal["lifted", "traded", "levelled-down", "unchanged", "unknown"]


@dataclass(frozen=True, slots=True)
class Goal:
    """One axis of a front: a metric's bare name, and which way is better."""

    name: str
    direction: Direction


@dataclass(frozen=True, slots=True)
class Point:
    """One complete trial, seen from one disease.

    `metrics` holds that disease's metrics and the per-trial ones, all under bare names.
    `control` says whether its equal-opportunity gap is under that of random noise of its norm;
    `levelling` whom the edit helped or hurt against ERM (see `levelling`). `feasible` is whether
    the trial keeps the study's constraints. A baseline stands among the learnt noises by its
    `method`: it has no noise of its own to be compared with random ones, or nothing but one.
    """

    trial: int
    params: Parameters
    metrics: Mapping[str, Measured]
    front: bool
    control: Control
    levelling: Levelling
    feasible: bool = True
    method: MethodName = MethodConfig().name

    def mean(self, name: str) -> float:
        """Return the metric's mean. Raises UserError where it is undefined or was not measured."""
        value = self.metrics.get(name, Undefined("not measured"))
        if isinstance(value, Undefined):
            raise UserError(f"trial {self.trial}: {name} is undefined ({value.reason})")
        return value.mean


@dataclass(frozen=True, slots=True)
class Front:
    """All complete trials of a study for one disease, with the front marked, beside ERM.

    `hypervolume` is the volume between the front and `nadir` (the worst value of each objective:
    100 or 0 percentage points, or the worst trial's where the metric has no bound), in the product
    of the objectives' units; larger is better. 0 when the front is empty.
    """

    study: str
    disease: str
    goals: tuple[Goal, ...]
    points: tuple[Point, ...]
    erm: Mapping[str, Measured]
    nadir: Mapping[str, float]
    hypervolume: float

    @property
    def best(self) -> tuple[Point, ...]:
        """The points on the front, by the first objective, best first."""
        first = self.goals[0]
        sign = 1 if first.direction == "minimize" else -1
        chosen = (point for point in self.points if point.front)
        return tuple(sorted(chosen, key=lambda point: (sign * point.mean(first.name), point.trial)))


def front_of(study: Study, disease: str) -> Front:
    """Return the study's front for `disease`, `mean` or `worst`. Raises UserError for others."""
    return front_of_ledger(study.ledger, disease)


def front_of_ledger(ledger: Ledger, disease: str) -> Front:
    """Return the front of the study that `ledger` holds. Raises UserError as `front_of` does."""
    config = ledger.config
    return compute_front(
        study=ledger.name,
        disease=disease,
        diseases=config.cohort.diseases,
        goals=goals_of((goal.metric, goal.direction) for goal in config.objectives),
        trials=ledger.trials(),
        reference=ledger.reference,
        constraints=config.constraints,
    )


def goals_of(objectives: Iterable[tuple[str, Direction]]) -> tuple[Goal, ...]:
    """Return the axes that a study's objectives mean for any one disease, each bare name once.

    >>> [goal.name for goal in goals_of([("edema/eo_gap", "minimize"), ("eo_gap", "minimize")])]
    ['eo_gap']
    """
    bare = {metric.rpartition("/")[2]: direction for metric, direction in objectives}
    return tuple(Goal(name, direction) for name, direction in bare.items())


def compute_front(
    *,
    study: str,
    disease: str,
    diseases: Sequence[str],
    goals: Sequence[Goal],
    trials: Iterable[TrialRecord],
    reference: Mapping[str, Measured],
    constraints: Sequence[Constraint] = (),
) -> Front:
    """Return the front of `disease` among the complete `trials`; `reference` is ERM's metrics.

    Trials that violate a constraint are points, and never on the front.
    """
    if disease not in (*diseases, MEAN, WORST):
        known = ", ".join((*diseases, MEAN, WORST))
        raise UserError(f"disease {disease!r} is not in study {study} (expected one of {known})")
    erm = scoped(reference, disease, diseases)
    complete = sorted((t for t in trials if t.state == "complete"), key=lambda t: t.number)
    views = [scoped(trial.metrics, disease, diseases) for trial in complete]
    kept = [feasible(constraints, trial.metrics, reference, diseases) for trial in complete]
    coordinates = [
        _coordinates(view, goals) if keeps else None
        for view, keeps in zip(views, kept, strict=True)
    ]
    front = non_dominated(coordinates, goals)
    points = tuple(
        Point(
            trial=trial.number,
            params=trial.params,
            metrics=view,
            front=on_front,
            control=control_label(view),
            levelling=levelling(view, erm),
            feasible=keeps,
            method=trial.method,
        )
        for trial, view, on_front, keeps in zip(complete, views, front, kept, strict=True)
    )
    rows = [row for row in coordinates if row is not None]
    worst = {goal.name: nadir(goal, [row[i] for row in rows]) for i, goal in enumerate(goals)}
    return Front(
        study=study,
        disease=disease,
        goals=tuple(goals),
        points=points,
        erm=erm,
        nadir=worst,
        hypervolume=hypervolume(rows, goals, worst),
    )


def non_dominated(rows: Sequence[Sequence[float] | None], goals: Sequence[Goal]) -> list[bool]:
    """Return which rows no other row beats; equal rows stand together, None (undefined) never does."""
    defined = [index for index, row in enumerate(rows) if row is not None]
    flags = [False] * len(rows)
    if defined:
        values = np.array([rows[index] for index in defined], dtype=float)
        kept = moocore.is_nondominated(_signs(goals) * values, keep_weakly=True)
        for index, keep in zip(defined, kept, strict=True):
            flags[index] = bool(keep)
    return flags


def scoped(metrics: Mapping[str, Measured], disease: str, diseases: Sequence[str]) -> Metrics:
    """Return one disease's metrics and the per-trial ones under bare names.

    `mean` averages means and interval ends over the diseases (conservative); `worst` takes, metric
    by metric, the disease where it is worst. Undefined for one disease is undefined for both.
    """
    per_trial = {
        name: value
        for name, value in metrics.items()
        if "/" not in name and (disease == MEAN or name not in DISEASE_METRICS)
    }
    by_disease = {
        one: {
            name.removeprefix(f"{one}/"): value
            for name, value in metrics.items()
            if name.startswith(f"{one}/")
        }
        for one in diseases
    }
    if disease not in (MEAN, WORST):
        return per_trial | by_disease[disease]
    names = dict.fromkeys(name for values in by_disease.values() for name in values)
    missing = Undefined("not measured for every disease")
    for name in names:
        values = [by_disease[one].get(name, missing) for one in diseases]
        if name not in per_trial:
            per_trial[name] = _combine(values, name, worst=disease == WORST)
    return per_trial


def control_label(metrics: Mapping[str, Measured]) -> Control:
    """Return whether the learnt noise has a smaller gap than random noise of its own norm."""
    match metrics.get("eo_gap_vs_random"):
        case Interval(mean=difference):
            return "beats noise" if difference < 0 else "no better than noise"
        case _:
            return "not compared"


def levelling(metrics: Mapping[str, Measured], erm: Mapping[str, Measured]) -> Levelling:
    """Return whom the edit helped, by every group's TPR and TNR against ERM's.

    lifted: some rate rose and none fell; levelled-down: some fell and none rose; traded: both;
    unchanged: none moved by more than 1 percentage point. unknown where a rate is undefined.
    """
    changes = []
    for name in erm.keys() | metrics.keys():
        if name.startswith(("tpr.", "tnr.")):
            before, after = erm.get(name), metrics.get(name)
            if not (isinstance(before, Interval) and isinstance(after, Interval)):
                return "unknown"
            changes.append(after.mean - before.mean)
    if not changes:
        return "unknown"
    rose, fell = max(changes) > LEVEL_TOLERANCE_PP, min(changes) < -LEVEL_TOLERANCE_PP
    return levelling_label(rose=rose, fell=fell)


def levelling_label(*, rose: bool, fell: bool) -> Levelling:
    """Return the label for whether some group's rate rose and some fell."""
    match (rose, fell):
        case (True, True):
            return "traded"
        case (True, False):
            return "lifted"
        case (False, True):
            return "levelled-down"
        case _:
            return "unchanged"


def front_to_json(front: Front, standings: Mapping[int, str] = _NONE) -> dict[str, Any]:
    """Return the contract's `pareto --json`; `standings` are `study.confirm.standings_of`.

    A point's `standing` is what the test split said of it, and `confirmed` whether that is so; both
    are null where it was not among the confirmed points.

    A point's metrics stand under their bare names, as in `objectives`, and the disease's own again
    under `<disease>/<metric>`. An undefined one has null for its three numbers, and its reason.
    """
    return {
        "study": front.study,
        "disease": front.disease,
        "objectives": [{"name": goal.name, "direction": goal.direction} for goal in front.goals],
        "points": [
            {
                "trial": point.trial,
                "method": point.method,
                "params": dict(point.params),
                "metrics": _metrics_json(point.metrics, front.disease),
                "front": point.front,
                "control": point.control,
                "levelling": point.levelling,
                "feasible": point.feasible,
                "standing": standings.get(point.trial),
                "confirmed": _is_confirmed(standings.get(point.trial)),
            }
            for point in front.points
        ],
        "reference": {"erm": _metrics_json(front.erm, front.disease)},
        "hypervolume": front.hypervolume,
        "hypervolume_reference": dict(front.nadir),
    }


def _is_confirmed(standing: str | None) -> bool | None:
    return None if standing is None else standing == "confirmed"


def _metrics_json(metrics: Mapping[str, Measured], disease: str) -> dict[str, Any]:
    empty = dict.fromkeys(("mean", "low", "high"))
    values = {name: empty | measured_to_json(value) for name, value in sorted(metrics.items())}
    own = {
        f"{disease}/{name}": value for name, value in values.items() if name not in _PER_TRIAL_ONLY
    }
    return values | own


_PER_TRIAL_ONLY = STUDY_METRICS.keys() - DISEASE_METRICS.keys()


def _combine(values: Sequence[Measured], name: str, *, worst: bool) -> Measured:
    for value in values:
        if isinstance(value, Undefined):
            return value
    known = [value for value in values if isinstance(value, Interval)]
    if worst:
        larger_is_worse = DISEASE_METRICS.get(name, "maximize") == "minimize"
        return (max if larger_is_worse else min)(known, key=lambda value: value.mean)
    return Interval(
        *(
            math.fsum(getattr(value, end) for value in known) / len(known)
            for end in ("mean", "low", "high")
        )
    )


def _coordinates(view: Mapping[str, Measured], goals: Sequence[Goal]) -> tuple[float, ...] | None:
    values = [view.get(goal.name) for goal in goals]
    known = [value.mean for value in values if isinstance(value, Interval)]
    return tuple(known) if len(known) == len(goals) and all(map(math.isfinite, known)) else None


def _signs(goals: Sequence[Goal]) -> Float[np.ndarray, " goals"]:
    """Return 1 for what is minimised, -1 for what is maximised.

    By hand: of one goal alone, moocore takes `maximise=[False]` for True.
    """
    return np.array([-1.0 if goal.direction == "maximize" else 1.0 for goal in goals])


def nadir(goal: Goal, values: Sequence[float]) -> float:
    """Return an objective's worst value: its bound, or the worst of `values` where it has none."""
    minimised = goal.direction == "minimize"
    if goal.name in _UNBOUNDED:
        return (max if minimised else min)(values, default=0.0)
    if goal.name.endswith("_vs_random"):
        return 100.0 if minimised else -100.0
    return 100.0 if minimised else 0.0


def hypervolume(
    rows: Sequence[Sequence[float]], goals: Sequence[Goal], worst: Mapping[str, float]
) -> float:
    """Return the volume between `rows` and the worst values, in the product of the goals' units."""
    if not rows:
        return 0.0
    signs = _signs(goals)
    reference = signs * np.array([worst[goal.name] for goal in goals])
    return float(moocore.hypervolume(signs * np.array(rows, dtype=float), ref=reference))
