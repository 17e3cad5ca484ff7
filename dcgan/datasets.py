"""Data sets by name: a row each in `DATASETS`, and how torchvision's classes read and download them.

torchvision checks the MD5 of what it unpickles (CIFAR), and so do we before a damaged file can say anything else.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import itertools
import shutil
import string
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcgan_infer.contract.errors import DatasetError, RuntimeMissingError, first_line
from dcgan_infer.contract.files import naming, temporary_folder
from dcgan_infer.extras import require

from .data import Progress

SAMPLE = "sample"


@dataclass(frozen=True)
class Source:
    """A data set that is known by name.

    Attributes:
        constructor: torchvision's class; empty where there is nothing to download.
        arguments: of the constructor, for each split that the set has.
        place: what the constructor looks for in the data folder.
        size: side of its images in pixels; of files, whose sides differ, the side they are given.
        class_names: None takes torchvision's; empty where images have no classes.
        idx: how the names of each split's IDX files begin; empty where it has none.
        first_label: of the IDX files.
        transposed: whether the images of the IDX files lie on their sides, mirrored.
        files: torchvision's attribute that lists image files; empty where it has the images in an array.
        needs: a package that torchvision reads it with, and does not install.
    """

    constructor: str
    arguments: Mapping[str, Mapping[str, Any]]
    place: str
    size: int
    class_names: tuple[str, ...] | None = None
    idx: Mapping[str, str] = field(default_factory=dict)
    first_label: int = 0
    transposed: bool = False
    files: str = ""
    needs: str = ""


def _emnist(split: str, class_names: str, first_label: int = 0) -> Source:
    arguments = {"train": {"split": split, "train": True}, "test": {"split": split, "train": False}}
    idx = {"train": f"emnist-{split}-train", "test": f"emnist-{split}-test"}
    return Source("EMNIST", arguments, "EMNIST/raw", 28, tuple(class_names), idx, first_label, transposed=True)


FILES_SIZE = 64  # of DCGAN's paper (arXiv 1511.06434)
_TRAIN = {"train": {"train": True}, "test": {"train": False}}
_SPLIT = {"train": {"split": "train"}, "test": {"split": "test"}}
_IDX = {"train": "train", "test": "t10k"}
_DIGITS = tuple(string.digits)
_CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_BALANCED = string.digits + string.ascii_uppercase + "abdefghnqrt"  # small letters that look unlike their capitals

DATASETS: dict[str, Source] = {
    "mnist": Source("MNIST", _TRAIN, "MNIST/raw", 28, _DIGITS, _IDX),
    "fashion-mnist": Source("FashionMNIST", _TRAIN, "FashionMNIST/raw", 28, _CLOTHES, _IDX),
    "kmnist": Source("KMNIST", _TRAIN, "KMNIST/raw", 28, _KANA, _IDX),
    SAMPLE: Source("", {"train": {}}, str(Path(__file__).parent / "sample"), 28, _DIGITS, _IDX),
    "emnist": _emnist("balanced", _BALANCED),
    "emnist-byclass": _emnist("byclass", string.digits + string.ascii_uppercase + string.ascii_lowercase),
    "emnist-digits": _emnist("digits", string.digits),
    "emnist-letters": _emnist("letters", string.ascii_lowercase, first_label=1),
    "qmnist": Source("QMNIST", _TRAIN, "QMNIST/raw", 28, _DIGITS),
    "usps": Source("USPS", _TRAIN, "usps.bz2", 16, _DIGITS),
    "cifar10": Source("CIFAR10", _TRAIN, "cifar-10-batches-py", 32),
    "cifar100": Source("CIFAR100", _TRAIN, "cifar-100-python", 32),
    "svhn": Source("SVHN", _SPLIT, "train_32x32.mat", 32, _DIGITS, needs="scipy"),
    "stl10": Source("STL10", _SPLIT, "stl10_binary", 96, _STL10),
    "stl10-unlabelled": Source("STL10", {"train": {"split": "unlabeled"}}, "stl10_binary", 96, ()),
    "celeba": Source("CelebA", _SPLIT, "celeba/img_align_celeba", FILES_SIZE, (), files="filename"),
    "dtd": Source("DTD", _SPLIT, "dtd/dtd", FILES_SIZE, files="_image_files"),
    "eurosat": Source("EuroSAT", {"train": {}}, "eurosat/2750", FILES_SIZE, files="samples"),
    "flowers102": Source("Flowers102", _SPLIT, "flowers-102/jpg", FILES_SIZE, files="_image_files", needs="scipy"),
    "food101": Source("Food101", _SPLIT, "food-101/images", FILES_SIZE, files="_image_files"),
    "imagenette": Source(
        "Imagenette",
        {"train": {"split": "train", "size": "320px"}, "test": {"split": "val", "size": "320px"}},
        "imagenette2-320",
        FILES_SIZE,
        files="_samples",
    ),
    "oxford-iiit-pet": Source(
        "OxfordIIITPet",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        "oxford-iiit-pet/images",
        FILES_SIZE,
        files="_images",
    ),
}


def class_names_of(opened: Any) -> tuple[str, ...]:
    """torchvision's: Imagenette's are tuples of synonyms, those of Food-101 have underscores."""
    names = (name if isinstance(name, str) else name[0] for name in opened.classes)
    return tuple(name.replace("_", " ") for name in names)


def held(opened: Any) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]:
    """Images and labels of a torchvision data set that has them in arrays."""
    images = np.asarray(opened.data, np.uint8)
    if images.ndim == 4 and images.shape[1] == 3:  # SVHN, STL-10
        images = np.moveaxis(images, 1, -1)
    labels = np.asarray(opened.targets if hasattr(opened, "targets") else opened.labels)
    # Of QMNIST's eight columns the first is the class.
    return np.ascontiguousarray(images), labels.reshape(len(images), -1)[:, 0]


def decoded(
    name: str, opened: Any, class_names: tuple[str, ...], data_dir: Path, **options: Any
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer] | None]:
    """Images and labels of a torchvision data set that opens each file when it is asked for; in another order."""
    from .images import Entry, decode

    # Pairs; or files alone, beside their labels, of which CelebA has none.
    listed = getattr(opened, DATASETS[name].files)
    if not (listed and isinstance(listed[0], tuple)):
        listed = list(itertools.zip_longest(listed, getattr(opened, "_labels", ())))
    root = data_dir.absolute()
    # CelebA lists names alone; the others' paths are absolute, and stay what they are.
    paths = ((root / DATASETS[name].place / file, label) for file, label in listed)
    entries = [Entry(path.relative_to(root).as_posix(), path, label) for path, label in paths]
    loaded = decode(entries, class_names, name, **options)
    if loaded.skipped:  # among one's own images a few may be broken, but these are known to be whole
        file, reason = loaded.skipped[0]
        raise DatasetError(
            f"{len(loaded.skipped)} of {len(entries)} images of {name} can't be read, such as {data_dir / file} "
            f"({reason}); delete {data_dir / Path(file).parts[0]} and fetch it again"
        )
    return loaded.dataset.images, loaded.dataset.labels


def open_set(name: str, data_dir: Path, split: str, progress: Progress, may_download: bool = True) -> Any:
    """The data set of torchvision, downloaded if it is not there."""
    source = DATASETS[name]
    build = _builder(name, data_dir, split)
    try:
        with _quiet():
            return build(data_dir.absolute(), download=False)
    except Exception as error:  # torchvision raises whatever it stumbles on in a damaged file
        if (damaged := _damaged(build.func, data_dir)) is not None:
            raise DatasetError(
                f"{damaged} is damaged or another file: its MD5 is not {name}'s; delete it and fetch it again"
            ) from error
        # These two say that files are missing.
        if not may_download or not isinstance(error, (RuntimeError, FileNotFoundError)):
            raise DatasetError(
                f"{data_dir / source.place} can't be read as {name} ({first_line(error)}); delete it and fetch it again"
            ) from error
    download(name, data_dir, split, progress)
    return open_set(name, data_dir, split, progress, may_download=False)


def _builder(name: str, data_dir: Path, split: str) -> functools.partial[Any]:
    """The class of torchvision, given the arguments for a split."""
    source = DATASETS[name]
    try:
        datasets = require("torchvision.datasets", "train")  # imports torch: seconds, and IDX files don't need it
    except RuntimeMissingError as error:
        if source.idx:
            why = f"{data_dir} has no {name} images, and {error.name}, to download them, is not installed"
            raise DatasetError(f"{why}; use {_ways(name)}") from error
        raise DatasetError(f"{name} is read by torchvision: {error}") from error
    if source.needs and importlib.util.find_spec(source.needs) is None:
        raise DatasetError(f"{name} is read with {source.needs}, which is not installed: pip install {source.needs}")
    return functools.partial(getattr(datasets, source.constructor), **source.arguments[split])


def _damaged(constructor: Any, data_dir: Path) -> Path | None:
    """A file that torchvision would refuse, since its MD5 is another: it unpickles (CIFAR) only what passes this."""
    from torchvision.datasets.utils import check_integrity

    tables = (*getattr(constructor, "train_list", ()), *getattr(constructor, "test_list", ()))
    listed = [entry[-2:] for entry in (*tables, *getattr(constructor, "split_list", {}).values())]
    listed += [(file, md5) for _, md5, file in getattr(constructor, "file_list", ())]  # CelebA
    if meta := getattr(constructor, "meta", None):
        listed.append((meta["filename"], meta["md5"]))
    for file, md5 in listed:
        path: Path = data_dir / getattr(constructor, "base_folder", "") / file
        if path.is_file() and not check_integrity(path, md5):
            return path
    return None


def download(name: str, data_dir: Path, split: str, progress: Progress) -> None:
    """Let torchvision fill a folder beside the data, so that what is cut off is never taken for the whole."""
    build = _builder(name, data_dir, split)
    if data_dir.exists() and not data_dir.is_dir():
        raise DatasetError(f"{data_dir} is not a folder; use {_ways(name)}")
    existed = data_dir.exists()
    progress(f"downloading {name}", 0, 1)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with temporary_folder(data_dir, name) as temporary:
            _copy_archives(data_dir.absolute(), Path(DATASETS[name].place), temporary)
            # torchvision reports each mirror that fails on stdout; ours is one error.
            with _quiet():
                build(str(temporary), download=True)
            with naming():
                _move(temporary, data_dir)
    except Exception as error:  # of urllib, http, ssl, tarfile, zipfile, gdown
        reason = first_line(error).rstrip(":")
        raise DatasetError(
            f"{data_dir} has no {name} images, and downloading them failed ({reason}); use {_ways(name)}"
        ) from error
    finally:
        if not existed:
            with contextlib.suppress(OSError):  # it holds something
                data_dir.rmdir()
    progress(f"downloading {name}", 1, 1)


def _copy_archives(data_dir: Path, place: Path, temporary: Path) -> None:
    """Give torchvision the archives that are there: it unpacks those that have the right MD5, and downloads others.

    Copies, since it writes what it downloads over what it finds, which through a link would be the user's file.
    """
    for folder in (place, *place.parents):
        for path in (data_dir / folder).glob("*"):
            if path.suffix in (".gz", ".tgz", ".zip", ".mat", ".txt") and path.is_file():
                (temporary / folder).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, temporary / folder / path.name)


def _move(source: Path, target: Path) -> None:
    """Move a tree into another, replacing files."""
    if source.is_dir() and target.is_dir():
        for path in source.iterdir():
            _move(path, target / path.name)
    else:
        source.replace(target)


def _ways(name: str) -> str:
    source = DATASETS[name]
    files = f"its files where torchvision has them (FOLDER/{source.place} and others: docs/datasets.md)"
    if source.idx:
        files = f"its four IDX files (raw or .gz, such as {source.idx['train']}-images-idx3-ubyte.gz)"
    return f"--data-dir FOLDER with {files}, or --dataset {SAMPLE} (10,000 MNIST images that ship with the package)"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torchvision prints, and without the warnings that it, NumPy and tarfile have about its old files."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
