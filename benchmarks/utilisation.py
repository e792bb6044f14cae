"""Worker utilisation: seconds inside the engine over wall seconds times workers, trials of about 20 s.

A study is launched the product's way, Ray and all, on two workers; the budget of queries is chosen
so that one trial takes about 20 s here. Engine time is the wall time of `Trial.step` and
`Trial.result`, written down by the workers. The wall runs from the first trial's first step to the
end of the last trial: whatever the workers wait for in between (searcher, ledger, MLflow, Tune,
checkpoints, results) counts against it, and so does the wait for the other worker at either end, which
is up to a trial long where the machine is shared and the workers are not equally fast.
The start of Ray and of the workers' processes comes before, and is told apart.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

from study.config import StudyConfig, load_space
from study.environment import prepare_ray
from study.materials import load_materials
from study.spaces import method_of
from study.sweep import launch
from ude_core.trial import Trial

WORKERS, TRIALS, SECONDS = 2, 16, 20.0
SPACE = """\
seed: 7
cohort: {kind: phantom, patients: 600, seed: 1}
encoder: {kind: phantom_vit}
method: {local_iterations: 5, samples: 5, batch_size: 32, batch: per_iteration, basis: grid, basis_size: 4}
search: {regularization: {low: 0.001, high: 0.01}}
bias: {train_per_group: 60, validation_per_cell: 20, test_per_cell: 20}
scoring: {repeats: 5, bootstrap_draws: 100, controls: 1}
"""
_ITERATION = 2 * 5 * 32
_ORDINARY = "study.tuning.run_trials"


def utilisation() -> tuple[float, dict[str, Any]]:
    prepare_ray()
    from benchmarks.timed_trainable import SPANS, TimedTrainable  # imports Ray, once prepared
    from study.tuning import run_trials

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        space = root / "utilisation.yaml"
        space.write_text(SPACE, encoding="utf-8")
        queries = _budget(load_space(space), root)
        budget = f"budget={{trials: {TRIALS}, queries_per_trial: {queries}}}"
        config = load_space(space, [budget, f"resources.workers={WORKERS}"])
        began = time.time()
        with patch(_ORDINARY, partial(run_trials, trainable=TimedTrainable)):
            outcome = launch(config, root, quiet=True)
        if outcome.exit_code:
            raise RuntimeError(f"the study did not end well: {dict(outcome.counts)}")
        workers = [
            [json.loads(line) for line in path.read_text().splitlines()]
            for path in sorted((root / SPANS).iterdir())
        ]
    spans = [span for worker in workers for span in worker]
    first, last = min(span[0] for span in spans), max(span[1] for span in spans)
    inside = sum(end - start for start, end, _ in spans)
    own = sum(last - worker[0][0] for worker in workers)
    return inside / (WORKERS * (last - first)), {
        "trials": TRIALS,
        "workers": WORKERS,
        "engine seconds a trial": round(inside / TRIALS, 1),
        "wall seconds, first step to last end": round(last - first, 1),
        "start-up seconds before the first step": round(first - began, 1),
        "counted from each worker's own first step": round(inside / own, 4),
        "idle seconds a trial, within it": round(_idle(workers, same_trial=True) / TRIALS, 3),
        "idle seconds a trial, before the next": round(
            _idle(workers, same_trial=False) / TRIALS, 3
        ),
        "idle seconds at the start and the end": round(
            sum(worker[0][0] - first + last - worker[-1][1] for worker in workers), 1
        ),
    }


def _idle(workers: Sequence[Sequence[Sequence[float]]], *, same_trial: bool) -> float:
    """Return the seconds between a worker's spans, of one trial or of two."""
    return sum(
        after[0] - before[1]
        for worker in workers
        for before, after in pairwise(worker)
        if (before[2] == after[2]) is same_trial
    )


def _budget(config: StudyConfig, root: Path) -> int:
    """Return the queries that a trial learns for in about 20 s, its scoring taken off."""
    made = load_materials(config, root / "cache")
    method = method_of(config, {"regularization": 0.003})
    trial = Trial(method, made.cohort, made.encoder, made.assets, seed=1)
    trial.step()
    began = time.perf_counter()
    for _ in range(5):
        trial.step()
    step = (time.perf_counter() - began) / 5
    began = time.perf_counter()
    trial.result()
    scoring = time.perf_counter() - began
    return _ITERATION * max(1, round((SECONDS - scoring) / step))
