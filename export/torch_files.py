"""What torch's own two formats, TorchScript and pt2, share: zip archives, and how a loaded module is run."""

from __future__ import annotations

import io
from pathlib import Path
from zipfile import ZipFile, ZipInfo

import torch
from torch import nn

from .formats import FloatArray, Runner

_EXTRA = "/extra/"


def extra_files(path: Path) -> dict[str, str]:
    """The texts that `torch.jit.save` or `torch.export.save` put beside a module, by name."""
    with ZipFile(path) as archive:
        names = [name for name in archive.namelist() if _EXTRA in name]
        return {name.partition(_EXTRA)[2]: archive.read(name).decode() for name in names}


def without(written: bytes, endings: tuple[str, ...]) -> bytes:
    """The same archive, less the members whose names end in one of `endings`."""
    kept = io.BytesIO()
    with ZipFile(io.BytesIO(written)) as source, ZipFile(kept, "w") as target:
        for name in source.namelist():
            if not name.endswith(endings):
                target.writestr(ZipInfo(name), source.read(name))  # ZipInfo's own date is 1980, never today
    return kept.getvalue()


def runner(module: nn.Module) -> Runner:
    """Run a loaded module on arrays."""

    def run(z: FloatArray) -> FloatArray:
        with torch.inference_mode():
            return module(torch.from_numpy(z)).numpy()  # type: ignore[no-any-return]

    return run
