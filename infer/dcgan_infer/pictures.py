"""Images as a generator hands them out: an array that a notebook shows as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .contract.pixels import tile
from .request import SEEN

if TYPE_CHECKING:
    from typing import Self

_SHOWN = 64  # images; more are cut off in a notebook


class Images(np.ndarray[Any, np.dtype[np.uint8]]):
    """An array of pixels, and nothing less; what is cut out of it is one too.

    uint8, shape (N, H, W) in grey, (N, H, W, 3) in colour, or one image of these; 0 is black.
    """

    @property
    def _is_colour(self) -> bool:
        return self.ndim in (3, 4) and self.shape[-1] == 3

    @property
    def _is_picture(self) -> bool:
        return self.dtype == np.uint8 and self.size > 0 and self.ndim - self._is_colour in (2, 3)

    def grid(self, columns: int | None = None) -> Self:
        """All images on one picture, left to right and top to bottom.

        Args:
            columns: images in a row; None makes it nearly square.
        Returns:
            uint8, shape (rows * H, columns * W) or (rows * H, columns * W, 3); places that are left over are black.
        Raises:
            ValueError: these are no images.
        """
        if not self._is_picture:
            raise ValueError(f"a grid is of uint8 images, (N, H, W) or (N, H, W, 3); found {self.dtype} {self.shape}")
        if self.ndim - self._is_colour == 2:
            return self
        columns = columns or math.isqrt(len(self) - 1) + 1
        return tile(self, -(-len(self) // columns), columns).view(type(self))

    def save(self, path: str | Path, columns: int | None = None) -> None:
        """Write them as one picture in the format that the name ends in, a pixel a pixel: .png, .webp, .gif ...

        Raises:
            ValueError: these are no images, or Pillow does not know the format.
            OSError: the file can't be written.
        """
        from PIL import Image

        Image.fromarray(np.asarray(self.grid(columns))).save(path)

    def _repr_png_(self) -> bytes | None:
        """A picture for a notebook, large enough to be seen; None, and so numbers, where these are no images."""
        if not self._is_picture:
            return None
        from .writers import encoded_png

        shown = self if self.ndim - self._is_colour == 2 else self[:_SHOWN].view(type(self))
        picture = np.asarray(shown.grid())
        scale = max(1, SEEN // max(picture.shape[:2]))
        return encoded_png(picture.repeat(scale, axis=0).repeat(scale, axis=1))
