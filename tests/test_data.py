from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import http.server
import inspect
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
from conftest import ROOT, idx_bytes
from PIL import Image

from dcgan.data import Dataset, silent
from dcgan.datasets import DATASETS
from dcgan.idx import read_idx
from dcgan.loading import _fitted, load_dataset
from dcgan_infer.contract.errors import DatasetError

Images = npt.NDArray[np.uint8]


def write_split(
    folder: Path, images: Images, zipped: bool, prefix: str = "train", labels: Images | None = None
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.zeros(len(images), np.uint8) if labels is None else labels
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        content = idx_bytes(array)
        name = f"{prefix}-{kind}-ubyte" + (".gz" if zipped else "")
        (folder / name).write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "layout"), [("mnist", "."), ("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")]
)
def test_both_layouts_raw_and_gzipped(
    tmp_path: Path, sample_images: Images, zipped: bool, name: str, layout: str
) -> None:
    write_split(tmp_path / layout, sample_images, zipped)
    write_split(tmp_path / layout, sample_images[:9], zipped, prefix="t10k")
    assert np.array_equal(load_dataset(name, tmp_path).images, sample_images)
    assert len(labels_of(load_dataset(name, tmp_path, "test"))) == 9


def test_the_sample_is_real_mnist() -> None:
    sample = load_dataset("sample", Path("unused"))
    assert sample.images.shape == (10_000, 28, 28)
    assert labels_of(sample)[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert min(np.bincount(labels_of(sample), minlength=10)) > 800


@pytest.mark.skipif("MNIST_DIR" not in os.environ, reason="MNIST_DIR does not name a folder with the whole of MNIST")
def test_the_sample_is_the_head_of_the_training_set(tmp_path: Path) -> None:
    folder = Path(os.environ["MNIST_DIR"])
    whole = load_dataset("mnist", folder)
    with pytest.raises(DatasetError, match="is MNIST, not fashion-mnist"):
        load_dataset("fashion-mnist", folder)
    assert whole.images.shape == (60_000, 28, 28)
    assert np.array_equal(load_dataset("sample", Path("unused")).images, whole.images[:10_000])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no IDX file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no IDX file"),
        (b"version https://", "no IDX file"),
        (bytes((0, 0, 8, 3, 0, 0)), "truncated"),
        (idx_bytes(np.zeros((2, 28, 28), np.uint8))[:-1], "truncated"),
        (idx_bytes(np.zeros((2, 28, 28), np.uint8)) + b"x", "damaged"),
        (idx_bytes(np.zeros((0, 28, 28), np.uint8)), "damaged"),
        (bytes((0, 0, 8, 3)) + b"\xff" * 12, "truncated"),
        (gzip.compress(idx_bytes(np.zeros((2, 28, 28), np.uint8)), mtime=0)[:-9], "truncated gzip"),
        (gzip.compress(idx_bytes(np.zeros((9000, 28, 28), np.uint8)), mtime=0), "more than 100 times its size"),
        (b"\x1f\x8b" + bytes(40), "truncated gzip"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=says):
        read_idx(path)


def test_images_of_another_size_and_labels_of_another_count_are_refused(tmp_path: Path, sample_images: Images) -> None:
    write_split(tmp_path / "a", sample_images[:, :20, :20], zipped=False)
    with pytest.raises(DatasetError, match=r"expected images of shape \(N, 28, 28\)"):
        load_dataset("mnist", tmp_path / "a")
    write_split(tmp_path / "b", sample_images, zipped=False)
    (tmp_path / "b" / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(3, np.uint8)))
    with pytest.raises(DatasetError, match="expected 64 labels"):
        load_dataset("mnist", tmp_path / "b")
    (tmp_path / "b" / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetError, match="has no train-labels-idx1-ubyte"):
        load_dataset("mnist", tmp_path / "b")


