"""Training images from a folder or a ZIP archive of pictures, decoded once into one array of uint8.

Rules, also in docs/images.md:

- Read: PNG, JPEG, WebP, GIF, TIFF (the first picture of each) and BMP. A file should be a picture if its suffix says
  so, or else its first bytes; hidden files and `__MACOSX` are passed over, all others are counted.
- Classes: the first-level folders, by name, after folders that hold everything are taken off.
- Pixels: the centre square, scaled by Pillow's bicubic filter (torchvision's Resize and CenterCrop give the same cut);
  EXIF's rotation applied; alpha laid on a background; 16 bits become the upper 8; grey is ITU-R 601 luma.
- Order: sorted by name, then shuffled once by a fixed seed, so that the last images are a fair sample of all.
- Cache: one .npy file, named after the options, the names, and the SHA-256 of the files' bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import warnings
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from PIL import Image

from dcgan_infer.contract.errors import DatasetError, first_line
from dcgan_infer.contract.files import flush, temporary_folder, user_cache
from dcgan_infer.runtime import cores

from . import picture
from .data import Channels, Dataset, Progress, silent
from .listing import MOST_BYTES, classes_of, few, is_picture, is_refused, members, read, walk
from .picture import Options, Pixels, options_of, pixels_of, reason_of, shown

_T = TypeVar("_T")

FEWEST = 16  # images that can be trained on
_CHUNK = 32, 1 << 23  # pictures, and bytes, that a worker gets at once
_IN_FLIGHT = 1 << 29  # bytes of files that wait for workers
_WORTH_WORKERS = 256  # pictures; fewer are decoded before the processes have started
_IN_MEMORY = 1 << 30  # bytes; larger arrays stay in their file
_GREY = 8  # levels between red, green and blue that JPEG makes of grey
_VERSION = 1  # of the cache and of the rules above: raise it when the same files give other pixels
_NAMED = 5  # skipped files in a message


@dataclass(frozen=True)
class Entry:
    """A file that should hold a picture.

    Attributes:
        name: relative, with "/" between folders; what the order is sorted by.
        source: its path, or a function that returns at most so many of its bytes, and may raise anything.
        label: index of its class; None where there are no classes.
    """

    name: str
    source: Path | Callable[[int], bytes]
    label: int | None = None


@dataclass(frozen=True)
class Loaded:
    """What was read.

    Attributes:
        dataset: the pictures: uint8, shape (N, size, size), grey, or (N, size, size, 3), in colour.
        skipped: name and reason of each file that should be a picture and can't be read.
        ignored: number of other files.
        cache: where the decoded pictures lie; None if no folder could be written to.
    """

    dataset: Dataset
    skipped: tuple[tuple[str, str], ...] = ()
    ignored: int = 0
    cache: Path | None = None

    def lines(self) -> list[str]:
        """For people: what was skipped, and where the decoded images are."""
        lines = []
        if self.skipped:
            lines.append(f"skipped {_files(len(self.skipped))} that can't be read: {_reasons(self.skipped)}")
        if self.ignored:
            lines.append(f"ignored {_files(self.ignored)} of other kinds")
        if self.cache:
            size = self.dataset.images.nbytes / 1e6
            lines.append(f"the decoded images, {size:,.1f} MB, are in {shown(self.cache)}; delete it at any time")
        return lines


def load_images(
    path: Path,
    *,
    size: int = 64,
    channels: Channels = "auto",
    background: str = "white",
    cache: Path | None = None,
    progress: Progress = silent,
    workers: int | None = None,
) -> Loaded:
    """Read the pictures of a folder or a ZIP archive, decoding them unless the cache has them.

    Args:
        path: folder or archive; each of its first-level folders is a class, and without folders there are none.
        size: side of the square images, in pixels, 1 to 1024.
        channels: `grey`, `colour`, or what the pictures are: `auto` is grey if all are, in all pixels when scaled.
        background: what transparent pictures are laid on: a colour's name, or #rrggbb.
        cache: folder of decoded images; None is one in `files.user_cache`.
        progress: told of files done.
        workers: processes that decode; None is one for each core, or none where there is little to do. A script that
            starts processes has `if __name__ == "__main__":`, as for torch's DataLoader.
    Returns:
        The images in their shuffled order, and what was skipped.
    Raises:
        DatasetError: nothing to read, fewer than 16 images, more than a tenth of them broken, loose images beside
            folders of images, or a folder whose name can't be a class.
    """
    place = shown(path)
    with contextlib.ExitStack() as stack:
        try:
            if path.is_dir():
                files = dict(walk(path))
            elif path.is_file() and zipfile.is_zipfile(path):
                files = dict(members(stack.enter_context(zipfile.ZipFile(path))))
            else:
                found = "is neither a folder nor a whole ZIP archive" if path.exists() else "does not exist"
                raise DatasetError(f"{place} {found}; give a folder of images, or a .zip of one")
        except DatasetError:
            raise
        except Exception as error:  # zipfile raises seven kinds of them
            raise DatasetError(
                f"{place} can't be read ({reason_of(error)}); check that it is whole, and yours to read"
            ) from error
        pictures = {name: source for name, source in files.items() if is_picture(name, source)}
        ignored = len(files) - len(pictures)
        if not pictures:
            others = f"{_files(ignored)}, such as {shown(min(files))}, and" if ignored else "no files, so"
            raise DatasetError(
                f"{place} holds {others} no image; expected PNG, JPEG, WebP, GIF, BMP or TIFF files, "
                "flat or in a folder for each class"
            )
        labels, class_names = classes_of(place, [name for name, source in pictures.items() if not is_refused(source)])
        entries = [Entry(name, source, labels.get(name)) for name, source in pictures.items()]
        loaded = decode(
            entries, class_names, place,
            size=size, channels=channels, background=background, cache=cache, progress=progress, workers=workers,
        )  # fmt: skip
    dataset = loaded.dataset
    if dataset.labels is not None:  # a folder of broken files alone is no class
        used, renumbered = np.unique(dataset.labels, return_inverse=True)
        names = tuple(class_names[label] for label in used)
        labelled = len(names) > 1
        dataset = replace(
            dataset,
            labels=renumbered.astype(np.int64) if labelled else None,
            class_names=names if labelled else (),
        )
    return replace(loaded, dataset=dataset, ignored=ignored)


def decode(  # noqa: D417  several in a line
    entries: Iterable[Entry],
    class_names: tuple[str, ...],
    name: str,
    *,
    size: int = 64,
    channels: Channels = "auto",
    background: str = "white",
    cache: Path | None = None,
    progress: Progress = silent,
    workers: int | None = None,
) -> Loaded:
    """Decode files that somebody else has listed, by the rules and with the cache of `load_images`.

    Args:
        entries: the files, in any order, each with a label or none of them.
        class_names: a name for each label.
        name: of the data set, printable, in messages too.
        size, channels, background, cache, progress, workers: as `load_images` takes them.
    Raises:
        DatasetError: fewer than 16 images, more than a tenth of them broken, an impossible option, or a full disk.
    """
    options = options_of(size, channels, background)
    listed = sorted(entries, key=lambda entry: entry.name)
    listed = [listed[row] for row in np.random.default_rng(0).permutation(len(listed))]
    if len(listed) < FEWEST:
        raise DatasetError(f"{name} holds {_images(len(listed))}, expected at least {FEWEST}; add some")
    folder = Path(os.path.abspath(user_cache("images") if cache is None else cache))  # noqa: PTH100  as tempfile names it
    names = hashlib.sha256(repr((_VERSION, options)).encode())
    for entry in listed:
        names.update(b"\0" + entry.name.encode("utf-8", "surrogatepass"))
    listing = names.hexdigest()[:16]
    stored, likely = None, False
    with contextlib.suppress(OSError):  # out of reach
        likely = any(folder.glob(f"{listing}-*.npy"))
    if likely:  # else no file need be read twice
        contents = hashlib.sha256()
        for _ in _told(_contents(listed, contents), "looking for decoded images", len(listed), progress):
            pass
        stored = _stored(folder / f"{listing}-{contents.hexdigest()[:32]}.npy", len(listed), options)
    images, reasons, path = stored or _decoded(name, listed, listing, folder, options, progress, workers)
    kept = [entry.label for row, entry in enumerate(listed) if row not in reasons]
    labels = None if not class_names else np.array(kept, np.int64)
    skipped = sorted((listed[row].name, reason) for row, reason in reasons.items())
    return Loaded(Dataset(images, labels, class_names, name), tuple(skipped), 0, path)


# Bytes of files


def _contents(entries: Sequence[Entry], digest: hashlib._Hash) -> Iterator[bytes | str]:
    """Bytes of each file, or why it can't be read; the digest takes all in."""
    for entry in entries:
        content = read(entry.source, MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            content = f"larger than {MOST_BYTES >> 20} MiB"
        data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        digest.update(b"%s%d:" % (type(content).__name__.encode(), len(data)))
        digest.update(data)
        yield content


# Many files


class _NoProcessesError(Exception):
    """Why there are none that decode, and what to do."""


def _start_worker(lock: contextlib.AbstractContextManager[object]) -> None:
    picture.one_at_a_time = lock
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process ends the others
    if (first := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(first,), daemon=True).start()


def _end_with(process: Any) -> None:
    """End this process when the first one does: one that is killed can't say so, and its workers would wait forever."""
    process.join()
    os._exit(1)


def _rows(contents: Iterable[bytes | str], options: Options, workers: int) -> Generator[Pixels | str, None, None]:
    """Decode in order, in processes: two decode 1.3 times as many JPEGs of 256x256 as one, two threads fewer than one.

    This process reads and hashes, workers decode: all they need is bytes, which any source can give.
    """
    if workers < 2:
        yield from (pixels_of(content, options) for content in contents)
        return
    try:
        lock = multiprocessing.Lock()
    except (OSError, ImportError) as error:  # a semaphore, which Linux keeps in /dev/shm
        raise _NoProcessesError(f"there is no lock to be had ({first_line(error)}): mount /dev/shm") from error
    pool = ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(lock,))
    waiting: deque[tuple[Future[list[Pixels | str]], int]] = deque()
    held = 0
    try:
        for chunk in _chunks(contents):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python 3.12: of a fork beside threads; a worker touches no lock
                waiting.append((_submitted(pool, chunk, options), sum(map(len, chunk))))
            held += waiting[-1][1]
            while len(waiting) > 3 * workers or held > _IN_FLIGHT:
                future, size = waiting.popleft()
                held -= size
                yield from future.result()
        while waiting:
            yield from waiting.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, chunk: list[bytes | str], options: Options) -> Future[list[Pixels | str]]:
    try:
        return pool.submit(_decode_chunk, chunk, options)
    except OSError as error:  # of the first, which starts the processes
        for process in pool._processes.values():  # those that were started would wait for work
            process.kill()
        raise _NoProcessesError(f"{first_line(error).lower()}: allow more of them, or free memory") from error


