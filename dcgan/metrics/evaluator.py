"""The classifier whose features and labels the metrics look at, run with onnxruntime. What it knows, it states itself.

For MNIST one ships, frozen, in models/evaluator/ (tools/train_evaluator.py trained it); for other labelled images
`make_evaluator` trains one, once, and it is kept. Figures made with different evaluators can't be compared, so each is
recognised by the SHA-256 of its file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dcgan_infer import shipped
from dcgan_infer.contract.errors import EvaluationError, ModelError, OutputError, RuntimeMissingError, first_line
from dcgan_infer.contract.files import make_folder, user_cache
from dcgan_infer.contract.spec import MNIST_NAMES
from dcgan_infer.extras import require
from dcgan_infer.runtime import cores, open_session

from ..data import Dataset, Progress, silent, split_validation

PATH = shipped.FOLDER / "evaluator" / "mnist-evaluator.onnx"
STATEMENT_KEY = "dcgan.evaluator.spec"  # of the ONNX file's metadata
RECIPE = 1  # of `make_evaluator`; another number makes new evaluators
_BATCH = 256  # images at a time: their feature maps stay small
_OLD_KEY = "dcgan.evaluator"  # all that the shipped file says: "mnist"

_Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Statement:
    """What an evaluator says that it knows, as JSON in its metadata.

    Attributes:
        image_shape: (channels, height, width) of the images it was trained on.
        class_names: what it tells apart, in the order of its logits.
        dataset: whose images they are.
        accuracy: on held images of that data set, from 0 to 1; None where it was not measured.
        training: SHA-256 of its training images, labels and recipe; empty where it was not recorded.
    """

    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    dataset: str
    accuracy: float | None = None
    training: str = ""

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "schema": 1}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Statement:
        """
        Raises:
            ValueError: it is no JSON, or not of this schema.
        """
        try:
            fields = json.loads(text)
        except RecursionError:
            raise ValueError("nested too deep") from None
        if not isinstance(fields, dict) or fields.pop("schema", None) != 1:
            raise ValueError("not of schema 1")
        try:
            shape, names = tuple(fields.pop("image_shape")), tuple(fields.pop("class_names"))
            statement = cls(shape, names, **fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"a field is missing, or one too many: {error}") from error
        if not all(isinstance(each, str) for each in (*names, statement.dataset, statement.training)):
            raise ValueError("a number where a text should be")
        if not isinstance(statement.accuracy, int | float | None):
            raise ValueError("an accuracy that is no number")
        if len(shape) != 3 or not all(isinstance(size, int) for size in shape) or len(set(names)) < len(names):
            raise ValueError("sizes or class names that can't be")
        return statement

    def knows(self, dataset: Dataset) -> bool:
        """Whether images and classes are of the kind that it states."""
        return (self.image_shape, self.class_names) == (dataset.image_shape, dataset.class_names)


MNIST = Statement((1, 28, 28), tuple("0123456789"), "mnist", 0.9958)


@dataclass(frozen=True)
class Judged:
    """What is said of images.

    Attributes:
        features: float64, shape (N, D); an evaluator's last hidden layer, 0 or more.
        probabilities: float64, shape (N, classes); rows add up to 1. Of features alone, None.
    """

    features: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64] | None

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image, shape (N,)."""
        assert self.probabilities is not None
        labels: npt.NDArray[np.int64] = self.probabilities.argmax(1)
        return labels


class Judge(Protocol):
    """What finds features: an `Evaluator`, or a `FeatureModel`."""

    sha256: str

    def judge(self, images: _Images) -> Judged: ...


class Evaluator:
    """The classifier, opened.

    Attributes:
        path: of its file.
        sha256: of its file.
        statement: what it knows.
    """

    def __init__(self, path: Path = PATH, *, threads: int | None = None) -> None:
        """
        Args:
            path: of the ONNX file.
            threads: of the CPU; None takes the cores this process may use.
        Raises:
            EvaluationError: the file is missing or damaged, or is not what it states.
            RuntimeMissingError: onnxruntime is missing or broken.
        """
        self.path = path
        try:
            content = path.read_bytes()
            self.sha256 = hashlib.sha256(content).hexdigest()
            self._session = open_session(content, "cpu", threads or cores()).session
        except (OSError, ModelError) as error:
            way = "install again" if path == PATH else "make it with dcgan-eval --make-evaluator"
            raise EvaluationError(f"can't read the evaluator {path}: {first_line(error)}; {way}") from error
        self.statement = self._stated()

    def _stated(self) -> Statement:
        try:
            metadata = self._session.get_modelmeta().custom_metadata_map
            if STATEMENT_KEY in metadata:
                statement = Statement.from_json(metadata[STATEMENT_KEY])
            elif metadata.get(_OLD_KEY) == MNIST.dataset:
                statement = MNIST
            else:
                raise EvaluationError(
                    f"{self.path} is no evaluator: it does not state what it knows (metadata {STATEMENT_KEY}); "
                    "make one with dcgan-eval --make-evaluator, or give other features with --features"
                )
            channels, height, width = statement.image_shape
            picture = [height, width] if channels == 1 else [height, width, channels]
            expected = {"image": picture, "features": [128], "logits": [len(statement.class_names)]}
            found = {node.name: node.shape[1:] for node in (*self._session.get_inputs(), *self._session.get_outputs())}
        except (ValueError, UnicodeDecodeError) as error:
            if isinstance(error, EvaluationError):
                raise
            raise EvaluationError(
                f"{self.path} has a damaged statement ({first_line(error)}); make it again"
            ) from error
        if found != expected:
            raise EvaluationError(
                f"{self.path} is not what it states: expected inputs and outputs {expected}, found {found}; "
                "make it again with dcgan-eval --make-evaluator"
            )
        return statement

    def judge(self, images: _Images) -> Judged:
        """Features and class probabilities of images.

        Args:
            images: uint8, shape (N, H, W) or (N, H, W, 3), as the statement says, N >= 1; 0 is black.
        Raises:
            EvaluationError: other images than these.
        """
        channels, *sides = self.statement.image_shape
        shape = (*sides, channels) if channels > 1 else tuple(sides)
        if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
            raise EvaluationError(
                f"the evaluator takes uint8 images of shape ({', '.join(map(str, ('N', *shape)))}), "
                f"found {images.dtype} of shape {images.shape}"
            )
        parts = [
            self._session.run(["features", "logits"], {"image": images[first : first + _BATCH]})
            for first in range(0, len(images), _BATCH)
        ]
        features, logits = (np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True))
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return Judged(features, odds / odds.sum(1, keepdims=True))


