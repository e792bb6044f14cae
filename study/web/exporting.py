"""A click on "Export": the bundle of one trial, under the study's own folder."""

from __future__ import annotations

from typing import Any

from study.export import Policy, export
from study.live.source import Snapshot
from study.names import Layout


def export_trial(now: Snapshot, disease: str, trial: int) -> dict[str, Any]:
    """Write the bundle of `trial`, and return where it lies, seen from the studies' root.

    Exporting again changes nothing. Raises UserError where the trial is not complete.
    """
    study = now.study
    places = Layout.at(study.root).study(study.name)
    folder = places.bundles / f"{disease}-trial-{trial}"
    done = export(study, disease, Policy("trial", trial), folder)
    return {
        "disease": disease,
        "trial": done.trial,
        "folder": str(folder.relative_to(study.root)),
        "written": done.written,
        "warning": done.warning,
    }