def _chunks(contents: Iterable[bytes | str]) -> Iterator[list[bytes | str]]:
    chunk: list[bytes | str] = []
    for content in contents:
        chunk.append(content)
        if len(chunk) == _CHUNK[0] or sum(map(len, chunk)) > _CHUNK[1]:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _decode_chunk(chunk: list[bytes | str], options: Options) -> list[Pixels | str]:
    return [pixels_of(content, options) for content in chunk]


def _decoded(
    name: str,
    entries: Sequence[Entry],
    listing: str,
    folder: Path,
    options: Options,
    progress: Progress,
    workers: int | None,
) -> tuple[Pixels, dict[int, str], Path | None]:
    """Images, why which rows have none, and the file they are in; that file is there when it is whole."""
    if workers is None:
        workers = 1 if len(entries) < _WORTH_WORKERS else cores()
    colour = options.channels != "grey"
    shape = (len(entries), options.size, options.size, *([3] if colour else []))
    reasons: dict[int, str] = {}
    digest = hashlib.sha256()
    grey = options.channels == "auto"  # until a colour is seen
    with _room(folder, 2 * int(np.prod(shape, dtype=object))) as room, contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_new_file(room, "images.npy"))
            file.write(_header(shape))  # the number of images is written at the end
            rows = stack.enter_context(contextlib.closing(_rows(_contents(entries, digest), options, workers)))
            for number, row in enumerate(_told(rows, "decoding images", len(entries), progress)):
                if isinstance(row, str):
                    reasons[number] = row
                    continue
                grey = grey and _is_grey(row)
                file.write(row.tobytes())
            count = len(entries) - len(reasons)
            _judge(name, entries, reasons)
            if grey:
                file = _luma(file, stack.enter_context(_new_file(room, "grey.npy")), (count, *shape[1:]))
            file.write(json.dumps({"skipped": reasons}).encode())
            file.seek(0)
            file.write(_header((count, *shape[1:3]) if grey else (count, *shape[1:])))
            if isinstance(file, io.BytesIO):
                file.seek(0)
                return np.load(file), reasons, None
            file.close()
            final = written = Path(file.name)
            flush(written)
            if written.parent.parent == folder:
                final = folder / f"{listing}-{digest.hexdigest()[:32]}.npy"
                written.replace(final)
        except BrokenPipeError:  # of progress
            raise
        except _NoProcessesError as error:
            raise DatasetError(
                f"the processes that decode images of {name} can't be started; {error}, or take one worker"
            ) from error
        except OSError as error:
            raise DatasetError(
                f"can't keep the decoded images of {name} in {shown(room or folder)}: {first_line(error).lower()}; "
                "free space there, or name another folder in XDG_CACHE_HOME"
            ) from error
        except BrokenProcessPool as error:
            raise DatasetError(
                f"a process that decodes images of {name} died, perhaps for want of memory; use one worker"
            ) from error
        stored = _stored(final, len(entries), options)
        if stored is None:
            raise DatasetError(f"{shown(final)} was written, and is damaged when read back; check the disk")
        return stored[0], stored[1], final if final.parent == folder else None


