"""Where the images to be judged come from: a checkpoint, an ONNX model, or a file of images.

Latents, and labels where none are asked for, are those of docs/contracts.md, so that the images judged are the ones
`dcgan-infer` makes of the same model, seed, indices and classes.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dcgan_infer import shipped
from dcgan_infer.contract.errors import EvaluationError, first_line
from dcgan_infer.contract.latents import labels, latents
from dcgan_infer.contract.pixels import to_pictures, to_uint8
from dcgan_infer.contract.spec import DRAWN, RECIPE_KEY, Interface, trained_on
from dcgan_infer.extras import require
from dcgan_infer.generator import ImageGenerator
from dcgan_infer.runtime import cores

if TYPE_CHECKING:
    from .networks import Generator

_BATCH = 250
_NPY = b"\x93NUMPY"  # https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
_UNPACKED, _LEAST = 100, 1 << 20  # times the size of an archive, and a little

Pictures = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.integer]
# float32 latents (N, latent_dim) and int64 labels (N,) or None, to float32 images (N, C, H, W) in the value range.
Run = Callable[[npt.NDArray[np.float32], "npt.NDArray[np.int64] | None"], npt.NDArray[Any]]


class Images:
    """Makes images for the evaluation.

    Attributes:
        name: of the file, or of the shipped model.
        image_shape: (channels, height, width) of one image.
        num_classes: of the labels that the images come with; 0 without labels, None where the file does not say.
        class_names: a name for each class, or none.
        count: number of images there are; None where there is no end of them.
        labels: integers, shape (count,), of images that are there; None otherwise.
        trained_on: data set that the generator was trained on; empty where that is not known.
    """

    count: int | None = None
    labels: Labels | None = None
    trained_on = ""

    def __init__(self, name: str, spec: Interface, run: Run, recipe: str = "") -> None:
        self.name = name
        self.trained_on = trained_on(recipe)
        self.image_shape = spec.image_shape
        self.num_classes: int | None = spec.num_classes
        self.class_names = spec.class_names
        self._spec = spec
        self._run = run

    @property
    def labelled(self) -> bool:
        """Whether the images come with labels."""
        return self.num_classes != 0

    @property
    def seeded(self) -> bool:
        """Whether another seed gives other images."""
        return self.count is None

    def __call__(self, count: int, seed: int, asked: Labels | None = None) -> tuple[Pictures, Labels | None]:
        """Make images.

        Args:
            count: number of images.
            seed: of the latents; images 0 to count - 1 of it are made.
            asked: labels that a conditional generator is asked for, integers, shape (count,); others ignore them. None
                draws them by the seed.
        Returns:
            uint8, shape (count, H, W) or (count, H, W, C); and their labels, integers, shape (count,), or None.
        """
        wanted = None
        if self._spec.num_classes:
            wanted = labels(seed, 0, count, self._spec.num_classes) if asked is None else asked.astype(np.int64)
        parts = []
        for first in range(0, count, _BATCH):
            z = latents(seed, first, min(_BATCH, count - first), self._spec.latent_dim)
            images = self._run(z, None if wanted is None else wanted[first : first + len(z)])
            if images.shape != (len(z), *self.image_shape) or not np.isfinite(images).all():
                raise EvaluationError(f"{self.name} makes values that are not finite, or of shape {images.shape}")
            parts.append(to_pictures(images, self._spec.value_range))
        return np.concatenate(parts), wanted


class _ModelImages(Images):
    """What an ONNX model makes, of either kind: one that takes latents, or one that takes a seed."""

    def __init__(self, name: str, generator: ImageGenerator) -> None:
        self.name = name
        self.trained_on = trained_on(generator.model.metadata.get(RECIPE_KEY, ""))
        self.image_shape = generator.spec.image_shape
        self.num_classes = generator.spec.num_classes
        self.class_names = generator.spec.class_names
        self._generator = generator

    def __call__(self, count: int, seed: int, asked: Labels | None = None) -> tuple[Pictures, Labels | None]:
        if not self.num_classes:
            return self._generator.generate(count, seed=seed, batch_size=_BATCH), None
        classes = None if asked is None else asked.tolist()
        images = self._generator.generate(count, seed=seed, classes=classes, batch_size=_BATCH)
        return images, self._generator.labels(count, seed=seed, classes=classes)


class _FileImages(Images):
    """Images that are there already."""

    def __init__(self, name: str, images: Pictures, wanted: Labels | None) -> None:
        self.name = name
        height, width, *channels = images.shape[1:]
        self.image_shape = (channels[0] if channels else 1, height, width)
        self.num_classes = 0 if wanted is None else None
        self.class_names = ()
        self.count = len(images)
        self.labels = wanted
        self._images = images

    def __call__(
        self,
        count: int,
        seed: int,  # noqa: ARG002
        asked: Labels | None = None,  # noqa: ARG002
    ) -> tuple[Pictures, Labels | None]:
        if count > len(self._images):
            raise EvaluationError(f"{self.name} holds {len(self._images)} images, and {count} are needed; make more")
        return self._images[:count], None if self.labels is None else self.labels[:count]


def open_images(source: str, threads: int | None = None) -> Images:
    """Open what makes the images; what it is follows from the suffix.

    Args:
        source: name of a shipped model, or path of an ONNX model (.onnx) or of a folder that holds one and no
            checkpoint, of images (.npy, or .npz with `images` and perhaps `labels`), or of a checkpoint or a run's
            folder (anything else).
        threads: of the CPU; None takes the cores this process may use.
    Raises:
        ModelError, CheckpointError, EvaluationError: the file is missing, unreadable or foreign.
        RuntimeMissingError: a checkpoint is given and torch is not installed.
    """
    path = shipped.path_of(source, ".onnx") if source in shipped.names(".onnx") else Path(source)
    suffix = path.suffix.lower()
    content = None
    if suffix in (".npy", ".npz") or path.is_fifo():  # a pipe can be read once only, and has no suffix
        try:
            content = path.read_bytes()
        except OSError as error:
            raise EvaluationError(f"can't read images {path}: {first_line(error).lower()}") from error
        if suffix in (".npy", ".npz") or content[:6] == _NPY or _is_npz(content):
            return _open_arrays(content, path)
    if suffix == ".onnx" or _holds_model(path):
        return _drawn(_ModelImages(str(path), ImageGenerator(path, provider="cpu", threads=threads or cores())))
    checkpoint = require("dcgan.checkpoint", "train").load_generator(path, content=content)
    run = generator_run(checkpoint.module, threads or cores())
    return _drawn(Images(str(path), checkpoint.module.spec, run, checkpoint.recipe))


def _holds_model(path: Path) -> bool:
    """Whether it is a folder with an ONNX file, and not one that dcgan-train writes to."""
    if not os.path.isdir(path):  # noqa: PTH112  Path.is_dir raises where the system has no such name
        return False
    hub = "model.safetensors"  # lies beside its model
    checkpoints = {each.name for each in path.glob("*.safetensors")} - {hub}
    return not (checkpoints or (path / "options.json").exists()) and any(path.glob("*.onnx"))


def _is_npz(content: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except Exception:  # zipfile raises seven kinds of them
        return False


def _arrays(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays that are looked at."""
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(info.file_size for info in archive.infolist()) > _UNPACKED * len(content) + _LEAST:
                raise EvaluationError(
                    f"unpacks to more than {_UNPACKED} times its size, as what fills memory does; give other images"
                )
    loaded = np.load(io.BytesIO(content), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {"images": loaded}
    with loaded:
        found = {name: loaded[name] for name in ("images", "labels") if name in loaded.files}
    return {name: array for name, array in found.items() if isinstance(array, np.ndarray)}  # bytes are no .npy's


def _drawn(images: Images) -> Images:
    if images.image_shape[0] not in DRAWN:
        raise EvaluationError(
            f"{images.name} makes images of {images.image_shape[0]} channels; what can be judged has 1 or 3"
        )
    return images


def generator_run(generator: Generator, threads: int | None = None) -> Run:
    """How a torch generator in eval mode is run; threads as `torch_state.our_settings` takes them."""
    import torch

    from .torch_state import our_settings, usual_threads

    device = next(generator.parameters()).device
    threads = threads or usual_threads()

    def run(z: npt.NDArray[np.float32], wanted: npt.NDArray[np.int64] | None) -> npt.NDArray[np.float32]:
        with our_settings(threads), torch.inference_mode():
            label = None if wanted is None else torch.from_numpy(wanted).to(device)
            images = generator(torch.from_numpy(z).to(device), label)
        array: npt.NDArray[np.float32] = images.float().cpu().numpy()
        return array

    return run


def _open_arrays(content: bytes, path: Path) -> Images:
    """Images of a .npy or .npz file."""
    try:
        arrays = _arrays(content)
        images, wanted = arrays["images"], arrays.get("labels")
    except KeyError as error:
        raise EvaluationError(f"{path} holds no array called images") from error
    except EvaluationError as error:
        raise EvaluationError(f"{path} {error}") from error
    except Exception as error:  # what NumPy raises depends on where it stumbles: ValueError, EOFError, BadZipFile...
        raise EvaluationError(f"{path} is no .npy or .npz file, or a truncated one") from error
    given = f"{images.dtype} of shape {images.shape}"
    if images.ndim == 4 and images.shape[3] not in DRAWN and images.shape[1] in DRAWN:  # as models make them
        images = images.transpose(0, 2, 3, 1)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.dtype.kind == "f":
        if images.size and not np.abs(images).max() <= 1.0 + 1e-6:  # NaN too
            raise EvaluationError(
                f"{path}: float images go from -1 (black) to 1, found others; uint8 goes from 0 to 255"
            )
        if images.ndim in (3, 4) and images.size and images.min() >= 0.0:
            raise EvaluationError(f"{path}: no float is below 0; images from 0 to 1 have to be scaled to -1 to 1 first")
        images = to_uint8(images)
    coloured = images.ndim == 4 and images.shape[3] == 3
    if images.dtype != np.uint8 or not (images.ndim == 3 or coloured) or 0 in images.shape:
        raise EvaluationError(
            f"{path}: images must be uint8 or float from -1 to 1, of shape (N, H, W), grey, or (N, H, W, 3) or "
            f"(N, 3, H, W), in colour; found {given}"
        )
    if wanted is not None and (wanted.dtype.kind not in "iu" or wanted.shape != (len(images),)):
        raise EvaluationError(f"{path}: labels must be integers, one an image; found {wanted.dtype} {wanted.shape}")
    return _FileImages(str(path), np.ascontiguousarray(images), wanted)
