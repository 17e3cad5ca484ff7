"""What pictures a folder or a ZIP archive holds, their classes by folder, and their bytes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from dcgan_infer.contract.errors import DatasetError, SpecError
from dcgan_infer.contract.spec import Interface

from .picture import RefusedError, reason_of, shown

Source = Path | Callable[[int], bytes]

_SUFFIXES = frozenset(".png .jpg .jpeg .jpe .jfif .webp .gif .bmp .dib .tif .tiff".split())
_MAGIC = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP|GIF8[79]a|BM....\0\0\0\0|II[*+]\0|MM\0[*+]", re.DOTALL
)
MOST_BYTES = 1 << 28  # of a file, unpacked
_RATIO = 100  # packed size of an archive's member times this: pictures don't compress so far, bombs do


def walk(root: Path) -> Iterator[tuple[str, Source]]:
    """Relative name and source of each file; a folder is read once, however many links lead to it."""
    seen = {_identity(folder) for folder in root.resolve().parents}  # a link up there would read everything
    folders, links = [root], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop()
        try:
            if _identity(folder) in seen:
                continue
            seen.add(_identity(folder))
            with os.scandir(folder) as items:
                found = sorted(items, key=lambda item: item.name)
        except OSError as error:
            if folder == root:
                raise
            yield f"{folder.relative_to(root).as_posix()}/", functools.partial(_refuse, reason_of(error))
            continue
        for item in found:
            if item.name.startswith(".") or item.name == "__MACOSX":
                continue
            path, is_folder = folder / item.name, False
            with contextlib.suppress(OSError):  # links in a circle: the error comes when it is read
                is_folder = item.is_dir()
            if is_folder:
                (links if item.is_symlink() else folders).append(path)
            else:
                yield path.relative_to(root).as_posix(), path


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def members(archive: zipfile.ZipFile) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    """Name and source of each file of an archive; of two of the same name the later counts. None goes to the disk."""
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")  # of archives made by old programs for Windows
        path = PurePosixPath(name)
        hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in path.parts)
        if info.is_dir() or hidden or not path.parts:
            continue
        if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive:
            yield name, functools.partial(_refuse, "a name that leads out of the archive")
        elif info.flag_bits & 1:
            yield name, functools.partial(_refuse, "encrypted")
        elif info.file_size > _RATIO * (info.compress_size + 10_000):
            yield name, functools.partial(_refuse, f"packed to less than 1/{_RATIO}, as archives that fill memory are")
        else:
            yield str(path), functools.partial(_read_member, archive, info)


def is_picture(name: str, source: Source) -> bool:
    if (is_refused(source) and name.endswith("/")) or PurePosixPath(name).suffix.lower() in _SUFFIXES:
        return True
    start = read(source, 16)
    return isinstance(start, bytes) and _MAGIC.match(start) is not None


def classes_of(place: str, names: list[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Label of each name, and the classes; neither where there are no folders."""
    folders = {name: name.split("/")[:-1] for name in names}
    first, last = (pick(folders.values(), default=[]) for pick in (min, max))  # what these share all share
    outer = sum(itertools.takewhile(bool, map(str.__eq__, first, last)))
    tops = {name: parts[outer] for name, parts in folders.items() if len(parts) > outer}
    classes = tuple(sorted(set(tops.values())))
    if not tops:
        return {}, ()
    if len(tops) < len(names):
        loose = sorted(names - tops.keys())
        raise DatasetError(
            f"{place} holds loose images ({len(loose):,}, such as {shown(loose[0])}) beside folders of images "
            f"({few([shown(name) for name in classes], 3)}); move the loose ones into a folder, or all into one"
        )
    name = ""
    try:
        for name in classes:
            Interface(num_classes=1, class_names=(name,))
        Interface(num_classes=len(classes))
    except SpecError as error:
        raise DatasetError(f"{place}: the folder '{shown(name)}' can't be a class: {error}; rename it") from None
    label = {name: number for number, name in enumerate(classes)}
    return {name: label[top] for name, top in tops.items()}, classes


def read(source: Source, limit: int) -> bytes | str:
    """At most so many bytes, or why there are none."""
    try:
        return _read_file(source, limit) if isinstance(source, Path) else source(limit)
    except Exception as error:  # of a foreign function, of zipfile; one file must not end the others
        return reason_of(error)


def _read_file(path: Path, limit: int) -> bytes:
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  opening a device may do something
        raise RefusedError("not a regular file")
    # What became a pipe in between must not hang.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123  a descriptor
        return file.read(min(limit, os.fstat(descriptor).st_size))  # read(limit) would take that much memory first


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    with archive.open(info) as file:  # ends at the declared size, and compares the CRC there
        return file.read(limit)


def _refuse(reason: str, limit: int) -> bytes:  # noqa: ARG001  a source
    raise RefusedError(reason)


def is_refused(source: object) -> bool:
    return isinstance(source, functools.partial) and source.func is _refuse


def few(items: Sequence[str], number: int) -> str:
    return ", ".join(items[:number]) + (f" and {len(items) - number:,} more" if len(items) > number else "")