def test_no_network_gives_one_error_that_names_the_ways_out(tmp_path: Path) -> None:
    # A proxy that refuses every connection stands for a machine with no network, wherever this test runs.
    environment = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9") | {"no_proxy": ""}
    done = subprocess.run(
        [sys.executable, "-m", "dcgan", "--data-dir", str(tmp_path / "none"), "-o", str(tmp_path / "run")],
        env=os.environ | environment | {key.upper(): value for key, value in environment.items()},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "--data-dir" in done.stderr
    assert "--dataset sample" in done.stderr
    assert not (tmp_path / "run").exists()
    assert list(tmp_path.iterdir()) == []


def colours(count: int, side: int) -> Images:
    """Noise: every change of order, of axes or of channels shows."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def labels_of(dataset: Dataset) -> npt.NDArray[np.integer]:
    assert dataset.labels is not None
    return dataset.labels


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def torchvision_class(name: str) -> Any:
    import torchvision.datasets

    return getattr(torchvision.datasets, DATASETS[name].constructor)


def write_cifar(data_dir: Path, name: str, images: Images, labels: list[int], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Batches of a CIFAR set, all images in each, with their MD5 in torchvision's tables."""
    kind = torchvision_class(name)
    folder = data_dir / str(kind.base_folder)
    folder.mkdir(parents=True)
    key, names = ("labels", ["airplane", "car"]) if name == "cifar10" else ("fine_labels", ["apple", "aquarium_fish"])
    batch = {"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1), key: labels}
    for table in ("train_list", "test_list"):
        for file, _ in getattr(kind, table):
            # As the real ones, of 2009: np.dtype("u1", 0, ...), of which NumPy 2.4 warns (pytorch/vision#9340).
            (folder / file).write_bytes(pickle.dumps(batch, 2).replace(b"\x89\x88\x87", b"K\x00\x88\x87"))
        listed = [[file, md5(folder / file)] for file, _ in getattr(kind, table)]
        monkeypatch.setattr(kind, table, listed)
    meta = folder / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({kind.meta["key"]: names}))
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(meta)})
    return folder


def write_svhn(data_dir: Path, images: Images, labels: list[int], monkeypatch: pytest.MonkeyPatch) -> Path:
    path = data_dir / "train_32x32.mat"
    scipy.io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.array(labels, np.uint8)[:, None]})
    monkeypatch.setattr(torchvision_class("svhn"), "split_list", {"train": ["", path.name, md5(path)]})
    return path


@pytest.mark.parametrize(("name", "batches", "second"), [("cifar10", 5, "car"), ("cifar100", 1, "aquarium fish")])
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, batches: int, second: str) -> None:
    images = colours(3, 32)
    write_cifar(tmp_path, name, images, [1, 0, 1], monkeypatch)
    train, test = load_dataset(name, tmp_path), load_dataset(name, tmp_path, "test")
    assert np.array_equal(train.images, np.concatenate([images] * batches))
    assert labels_of(train).tolist() == [1, 0, 1] * batches
    assert (train.class_names[1], train.name, train.image_shape) == (second, name, (3, 32, 32))
    assert np.array_equal(test.images, images)
    assert test.images.flags.c_contiguous  # the file has planes; a batch is gathered faster from pixels


def test_svhn_whose_label_10_is_the_digit_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = colours(3, 32)
    write_svhn(tmp_path, images, [10, 1, 9], monkeypatch)
    svhn = load_dataset("svhn", tmp_path)
    assert np.array_equal(svhn.images, images)
    assert [svhn.class_names[label] for label in labels_of(svhn)] == ["0", "1", "9"]


def test_stl10_with_labels_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, images = torchvision_class("stl10"), colours(3, 96)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for table in ("train_list", "test_list"):
        for file, _ in getattr(kind, table):
            # Column after column; labels begin at 1.
            content = images.transpose(0, 3, 2, 1).tobytes() if "_X" in file else bytes((1, 10, 2))
            (folder / file).write_bytes(content)
        monkeypatch.setattr(kind, table, [[file, md5(folder / file)] for file, _ in getattr(kind, table)])
    for split in ("train", "test"):
        stl10 = load_dataset("stl10", tmp_path, split)
        assert np.array_equal(stl10.images, images)
        assert [stl10.class_names[label] for label in labels_of(stl10)] == ["airplane", "truck", "bird"]
    unlabelled = load_dataset("stl10-unlabelled", tmp_path)
    assert np.array_equal(unlabelled.images, images)
    assert (unlabelled.labels, unlabelled.num_classes) == (None, 0)


