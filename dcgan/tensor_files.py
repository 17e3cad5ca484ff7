"""Files of tensors, as safetensors and as `torch.save` write them; reading them runs nothing that is in them."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import re
import struct
import warnings
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
from dcgan_infer.contract.files import read_limited, replacing

SAVE = 'save its weights alone: torch.save(model.state_dict(), "generator.pth")'
# Bytes: a tensor takes about 150. Each may be an object, and torch takes a microsecond and 64 bytes for one.
_MOST_BYTES = 1 << 36  # of a file; generators have some thousandth of it
_LONGEST_PICKLE = 1 << 22
_MOST_UNPACKED = 4  # times the size of a zip archive
_LONGEST_HEADER = 1 << 24  # bytes of JSON: some 100,000 tensors; as Python's objects they take a hundred times as much


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


def read_bytes(path: Path) -> bytes:
    """A file's bytes, or a pipe's, which can be read once only; so all that reads a file reads these bytes.

    Raises:
        CheckpointError: there is no such file, it can't be read, or it is a device or a folder.
    """
    try:
        with path.open("rb") as file:
            return read_limited(file, _MOST_BYTES)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no checkpoint at {path}; train one with dcgan-train, or give the path of a .safetensors or .pt file"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise CheckpointError(f"can't read checkpoint {path}: {first_line(error).lower()}") from error


def read_tensors(content: bytes, path: Path) -> tuple[Any, dict[str, str]]:
    """What a file holds, whichever kind it is: the kind is read from the content, not from the suffix.

    Args:
        content: of the file.
        path: of the file, for messages.
    Returns:
        Of safetensors, tensors by name, and metadata; of `torch.save`, tensors, numbers, text, and dicts and lists of
        them, without metadata.
    Raises:
        CheckpointError: it is another file, or a truncated one.
    """
    # A safetensors file begins with the length of its JSON header, which may look like anything, then the header.
    if content[8:9] != b"{" and content[:1] in (b"P", b"\x80"):
        return read_pt(content, path), {}
    return read_safetensors(content, path)


def read_safetensors(content: bytes, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and metadata.

    Raises:
        CheckpointError: it is another file, or a truncated one.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        if _LONGEST_HEADER < length <= len(content) - 8:
            raise CheckpointError(f"{path} has a header of {length:,} bytes, expected at most {_LONGEST_HEADER:,}")
        # The library judges the header before anybody else reads it.
        return safetensors.torch.load(content), json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except CheckpointError:
        raise
    except Exception as error:  # of a dtype that torch has no word for it raises a KeyError
        # Protobuf's field 1, ir_version: the first that every exporter writes.
        if content[:1] == b"\x08" and content[8:9] != b"{":
            raise _is_artifact(path, "an ONNX file") from error
        if not content:
            raise CheckpointError(f"{path} is empty; copy it again, or give another checkpoint") from error
        if content[8:9] != b"{" and path.suffix != ".safetensors":
            raise CheckpointError(
                f"{path} is no checkpoint: neither what torch.save writes nor safetensors; give another file"
            ) from error
        raise CheckpointError(
            f"{path} is no safetensors file, or a truncated one ({first_line(error)}); give another checkpoint"
        ) from error


def read_pt(content: bytes, path: Path) -> Any:
    """What `torch.save` wrote: tensors, numbers, text, and dicts and lists of them."""
    members = _members(content)
    if any("/code/" in name for name, _ in members):
        raise _is_artifact(path, "a TorchScript file")
    if any(name.endswith("/archive_format") for name, _ in members):
        raise _is_artifact(path, "a pt2 file")
    unpacked = sum(size for _, size in members)
    if unpacked > _MOST_UNPACKED * len(content) + _LONGEST_HEADER:  # torch.save packs nothing; weights hardly pack
        raise CheckpointError(
            f"{path} is no state dict that can be read: a file of {len(content):,} bytes that says it unpacks to "
            f"{unpacked:,}; {SAVE}"
        )
    pickled = max((size for name, size in members if name.endswith("data.pkl")), default=0)
    if pickled > _LONGEST_PICKLE:
        raise CheckpointError(
            f"{path} is no state dict that can be read: its pickle has {pickled:,} bytes, expected at most "
            f"{_LONGEST_PICKLE:,}; {SAVE}"
        )
    try:
        # Beside what torch allows: argparse's options and NumPy's numbers. Many files hold them; they run nothing.
        scalar: Any = np.float64(0).__reduce__()[0]  # its module has another name in NumPy 1 and 2
        numpy_types: list[Any] = [np.dtype, *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd")]
        scalars: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
        with torch.serialization.safe_globals([argparse.Namespace, *scalars, *numpy_types]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's protocol: what can't be read is refused
            return torch.load(_Counted(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler or zip reader stumbles on
        raise CheckpointError(_why_unreadable(content, path, bool(members), error)) from error


class _Counted(io.BytesIO):
    """Bytes that are not read in more parts than an honest pickle has; torch reads old files part by part."""

    parts = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.parts += 1
        if self.parts > _LONGEST_PICKLE:
            raise ValueError(f"a pickle of more than {_LONGEST_PICKLE:,} parts")
        return super().read(size)


def _members(content: bytes) -> list[tuple[str, int]]:
    """Names and unpacked sizes of what is in a zip archive; none if it is no archive, or a damaged one.

    Names are in small letters, and each stands as often as in the archive: torch finds `DATA.PKL` too, and one of two.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return [(info.filename.lower(), info.file_size) for info in archive.infolist()]
    except Exception:  # zipfile raises seven kinds of them
        return []


def _why_unreadable(content: bytes, path: Path, is_zip: bool, error: Exception) -> str:
    if content[:2] == b"PK" and not is_zip:
        return f"{path} is truncated or damaged, so it is no state dict that can be read; copy it again"
    found = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if found is None:
        reason = first_line(error, limit=120)
        if "Weights only load failed" in reason:
            reason = "not what torch.save writes, truncated, or damaged"
        return f"{path} is no state dict that can be read ({reason}); {SAVE}"
    # Of an archive these lie in data.pkl, which torch.save does not pack; in older files pickles come first.
    if b"_parameters" in content and b"_modules" in content:
        return f"{path} holds a whole pickled module, which is code; where its class is at hand, {SAVE}"
    return f"{path} is no state dict alone: it holds a {found[1]}, and reading that could run code; {SAVE}"


def _is_artifact(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is {what}, which is an artifact; give the checkpoint it was made from")
