"""IDX files of bytes, LeCun's format: a big-endian header, then the bytes; raw or gzipped."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcgan_infer.contract.errors import DatasetError

_UNPACKED = 100  # times the size of a gzip file, and a little: images don't pack so far, what fills memory does
_LEAST = 1 << 20
_MAX_IMAGES = 1 << 24  # a header that claims more is damaged


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read an IDX file of bytes, raw or gzipped (told apart by content).

    Returns:
        uint8, of the shape in the file's header.
    Raises:
        DatasetError: the file can't be read, is truncated, or is no IDX file of bytes.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                most = _UNPACKED * len(content) + _LEAST
                content = file.read(most + 1)
                if len(content) > most:
                    raise DatasetError(f"{path} unpacks to more than {_UNPACKED} times its size; fetch it again")
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} can't be read, or is a truncated gzip file ({error}); fetch it again") from error
    # Two zero bytes, 8 for unsigned bytes, the number of axes; then each axis as a big-endian 32-bit integer.
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 3:
        raise DatasetError(f"{path} is no IDX file of bytes: it begins with {content[:4].hex(' ') or 'nothing'}")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise DatasetError(f"{path} is truncated: its header breaks off after {len(content)} bytes; fetch it again")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    expected = header + int(np.prod(shape, dtype=object))
    if len(content) != expected or not 0 < shape[0] <= _MAX_IMAGES:
        raise DatasetError(
            f"{path} is truncated or damaged: its header promises {expected} bytes, found {len(content)}; "
            "fetch it again"
        )
    array: npt.NDArray[np.uint8] = np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
    return array


def find_idx(folders: list[Path], stem: str) -> Path | None:
    """The file of a name in the first folder that has it, in each of the ways it is spelled."""
    for folder in folders:
        for name in (f"{stem}-ubyte", f"{stem.replace('-idx', '.idx')}-ubyte"):
            for path in (folder / name, folder / f"{name}.gz"):
                if path.is_file():
                    return path
    return None
