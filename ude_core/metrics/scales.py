"""The scale on which a metric's sampling error is about the same whatever its true value.

Quantiles are taken and centred there: a ratio estimated from few images errs by a factor, not by
an amount, and a rate near 0 or 1 moves less than one near one half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, "*shape"]

_SMALLEST_RATIO = 0.01
"""A ratio of rates below 1:100 counts as 1:100, so that its logarithm stays finite."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An increasing map of a metric's parts, percentage points, and its inverse."""

    to: Callable[[Values], Values]
    back: Callable[[Values], Values]


def _same(values: Values) -> Values:
    return values


def _to_angle(rates: Values) -> Values:
    angles: Values = np.arcsin(np.sqrt(np.clip(rates / 100, 0, 1)))
    return angles


def _from_angle(angles: Values) -> Values:
    rates: Values = 100 * np.sin(np.clip(angles, 0, np.pi / 2)) ** 2
    return rates


def _to_log_ratio(gaps: Values) -> Values:
    logs: Values = -np.log(np.maximum(1 - gaps / 100, _SMALLEST_RATIO))
    return logs


def _from_log_ratio(logs: Values) -> Values:
    gaps: Values = 100 * (1 - np.exp(-logs))
    return gaps


def _to_signed_log_ratio(gaps: Values) -> Values:
    logs: Values = np.sign(gaps) * _to_log_ratio(np.abs(gaps))
    return logs


def _from_signed_log_ratio(logs: Values) -> Values:
    gaps: Values = np.sign(logs) * _from_log_ratio(np.abs(logs))
    return gaps


DIFFERENCE = Scale(_same, _same)
RATE = Scale(_to_angle, _from_angle)
"""arcsin √p, whose variance does not depend on p."""

RATIO_GAP = Scale(_to_log_ratio, _from_log_ratio)
"""100 (1 - r_i / r_j) as log(r_j / r_i)."""

SYMMETRIC_GAP = Scale(_to_signed_log_ratio, _from_signed_log_ratio)
"""±100 (1 - min/max) as the signed logarithm of the ratio of two rates."""
