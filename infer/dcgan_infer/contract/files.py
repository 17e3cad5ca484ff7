"""Writing files so that a reader sees the old one or the whole new one, never half of it. Standard library only.

What is not whole yet lies in a temporary folder beside the target, `.NAME.0.tmp`. Its name follows from the target's,
and its owner holds a lock on it, which the system lifts however the owner ends. So whoever writes the same target next
finds what a killed process left, and clears it; where the owner is at work, the next number is taken.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .errors import DcganError, OutputError, first_line

TEMPORARY = ".tmp"  # how the names of temporary folders end; they begin with a dot
_SHOWN = 64  # bytes of a target's name in its temporary folder's, which may have 255 (NAME_MAX) as the target itself
# Of fsync: what the disk says. All else is of file systems that can't flush a folder, or do not let us open it.
_DISK = {errno.EIO, errno.ENOSPC, errno.EDQUOT}

_temporary: dict[Path, int | None] = {}  # this process's folders, and the descriptors that lock them
_naming = threading.RLock()  # held while a temporary folder is made or its content gets its name


@contextlib.contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield a folder that is removed at the end, also when a signal ends the process (`abandon`).

    Args:
        parent: folder to make it in.
        name: of what it is for; who uses the same name next clears what a killed process left.
    Raises:
        OSError: it can't be made.
    """
    folder = _made(parent.absolute(), name)
    try:
        yield folder
    finally:
        with _naming:  # so that no other thread makes the same one in between
            shutil.rmtree(folder, ignore_errors=True)
            descriptor = _temporary.pop(folder)
            if descriptor is not None:
                os.close(descriptor)


def _made(parent: Path, name: str) -> Path:
    shown = name.encode(errors="surrogateescape")[:_SHOWN].decode(errors="ignore")
    if shown != name:
        shown += f".{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}"
    for number in itertools.count():
        folder = parent / f".{shown}.{number}{TEMPORARY}"
        with _naming:
            there = False
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:
                there = True
            try:
                descriptor = lock(folder)
            except (BlockingIOError, FileNotFoundError):  # its owner is at work, or has just removed it
                continue
            except OSError:  # somebody else's, or no folder at all
                if there:
                    continue
                raise
            if descriptor is None and there:  # without locks nobody knows
                continue
            if descriptor is not None and not _is_ours(descriptor, folder):
                os.close(descriptor)
                continue
            if there:
                _clear(folder)
            _temporary[folder] = descriptor
            return folder
    raise AssertionError  # of an endless loop


def _is_ours(descriptor: int, folder: Path) -> bool:
    """Whether a folder is still the one that was opened, and this user's: its owner may have removed it in between, and
    where others may write, a name that can be foretold may be a link that they made.
    """
    opened = os.fstat(descriptor)
    try:
        return opened.st_uid == os.geteuid() and os.path.samestat(opened, folder.lstat())
    except OSError:
        return False


def _clear(folder: Path) -> None:
    for left in folder.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # whoever needs its name will say so
                left.unlink()


