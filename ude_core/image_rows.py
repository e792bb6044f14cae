"""Some images of a cohort, read where they lie: a memory-mapped array stays on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ude_core.types import ImageArray, Indices


@dataclass(frozen=True, slots=True, eq=False)
class ImageRows:
    """The images `rows` of `source`, in that order. Only what is indexed is read and copied."""

    source: ImageArray
    rows: Indices

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(images, height, width), as of the array it stands for."""
        _, height, width = self.source.shape
        return len(self.rows), height, width

    def __getitem__(self, index: slice | Indices) -> ImageArray:
        """Return a copy of the chosen images, in 8 bits."""
        chosen: ImageArray = np.asarray(self.source[self.rows[index]])
        return chosen


@dataclass(frozen=True, slots=True, eq=False)
class EditedImages:
    """Every image of `source` under `edit`, which sees some of them at a time, in 8 bits."""

    source: Images
    edit: Callable[[ImageArray], ImageArray]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(images, height, width), as of the array it stands for."""
        images, height, width = self.source.shape
        return images, height, width

    def __getitem__(self, index: slice | Indices) -> ImageArray:
        """Return the chosen images, edited."""
        return self.edit(self.source[index])


Images = ImageArray | ImageRows | EditedImages
"""What is read by slices and by index arrays."""
