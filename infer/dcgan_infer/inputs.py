"""Latents and classes that a caller brings along, and walks between them. Those of a seed: contract/latents.py."""

from __future__ import annotations

import codecs
import hashlib
import io
import math
import mmap
import os
import re
import stat
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .contract.errors import LatentError, first_line
from .contract.files import read_limited
from .contract.spec import LARGEST_LATENT, LONGEST_NAME, Interface

_F32 = npt.NDArray[np.float32]
_I64 = npt.NDArray[np.int64]

_MOST_PIPED = 1 << 30  # bytes of what can't be mapped: 2.7 million latents of 100 numbers
_SHOWN = 12  # names of classes in a message
_ZIP = b"PK\x03\x04"  # how an .npz begins
_LONGEST_HEADER = 1 << 17  # of a .npy file; NumPy refuses more than 10,000 bytes


@dataclass(frozen=True)
class Block:
    """What a model is fed with.

    Attributes:
        z: latents, float32, shape (K, latent_dim).
        labels: int64, shape (K,); None for an unconditional model.
    """

    z: _F32
    labels: _I64 | None = None

    def __len__(self) -> int:
        return len(self.z)

    def part(self, first: int, last: int) -> Block:
        """Rows `first` to `last - 1`."""
        return Block(self.z[first:last], None if self.labels is None else self.labels[first:last])


