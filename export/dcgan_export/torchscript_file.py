"""TorchScript: for C++ (libtorch) and for what still asks for it; upstream calls it deprecated.

Traced, so that any module can be written, and not frozen: a consumer can move it to a GPU and read its `state_dict`.
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
from dcgan_infer.contract.spec import Interface

from .formats import Runner, Variant
from .torch_files import canonical, example_inputs, runner

PACKAGES = ("torch",)
# Members that list source paths of the exporting machine, for tracebacks, and a hash over all members.
_HOST_PATHS = (".debug_pkl", "/.data/serialization_id")


def write(
    generator: nn.Module,
    spec: Interface,
    path: Path,
    metadata: Mapping[str, str],
    variant: Variant,  # noqa: ARG001  every format is called alike
) -> None:
    """Write a generator as TorchScript, the metadata as extra files; see `formats.FormatModule.write`."""
    buffer = io.BytesIO()  # given a path, torch writes the name of the file into it
    with _without_deprecations():
        # What a trace fixes, and should not (a size, a branch), parity sees in its batches of four sizes. The first
        # trace of a class in a process is written otherwise than all after it: it shares files with others.
        for _ in range(2):
            traced = torch.jit.trace(generator, example_inputs(spec), check_trace=False)  # type: ignore[no-untyped-call]
        if not isinstance(traced, torch.jit.ScriptModule):  # torch gives the module back as it is
            raise ExportError("PYTORCH_JIT=0 switches TorchScript off; unset it, and export again")
        torch.jit.save(traced, buffer, _extra_files=dict(sorted(metadata.items())))
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
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield
