"""Making digits from an ONNX generator: open it, check it, and feed it latents in small batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from . import runtime, shipped
from .contract.errors import LatentError, ModelError, first_line
from .contract.latents import labels as drawn_labels
from .contract.latents import latents
from .contract.pixels import to_levels
from .contract.spec import INDICES
from .inputs import Block, checked, checked_labels
from .request import BATCH_SIZE

# Latents drawn at a time: enough to make the cost of a call vanish, few enough to stay in the cache.
_BLOCK = 128

_Images = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]


class DigitGenerator:
    """A generator, ready to make images.

        from dcgan_infer import DigitGenerator
        digits = DigitGenerator().generate(16, seed=0)  # uint8, shape (16, 28, 28)

    Attributes:
        name: of the model: a shipped name, or the file's name without suffix.
        sha256: of the model's file.
        spec: sizes and ranges, read from the model.
        provider: `cpu` or `cuda`, where it runs.
        note: with `auto`, why CUDA was offered and not taken; else empty.
        threads: of the CPU provider.
        grey_levels: whether the model itself gives grey levels, so that there are no floats to be had.
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
            self.spec = runtime.spec_of(self._session)
        except ModelError as error:
            raise ModelError(f"can't use model {path}: {error}") from error
        self.runtime_version: str = runtime.onnxruntime().__version__
        self._outputs = [self._session.get_outputs()[0].name]
        self.grey_levels = self._session.get_outputs()[0].type == "tensor(uint8)"

    def generate(
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        digits: int | Sequence[int] | None = None,
        truncation: float = 1.0,
        batch_size: int = BATCH_SIZE,
    ) -> _Images:
        """Make `n` images.

        Args:
            n: number of images, 1 or more.
            seed: 0 to 2^63 - 1; image i of a seed is the same whatever else is asked for.
            start: index of the first image.
            digits: of a conditional model, which to make: one, or several in turn, image i the one at i modulo their
                number; None draws them by the seed, as docs/latents.md says.
            truncation: factor on the latents; below 1 the digits are more regular and less varied.
            batch_size: images at a time.
        Returns:
            uint8, shape (n, height, width); 0 is black.
        Raises:
            LatentError: `n`, `seed`, an index or a digit is out of range.
            ModelError: the model fails or returns NaN or infinity, or is asked for digits and has no classes.
        """
        parts = self.stream(n, seed=seed, start=start, digits=digits, truncation=truncation, batch_size=batch_size)
        return np.concatenate(list(parts))

    def stream(
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        digits: int | Sequence[int] | None = None,
        truncation: float = 1.0,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[_Images]:
        """Like `generate`, in parts of up to `batch_size` images: any `n` in constant memory."""
        blocks = self.blocks(n, seed=seed, start=start, digits=digits, truncation=truncation, batch_size=batch_size)
        yield from map(to_levels, self.run(blocks, batch_size))

    def generate_from(
        self,
        z: npt.NDArray[np.floating],
        labels: npt.NDArray[np.integer] | Sequence[int] | None = None,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> _Images:
        """Make an image from each latent of your own.

        Args:
            z: float32, shape (N, latent_dim), drawn from N(0, 1), N >= 1.
            labels: integers, shape (N,); needed by a conditional model, None for another.
            batch_size: images at a time.
        Returns:
            uint8, shape (N, height, width); 0 is black.
        Raises:
            LatentError: `z` is empty, of another shape or type, or not finite, or `labels` do not fit.
            ModelError: the model fails, returns NaN or infinity, or is given labels and has no classes.
        """
        if labels is None and self.spec.num_classes:
            raise LatentError(f"model {self.name} is conditional: give a label for each latent")
        labels = None if labels is None else np.asarray(labels)
        if labels is not None and len(labels) != len(z):
            raise LatentError(f"there are {len(labels)} labels for {len(z)} latents")
        if len(z) == 0:
            raise LatentError("there are no latents: the first axis is empty")
        blocks = self.blocks(len(z), z=z, labels=labels, batch_size=batch_size)
        return np.concatenate(list(map(to_levels, self.run(blocks, batch_size))))

    def blocks(
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        z: npt.NDArray[np.generic] | None = None,
        digits: int | Sequence[int] | None = None,
        labels: npt.NDArray[np.generic] | None = None,
        truncation: float = 1.0,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[Block]:
        """What `run` is fed with to make `n` images, in blocks that batches divide evenly.

        Args:
            n: number of images, 1 or more.
            seed: of latents and labels.
            start: index of the first image.
            z: a caller's latents instead of the seed's, floating, shape (n, latent_dim); may be a mapped file.
            digits: as `generate` takes them.
            labels: of the images one by one, integers, shape (n,), instead of `digits`.
            truncation: factor on the latents.
            batch_size: that `run` will be given.
        Raises:
            LatentError: `n`, `seed` or an index is out of range, or `z`, `digits` or `labels` do not fit the model.
            ModelError: digits or labels are given, and the model has no classes.
        """
        if n < 1:
            raise LatentError(f"the number of images must be 1 or more, found {n}")
        if start < 0 or start + n > INDICES:
            raise LatentError(f"a seed has the latents 0 to 2^32 - 1, asked for {n} from {start}")
        label_part = self._labels(seed, start, n, digits, labels)
        size = max(1, _BLOCK // batch_size) * batch_size
        for first in range(0, n, size):
            count = min(size, n - first)
            if z is None:
                part = latents(seed, start + first, count, self.spec.latent_dim)
            else:
                part = checked(z[first : first + count], self.spec.latent_dim, first)
            # A latent's mean is 0, so going a part of the way from the mean (Karras et al., arXiv:1812.04948, appendix
            # B) is scaling.
            scaled = part if truncation == 1.0 else part * np.float32(truncation)
            yield Block(scaled, label_part(first, count))

    def labels(
        self, n: int, *, seed: int = 0, start: int = 0, digits: int | Sequence[int] | None = None
    ) -> npt.NDArray[np.int64]:
        """The labels of the images that `generate` makes of the same arguments: int64, shape (n,).

        Raises:
            ModelError: the model has no classes.
        """
        if not self.spec.num_classes:
            raise self._unconditional()
        found = self._labels(seed, start, n, digits, None)(0, n)
        assert found is not None
        return found

    def _labels(
        self,
        seed: int,
        start: int,
        n: int,
        digits: int | Sequence[int] | None,
        labels: npt.NDArray[np.generic] | None,
    ) -> Callable[[int, int], npt.NDArray[np.int64] | None]:
        """From (first, count) to the labels of images `start + first` and those after it."""
        classes = self.spec.num_classes
        if not classes:
            if digits is not None or labels is not None:
                raise self._unconditional()
            return lambda _first, _count: None
        if labels is not None:
            if len(labels) != n:
                raise LatentError(f"there are {len(labels)} labels for {n} images")
            fitting = checked_labels(labels, classes)
            return lambda first, count: fitting[first : first + count]
        if digits is None:
            return lambda first, count: drawn_labels(seed, start + first, count, classes)
        asked = np.atleast_1d(np.asarray(digits))
        if asked.size == 0:
            raise LatentError("no digits are asked for; give one or more, or leave them out")
        cycle = checked_labels(asked, classes)
        return lambda first, count: cycle[np.arange(start + first, start + first + count) % len(cycle)]

    def _unconditional(self) -> ModelError:
        known = [name for name in shipped.names(".onnx") if name.endswith("-conditional")]
        return ModelError(
            f"model {self.name} is unconditional: it can't be asked for a digit; take a conditional one"
            f"{' such as --model ' + known[0] if known else ', trained with dcgan-train --conditional'}"
        )

    def run(self, blocks: Iterable[Block], batch_size: int = BATCH_SIZE) -> Iterator[_Floats | _Images]:
        """Run the generator.

        Args:
            blocks: latents and labels.
            batch_size: images at a time; a block's rest makes a smaller batch.
        Returns:
            For each batch float32, shape (N, height, width), range [-1, 1]; -1 is black. Or uint8, same shape, 0 is
            black, of a model that gives grey levels.
        Raises:
            LatentError: the latents are not what the model takes.
            ModelError: the model fails, or returns NaN or infinity.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, found {batch_size}")
        sides = self.spec.image_shape[1:]
        one = sides if self.grey_levels else self.spec.image_shape
        for block in blocks:
            whole = Block(checked(block.z, self.spec.latent_dim), block.labels)
            for first in range(0, len(whole), batch_size):
                batch = whole.part(first, first + batch_size)
                inputs = {"z": batch.z} if batch.labels is None else {"z": batch.z, "label": batch.labels}
                try:
                    (values,) = self._session.run(self._outputs, inputs)
                except Exception as error:  # its exceptions have no common base below Exception
                    raise ModelError(f"model {self.name} failed while running: {runtime.reason(error)}") from error
                if values.shape != (len(batch), *one):
                    raise ModelError(
                        f"model {self.name} returned shape {values.shape} for {len(batch)} latents, "
                        f"its spec says {(len(batch), *one)}"
                    )
                if not self.grey_levels and not np.isfinite(values).all():
                    raise ModelError(f"model {self.name} returned NaN or infinity; its weights are damaged")
                yield values.reshape(len(batch), *sides)


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