@pytest.mark.parametrize("layout", [".", "EMNIST/raw"])
def test_emnist_stands_upright(tmp_path: Path, layout: str) -> None:
    upright = np.zeros((2, 28, 28), np.uint8)
    upright[:, 4:24, 6] = upright[:, 23, 6:20] = 255  # the letter L
    labels = np.array([1, 12], np.uint8)
    lying = np.ascontiguousarray(upright.swapaxes(1, 2))
    for split in ("letters", "balanced"):
        write_split(tmp_path / layout, lying, layout == ".", f"emnist-{split}-train", labels)
    letters, balanced = load_dataset("emnist-letters", tmp_path), load_dataset("emnist", tmp_path)
    for emnist, names in ((letters, ["a", "l"]), (balanced, ["1", "C"])):
        assert np.array_equal(emnist.images, upright)
        assert [emnist.class_names[label] for label in labels_of(emnist)] == names


def test_emnist_letters_begin_at_1(tmp_path: Path, sample_images: Images) -> None:
    write_split(tmp_path, sample_images, False, "emnist-letters-train")  # all of the label 0
    with pytest.raises(DatasetError, match="labels from 255 to 255, expected 0 to 25"):
        load_dataset("emnist-letters", tmp_path)


def test_classes_that_are_named_here_are_those_of_torchvision() -> None:
    emnist = torchvision_class("emnist").classes_split_dict
    for split in ("balanced", "byclass", "digits"):
        assert DATASETS["emnist" if split == "balanced" else f"emnist-{split}"].class_names == tuple(emnist[split])
    assert ("N/A", *(DATASETS["emnist-letters"].class_names or ())) == tuple(emnist["letters"])
    assert DATASETS["kmnist"].class_names == tuple(torchvision_class("kmnist").classes)


def test_every_constructor_takes_its_arguments_and_has_no_files_yet(tmp_path: Path) -> None:
    for name, source in DATASETS.items():
        for arguments in source.arguments.values() if source.constructor else ():
            with pytest.raises((RuntimeError, FileNotFoundError)):
                torchvision_class(name)(tmp_path, **arguments, download=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name, source in DATASETS.items() if source.constructor])
