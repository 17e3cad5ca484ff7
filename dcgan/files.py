"""Writing files so that a reader sees the old one or the whole new one, never half of it. Standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import OutputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; when the block succeeds, that file is flushed to disk and renamed to `path`.

    The yielded path has the name of `path`, in a temporary folder beside it: some formats choose their encoding by the
    suffix, and TorchScript writes the name into the file. When the block raises, `path` is left as it was.

    Raises:
        OutputError: the folder is missing or not writable, or `path` is a folder, a device or a pipe.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise OutputError(f"can't write {path}: it exists and is not a regular file; choose another name")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise OutputError(
            f"can't write {path}: {_reason(error)}; choose a folder that exists and is writable"
        ) from None
    try:
        temporary = folder / target.name
        yield temporary
        try:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as error:
            raise OutputError(f"can't write {path}: {_reason(error)}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
