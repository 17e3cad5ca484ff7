"""Where shards go: a folder of this machine, or whatever fsspec names by a URL (s3://, gs://, az://, memory://).

An object store has no rename and needs none: an object is there when all of it is. So what says that a set is whole, a
receipt for each shard and then the manifest, is written after what it speaks of.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from ..contract.errors import DcganError, OutputError, RuntimeMissingError, first_line
from ..contract.files import make_folder, replacing
from ..extras import require
from .formats import EXTRA


class Store(Protocol):
    """A place that holds files by name; names may have folders in them."""

    def opened(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """A file to read.

        Raises:
            FileNotFoundError: there is none.
            OutputError: it can't be read.
        """

    def replacing(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A path to write to; when the block succeeds, what was written is the file of that name, and whole.

        Raises:
            OutputError: it can't be written.
        """

    def names(self, folder: str) -> set[str]:
        """Names of the files in a folder, without it; none if there is no such folder."""


def open_store(place: str) -> Store:
    """A folder's path, or a URL of fsspec's.

    Raises:
        OutputError: the URL can't be used.
        RuntimeMissingError: fsspec, or the package for that kind of URL, is not installed.
    """
    return _Remote(place) if "://" in place else _Folder(Path(place))


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with (self._path / name).open("rb") as file:
                yield file
        except (FileNotFoundError, DcganError):
            raise
        except OSError as error:
            raise OutputError(f"can't read {self._path / name}: {first_line(error).lower()}") from error

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        make_folder((self._path / name).parent, parents=True)
        with replacing(self._path / name) as temporary:
            yield temporary

    def names(self, folder: str) -> set[str]:
        try:
            return {entry.name for entry in os.scandir(self._path / folder)}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise OutputError(f"can't read {self._path / folder}: {first_line(error).lower()}") from error


class _Remote:
    def __init__(self, url: str) -> None:
        fsspec = require("fsspec", EXTRA)
        self._url = url.rstrip("/")
        try:
            with self._errors(""):
                self._files, self._root = fsspec.url_to_fs(self._url)
        except ImportError as error:
            raise RuntimeMissingError(f"{url}: {first_line(error)}") from error

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        with self._errors(name), self._files.open(self._at(name), "rb") as file:
            yield file

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="dcgan-") as folder:
            temporary = Path(folder) / "shard"
            yield temporary
            with self._errors(name):
                self._files.makedirs(self._files._parent(self._at(name)), exist_ok=True)
                self._files.put_file(str(temporary), self._at(name))

    def names(self, folder: str) -> set[str]:
        with self._errors(folder):
            self._files.invalidate_cache()  # others write here too
            try:
                found: list[Any] = self._files.ls(self._at(folder), detail=False)
            except FileNotFoundError:
                return set()
        return {path.rsplit("/", 1)[-1] for path in found}

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """What a storage library raises has no common base: whatever it is becomes an OutputError."""
        try:
            yield
        except (DcganError, FileNotFoundError, ImportError):
            raise
        except Exception as error:
            raise OutputError(f"can't use {self._url}/{name}: {first_line(error)}") from error
