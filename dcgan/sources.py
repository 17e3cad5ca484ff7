"""Where the digits to be judged come from: a checkpoint, an ONNX model, or a file of images.

Latents and labels are those of docs/latents.md, so that the digits judged are the ones `dcgan-infer` makes of the same
model, seed and indices.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dcgan_infer import shipped
from dcgan_infer.contract.errors import EvaluationError, first_line
from dcgan_infer.contract.latents import labels, latents
from dcgan_infer.contract.pixels import to_pictures, to_uint8
from dcgan_infer.contract.spec import Interface
from dcgan_infer.extras import require
from dcgan_infer.runtime import cores
from dcgan_infer.session import ImageGenerator

from .data import CLASSES

if TYPE_CHECKING:
    from .networks import Generator

_BATCH = 250
_SIDES = (28, 28)

# float32 latents (N, latent_dim) and int64 labels (N,) or None, to float32 images (N, 1, H, W) in the value range.
Run = Callable[[npt.NDArray[np.float32], "npt.NDArray[np.int64] | None"], npt.NDArray[Any]]


class Digits:
    """Makes digits for the evaluation.

    Attributes:
        name: of the file, or of the shipped model.
        labelled: whether the digits come with labels.
        seeded: whether another seed gives other digits.
    """

    def __init__(self, name: str, spec: Interface, run: Run) -> None:
        self.name = name
        self.labelled = spec.num_classes > 0
        self.seeded = True
        self._spec = spec
        self._run = run

    def __call__(self, count: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer] | None]:
        """Digits 0 to count - 1 of a seed: uint8, shape (count, 28, 28), and their labels, int64, shape (count,)."""
        wanted = labels(seed, 0, count, self._spec.num_classes) if self.labelled else None
        parts = []
        for first in range(0, count, _BATCH):
            z = latents(seed, first, min(_BATCH, count - first), self._spec.latent_dim)
            images = self._run(z, None if wanted is None else wanted[first : first + len(z)])
            if images.shape != (len(z), 1, *_SIDES) or not np.isfinite(images).all():
                raise EvaluationError(f"{self.name} makes values that are not finite, or of shape {images.shape}")
            parts.append(to_pictures(images, self._spec.value_range))
        return np.concatenate(parts), wanted


class _ModelDigits(Digits):
    """What an ONNX model makes, of either kind: one that takes latents, or one that takes a seed."""

    def __init__(self, name: str, generator: ImageGenerator) -> None:
        self.name = name
        self.labelled = generator.spec.num_classes > 0
        self.seeded = True
        self._generator = generator

    def __call__(self, count: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer] | None]:
        images = self._generator.generate(count, seed=seed, batch_size=_BATCH)
        return images, self._generator.labels(count, seed=seed) if self.labelled else None


class _FileDigits(Digits):
    """Images that are there already."""

    def __init__(self, name: str, images: npt.NDArray[np.uint8], wanted: npt.NDArray[np.integer] | None) -> None:
        self.name = name
        self.labelled = wanted is not None
        self.seeded = False
        self._images = images
        self._labels = wanted

    def __call__(self, count: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer] | None]:  # noqa: ARG002
        if count > len(self._images):
            raise EvaluationError(f"{self.name} holds {len(self._images)} digits, and {count} are needed; make more")
        return self._images[:count], None if self._labels is None else self._labels[:count]


def open_digits(source: str, threads: int | None = None) -> Digits:
    """Open what makes the digits; what it is follows from the suffix.

    Args:
        source: name of a shipped model, or path of an ONNX model (.onnx), of images (.npy, or .npz with `images` and
            perhaps `labels`), or of a checkpoint (anything else).
        threads: of the CPU; None takes the cores this process may use.
    Raises:
        ModelError, CheckpointError, EvaluationError: the file is missing, unreadable or foreign.
        RuntimeMissingError: a checkpoint is given and torch is not installed.
    """
    path = shipped.path_of(source, ".onnx") if source in shipped.names(".onnx") else Path(source)
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return _open_images(path)
    if suffix == ".onnx":
        return _open_onnx(path, threads or cores())
    return _open_checkpoint(path, threads or cores())


def generator_run(generator: Generator) -> Run:
    """How a torch generator in eval mode is run."""
    import torch

    device = next(generator.parameters()).device

    def run(z: npt.NDArray[np.float32], wanted: npt.NDArray[np.int64] | None) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            label = None if wanted is None else torch.from_numpy(wanted).to(device)
            images = generator(torch.from_numpy(z).to(device), label)
        array: npt.NDArray[np.float32] = images.float().cpu().numpy()
        return array

    return run


def _open_checkpoint(path: Path, threads: int) -> Digits:
    checkpoint = require("dcgan.checkpoint", "train").load_generator(path)
    require("torch", "train").set_num_threads(threads)
    _refuse_foreign(path, checkpoint.module.spec)
    return Digits(str(path), checkpoint.module.spec, generator_run(checkpoint.module))


def _open_onnx(path: Path, threads: int) -> Digits:
    generator = ImageGenerator(path, provider="cpu", threads=threads)
    _refuse_foreign(path, generator.spec)
    return _ModelDigits(str(path), generator)


def _refuse_foreign(path: Path, spec: Interface) -> None:
    if spec.image_shape != (1, *_SIDES):
        raise EvaluationError(f"{path} makes images of shape {spec.image_shape}; the evaluator reads (1, 28, 28)")


def _open_images(path: Path) -> Digits:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = {"images": loaded}
        else:
            with loaded:
                arrays = {name: loaded[name] for name in loaded.files}
        images, wanted = arrays["images"], arrays.get("labels")
    except KeyError as error:
        raise EvaluationError(f"{path} holds no array called images") from error
    except OSError as error:
        raise EvaluationError(f"can't read images {path}: {first_line(error).lower()}") from error
    except Exception as error:  # what NumPy raises depends on where it stumbles: ValueError, EOFError, BadZipFile...
        raise EvaluationError(f"{path} is no .npy or .npz file, or a truncated one") from error
    if images.ndim == 4 and images.shape[1] == 1:  # as models make them
        images = images[:, 0]
    if images.dtype.kind == "f":
        if images.size and not np.abs(images).max() <= 1.0 + 1e-6:  # NaN too
            raise EvaluationError(
                f"{path}: float images go from -1 (black) to 1, found others; uint8 goes from 0 to 255"
            )
        if images.ndim == 3 and images.size and images.min() >= 0.0:
            raise EvaluationError(f"{path}: no float is below 0; images from 0 to 1 have to be scaled to -1 to 1 first")
        images = to_uint8(images)
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != _SIDES:
        raise EvaluationError(
            f"{path}: images must be uint8 or float from -1 to 1, of shape (N, 28, 28); "
            f"found {images.dtype} of shape {images.shape}"
        )
    if wanted is not None and (wanted.dtype.kind not in "iu" or wanted.shape != (len(images),)):
        raise EvaluationError(f"{path}: labels must be integers, one an image; found {wanted.dtype} {wanted.shape}")
    if wanted is not None and len(wanted) and not (wanted.min() >= 0 and wanted.max() < CLASSES):
        raise EvaluationError(f"{path}: labels must be 0 to {CLASSES - 1}, found {wanted.min()} to {wanted.max()}")
    return _FileDigits(str(path), images, wanted)
