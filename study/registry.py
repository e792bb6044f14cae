"""A bundle in MLflow's Model Registry: `ude-noise-<disease>`, alias `best`, loaded without pickle.

A version is known by the sha256 of its bundle's manifest: the same bundle is registered once.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from study.runs import trial_run
from ude_core.bundle import MANIFEST_FILE, verify_bundle
from ude_core.bundle_manifest import BundleFacts, sha256
from ude_core.errors import UserError

ALIAS = "best"
_BUNDLE_TAG = "ude.bundle"
_CODE = Path(__file__).with_name("registered_edit.py")
_NEEDS = ("mlflow", "numpy", "safetensors")


@dataclass(frozen=True, slots=True)
class Registered:
    """A version in the registry; `fresh` is False where it was there already."""

    name: str
    version: int
    fresh: bool


def model_name(facts: BundleFacts) -> str:
    """Return the registered model's name: one a disease, and one for minimax.

    Diseases `mean` and `worst` of other policies have their own.
    """
    return f"ude-noise-{'minimax' if facts.policy == 'minimax' else facts.disease}"


def register_bundle(client: MlflowClient, folder: Path) -> Registered:
    """Register the bundle in `folder` and point the alias `best` at it; idempotent.

    The model lies among the artefacts of its trial's run. Raises BundleError for a bundle that was
    altered, UserError where MLflow does not know the trial, and what MLflow raises.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # Verified where nobody else writes, and always under the same name.
        bundle = Path(scratch) / "bundle"
        verify_bundle(folder)
        shutil.copytree(folder, bundle)
        facts = verify_bundle(bundle)
        name, digest = model_name(facts), sha256((bundle / MANIFEST_FILE).read_bytes())
        _ensure_model(client, name)
        found = _version_of(client, name, digest)
        fresh = found is None
        if found is None:
            found = _create(client, facts, bundle, name=name, digest=digest)
    client.set_registered_model_alias(name, ALIAS, found.version)
    return Registered(name, int(found.version), fresh)


def save_model(facts: BundleFacts, folder: Path, target: Path) -> None:
    """Write the MLflow model of a bundle to `target`: our code file, the bundle, a signature."""
    with warnings.catch_warnings():
        # MLflow warns of its own classes as they are imported, and that no example comes with a
        # signature.
        warnings.simplefilter("ignore", UserWarning)
        from mlflow import pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        shape = (-1, facts.image_size, facts.image_size)
        images = Schema([TensorSpec(np.dtype(np.uint8), shape)])
        pyfunc.save_model(
            path=str(target),
            python_model=str(_CODE),
            artifacts={"bundle": str(folder)},
            signature=ModelSignature(inputs=images, outputs=images),
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in _NEEDS],
            metadata={"encoder": facts.encoder, "encoder_fingerprint": facts.encoder_fingerprint},
        )


def _create(
    client: MlflowClient, facts: BundleFacts, bundle: Path, *, name: str, digest: str
) -> ModelVersion:
    run = trial_run(client, facts.study, facts.trial)
    if run is None:
        raise UserError(
            f"trial {facts.trial} of study {facts.study} is not in MLflow yet; "
            f"ude-study sync {facts.study}, then export again"
        )
    place = f"models/{name}-{digest[:12]}"
    model = bundle.with_name("model")
    save_model(facts, bundle, model)
    client.log_artifacts(run, str(model), place)
    told = {
        "study": facts.study,
        "trial": facts.trial,
        "disease": facts.disease,
        "policy": facts.policy,
        "stage": facts.stage,
        "label": facts.label,
        "encoder": facts.encoder,
        "encoder_fingerprint": facts.encoder_fingerprint,
    }
    return client.create_model_version(
        name,
        source=f"runs:/{run}/{place}",
        run_id=run,
        tags={f"ude.{key}": str(value) for key, value in told.items()} | {_BUNDLE_TAG: digest},
        description=f"Study {facts.study}, trial {facts.trial}, policy {facts.policy}, for "
        f"{facts.encoder}. Not for diagnosis; MODEL_CARD.md is in artifacts/bundle.",
    )


def _ensure_model(client: MlflowClient, name: str) -> None:
    text = "A universal edit: 8-bit gray images in, edited images out, for one frozen encoder."
    try:
        client.create_registered_model(name, description=text)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version_of(client: MlflowClient, name: str, digest: str) -> ModelVersion | None:
    """Return the oldest version that was made of this bundle."""
    query = f"name = '{name}' and tags.`{_BUNDLE_TAG}` = '{digest}'"
    versions = client.search_model_versions(query)
    return min(versions, key=lambda one: int(one.version), default=None)
