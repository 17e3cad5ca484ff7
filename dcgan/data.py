"""Training images: 28x28, one channel, held in memory as uint8.

A data set is four IDX files (LeCun's format: big-endian header, then bytes), raw or gzipped, flat in a folder or in
torchvision's layout (`FOLDER/MNIST/raw/`). What is not there is downloaded by torchvision's classes. `sample` needs
neither: it ships inside this package.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcgan_infer.contract.errors import DatasetError, RuntimeMissingError, first_line
from dcgan_infer.extras import require

# Our name -> torchvision's class, which is also the folder in its layout.
_TORCHVISION_CLASSES = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "kmnist": "KMNIST",
}
SAMPLE = "sample"
CLASSES = 10  # of every one of them
DATASETS = (*_TORCHVISION_CLASSES, SAMPLE)

EVALUATED = ("mnist", SAMPLE)  # whose digits the evaluator reads
# Training images that choose between recipes and settings, so that the test images need not.
VALIDATION = 10_000
SPLITS = ("validation", "test")

_SAMPLE_FOLDER = Path(__file__).parent / "sample"
# Other data sets have files of the same names, so a flat folder may hold the wrong one.
_MNIST_TRAIN_SHA256 = "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757"  # of the 60,000 images' bytes
_PREFIX = {"train": "train", "test": "t10k"}
_MAX_IMAGES = 1 << 24  # a header that claims more is damaged


@dataclass(frozen=True)
class Dataset:
    """Labelled images.

    Attributes:
        images: uint8, shape (N, 28, 28); 0 is black.
        labels: uint8, shape (N,).
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


def load_dataset(name: str, data_dir: Path, split: str = "train") -> Dataset:
    """Read a data set from its files, downloading them into `data_dir` where they are missing.

    Args:
        name: one of `DATASETS`.
        data_dir: folder of the four IDX files, flat or in torchvision's layout; unused for `sample`.
        split: `train` or `test`; `sample` has `train` only.
    Raises:
        DatasetError: files are missing and can't be downloaded, or are truncated, foreign or don't belong together.
    """
    if name not in DATASETS:
        raise DatasetError(f"unknown data set {name!r}; choose from {', '.join(DATASETS)}")
    if name == SAMPLE:
        folders = [_SAMPLE_FOLDER]
    else:
        raw = data_dir / _TORCHVISION_CLASSES[name] / "raw"
        folders = [data_dir, raw]
        if _find(folders, split, "images-idx3") is None:
            _download(name, data_dir)
    paths = [_find(folders, split, kind) for kind in ("images-idx3", "labels-idx1")]
    if None in paths:
        missing = f"{_PREFIX[split]}-{'images-idx3' if paths[0] is None else 'labels-idx1'}-ubyte"
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
    if labels.max() >= CLASSES:
        raise DatasetError(f"{paths[1]} has the label {labels.max()}, expected 0 to {CLASSES - 1}")
    return Dataset(images, labels)


def split_validation(train: Dataset) -> tuple[Dataset, Dataset]:
    """Training images apart from the last 10,000, or the last half of fewer than 20,000, and those."""
    cut = len(train.images) - min(VALIDATION, len(train.images) // 2)
    return Dataset(train.images[:cut], train.labels[:cut]), Dataset(train.images[cut:], train.labels[cut:])


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


def _find(folders: list[Path], split: str, kind: str) -> Path | None:
    for folder in folders:
        for name in (f"{_PREFIX[split]}-{kind}-ubyte", f"{_PREFIX[split]}-{kind.replace('-idx', '.idx')}-ubyte"):
            for path in (folder / name, folder / f"{name}.gz"):
                if path.is_file():
                    return path
    return None


def _download(name: str, data_dir: Path) -> None:
    ways = (
        f"--data-dir FOLDER with its four IDX files (raw or .gz, such as train-images-idx3-ubyte.gz), "
        f"or --dataset {SAMPLE} (10,000 MNIST images that ship with the package)"
    )
    try:
        datasets = require("torchvision.datasets", "train")  # imports torch: seconds, and files in place don't need it
    except RuntimeMissingError as error:
        raise DatasetError(
            f"{data_dir} has no {name} images, and {error.name}, to download them, is not installed; use {ways}"
        ) from error
    if data_dir.exists() and not data_dir.is_dir():
        raise DatasetError(f"{data_dir} is not a folder; use {ways}")
    existed = data_dir.exists()
    try:
        # torchvision reports each mirror that fails on stdout; ours is one error.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            getattr(datasets, _TORCHVISION_CLASSES[name])(data_dir, download=True)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):  # torchvision's folders, if still empty
            (data_dir / _TORCHVISION_CLASSES[name] / "raw").rmdir()
            (data_dir / _TORCHVISION_CLASSES[name]).rmdir()
            if not existed:
                data_dir.rmdir()
        reason = first_line(error).rstrip(":")
        raise DatasetError(
            f"{data_dir} has no {name} images, and downloading them failed ({reason}); use {ways}"
        ) from error