def test_whatever_is_downloaded_has_a_digest(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, digests = torchvision_class(name), []
    module = sys.modules[kind.download.__module__ if hasattr(kind, "download") else kind.__module__]
    for function in ("download_url", "download_and_extract_archive", "download_file_from_google_drive"):
        if hasattr(module, function):
            signature = inspect.signature(getattr(module, function))

            def told(*given: Any, _signature: inspect.Signature = signature, **named: Any) -> None:
                digests.append(_signature.bind(*given, **named).arguments.get("md5"))

            monkeypatch.setattr(module, function, told)
    for arguments in DATASETS[name].arguments.values():
        digests.clear()
        with contextlib.suppress(Exception):  # nothing has come
            kind(tmp_path / name, **arguments, download=True)
        assert digests
        assert all(re.fullmatch("[0-9a-f]{32}", digest or "") for digest in digests), digests


def test_idx_files_need_no_torch(tmp_path: Path, sample_images: Images) -> None:
    write_split(tmp_path, sample_images, True, "emnist-balanced-train")
    code = f"""
import sys; from pathlib import Path; from dcgan.loading import load_dataset
assert len(load_dataset("emnist", Path({str(tmp_path)!r}))) == 64
assert not [name for name in sys.modules if name.startswith("torch")]
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_qmnist_and_usps(tmp_path: Path) -> None:
    grey = colours(2, 28)[..., 0]
    raw = tmp_path / "QMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "qmnist-train-images-idx3-ubyte").write_bytes(idx_bytes(grey))
    columns = np.array([[7, *range(7)], [3, *range(7)]], ">i4")  # the class, and where a digit comes from
    (raw / "qmnist-train-labels-idx2-int").write_bytes(b"\0\0\x0c\2" + struct.pack(">2I", 2, 8) + columns.tobytes())
    qmnist = load_dataset("qmnist", tmp_path)
    assert np.array_equal(qmnist.images, grey)
    assert labels_of(qmnist).tolist() == [7, 3]

    black_and_white = np.where(grey[:, :16, :16] < 128, -1, 1)
    lines = (
        " ".join([str(digit + 1), *(f"{place}:{value}" for place, value in enumerate(image.ravel(), 1))])
        for digit, image in zip((4, 9), black_and_white, strict=True)
    )
    (tmp_path / "usps.bz2").write_bytes(bz2.compress("\n".join(lines).encode()))
    usps = load_dataset("usps", tmp_path)
    assert np.array_equal(usps.images, np.where(black_and_white < 0, 0, 255))
    assert labels_of(usps).tolist() == [4, 9]


def save(folder: Path, names: str, colour: str) -> list[str]:
    """Nine pictures, wider than high; `names` has a place for their numbers. Returns their names."""
    paths = [folder / names.format(number) for number in range(9)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 70), colour).save(path)
    return [path.relative_to(folder).as_posix() for path in paths]


def write_celeba(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder / "celeba"
    images = folder / "img_align_celeba"
    parts = dict.fromkeys(save(images, "00001{}.jpg", "red"), 0) | dict.fromkeys(save(images, "00002{}.jpg", "blue"), 0)
    parts |= dict.fromkeys(save(images, "00003{}.jpg", "green"), 2)  # of the test split
    for file in ("list_attr_celeba", "list_bbox_celeba", "list_landmarks_align_celeba"):
        lines = [str(len(parts)), "one two", *(f"{name}  1 -1" for name in parts)]
        (folder / f"{file}.txt").write_text("\n".join(lines))
    (folder / "identity_CelebA.txt").write_text("\n".join(f"{name} 7" for name in parts))
    (folder / "list_eval_partition.txt").write_text("\n".join(f"{name} {part}" for name, part in parts.items()))
    kind = torchvision_class("celeba")
    listed = [("", md5(folder / file) if file.endswith(".txt") else "", file) for _, _, file in kind.file_list]
    monkeypatch.setattr(kind, "file_list", listed)


def write_dtd(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder / "dtd" / "dtd"
    names = save(folder / "images", "banded/{}.jpg", "red") + save(folder / "images", "woven/{}.jpg", "blue")
    (folder / "labels").mkdir()
    (folder / "labels" / "train1.txt").write_text("\n".join(names))


def write_eurosat(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(folder / "eurosat" / "2750", "Forest/{}.jpg", "red")
    save(folder / "eurosat" / "2750", "River/{}.jpg", "blue")


def write_flowers102(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder / "flowers-102"
    save(folder / "jpg", "image_0001{}.jpg", "blue")
    save(folder / "jpg", "image_0002{}.jpg", "red")
    scipy.io.savemat(folder / "setid.mat", {"trnid": [*range(20, 29), *range(10, 19)], "tstid": [1]})
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": [2] * 19 + [1] * 9})  # from image 1 on
    listed = {"image": ("102flowers.tgz", "")}
    for key, file in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
        listed[key] = (file, md5(folder / file))
    monkeypatch.setattr(torchvision_class("flowers102"), "_file_dict", listed)


def write_food101(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder / "food-101"
    save(folder / "images", "apple_pie/{}.jpg", "red")
    save(folder / "images", "waffles/{}.jpg", "blue")
    (folder / "meta").mkdir()
    listed = {food: [f"{food}/{number}" for number in range(9)] for food in ("apple_pie", "waffles")}
    (folder / "meta" / "train.json").write_text(json.dumps(listed))


def write_imagenette(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(folder / "imagenette2-320" / "train", "n01440764/{}.JPEG", "red")
    save(folder / "imagenette2-320" / "train", "n02102040/{}.JPEG", "blue")


def write_pets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder / "oxford-iiit-pet"
    names = (
        save(folder / "images", "Abyssinian_{}.jpg", "red"),
        save(folder / "images", "american_bulldog_{}.jpg", "blue"),
    )
    lines = [f"{name[:-4]} {label} {label} 1" for label, of_label in enumerate(names, 1) for name in of_label]
    (folder / "annotations").mkdir()
    (folder / "annotations" / "trainval.txt").write_text("\n".join(lines))


WRITERS: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], None], tuple[str, ...]]] = {
    "celeba": (write_celeba, ()),
    "dtd": (write_dtd, ("banded", "woven")),
    "eurosat": (write_eurosat, ("Forest", "River")),
    "flowers102": (write_flowers102, ("pink primrose", "hard-leaved pocket orchid")),
    "food101": (write_food101, ("apple pie", "waffles")),
    "imagenette": (write_imagenette, ("tench", "English springer")),
    "oxford-iiit-pet": (write_pets, ("Abyssinian", "American Bulldog")),
}


@pytest.fixture
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded images go where the test's files go."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_set_of_files_has_a_test() -> None:
    assert sorted(WRITERS) == sorted(name for name, source in DATASETS.items() if source.files)


@pytest.mark.usefixtures("_no_cache")
@pytest.mark.parametrize("name", WRITERS)
def test_sets_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write, names = WRITERS[name]
    write(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    for data_dir in (tmp_path, Path()):  # a relative one too: the paths in torchvision's lists begin with it
        dataset = load_dataset(name, data_dir)
        assert dataset.images.shape == (18, 64, 64, 3)
        is_blue = dataset.images[:, 9, 9].argmax(1) == 2
        assert is_blue.sum() == 9
        assert dataset.class_names[:2] == names
        if name == "celeba":
            assert dataset.labels is None
        else:
            assert np.array_equal(labels_of(dataset), is_blue)
    assert load_dataset(name, tmp_path, size=20, channels="grey").images.shape == (18, 20, 20)


@pytest.mark.usefixtures("_no_cache")
def test_an_image_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_food101(tmp_path, monkeypatch)
    missing = tmp_path / "food-101" / "images" / "waffles" / "3.jpg"
    missing.unlink()
    with pytest.raises(
        DatasetError, match=r"1 of 18 images of food101 can't be read, .*waffles/3.jpg \(.*food-101 and"
    ):
        load_dataset("food101", tmp_path)


@pytest.mark.usefixtures("_no_cache")
def test_images_of_ones_own(tmp_path: Path) -> None:
    save(tmp_path / "mine", "red/{}.png", "red")
    save(tmp_path / "mine", "blue/{}.png", "blue")
    mine = load_dataset("images", tmp_path / "mine")
    assert (mine.images.shape, mine.class_names) == ((18, 64, 64, 3), ("blue", "red"))
    assert load_dataset("images", tmp_path / "mine", size=20, channels="grey").images.shape == (18, 20, 20)


def test_own_size_and_colour_are_left_alone_and_others_converted(
    tmp_path: Path, sample_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split(tmp_path, sample_images, zipped=False)
    told: list[tuple[str, int, int]] = []
    same = load_dataset("mnist", tmp_path, size=28, channels="grey", progress=lambda *step: told.append(step))
    assert np.array_equal(same.images, sample_images)
    assert told == []
    assert _fitted(same.images, 28, "auto", silent) is same.images  # nothing is copied
    larger = load_dataset("mnist", tmp_path, size=32, progress=lambda *step: told.append(step)).images
    assert larger.shape == (64, 32, 32)
    assert told[-1] == ("resizing", 64, 64)
    # Antialiased: a quarter of the side has the means of squares of 4x4, about; every fourth pixel would be 60 off.
    smaller = load_dataset("mnist", tmp_path, size=7).images.astype(float)
    assert np.abs(smaller - sample_images.reshape(64, 7, 4, 7, 4).mean((2, 4))).mean() < 10
    coloured = load_dataset("mnist", tmp_path, channels="colour").images
    assert np.array_equal(coloured, np.repeat(sample_images[..., None], 3, axis=3))

    write_cifar(tmp_path, "cifar10", colours(3, 32), [1, 0, 1], monkeypatch)
    grey = load_dataset("cifar10", tmp_path, channels="grey").images
    luminance = colours(3, 32) @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's mode L has it
    assert np.abs(grey[:3] - luminance).max() <= 1


@pytest.mark.parametrize("file", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_pickle_of_another_md5_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "it ran"),)

    folder = write_cifar(tmp_path, "cifar10", colours(3, 32), [1, 0, 1], monkeypatch)
    (folder / file).write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(DatasetError, match=f"{file} is damaged or another file: its MD5 is not cifar10's"):
        load_dataset("cifar10", tmp_path)
    assert not (tmp_path / "it ran").exists()
    pickle.loads((folder / file).read_bytes())  # it would have
    assert (tmp_path / "it ran").exists()


def test_damaged_files_of_other_sets_are_named(
    tmp_path: Path, sample_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_svhn(tmp_path, colours(3, 32), [10, 1, 9], monkeypatch)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"train_32x32.mat is damaged or another file: its MD5 is not svhn's"):
        load_dataset("svhn", tmp_path)
    (tmp_path / "usps.bz2").write_bytes(b"BZh9")
    monkeypatch.setattr(torchvision_class("usps"), "split_list", {"train": ["", "usps.bz2", "0" * 32]})
    with pytest.raises(DatasetError, match=r"usps.bz2 is damaged or another file"):
        load_dataset("usps", tmp_path)
    write_celeba(tmp_path, monkeypatch)
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("")
    with pytest.raises(DatasetError, match=r"list_eval_partition.txt is damaged or another file"):
        load_dataset("celeba", tmp_path)
    write_split(tmp_path / "QMNIST" / "raw", sample_images, False, "qmnist-train")
    labels = tmp_path / "QMNIST" / "raw" / "qmnist-train-labels-idx2-int"
    (tmp_path / "QMNIST" / "raw" / "qmnist-train-labels-idx1-ubyte").rename(labels)  # torchvision has no MD5 of it
    with pytest.raises(DatasetError, match=r"QMNIST.raw can't be read as qmnist \(targets should have 2 dimensions"):
        load_dataset("qmnist", tmp_path)


def test_labels_that_no_class_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, "cifar10", colours(3, 32), [1, 0, 2], monkeypatch)
    with pytest.raises(DatasetError, match="cifar10 labels from 0 to 2, expected 0 to 1"):
        load_dataset("cifar10", tmp_path)


def test_names_and_splits_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="unknown data set 'cifar'; choose from mnist, "):
        load_dataset("cifar", tmp_path)
    for name in ("sample", "eurosat", "stl10-unlabelled"):
        with pytest.raises(DatasetError, match=f"{name} has no 'test' images, only train"):
            load_dataset(name, tmp_path, "test")


@pytest.mark.parametrize(
    ("missing", "name", "says"),
    [
        ("torchvision.datasets", "cifar10", "cifar10 is read by torchvision: torchvision.datasets is not installed"),
        ("torchvision.datasets", "emnist", "to download them, is not installed; use --data-dir"),
        ("scipy", "svhn", "svhn is read with scipy, which is not installed: pip install scipy"),
        ("gdown", "celeba", "pip install gdown"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, name: str, says: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DatasetError, match=says) as raised:
        load_dataset(name, tmp_path / "new")
    assert len(str(raised.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def pack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server of the files in `tmp_path / "server"`."""
    (tmp_path / "server").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "server"))

        def log_message(self, *args: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,)).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_download_and_a_download_that_broke_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    kind, data_dir = torchvision_class("cifar10"), tmp_path / "data"
    folder = write_cifar(tmp_path, "cifar10", colours(3, 32), [1, 0, 1], monkeypatch)
    archive = tmp_path / "server" / kind.filename
    pack(archive, folder)
    monkeypatch.setattr(kind, "url", f"{server}/{kind.filename}")
    monkeypatch.setattr(kind, "tgz_md5", md5(archive))
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-9])
    with pytest.raises(DatasetError, match=r"downloading them failed \(File not found or corrupted.\); use --data-dir"):
        load_dataset("cifar10", data_dir)
    assert not data_dir.exists()
    archive.write_bytes(whole)
    told: list[tuple[str, int, int]] = []
    for _ in range(2):  # the second time from the folder
        assert len(load_dataset("cifar10", data_dir, progress=lambda *step: told.append(step))) == 15
        archive.unlink(missing_ok=True)
    assert told == [("downloading cifar10", 0, 1), ("downloading cifar10", 1, 1)]
    assert sorted(path.name for path in data_dir.iterdir()) == [kind.base_folder, kind.filename]
    assert capfd.readouterr() == ("", "")