def checked(z: npt.NDArray[np.generic], latent_dim: int, first: int = 0) -> _F32:
    """Latents of a caller, as the model takes them.

    Args:
        z: float32 or another floating type, shape (N, latent_dim), from -`LARGEST_LATENT` to `LARGEST_LATENT`.
        latent_dim: what the model takes.
        first: index of `z[0]`, for the message.
    Returns:
        float32, same shape and values, C-contiguous.
    Raises:
        LatentError: another shape or type, or a value that is NaN or out of that range.
    """
    if z.dtype.kind != "f":
        raise LatentError(f"latents must be floating-point numbers, found {z.dtype}; draw them from N(0, 1) as float32")
    if z.ndim != 2 or z.shape[1] != latent_dim:
        raise LatentError(f"latents must have shape (N, {latent_dim}) for this model, found {z.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.ascontiguousarray(z, dtype=np.float32)
    fits = (np.abs(result) <= LARGEST_LATENT).all(axis=1)  # a NaN does not
    if not fits.all():
        bad = int(np.argmin(fits))
        number = float(z[bad, int(np.argmin(np.abs(result[bad]) <= LARGEST_LATENT))])
        raise LatentError(
            f"latent {first + bad} holds {number:g}; its numbers must be from -{LARGEST_LATENT:g} to "
            f"{LARGEST_LATENT:g}: draw them from N(0, 1)"
        )
    return result


class Rows(NamedTuple):
    """What a file holds for each image.

    Attributes:
        path: of the file.
        what: it holds, for messages.
        values: one for each image.
        content: the bytes that these were found in. A pipe can't be read a second time, and a file may change.
    """

    path: Path
    what: str
    values: Any
    content: bytes | mmap.mmap

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the file."""
        return hashlib.sha256(self.content).hexdigest()

    def part(self, start: int, n: int) -> Any:
        """Those of images `start` to `start + n - 1`.

        Raises:
            LatentError: there are not so many.
        """
        count = len(self.values)
        if start + n > count:
            raise LatentError(f"{self.path} holds {count} {self.what}, asked for {n} from number {start}")
        return self.values[start : start + n]


def load(path: Path) -> Rows:
    """Latents of a .npy file, mapped and not read: `checked` looks at them in use, block by block.

    A pipe, which can't be mapped, is read whole.

    Raises:
        LatentError: the file is missing, truncated or foreign, or holds no list of latents.
    """
    content = _content(path, "latents")
    if content[:4] == _ZIP:
        raise LatentError(f"{path} holds several arrays (.npz); write the latents alone with numpy.save")
    try:
        array = _array(content)
    except Exception as error:  # what NumPy raises depends on where it stumbles: ValueError, EOFError, SyntaxError...
        raise LatentError(f"{path} is no .npy file, or a truncated one; write it with numpy.save") from error
    if array.ndim != 2 or len(array) == 0:
        raise LatentError(f"{path}: latents must have shape (N, latent_dim) with N >= 1, found {array.shape}")
    return Rows(path, "latents", array, content)


def _content(path: Path, what: str) -> bytes | mmap.mmap:
    """The bytes of a file: mapped, or of a pipe read."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_size:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return read_limited(file, _MOST_PIPED)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero in it
        raise LatentError(f"can't read {what} {path}: {first_line(error).lower()}") from error


def _array(content: bytes | mmap.mmap) -> npt.NDArray[Any]:
    """The array of a .npy file, over the very bytes.

    Raises:
        Exception: of several kinds: it is none, or holds objects, or less than it says.
    """
    file = io.BytesIO(content[:_LONGEST_HEADER])
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, of the header, which it reads as an expression
        shape, is_fortran, dtype = readers[np.lib.format.read_magic(file)](file)
    count = math.prod(shape)
    values = np.frombuffer(content, dtype, count, file.tell()) if count else np.empty(0, dtype)
    return values.reshape(shape, order="F" if is_fortran else "C")


def checked_labels(labels: npt.NDArray[Any], num_classes: int, first: int = 0) -> _I64:
    """Labels of a caller, as the model takes them.

    Args:
        labels: integers, shape (N,), from 0 to num_classes - 1.
        num_classes: of the model.
        first: index of `labels[0]`, for the message.
    Returns:
        int64, same shape and values, C-contiguous.
    Raises:
        LatentError: another shape or type, or a label that is none of the model's.
    """
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise LatentError(f"labels must be integers of shape (N,), found {labels.dtype} of shape {labels.shape}")
    known = (labels >= 0) & (labels < num_classes)
    if not known.all():
        bad = int(np.argmin(known))
        raise LatentError(f"label {labels[bad]} of image {first + bad} is none of this model's, 0 to {num_classes - 1}")
    return np.ascontiguousarray(labels, dtype=np.int64)


def load_labels(path: Path) -> Rows:
    """Labels of a file, as `class_numbers` takes them.

    Args:
        path: of a .npy file of integers, whatever its name; or of text in UTF-8: numbers between white space or commas,
            or else a name a line. A byte order mark, any ends of lines and commas at the ends of them are fine.
    Raises:
        LatentError: the file is missing, truncated or foreign, or holds no list of labels.
    """
    content = _content(path, "labels")
    try:
        labels = _array(content) if content[:6] == np.lib.format.MAGIC_PREFIX else _text_labels(content[:])
        if np.ndim(labels) == 1 and np.asarray(labels).dtype.kind == "U":
            labels = [_name(str(label)) for label in labels]
    except Exception as error:  # ValueError, UnicodeDecodeError, and what NumPy stumbles on
        raise LatentError(
            f"{path} holds no labels: give numbers or a name a line in a text file, or integers in a .npy file"
        ) from error
    if np.ndim(labels) != 1 or len(labels) == 0:
        raise LatentError(f"{path}: labels must have shape (N,) with N >= 1, found {np.shape(labels)}")
    return Rows(path, "labels", labels, content)


def _text_labels(content: bytes) -> list[str]:
    """Numbers, or else names, of a text as editors and shells write it.

    Raises:
        ValueError: it is none.
    """
    is_utf16 = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as PowerShell writes it
    text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    labels = text.replace(",", " ").split()
    if not all(re.fullmatch(r"-?[0-9]+", label) for label in labels):
        labels = [label for line in text.splitlines() if (label := line.strip())]
        if all(label.endswith(",") for label in labels[:-1]):  # a list with commas; no name ends with one
            labels = [label.removesuffix(",").rstrip() for label in labels]
    return [_name(label) for label in labels]


def _name(label: str) -> str:
    """A label that may be the name of a class; NumPy makes texts of numbers that are no letters.

    Raises:
        Exception: it is none.
    """
    if max(map(ord, label), default=0) > sys.maxunicode or not label.isprintable() or len(label) > LONGEST_NAME:
        raise ValueError("no text")
    return label


Classes = str | int | Sequence[str | int] | npt.NDArray[np.generic]


def class_numbers(classes: Classes, interface: Interface) -> _I64:
    """Numbers of classes that are asked for by name or by number.

    Args:
        classes: one or several. A text is a name first, and a number where no class has that name.
        interface: of the model.
    Returns:
        int64, shape (N,).
    Raises:
        LatentError: the model has no such class, or none is asked for.
    """
    if isinstance(classes, np.ndarray) and classes.dtype.kind != "U":
        return checked_labels(np.atleast_1d(classes), interface.num_classes)
    numbers = {name: number for number, name in enumerate(interface.labels)}
    several = [classes] if isinstance(classes, str | int) else classes
    found = [_number_of(each, numbers, interface) if isinstance(each, str) else each for each in several]
    if not found:
        raise LatentError("no classes are asked for; give one or more, or leave them out")
    return checked_labels(np.asarray(found), interface.num_classes)


def _number_of(text: str, numbers: dict[str, int], interface: Interface) -> int:
    number = numbers.get(text)
    if number is not None:
        return number
    if re.fullmatch(r"[0-9]{1,5}", text) and int(text) < interface.num_classes:
        return int(text)
    import difflib  # 5 ms, of a mistake only

    close = difflib.get_close_matches(text, numbers, 1) or difflib.get_close_matches(
        text.lower(), (name for name in numbers if name.lower() == text.lower()), 1, 0.0
    )
    near = f"; did you mean {close[0]}?" if close else ";"
    names = f"0 to {interface.num_classes - 1}"
    if interface.class_names:
        names = ", ".join(interface.class_names[:_SHOWN]) + (", ..." if len(numbers) > _SHOWN else "")
    raise LatentError(f"this model has no class {text[:80]!r}{near} its classes are {names}")


def walk(keys: Iterable[Block], steps: int) -> Iterator[Block]:
    """The round trip along all latents and back to the first, by spherical interpolation.

    White, "Sampling generative networks" (arXiv:1609.04468): latents of a normal prior lie near a sphere, and the
    straight line between two of them leaves it. A label can't be divided: frames have that of the latent before them.

    Args:
        keys: blocks, one after the other.
        steps: frames from each latent to the next; the first of them is the latent itself.
    Returns:
        For each latent its frames, a block of `steps`.
    """
    singles = (block.part(i, i + 1) for block in keys for i in range(len(block)))
    first = here = next(singles, None)
    if first is None or here is None:
        return
    for there in singles:
        yield _between(here, there, steps)
        here = there
    yield _between(here, first, steps)


def _between(a: Block, b: Block, steps: int) -> Block:
    return Block(_slerp(a.z[0], b.z[0], steps), None if a.labels is None else a.labels.repeat(steps))


def of_each(blocks: Iterable[Block], labels: _I64) -> Iterator[Block]:
    """Every latent once with each of these labels, one after the other: frames in which classes stand side by side.

    Args:
        blocks: whose own labels are dropped.
        labels: int64, shape (K,), K >= 1.
    Returns:
        Blocks of K times the latents.
    """
    for block in blocks:
        yield Block(block.z.repeat(len(labels), axis=0), np.tile(labels, len(block)))


def _slerp(a: _F32, b: _F32, steps: int) -> _F32:
    start, end = a.astype(np.float64), b.astype(np.float64)
    t = (np.arange(steps) / steps)[:, None]
    lengths = math.sqrt(float(start @ start) * float(end @ end))
    angle = math.acos(min(1.0, max(-1.0, float(start @ end) / lengths))) if lengths > 0.0 else 0.0
    if math.sin(angle) < 1e-6:  # on one line through the origin: the sphere names no way from one to the other
        return ((1.0 - t) * start + t * end).astype(np.float32)
    return ((np.sin((1.0 - t) * angle) * start + np.sin(t * angle) * end) / math.sin(angle)).astype(np.float32)
