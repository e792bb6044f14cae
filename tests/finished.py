"""A finished study without a sweep: a real ledger and real trial folders, invented scores."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from study.api import Study
from study.config import StudyConfig
from study.confirm import Confirmation, ConfirmedPoint
from study.ledger import Ledger
from study.pareto import Front, compute_front, goals_of
from study.records import TrialRecord
from ude_core.results import save_result
from ude_core.types import Interval, Measured, MethodName, QueryCount, TrialResult

DISEASES = ("pleural_effusion", "pneumonia", "edema")
GOALS = goals_of(
    [
        ("eo_gap", "minimize"),
        ("selection_rate_symmetric_gap", "minimize"),
        ("accuracy", "maximize"),
    ]
)


def about(mean: float, half: float = 4.0) -> Interval:
    return Interval(mean, mean - half, mean + half)


def measured(
    eo: float, rate: float, accuracy: float, *, control: float | None = -5.0, tpr: float = 70.0
) -> dict[str, Measured]:
    values = {"eo_gap": eo, "selection_rate_symmetric_gap": rate, "accuracy": accuracy}
    values |= {"tpr.female": tpr, "tpr.male": tpr, "tnr.female": tpr, "tnr.male": tpr}
    if control is not None:
        values["eo_gap_vs_random"] = control
    named: dict[str, Measured] = {
        f"{disease}/{name}": about(value) for disease in DISEASES for name, value in values.items()
    }
    bare = {name: about(value) for name, value in values.items() if "." not in name}
    return named | bare | {"noise_l2": Interval(4.0, 4.0, 4.0)}


def tiny_config(**changes: Any) -> StudyConfig:
    value = {
        "study": "tiny",
        "cohort": {"kind": "phantom", "patients": 30, "image_size": 64},
        "encoder": {"kind": "phantom_vit"},
        "search": {"step_size": {"low": 0.01, "high": 0.1}},
        "confirm": {"repeats": 2, "controls": 2},
    }
    return StudyConfig.model_validate_json(json.dumps(value | changes))


def noise_of(number: int) -> torch.Tensor:
    return torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(number)) * 0.05


SCORES = (
    measured(10, 40, 62),  # smallest gap
    measured(20, 12, 66),  # the knee
    measured(40, 10, 72),  # most accurate
    measured(15, 50, 60),  # dominated
    measured(5, 60, 50, control=2.0),  # smallest of all, but random noise does it too
)


@contextmanager
def finished_study(root: Path) -> Iterator[Study]:
    """A finished study in a real ledger, with real trial folders and invented scores."""
    shutil.copytree(_template().name, root, dirs_exist_ok=True)
    study = Study.open("tiny", root)
    try:
        yield study
    finally:
        study.ledger.close()


@cache
def _template() -> tempfile.TemporaryDirectory[str]:
    """Making a database takes seconds, copying it none."""
    folder = tempfile.TemporaryDirectory()
    ledger = Ledger.create_or_open(tiny_config(), folder.name)
    ledger.check_fingerprints({"cohort": "c" * 64, "encoder": "e" * 64})
    ledger.set_reference(measured(50, 55, 60.5, tpr=60.0), 100)
    for scores in SCORES:
        number = ledger.ask().number
        result = TrialResult(noise_of(number), scores, (), QueryCount(noise=10), "improved")
        save_result(result, ledger.places.trial(number))
        ledger.tell(number, result)
    ledger.close()
    return folder


def hand_front(
    scores: list[dict[str, Measured]],
    disease: str = "edema",
    methods: Sequence[MethodName] = (),
) -> Front:
    named = [*methods, *["gezo"] * (len(scores) - len(methods))]
    records = [
        TrialRecord(i, "complete", {}, i, metrics, method=method)
        for i, (metrics, method) in enumerate(zip(scores, named, strict=True))
    ]
    return compute_front(
        study="s",
        disease=disease,
        diseases=DISEASES,
        goals=GOALS,
        trials=records,
        reference=measured(50, 55, 60.5),
    )


def confirmed(*points: tuple[int, float]) -> Confirmation:
    """A confirmation of (trial, eo_gap against random noise on the test split)."""
    return Confirmation(
        study="tiny",
        key="k",
        repeats=2,
        controls=2,
        erm=measured(48, 50, 61, tpr=60.0),
        points=tuple(
            ConfirmedPoint(
                trial=trial,
                fronts=DISEASES,
                metrics=measured(30, 30, 61, control=control),
                random=measured(32, 32, 58),
                dominance={"edema": 0.9},
                optimism={"edema/eo_gap": -10.0},
                standing={"edema": "confirmed" if control < 0 else "no better than noise"},
                levelling={"edema": "lifted"},
            )
            for trial, control in points
        ),
        queries=5,
    )