def test_an_archive_in_the_folder_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, data_dir = torchvision_class("cifar10"), tmp_path / "data"
    data_dir.mkdir()
    folder = write_cifar(tmp_path, "cifar10", colours(3, 32), [1, 0, 1], monkeypatch)
    pack(data_dir / kind.filename, folder)
    monkeypatch.setattr(kind, "tgz_md5", md5(data_dir / kind.filename))
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("cifar10", Path("data"))) == 15
    assert (data_dir / kind.filename).is_file()


def test_an_archive_in_the_folder_of_its_set_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = torchvision_class("flowers102")
    write_flowers102(tmp_path, monkeypatch)
    folder = tmp_path / "flowers-102"
    pack(folder / "102flowers.tgz", folder / "jpg")
    monkeypatch.setattr(
        kind, "_file_dict", kind._file_dict | {"image": ("102flowers.tgz", md5(folder / "102flowers.tgz"))}
    )
    shutil.rmtree(folder / "jpg")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(load_dataset("flowers102", tmp_path)) == 18


def test_a_download_that_leaves_nothing_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcgan.datasets.download", lambda *_: None)
    with pytest.raises(DatasetError, match=r"cifar-10-batches-py can't be read as cifar10 \(Dataset not found"):
        load_dataset("cifar10", tmp_path)


