"""Frechet distance (FID's formula): how far apart two sets of features are, as Gaussians.

Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, "GANs trained by a two time-scale update rule converge to a local
Nash equilibrium", arXiv:1706.08500, section 4; the distance itself is Dowson and Landau's, 1982. It is biased upwards
by few samples, so only figures of equal counts compare, and a floor of real images belongs beside each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]


def frechet_distance(a: _Floats, b: _Floats) -> float:
    """|mean a - mean b|^2 + trace(A + B - 2 (A B)^(1/2)) with the covariances A and B.

    Args:
        a: features, float64, shape (N, D), N >= 2.
        b: features, float64, shape (M, D), M >= 2.
    Returns:
        0 or more, in squared units of the features; lower is better.
    """
    covariance_a, covariance_b = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b))
    values, vectors = np.linalg.eigh(covariance_a)
    root = vectors * np.sqrt(np.clip(values, 0.0, None)) @ vectors.T
    # The trace of (A B)^(1/2) is that of (A^(1/2) B A^(1/2))^(1/2), whose matrix is symmetric: no complex numbers.
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ covariance_b @ root), 0.0, None)).sum()
    mean_gap = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(max(0.0, mean_gap + np.trace(covariance_a) + np.trace(covariance_b) - 2.0 * cross))
