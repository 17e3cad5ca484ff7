"""On a CUDA device, where there is one: training, its exact resume, and what is exported. CI has none."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import MODELS, ROOT, StopAfter

from dcgan.checkpoint import load_generator
from dcgan.loading import load_dataset
from dcgan.parallel import ALONE, ONE, Processes
from dcgan.recipes import RECIPES, Recipe
from dcgan.run import train
from dcgan.run_options import RunOptions
from dcgan.torch_state import our_settings, repeatable
from dcgan.trainer import Trainer
from dcgan_export.formats import Variant
from dcgan_export.publish import publish
from dcgan_infer import ImageGenerator, shipped
from dcgan_infer.contract.latents import latents
from dcgan_infer.runtime import onnxruntime, providers
from dcgan_infer.verify import verify

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_provider = pytest.mark.skipif("cuda" not in providers(onnxruntime()), reason="needs onnxruntime-gpu")

FAST = dataclasses.replace(RECIPES["fast"], epochs=3, batch_size=16)


@pytest.mark.parametrize(
    "recipe",
    [
        dataclasses.replace(FAST, precision="fp32"),
        dataclasses.replace(FAST, precision="bf16"),
        dataclasses.replace(FAST, labels="asked", augment="diffaugment"),
        dataclasses.replace(RECIPES["baseline"], epochs=2, batch_size=8),
    ],
    ids=["fp32", "bf16", "conditional", "baseline"],
)
def test_interrupted_and_resumed_gives_the_same_bits(data_dir: Path, tmp_path: Path, recipe: Recipe) -> None:
    options = RunOptions(recipe=recipe, dataset="mnist", data_dir=str(data_dir), seed=0, device="cuda", threads=1)
    assert train(tmp_path / "whole", options)
    assert not train(tmp_path / "parts", options, interrupted=StopAfter(6))
    torch.manual_seed(1234)
    assert train(tmp_path / "parts", options, resume=True)
    whole, parts = ((tmp_path / name / "generator.safetensors").read_bytes() for name in ("whole", "parts"))
    assert parts == whole


def test_more_processes_than_devices_are_refused(data_dir: Path, tmp_path: Path) -> None:
    count = torch.cuda.device_count() + 1
    words = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "-m", "dcgan", "--device", "cuda"]
    words += ["--data-dir", str(data_dir), "--batch-size", "16", "-o", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"this host has {count - 1} CUDA devices for {count} processes" in done.stderr
    assert not (tmp_path / "run").exists()


def test_steps_through_nccl_are_those_of_one_process(data_dir: Path) -> None:
    """With one device there is one process, and nccl carries everything to itself: it is in the way, at least."""
    recipe = dataclasses.replace(FAST, precision="fp32", ngf=4, ndf=4)
    dataset = load_dataset("mnist", data_dir)
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        states = []
        for processes in (ALONE, Processes(ONE, store)):
            with our_settings(), repeatable(torch.device("cuda")):
                trainer = Trainer(recipe, dataset, torch.device("cuda", 0), seed=0)
                for optimizer in (trainer.g_optimizer, trainer.d_optimizer):
                    optimizer.param_groups[0]["eps"] = 1e-3  # as tests/test_parallel.py has it, and why
                trainer.join(processes)
                for first in range(0, 64, 16):
                    trainer.step(*trainer.batch(trainer.order(0)[first : first + 16]))
            states.append({name: tensor.cpu().double() for name, tensor in trainer.tensors().items()})
        assert dist.get_backend(processes.group) == "nccl"
    finally:
        dist.destroy_process_group()
    off = {
        name: float(((tensor - states[1][name]).abs() / (1 + tensor.abs())).max()) for name, tensor in states[0].items()
    }
    assert max(off.values()) < 1e-4, max(off, key=lambda name: off[name])


@pytest.mark.parametrize("optimize", ["none", "fused"])
def test_torchscript_makes_the_same_images_there(optimize: str, tmp_path: Path) -> None:
    source = load_generator(shipped.path_of("dcgan-mnist", ".safetensors"))
    publish(source, tmp_path / "model.pt", Variant("torchscript", optimize))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        module = torch.jit.load(tmp_path / "model.pt").cuda()  # type: ignore[no-untyped-call]
    z = torch.from_numpy(latents(0, 0, 32, source.spec.latent_dim))
    with torch.inference_mode():
        expected = copy.deepcopy(source.module).double()(z.double())
        off = float((module(z.cuda()).cpu() - expected).abs().max())
    assert off < 2e-5


@needs_provider
@pytest.mark.parametrize("name", shipped.names(".onnx"))
def test_shipped_models_are_verified_there(name: str) -> None:
    report = verify(name, provider="cuda")
    assert report.passed, report.table()


@needs_provider
@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_other_networks_agree_with_the_cpu(path: Path) -> None:
    """To a level of grey: a value between two may fall to either side."""
    there, here = (ImageGenerator(path, provider=name).generate(64) for name in ("cuda", "cpu"))
    assert np.abs(there.astype(int) - here).max() <= 1


@needs_provider
def test_float32_is_float32_there_unless_another_is_asked_for() -> None:
    """TF32, onnxruntime's default, is off by a hundred times as much: this test saw it fail."""
    z = {"z": latents(0, 0, 64, 100)}
    rounded, there, here = (
        ImageGenerator("dcgan-mnist", provider=name).model.run(z, 64) for name in ("cuda-tf32", "cuda", "cpu")
    )
    assert np.abs(there - here).max() < 2e-5
    assert 1e-4 < np.abs(rounded - here).max() < 0.1
