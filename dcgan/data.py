"""Training images by name, held in memory as uint8.

A name is a row of `DATASETS`. Sets of IDX files (LeCun's format: big-endian header, then bytes) are read here, raw or
gzipped, flat in a folder or in torchvision's layout, and without torch. torchvision's classes read the others, and
download what is missing. `sample` ships inside this package; `images` is a folder or an archive of the user's own.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from dcgan_infer.contract.errors import DatasetError

from . import datasets
from .datasets import DATASETS, FILES_SIZE, Progress

IMAGES = "images"
# Training images that choose between recipes and settings, so that the test images need not.
VALIDATION = 10_000
SPLITS = ("validation", "test")

# Other data sets have files of the same names, so a flat folder may hold the wrong one.
_MNIST_TRAIN_SHA256 = "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757"  # of the 60,000 images' bytes
_MAX_IMAGES = 1 << 24  # a header that claims more is damaged

Channels = Literal["auto", "grey", "colour"]


def silent(doing: str, done: int, total: int) -> None:
    """The progress that nobody watches."""


@dataclass(frozen=True)
class Dataset:
    """Images, with labels or without.

    Attributes:
        images: uint8, shape (N, H, W), grey, or (N, H, W, 3), in colour; 0 is black; perhaps a memory-mapped file.
        labels: integers from 0 on, shape (N,); None where images have no classes.
        class_names: a name for each class; empty where there are none.
        name: what it is: one of `DATASETS`, or the path of a folder or an archive.
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

    @property
    def num_classes(self) -> int:
        """0 without labels."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, height, width, *colours = self.images.shape
        return (colours[0] if colours else 1, height, width)


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


def split_validation(train: Dataset) -> tuple[Dataset, Dataset]:
    """Training images apart from the last 10,000, or the last half of fewer than 20,000, and those."""
    cut = len(train) - min(VALIDATION, len(train) // 2)
    return train[:cut], train[cut:]


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read an IDX file of bytes, raw or gzipped (told apart by content).

    Returns:
        uint8, of the shape in the file's header.
    Raises:
        DatasetError: the file can't be read, is truncated, or is no IDX file of bytes.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} can't be read, or is a truncated gzip file ({error}); fetch it again") from error
    # Two zero bytes, 8 for unsigned bytes, the number of axes; then each axis as a big-endian 32-bit integer.
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 3:
        raise DatasetError(f"{path} is no IDX file of bytes: it begins with {content[:4].hex(' ') or 'nothing'}")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise DatasetError(f"{path} is truncated: its header breaks off after {len(content)} bytes; fetch it again")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    expected = header + int(np.prod(shape, dtype=object))
    if len(content) != expected or not 0 < shape[0] <= _MAX_IMAGES:
        raise DatasetError(
            f"{path} is truncated or damaged: its header promises {expected} bytes, found {len(content)}; "
            "fetch it again"
        )
    array: npt.NDArray[np.uint8] = np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
    return array


def _read_idx_files(
    name: str, data_dir: Path, split: str, progress: Progress
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]:
    source = DATASETS[name]
    prefix = source.idx[split]
    folders = [data_dir, data_dir / source.place] if source.constructor else [Path(source.place)]
    if source.constructor and _find(folders, f"{prefix}-images-idx3") is None:
        datasets.download(name, data_dir, split, progress)
    paths = [_find(folders, f"{prefix}-{kind}") for kind in ("images-idx3", "labels-idx1")]
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


def _find(folders: list[Path], stem: str) -> Path | None:
    for folder in folders:
        for name in (f"{stem}-ubyte", f"{stem.replace('-idx', '.idx')}-ubyte"):
            for path in (folder / name, folder / f"{name}.gz"):
                if path.is_file():
                    return path
    return None


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
