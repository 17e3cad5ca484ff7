"""Density and coverage: precision and recall that a few outliers don't sway.

Naeem, Oh, Uh, Choi and Yoo, "Reliable fidelity and diversity metrics for generative models", arXiv:2002.09797,
section 3. Density counts in how many real points' balls a generated point lies; coverage is the share of real points
whose ball holds a generated one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .neighbours import squared_distances, squared_radii

K = 5  # the paper's choice

_Floats = npt.NDArray[np.float64]


def density_coverage(real: _Floats, generated: _Floats, k: int = K) -> tuple[float, float]:
    """Density and coverage.

    Args:
        real: features, float64, shape (N, D), N > k.
        generated: features, float64, shape (M, D).
        k: which neighbour a real point's ball reaches.
    Returns:
        Density, about 1 for equal distributions and higher for points near the middle; coverage, from 0 to 1.
    """
    radii = squared_radii(real, k)
    inside = 0
    covered = np.zeros(len(real), dtype=bool)
    for rows, block in squared_distances(real, generated):
        hits = block <= radii[rows, None]
        inside += int(np.count_nonzero(hits))
        covered[rows] = hits.any(1)
    return inside / (k * len(generated)), float(covered.mean())
