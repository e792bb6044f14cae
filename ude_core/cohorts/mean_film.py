"""The mean film of several patients: a picture of a cohort that is a picture of nobody."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from ude_core.cohorts.base import Cohort
from ude_core.types import ImageArray, Indices

SMALLEST_CROWD = 5
LARGEST_CROWD = 50


def mean_film(cohort: Cohort, rows: Indices) -> ImageArray | None:
    """Return the mean of these images, 8 bits, shape (1, height, width), each patient counting once.

    The first 50 patients are taken, in the order of their codes. None where they are fewer than
    five: such a mean would still show somebody.
    """
    codes, first = np.unique(cohort.patients[rows], return_index=True)
    if len(codes) < SMALLEST_CROWD:
        return None
    taken = rows[first[:LARGEST_CROWD]]
    total = np.zeros(cohort.images.shape[1:], dtype=np.float64)
    for row in taken:
        total += cohort.images[int(row)]
    mean: UInt8[np.ndarray, "height width"] = np.rint(total / len(taken)).astype(np.uint8)
    return mean[None]
