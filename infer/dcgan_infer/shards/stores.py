"""Where shards go: a folder of this machine, or whatever fsspec names by a URL (s3://, gs://, az://, memory://).

An object store has no rename and needs none: an object is there when all of it is. So what says that a set is whole, a
receipt for each shard and then the manifest, is written after what it speaks of.

A file is written whole to the folder for temporary files, and then sent. Of one with more than 100 MB, s3fs sends
parts; S3 keeps those of a killed process, invisible, until a lifecycle rule of the bucket
(AbortIncompleteMultipartUpload) removes them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from ..contract.errors import DcganError, OutputError, RuntimeMissingError, first_line
from ..contract.files import TEMPORARY, make_folder, replacing, temporary_folder
from ..extras import require
from .formats import EXTRA
from .plan import HIDDEN

_PATIENCE = 20  # seconds for a first answer; s3fs tries a server that is down for 9


class Store(Protocol):
    """A place that holds files by name; names may have folders in them."""

    def reach(self) -> None:
        """See that the place answers, whether it is there or not.

        Raises:
            OutputError: it doesn't, or it lets us not in.
        """

    def is_foreign(self) -> bool:
        """Whether it is a folder of somebody else's; buckets have no folders."""

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

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of the files in a folder, by name; none if there is no such folder."""


def open_store(place: str) -> Store:
    """A folder's path, or a URL of fsspec's.

    Raises:
        OutputError: the URL can't be used.
        RuntimeMissingError: fsspec, or the package for that kind of URL, is not installed.
    """
    if "://" not in place:
        return _Folder(Path(place))
    fsspec = require("fsspec", EXTRA)
    try:
        files, root = fsspec.url_to_fs(place)
    except ImportError as error:
        raise RuntimeMissingError(f"can't use {place}: {first_line(error)}") from error
    except Exception as error:  # what a storage library raises has no common base
        raise OutputError(f"can't use {place}: {first_line(error)}") from error
    if "file" in files.protocol:
        return _Folder(Path(root))
    return _Remote(place.rstrip("/"), files, root)


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def reach(self) -> None:
        if self._path.exists() and not self._path.is_dir():
            raise OutputError(f"{self._path} is no folder; shards go into one, so choose another name")

    def is_foreign(self) -> bool:
        try:
            names = [entry.name for entry in self._path.iterdir()]
        except FileNotFoundError:
            return False
        # Another process may have just begun the same set.
        begun = (name == HIDDEN or (name.startswith(".") and name.endswith(TEMPORARY)) for name in names)
        return bool(names) and not any(begun)

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
        # On NFS another machine does not see that a temporary folder is locked, so each has its own.
        with replacing(self._path / name, socket.gethostname()) as temporary:
            yield temporary

    def sizes(self, folder: str) -> dict[str, int]:
        try:
            with os.scandir(self._path / folder) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise OutputError(f"can't read {self._path / folder}: {first_line(error).lower()}") from error


class _Remote:
    def __init__(self, url: str, files: Any, root: str) -> None:
        self._url = url
        self._files = files
        self._root = root

    def reach(self) -> None:
        # A server that takes a connection and then says nothing would hold us for minutes.
        bound = {"timeout": _PATIENCE} if self._files.async_impl else {}
        with self._errors("reach", ""):
            self._files.exists(self._at(""), **bound)

    def is_foreign(self) -> bool:
        return False

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        self._files.invalidate_cache()  # others write here too
        with self._errors("read", name), self._files.open(self._at(name), "rb") as file:
            yield file

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        try:
            # One name for all files: who comes next clears what a killed process left, whichever file that was sending.
            with temporary_folder(Path(tempfile.gettempdir()), "dcgan-shards") as folder:
                temporary = folder / PurePosixPath(name).name
                yield temporary
                with self._errors("write", name):
                    self._send(temporary, self._at(name))
        except (DcganError, BrokenPipeError):
            raise
        except OSError as error:
            raise OutputError(
                f"can't write the temporary file that {self._url}/{name} is sent from: {first_line(error).lower()}; "
                "set TMPDIR to a folder with room for a shard"
            ) from error

    def _send(self, file: Path, path: str) -> None:
        try:
            self._files.put_file(str(file), path)
        except FileNotFoundError:  # of a file system with folders, such as sftp's; or there is no such bucket
            above = PurePosixPath(path).parents
            for folder in [str(each) for each in above][-3::-1]:  # a bucket, or what is like one, is not for us to make
                with contextlib.suppress(FileExistsError):
                    self._files.mkdir(folder, create_parents=False)
            self._files.put_file(str(file), path)

    def sizes(self, folder: str) -> dict[str, int]:
        self._files.invalidate_cache()
        with self._errors("read", folder):
            try:
                found: list[Any] = self._files.ls(self._at(folder), detail=True)
            except FileNotFoundError:
                return {}
        return {each["name"].rsplit("/", 1)[-1]: each["size"] for each in found if each["type"] == "file"}

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    @contextlib.contextmanager
    def _errors(self, doing: str, name: str) -> Iterator[None]:
        """What a storage library raises has no common base: whatever it is becomes an OutputError."""
        where = f"{self._url}/{name}".rstrip("/")
        try:
            yield
        except DcganError:
            raise
        except TimeoutError as error:
            raise OutputError(f"can't {doing} {where}: no answer") from error
        except Exception as error:
            if doing == "read" and isinstance(error, FileNotFoundError):
                raise
            raise OutputError(f"can't {doing} {where}: {first_line(error)}") from error
