"""manifest.json of a bundle: what it says, and a seal that notices any changed byte."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ude_core.errors import BundleError
from ude_core.types import Interval, Measured, PixelPipeline, Undefined

SCHEMA_VERSION = 2
Stage = Literal["search", "confirmed"]
FEWEST = 5
"""Cells of fewer images are not told: they might point at a person."""

_MEASURED = ("metrics", "reference", "validation")

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFacts:
    """Everything a bundle says about its noise. Each field is one key of manifest.json.

    `metrics` is what users should expect (the confirmation's, on the test split, when `stage` is
    "confirmed"); `reference` is ERM on the same images; `validation` is what the search saw.
    `cells[disease]["group, label"]` counts the images that the noise was learnt on, null where a
    cell has fewer than 5; empty where nobody counted them.
    """

    study: str
    trial: int
    disease: str
    policy: str
    stage: Stage
    label: str
    parameters: Mapping[str, Scalar]
    encoder: str
    encoder_fingerprint: str
    pixels: PixelPipeline
    image_size: int
    cohort: str
    data_fingerprint: str
    cells: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)
    metrics: Mapping[str, Measured]
    reference: Mapping[str, Measured] = field(default_factory=dict)
    validation: Mapping[str, Measured] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    commit: str = "unknown"


def seal(facts: BundleFacts, hashes: Mapping[str, str]) -> bytes:
    """Return manifest.json: the facts, the sha256 of every other file, and its own."""
    manifest = _to_json(facts) | {"files": dict(hashes)}
    return _canonical(manifest | {"sha256": sha256(_canonical(manifest))})


def open_seal(raw: bytes, path: Path) -> tuple[BundleFacts, Mapping[str, str]]:
    """Return what `seal` was given. Raises BundleError, naming `path`, where one byte differs."""
    try:
        manifest = json.loads(raw)
        same = isinstance(manifest, dict) and _canonical(manifest) == raw
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} was altered: it is not JSON ({error})") from error
    if not same:
        raise BundleError(f"{path} was altered: it is not in the form it was written in")
    stated = manifest.pop("sha256", None)
    if stated != sha256(_canonical(manifest)):
        raise BundleError(f"{path} was altered: its sha256 is not its own")
    version = manifest.pop("schema_version", None)
    if type(version) is not int or version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version!r}; this release reads {SCHEMA_VERSION}"
        )
    hashes = manifest.pop("files", None)
    if not isinstance(hashes, dict) or not all(isinstance(one, str) for one in hashes.values()):
        raise BundleError(f"{path}: files must give the sha256 of each file")
    return _from_json(manifest, path), hashes


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=True)
    return (text + "\n").encode()


def _to_json(facts: BundleFacts) -> dict[str, Any]:
    values: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    for item in fields(facts):
        value = getattr(facts, item.name)
        if item.name in _MEASURED:
            value = {name: _measured_to_json(one) for name, one in value.items()}
        elif item.name == "cells":
            value = {disease: dict(counts) for disease, counts in value.items()}
        elif isinstance(value, Mapping):
            value = dict(value)
        values[item.name] = value
    return values


def _from_json(manifest: dict[str, Any], path: Path) -> BundleFacts:
    names = {item.name for item in fields(BundleFacts)}
    if set(manifest) != names:
        odd = ", ".join(sorted(set(manifest) ^ names))
        raise BundleError(f"{path}: missing or unknown keys: {odd}")
    for name, value in manifest.items():
        if not _well_typed(name, value):
            raise BundleError(f"{path}: {name} has a value of the wrong kind: {value!r:.60}")
    try:
        measured = {
            name: {key: _measured_from_json(one) for key, one in manifest[name].items()}
            for name in _MEASURED
        }
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path}: a metric is not a mean with its interval: {error}") from error
    return BundleFacts(**(manifest | measured))


def _well_typed(name: str, value: object) -> bool:
    match name:
        case "trial" | "image_size":
            return type(value) is int and value >= (1 if name == "image_size" else 0)
        case "pixels" | "stage":
            return value in get_args(PixelPipeline if name == "pixels" else Stage)
        case "parameters":
            return isinstance(value, dict) and all(isinstance(v, Scalar) for v in value.values())
        case "cells":
            return isinstance(value, dict) and all(map(_is_counts, value.values()))
        case "packages":
            return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    return isinstance(value, dict if name in _MEASURED else str)


def _is_counts(value: object) -> bool:
    return isinstance(value, dict) and all(
        count is None or (type(count) is int and count >= FEWEST) for count in value.values()
    )


def _measured_to_json(value: Measured) -> dict[str, float | str]:
    """Return {"mean", "low", "high"}, or {"undefined": reason}; a non-finite value is undefined."""
    if isinstance(value, Undefined):
        return {"undefined": value.reason}
    numbers = (float(value.mean), float(value.low), float(value.high))
    if not all(map(math.isfinite, numbers)):
        return {"undefined": f"not finite: {value.mean}"}
    return dict(zip(("mean", "low", "high"), numbers, strict=True))


def _measured_from_json(value: Mapping[str, Any]) -> Measured:
    """Invert `_measured_to_json`. Raises KeyError or ValueError on anything else."""
    if set(value) == {"undefined"}:
        return Undefined(str(value["undefined"]))
    if set(value) != {"mean", "low", "high"}:
        raise ValueError(f"keys {sorted(value)}")
    return Interval(*(float(value[name]) for name in ("mean", "low", "high")))


def sha256(raw: bytes) -> str:
    """Return the sha256 of `raw`, in hexadecimal."""
    return hashlib.sha256(raw).hexdigest()
