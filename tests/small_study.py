"""A small space, an epoch and a result: for tests of what surrounds the engine."""

import torch

from ude_core.types import Interval, Progress, QueryCount, TrialResult

SPACE = """\
seed: 3
cohort: {kind: phantom, patients: 300}
encoder: {kind: phantom_vit}
search:
  step_size: {low: 1e-3, high: 0.1, log: true}
  samples: {low: 1, high: 4}
budget: {trials: 4}
"""
EPOCH = Progress(
    epoch=1,
    epochs=2,
    loss=-0.5,
    attribute_cross_entropy=0.6,
    noise_l2=1.0,
    step_size=0.01,
    queries=20,
    seconds=0.5,
)
RESULT = TrialResult(
    noise=torch.zeros(1, 4, 4),
    metrics={
        name: Interval(value, value - 1, value + 1)
        for name, value in (
            ("eo_gap", 20.0),
            ("selection_rate_symmetric_gap", 30.0),
            ("accuracy", 60.0),
        )
    },
    curve=(EPOCH,),
    queries=QueryCount(noise=40, scoring=2),
    outcome="improved",
)

QUICK = """\
description: small enough to run in a test
seed: 3
cohort: {kind: phantom, patients: 160}
encoder: {kind: phantom_vit}
bias: {train_per_group: 16, validation_per_cell: 4, test_per_cell: 4, gap: 0.5}
split: {validation: 0.3, test: 0.3}
scoring: {repeats: 2, bootstrap_draws: 20, controls: 1}
method: {samples: 2, batch_size: 16, basis: low_frequency, basis_size: 4}
search:
  step_size: {low: 0.01, high: 0.1, log: true}
  local_iterations: {low: 2, high: 4}
budget: {trials: 3, queries_per_trial: 640}
resources: {workers: 2}
"""
