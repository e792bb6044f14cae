"""Export and register: the bundle in a folder first, then the same in MLflow's Model Registry.

The folder is what counts. Where MLflow is away, or does not know the study yet, the export is done
all the same, and says so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from study.attempts import reason_of
from study.environment import prepare_mlflow
from study.export import Exported, export, export_all
from study.names import Layout
from study.pareto import WORST
from study.policies import Policy

if TYPE_CHECKING:
    from study.api import Study
    from study.registry import Registered

_REASON_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Published:
    """An exported bundle and its version in the registry, or None and why not."""

    exported: Exported
    registered: Registered | None = None
    note: str = ""


def publish(
    study: Study,
    policy: Policy,
    folder: Path,
    *,
    disease: str | None = None,
    register: bool = True,
    uri: str | None = None,
    onnx: bool = False,
) -> tuple[Published, ...]:
    """Export what `policy` picks: for `disease`; minimax for all at once; else a bundle a disease.

    `uri` is the tracking server; else MLFLOW_TRACKING_URI, else the root's own database. Raises
    UserError where no point fits, BundleError where a folder holds other files; never for MLflow.
    """
    if disease is None and policy.kind != "minimax":
        done = export_all(study, study.config.cohort.diseases, policy, folder, onnx=onnx)
    else:
        done = (export(study, WORST if disease is None else disease, policy, folder, onnx=onnx),)
    return _registered(study, done, uri) if register else tuple(map(Published, done))


def export_point(
    study: Study,
    disease: str,
    trial: int,
    out: Path,
    *,
    register: bool = True,
    uri: str | None = None,
) -> Published:
    """Export one trial's noise for `disease` to `out` and register it. Raises as `publish` does."""
    policy = Policy("trial", trial)
    (done,) = publish(study, policy, out, disease=disease, register=register, uri=uri)
    return done


def _registered(study: Study, done: Sequence[Exported], uri: str | None) -> tuple[Published, ...]:
    layout = Layout.at(study.root)
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    note = ""
    if uri is None and not layout.mlflow_database.is_file():
        note = f"not registered: nothing of {study.name} is in MLflow yet (ude-study sync does it)"
    published = []
    for one in done:
        registered = None
        if not note:  # what failed for one bundle is not waited for again
            try:
                registered = _register(one.folder, uri or layout.mlflow_uri)
            except Exception as error:  # noqa: BLE001  the bundle is there, whatever MLflow says
                note = f"not registered in MLflow ({reason_of(error)[:_REASON_LENGTH]})"
        published.append(Published(one, registered, note))
    return tuple(published)


def _register(folder: Path, uri: str) -> Registered:
    prepare_mlflow()
    from mlflow import MlflowClient  # seconds

    from study.registry import register_bundle

    return register_bundle(MlflowClient(tracking_uri=uri, registry_uri=uri), folder)
