"""pt2 (`torch.export`): the successor of TorchScript, for PyTorch and for compilers that build on it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from dcgan_infer.contract.errors import ExportError, first_line
from dcgan_infer.contract.spec import Interface

from .formats import Runner, Variant
from .torch_files import example_inputs, runner

PACKAGES = ("torch",)


def write(
    generator: nn.Module,
    spec: Interface,
    path: Path,
    metadata: Mapping[str, str],
    variant: Variant,  # noqa: ARG001  every format is called alike
) -> None:
    """Write a generator as an exported program, the metadata as extra files; see `formats.FormatModule.write`."""
    inputs = example_inputs(spec)
    program = torch.export.export(
        generator,
        inputs,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},) * len(inputs),
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source paths of the exporting machine
        # Classes by their bare names: the name of somebody's module is made of the path of its file.
        stack = node.meta.get("nn_module_stack", {})
        node.meta["nn_module_stack"] = {key: (path, name.rpartition(".")[2]) for key, (path, name) in stack.items()}
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
