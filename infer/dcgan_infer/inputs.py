"""Latents and labels that a caller brings along, and walks between them. Those of a seed: contract/latents.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .contract.errors import LatentError, first_line

_F32 = npt.NDArray[np.float32]
_I64 = npt.NDArray[np.int64]


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
        z: float32 or another floating type, shape (N, latent_dim), finite.
        latent_dim: what the model takes.
        first: index of `z[0]`, for the message.
    Returns:
        float32, same shape and values, C-contiguous.
    Raises:
        LatentError: another shape or type, or a value that is NaN or beyond float32.
    """
    if z.dtype.kind != "f":
        raise LatentError(f"latents must be floating-point numbers, found {z.dtype}; draw them from N(0, 1) as float32")
    if z.ndim != 2 or z.shape[1] != latent_dim:
        raise LatentError(f"latents must have shape (N, {latent_dim}) for this model, found {z.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.ascontiguousarray(z, dtype=np.float32)
    finite = np.isfinite(result).all(axis=1)
    if not finite.all():
        raise LatentError(f"latent {first + int(np.argmin(finite))} holds NaN, infinity or a number beyond float32")
    return result


def load(path: Path) -> npt.NDArray[np.generic]:
    """Latents of a .npy file, mapped and not read: `checked` looks at them in use, block by block.

    Raises:
        LatentError: the file is missing, truncated or foreign, or holds no list of latents.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise LatentError(f"can't read latents {path}: {first_line(error).lower()}") from error
    except Exception as error:  # what NumPy raises depends on where it stumbles: ValueError, EOFError, SyntaxError...
        raise LatentError(f"{path} is no .npy file, or a truncated one; write it with numpy.save") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise LatentError(f"{path} holds several arrays (.npz); write the latents alone with numpy.save")
    if array.ndim != 2 or len(array) == 0:
        raise LatentError(f"{path}: latents must have shape (N, latent_dim) with N >= 1, found {array.shape}")
    return array


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


def load_labels(path: Path) -> npt.NDArray[np.generic]:
    """Labels of a .npy file, or of a text file with numbers between white space or commas.

    Raises:
        LatentError: the file is missing, truncated or foreign, or holds no list of labels.
    """
    try:
        if path.suffix.lower() == ".npy":
            labels: Any = np.load(path, allow_pickle=False)
            if not isinstance(labels, np.ndarray):
                labels.close()
                raise ValueError("an .npz archive")
        else:
            labels = np.array([int(word) for word in path.read_text().replace(",", " ").split()], dtype=np.int64)
    except OSError as error:
        raise LatentError(f"can't read labels {path}: {first_line(error).lower()}") from error
    except Exception as error:  # ValueError, OverflowError, UnicodeDecodeError, and what NumPy stumbles on
        raise LatentError(f"{path} holds no labels: give numbers in a text file, or integers in a .npy file") from error
    if labels.ndim != 1 or len(labels) == 0:
        raise LatentError(f"{path}: labels must have shape (N,) with N >= 1, found {labels.shape}")
    found: npt.NDArray[np.generic] = labels
    return found


def walk(keys: Iterable[Block], steps: int) -> Iterator[Block]:
    """The round trip along all latents and back to the first, by spherical interpolation.

    White, "Sampling generative networks" (arXiv:1609.04468): latents of a normal prior lie near a sphere, and the
    straight line between two of them leaves it. A label can't be divided: it changes half-way.

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
    z = _slerp(a.z[0], b.z[0], steps)
    if a.labels is None or b.labels is None:
        return Block(z, None)
    return Block(z, np.where(2 * np.arange(steps) < steps, a.labels[0], b.labels[0]))


def _slerp(a: _F32, b: _F32, steps: int) -> _F32:
    start, end = a.astype(np.float64), b.astype(np.float64)
    t = (np.arange(steps) / steps)[:, None]
    lengths = math.sqrt(float(start @ start) * float(end @ end))
    angle = math.acos(min(1.0, max(-1.0, float(start @ end) / lengths))) if lengths > 0.0 else 0.0
    if math.sin(angle) < 1e-6:  # on one line through the origin: the sphere names no way from one to the other
        return ((1.0 - t) * start + t * end).astype(np.float32)
    return ((np.sin((1.0 - t) * angle) * start + np.sin(t * angle) * end) / math.sin(angle)).astype(np.float32)
