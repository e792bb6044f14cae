"""Random noise of a learnt one's norm, and what is left of a metric beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ude_core.baselines.base import learns_noise
from ude_core.noise import make_basis, noise_l2, random_noise
from ude_core.seeding import torch_generator
from ude_core.types import Interval, Measured, MethodConfig, Metrics, Noise, Undefined, exactly

COMPARED = ("eo_gap", "selection_rate_symmetric_gap", "accuracy")
"""What is set beside random noise, by disease and as the mean over diseases."""


def control_noises(noise: Noise, method: MethodConfig, count: int, seed: int) -> list[Noise]:
    """Return `count` random noises of the norm, basis and perturbation of a learnt one.

    None where nothing was learnt: random noise is not held against itself.
    """
    norm = float(noise_l2(noise))
    if norm == 0.0 or not learns_noise(method.name):
        return []
    basis = make_basis(method.basis, noise.shape[-1], method.basis_size)
    return [
        random_noise(basis, norm, method.perturbation, torch_generator(seed, "control", index))
        for index in range(count)
    ]


def against_controls(
    metrics: Mapping[str, Measured], controls: Sequence[Metrics], diseases: Sequence[str]
) -> Metrics:
    """Return `<metric>_vs_random`: learnt minus the mean control; low and high are over the controls.

    Negative is better for gaps, positive for accuracy. `controls_beaten` is the share, in percent,
    of controls whose eo_gap is larger than the learnt noise's.
    """
    if not controls:
        return {}
    out: Metrics = {}
    for prefix in ("", *(f"{disease}/" for disease in diseases)):
        for name in COMPARED:
            out[f"{prefix}{name}_vs_random"] = _difference(metrics, controls, prefix + name)
        gap = metrics[f"{prefix}eo_gap"]
        others = [control[f"{prefix}eo_gap"] for control in controls]
        if isinstance(gap, Interval):
            beaten = [isinstance(o, Interval) and o.mean > gap.mean for o in others]
            out[f"{prefix}controls_beaten"] = exactly(100.0 * sum(beaten) / len(beaten))
    return out


def _difference(
    metrics: Mapping[str, Measured], controls: Sequence[Metrics], name: str
) -> Measured:
    learnt = metrics[name]
    if isinstance(learnt, Undefined):
        return learnt
    others = []
    for control in controls:
        other = control[name]
        if isinstance(other, Undefined):
            return Undefined(f"of a random control: {other.reason}")
        others.append(other.mean)
    mean = math.fsum(others) / len(others)
    return Interval(learnt.mean - mean, learnt.mean - max(others), learnt.mean - min(others))
