"""From a generator's values to pixels, and from pictures to a sheet of them. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Range = tuple[float, float]


def to_uint8(images: npt.NDArray[np.floating], value_range: Range = (-1.0, 1.0)) -> npt.NDArray[np.uint8]:
    """The 256 levels of images.

    Rounds to the nearest level (half to even), so black and white are exact and an error of 1e-5 in a value moves a
    pixel by one level at most.

    Args:
        images: float, any shape; values outside the range are clipped.
        value_range: values of black and of white.
    Returns:
        uint8, same shape; 0 is black.
    """
    low, high = value_range
    levels: npt.NDArray[np.floating] = np.rint((np.clip(images, low, high) - low) * (255.0 / (high - low)))
    return levels.astype(np.uint8)


def to_pictures(images: npt.NDArray[np.generic], value_range: Range = (-1.0, 1.0)) -> npt.NDArray[np.uint8]:
    """Pictures of what a model gave, the channels last, as image files and screens want them.

    Args:
        images: float, shape (N, C, H, W); or pictures already, which are returned as they are.
        value_range: of the floats.
    Returns:
        uint8, shape (N, H, W) if C is 1, else (N, H, W, C).
    """
    if images.dtype == np.uint8:
        return images  # type: ignore[return-value]
    levels = to_uint8(images, value_range)  # type: ignore[arg-type]
    return levels[:, 0] if levels.shape[1] == 1 else np.ascontiguousarray(levels.transpose(0, 2, 3, 1))


def to_values(pictures: npt.NDArray[Any], value_range: Range = (-1.0, 1.0)) -> npt.NDArray[Any]:
    """What `to_pictures` made, as a model's floats.

    Args:
        pictures: uint8, shape (N, H, W) or (N, H, W, C); or floats already, which are returned as they are.
        value_range: of the floats.
    Returns:
        float32, shape (N, C, H, W).
    """
    if pictures.dtype != np.uint8:
        return pictures
    low, high = value_range
    planes = pictures[:, None] if pictures.ndim == 3 else pictures.transpose(0, 3, 1, 2)
    return (planes * ((high - low) / 255.0) + low).astype(np.float32)


def tile(
    pictures: npt.NDArray[np.uint8], rows: int, columns: int, cells: Sequence[int] | None = None
) -> npt.NDArray[np.uint8]:
    """Lay pictures out in rows, left to right and top to bottom.

    Args:
        pictures: uint8, shape (N, H, W) or (N, H, W, C), N <= rows * columns.
        rows: of the sheet, 1 or more.
        columns: of the sheet, 1 or more.
        cells: of the pictures, from 0 on; None: the first N.
    Returns:
        uint8, shape (rows * H, columns * W) or (rows * H, columns * W, C); cells without a picture are black.
    """
    count, height, width, *channels = pictures.shape
    if count > rows * columns:
        raise ValueError(f"{count} images don't fit a grid of {rows}x{columns}")
    whole = np.zeros((rows * columns, height, width, *channels), dtype=np.uint8)
    whole[list(cells or range(count))] = pictures
    sheet: npt.NDArray[np.uint8] = whole.reshape(rows, columns, height, width, *channels).swapaxes(1, 2)
    return sheet.reshape(rows * height, columns * width, *channels)
