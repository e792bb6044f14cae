"""Run the benchmarks and keep their figures.

Those of the engine run where nothing but the engine is installed: a module is imported when its
benchmark runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ude_core.runtime import prepare_process

RESULTS = Path(__file__).parent / "results"
ENGINE: Mapping[str, tuple[str, str]] = {
    "candidate_vs_bare_mobilenetv2": ("candidate_vs_bare", "mobilenetv2"),
    "candidate_vs_bare_vit_b16": ("candidate_vs_bare", "vit_b16"),
    "trial_vs_plain": ("trial_vs_plain", "trial_vs_plain"),
    "saturated_step": ("saturated_step", "saturated_step"),
    "worker_memory": ("footprint", "worker_memory"),
    "cost_vs_size": ("footprint", "cost_vs_size"),
    "apply_speed": ("apply_speed", "apply_speed"),
    "coverage": ("coverage", "coverage"),
    "cue_overlap": ("cue_overlap", "cue_overlap"),
    "queries_vs_literal": ("query_efficiency", "queries_vs_literal"),
}
"""Name → module and function; these need torch and the engine alone."""

ON_CUDA: Mapping[str, tuple[str, str]] = {
    "vit_b16_flops_eager": ("candidate_vs_bare", "vit_b16_flops_eager"),
    "vit_b16_flops_compiled": ("candidate_vs_bare", "vit_b16_flops_compiled"),
}
"""The same for those that need a CUDA device too; left out where there is none."""

SERVICE: Mapping[str, tuple[str, str]] = {
    "overhead_vs_stock": ("overhead", "overhead_vs_stock"),
    "overhead_growth_100_to_10000": ("overhead", "overhead_growth"),
    "simulated_scale": ("simulate_scale", "simulated_scale"),
    "utilisation": ("utilisation", "utilisation"),
    "pruning_saved": ("pruning_saved", "pruning_saved"),
    "selection_honesty": ("selection_honesty", "selection_honesty"),
    "pages": ("pages", "pages"),
    "worst_group": ("worst_group", "worst_group"),
}
"""The same for those that need Ray, Optuna and MLflow."""

Benchmark = Callable[[], tuple[float, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a figure was measured. `busy` is the load average, over a minute, when it began."""

    described: str
    processor: str
    cores: int
    accelerator: str
    torch: str
    python: str
    busy: float


def machine(described: str | None) -> Machine:
    """Return this machine, as far as a ratio depends on it."""
    cores = os.cpu_count() or 1
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return Machine(
        described=described or f"{cores} cores, {accelerator}",
        processor=_processor(),
        cores=cores,
        accelerator=accelerator,
        torch=torch.__version__,
        python=platform.python_version(),
        busy=round(os.getloadavg()[0], 2),
    )


def find(name: str) -> Benchmark:
    """Return the benchmark of this name. Raises ModuleNotFoundError where what it needs is absent."""
    module, function = {**ENGINE, **ON_CUDA, **SERVICE}[name]
    found: Benchmark = getattr(import_module(f"benchmarks.{module}"), function)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run what was asked for, print the details, and end with one line of JSON."""
    engine = [*ENGINE, *(ON_CUDA if torch.cuda.is_available() else ())]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted({*engine, *SERVICE}))
    parser.add_argument("--engine", action="store_true", help="those of the engine alone")
    parser.add_argument("--machine", help="what the results say they were measured on")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where they are kept")
    chosen = parser.parse_args(arguments)
    prepare_process()
    chosen.results.mkdir(exist_ok=True)
    figures = {}
    for name in chosen.only or [*engine, *(() if chosen.engine else SERVICE)]:
        here = machine(chosen.machine)
        figure, details = find(name)()
        figures[name] = round(figure, 4)
        kept = {"figure": figures[name], "details": details, "machine": asdict(here)}
        (chosen.results / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
        print(f"{name}: {figure:.3f}")
        for key, value in details.items():
            print(f"  {key}: {value}")
    print(json.dumps(figures))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
