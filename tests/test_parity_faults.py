"""Parity refuses every planted fault, and none of the undamaged artifacts they were planted in."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from exported import exported, generator_of, onnx_model
from planted_faults import FAULTS, LAYERS, Fault
from torch import Tensor, nn

from dcgan_export import exact, formats, onnx_file, parity
from dcgan_infer.contract.errors import ExportError

DOCUMENT = ("relu", "leaky-relu", "elu", "softplus")


def refused(format_name: str, path: Path, probes: tuple[exact.Probe, ...]) -> bool:
    try:
        run = formats.find(format_name).load_module().load(path)
    except ExportError:
        return True
    return not parity.compare(run, probes).passed


def check(fault: Fault, activation: str, full_size: bool, folder: Path) -> None:
    right = exported("onnx", activation, full_size=full_size)
    path = folder / "damaged.onnx"
    model = onnx_model(activation, full_size)
    damaged = fault.in_copy_of(model)
    assert damaged != model, "nothing was planted"
    path.write_bytes(damaged.SerializeToString())
    assert refused("onnx", path, right.probes), f"parity let {fault.name!r} through"


@pytest.mark.parametrize("activation", DOCUMENT)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_in_a_small_generator_is_refused(fault: Fault, activation: str, tmp_path: Path) -> None:
    check(fault, activation, False, tmp_path)


# The faults whose effect shrinks with the number of weights that are right.
@pytest.mark.parametrize(
    "fault",
    [fault for fault in FAULTS if "0.1 %" in fault.name or "float16" in fault.name or "epsilon 2e-5" in fault.name],
    ids=lambda fault: fault.name,
)
def test_a_small_fault_in_a_full_size_generator_is_refused(fault: Fault, tmp_path: Path) -> None:
    check(fault, "relu", True, tmp_path)


@pytest.mark.parametrize("activation", DOCUMENT)
def test_the_undamaged_artifact_passes(activation: str, tmp_path: Path) -> None:
    right = exported("onnx", activation)
    path = tmp_path / "right.onnx"
    path.write_bytes(onnx_model(activation).SerializeToString())
    report = parity.compare(onnx_file.load(path), right.probes)
    assert report.passed, report.table()


def test_the_undamaged_full_size_artifact_passes(tmp_path: Path) -> None:
    right = exported("onnx", full_size=True)
    path = tmp_path / "right.onnx"
    path.write_bytes(right.content)
    report = parity.compare(onnx_file.load(path), right.probes)
    assert report.passed, report.table()


class Half(nn.Module):
    """A generator that computes in half precision and says nothing about it."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = copy.deepcopy(generator).to(torch.bfloat16)

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.generator(z.to(torch.bfloat16)).float()
        return images


def off_by_a_thousandth(layer: str) -> nn.Module:
    damaged = copy.deepcopy(generator_of())
    with torch.no_grad():
        damaged.get_submodule(layer).get_parameter("weight").mul_(1.001)
    return damaged


@pytest.mark.parametrize("format_name", ["torchscript", "pt2"])
@pytest.mark.parametrize("fault", [*LAYERS, "half"])
def test_a_fault_in_a_torch_format_is_refused(fault: str, format_name: str, tmp_path: Path) -> None:
    right = exported(format_name)
    damaged = Half(right.generator) if fault == "half" else off_by_a_thousandth(fault)
    path = tmp_path / "damaged"
    formats.find(format_name).load_module().write(damaged.eval(), right.generator.spec, path, {}, formats.USUAL)
    assert refused(format_name, path, right.probes)


def test_a_script_in_training_mode_is_refused(tmp_path: Path) -> None:
    right = exported("torchscript")
    path = tmp_path / "damaged.pt"
    training = copy.deepcopy(right.generator).train()
    formats.find("torchscript").load_module().write(training, training.spec, path, {}, formats.USUAL)
    assert refused("torchscript", path, right.probes)
