"""Torch's settings of a program that calls us: they change nothing that we make, and are as they were afterwards."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import generator_of, save

from dcgan import torch_state
from dcgan.checkpoint import load_generator
from dcgan.metrics.classification import classification_accuracy_score
from dcgan.metrics.two_sample import two_sample_accuracy
from dcgan.recipes import RECIPES
from dcgan.run import train
from dcgan.run_options import RunOptions
from dcgan.sources import open_images
from dcgan.torch_state import our_settings
from dcgan_export.formats import Variant
from dcgan_export.golden import make_golden
from dcgan_export.prove import prove
from dcgan_export.publish import Beside, publish


@contextlib.contextmanager
def set_to(setter: Any, value: Any, before: Any) -> Iterator[None]:
    setter(value)
    try:
        yield
    finally:
        setter(before)


@contextlib.contextmanager
def matmul_precision(value: str) -> Iterator[None]:
    backend: Any = torch.backends
    torch.set_float32_matmul_precision(value)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        backend.mkldnn.matmul.fp32_precision = backend.cuda.matmul.fp32_precision = "none"


@contextlib.contextmanager
def mixed_tf32() -> Iterator[None]:
    """As the newer of two interfaces sets it; whoever reads the older one then gets an error, as torch.export does."""
    cudnn: Any = torch.backends.cudnn
    cudnn.conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        cudnn.allow_tf32 = True


@contextlib.contextmanager
def all_of_them() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, setting in AMBIENT.items():
            if name not in ("all of them", "threads"):
                stack.enter_context(setting())
        yield


# What a program may have set, by name.
AMBIENT: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: set_to(torch.set_default_dtype, torch.float64, torch.float32),
    "float16": lambda: set_to(torch.set_default_dtype, torch.float16, torch.float32),
    "device meta": lambda: set_to(torch.set_default_device, "meta", None),
    "in a block of meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": lambda: set_to(torch.use_deterministic_algorithms, True, False),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "flush denormal": lambda: set_to(torch.set_flush_denormal, True, False),
    "matmul precision": lambda: matmul_precision("medium"),
    "TF32 by the newer interface": mixed_tf32,
    "threads": lambda: set_to(torch.set_num_threads, 2, 1),
    "random numbers": lambda: set_to(torch.manual_seed, 1234, 0),
    "all of them": all_of_them,
}
ambient = pytest.mark.parametrize("name", AMBIENT)


def state() -> dict[str, Any]:
    """All that `AMBIENT` sets, as torch sees it now."""
    backends: Any = torch.backends
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "device of a tensor": torch.zeros(1).device,
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "grad": torch.is_grad_enabled(),
        "flush": float(np.float32(1e-40) * np.float32(1)) == 0.0,
        "precision": torch.get_float32_matmul_precision(),
        "mkldnn": backends.mkldnn.matmul.fp32_precision,
        "cudnn": (backends.cudnn.conv.fp32_precision, backends.cudnn.rnn.fp32_precision),
        "threads": torch.get_num_threads(),
        "random": torch.get_rng_state().tolist(),
    }


@contextlib.contextmanager
def set_and_found_again(name: str) -> Iterator[None]:
    """The setting; it must be there at the end too, whatever ends the block."""
    with AMBIENT[name]():
        before = state()
        try:
            yield
        finally:
            assert state() == before


@ambient
def test_inside_all_is_as_torch_starts_and_outside_as_it_was(name: str) -> None:
    with our_settings():
        expected = state()
    with set_and_found_again(name):
        assert name == "no grad" or state() != {**expected, "random": state()["random"]} or name == "random numbers"
        with our_settings(threads=1):
            assert {**state(), "precision": "", "mkldnn": ""} == {**expected, "precision": "", "mkldnn": ""}
            assert state()["mkldnn"] in ("none", "ieee")
    with set_and_found_again(name), pytest.raises(ZeroDivisionError), our_settings(threads=1):
        _ = 1 / 0


def test_a_precision_that_came_from_above_still_does() -> None:
    backends: Any = torch.backends
    with set_to(lambda value: setattr(backends, "fp32_precision", value), "tf32", "none"):
        with our_settings():
            assert backends.mkldnn.matmul.fp32_precision == "ieee"
        assert backends.mkldnn.matmul.fp32_precision == "tf32"
    assert backends.mkldnn.matmul.fp32_precision == "none"


def test_no_more_threads_than_a_container_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    with set_to(torch.set_num_threads, 8, 1):
        monkeypatch.setattr(torch_state, "cores", lambda: 3)
        assert torch_state.usual_threads() == 3
        with our_settings():
            assert torch.get_num_threads() == 3
        with our_settings(5):
            assert torch.get_num_threads() == 5
        monkeypatch.setattr(torch_state, "cores", lambda: 64)
        with our_settings():
            assert torch.get_num_threads() == 8


# TorchScript is written fastest, and a mode of torch's changes its bytes.
QUICK = {".pt": Variant("torchscript")}
EVERY = {**QUICK, ".onnx": Variant(precision="int8", image="uint8"), ".pt2": Variant("pt2")}


def artifacts(folder: Path, checkpoint: Path, variants: dict[str, Variant]) -> dict[str, Any]:
    """What a program gets that loads, exports and proves: digests of files, and figures."""
    folder.mkdir(exist_ok=True)
    made: dict[str, Any] = {}
    for suffix, variant in variants.items():
        artifact = publish(load_generator(checkpoint), folder / f"model{suffix}", variant, Beside(folder / "report"))
        made[suffix] = (artifact.sha256, artifact.report.as_dict())
    golden = make_golden(load_generator(checkpoint)).to_bytes()
    proof = prove(copy.deepcopy(generator_of()), folder / "model.pt").as_dict()
    return made | {"golden": hashlib.sha256(golden).hexdigest(), "proof": proof}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("state") / "small.safetensors")


@ambient
def test_an_export_is_the_same(name: str, tmp_path: Path, checkpoint: Path) -> None:
    variants = EVERY if name == "all of them" else QUICK
    expected = artifacts(tmp_path, checkpoint, variants)
    with set_and_found_again(name):
        found = artifacts(tmp_path, checkpoint, variants)
    if name == "threads":  # the caller's choice; with another number, sums are taken in another order
        assert all(found[suffix][0] == expected[suffix][0] for suffix in variants)
    else:
        assert found == expected


@ambient
def test_figures_are_the_same(name: str, checkpoint: Path) -> None:
    def figures() -> dict[str, Any]:
        images, _ = open_images(str(checkpoint), threads=1)(60, 0)
        others, labels = images[::-1].copy(), np.arange(60) % 3
        return {
            "images": hashlib.sha256(images.tobytes()).hexdigest(),
            "two-sample": two_sample_accuracy(images, others, steps=5, threads=1),
            "cas": classification_accuracy_score(images, labels, others, labels, epochs=1, threads=1),
        }

    right = figures()
    with set_and_found_again(name):
        assert figures() == right


def test_a_run_is_the_same(data_dir: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPES["fast"], epochs=1, batch_size=16, precision="fp32")
    options = RunOptions(recipe=recipe, dataset="mnist", data_dir=str(data_dir), seed=0, device="cpu", threads=1)
    train(tmp_path / "plain", options)
    with set_and_found_again("all of them"):
        train(tmp_path / "ambient", options)
    expected, found = (tmp_path / name / "generator.safetensors" for name in ("plain", "ambient"))
    assert found.read_bytes() == expected.read_bytes()
