"""The Python face of the service: `launch` runs or continues a study, `Study.open` reads one.

from study import Study, launch, load_space

launch(load_space("demo"), root="runs")
study = Study.open("demo", root="runs")
study.front("edema")
study.export("edema", "bundle")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from study.config import StudyConfig, load_space
from study.ledger import Ledger, TrialRecord
from ude_core.types import Interval, Measured

if TYPE_CHECKING:
    from study.sweep import Outcome

__all__ = ["Study", "TrialRecord", "launch", "load_space"]


def launch(config: StudyConfig, root: Path | str = "runs", **options: Any) -> Outcome:
    """Run or continue the study of `config`; see `study.sweep.launch` for the options."""
    from study.sweep import launch as run

    return run(config, root, **options)


@dataclass(frozen=True, slots=True)
class Study:
    """A study to read: its configuration, its ledger, and the ERM reference its trials are held to.

    Reading is safe while a driver runs the study.
    """

    name: str
    root: Path
    config: StudyConfig
    ledger: Ledger

    @classmethod
    def open(cls, name: str, root: Path | str = "runs", *, storage: str | None = None) -> Study:
        """Open the study `name` under `root`. Raises UserError where there is none."""
        ledger = Ledger.open(name, root, storage)
        return cls(
            name=ledger.name,
            root=ledger.places.folder.parent,
            config=ledger.config,
            ledger=ledger,
        )

    @property
    def reference(self) -> Mapping[str, Measured]:
        """ERM's metrics on un-edited images: `<disease>/<metric>` and the bare study-level names."""
        return self.ledger.reference

    def trial_folder(self, number: int) -> Path:
        """Return the folder of trial `number`: result.json, noise.safetensors."""
        return self.ledger.places.trial(number)

    def trials(self) -> pd.DataFrame:
        """Return one row a trial, by number.

        Columns: number, state, method, outcome, reason, seed, queries, seconds, `params.<name>`, and each
        metric with its `<metric>.low` and `<metric>.high`; what is undefined is missing.
        """
        return pd.DataFrame([_row(record) for record in self.ledger.trials()])

    def front(self, disease: str) -> pd.DataFrame:
        """Return one row a complete trial, seen from `disease`, `mean` or `worst`.

        Columns: trial, method, front (whether no other is better in all), control, levelling, feasible,
        `params.<name>`, and that disease's metrics under bare names with `.low` and `.high`.
        """
        from study.pareto import front_of

        return pd.DataFrame(
            [
                {
                    "trial": point.trial,
                    "method": point.method,
                    "front": point.front,
                    "control": point.control,
                    "levelling": point.levelling,
                    "feasible": point.feasible,
                    **{f"params.{name}": value for name, value in point.params.items()},
                    **_columns(point.metrics),
                }
                for point in front_of(self, disease).points
            ]
        )

    def export(self, disease: str, folder: Path | str, *, policy: str = "knee") -> Path:
        """Write the bundle of the noise that `policy` picks for `disease`; return its folder.

        Policies: knee, min-gap, max-accuracy, accuracy-drop=P, trial=N; minimax, for the disease
        `worst`. Raises UserError where no point fits, BundleError where `folder` holds other files.
        """
        from study.export import export
        from study.policies import parse_policy

        return export(self, disease, parse_policy(policy), Path(folder)).folder


def _row(record: TrialRecord) -> dict[str, Any]:
    ended, started = record.ended, record.started
    return {
        "number": record.number,
        "state": record.state,
        "method": record.method,
        "outcome": record.outcome,
        "reason": record.reason,
        "seed": record.seed,
        "queries": record.queries,
        "seconds": (ended - started).total_seconds() if ended and started else None,
        **{f"params.{name}": value for name, value in record.params.items()},
        **_columns({name: m for name, m in record.metrics.items() if name != "queries"}),
    }


def _columns(metrics: Mapping[str, Measured]) -> dict[str, float]:
    columns: dict[str, float] = {}
    for name, measured in metrics.items():
        if isinstance(measured, Interval):
            columns |= {
                name: measured.mean,
                f"{name}.low": measured.low,
                f"{name}.high": measured.high,
            }
    return columns
