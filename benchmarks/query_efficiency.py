"""Held-out attribute cross-entropy against queries, at equal norm, on real chest X-rays. Hours on a CPU.

    python -m benchmarks.query_efficiency --data DIR --surrogate FILE [--methods …] [--norms …] [--seeds …]

One run is one method at one norm and seed; each is kept in its own file under
`results/query_efficiency/`, so a study may be made in pieces, and runs already there are left alone.
`--table` prints what is there instead, and draws the picture. `DIR` holds nih.csv and the MobileNetV2 that is
attacked; `FILE` are weights of timm's tf_efficientnet_lite0, the open network of `distilled` and `jacobian`.
With a copy of the embeddings and heads in `--cache`, runs on another machine have the same attribute head.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ude_core.assets import StudyAssets, prepare
from ude_core.cohorts.base import Cohort
from ude_core.cohorts.csv_source import CsvSource
from ude_core.cohorts.settings import TableSettings
from ude_core.cohorts.table_cohort import load_table
from ude_core.encoders.timm_encoder import TimmEncoder
from ude_core.evaluator import LocalEvaluator
from ude_core.image_rows import ImageRows
from ude_core.leakage import attribute_auc
from ude_core.learner import NoiseLearner
from ude_core.noise import make_basis, noise_l2, random_noise
from ude_core.runtime import prepare_process
from ude_core.seeding import torch_generator
from ude_core.surrogate import Surrogate, prepare_surrogate
from ude_core.trial import trial_evaluator
from ude_core.types import (
    NEEDS_SURROGATE,
    BiasConfig,
    Interval,
    MethodConfig,
    Noise,
    ScoringConfig,
    SplitConfig,
)

RUNS = Path(__file__).parent / "results" / "query_efficiency"
BUDGET = 100_000
MARKS = (0, 1_000, 2_500, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000)
"""Queries after which the held-out patients are looked at; looking is not counted."""

RANDOM_NOISES = 20
SHARED = MethodConfig(regularization=0.0, pixels="deploy", queries=BUDGET)

_JACOBIAN = replace(
    SHARED,
    name="jacobian",
    objective="one_group",
    target_group=0,
    samples=128,
    batch_size=2,
    local_iterations=5,
    step_size=0.0067,  # a change of norm 1.5
    learning_rate=0.0018,  # a step of 0.08 of a ball of 5
    step_decay=0.95,
)

METHODS: Mapping[str, MethodConfig] = {
    # Alg. 1 with the paper's settings: R 10, C 10, B 128, s 0.01, decay 0.95, momentum 0.9.
    "literal": replace(SHARED, name="gezo", regularization=0.01),
    "distilled": replace(
        SHARED,
        name="distilled",
        objective="one_group",
        target_group=0,
        samples=8,
        batch_size=64,
        local_iterations=5,
        learning_rate=0.00134,  # a step of 0.06 of a ball of 5
        student_lessons=16,
        climb_steps=12,
    ),
    "jacobian": _JACOBIAN,
    "jacobian_skips": replace(
        _JACOBIAN, samples=256, batch_size=1, learning_rate=0.0024, skip_gradient=0.25
    ),
    "whitebox": replace(
        SHARED, name="whitebox", batch_size=16, learning_rate=0.003, queries=None, epochs=14
    ),
    "whitebox_one_group": replace(
        SHARED,
        name="whitebox",
        objective="one_group",
        batch_size=16,
        learning_rate=0.003,
        queries=None,
        epochs=14,
    ),
}
LABELS = {
    "random": "random noise",
    "literal": "Alg. 1, literal",
    "distilled": "distilled (ours)",
    "jacobian": "jacobian (ours)",
    "jacobian_skips": "jacobian, skip gradients (ours)",
    "whitebox": "white-box UDE",
    "whitebox_one_group": "white-box, one_group (ours)",
}


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """The cohort, the attacked encoder and who is held out."""

    cohort: Cohort
    encoder: TimmEncoder
    assets: StudyAssets
    surrogate: Surrogate | None
    held_out: LocalEvaluator

    def look(self, noise: Noise) -> tuple[float, float]:
        """Return cross-entropy (nats) and AUC (percent) of g on the held-out patients."""
        rows = np.arange(len(self.held_out.images))
        embeddings, evaluation = self.held_out.embed(noise[None], rows[None])
        logits = self.held_out.attribute_head.logits(embeddings[0])[0]
        auc = attribute_auc(logits, self.held_out.attribute)
        assert isinstance(auc, Interval)
        return float(evaluation.cross_entropy[0]), auc.mean


def prepare_bench(data: Path, surrogate: Path | None, cache: Path, device: str = "cpu") -> Bench:
    """Return the bench: half of the patients learn, the other half is held out."""
    settings = TableSettings(
        diseases=("pleural_effusion",),
        source=CsvSource(file="nih.csv"),
        negatives="disease_zero",
        blank="negative",
    )
    cohort = load_table(data, settings, image_size=224, cache=cache / "pixels")
    encoder = TimmEncoder(
        "mobilenetv2_100",
        data / "encoder" / "mobilenetv2_100_in1k_features.safetensors",
        model_options={"pad_type": "same"},
        compile=device == "cpu",  # on CUDA it is minutes of tuning kernels
        device=device,
    )
    assets = prepare(
        cohort,
        encoder,
        split=SplitConfig(validation=0.25, test=0.25),
        bias=BiasConfig(train_per_group=20, validation_per_cell=5, test_per_cell=5),
        scoring=ScoringConfig(repeats=1),
        seed=0,
        cache=cache,
    )
    opened = None
    if surrogate is not None:
        network = TimmEncoder("tf_efficientnet_lite0", surrogate, device=device)
        opened = prepare_surrogate(cohort, network, assets, cache=cache)
    away = np.setdiff1d(np.arange(len(cohort.images)), assets.split.train)
    held_out = LocalEvaluator(
        encoder=encoder,
        attribute_head=assets.attribute_head,
        images=ImageRows(cohort.images, away),
        attribute=cohort.attribute[away],
        objective="cross_entropy",
        regularization=0.0,
        pixels="deploy",
    )
    return Bench(cohort, encoder, assets, opened, held_out)


def run(bench: Bench, name: str, norm: float, seed: int, budget: int) -> dict[str, Any]:
    """Return one run's curve: queries, cross-entropy, AUC and norm at every mark up to `budget`."""
    began = time.perf_counter()
    if name == "random":
        return {"curve": list(_random(bench, norm, seed)), "seconds": time.perf_counter() - began}
    method = replace(METHODS[name], max_norm=norm)
    if method.name == "jacobian":  # its steps are shares of the ball
        method = replace(method, learning_rate=method.learning_rate * norm / 5)
    if method.queries is not None:
        method = replace(method, queries=budget)
    evaluator = trial_evaluator(method, bench.cohort, bench.encoder, bench.assets)
    guide = bench.surrogate.guide(method, bench.assets) if bench.surrogate else None
    learner = NoiseLearner(method, evaluator, seed, guide)
    curve: list[dict[str, float]] = []
    marks = [mark for mark in MARKS if mark < budget] + [budget]
    while True:
        due = learner.finished or learner.queries >= marks[min(len(curve), len(marks) - 1)]
        if due:
            cross_entropy, auc = bench.look(learner.noise)
            point = {
                "queries": learner.queries,
                "cross_entropy": round(cross_entropy, 4),
                "auc": round(auc, 2),
                "norm": round(float(noise_l2(learner.noise)), 3),
                "surrogate_passes": learner.surrogate_passes,
            }
            curve.append(point)
            print(name, norm, seed, point, f"{time.perf_counter() - began:.0f} s", flush=True)
        if learner.finished:
            return {"curve": curve, "seconds": round(time.perf_counter() - began)}
        learner.step()


