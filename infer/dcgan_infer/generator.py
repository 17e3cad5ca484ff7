"""Making images with an ONNX generator: latents and classes in, small batches through the model, pictures out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import runtime, shipped
from .contract.errors import LatentError, ModelError
from .contract.latents import labels as drawn_labels
from .contract.latents import latents
from .contract.pixels import to_pictures
from .contract.spec import INDICES
from .inputs import Block, Classes, checked, class_numbers
from .model import Model, open_model
from .pictures import Images
from .request import DEFAULT_SEED

# Latents drawn at a time: enough to make the cost of a call vanish, few enough to stay in the cache.
_BLOCK = 128
DIGITS = tuple("0123456789")

NOBODY: npt.NDArray[np.int64] = np.empty(0, np.int64)  # labels that are asked for, where none are

_Pictures = npt.NDArray[np.uint8]
_Labels = npt.NDArray[np.int64]


class ImageGenerator:
    """A generator, ready to make images.

        from dcgan_infer import ImageGenerator
        generator = ImageGenerator()
        images = generator(16, digit=7, seed=0)  # uint8, shape (16, 28, 28); a notebook shows them
        images.grid().save("sevens.png")

    Threads may share one. A copy, and one that is pickled into another process, opens the file again, on the same
    provider with as many threads, and refuses a file that has changed.

    Attributes:
        model: the file, opened.
        name: of the model: a shipped name, or the file's name without suffix.
        spec: sizes, range and classes, read from the model.
        threads: of the CPU provider.
        runtime_version: of onnxruntime.
    """

    def __init__(
        self, model: str | Path | Model = shipped.DEFAULT, *, provider: str = "auto", threads: int | None = None
    ) -> None:
        """
        Args:
            model: name of a shipped model, path of an ONNX file that dcgan-export wrote, or of a folder that holds one;
                or one that is open, with its provider and threads.
            provider: `auto`, `cpu`, `cuda`, or another as `runtime.open_session` takes them.
            threads: of the CPU provider; None takes the cores this process may use.
        Raises:
            ModelError: the model is missing, unreadable, or not a generator this version can run.
            DeviceError: the provider is not installed or does not work here, or there can't be so many threads.
            RuntimeMissingError: onnxruntime is missing, broken or installed twice.
        """
        self.threads = runtime.cores() if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"threads must be 1 or more, found {threads}")
        self.model = model if isinstance(model, Model) else open_model(model, provider, self.threads)
        self.name = self.model.name
        self.spec = self.model.spec
        self.runtime_version: str = runtime.onnxruntime().__version__

    def __repr__(self) -> str:
        channels, *sides = self.spec.image_shape
        kind = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
        names = self.spec.labels
        classes = f", classes {names[0]} to {names[-1]}" if len(names) > 1 else ""
        return (
            f"<{type(self).__name__} {self.name}: {'x'.join(map(str, sides))} {kind}{classes}; "
            f"{self.model.provider}, {self.threads} thread{'s' * (self.threads > 1)}>"
        )

    def __call__(
        self,
        n: int = 16,
        *,
        digit: int | Sequence[int] | None = None,
        cls: Classes | None = None,
        seed: int = DEFAULT_SEED,
        start: int = 0,
        truncation: float = 1.0,
        batch_size: int | None = None,
    ) -> Images:
        """As `generate`, with the words of the command line: `digit` are its `digits`, and `cls` its `classes`."""
        return self.generate(
            n, seed=seed, start=start, classes=cls, digits=digit, truncation=truncation, batch_size=batch_size
        )

    @property
    def makes_digits(self) -> bool:
        """Whether the classes are the ten digits."""
        return self.spec.labels == DIGITS

    def generate(
        self,
        n: int,
        *,
        seed: int = DEFAULT_SEED,
        start: int = 0,
        classes: Classes | None = None,
        digits: int | Sequence[int] | None = None,
        truncation: float = 1.0,
        batch_size: int | None = None,
    ) -> Images:
        """Make `n` images.

        Args:
            n: number of images, 1 or more.
            seed: 0 to 2^63 - 1; image i of a seed is the same whatever else is asked for.
            start: index of the first image.
            classes: of a conditional model, which to make, by name or number: one, or several in turn, image i the one
                at i modulo their number; None draws them by the seed, as docs/contracts.md says.
            digits: the same, where the classes are the ten digits.
            truncation: factor on the latents; below 1 the images are more regular and less varied.
            batch_size: images at a time; None: as many as suit the provider.
        Returns:
            uint8, shape (n, height, width), or (n, height, width, channels) of more channels than one; 0 is black. An
            array that a notebook shows, and that has a `grid`.
        Raises:
            LatentError: `n`, `seed`, an index or a class is out of range, or the model takes a seed and can't do it.
            ModelError: the model fails or returns NaN or infinity, or is asked for classes and has none.
        """
        parts = self.stream(
            n, seed=seed, start=start, classes=classes, digits=digits, truncation=truncation, batch_size=batch_size
        )
        return np.concatenate(list(parts)).view(Images)

    def stream(
        self,
        n: int,
        *,
        seed: int = DEFAULT_SEED,
        start: int = 0,
        classes: Classes | None = None,
        digits: int | Sequence[int] | None = None,
        truncation: float = 1.0,
        batch_size: int | None = None,
    ) -> Iterator[_Pictures]:
        """Like `generate`, in parts of up to `batch_size` images: any `n` in constant memory.

        Only a model that takes a seed makes all of them at once, and at most `model.MOST_OF_A_SEED`.
        """
        asked = self.asked(start, classes, digits)
        if self.model.takes_seed:
            self.refuse_for_seed("truncation", truncation != 1.0)
            values = self.run_seed(n, seed, start, asked, batch_size)
        else:
            blocks = self.blocks(n, seed=seed, start=start, asked=asked, truncation=truncation, batch_size=batch_size)
            values = self.run(blocks, batch_size)
        yield from map(self.pictures, values)

    def generate_from(
        self,
        z: npt.NDArray[np.floating],
        labels: npt.NDArray[np.integer] | Sequence[int | str] | None = None,
        *,
        batch_size: int | None = None,
    ) -> Images:
        """Make an image from each latent of your own.

        Args:
            z: float32, shape (N, latent_dim), drawn from N(0, 1), N >= 1.
            labels: names or numbers, shape (N,); needed by a conditional model, None for another.
            batch_size: images at a time; None: as many as suit the provider.
        Returns:
            As `generate`.
        Raises:
            LatentError: `z` is empty, of another shape or type, or holds a number beyond `spec.LARGEST_LATENT`,
                `labels` do not fit, or the model takes a seed.
            ModelError: the model fails, returns NaN or infinity, or is given labels and has no classes.
        """
        self.refuse_for_seed("latents of your own", True)
        if labels is None and self.spec.num_classes:
            raise LatentError(f"model {self.name} is conditional: give a label for each latent")
        if labels is not None and len(labels) != len(z):
            raise LatentError(f"there are {len(labels)} labels for {len(z)} latents")
        if len(z) == 0:
            raise LatentError("there are no latents: the first axis is empty")
        blocks = self.blocks(len(z), z=z, asked=self.asked(labels=labels), batch_size=batch_size)
        return np.concatenate(list(map(self.pictures, self.run(blocks, batch_size)))).view(Images)

    def labels(
        self,
        n: int,
        *,
        seed: int = DEFAULT_SEED,
        start: int = 0,
        classes: Classes | None = None,
        digits: int | Sequence[int] | None = None,
    ) -> _Labels:
        """The labels of the images that `generate` makes of the same arguments: int64, shape (n,).

        Raises:
            ModelError: the model has no classes.
        """
        if not self.spec.num_classes:
            raise self._unconditional()
        return self.in_turn(self.asked(start, classes, digits), seed, start, n)

    def in_turn(self, asked: _Labels, seed: int, first: int, count: int) -> _Labels:
        """Labels of images `first` to `first + count - 1` of a seed: those of `asked` in turn, if there are any."""
        if not len(asked):
            return drawn_labels(seed, first, count, self.spec.num_classes)
        return asked[np.arange(first, first + count) % len(asked)]

    def asked(
        self,
        start: int = 0,
        classes: Classes | None = None,
        digits: int | Sequence[int] | None = None,
        labels: Classes | None = None,
    ) -> _Labels:
        """Labels that are asked for, so that image i gets the one at i modulo their number; none: the seed draws them.

        Args:
            start: index of the first image.
            classes: as `generate` takes them.
            digits: likewise.
            labels: of the images one by one, from image `start` on.
        Raises:
            LatentError: the model has no such class, or its classes are no digits, or several of these are given.
            ModelError: the model has no classes.
        """
        given = [each for each in (classes, digits, labels) if each is not None]
        if not given:
            return NOBODY
        if len(given) > 1:
            raise LatentError("classes, digits and labels exclude each other: give one of them")
        if not self.spec.num_classes:
            raise self._unconditional()
        if digits is not None and not self.makes_digits:
            raise LatentError(
                f"the classes of model {self.name} are not the ten digits; ask for a class: "
                f"it has {self.spec.num_classes}, from {self.spec.labels[0]} to {self.spec.labels[-1]}"
            )
        numbers = class_numbers(given[0], self.spec)
        return numbers if labels is None else np.roll(numbers, start)

    def blocks(
        self,
        n: int,
        *,
        seed: int = DEFAULT_SEED,
        start: int = 0,
        z: npt.NDArray[np.generic] | None = None,
        asked: _Labels = NOBODY,
        truncation: float = 1.0,
        batch_size: int | None = None,
    ) -> Iterator[Block]:
        """What `run` is fed with to make `n` images, in blocks that batches divide evenly.

        Args:
            n: number of images, 1 or more.
            seed: of latents and labels.
            start: index of the first image.
            z: a caller's latents instead of the seed's, floating, shape (n, latent_dim); may be a mapped file.
            asked: labels in turn, as `asked` gives them.
            truncation: factor on the latents.
            batch_size: that `run` will be given.
        Raises:
            LatentError: `n`, `seed` or an index is out of range, or `z` does not fit the model.
        """
        _check_range(n, start)
        batch = self.batch(batch_size)
        size = max(1, _BLOCK // batch) * batch
        for first in range(0, n, size):
            count = min(size, n - first)
            if z is None:
                part = latents(seed, start + first, count, self.spec.latent_dim)
            else:
                part = checked(z[first : first + count], self.spec.latent_dim, first)
            # A latent's mean is 0, so going a part of the way from the mean (Karras et al., arXiv:1812.04948, appendix
            # B) is scaling.
            scaled = part if truncation == 1.0 else part * np.float32(truncation)
            label = None
            if self.spec.num_classes:
                label = self.in_turn(asked, seed, start + first, count)
            yield Block(scaled, label)

    def run(self, blocks: Iterable[Block], batch_size: int | None = None) -> Iterator[npt.NDArray[Any]]:
        """Run a generator that takes latents.

        Args:
            blocks: latents and labels.
            batch_size: images at a time; a block's rest makes a smaller batch.
        Returns:
            For each batch what `Model.run` gives: float32, shape (N, C, H, W), or pictures in uint8.
        Raises:
            LatentError: the latents are not what the model takes.
            ModelError: the model fails, or returns NaN or infinity.
        """
        size = self.batch(batch_size)
        for block in blocks:
            whole = Block(checked(block.z, self.spec.latent_dim), block.labels)
            for first in range(0, len(whole), size):
                batch = whole.part(first, first + size)
                yield self.model.run(self.model.feeds(batch.z, batch.labels), len(batch))

    def run_seed(
        self, n: int, seed: int, start: int, asked: _Labels, batch_size: int | None = None
    ) -> Iterator[npt.NDArray[Any]]:
        """Run a generator that takes a seed: it makes all images up to the last, and those before `start` are dropped.

        Args:
            n: number of images, 1 or more; with `start` at most `model.MOST_OF_A_SEED`.
            seed: of the images.
            start: index of the first image.
            asked: labels in turn, as `asked` gives them.
            batch_size: images that are handed on at a time.
        Returns:
            As `run`.
        Raises:
            LatentError, ModelError: as `run`.
        """
        _check_range(n, start)
        size = self.batch(batch_size)
        last = start + n
        images = self.model.run(self.model.feeds_of_seed(seed, last, asked), last)
        for first in range(start, last, size):
            yield images[first : first + size]

    def batch(self, asked: int | None = None) -> int:
        """Images at a time: what is asked for, or as many as suit the provider.

        Raises:
            ValueError: less than 1 is asked for.
        """
        if asked is not None and asked < 1:
            raise ValueError(f"batch_size must be 1 or more, found {asked}")
        return asked or self.model.batch_size

    def pictures(self, values: npt.NDArray[Any]) -> _Pictures:
        """What `run` gave, as pictures: uint8, shape (N, H, W), or (N, H, W, C) of more channels than one."""
        return to_pictures(values, self.spec.value_range)

    def refuse_for_seed(self, what: str, wanted: bool) -> None:
        """Raise if something that needs a model with latents is wanted of one that takes a seed.

        Raises:
            LatentError
        """
        if wanted and self.model.takes_seed:
            raise LatentError(
                f"model {self.name} makes its own latents from a seed, so {what} can't be had of it; take a model "
                "that takes z (dcgan-export --inputs z)"
            )

    def _unconditional(self) -> ModelError:
        return ModelError(
            f"model {self.name} is unconditional: it can't be asked for a class; take a conditional one"
            f" such as --model {shipped.DEFAULT}, or train one with dcgan-train --conditional"
        )


DigitGenerator = ImageGenerator  # its other name: what it was called while it made digits only


def _check_range(n: int, start: int) -> None:
    if n < 1:
        raise LatentError(f"the number of images must be 1 or more, found {n}")
    if start < 0 or start + n > INDICES:
        raise LatentError(f"a seed has the latents 0 to 2^32 - 1, asked for {n} from {start}")
