"""Images in memory, or in a mapped file, as uint8: what every other module takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

IMAGES = "images"
# Training images that choose between recipes and settings, so that the test images need not.
VALIDATION = 10_000
SPLITS = ("validation", "test")

Channels = Literal["auto", "grey", "colour"]
# Told what is being done, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]


def silent(doing: str, done: int, total: int) -> None:
    """The progress that nobody watches."""


@dataclass(frozen=True)
class Dataset:
    """Images, with labels or without.

    Attributes:
        images: uint8, shape (N, H, W), grey, or (N, H, W, 3), in colour; 0 is black; perhaps a memory-mapped file.
        labels: integers from 0 on, shape (N,); None where images have no classes.
        class_names: a name for each class; empty where there are none.
        name: what it is: a key of `datasets.DATASETS`, or the path of a folder or an archive.
        notes: a line each for people: what was read, what was skipped.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.integer] | None = None
    class_names: tuple[str, ...] = ()
    name: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> Dataset:
        """Some of them, in the same order."""
        labels = None if self.labels is None else self.labels[rows]
        return Dataset(self.images[rows], labels, self.class_names, self.name)

    def sha256(self) -> str:
        """Of the bytes of the images."""
        return hashlib.sha256(np.ascontiguousarray(self.images).data).hexdigest()

    @property
    def num_classes(self) -> int:
        """0 without labels."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, height, width, *colours = self.images.shape
        return (colours[0] if colours else 1, height, width)


def split_validation(train: Dataset) -> tuple[Dataset, Dataset]:
    """Training images apart from the last 10,000, or the last half of fewer than 20,000, and those."""
    cut = len(train) - min(VALIDATION, len(train) // 2)
    return train[:cut], train[cut:]
