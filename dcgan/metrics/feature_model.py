"""Features of a user's own: an ONNX model from images to numbers, run with onnxruntime, for images without labels.

It takes images as they are: uint8 from 0 (black) to 255, or float32 from 0 (black) to 1; (N, C, H, W), (N, H, W, C) or,
grey alone, (N, H, W). Resizing, and scaling to what a network was trained on, belong inside it: docs/quality.md shows
how to put them there. Grey images are repeated for a model that takes three channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcgan_infer.contract.errors import EvaluationError, ModelError, first_line
from dcgan_infer.model import digest_of
from dcgan_infer.runtime import cores, open_session, reason

from .evaluator import Judged

_BATCH = 64
_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class FeatureModel:
    """The model, opened.

    Attributes:
        path: of its file.
        sha256: of its file, and of those beside it that hold its weights (`digest_of`).
        layout: what it takes, in words.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """
        Args:
            path: of the ONNX file.
            threads: of the CPU; None takes the cores this process may use.
        Raises:
            EvaluationError: the file is missing or damaged, or takes or gives something else.
            RuntimeMissingError: onnxruntime is missing or broken.
        """
        self.path = path
        try:
            self.sha256 = digest_of(path)
            # By its path: large networks keep their weights in a file beside it.
            self._session = open_session(str(path.resolve()), "cpu", threads or cores()).session
        except (OSError, ModelError) as error:
            raise EvaluationError(f"can't read the features {path}: {first_line(error)}; give an ONNX file") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or inputs[0].type not in _TYPES:
            raise EvaluationError(
                f"{path} must have one input, images in uint8 or float32; found "
                f"{', '.join(f'{node.name}: {node.type}' for node in inputs) or 'none'}"
            )
        self._input = inputs[0]
        self._type: Any = _TYPES[self._input.type]
        flat = [node.name for node in outputs if len(node.shape) == 2]
        named = "features" if "features" in {node.name for node in outputs} else ""
        if not named and len(flat) != 1:
            raise EvaluationError(
                f"{path} must have an output called features, or one output of shape (N, D) alone; found "
                f"{', '.join(f'{node.name}: {tuple(node.shape)}' for node in outputs)}"
            )
        self._output = named or flat[0]
        shape = [size if isinstance(size, int) and size > 0 else 0 for size in self._input.shape]  # 0: any
        self._batch, self._sides, self._channels, self._last = _layout(path, shape)
        kind = "uint8 from 0 to 255" if self._type is np.uint8 else "float32 from 0 to 1"
        order = "N, H, W" if len(shape) == 3 else "N, H, W, C" if self._last else "N, C, H, W"
        self.layout = f"{kind}, ({order}), {self._channels} channel{'s' if self._channels > 1 else ''}"

    def judge(self, images: npt.NDArray[np.uint8]) -> Judged:
        """Features of images.

        Args:
            images: uint8, shape (N, H, W) or (N, H, W, 3), N >= 1; 0 is black.
        Raises:
            EvaluationError: the model takes other images, fails, or gives something else than finite features.
        """
        fits = all(wanted in (0, found) for wanted, found in zip(self._sides, images.shape[1:3], strict=True))
        if not fits or (images.ndim == 4 and self._channels != images.shape[3]):
            sides = "x".join(str(side or "any") for side in self._sides)
            raise EvaluationError(
                f"{self.path} takes images of {sides} pixels, {self.layout}, and these are of shape "
                f"{images.shape[1:]}; put the resizing into the model, as docs/quality.md shows"
            )
        size = self._batch or _BATCH
        parts = []
        for first in range(0, len(images), size):
            part = images[first : first + size]
            missing = self._batch - len(part) if self._batch else 0
            feed = self._fed(np.concatenate([part, *([part[-1:]] * missing)]) if missing else part)
            try:
                (features,) = self._session.run([self._output], {self._input.name: feed})
            except Exception as error:  # its exceptions have no common base below Exception
                raise EvaluationError(f"{self.path} fails on images of shape {feed.shape}: {reason(error)}") from error
            if features.ndim != 2 or len(features) != len(feed) or not np.isfinite(features).all():
                raise EvaluationError(
                    f"{self.path} must give finite features (N, D), found shape {features.shape} for {len(feed)} "
                    f"images{'' if np.isfinite(features).all() else ', and values that are not finite'}"
                )
            parts.append(features[: len(part)].astype(np.float64))
        whole = np.concatenate(parts)
        if (images != images[0]).any() and not (whole != whole[0]).any():
            raise EvaluationError(
                f"{self.path} gives all images the same features; it is fed with {self.layout}: perhaps it expects "
                "another range"
            )
        return Judged(whole, None)

    def _fed(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        if len(self._input.shape) == 4:
            planes = images[..., None] if images.ndim == 3 else images
            planes = np.repeat(planes, self._channels, axis=3) if planes.shape[3] != self._channels else planes
            images = planes if self._last else planes.transpose(0, 3, 1, 2)
        values = images if self._type is np.uint8 else images.astype(np.float32) / np.float32(255)
        return np.ascontiguousarray(values)


def _layout(path: Path, shape: list[int]) -> tuple[int, tuple[int, int], int, bool]:
    """Batch size, sides (0 for any), channels, and whether these come last."""
    if len(shape) == 3:
        return shape[0], (shape[1], shape[2]), 1, False
    if len(shape) == 4:
        first, last = shape[1] in (1, 3), shape[3] in (1, 3)
        if first != last:
            return (
                (shape[0], (shape[2], shape[3]), shape[1], False)
                if first
                else (shape[0], (shape[1], shape[2]), shape[3], True)
            )
    raise EvaluationError(
        f"{path} must take (N, C, H, W) or (N, H, W, C) with 1 or 3 channels, fixed in the file; found "
        f"({', '.join(str(size or 'any') for size in shape)})"
    )
