"""One trial as the page shows it: its metrics with intervals, each group's rates, its run, its noise."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from study.confirm import ConfirmedPoint
from study.live.judged import judge
from study.live.source import Snapshot
from study.pareto import scoped
from study.pareto_views import title
from ude_core.errors import UserError
from ude_core.figures import noise_map, noise_picture, png_bytes
from ude_core.results import NOISE_FILE, load_noise, measured_to_json
from ude_core.types import Interval, Measured

THUMBNAIL = 96
_RATES = ("tpr", "tnr")


def detail_view(now: Snapshot, disease: str, number: int) -> dict[str, Any]:
    """Return what is known of one complete trial. Raises UserError where there is none."""
    judged = judge(now, disease)
    found = (now.trials.numbers[judged.rows] == number).nonzero()[0]
    if not len(found):
        raise UserError(f"trial {number} of study {now.study.name} is not complete")
    at = int(found[0])
    row = int(judged.rows[at])
    metrics = {
        bare: _interval(now.trials.seen(bare, disease, now.diseases)[row].tolist())
        for bare in now.trials.bare_names(disease, now.diseases)
    }
    confirmation = now.confirmation
    point = None if confirmation is None else confirmation.point(number)
    return {
        "trial": number,
        "disease": disease,
        "version": now.version,
        "params": dict(now.trials.params[row]),
        "method": now.trials.params[row].get("name", now.config.method.name),
        "queries": int(now.trials.queries[row]),
        "front": bool(judged.front[at]),
        "feasible": bool(judged.feasible[at]),
        "level": judged.level_of(at),
        "control": judged.control_of(at),
        "metrics": [
            {"name": name, "title": title(name), "trial": value, "erm": _of(judged.erm, name)}
            for name, value in metrics.items()
            if name.partition(".")[0] not in _RATES
        ],
        "groups": _groups(metrics, judged.erm),
        "has_noise": noise_path(now, number).is_file(),
        "confirmed": None if point is None else _confirmed(now, point, disease),
    }


def noise_path(now: Snapshot, number: int) -> Path:
    """Return the file of a trial's noise, which may be gone."""
    return now.study.trial_folder(number) / NOISE_FILE


def noise_png(path: Path, *, thumbnail: bool) -> bytes:
    """Return a noise's map as PNG: labelled, or a bare small one. Never an image of a patient."""
    status = path.stat()
    return _drawn(path, status.st_mtime_ns, thumbnail)


@lru_cache(maxsize=512)
def _drawn(path: Path, version: int, thumbnail: bool) -> bytes:
    noise = load_noise(path.parent)
    if not thumbnail:
        return png_bytes(noise_map(noise))
    buffer = io.BytesIO()
    noise_picture(noise).resize((THUMBNAIL, THUMBNAIL)).save(buffer, format="PNG")
    return buffer.getvalue()


def _interval(ends: list[float]) -> dict[str, float] | None:
    if not all(map(math.isfinite, ends)):
        return None
    return dict(zip(("mean", "low", "high"), ends, strict=True))


def _of(metrics: Mapping[str, Measured], name: str) -> dict[str, Any] | None:
    value = metrics.get(name)
    return measured_to_json(value) if isinstance(value, Interval) else None


def _groups(
    metrics: Mapping[str, dict[str, float] | None], erm: Mapping[str, Measured]
) -> list[dict[str, Any]]:
    names = sorted({*metrics, *erm})
    return [
        {"rate": rate, "group": group, "trial": metrics.get(name), "erm": _of(erm, name)}
        for name in names
        for rate, dot, group in (name.partition("."),)
        if dot and rate in _RATES
    ]


def _confirmed(now: Snapshot, point: ConfirmedPoint, disease: str) -> dict[str, Any]:
    assert now.confirmation is not None
    ours = scoped(point.metrics, disease, now.diseases)
    erm = scoped(now.confirmation.erm, disease, now.diseases)
    random = scoped(point.random, disease, now.diseases)
    return {
        "dominance": point.dominance.get(disease),
        "metrics": [
            {
                "name": goal.name,
                "title": title(goal.name),
                "trial": _of(ours, goal.name),
                "erm": _of(erm, goal.name),
                "random": _of(random, goal.name),
            }
            for goal in now.goals
        ],
    }
