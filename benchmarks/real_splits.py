"""UDE on one disease of real chest X-rays, averaged over several splits of the patients. Hours on a CPU.

    python -m benchmarks.real_splits --data DIR [--surrogate FILE] [--methods …] [--seeds …]

A split is a study of its own, launched as a user would launch it. Each method's trial is chosen on
validation as a report chooses it (`study.report.choices`), and scored once on the test patients, over 20
fresh draws, beside ERM and 20 random noises of its norm. What is there is left alone, so a study may be
made in pieces. `--table` prints what is there: the mean over splits, with a 95 % t-interval. `DIR` is as
for `query_efficiency`, and so is `FILE`, the open network of `distilled` and `jacobian`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from study.api import Study, launch, load_space
from study.confirm_named import confirm_named
from study.report.choices import best_by_method
from study.report.collect import fronts_of
from ude_core.types import NEEDS_SURROGATE, Interval, Measured

SPACE = Path(__file__).with_name("real_splits.yaml")
RUNS = Path(__file__).parent / "results" / "real_splits"
DISEASE = "pleural_effusion"
GAPS = ("eo_positive_gap", "selection_rate_symmetric_gap", "eo_gap")
REPEATS, CONTROLS = 20, 20

POINTS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "whitebox": [
        {"objective": objective, "max_norm": norm, "epochs": 8, "learning_rate": 0.003}
        for objective, norms in (("confusion", (1, 1.5, 2, 3, 4)), ("cross_entropy", (2, 4)))
        for norm in norms
    ],
    # 163,840 queries, with the batch below.
    "gezo": [{"objective": "cross_entropy", "max_norm": 40, "epochs": 20, "step_size": 0.03}],
    # 24,576 queries each.
    "gezo_tile": [
        {
            "objective": objective,
            "max_norm": norm,
            "epochs": 6,
            "step_size": norm / 660,
            "basis_size": 16,
        }
        for objective, norm in (("confusion", 4), ("one_group", 4), ("confusion", 8))
    ],
    "distilled": [
        {
            "objective": "confusion",
            "max_norm": norm,
            "epochs": 12,
            "learning_rate": 0.06 * norm / 224,  # a step of 0.06 of the ball
        }
        for norm in (2, 4)
    ],
    # 10,240 queries each: a change of 0.3 of the ball, a step of 0.08 of it.
    "jacobian": [
        {
            "objective": objective,
            "max_norm": norm,
            "epochs": 4,
            "step_size": 0.3 * norm / 224,
            "learning_rate": 0.08 * norm / 224,
        }
        for objective, norm in (("one_group", 4), ("confusion", 4), ("one_group", 2))
    ],
}
SETTINGS: Mapping[str, Sequence[str]] = {
    "gezo": ("method.batch_size=64",),
    "gezo_tile": ("method.name=gezo", "method.basis=tile"),
    "jacobian": (
        "method.basis=pixel",
        "method.samples=128",
        "method.batch_size=2",
        "method.local_iterations=5",
    ),
}
"""What a row sets otherwise than the space; one without a method's name is named after its method."""

UNUSED = {"step_size": 0.03, "learning_rate": 0.003, "basis_size": 14}
"""What a point must name and its method does not read."""


def run(data: Path, surrogate: Path | None, row: str, seed: int, root: Path) -> dict[str, Any]:
    """Launch the study of one row on one split, choose on validation, and return the test's word."""
    points = [{**UNUSED, **point} for point in POINTS[row]]
    overrides = [
        f"seed={seed}",
        f"cohort.root={data}",
        f"method.name={row}",
        f"warm_start.points={json.dumps(points)}",
        f"budget.trials={len(points)}",
        *SETTINGS.get(row, ()),
    ]
    if row in NEEDS_SURROGATE:
        section = {"kind": "timm", "model": "tf_efficientnet_lite0", "checkpoint": str(surrogate)}
        overrides.append(f"surrogate={json.dumps({**section, 'image_size': 224})}")
    config = load_space(SPACE, overrides, study=f"{row}_{seed}")
    outcome = launch(config, root)
    if outcome.exit_code:
        raise RuntimeError(f"{config.study} did not end well: {dict(outcome.counts)}")
    study = Study.open(config.study, root)
    try:
        (trial,) = best_by_method(fronts_of(study)).values()
        found, _ = confirm_named(study, {trial: CONTROLS}, repeats=REPEATS)
        record = study.ledger.trial(trial)
    finally:
        study.ledger.close()
    point = found.point(trial)
    assert point is not None
    return {
        "method": row,
        "seed": seed,
        "params": dict(record.params),
        "queries": record.queries,
        "erm": _named(found.erm),
        "edited": _named(point.metrics),
        "random": _named(point.random),
        "edited minus erm, 95 %": _differences(point.metrics),
        "controls beaten, %": _mean(point.metrics, "controls_beaten"),
    }


