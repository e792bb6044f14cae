"""From a front to one noise in a bundle: the policy that chooses, and everything written beside it.

The choice is made on validation figures; where the study is confirmed, only confirmed points that
still beat random noise are candidates, and the bundle then reports the test split's figures.
Choosing by test figures would make them optimistic again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, assert_never

from study.confirm import Confirmation, ConfirmedPoint, load_confirmation, load_noise
from study.model_card import model_card
from study.names import Layout
from study.pareto import Control, Front, Goal, Point, control_label, front_of, scoped
from study.provenance import commit, package_versions
from study.spaces import method_of
from ude_core.bundle import Bundle, load_bundle, write_bundle
from ude_core.bundle_manifest import BundleFacts
from ude_core.errors import BundleError, UserError
from ude_core.types import Interval, Measured, Noise

if TYPE_CHECKING:
    from study.api import Study

PolicyKind = Literal["knee", "min-gap", "max-accuracy", "accuracy-drop", "trial"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How one point of a front is chosen; `value` is P of accuracy-drop=P and N of trial=N."""

    kind: PolicyKind
    value: float = 0.0

    def __str__(self) -> str:
        match self.kind:
            case "accuracy-drop" | "trial":
                return f"{self.kind}={self.value:g}"
            case _:
                return self.kind


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle that was written, or was there already; `warning` is empty where all is well."""

    disease: str
    folder: Path
    trial: int
    written: bool
    warning: str = ""


def parse_policy(text: str) -> Policy:
    """Return the policy that `text` names. Raises UserError with those there are.

    >>> parse_policy("accuracy-drop=2.5")
    Policy(kind='accuracy-drop', value=2.5)
    """
    known = "knee, min-gap, max-accuracy, accuracy-drop=P or trial=N"
    simple: tuple[PolicyKind, ...] = ("knee", "min-gap", "max-accuracy")
    for kind in simple:
        if text == kind:
            return Policy(kind)
    name, _, value = text.partition("=")
    if name == "trial" and value.isascii() and value.isdigit():
        return Policy("trial", int(value))
    if name == "accuracy-drop":
        try:
            points = float(value)
        except ValueError:
            points = math.nan
        if 0 <= points <= 100:
            return Policy("accuracy-drop", points)
        raise UserError(f"accuracy-drop is {value!r} (expected 0 to 100 percentage points)")
    raise UserError(f"policy {text!r} is unknown (expected {known})")


def choose(
    front: Front, policy: Policy, confirmation: Confirmation | None = None
) -> tuple[Point, str]:
    """Return the point that `policy` picks, and a warning where it is no better than noise.

    Raises UserError where the front is empty, or no point fits the policy.
    """
    if policy.kind == "trial":
        number = int(policy.value)
        point = next((point for point in front.points if point.trial == number), None)
        if point is None:
            raise UserError(f"trial {number} of study {front.study} is not complete; name another")
        return point, _warning(point, front, confirmation)
    if not front.best:
        raise UserError(
            f"study {front.study} has no front for {front.disease} yet: no complete trial has all "
            "its objectives defined; launch more trials"
        )
    point = pick(candidates(front, confirmation), policy, front)
    return point, _warning(point, front, confirmation)


def candidates(front: Front, confirmation: Confirmation | None) -> tuple[Point, ...]:
    """Return the front's points to choose among.

    Those confirmed and better than random noise on the test split; else those better than random
    noise on validation; else the whole front.
    """
    better = tuple(point for point in front.best if point.control != "no better than noise")
    if confirmation is not None:
        confirmed = tuple(
            point
            for point in better
            if (found := confirmation.point(point.trial)) is not None
            and _confirmed_control(found, front) != "no better than noise"
        )
        better = confirmed or better
    return better or front.best


def pick(points: Sequence[Point], policy: Policy, front: Front) -> Point:
    """Return one of `points`; ties go to the higher accuracy, then to the lower trial number."""
    match policy.kind:
        case "knee":
            distances = knee_distances(
                [[p.mean(g.name) for g in front.goals] for p in points], front.goals
            )
            order = {
                point.trial: distance for point, distance in zip(points, distances, strict=True)
            }
            return min(points, key=lambda p: (order[p.trial], -p.mean("accuracy"), p.trial))
        case "min-gap":
            return min(points, key=lambda p: (p.mean("eo_gap"), -p.mean("accuracy"), p.trial))
        case "max-accuracy":
            return min(points, key=lambda p: (-p.mean("accuracy"), p.mean("eo_gap"), p.trial))
        case "accuracy-drop":
            return _within_drop(points, policy.value, front)
        case "trial":
            raise UserError("trial=N picks one trial and no front")
        case _:
            assert_never(policy.kind)


def knee_distances(rows: Sequence[Sequence[float]], goals: Sequence[Goal]) -> list[float]:
    """Return each row's distance to the ideal point: 0 on an axis is the best of `rows`, 1 the worst.

    The smallest is the knee: the point nearest to having the best of everything.
    """
    columns = list(zip(*rows, strict=True))
    totals = [0.0] * len(rows)
    for column, goal in zip(columns, goals, strict=True):
        low, high = min(column), max(column)
        best = low if goal.direction == "minimize" else high
        for index, value in enumerate(column):
            totals[index] += 0.0 if high == low else ((value - best) / (high - low)) ** 2
    return [math.sqrt(total) for total in totals]


def _within_drop(points: Sequence[Point], drop: float, front: Front) -> Point:
    erm = front.erm.get("accuracy")
    if not isinstance(erm, Interval):
        raise UserError(f"accuracy-drop needs ERM's accuracy, which {front.disease} has not")
    near = [point for point in points if erm.mean - point.mean("accuracy") <= drop]
    if not near:
        best = max(points, key=lambda p: p.mean("accuracy"))
        raise UserError(
            f"no point of {front.disease} keeps accuracy within {drop:g} points of ERM's "
            f"{erm.mean:.1f}; the nearest is trial {best.trial}, "
            f"{erm.mean - best.mean('accuracy'):.1f} points under"
        )
    return min(near, key=lambda p: (p.mean("eo_gap"), -p.mean("accuracy"), p.trial))


def export(study: Study, disease: str, policy: Policy, folder: Path) -> Exported:
    """Write the bundle of the noise that `policy` picks for `disease`, or leave an equal one.

    The same study and software give the same bytes. Raises UserError where there is no such point,
    BundleError where `folder` holds other files.
    """
    front = front_of(study, disease)
    confirmation = load_confirmation(study)
    point, warning = choose(front, policy, confirmation)
    record = study.ledger.trial(point.trial)
    noise = load_noise(record)
    facts = _facts(study, front, point, policy, confirmation, noise)
    card = model_card(facts, front.goals)
    folder = folder.expanduser().resolve()
    done = Exported(disease, folder, point.trial, written=False, warning=warning)
    if _is_there(folder, facts, noise, card):
        return done
    write_bundle(folder, noise, facts, preview=_preview(study, facts, noise), card=card)
    return Exported(disease, folder, point.trial, written=True, warning=warning)


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
        label = _confirmed_control(found, front)
    fingerprints = study.ledger.fingerprints
    method = method_of(study.config, record.params)
    return BundleFacts(
        study=study.name,
        trial=point.trial,
        disease=front.disease,
        policy=str(policy),
        stage="search" if found is None else "confirmed",
        label=label,
        parameters={name: getattr(method, name) for name in method.__dataclass_fields__},
        encoder=_encoder_name(study),
        encoder_fingerprint=fingerprints["encoder"],
        pixels=method.pixels,
        image_size=int(noise.shape[-1]),
        cohort=study.config.cohort.kind,
        data_fingerprint=fingerprints["cohort"],
        metrics=metrics,
        reference=reference,
        validation={} if found is None else record.metrics,
        packages=package_versions(),
        commit=commit(),
    )


def _encoder_name(study: Study) -> str:
    encoder = study.config.encoder
    return encoder.model if encoder.kind == "timm" else encoder.kind


def _is_there(folder: Path, facts: BundleFacts, noise: Noise, card: str) -> bool:
    try:
        there = load_bundle(folder)
        same = (folder / "MODEL_CARD.md").read_text(encoding="utf-8") == card
    except (BundleError, OSError):
        return False
    return same and there.facts == facts and bool((there.noise == noise).all())


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


def _confirmed_control(found: ConfirmedPoint, front: Front) -> Control:
    diseases = sorted({name.partition("/")[0] for name in found.metrics if "/" in name})
    return control_label(scoped(found.metrics, front.disease, diseases))


def _warning(point: Point, front: Front, confirmation: Confirmation | None) -> str:
    found = confirmation.point(point.trial) if confirmation is not None else None
    where, label = "validation", point.control
    if found is not None:
        where, label = "the test split", _confirmed_control(found, front)
    if label != "no better than noise":
        if found is not None and found.standing.get(front.disease) == "no improvement on ERM":
            return (
                f"{front.disease}: trial {point.trial}'s smaller gap is not confirmed on the test "
                "split: chance could have made it"
            )
        return ""
    return (
        f"{front.disease}: trial {point.trial} is no better than random noise of its own norm on "
        f"{where}; do not use it"
    )
