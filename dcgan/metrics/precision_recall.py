"""Improved precision and recall: whether the images are possible ones, and whether all possible ones are there.

Kynkaanniemi, Karras, Laine, Lehtinen and Aila, "Improved precision and recall metric for assessing generative
models", arXiv:1904.06991, section 2. A set's support is the union of the balls around its points that reach their k-th
neighbour; precision is the share of generated points in the support of the real ones, recall the reverse.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .neighbours import squared_distances, squared_radii

K = 3  # the paper's choice

_Floats = npt.NDArray[np.float64]


def precision_recall(real: _Floats, generated: _Floats, k: int = K) -> tuple[float, float]:
    """Precision and recall.

    Args:
        real: features, float64, shape (N, D), N > k.
        generated: features, float64, shape (M, D), M > k.
        k: which neighbour a ball reaches.
    Returns:
        Two shares from 0 to 1; higher is better.
    """
    real_radii, generated_radii = squared_radii(real, k), squared_radii(generated, k)
    covered = np.zeros(len(generated), dtype=bool)
    reached = np.zeros(len(real), dtype=bool)
    for rows, block in squared_distances(real, generated):
        covered |= (block <= real_radii[rows, None]).any(0)
        reached[rows] = (block <= generated_radii).any(1)
    return float(covered.mean()), float(reached.mean())
