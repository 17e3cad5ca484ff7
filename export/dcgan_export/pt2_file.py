"""pt2 (`torch.export`): the successor of TorchScript, for PyTorch and for compilers that build on it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from dcgan_infer.contract.errors import ExportError, first_line
from dcgan_infer.contract.spec import GeneratorSpec

from .formats import USUAL, Runner, Variant
from .torch_files import example_inputs, runner

PACKAGES = ("torch",)


def write(
    generator: nn.Module, spec: GeneratorSpec, path: Path, metadata: Mapping[str, str], variant: Variant = USUAL
) -> None:
    """Write a generator as an exported program, the metadata as extra files; see `formats.FormatModule.write`."""
    if variant != USUAL:
        raise ExportError("pt2 has no opsets, precisions or other images; leave these options out, or export ONNX")
    inputs = example_inputs(spec)
    program = torch.export.export(
        generator,
        inputs,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},) * len(inputs),
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source paths of the exporting machine
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=dict(sorted(metadata.items())))
    path.write_bytes(buffer.getvalue())


def load(path: Path) -> Runner:
    """Load a file with `torch.export.load`; see `formats.FormatModule.load`."""
    try:
        module = torch.export.load(io.BytesIO(path.read_bytes())).module()  # a path must end in .pt2
    except Exception as error:  # whatever torch's archive reader and deserialiser stumble on
        raise ExportError(f"torch.export.load refuses the pt2 file: {first_line(error)}") from error
    return runner(module)