def test_a_file_is_no_data_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    for name in ("mnist", "cifar10"):
        with pytest.raises(DatasetError, match="data is not a folder; use --data-dir"):
            load_dataset(name, tmp_path / "data")


def test_half_an_archive_is_not_taken_for_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision looks only for the folder of Food-101, which is there as soon as unpacking has begun."""
    kind, data_dir = torchvision_class("food101"), tmp_path / "data"
    data_dir.mkdir()
    write_food101(tmp_path, monkeypatch)
    (tmp_path / "food-101" / "zeros").write_bytes(bytes(1 << 20))
    archive = data_dir / "food-101.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        for part in ("meta", "images", "zeros"):
            tar.add(tmp_path / "food-101" / part, f"food-101/{part}")
    archive.write_bytes(archive.read_bytes()[: 1 << 19])
    monkeypatch.setattr(kind, "_MD5", md5(archive))
    with pytest.raises(DatasetError, match="downloading them failed"):
        load_dataset("food101", data_dir)
    assert list(data_dir.iterdir()) == [archive]
    with pytest.raises(EOFError):  # torchvision alone leaves it
        kind(data_dir, download=True)
    assert len(kind(data_dir)) == 18


def test_a_download_adds_to_the_folder_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = torchvision_class("cifar10")
    folder = write_cifar(tmp_path, "cifar10", colours(3, 32), [1, 0, 1], monkeypatch)
    pack(tmp_path / kind.filename, folder)
    monkeypatch.setattr(kind, "tgz_md5", md5(tmp_path / kind.filename))
    (folder / "data_batch_2").unlink()
    (folder / "notes.md").write_text("of the user")
    assert len(load_dataset("cifar10", tmp_path)) == 15
    assert (folder / "notes.md").read_text() == "of the user"


def test_the_table_of_the_docs_has_every_set() -> None:
    lines = (ROOT / "docs" / "datasets.md").read_text().splitlines()
    assert [line.split("`")[1] for line in lines if line.startswith("| `")] == list(DATASETS)