def training_key(train: Dataset, seed: int) -> str:
    """SHA-256 of all that an evaluator depends on: training images, labels, class names, recipe and seed."""
    assert train.labels is not None
    digest = hashlib.sha256(json.dumps([RECIPE, seed, train.images.shape, train.class_names]).encode())
    digest.update(np.ascontiguousarray(train.images).data)
    digest.update(train.labels.astype("<i8").tobytes())
    return digest.hexdigest()


def evaluator_for(
    dataset: Dataset,
    path: Path | None = None,
    *,
    make: bool = False,
    seed: int = 0,
    threads: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = silent,
) -> Evaluator:
    """The evaluator of a data set: the one that ships, the one that was made before, or else a new one.

    A new one is trained on the images of the training split only, whichever images are held.

    Args:
        dataset: all of its training images, with labels.
        path: of the evaluator to take, or to make; None takes the one that ships for MNIST, or one in the user's cache.
        make: train a new one, and put it in the place of one that is there.
        seed: of a new one's training.
        threads: of the CPU; None takes the cores this process may use.
        say: told what takes long, in a line, and how well a new one reads.
        progress: of the training.
    Raises:
        EvaluationError: the images have no labels, or are too few; `path` is damaged, or knows other images.
        RuntimeMissingError: a new one is needed, and torch or onnx is not installed.
        OutputError: a new one can't be written.
    """
    if dataset.labels is None or not dataset.class_names:
        if path is not None and not make:
            raise EvaluationError(
                f"{dataset.name} has no labels, and the evaluator {path} reads classes; to have its features alone, "
                f"give --features {path}"
            )
        raise EvaluationError(
            f"{dataset.name or 'this data set'} has no labels to train an evaluator with; give a feature extractor "
            "of your own with --features FILE.onnx, or images in a folder per class"
        )
    if path is None and not make and dataset.name in MNIST_NAMES and MNIST.knows(dataset):
        return Evaluator(threads=threads)
    train, held = split_validation(dataset)
    key = training_key(train, seed)
    if path is None:
        name = re.sub(r"[^\w.-]+", "-", Path(dataset.name).stem).strip("-.")[:40] or "images"
        path = user_cache("evaluators") / f"{name}-{key[:16]}.onnx"
        if not make and path.exists():
            try:
                return _fitting(Evaluator(path, threads=threads), dataset)
            except EvaluationError as error:
                say(f"{error} -- making it again")
    elif not make:
        return _fitting(Evaluator(path, threads=threads), dataset)
    try:
        maker = require(f"{__package__}.make_evaluator", "export")
    except RuntimeMissingError as error:
        raise RuntimeMissingError(
            f"{error}, to train an evaluator of {dataset.name}; or take one that was made elsewhere, with --evaluator",
            name=error.name,
        ) from error
    if path.parent == user_cache("evaluators"):
        try:
            make_folder(path.parent, parents=True)
        except OutputError as error:
            raise OutputError(
                f"{error} with XDG_CACHE_HOME, or name a file with --make-evaluator --evaluator"
            ) from error
    say(f"training an evaluator of {dataset.name}, once: {len(train):,} images, {dataset.num_classes} classes")
    accuracy: float = maker.make_evaluator(train, held, path, key, seed=seed, threads=threads, progress=progress)
    say(f"the evaluator reads {accuracy:.2%} of {len(held):,} held images right; it is kept in {path}")
    return Evaluator(path, threads=threads)


def _fitting(evaluator: Evaluator, dataset: Dataset) -> Evaluator:
    stated = evaluator.statement
    if not stated.knows(dataset):
        raise EvaluationError(
            f"the evaluator {evaluator.path} knows {_kind(stated.dataset, stated.image_shape, stated.class_names)}, "
            f"and these are {_kind(dataset.name, dataset.image_shape, dataset.class_names)}; leave --evaluator out, "
            "or make one for them with --make-evaluator"
        )
    return evaluator


def _kind(name: str, shape: tuple[int, ...], class_names: tuple[str, ...]) -> str:
    return f"{name} ({'x'.join(map(str, shape))}; {listed(class_names)})"


def listed(names: tuple[str, ...], most: int = 4) -> str:
    """Names, the first of many."""
    return ", ".join(names[:most]) + (f", ... {len(names)} classes" if len(names) > most else "")


def describe(judge: Judge) -> dict[str, Any]:
    """For JSON: what an evaluator states; of other features nothing."""
    return asdict(judge.statement) if isinstance(judge, Evaluator) else {}
