"""Writing files so that a reader sees the old one or the whole new one, never half of it. Standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import DcganError, OutputError, first_line

TEMPORARY = ".tmp"  # how the names of temporary folders end; they begin with a dot


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; when the block succeeds, that file is flushed to disk and renamed to `path`.

    The yielded path has the name of `path`, in a temporary folder beside it: some formats choose their encoding by the
    suffix, and TorchScript writes the name into the file. When the block raises, `path` is left as it was.

    Raises:
        OutputError: the folder is missing or not writable, or `path` is a folder, a device or a pipe.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise OutputError(f"can't write {path}: it exists and is not a regular file; choose another name")
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name[:64]}.", suffix=TEMPORARY, dir=target.parent))
    except DcganError:
        raise
    except OSError as error:
        raise OutputError(
            f"can't write {path}: {first_line(error).lower()}; choose a folder that exists and is writable"
        ) from error
    try:
        temporary = folder / target.name
        yield temporary
        flush(temporary)
        temporary.replace(target)
        flush(target.parent)  # a rename is on the disk when its folder is
    except (DcganError, BrokenPipeError):
        raise
    except OSError as error:
        raise OutputError(f"can't write {path}: {first_line(error).lower()}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def new_folder(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """Yield a folder to fill; when the block succeeds, it is flushed to disk and renamed to `path`.

    Args:
        path: must not exist, or be an empty folder.
        beside: what it is made beside of, until it is whole; None is `path` itself.
    Raises:
        OutputError: `path` is there, or can't be written.
    """
    try:
        # An empty folder may be replaced, but not by another name for it, such as the current folder's dot.
        unnamed = path.name in ("", "..")
        if unnamed or (os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir()))):
            raise OutputError(f"{path} already exists; remove it, or choose another name")
        parent = (beside or path).resolve().parent
        with tempfile.TemporaryDirectory(prefix=f".{path.name[:64]}.", suffix=TEMPORARY, dir=parent) as temporary:
            whole = Path(temporary) / path.name
            whole.mkdir()
            yield whole
            for made in (*whole.rglob("*"), whole):
                flush(made)
            whole.rename(path)
            for folder in (path.resolve().parent, parent):
                flush(folder)
    except (DcganError, BrokenPipeError):
        raise
    except OSError as error:
        raise OutputError(
            f"can't write {path}: {first_line(error).lower()}; choose a folder whose parent is writable"
        ) from error


def make_folder(path: Path, parents: bool = False) -> None:
    """Make a folder, unless it is there.

    Args:
        path: of the folder.
        parents: whether to make those above it too.
    Raises:
        OutputError: it can't be made.
    """
    try:
        path.mkdir(exist_ok=True, parents=parents)
    except OSError as error:
        raise OutputError(f"can't make the folder {path}: {first_line(error).lower()}; choose another") from error


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk.

    Raises:
        OSError: there is no such file, or the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def user_cache(kind: str) -> Path:
    """Where what was made here is kept, to be found again: $XDG_CACHE_HOME/dcgan-toolkit/KIND, or in ~/.cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the XDG specification: to be ignored
        base = Path(os.path.expanduser("~/.cache"))  # noqa: PTH111  Path.home() raises where there is none
    return base / "dcgan-toolkit" / kind