def lock(folder: Path) -> int | None:
    """Lock a folder until the descriptor is closed, or the process ends.

    Returns:
        A descriptor to close; None where there are no such locks: on Windows, and on some network file systems.
    Raises:
        BlockingIOError: another process, or another descriptor of this one, holds it.
        OSError: it can't be opened.
    """
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def owned(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep other commands out of a folder, where the system has locks; it lifts them however the process ends.

    Args:
        folder: that is there.
        patience: seconds to wait for another one.
    Raises:
        OutputError: another one is at work there.
    """
    descriptor = None
    until = time.monotonic() + patience
    while True:
        try:
            descriptor = lock(folder)
            break
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise OutputError(
                    f"another command is at work in {folder}; wait for it, or choose another folder"
                ) from error
            time.sleep(0.05)
        except OSError:  # a folder that may be written to, and not read
            break
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def abandon() -> None:
    """Remove what this process has not finished, for it is about to end: from now on it can finish nothing.

    Called by another thread than the one that writes, which goes on until the process has ended.
    """
    _naming.acquire()
    for _ in range(100):  # until that thread has made no file in between
        for folder in _temporary:
            shutil.rmtree(folder, ignore_errors=True)
        if not any(folder.exists() for folder in _temporary):
            return


@contextlib.contextmanager
def naming() -> Iterator[None]:
    """Within, several renames are one step for `abandon`: it comes before or after them all."""
    with _naming:
        yield


@contextlib.contextmanager
def replacing(path: Path, writer: str = "") -> Iterator[Path]:
    """Yield a path to write to; when the block succeeds, that file is flushed to disk and renamed to `path`.

    The yielded path has the name of `path`, in a temporary folder beside it: some formats choose their encoding by the
    suffix, and TorchScript writes the name into the file. When the block raises, `path` is left as it was. An older
    file's permissions are kept. A file that can't be renamed over, such as one that is mounted into a container, is
    written over in place.

    Args:
        path: of the file.
        writer: who writes, where that is to stand in the temporary folder's name.
    Raises:
        OutputError: the folder is missing or not writable, or `path` is a folder, a device or a pipe.
    """
    with contextlib.ExitStack() as stack:
        try:
            target = Path(os.path.realpath(path))
            older = None
            with contextlib.suppress(FileNotFoundError):
                older = target.stat()
            if older is not None and not stat.S_ISREG(older.st_mode):
                raise OutputError(f"can't write {path}: it exists and is not a regular file; choose another name")
            if older is not None and not os.access(target.parent, os.W_OK) and os.access(target, os.W_OK):
                parent = Path(tempfile.gettempdir())
            else:
                parent = target.parent
            folder = stack.enter_context(temporary_folder(parent, f"{target.name}.{writer}".rstrip(".")))
        except DcganError:
            raise
        except OSError as error:
            raise OutputError(
                f"can't write {path}: {first_line(error).lower()}; choose a folder that exists and is writable"
            ) from error
        try:
            temporary = folder / target.name
            yield temporary
            if older is not None:
                temporary.chmod(stat.S_IMODE(older.st_mode))
                if hasattr(os, "chown"):  # not on Windows
                    with contextlib.suppress(OSError):  # only root may give a file away
                        os.chown(temporary, older.st_uid, older.st_gid)
            flush(temporary)
            _give_name(temporary, target)
        except (DcganError, BrokenPipeError):
            raise
        except OSError as error:
            raise OutputError(f"can't write {path}: {first_line(error).lower()}") from error


def _give_name(temporary: Path, target: Path) -> None:
    with naming():
        try:
            temporary.replace(target)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            shutil.copyfile(temporary, target)
            flush(target)
    flush(target.parent)  # a rename is on the disk when its folder is


@contextlib.contextmanager
def new_folder(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """Yield a folder to fill; when the block succeeds, it is flushed to disk and renamed to `path`.

    A folder that is mounted, as into a container, can't be renamed over: what is in the new one is moved into it.

    Args:
        path: must not exist, or be an empty folder.
        beside: what it is made beside of, until it is whole; None is `path` itself.
    Raises:
        OutputError: `path` is there, or can't be written.
    """
    try:
        # An empty folder may be replaced, but not by another name for it, such as the current folder's dot.
        unnamed = path.name in ("", "..")
        if unnamed or (os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or not is_empty(path))):
            raise OutputError(f"{path} already exists; remove it, or choose another name")
        parent = Path(os.path.realpath(beside or path)).parent
        if path.is_dir() and not os.access(parent, os.W_OK):
            parent = Path(os.path.realpath(path))
        with temporary_folder(parent, path.name) as temporary:
            whole = temporary / path.name
            whole.mkdir()
            yield whole
            for made in (*whole.rglob("*"), whole):
                flush(made)
            with naming():
                try:
                    whole.rename(path)
                except OSError as error:
                    # Mounted, or there with what a killed process left: that is filled.
                    taken = (errno.EBUSY, errno.ENOTEMPTY, errno.EEXIST)
                    if (error.errno not in taken and parent != Path(os.path.realpath(path))) or not is_empty(path):
                        raise
                    for made in whole.iterdir():
                        shutil.move(made, path / made.name)
            for folder in (Path(os.path.realpath(path)).parent, parent):
                flush(folder)
    except (DcganError, BrokenPipeError):
        raise
    except OSError as error:
        raise OutputError(
            f"can't write {path}: {first_line(error).lower()}; choose a folder whose parent is writable"
        ) from error


def is_empty(folder: Path) -> bool:
    """Whether there is nothing in a folder but what a killed process may have left.

    Raises:
        OSError: it can't be read.
    """
    return all(path.name.startswith(".") and path.name.endswith(TEMPORARY) for path in folder.iterdir())


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
    """Wait until a file, or a folder's list of names, is on the disk, where the file system can say so.

    Raises:
        OSError: there is no such file, or the disk fails or is full.
    """
    is_folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows flushes no read-only handle
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _DISK or not (is_folder or path.exists()):
            raise


def read_limited(file: IO[bytes], most: int) -> bytes:
    """All bytes of an open file, or pipe.

    Args:
        file: that somebody named; it may be anything.
        most: bytes that are expected.
    Raises:
        OSError: it can't be read, is a device or a folder, or holds more.
    """
    found = os.fstat(file.fileno())
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
        raise OSError(errno.EINVAL, "it is neither a file nor a pipe")
    blocks, size = [], found.st_size if found.st_size > most else 0
    while size <= most and (block := file.read(1 << 24)):
        blocks.append(block)
        size += len(block)
    if size > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return b"".join(blocks)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def user_cache(kind: str) -> Path:
    """Where what was made here is kept, to be found again: $XDG_CACHE_HOME/dcgan-toolkit/KIND, or in ~/.cache.

    Of a user without a home it is a folder that can't be made, in /nonexistent, where Debian puts such homes.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the XDG specification: to be ignored
        base = Path(os.path.expanduser("~/.cache"))  # noqa: PTH111  Path.home() raises where there is none
    if not base.is_absolute():
        base = Path("/nonexistent/.cache")
    return base / "dcgan-toolkit" / kind
