"""What torch's own two formats, TorchScript and pt2, share: zip archives, and how a loaded module is run."""

from __future__ import annotations

import io
import re
from zipfile import ZipFile, ZipInfo

import torch
from torch import Tensor, nn

from dcgan_infer.contract.spec import GeneratorSpec

from .formats import FloatArray, IntArray, Runner


def canonical(written: bytes, dropped: tuple[str, ...]) -> bytes:
    """The same archive with the same bytes on every machine: no dates, constants of a class in order of their names.

    Args:
        written: a zip archive.
        dropped: endings of the names of members to leave out.
    """
    kept = io.BytesIO()
    with ZipFile(io.BytesIO(written)) as source, ZipFile(kept, "w") as target:
        for name in source.namelist():
            if not name.endswith(dropped):
                content = source.read(name)
                if name.endswith(".py"):
                    content = _CONSTANTS.sub(_sorted_lines, content)
                target.writestr(ZipInfo(name), content)  # ZipInfo's own date is 1980, never today
    return kept.getvalue()


# torch writes the constants of a scripted class in the order of a set of strings, another one in each process.
_CONSTANTS = re.compile(rb"(?:^  \w+ : Final\[.*\n)+", re.MULTILINE)


def _sorted_lines(found: re.Match[bytes]) -> bytes:
    return b"".join(sorted(found[0].splitlines(keepends=True)))


def example_inputs(spec: GeneratorSpec) -> tuple[Tensor, ...]:
    """What a generator takes, two of each: an example of one would fix the batch at one."""
    z = torch.zeros(2, spec.latent_dim)
    return (z, torch.zeros(2, dtype=torch.int64)) if spec.num_classes else (z,)


def runner(module: nn.Module) -> Runner:
    """Run a loaded module on arrays."""

    def run(*inputs: FloatArray | IntArray) -> FloatArray:
        with torch.inference_mode():
            return module(*map(torch.from_numpy, inputs)).numpy()  # type: ignore[no-any-return]

    return run
