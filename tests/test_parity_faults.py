"""Parity refuses every planted fault, and none of the undamaged artifacts they were planted in."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from chains import dcgan_spec, upsampling_spec
from exported import Exported, exported, exported_chain, generator_of, small_spec
from planted_faults import Fault, faults, unfolded, weighted
from torch import Tensor, nn

from dcgan_export import exact, onnx_file, parity
from dcgan_export.formats import FORMATS, Variant
from dcgan_infer.contract.errors import ExportError
from dcgan_infer.contract.layers import SIGMOID, Activate
from dcgan_infer.contract.spec import GeneratorSpec, reference_spec

ACTIVATIONS = ("relu", "leaky-relu", "elu", "softplus")
# Of small networks that others wrote, PyTorch's DCGAN example and PyTorch-GAN's dcgan.py; and one that ends in sigmoid.
DCGAN = dcgan_spec(64, ngf=8)
THEIRS = {
    "dcgan": DCGAN,
    "upsampling": upsampling_spec(16, 3, nz=20, width=16),
    "sigmoid": replace(
        dcgan_spec(16, nc=1, nz=8, ngf=8),
        value_range=(0.0, 1.0),
        layers=(*dcgan_spec(16, nc=1, nz=8, ngf=8).layers[:-1], Activate("end", SIGMOID)),
    ),
    "conditional": reference_spec(6, (3, 8, 12), 3, channels=(8, 6, 5)),
}


def refused(format_name: str, path: Path, probes: tuple[exact.Probe, ...], spec: GeneratorSpec) -> bool:
    try:
        run = FORMATS[format_name].load_module().load(path)
    except ExportError:
        return True
    return not parity.compare(run, probes, spec, Variant(format_name).settled()).passed


def whole(right: Exported) -> onnx.ModelProto:
    """The artifact with a node for every layer."""
    return unfolded(onnx.load_from_string(right.content), right.generator)


def check(fault: Fault, right: Exported, folder: Path) -> None:
    path = folder / "damaged.onnx"
    model = whole(right)
    damaged = fault.in_copy_of(model)
    assert damaged != model, "nothing was planted"
    path.write_bytes(damaged.SerializeToString())
    assert refused("onnx", path, right.probes, right.generator.spec), f"parity let {fault.name!r} through"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("fault", faults(small_spec()), ids=lambda fault: fault.name)
def test_a_fault_in_a_small_generator_is_refused(fault: Fault, activation: str, tmp_path: Path) -> None:
    check(fault, exported("onnx", activation), tmp_path)


@pytest.mark.parametrize(
    ("name", "fault"),
    [(name, fault) for name, spec in THEIRS.items() for fault in faults(spec)],
    ids=lambda value: value.name if isinstance(value, Fault) else value,
)
def test_a_fault_in_a_generator_of_other_layers_is_refused(name: str, fault: Fault, tmp_path: Path) -> None:
    check(fault, exported_chain(THEIRS[name]), tmp_path)


# The faults whose effect shrinks with the number of weights that are right.
@pytest.mark.parametrize(
    "fault",
    [
        fault
        for fault in faults(reference_spec())
        if "0.1 %" in fault.name or "float16" in fault.name or "epsilon 2e-5" in fault.name
    ],
    ids=lambda fault: fault.name,
)
def test_a_small_fault_in_a_full_size_generator_is_refused(fault: Fault, tmp_path: Path) -> None:
    check(fault, exported("onnx", full_size=True), tmp_path)


@pytest.mark.parametrize(
    "right",
    [*ACTIVATIONS, "full size", *THEIRS],
)
def test_the_undamaged_artifact_passes(right: str, tmp_path: Path) -> None:
    """As it was written, and with a node for every layer, as faults are planted in it."""
    if right in THEIRS:
        made = exported_chain(THEIRS[right])
    else:
        made = exported("onnx", full_size=True) if right == "full size" else exported("onnx", right)
    for content in (made.content, whole(made).SerializeToString()):
        path = tmp_path / "right.onnx"
        path.write_bytes(content)
        report = parity.compare(onnx_file.load(path), made.probes, made.generator.spec, Variant().settled())
        assert report.passed, report.table()


def test_every_kind_of_fault_is_planted() -> None:
    """In each network what its layers have, and nothing that they have not."""
    kinds = {name: {fault.name.rpartition(": ")[2] for fault in faults(spec)} for name, spec in THEIRS.items()}
    everywhere = set.intersection(*kinds.values())
    assert everywhere >= {
        "weights off by 0.1 %", "bias dropped", "two channels swapped", "kernel flipped", "in training mode",
        "sign of one weight flipped", "NaN in one weight", "weights rounded to float16", "BatchNorm epsilon 2e-5",
        "an older checkpoint's weights (1 % apart)", "noise of 1e-4 in the output", "height and width exchanged",
        "batch fixed at the example's size", "output activation missing", "output upside down in value",
    }  # fmt: skip
    assert {name for name in kinds if "red and blue exchanged" in kinds[name]} == {"dcgan", "upsampling", "conditional"}
    assert {name for name in kinds if "output scaled to [0, 1]" in kinds[name]} == set(kinds) - {"sigmoid"}
    assert {name for name in kinds if "upsampling bilinear" in kinds[name]} == {"upsampling"}
    assert "BatchNorm epsilon 1e-5, PyTorch's default" in kinds["upsampling"] - kinds["dcgan"]
    assert not any(fault.name == "main.0: bias dropped" for fault in faults(DCGAN))
    assert "linear1: kernel flipped" not in {fault.name for fault in faults(small_spec())}


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
@pytest.mark.parametrize("fault", [*(layer.name for layer in weighted(small_spec())), "half"])
def test_a_fault_in_a_torch_format_is_refused(fault: str, format_name: str, tmp_path: Path) -> None:
    right = exported(format_name)
    damaged = Half(right.generator) if fault == "half" else off_by_a_thousandth(fault)
    path = tmp_path / "damaged"
    spec, variant = right.generator.spec, Variant(format_name).settled()
    FORMATS[format_name].load_module().write(damaged.eval(), spec, path, {}, variant)
    assert refused(format_name, path, right.probes, spec)


def test_a_trace_in_training_mode_is_refused(tmp_path: Path) -> None:
    right = exported("torchscript")
    path = tmp_path / "damaged.pt"
    training = copy.deepcopy(right.generator).train()
    FORMATS["torchscript"].load_module().write(training, training.spec, path, {}, Variant("torchscript").settled())
    assert refused("torchscript", path, right.probes, training.spec)
