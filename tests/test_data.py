from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from conftest import ROOT, idx_bytes

from dcgan.data import load_dataset, read_idx
from dcgan_infer.contract.errors import DatasetError

Images = npt.NDArray[np.uint8]


def write_split(folder: Path, images: Images, zipped: bool, prefix: str = "train") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.zeros(len(images), np.uint8)
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
    assert len(load_dataset(name, tmp_path, "test").labels) == 9


def test_the_sample_is_real_mnist() -> None:
    sample = load_dataset("sample", Path("unused"))
    assert sample.images.shape == (10_000, 28, 28)
    assert sample.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert min(np.bincount(sample.labels, minlength=10)) > 800


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