def _judge(name: str, entries: Sequence[Entry], reasons: dict[int, str]) -> None:
    skipped = sorted((entries[number].name, reason) for number, reason in reasons.items())
    if len(skipped) * 10 > len(entries):
        raise DatasetError(
            f"{name}: {len(skipped):,} of {len(entries):,} images can't be read, expected at most a tenth: "
            f"{_reasons(skipped)}; replace or remove them"
        )
    if (whole := len(entries) - len(skipped)) < FEWEST:
        raise DatasetError(f"{name} holds {_images(whole)} that can be read, expected at least {FEWEST}; add some")


def _told(items: Iterable[_T], task: str, total: int, progress: Progress) -> Iterator[_T]:
    """The same items, while progress is told of them."""
    last = -1.0
    for done, item in enumerate(items):
        if time.monotonic() - last > 0.1:  # a display needs no more
            last = time.monotonic()
            progress(task, done, total)
        yield item
    progress(task, total, total)


# The cache: an ordinary .npy file, with what was skipped as JSON behind the pixels


@contextlib.contextmanager
def _room(folder: Path, needed: int) -> Iterator[Path | None]:
    """A temporary folder: in the cache, or where temporary files go; None where neither has room: then in memory."""
    with contextlib.ExitStack() as stack:
        room, places = None, [folder]
        with contextlib.suppress(OSError):
            places.append(Path(tempfile.gettempdir()))
        for place in places:
            with contextlib.suppress(OSError):
                place.mkdir(parents=True, exist_ok=True)
                if room is None and shutil.disk_usage(place).free > needed:
                    room = stack.enter_context(temporary_folder(place, "dcgan-images"))
        yield room


