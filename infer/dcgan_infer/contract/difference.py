"""How far images are from others, pixel by pixel. NumPy only: `export` and `infer` judge by the same figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from .pixels import to_levels
from .tolerance import Tolerance

_Floats: TypeAlias = npt.NDArray[np.float32]
_Bytes: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Difference:
    """How far a model's images are from others. Errors are absolute, in units of the value range [-1, 1].

    Attributes:
        images: number of images compared.
        max_error: largest difference; None where grey levels are all there is.
        limit: for `max_error`; None where only grey levels are judged.
        mean_error: mean of the differences; None where grey levels are all there is.
        max_levels: grey levels that the worst pixel is off by; 255 where a value is not finite.
        levels_limit: for `max_levels`.
        mean_levels: grey levels that pixels are off by on average.
        mean_levels_limit: for `mean_levels`.
        pixels: number of pixels compared.
        pixels_off: how many have another grey level, or none.
        not_finite: how many values are NaN or infinite.
        psnr: peak signal-to-noise ratio in dB, with the range of values, or of grey levels, as peak; infinite when
            equal.
    """

    images: int
    max_error: float | None
    limit: float | None
    mean_error: float | None
    max_levels: int
    levels_limit: int
    mean_levels: float
    mean_levels_limit: float
    pixels: int
    pixels_off: int
    not_finite: int
    psnr: float

    def reasons(self) -> list[str]:
        """Why the difference is too large; empty when it is not."""
        reasons = []
        if self.not_finite:
            reasons.append(f"{self.not_finite} of {self.pixels} values are NaN or infinite")
        # `not (a <= b)` where `a > b` would do for numbers: a NaN must not slip through.
        if self.max_error is not None and self.limit is not None and not (self.max_error <= self.limit):
            reasons.append(f"off by {self.max_error:.2e}, the limit is {self.limit:.2e}")
        if not (self.max_levels <= self.levels_limit):
            reasons.append(f"a pixel is off by {self.max_levels} grey levels, the limit is {self.levels_limit}")
        if not (self.mean_levels <= self.mean_levels_limit):
            reasons.append(
                f"pixels are off by {self.mean_levels:.3f} grey levels on average, "
                f"the limit is {self.mean_levels_limit:g}"
            )
        return reasons


def compare_images(
    images: _Floats | _Bytes,
    right: _Floats | _Bytes,
    limit: float | None,
    tolerance: Tolerance,
    right_levels: _Bytes | None = None,
) -> Difference:
    """Hold images against others of the same type.

    Args:
        images: float32, shape (N, 1, H, W), or uint8, shape (N, H, W).
        right: of the same type and shape.
        limit: for the largest difference of floats; None judges grey levels only.
        tolerance: for grey levels.
        right_levels: grey levels of `right`, where they were rounded from more digits than `right` has.
    """
    floats = images.dtype != np.uint8
    finite = np.isfinite(images) & np.isfinite(right)
    with np.errstate(invalid="ignore"):  # infinity less infinity is a NaN, and judged as one
        error = np.abs(images.astype(np.float64) - right)
    images, right = images.copy(), right.copy()
    images[~finite] = right[~finite] = 0
    mine, theirs = grey_levels(images), grey_levels(right) if right_levels is None else right_levels
    levels = np.abs(mine.astype(int) - theirs)
    levels[~finite.reshape(levels.shape)] = 255
    return Difference(
        images=len(images),
        max_error=float(error.max()) if floats else None,
        limit=limit if floats else None,
        mean_error=float(error.mean()) if floats else None,
        max_levels=int(levels.max()),
        levels_limit=tolerance.levels,
        mean_levels=float(levels.mean()),
        mean_levels_limit=tolerance.mean_levels,
        pixels=images.size,
        pixels_off=int(np.count_nonzero(levels)),
        not_finite=int(np.count_nonzero(~finite)),
        psnr=psnr(error, 2.0 if floats else 255.0),
    )


def psnr(error: npt.NDArray[np.float64], peak: float) -> float:
    """Peak signal-to-noise ratio in dB; infinite when equal, NaN where an error is not finite."""
    power = float(np.mean(error**2))
    if power == 0.0:
        return math.inf
    return 10.0 * math.log10(peak * peak / power) if math.isfinite(power) else math.nan


def grey_levels(images: _Floats | _Bytes) -> _Bytes:
    """Grey levels of a model's images, uint8 of shape (N, H, W)."""
    return to_levels(cast(_Floats, images)[:, 0] if images.dtype != np.uint8 else images)
