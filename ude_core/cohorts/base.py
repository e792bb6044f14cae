"""A cohort as the engine sees it: pixels, opaque patient codes, one attribute, labels per disease."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from ude_core.types import ImageArray

POSITIVE, NEGATIVE, NOT_USED = 1, 0, -1


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Images of one cohort with everything the engine may know of them.

    `patients` holds codes 0..P-1 and never a raw identifier. `labels[disease]` is 1 positive,
    0 negative, -1 where the image is not used for that disease. `fingerprint` is a sha256 over
    everything else here.

    `confounder` is a column known to leak into the images (AP/PA), which every draw balances within
    each cell; `stratum` indexes `strata`, its values, and both are empty where there is none.
    `official_test` marks the test images of a cohort that is published with a split of its own.
    """

    name: str
    images: ImageArray
    patients: Int[np.ndarray, " images"]
    attribute_name: str
    groups: tuple[str, ...]
    attribute: Int[np.ndarray, " images"]  # index into `groups`
    labels: Mapping[str, Int[np.ndarray, " images"]]
    fingerprint: str
    confounder: str = ""
    strata: tuple[str, ...] = ()
    stratum: Int[np.ndarray, " images"] | None = None
    official_test: Bool[np.ndarray, " images"] | None = None

    @property
    def diseases(self) -> tuple[str, ...]:
        return tuple(self.labels)

    @property
    def image_size(self) -> int:
        return int(self.images.shape[-1])

    def __len__(self) -> int:
        return int(self.images.shape[0])