def _new_file(room: Path | None, name: str) -> IO[bytes]:
    return io.BytesIO() if room is None else (room / name).open("w+b")


def _header(shape: tuple[int, ...]) -> bytes:
    """As long for fewer images: numpy leaves room for the first number."""
    header = io.BytesIO()
    entries = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, entries)
    return header.getvalue()


def _is_grey(row: Pixels) -> bool:
    red, green, blue = (row[..., channel].astype(np.int16) for channel in range(3))
    return bool(max(abs(red - green).max(), abs(green - blue).max(), abs(blue - red).max()) <= _GREY)


def _luma(colour: IO[bytes], grey: IO[bytes], shape: tuple[int, ...]) -> IO[bytes]:
    """Write the pictures again in one channel: ITU-R 601, in Pillow's integers."""
    grey.write(_header(shape[:-1]))
    colour.seek(len(_header(shape)))
    for _ in range(shape[0]):
        row = np.frombuffer(colour.read(int(np.prod(shape[1:]))), np.uint8).reshape(shape[1:])
        grey.write(np.asarray(Image.fromarray(row).convert("L")).tobytes())
    return grey


def _stored(path: Path, entries: int, options: Options) -> tuple[Pixels, dict[int, str], Path] | None:
    """What is in the cache; None if it is not there or damaged."""
    try:
        # Copy-on-write: torch takes it without a warning, and the file stays as it is.
        images: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="c")
        with path.open("rb") as file:
            file.seek(images.offset + images.nbytes)
            reasons = {int(row): str(reason) for row, reason in json.load(file)["skipped"].items()}
        grey = (entries - len(reasons), options.size, options.size)
        if images.dtype != np.uint8 or images.shape not in (grey, (*grey, 3)):
            return None
    except Exception:  # whatever a damaged header and damaged JSON bring
        return None
    return images if images.nbytes > _IN_MEMORY else np.array(images), reasons, path


# Words


def _reasons(skipped: Sequence[tuple[str, str]]) -> str:
    return few([f"{shown(name)[:100]} ({reason})" for name, reason in skipped], _NAMED)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
