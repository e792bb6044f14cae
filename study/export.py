"""From a front to one noise in a bundle: the policy's choice, and everything written beside it.

The choice is made on validation figures; where the study is confirmed, only confirmed points that
still beat random noise are candidates, and the bundle then reports the test split's figures.
Registering it in MLflow too is `study.publish`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from study.candidates import confirmed_control
from study.confirm import Confirmation, load_confirmation, load_noise
from study.model_card import model_card
from study.names import Layout
from study.pareto import WORST, Front, Point, front_of
from study.policies import Policy, choose
from study.provenance import commit, package_versions
from study.spaces import method_of
from study.training_cells import training_cells
from ude_core.baselines.registry import settings_read
from ude_core.bundle import CARD_FILE, EDIT_FILE, Bundle, load_bundle, write_bundle
from ude_core.bundle_manifest import BundleFacts
from ude_core.errors import BundleError, UserError
from ude_core.types import Measured, Noise

if TYPE_CHECKING:
    from study.api import Study


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle that was written, or was there already; `warning` is empty where all is well."""

    disease: str
    folder: Path
    trial: int
    written: bool
    warning: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Chosen:
    """Everything of a bundle but its picture, before a byte of it is written."""

    facts: BundleFacts
    noise: Noise
    card: str
    edit: bytes | None
    warning: str


def export(
    study: Study, disease: str, policy: Policy, folder: Path, *, onnx: bool = False
) -> Exported:
    """Write the bundle of the noise that `policy` picks for `disease`, or leave an equal one.

    With `onnx`, the edit stands beside it as a graph, edit.onnx. The same study and software give
    the same bytes. Raises UserError where there is no such point, BundleError where `folder` holds
    other files.
    """
    return _write(study, _chosen(study, disease, policy, onnx=onnx), folder)


def export_all(
    study: Study, diseases: Sequence[str], policy: Policy, folder: Path, *, onnx: bool = False
) -> tuple[Exported, ...]:
    """Write one bundle a disease, in `folder`/<disease>; nothing where one cannot be chosen.

    Raises as `export` does.
    """
    chosen = [_chosen(study, disease, policy, onnx=onnx) for disease in diseases]
    return tuple(_write(study, one, folder / one.facts.disease) for one in chosen)


def _chosen(study: Study, disease: str, policy: Policy, *, onnx: bool) -> _Chosen:
    if policy.kind == "minimax" and disease != WORST:
        raise UserError(
            "minimax picks one noise for every disease; leave --disease and --all-diseases out"
        )
    front = front_of(study, disease)
    confirmation = load_confirmation(study)
    point, warning = choose(front, policy, confirmation)
    noise = load_noise(study.ledger.trial(point.trial))
    facts = _facts(study, front, point, policy, confirmation, noise)
    return _Chosen(
        facts=facts,
        noise=noise,
        card=model_card(facts, front.goals),
        edit=_edit_graph(noise) if onnx else None,
        warning=warning,
    )


def _edit_graph(noise: Noise) -> bytes:
    from study.onnx_edit import edit_graph

    return edit_graph(noise)


def _write(study: Study, chosen: _Chosen, folder: Path) -> Exported:
    folder = folder.expanduser().resolve()
    facts = chosen.facts
    fresh = not _is_there(folder, chosen)
    if fresh:
        write_bundle(
            folder,
            chosen.noise,
            facts,
            preview=_preview(study, facts, chosen.noise),
            card=chosen.card,
            edit=chosen.edit,
        )
    return Exported(facts.disease, folder, facts.trial, written=fresh, warning=chosen.warning)


def _facts(
    study: Study,
    front: Front,
    point: Point,
    policy: Policy,
    confirmation: Confirmation | None,
    noise: Noise,
) -> BundleFacts:
    record = study.ledger.trial(point.trial)
    found = confirmation.point(point.trial) if confirmation is not None else None
    metrics: Mapping[str, Measured] = record.metrics
    reference, label = study.ledger.reference, point.control
    if confirmation is not None and found is not None:
        own = {name: value for name, value in record.metrics.items() if "/" not in name}
        metrics, reference = own | dict(found.metrics), confirmation.erm
        label = confirmed_control(found, front.disease)
    fingerprints = study.ledger.fingerprints
    method = method_of(study.config, record.params)
    return BundleFacts(
        study=study.name,
        trial=point.trial,
        disease=front.disease,
        policy=str(policy),
        stage="search" if found is None else "confirmed",
        label=label,
        parameters={
            name: getattr(method, name)
            for name in method.__dataclass_fields__
            if name in settings_read(method.name)
        },
        encoder=_encoder_name(study),
        encoder_fingerprint=fingerprints["encoder"],
        pixels=method.pixels,
        image_size=int(noise.shape[-1]),
        cohort=study.config.cohort.kind,
        data_fingerprint=fingerprints["cohort"],
        cells=training_cells(study),
        metrics=metrics,
        reference=reference,
        validation={} if found is None else record.metrics,
        packages=package_versions(),
        commit=commit(),
    )


def _encoder_name(study: Study) -> str:
    encoder = study.config.encoder
    return encoder.model if encoder.kind == "timm" else encoder.kind


def _is_there(folder: Path, chosen: _Chosen) -> bool:
    try:
        there = load_bundle(folder)
        same = (folder / CARD_FILE).read_bytes() == chosen.card.encode()
        graph = folder / EDIT_FILE
        same &= (graph.read_bytes() if graph.exists() else None) == chosen.edit
    except (BundleError, OSError):
        return False
    return same and there.facts == chosen.facts and bool((there.noise == chosen.noise).all())


def _preview(study: Study, facts: BundleFacts, noise: Noise) -> bytes:
    """Return the bundle's picture: a phantom's film, or a gray ramp; never a patient's."""
    from ude_core.editing import edit_images
    from ude_core.figures import gray_ramp, png_bytes, preview

    original = gray_ramp(facts.image_size)
    if study.config.cohort.kind == "phantom":
        from study.materials import load_cohort

        original = load_cohort(study.config, Layout.at(study.root).cache).images[0]
    edited = edit_images(Bundle(facts=facts, noise=noise), original[None])[0]
    return png_bytes(preview(original, edited, noise))
