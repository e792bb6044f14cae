"""A finished trial on disk: its noise, a picture of it, and `result.json`; atomic and checked."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch

from ude_core.figures import noise_map, png_bytes
from ude_core.storage import CorruptFileError, atomic_writes, sha256_file
from ude_core.types import (
    Interval,
    Measured,
    Metrics,
    Noise,
    Progress,
    QueryCount,
    TrialResult,
    Undefined,
)

SCHEMA_VERSION = 1
NOISE_FILE = "noise.safetensors"
PICTURE_FILE = "noise.png"
RESULT_FILE = "result.json"


def save_result(result: TrialResult, folder: Path) -> None:
    """Write a result; `result.json` comes last, so its presence means that the trial is whole."""
    noise = safetensors.torch.save({"noise": result.noise.contiguous()})
    content = {
        "schema_version": SCHEMA_VERSION,
        "noise_sha256": hashlib.sha256(noise).hexdigest(),
        "metrics": metrics_to_json(result.metrics),
        "curve": [progress_to_json(progress) for progress in result.curve],
        "queries": asdict(result.queries),
        "outcome": result.outcome,
        "note": result.note,
    }
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PICTURE_FILE).write_bytes(
        png_bytes(noise_map(result.noise))
    )  # the noise tells it again
    atomic_writes(folder, {NOISE_FILE: noise, RESULT_FILE: text.encode()})


def load_result(folder: Path) -> TrialResult:
    """Return what `save_result` wrote. Raises CorruptFileError where the noise is another."""
    content = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    if content["schema_version"] != SCHEMA_VERSION:
        raise CorruptFileError(
            f"{folder / RESULT_FILE}: schema_version is {content['schema_version']} "
            f"(expected {SCHEMA_VERSION})"
        )
    return TrialResult(
        noise=load_noise(folder, content["noise_sha256"]),
        metrics=metrics_from_json(content["metrics"]),
        curve=tuple(progress_from_json(progress) for progress in content["curve"]),
        queries=QueryCount(**content["queries"]),
        outcome=content["outcome"],
        note=content["note"],
    )


def load_noise(folder: Path, sha256: str | None = None) -> Noise:
    """Return the noise of a finished trial, shape (1, height, width)."""
    path = folder / NOISE_FILE
    if sha256 is not None and sha256_file(path) != sha256:
        raise CorruptFileError(f"{path}: the noise is not the one that was scored")
    return safetensors.torch.load_file(path)["noise"]


def has_result(folder: Path) -> bool:
    """Return whether a whole result lies in `folder`."""
    return (folder / RESULT_FILE).exists()


def measured_to_json(measured: Measured) -> dict[str, Any]:
    """Return `{"mean", "low", "high"}`, or `{"undefined": reason}`. Non-finite is undefined."""
    match measured:
        case Undefined(reason):
            return {"undefined": reason}
        case Interval(mean, low, high):
            if not all(math.isfinite(value) for value in (mean, low, high)):
                return {"undefined": f"not finite: {mean} [{low}, {high}]"}
            return {"mean": mean, "low": low, "high": high}


def measured_from_json(value: Mapping[str, Any]) -> Measured:
    """Return what `measured_to_json` wrote."""
    if "undefined" in value:
        return Undefined(str(value["undefined"]))
    return Interval(float(value["mean"]), float(value["low"]), float(value["high"]))


def metrics_to_json(metrics: Mapping[str, Measured]) -> dict[str, dict[str, Any]]:
    """Return every metric as `measured_to_json` writes it."""
    return {name: measured_to_json(measured) for name, measured in metrics.items()}


def metrics_from_json(value: Mapping[str, Mapping[str, Any]]) -> Metrics:
    """Return what `metrics_to_json` wrote."""
    return {name: measured_from_json(measured) for name, measured in value.items()}


def progress_to_json(progress: Progress) -> dict[str, Any]:
    """Return an epoch as JSON values; a trial that diverged at once has no loss: null, not NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(progress).items()
    }


def progress_from_json(content: Mapping[str, Any]) -> Progress:
    """Return what `progress_to_json` wrote."""
    values: dict[str, Any] = {n: math.nan if v is None else v for n, v in content.items()}
    return Progress(**values)