def _random(bench: Bench, norm: float, seed: int) -> Iterator[dict[str, float]]:
    rng = torch_generator(seed, "random noises")
    for _ in range(RANDOM_NOISES):
        noise = random_noise(make_basis("pixel", 224, 224), norm, "normal", rng)
        cross_entropy, auc = bench.look(noise)
        yield {"queries": 0, "cross_entropy": round(cross_entropy, 4), "auc": round(auc, 2)}


def reached(curve: Sequence[Mapping[str, float]], level: float) -> float | None:
    """Return the queries at the first mark whose cross-entropy is at least `level`; None if none is."""
    return next((p["queries"] for p in curve if p["cross_entropy"] >= level), None)


def table(folder: Path) -> str:
    """Return the runs as a Markdown table: median and range over seeds, at every mark."""
    runs = load(folder)
    lines = [
        "| ‖ε‖₂ | method | queries | seeds | cross-entropy | AUC |",
        "|---|---|---|---|---|---|",
    ]
    for norm in sorted({run["norm"] for run in runs}):
        for name, label in LABELS.items():
            chosen = [run for run in runs if run["norm"] == norm and run["method"] == name]
            for queries in sorted({p["queries"] for run in chosen for p in run["curve"]}):
                points = [p for run in chosen for p in run["curve"] if p["queries"] == queries]
                cells = [_spread([p[key] for p in points]) for key in ("cross_entropy", "auc")]
                seeds = len(chosen) if name != "random" else f"{len(points)} noises"
                lines.append(
                    f"| {norm:g} | {label} | {queries:,} | {seeds} | {' | '.join(cells)} |"
                )
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def load(folder: Path) -> list[dict[str, Any]]:
    """Return every run kept in `folder`."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def picture(folder: Path, path: Path) -> None:
    """Draw cross-entropy against queries, one panel a norm: the median, and the range over seeds."""
    from matplotlib import pyplot

    runs = load(folder)
    norms = sorted({run["norm"] for run in runs})
    figure, axes = pyplot.subplots(1, len(norms), figsize=(6 * len(norms), 4.2), squeeze=False)
    for axis, norm in zip(axes[0], norms, strict=True):
        for index, (name, label) in enumerate(LABELS.items()):
            chosen = [run["curve"] for run in runs if run["norm"] == norm and run["method"] == name]
            if not chosen:
                continue
            colour = f"C{index}"
            if name == "random":
                values = [p["cross_entropy"] for curve in chosen for p in curve]
                axis.axhspan(min(values), max(values), color=colour, alpha=0.3, label=label)
                continue
            if name.startswith("whitebox"):
                values = [curve[-1]["cross_entropy"] for curve in chosen]
                axis.axhline(statistics.median(values), color=colour, linestyle="--", label=label)
                continue
            depth = min(len(curve) for curve in chosen)
            queries = [chosen[0][i]["queries"] for i in range(depth)]
            stacked = np.array([[c[i]["cross_entropy"] for i in range(depth)] for c in chosen])
            axis.plot(queries, np.median(stacked, 0), color=colour, marker="o", label=label)
            axis.fill_between(queries, stacked.min(0), stacked.max(0), color=colour, alpha=0.2)
        axis.set_title(f"‖ε‖₂ at most {norm:g}")
        axis.set_xlabel("queries of the black box")
        axis.set_ylabel("attribute cross-entropy, held-out patients (nats)")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def queries_vs_literal() -> tuple[float, dict[str, Any]]:
    """Return what the kept runs say: literal's queries over those ours needs, the least of the norms."""
    return compared(load(RUNS))


