"""TorchScript: for C++ (libtorch) and for what still asks for it; upstream calls it deprecated.

Scripted, not frozen: a consumer can move the module to a GPU and read its `state_dict`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from dcgan_infer.contract.errors import ExportError, first_line
from dcgan_infer.contract.spec import GeneratorSpec

from .formats import USUAL, Runner, Variant
from .torch_files import canonical, runner

PACKAGES = ("torch",)
# Members that list source paths of the exporting machine, for tracebacks, and a hash over all members.
_HOST_PATHS = (".debug_pkl", "/.data/serialization_id")


def write(
    generator: nn.Module,
    spec: GeneratorSpec,  # noqa: ARG001  every format is called alike; a script needs no example input
    path: Path,
    metadata: Mapping[str, str],
    variant: Variant = USUAL,
) -> None:
    """Write a generator as TorchScript, the metadata as extra files; see `formats.FormatModule.write`."""
    if variant != USUAL:
        raise ExportError(
            "TorchScript has no opsets, precisions or other images; leave these options out, or export ONNX"
        )
    buffer = io.BytesIO()  # given a path, torch writes the name of the file into it
    with _without_deprecations():
        torch.jit.save(torch.jit.script(generator), buffer, _extra_files=dict(sorted(metadata.items())))
    path.write_bytes(canonical(buffer.getvalue(), _HOST_PATHS))


def load(path: Path) -> Runner:
    """Load a file with `torch.jit.load` on the CPU; see `formats.FormatModule.load`."""
    try:
        with _without_deprecations():
            module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"torch.jit.load refuses the TorchScript file: {first_line(error)}") from error
    return runner(module)


@contextmanager
def _without_deprecations() -> Iterator[None]:
    with warnings.catch_warnings():
        # A FutureWarning since torch 2.14, a DeprecationWarning before; this project offers `pt2` beside TorchScript.
        warnings.filterwarnings("ignore", r".*torch\.jit", FutureWarning)
        warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
        yield
