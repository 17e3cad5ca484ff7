"""The frozen classifier whose features and labels the metrics look at, run with onnxruntime.

tools/train_evaluator.py trained it; models/evaluator/ has the file and its card. Figures made with another evaluator
can't be compared with ours, so it is recognised by the SHA-256 of its file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcgan_infer import shipped
from dcgan_infer.contract.errors import EvaluationError, ModelError, first_line
from dcgan_infer.contract.files import sha256_of
from dcgan_infer.runtime import cores, open_session

PATH = shipped.FOLDER / "evaluator" / "mnist-evaluator.onnx"
_BATCH = 256  # images at a time: their feature maps stay small


@dataclass(frozen=True)
class Judged:
    """What the evaluator says of images.

    Attributes:
        features: float64, shape (N, 128), 0 or more: its last hidden layer.
        probabilities: float64, shape (N, 10), of the digits; rows add up to 1.
    """

    features: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The most probable digit of each image, shape (N,)."""
        labels: npt.NDArray[np.int64] = self.probabilities.argmax(1)
        return labels


class Evaluator:
    """The classifier, opened.

    Attributes:
        sha256: of its file.
    """

    def __init__(self, path: Path = PATH, *, threads: int | None = None) -> None:
        """
        Args:
            path: of the ONNX file.
            threads: of the CPU; None takes the cores this process may use.
        Raises:
            EvaluationError: the file is missing or damaged.
            RuntimeMissingError: onnxruntime is missing or broken.
        """
        try:
            self.sha256 = sha256_of(path)
            self._session = open_session(path.read_bytes(), "cpu", threads or cores()).session
        except (OSError, ModelError) as error:
            raise EvaluationError(f"can't read the evaluator {path}: {first_line(error)}; install again") from error

    def judge(self, images: npt.NDArray[np.uint8]) -> Judged:
        """Features and digit probabilities of images.

        Args:
            images: uint8, shape (N, 28, 28), N >= 1; 0 is black.
        Raises:
            EvaluationError: other images than these.
        """
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28) or not len(images):
            raise EvaluationError(
                f"the evaluator takes uint8 images of shape (N, 28, 28), found {images.dtype} of shape {images.shape}"
            )
        parts = [
            self._session.run(["features", "logits"], {"image": images[first : first + _BATCH]})
            for first in range(0, len(images), _BATCH)
        ]
        features, logits = (np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True))
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return Judged(features, odds / odds.sum(1, keepdims=True))
