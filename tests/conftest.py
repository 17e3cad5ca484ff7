"""Fixtures that several test files share. Imports no torch: the inference tests run where there is none."""

from __future__ import annotations

import gzip
import os
import signal
import struct
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

# Before anything imports torch: small tensors gain nothing from threads, and lose much where the cores are busy.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything imports onnxruntime, as dcgan_infer does

# A shell's background jobs and nohup ignore these, and what tests start would too, which is as it should be
# (dcgan_infer.signals), but not what they are about.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "tests" / "fixtures" / "models"  # tiny ones, in colour: make.py there
OLD = ROOT / "tests" / "fixtures" / "0.1"  # that version 0.1 wrote
# Peers that benchmarks and tests both compare with (benchmarks/document.py and others). At the end of the path, so that
# an installed package is not shadowed.
sys.path.append(str(ROOT / "benchmarks"))
sys.path.append(str(ROOT / "examples"))  # check.py
sys.path.append(str(ROOT / "tools"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The browser's tests first: each takes a minute or more, and at the end one process would wait for the other."""
    items.sort(key=lambda item: item.path.name != "test_web.py")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """A test that runs alone has the same random weights each time: of some, a proof in int8 fails."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


def idx_bytes(array: npt.NDArray[np.uint8]) -> bytes:
    """The content of an IDX file that holds `array`."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


class StopAfter:
    """Says once, after a number of steps, that the run is interrupted."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.fixture(scope="session")
def sample_images() -> npt.NDArray[np.uint8]:
    """The first 64 images of the shipped sample: uint8, shape (64, 28, 28)."""
    content = gzip.decompress((ROOT / "dcgan" / "sample" / "train-images-idx3-ubyte.gz").read_bytes())
    return np.array(np.frombuffer(content, np.uint8, offset=16, count=64 * 784).reshape(64, 28, 28))


@pytest.fixture
def data_dir(tmp_path: Path, sample_images: npt.NDArray[np.uint8]) -> Path:
    """A folder with 64 real images and labels as raw IDX files, so that an epoch takes a fraction of a second."""
    folder = tmp_path / "idx"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(sample_images))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(64, dtype=np.uint8) % 10))
    return folder
