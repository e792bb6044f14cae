"""MLflow's own table of a study's runs: the address that opens it with trials and metrics showing."""

from __future__ import annotations


def runs_view(experiment: str) -> str:
    """Return the address of an experiment's runs within MLflow, after its `#`."""
    return f"/experiments/{experiment}/runs"
