"""Distances between many points, a block of rows at a time: what the metrics on nearest neighbours share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_ROWS = 1000  # of a block: 80 MB against 10,000 points

_Floats = npt.NDArray[np.float64]


def squared_distances(a: _Floats, b: _Floats) -> Iterator[tuple[slice, _Floats]]:
    """Squared Euclidean distances of `a` to `b`, in blocks.

    Args:
        a: float64, shape (N, D).
        b: float64, shape (M, D).
    Returns:
        For each block the rows of `a` it is about, and distances, float64, shape (rows, M).
    """
    lengths = (b * b).sum(1)
    for first in range(0, len(a), _ROWS):
        rows = slice(first, min(first + _ROWS, len(a)))
        part = a[rows]
        block = part @ b.T
        block *= -2.0
        block += lengths
        block += (part * part).sum(1)[:, None]
        yield rows, np.maximum(block, 0.0, out=block)


def squared_radii(points: _Floats, k: int) -> _Floats:
    """Squared distance of each point to its k-th nearest neighbour among the others, float64, shape (N,)."""
    radii = np.empty(len(points))
    for rows, block in squared_distances(points, points):
        block[np.arange(len(block)), np.arange(rows.start, rows.stop)] = 0.0  # exactly: each is its own 0th neighbour
        radii[rows] = np.partition(block, k, axis=1)[:, k]
    return radii
