"""Images by name, loaded: a data set's or the user's own, in the size and the colours that are asked for.

Sets of IDX files are read here, flat in a folder or in torchvision's layout, and without torch; the others as
datasets.py says. `sample` ships inside this package; `images` is a folder or an archive of the user's own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcgan_infer.contract.errors import DatasetError

from . import datasets
from .data import IMAGES, Channels, Dataset, Progress, silent
from .datasets import DATASETS, FILES_SIZE
from .idx import find_idx, read_idx

# Other data sets have files of the same names, so a flat folder may hold the wrong one.
_MNIST_TRAIN_SHA256 = "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757"  # of the 60,000 images' bytes


@dataclass(frozen=True)
class RealImages:
    """Which images, and in which shape; each field as `load_dataset` takes it."""

    dataset: str = "mnist"
    data_dir: Path = Path("data")
    size: int | None = None
    channels: Channels = "auto"
    background: str = "white"

    @property
    def title(self) -> str:
        """What the images are called: the data set, or the name of the folder or archive."""
        return self.data_dir.stem if self.dataset == IMAGES else self.dataset

    def load(self, split: str, progress: Progress = silent) -> Dataset:
        """The images of a split, `train` or `test`.

        Raises:
            DatasetError: as `load_dataset`.
        """
        return load_dataset(
            self.dataset,
            self.data_dir,
            split,
            size=self.size,
            channels=self.channels,
            background=self.background,
            progress=progress,
        )


def load_dataset(
    name: str,
    data_dir: Path,
    split: str = "train",
    *,
    size: int | None = None,
    channels: Channels = "auto",
    background: str = "white",
    progress: Progress = silent,
) -> Dataset:
    """Read a data set from its files, downloading them into `data_dir` where they are missing.

    Args:
        name: one of `DATASETS`, or `IMAGES`.
        data_dir: folder of the files, where torchvision has them (docs/datasets.md), of IDX files also flat; of
            `IMAGES` the user's own folder or archive; unused for `SAMPLE`.
        split: `train` or `test`; some have `train` only.
        size: side in pixels that images get: the shorter side is resized, the middle cut out. None is their own, and 64
            for files, whose sides differ.
        channels: convert them to grey (by luminance) or to colour; `auto` leaves them as they are.
        background: colour behind what is transparent in image files.
        progress: told of downloading, decoding and resizing.
    Raises:
        DatasetError: files are missing and can't be downloaded, or are damaged, foreign or don't belong together.
    """
    if name == IMAGES:
        from .images import load_images

        whole = load_images(
            data_dir, size=size or FILES_SIZE, channels=channels, background=background, progress=progress
        )
        return replace(whole.dataset, notes=tuple(whole.lines()))
    if name not in DATASETS:
        raise DatasetError(f"unknown data set {name!r}; choose from {', '.join((*DATASETS, IMAGES))}")
    source = DATASETS[name]
    if split not in source.arguments:
        raise DatasetError(f"{name} has no {split!r} images, only {' and '.join(source.arguments)}")
    side = size or source.size
    labels: npt.NDArray[np.integer] | None
    if source.idx:
        images, labels = _read_idx_files(name, data_dir, split, progress)
        class_names = source.class_names
    else:
        opened = datasets.open_set(name, data_dir, split, progress)
        class_names = datasets.class_names_of(opened) if source.class_names is None else source.class_names
        if source.files:
            images, labels = datasets.decoded(
                name, opened, class_names, data_dir,
                size=side, channels=channels, background=background, progress=progress,
            )  # fmt: skip
        else:
            images, labels = datasets.held(opened)
    images = _fitted(images, side, channels, progress)
    if not class_names or labels is None:
        return Dataset(images, name=name)
    if not 0 <= labels.min() <= labels.max() < len(class_names):
        raise DatasetError(
            f"{data_dir} has {name} labels from {labels.min()} to {labels.max()}, expected 0 to "
            f"{len(class_names) - 1}; fetch it again"
        )
    return Dataset(images, labels, class_names, name)


def _read_idx_files(
    name: str, data_dir: Path, split: str, progress: Progress
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]:
    source = DATASETS[name]
    prefix = source.idx[split]
    folders = [data_dir, data_dir / source.place] if source.constructor else [Path(source.place)]
    if source.constructor and find_idx(folders, f"{prefix}-images-idx3") is None:
        datasets.download(name, data_dir, split, progress)
    paths = [find_idx(folders, f"{prefix}-{kind}") for kind in ("images-idx3", "labels-idx1")]
    if None in paths:
        missing = f"{prefix}-{'images-idx3' if paths[0] is None else 'labels-idx1'}-ubyte"
        raise DatasetError(f"{folders[0]} has no {missing}(.gz); put the four IDX files of the data set there")
    images, labels = (read_idx(path) for path in paths if path is not None)
    if name != "mnist" and hashlib.sha256(images.tobytes()).hexdigest() == _MNIST_TRAIN_SHA256:
        raise DatasetError(f"{paths[0]} is MNIST, not {name}; give another --data-dir, or --dataset mnist")
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise DatasetError(f"{paths[0]} holds an array of shape {images.shape}, expected images of shape (N, 28, 28)")
    if labels.ndim != 1 or len(labels) != len(images):
        raise DatasetError(
            f"{paths[1]} holds an array of shape {labels.shape}, expected {len(images)} labels, one an image"
        )
    if source.transposed:
        images = np.ascontiguousarray(images.swapaxes(1, 2))
    # A label below the first becomes 255, which no set has.
    return images, labels - np.uint8(source.first_label)


def _fitted(images: npt.NDArray[np.uint8], size: int, channels: Channels, progress: Progress) -> npt.NDArray[np.uint8]:
    """Square images as they are, or each one resized and converted."""
    from PIL import Image

    is_grey = images.ndim == 3
    grey = is_grey if channels == "auto" else channels == "grey"
    if images.shape[1:3] == (size, size) and grey == is_grey:
        return images
    fitted = np.empty((len(images), size, size, 3)[: 3 if grey else 4], np.uint8)
    for row, image in enumerate(images):
        if row % 1000 == 0:
            progress("resizing", row, len(images))
        picture = Image.fromarray(image).convert("L" if grey else "RGB")
        # Antialiased where it shrinks.
        fitted[row] = np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS))
    progress("resizing", len(images), len(images))
    return fitted
