"""Files of tensors, as safetensors and as `torch.save` write them; reading them runs nothing that is in them."""

from __future__ import annotations

import argparse
import contextlib
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dcgan_infer.contract.errors import CheckpointError, first_line
from dcgan_infer.contract.files import replacing

SAVE = 'save its weights alone: torch.save(model.state_dict(), "generator.pth")'


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors by name, whole or not at all; equal tensors and metadata give equal bytes.

    Raises:
        OutputError: the file can't be written.
    """
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, metadata
    )
    # safetensors writes the entries of its JSON header in an order that changes from process to process. In sorted
    # order, the same tensors and metadata give the same bytes. The header is padded, so that the tensors stay aligned.
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with replacing(path) as temporary:
        temporary.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and metadata.

    Raises:
        CheckpointError: it is another file, or a truncated one.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names: list[str] = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        with path.open("rb") as stream:
            begins = stream.read(9)
        if begins[:1] == b"\x08":  # protobuf's field 1, ir_version: the first that every exporter writes
            raise _is_artifact(path, "an ONNX file") from error
        if not begins:
            raise CheckpointError(f"{path} is empty; copy it again, or give another checkpoint") from error
        if begins[8:] != b"{" and path.suffix != ".safetensors":
            raise CheckpointError(
                f"{path} is no checkpoint: neither what torch.save writes nor safetensors; give another file"
            ) from error
        raise CheckpointError(
            f"{path} is no safetensors file, or a truncated one ({error}); give another checkpoint"
        ) from error


def read_pt(path: Path) -> Any:
    """What `torch.save` wrote: tensors, numbers, text, and dicts and lists of them."""
    members = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    if any("/code/" in name for name in members):
        raise _is_artifact(path, "a TorchScript file")
    if any(name.endswith("/archive_format") for name in members):
        raise _is_artifact(path, "a pt2 file")
    try:
        # Beside what torch allows: argparse's options and NumPy's numbers. Many files hold them; they run nothing.
        scalar: Any = np.float64(0).__reduce__()[0]  # its module has another name in NumPy 1 and 2
        numpy_types: list[Any] = [np.dtype, *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd")]
        scalars: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
        with torch.serialization.safe_globals([argparse.Namespace, *scalars, *numpy_types]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler or zip reader stumbles on
        raise CheckpointError(_why_unreadable(path, bool(members), error)) from error


def _why_unreadable(path: Path, is_zip: bool, error: Exception) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        begins = file.read(2)
        if begins == b"PK" and not is_zip:
            return f"{path} is truncated or damaged, so it is no state dict that can be read; copy it again"
    found = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if found is None:
        reason = first_line(error, limit=120)
        if "Weights only load failed" in reason:
            reason = "not what torch.save writes, truncated, or damaged"
        return f"{path} is no state dict that can be read ({reason}); {SAVE}"
    if _holds_module(path):
        return f"{path} holds a whole pickled module, which is code; where its class is at hand, {SAVE}"
    return f"{path} is no state dict alone: it holds a {found[1]}, and reading that could run code; {SAVE}"


def _holds_module(path: Path) -> bool:
    """Whether a pickle has the fields of an `nn.Module`."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content = b"".join(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))
        else:
            with path.open("rb") as file:
                content = file.read(1 << 24)  # pickles come first, then the tensors' values
    except (OSError, zipfile.BadZipFile):
        return False
    return b"_parameters" in content and b"_modules" in content


def _is_artifact(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is {what}, which is an artifact; give the checkpoint it was made from")
