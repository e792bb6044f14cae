"""Run the benchmarks and keep their figures."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.candidate_vs_bare import mobilenetv2, vit_b16
from benchmarks.footprint import cost_vs_size, worker_memory
from benchmarks.overhead import overhead_growth, overhead_vs_stock
from benchmarks.pages import pages
from benchmarks.pruning_saved import pruning_saved
from benchmarks.saturated_step import saturated_step
from benchmarks.simulate_scale import simulated_scale
from benchmarks.trial_vs_plain import trial_vs_plain
from benchmarks.utilisation import utilisation
from ude_core.runtime import prepare_process

RESULTS = Path(__file__).parent / "results"

BENCHMARKS: Mapping[str, Callable[[], tuple[float, dict[str, Any]]]] = {
    "candidate_vs_bare_mobilenetv2": mobilenetv2,
    "candidate_vs_bare_vit_b16": vit_b16,
    "trial_vs_plain": trial_vs_plain,
    "saturated_step": saturated_step,
    "worker_memory": worker_memory,
    "cost_vs_size": cost_vs_size,
    "overhead_vs_stock": overhead_vs_stock,
    "overhead_growth_100_to_10000": overhead_growth,
    "simulated_scale": simulated_scale,
    "utilisation": utilisation,
    "pruning_saved": pruning_saved,
    "pages": pages,
}


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a figure was measured."""

    processor: str
    cores: int
    accelerator: str
    torch: str
    python: str


def machine() -> Machine:
    """Return this machine, as far as a ratio depends on it."""
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        torch=torch.__version__,
        python=platform.python_version(),
    )


def main() -> None:
    """Run what was asked for, print the details, and end with one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=sorted(BENCHMARKS))
    only = parser.parse_args().only
    prepare_process()
    RESULTS.mkdir(exist_ok=True)
    figures = {}
    for name in [only] if only else BENCHMARKS:
        figure, details = BENCHMARKS[name]()
        figures[name] = round(figure, 4)
        kept = {"figure": figures[name], "details": details, "machine": asdict(machine())}
        (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
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
