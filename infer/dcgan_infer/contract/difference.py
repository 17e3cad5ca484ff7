"""How far images are from the right ones, and whether that is too far: the one judge of export and of dcgan-verify.

NumPy only. Every comparison is written so that a NaN fails it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .pixels import to_uint8, to_values
from .spec import Interface
from .tolerance import Tolerance

# onnxruntime's tanh goes past 1 by up to two float32 steps, 2.4e-7 (measured with 1.32): right, for a float32 program.
OVERSHOOT = 2 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Difference:
    """How far a model's images are from others. Errors are absolute, in units of the values.

    Attributes:
        images: number of images compared.
        limit: for `max_error`; None where only levels are judged.
        max_error: largest difference.
        mean_error: mean of the differences.
        pixels: number of pixels compared, those of each channel by themselves.
        pixels_off: how many have another level, or none.
        not_finite: how many values are NaN or infinite.
        max_levels: levels that the worst pixel is off by; 255 where a value is not finite.
        levels_limit: for `max_levels`.
        mean_levels: levels that pixels are off by on average.
        mean_levels_limit: for `mean_levels`.
        image_levels: the same of the worst image.
        image_levels_limit: for `image_levels`.
        psnr: peak signal-to-noise ratio in dB, with the value range as peak; infinite when equal.
        lowest: smallest value of the model.
        highest: largest value of the model.
        value_range: that they should be in, give or take `OVERSHOOT`.
    """

    images: int
    limit: float | None
    max_error: float
    mean_error: float
    pixels: int
    pixels_off: int
    not_finite: int
    max_levels: int
    levels_limit: int
    mean_levels: float
    mean_levels_limit: float
    image_levels: float
    image_levels_limit: float
    psnr: float
    lowest: float
    highest: float
    value_range: tuple[float, float]

    def reasons(self) -> list[str]:
        """Why the difference is too large; empty when it is not."""
        reasons = []
        low, high = self.value_range
        room = OVERSHOOT * (high - low) / 2
        if self.not_finite:
            reasons.append(f"{self.not_finite} of {self.pixels} values are NaN or infinite")
        # `not (a <= b)` where `a > b` would do for numbers: a NaN must not slip through.
        elif not (self.lowest >= low - room and self.highest <= high + room):
            reasons.append(f"values go from {self.lowest:.7g} to {self.highest:.7g}, expected {low:g} to {high:g}")
        if self.limit is not None and not (self.max_error <= self.limit):
            reasons.append(f"off by {self.max_error:.2e}, the limit is {self.limit:.2e}")
        if not (self.max_levels <= self.levels_limit):
            reasons.append(f"a pixel is off by {self.max_levels} grey levels, the limit is {self.levels_limit}")
        if not (self.mean_levels <= self.mean_levels_limit):
            reasons.append(
                f"pixels are off by {self.mean_levels:.3f} grey levels on average, "
                f"the limit is {self.mean_levels_limit:.3g}"
            )
        if not (self.image_levels <= self.image_levels_limit):
            reasons.append(
                f"the pixels of an image are off by {self.image_levels:.2f} grey levels on average, "
                f"the limit is {self.image_levels_limit:.3g}"
            )
        return reasons


def compare_images(
    images: npt.NDArray[Any],
    right: npt.NDArray[Any],
    interface: Interface,
    tolerance: Tolerance,
    limit: float | None,
    right_levels: npt.NDArray[np.uint8] | None = None,
) -> Difference:
    """Compare images with the right ones.

    Args:
        images: float, shape (N, C, H, W), or uint8, shape (N, H, W) or (N, H, W, C).
        right: likewise, of either kind.
        interface: of the model.
        tolerance: what to allow.
        limit: for the largest difference of values; None judges levels only.
        right_levels: levels of `right` in the shape of pictures, where they were rounded from more digits than it has.
    """
    values, target = (to_values(each, interface.value_range) for each in (images, right))
    finite = np.isfinite(values) & np.isfinite(target)
    with np.errstate(invalid="ignore"):  # infinity less infinity is a NaN, and judged as one
        error = np.abs(values.astype(np.float64) - target)
    low, high = interface.value_range
    mine, theirs = (to_uint8(np.where(finite, each, low), interface.value_range) for each in (values, target))
    if right_levels is not None:
        theirs = right_levels[:, None] if right_levels.ndim == 3 else right_levels.transpose(0, 3, 1, 2)
    levels = np.abs(mine.astype(np.int64) - theirs)
    levels[~finite] = 255
    # How far apart the right images are: the measure of noise that does not depend on what they show.
    distance = float(np.abs(theirs.astype(np.int64) - np.roll(theirs, 1, axis=0)).mean())
    return Difference(
        images=len(images),
        limit=limit,
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        pixels=values.size,
        pixels_off=int(np.count_nonzero(levels)),
        not_finite=int(np.count_nonzero(~finite)),
        max_levels=int(levels.max()),
        levels_limit=tolerance.levels,
        mean_levels=float(levels.mean()),
        mean_levels_limit=max(tolerance.mean_levels, tolerance.mean_share * distance),
        image_levels=float(levels.reshape(len(levels), -1).mean(1).max()),
        image_levels_limit=max(tolerance.image_levels, tolerance.image_share * distance),
        psnr=_psnr(error, high - low),
        lowest=float(values.min()),
        highest=float(values.max()),
        value_range=(low, high),
    )


def _psnr(error: npt.NDArray[np.float64], peak: float) -> float:
    """Peak signal-to-noise ratio in dB; infinite when equal, NaN where an error is not finite."""
    power = float(np.mean(error**2))
    if power == 0.0:
        return math.inf
    return 10.0 * math.log10(peak * peak / power) if math.isfinite(power) else math.nan


def is_same(found: Sequence[Difference]) -> bool:
    """Whether no pixel is off by more than one level: rounding, and nothing that anybody could see."""
    return all(each.max_levels <= 1 for each in found)


def in_words(found: Sequence[Difference]) -> str:
    """How far images are from the right ones, in a few words for people.

    Args:
        found: comparisons, 1 or more, of the same number of images each.
    """
    off, pixels = sum(each.pixels_off for each in found), sum(each.pixels for each in found)
    if not off:
        return "no pixel differs"
    if is_same(found):
        return f"{off:,} of {pixels:,} pixels {'differ' if off > 1 else 'differs'}, by one grey level"
    mean = sum(each.mean_levels for each in found) / len(found)
    worst = max(each.image_levels for each in found)
    return f"off by {mean:.2g} of 255 grey levels on average, the worst image by {worst:.2g}"
