"""Whether images are of another kind than the real ones: by pixels, since an evaluator reads whatever it is given.

A classifier of digits calls a shoe a 2, and often clearly (55 % of Fashion-MNIST with 90 % certainty or more). What
gives clothes away is that most of them are farther from every real digit than real digits are from each other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .neighbours import squared_distances

COUNT = 1_000  # images of each set: enough for a share, and a second of work
LEAST = 50  # of each: a share of fewer says nothing
USUAL = 0.95  # share of held images that are as near as this to a real one
# Share of images that are farther. Measured with 1,000 images each, so that `USUAL` makes it 5 % for real ones:
#   against digits, clothes 82 %, noise and an untrained generator 100 %; the digits of three generators after 3,200 and
#   6,400 images 15 to 61 %, after 12,800 and more 2 to 40 %, bad as they are (Frechet distance 8 to 70 floors);
#   against clothes, digits 72 %, generated ones 52 to 95 %; clothes of a generator after 3,200 images 48 %.
# So it is a warning and no refusal: it may be images of another kind, or a generator that has hardly begun.
MOST = 0.6
# Noise as dark as digits is near to all of them in pixels (0 %), but not in features: its density is 0.00, of real
# digits 0.90; against clothes 0.10 and 0.99. Generated digits against clothes have 0.01 to 0.15; of the bad generators
# above none has less than 0.31. Features alone would not do: clothes against digits have 0.39, and the distance of bad
# digits; nor would precision, which a few outliers among the real images raise to 0.50 for digits against clothes.
LEAST_DENSITY = 0.2  # of the floor's
_SIDE = 32  # pixels a side that are looked at; of larger images every second, third...

_Images = npt.NDArray[np.uint8]


def far_share(images: _Images, real: _Images, held: _Images) -> float:
    """Share of images that are farther from every real image than `USUAL` of the held ones are.

    Args:
        images: uint8, shape (N, H, W) or (N, H, W, 3); the first `COUNT` are looked at, here and below.
        real: training images, uint8, of the same sides.
        held: other real images.
    Returns:
        From 0 to 1; about 0.05 for real images.
    """
    points = _points(real)
    usual = np.quantile(_nearest(_points(held), points), USUAL)
    return float((_nearest(_points(images), points) > usual).mean())


def _points(images: _Images) -> npt.NDArray[np.float64]:
    step = -(-max(images.shape[1:3]) // _SIDE)
    part = images[:COUNT, ::step, ::step]
    return part.reshape(len(part), -1) / 255.0


def _nearest(points: npt.NDArray[np.float64], real: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Squared distance of each point to the nearest real one, float64, shape (N,)."""
    return np.concatenate([block.min(1) for _, block in squared_distances(points, real)])
