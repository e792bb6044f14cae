"""Where an edit acts: its smoothed magnitude, the top share of it, and what that share falls on.

Fig. 4 of the paper draws the top 20 % of the smoothed |ε| over a mean image. `lift` says in one
number whether that region is where something lies: 1 is chance.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter

from ude_core.types import Noise

Plane = Float[np.ndarray, "height width"]


def smoothed_magnitude(noise: Noise, sigma: float) -> Plane:
    """Return |ε| (pixel units) smoothed by a Gaussian of deviation `sigma` pixels, mirrored at edges.

    `sigma` 0 leaves it as it is. Raises ValueError for a negative or non-finite `sigma`.
    """
    if not (np.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"expected sigma >= 0, got {sigma}")
    magnitude = np.abs(noise[0].detach().cpu().numpy()).astype(np.float64)
    smoothed: Plane = gaussian_filter(magnitude, sigma, mode="reflect")
    return smoothed


def top_share(values: Plane, share: float = 0.2) -> Bool[np.ndarray, "height width"]:
    """Return the `share` of pixels with the largest values: that many exactly, at least one.

    Ties go to the pixel that comes first, row by row. Raises ValueError where `share` is not in
    (0, 1].

    >>> top_share(np.array([[0.1, 0.4], [0.3, 0.2]]), 0.5).tolist()
    [[False, True], [True, False]]
    """
    if not 0 < share <= 1:
        raise ValueError(f"expected 0 < share <= 1, got {share}")
    flat = values.ravel()
    count = max(1, round(share * flat.size))
    chosen = np.zeros(flat.size, dtype=bool)
    chosen[np.argsort(-flat, kind="stable")[:count]] = True
    return chosen.reshape(values.shape)


def lift(region: Bool[np.ndarray, "height width"], density: Plane) -> float:
    """Return how many times more of `density` lies in `region` than chance would put there.

    `density` is how often each pixel shows the thing, 0 or more (the mean of its masks). A region
    laid at random has an expected lift of 1; the largest possible is 1 / (the region's share).
    Raises ValueError where the region or the density is empty.

    >>> lift(np.array([[True, False, False, False]]), np.array([[3.0, 1.0, 0.0, 0.0]]))
    3.0
    """
    total = float(density.sum())
    if not (region.any() and total > 0):
        raise ValueError("expected a region and a density that are not empty")
    return float(density[region].sum()) / total / float(region.mean())