def compared(runs: Sequence[Mapping[str, Any]]) -> tuple[float, dict[str, Any]]:
    """Return literal's queries over those `distilled` needs for what literal reaches with them.

    The least of the norms; both are medians over seeds, and the level is the highest that literal
    shows at any mark. Beside it, by norm: what each method reaches, how many random noises it beats,
    and its shares of what white-box adds to random noise's cross-entropy and takes off its AUC.
    """
    ratios, details = [], {}
    for norm in sorted({run["norm"] for run in runs}):
        curves = {
            name: [r["curve"] for r in runs if (r["norm"], r["method"]) == (norm, name)]
            for name in LABELS
        }
        random = [point for curve in curves["random"] for point in curve]
        details[f"norm {norm:g}"] = {
            name: _standing(curves[name], random, curves["whitebox"])
            for name in LABELS
            if name != "random" and curves[name]
        }
        if curves["literal"] and curves["distilled"]:
            level = statistics.median(_best(curve) for curve in curves["literal"])
            needed = [reached(curve, level) or math.inf for curve in curves["distilled"]]
            spent = min(curve[-1]["queries"] for curve in curves["literal"])
            ratios.append(spent / max(1, statistics.median(needed)))
    if not ratios:
        raise ValueError(f"{RUNS} has no norm with runs of both literal and distilled")
    return min(ratios), details


