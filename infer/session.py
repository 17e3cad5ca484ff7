"""Making digits from an ONNX generator: open it, check it, and feed it latents in small batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcgan import shipped
from dcgan.errors import LatentError, ModelError, SpecError, first_line
from dcgan.images import to_uint8
from dcgan.spec import SPEC_KEY, GeneratorSpec

from . import runtime
from .latents import checked, latents
from .request import BATCH_SIZE, INDICES

# Latents drawn at a time: enough to make the cost of a call vanish, few enough to stay in the cache.
_BLOCK = 128

_Images = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]


class DigitGenerator:
    """A generator, ready to make images.

        from infer import DigitGenerator
        digits = DigitGenerator().generate(16, seed=0)  # uint8, shape (16, 28, 28)

    Attributes:
        name: of the model: a shipped name, or the file's name without suffix.
        sha256: of the model's file.
        spec: sizes and ranges, read from the model.
        provider: `cpu` or `cuda`, where it runs.
        note: with `auto`, why CUDA was offered and not taken; else empty.
        threads: of the CPU provider.
        runtime_version: of onnxruntime.
    """

    def __init__(
        self, model: str | Path = shipped.DEFAULT, *, provider: str = "auto", threads: int | None = None
    ) -> None:
        """
        Args:
            model: name of a shipped model, or path of an ONNX file that dcgan-export wrote.
            provider: `auto`, `cpu` or `cuda`.
            threads: of the CPU provider; None takes the cores this process may use.
        Raises:
            ModelError: the model is missing, unreadable, or not a generator this version can run.
            DeviceError: the provider is unknown, or is `cuda` and does not work here.
            RuntimeMissingError: onnxruntime is missing, broken or installed twice.
        """
        path = find_model(model)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelError(f"can't read model {path}: {first_line(error).lower()}") from None
        self.name = path.stem
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.threads = runtime.cores() if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"threads must be 1 or more, found {threads}")
        try:
            self._session, self.provider, self.note = runtime.open_session(content, provider, self.threads)
            self.spec = _spec_of(self._session)
        except ModelError as error:
            raise ModelError(f"can't use model {path}: {error}") from error
        self.runtime_version: str = runtime.onnxruntime().__version__
        self._input = self._session.get_inputs()[0].name
        self._outputs = [self._session.get_outputs()[0].name]

    def generate(self, n: int, *, seed: int = 0, start: int = 0, batch_size: int = BATCH_SIZE) -> _Images:
        """Make `n` images.

        Args:
            n: number of images, 1 or more.
            seed: 0 to 2^63 - 1; image i of a seed is the same whatever else is asked for.
            start: index of the first image.
            batch_size: images at a time.
        Returns:
            uint8, shape (n, height, width); 0 is black.
        Raises:
            LatentError: `n`, `seed` or an index is out of range.
            ModelError: the model fails, or returns NaN or infinity.
        """
        return np.concatenate(list(self.stream(n, seed=seed, start=start, batch_size=batch_size)))

    def stream(self, n: int, *, seed: int = 0, start: int = 0, batch_size: int = BATCH_SIZE) -> Iterator[_Images]:
        """Like `generate`, in parts of up to `batch_size` images: any `n` in constant memory."""
        for values in self.run(self.latents(n, seed=seed, start=start, batch_size=batch_size), batch_size):
            yield to_uint8(values)

    def generate_from(self, z: npt.NDArray[np.floating], *, batch_size: int = BATCH_SIZE) -> _Images:
        """Make an image from each latent of your own.

        Args:
            z: float32, shape (N, latent_dim), drawn from N(0, 1), N >= 1.
            batch_size: images at a time.
        Returns:
            uint8, shape (N, height, width); 0 is black.
        Raises:
            LatentError: `z` is empty, of another shape or type, or not finite.
            ModelError: the model fails, or returns NaN or infinity.
        """
        return np.concatenate([to_uint8(values) for values in self.run(self.blocks(z, batch_size), batch_size)])

    def latents(self, n: int, *, seed: int = 0, start: int = 0, batch_size: int = BATCH_SIZE) -> Iterator[_Floats]:
        """The latents behind `generate`, float32, shape (K, latent_dim), in blocks that batches divide evenly."""
        if n < 1:
            raise LatentError(f"the number of images must be 1 or more, found {n}")
        if start < 0 or start + n > INDICES:
            raise LatentError(f"a seed has the latents 0 to 2^32 - 1, asked for {n} from {start}")
        block = max(1, _BLOCK // batch_size) * batch_size
        for first in range(start, start + n, block):
            yield latents(seed, first, min(block, start + n - first), self.spec.latent_dim)

    def blocks(self, z: npt.NDArray[np.generic], batch_size: int = BATCH_SIZE) -> Iterator[_Floats]:
        """Latents of a caller, checked, in such blocks.

        Args:
            z: float32 or another floating type, shape (N, latent_dim), drawn from N(0, 1); may be a mapped file.
            batch_size: that `run` will be given.
        Raises:
            LatentError: `z` is empty, of another shape or type, or not finite.
        """
        if len(z) == 0:
            raise LatentError("there are no latents: the first axis is empty")
        block = max(1, _BLOCK // batch_size) * batch_size
        for first in range(0, len(z), block):
            yield checked(z[first : first + block], self.spec.latent_dim, first)

    def run(self, blocks: Iterable[_Floats], batch_size: int = BATCH_SIZE) -> Iterator[_Floats]:
        """Run the generator.

        Args:
            blocks: latents, float32, shape (K, latent_dim) each.
            batch_size: images at a time; a block's rest makes a smaller batch.
        Returns:
            For each batch float32, shape (N, height, width), range [-1, 1]; -1 is black.
        Raises:
            LatentError: the latents are not what the model takes.
            ModelError: the model fails, or returns NaN or infinity.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, found {batch_size}")
        _, height, width = self.spec.image_shape
        for block in blocks:
            z = checked(block, self.spec.latent_dim)
            for first in range(0, len(z), batch_size):
                batch = z[first : first + batch_size]
                try:
                    (values,) = self._session.run(self._outputs, {self._input: batch})
                except Exception as error:  # its exceptions have no common base below Exception
                    raise ModelError(f"model {self.name} failed while running: {runtime.reason(error)}") from error
                if values.shape != (len(batch), 1, height, width):
                    raise ModelError(
                        f"model {self.name} returned shape {values.shape} for {len(batch)} latents, "
                        f"its spec says {(len(batch), 1, height, width)}"
                    )
                if not np.isfinite(values).all():
                    raise ModelError(f"model {self.name} returned NaN or infinity; its weights are damaged")
                yield values.reshape(len(batch), height, width)


