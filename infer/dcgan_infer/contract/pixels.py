"""From a generator's values to grey levels, and from images to a sheet of them. NumPy only, shared with `infer`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def to_uint8(images: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Grey levels of images.

    Rounds to the nearest level (half to even), so black and white are exact and an error of 1e-5 in a value moves a
    pixel by one level at most.

    Args:
        images: float, any shape, range [-1, 1]; values outside are clipped.
    Returns:
        uint8, same shape; 0 is black.
    """
    levels: npt.NDArray[np.floating] = np.rint((np.clip(images, -1.0, 1.0) + 1.0) * 127.5)
    return levels.astype(np.uint8)


def to_levels(images: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Grey levels of what a model gave: `to_uint8`, or the images themselves where they are grey levels already."""
    return images if images.dtype == np.uint8 else to_uint8(images)  # type: ignore[return-value,arg-type]


def tile(images: npt.NDArray[np.uint8], rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Lay images out in rows, left to right and top to bottom.

    Args:
        images: uint8, shape (N, H, W), N <= rows * columns.
        rows: of the sheet, 1 or more.
        columns: of the sheet, 1 or more.
    Returns:
        uint8, shape (rows * H, columns * W); cells past the last image are black.
    """
    count, height, width = images.shape
    if count > rows * columns:
        raise ValueError(f"{count} images don't fit a grid of {rows}x{columns}")
    cells = np.zeros((rows * columns, height, width), dtype=np.uint8)
    cells[:count] = images
    sheet: npt.NDArray[np.uint8] = cells.reshape(rows, columns, height, width).swapaxes(1, 2)
    return sheet.reshape(rows * height, columns * width)