def _standing(
    curves: Sequence[Sequence[Mapping[str, float]]],
    random: Sequence[Mapping[str, float]],
    whitebox: Sequence[Sequence[Mapping[str, float]]],
) -> dict[str, Any]:
    ends = [curve[-1] for curve in curves]
    last = _median(ends, "cross_entropy")
    found: dict[str, Any] = {
        "seeds": len(curves),
        "queries": ends[0]["queries"],
        "cross-entropy": round(last, 3),
    }
    if random:
        beaten = sum(one["cross_entropy"] < last for one in random)
        found["random noises beaten"] = f"{beaten} of {len(random)}"
        for name, key in (("gain", "cross_entropy"), ("AUC change", "auc")) if whitebox else ():
            base = _median(random, key)
            ceiling = _median([curve[-1] for curve in whitebox], key)
            share = (_median(ends, key) - base) / (ceiling - base)
            found[f"share of white-box's {name}"] = round(share, 3)
    return found


def _median(points: Sequence[Mapping[str, float]], key: str) -> float:
    return statistics.median(point[key] for point in points)


def _best(curve: Sequence[Mapping[str, float]]) -> float:
    return max(point["cross_entropy"] for point in curve)


def main(arguments: list[str] | None = None) -> None:
    """Make the runs that are missing, or print what is there."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.query_efficiency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--surrogate", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("build/query_efficiency"))
    parser.add_argument("--methods", nargs="+", choices=list(LABELS), default=list(LABELS))
    parser.add_argument("--norms", nargs="+", type=float, default=[5.0, 10.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--queries", type=int, default=BUDGET)
    parser.add_argument("--threads", type=int, help="of this process; all cores when left out")
    parser.add_argument("--device", default="cpu", help="of both encoders")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--results", type=Path, default=RUNS)
    chosen = parser.parse_args(arguments)
    prepare_process(chosen.threads)
    chosen.results.mkdir(parents=True, exist_ok=True)
    if not chosen.table:
        methods = {METHODS[name].name for name in chosen.methods if name in METHODS}
        guided = [name for name in NEEDS_SURROGATE if name in methods]
        if chosen.data is None or (guided and chosen.surrogate is None):
            parser.error(
                f"give --data, and --surrogate for {' and '.join(guided) or 'guided methods'}"
            )
        bench = prepare_bench(chosen.data, chosen.surrogate, chosen.cache, chosen.device)
        print("clean", bench.look(torch.zeros(1, 224, 224)), flush=True)
        for seed in chosen.seeds:
            for norm in chosen.norms:
                for name in chosen.methods:
                    path = chosen.results / f"{name}_{norm:g}_{seed}.json"
                    if path.exists():
                        continue
                    made = run(bench, name, norm, seed, chosen.queries)
                    kept = {"method": name, "norm": norm, "seed": seed, **made}
                    path.write_text(json.dumps(kept, indent=1) + "\n")
        return
    print(table(chosen.results))
    picture(chosen.results, chosen.results / "query_efficiency.png")
    figure, details = compared(load(chosen.results))
    print(json.dumps({"queries_vs_literal": round(figure, 2), "details": details}))


if __name__ == "__main__":
    main()