def find_model(model: str | Path) -> Path:
    """Path of a shipped model's name, or else of a file.

    Raises:
        ModelError: there is neither.
    """
    names = shipped.names(".onnx")
    if str(model) in names:
        return shipped.path_of(str(model), ".onnx")
    path = Path(model)
    try:
        if path.is_dir():
            raise ModelError(f"model {path} is a folder, expected an ONNX file")
        exists = path.exists()
    except OSError as error:  # a folder above may not be read, or the name is too long
        raise ModelError(f"can't read model {path}: {first_line(error).lower()}") from error
    if not exists:
        known = ", ".join(names) or "none is installed"
        raise ModelError(f"there is no model {str(model)!r}: neither a file nor a shipped model (these are: {known})")
    return path


def _spec_of(session: Any) -> GeneratorSpec:
    """The spec inside a model, held against the model's own input and output."""
    try:
        text = session.get_modelmeta().custom_metadata_map.get(SPEC_KEY)
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise ModelError(f"it carries no generator spec (metadata {SPEC_KEY}); write it with dcgan-export")
    try:
        spec = GeneratorSpec.from_json(text)
    except SpecError as error:
        raise ModelError(str(error)) from error
    if spec.num_classes or spec.image_shape[0] != 1:
        raise ModelError(
            f"it has {spec.num_classes} classes and {spec.image_shape[0]} channels; "
            "this version makes unconditional grey images only"
        )
    found = [
        f"{node.name}: {node.type} of ({', '.join(str(size) if isinstance(size, int) else 'N' for size in node.shape)})"
        for node in (*session.get_inputs(), *session.get_outputs())
    ]
    sizes = ", ".join(map(str, spec.image_shape))
    expected = [f"z: tensor(float) of (N, {spec.latent_dim})", f"image: tensor(float) of (N, {sizes})"]
    if found != expected:
        raise ModelError(f"its inputs and outputs are not what its spec says; expected {expected}, found {found}")
    return spec
