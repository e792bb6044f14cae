"""A click on "Export": the bundle of one trial, under the study's own folder and in the registry."""

from __future__ import annotations

from typing import Any

from study.live.source import Snapshot
from study.names import Layout
from study.publish import export_point


def export_trial(now: Snapshot, disease: str, trial: int) -> dict[str, Any]:
    """Write the bundle of `trial` and register it; return where it lies, seen from the studies' root.

    Exporting again changes nothing. Raises UserError where the trial is not complete.
    """
    study = now.study
    places = Layout.at(study.root).study(study.name)
    folder = places.bundles / f"{disease}-trial-{trial}"
    published = export_point(study, disease, trial, folder)
    done, version = published.exported, published.registered
    return {
        "disease": disease,
        "trial": done.trial,
        "folder": str(folder.relative_to(study.root)),
        "written": done.written,
        "warning": done.warning,
        "registered": None
        if version is None
        else {"model": version.name, "version": version.version},
        "note": published.note,
    }
