"""Queries saved by pruning on the demo's study, at equal final hypervolume.

A trial is a pure function, so pruning changes which trials end, never what they come to. For each
seed the demo's study (its cohort, space, sampler and number of trials) is run once in full, every
trial looked at at every rung; then the rule that the scheduler uses is replayed on what was
recorded, by as many workers as the demo has, in an order of events in which time is queries.

Saved: 1 - queries with pruning / queries without; learning, looks, scoring and controls all count
(controls are counted and not run: nobody here reads them). Equal hypervolume: the mean over the
seeds of (hypervolume with / hypervolume without), mean over diseases, is at least 0.99. Where the
default rule does not reach that, the figure is 0.
"""

from __future__ import annotations

import heapq
import multiprocessing
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from study.config import StudyConfig, load_space
from study.ledger import Ledger
from study.materials import load_materials
from study.objectives import Objective
from study.pareto import MEAN, compute_front, goals_of
from study.pruning import ParetoRule, Pruning
from study.records import TrialRecord
from study.spaces import method_of
from ude_core.rungs import Rung
from ude_core.runtime import prepare_process
from ude_core.trial import Trial
from ude_core.types import Interval, Measured

SEEDS = (7, 8, 9, 10, 11)  # the demo's own, and the next
PROCESSES = 2
EQUAL = 0.99
DEFAULT = Pruning(name="pareto_rank")
GAP = (Objective(metric="eo_gap", direction="minimize"),)
NORM = (Objective(metric="noise_l2", direction="minimize"),)
RULES: Mapping[str, Pruning] = {
    "the default": DEFAULT,
    "keep 0.25": DEFAULT.model_copy(update={"keep": 0.25}),
    "keep 0.33": DEFAULT.model_copy(update={"keep": 0.33}),
    "keep 0.5": DEFAULT.model_copy(update={"keep": 0.5}),
    "keep 0.6": DEFAULT.model_copy(update={"keep": 0.6}),
    "the first 3 spared": DEFAULT.model_copy(update={"peers": 3}),
    "first rung alone": DEFAULT.model_copy(update={"reduction_factor": 4.0}),
    "eo_gap alone": DEFAULT.model_copy(update={"metrics": GAP}),
    "noise_l2 alone, free": DEFAULT.model_copy(update={"metrics": NORM, "repeats": 0}),
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """One trial run to its end: its rungs, its metrics, and what it costs unpruned, without looks."""

    number: int
    rungs: tuple[Rung, ...]
    metrics: Mapping[str, Measured]
    queries: int


@dataclass(frozen=True, slots=True)
class Replay:
    """What a rule would have spent on a recorded study, and the hypervolume it would have reached."""

    saved: float
    hypervolume: float
    pruned: int


def pruning_saved() -> tuple[float, dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        studies = list(pool.map(record, SEEDS))
    return figure(studies)


def figure(studies: Sequence[Sequence[Recorded]]) -> tuple[float, dict[str, Any]]:
    """Return the share of queries that the default rule saves, and the table of all rules."""
    table = {}
    saved = 0.0
    for name, rule in RULES.items():
        replays = [replay(trials, rule) for trials in studies]
        mean, ratio = (
            statistics.mean(getattr(one, field) for one in replays)
            for field in ("saved", "hypervolume")
        )
        error = statistics.stdev(one.saved for one in replays) / len(replays) ** 0.5
        table[f"{name}: saved, hypervolume kept, pruned of {len(studies[0])}"] = (
            f"{mean:.3f} ± {error:.3f}, {ratio:.4f} (least {min(r.hypervolume for r in replays):.4f}), "
            f"{statistics.mean(r.pruned for r in replays):.1f}"
        )
        if rule is DEFAULT:
            saved = mean if ratio >= EQUAL else 0.0
            each = [(round(r.saved, 3), round(r.hypervolume, 4)) for r in replays]
            table["the default, each seed (saved, hypervolume kept)"] = str(each)
    return saved, table | _prediction(studies)


def configuration(seed: int) -> StudyConfig:
    """Return the demo with another seed, looked at as the default rule would."""
    rule = f"pruning={{name: pareto_rank, grace: {DEFAULT.grace}}}"
    return load_space("demo", [f"seed={seed}", "scoring.bootstrap_draws=20", rule])


def record(seed: int) -> list[Recorded]:
    """Run one study in full in this process, and return its trials."""
    prepare_process(1)
    config = configuration(seed)
    controls = config.scoring.controls
    config = config.model_copy(
        update={"scoring": config.scoring.model_copy(update={"controls": 0})}
    )
    with tempfile.TemporaryDirectory() as folder:
        made = load_materials(config, Path(folder) / "cache")
        ledger = Ledger.create_or_open(config, Path(folder))
        trials = []
        for _ in range(config.budget.trials):
            asked = ledger.ask()
            trial = Trial(
                method_of(config, asked.params),
                made.cohort,
                made.encoder,
                made.assets,
                asked.seed,
                looks=config.pruning.plan(),
            )
            while not trial.finished:
                trial.step()
            result = trial.result()
            ledger.tell(asked.number, result)
            queries = result.queries.total - trial.looking_queries
            queries += controls * len(made.assets.scored)
            trials.append(Recorded(asked.number, tuple(trial.rungs), result.metrics, queries))
        ledger.close()
    return trials


def replay(trials: Sequence[Recorded], settings: Pruning, workers: int = 2) -> Replay:
    """Run a rule over a recorded study. Events are rungs and ends, in the order of queries spent."""
    rule = ParetoRule(settings)
    waiting = [_as_looked_at(trial, settings) for trial in reversed(trials)]
    events: list[tuple[int, int, int, int, Recorded]] = []  # when, number, began, rung, trial
    pruned: set[int] = set()
    spent = 0

    def expect(trial: Recorded, began: int, rung: int) -> None:
        over = rung == len(trial.rungs)
        cost = trial.queries if over else trial.rungs[rung].noise_queries
        looks = sum(look.scoring_queries for look in trial.rungs[: rung + 1])
        heapq.heappush(events, (began + cost + looks, trial.number, began, rung, trial))

    for _ in range(workers):
        expect(waiting.pop(), 0, 0)
    while events:
        now, number, began, rung, trial = heapq.heappop(events)
        over = rung == len(trial.rungs)
        if not over and rule.saw(number, trial.rungs[rung]) is None:
            expect(trial, began, rung + 1)
            continue
        if not over:
            pruned.add(number)
        spent += now - began
        if waiting:
            expect(waiting.pop(), now, 0)
    whole = sum(trial.queries for trial in trials)
    kept = [trial for trial in trials if trial.number not in pruned]
    return Replay(1 - spent / whole, _hypervolume(kept) / _hypervolume(trials), len(pruned))


def _as_looked_at(trial: Recorded, settings: Pruning) -> Recorded:
    """Return the trial with the rungs that a rule asks for; free ones where it scores nothing."""
    rungs = tuple(rung for rung in trial.rungs if rung.share in settings.shares)
    if not settings.repeats:
        rungs = tuple(replace(rung, scoring_queries=0) for rung in rungs)
    return replace(trial, rungs=rungs)


def _hypervolume(trials: Sequence[Recorded]) -> float:
    config = configuration(SEEDS[0])
    front = compute_front(
        study=config.name,
        disease=MEAN,
        diseases=config.cohort.diseases,
        goals=goals_of((goal.metric, goal.direction) for goal in config.objectives),
        trials=[TrialRecord(t.number, "complete", {}, 0, t.metrics) for t in trials],
        reference={},
    )
    return front.hypervolume


def _prediction(studies: Sequence[Sequence[Recorded]]) -> dict[str, str]:
    """Return how well each rung metric orders the trials as their final eo_gap does (Spearman)."""
    names = (*(m.metric for m in DEFAULT.metrics), "attribute_cross_entropy", "noise_l2")
    table = {}
    for index, share in enumerate(DEFAULT.shares):
        found = {}
        for name in names:
            each = []
            for trials in studies:
                pairs = [
                    (trial.rungs[index].metrics[name], end.mean)
                    for trial in trials
                    if len(trial.rungs) > index
                    and name in trial.rungs[index].metrics
                    and isinstance(end := trial.metrics["eo_gap"], Interval)
                ]
                then, final = np.argsort(np.argsort(np.array(pairs), axis=0), axis=0).T
                each.append(float(np.corrcoef(then, final)[0, 1]))
            found[name] = round(statistics.mean(each), 2)
        table[f"rank correlation with the final eo_gap at {share:g}"] = str(found)
    return table
