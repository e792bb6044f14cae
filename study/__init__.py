"""The study service around `ude_core`: configuration, search, distribution, records.

Reading order, the way a study flows: `config` (with `documents`, `sections`, `searched`) →
`sweep` (the driver: `materials`, `lease`, `harvest`) → `tuning`, `searcher` and `scheduler` (Ray
Tune; who is stopped early: `pruning`, `rung_records`) → `trainable` (a worker; `crew`, where a
trial has several) → `ledger` (the truth; `records`, `database`, `samplers`, `spaces`) →
`tracking` and `runs` (MLflow) and `progress` (the terminal) → `pareto` → `confirm` → `export`.
`names` builds every name and path; `api` is the way in from Python, `cli` from a shell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.api import Study, launch, load_space

__all__ = ["Study", "launch", "load_space"]


def __getattr__(name: str) -> Any:
    """Import the Python API when it is asked for: the command line starts without it."""
    if name in __all__:
        from study import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