def _named(metrics: Mapping[str, Measured]) -> dict[str, float]:
    return {name: _mean(metrics, name) for name in (*GAPS, "accuracy")}


def _differences(metrics: Mapping[str, Measured]) -> dict[str, list[float]]:
    """Return mean, low and high of each metric minus ERM's, over the test draws of this split."""
    found = {}
    for name in (*GAPS, "accuracy"):
        measured = metrics.get(f"{DISEASE}/{name}_vs_erm")
        if isinstance(measured, Interval):
            found[name] = [round(v, 2) for v in (measured.mean, measured.low, measured.high)]
    return found


def _mean(metrics: Mapping[str, Measured], name: str) -> float:
    measured = metrics[f"{DISEASE}/{name}"]
    if isinstance(measured, Interval):
        return round(measured.mean, 2)
    raise ValueError(f"{name} is undefined: {measured.reason}")


def table(folder: Path) -> str:
    """Return, by method: how many splits, each metric of ERM, edited and random noise, and the changes."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    lines = [
        "| method | splits | metric | ERM | edited | edited minus ERM | of ERM's | random noise "
        "| edited minus random |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method in POINTS:
        chosen = [run for run in runs if run["method"] == method]
        for name in (*GAPS, "accuracy") if chosen else ():
            erm, edited, random = (
                np.array([run[kind][name] for run in chosen])
                for kind in ("erm", "edited", "random")
            )
            share = f"{100 * (edited.mean() / erm.mean() - 1):+.0f} %"
            lines.append(
                f"| {method} | {len(chosen)} | {name} | {erm.mean():.1f} | {edited.mean():.1f} "
                f"| {_interval(edited - erm)} | {share} | {random.mean():.1f} "
                f"| {_interval(edited - random)} |"
            )
        if chosen:
            beaten = [run["controls beaten, %"] for run in chosen]
            lines.append(
                f"| {method} | {len(chosen)} | random noises beaten, % | | {beaten} | | | | |"
            )
    return "\n".join(lines)


def _interval(values: np.ndarray[Any, Any]) -> str:
    if len(values) < 2:
        return f"{values.mean():+.1f}"
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return f"{values.mean():+.1f} ± {half:.1f}"


def main(arguments: list[str] | None = None) -> None:
    """Make the runs that are missing, or print what is there."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real_splits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--surrogate", type=Path)
    parser.add_argument("--methods", nargs="+", choices=list(POINTS), default=list(POINTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--root", type=Path, default=Path("build/real_splits"))
    parser.add_argument("--results", type=Path, default=RUNS)
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        print(table(chosen.results))
        return
    guided = [name for name in chosen.methods if name in NEEDS_SURROGATE]
    if chosen.data is None or (guided and chosen.surrogate is None):
        parser.error(f"give --data, and --surrogate for {' and '.join(guided) or 'guided methods'}")
    data, surrogate = chosen.data.resolve(), chosen.surrogate and chosen.surrogate.resolve()
    chosen.results.mkdir(parents=True, exist_ok=True)
    for seed in chosen.seeds:
        for method in chosen.methods:
            path = chosen.results / f"{method}_{seed}.json"
            if not path.exists():
                made = run(data, surrogate, method, seed, chosen.root)
                path.write_text(json.dumps(made, indent=1) + "\n")
                print(json.dumps(made), flush=True)


if __name__ == "__main__":
    main()
