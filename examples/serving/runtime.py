"""An MLServer runtime that serves a generator's ONNX file over the Open Inference Protocol, just as the file is.

Names, types and shapes of inputs and outputs, and the number of classes, are read from the file: any variant of any
generator that dcgan-export writes can be served. Its spec stands in the model's metadata, `parameters["dcgan.spec"]`:
a client learns the names of classes there, and the values of black and white. What a request gets wrong is said with
status 400, before the model runs.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    ResponseOutput,
)
from mlserver.utils import get_model_uri

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would write into ~/.cache, and ask for a server's address
import onnxruntime

# By onnxruntime's name of a type: the protocol's, and NumPy's.
_TYPES = {
    "tensor(float)": ("FP32", np.float32),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(uint8)": ("UINT8", np.uint8),
}
_SPEC = "dcgan.spec"
LARGEST_LATENT = 100.0  # of either sign; latents are drawn from N(0, 1), and far out a network gives no images
MAX_IMAGES = 64  # in a request, unless `parameters.extra.max_images` of model-settings.json says otherwise

_Array = npt.NDArray[Any]


class _Tensor(NamedTuple):
    """An input or output of the file.

    Attributes:
        name: of it.
        type: onnxruntime's name of its type.
        shape: a number where the file fixes it, else the name of the dimension.
    """

    name: str
    type: str
    shape: list[int | str]

    def metadata(self) -> MetadataTensor:
        """As the protocol's metadata tell it."""
        shape = [size if isinstance(size, int) else -1 for size in self.shape]
        return MetadataTensor(name=self.name, datatype=_TYPES[self.type][0], shape=shape)


class OnnxGenerator(MLModel):  # type: ignore[misc]  # mlserver is not installed where types are checked
    """A generator, behind MLServer."""

    async def load(self) -> bool:
        """Open the file that `parameters.uri` of model-settings.json names, relative to that file."""
        path = await get_model_uri(self.settings)
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._takes = [_Tensor(value.name, value.type, value.shape) for value in self._session.get_inputs()]
        self._gives = [_Tensor(value.name, value.type, value.shape) for value in self._session.get_outputs()]
        spec = self._session.get_modelmeta().custom_metadata_map.get(_SPEC)
        if spec is None:
            raise ValueError(f"{path} does not say what it makes; serve a file that dcgan-export wrote")
        self._spec = spec
        self._classes = int(json.loads(spec)["num_classes"])
        self._most = int((self.settings.parameters.extra or {}).get("max_images", MAX_IMAGES))
        self.inputs = [tensor.metadata() for tensor in self._takes]
        self.outputs = [tensor.metadata() for tensor in self._gives]
        return True

    async def metadata(self) -> MetadataModelResponse:
        """What the protocol tells of a model, and its spec."""
        told = await super().metadata()
        told.parameters = Parameters(**{_SPEC: self._spec})
        return told

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the file on a request.

        Raises:
            InferenceError: the request is not what the file takes; MLServer answers with status 400 and the message.
        """
        known = [tensor.name for tensor in self._gives]
        wanted = [output.name for output in payload.outputs or []] or known
        if not set(wanted) <= set(known):
            raise InferenceError(f"this model gives {', '.join(known)}, asked for {', '.join(wanted)}")
        feeds = self._checked(payload.inputs)
        # In a thread: while the model runs, the server goes on answering.
        values = await asyncio.to_thread(self._session.run, wanted, feeds)
        types = {tensor.name: _TYPES[tensor.type][0] for tensor in self._gives}
        outputs = [
            ResponseOutput(name=name, datatype=types[name], shape=list(value.shape), data=value.ravel().tolist())
            for name, value in zip(wanted, values, strict=True)
        ]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)

    def _checked(self, inputs: list[RequestInput]) -> dict[str, _Array]:
        """Arrays of a request's inputs, by name."""
        names = [tensor.name for tensor in self._takes]
        if sorted(given.name for given in inputs) != sorted(names):
            found = ", ".join(given.name for given in inputs) or "nothing"
            raise InferenceError(f"this model takes {', '.join(names)}, each once; found {found}")
        by_name = {given.name: given for given in inputs}
        feeds = {tensor.name: _array(by_name[tensor.name], tensor) for tensor in self._takes}
        sizes: dict[str, int] = {}  # of the dimensions that have a name
        for tensor in self._takes:
            for name, size in zip(tensor.shape, feeds[tensor.name].shape, strict=True):
                if isinstance(name, str) and sizes.setdefault(name, size) != size:
                    raise InferenceError(f"inputs disagree on the size of {name}: {sizes[name]} and {size}")
        for name, size in sizes.items():
            if size > self._most or (size == 0 and name in self._gives[0].shape):
                raise InferenceError(f"{name} is 1 to {self._most} in a request, found {size}")
        self._check_values(feeds)
        return feeds

    def _check_values(self, feeds: dict[str, _Array]) -> None:
        """The file itself makes images of NaN, NaN of 3e38, and takes -1 for the last class."""
        draws = "seed" in feeds  # the file draws latents itself, and labels where it is given -1
        ranges = {"label": (-1 if draws else 0, self._classes - 1), "seed": (0, 2**63 - 1), "n": (1, self._most)}
        for name, array in feeds.items():
            if array.dtype.kind == "f" and not (np.abs(array) <= LARGEST_LATENT).all():
                raise InferenceError(f"{name} is -{LARGEST_LATENT:g} to {LARGEST_LATENT:g}, and holds another number")
            low, high = ranges.get(name, (None, None))
            for value in () if low is None else array.ravel():
                if not low <= value <= high:
                    raise InferenceError(f"{name} is {low} to {high}, found {value}")


def _array(given: RequestInput, tensor: _Tensor) -> _Array:
    """An input of a request as the file takes it."""
    datatype, dtype = _TYPES[tensor.type]
    expected = ", ".join(map(str, tensor.shape))
    if given.datatype != datatype:
        raise InferenceError(f"{tensor.name} is {datatype}, found {given.datatype}")
    if len(given.shape) != len(tensor.shape) or any(
        size < 0 or (isinstance(fixed, int) and size != fixed)
        for size, fixed in zip(given.shape, tensor.shape, strict=True)
    ):
        raise InferenceError(f"{tensor.name} has shape [{expected}], found {given.shape}")
    try:
        array = np.asarray(getattr(given.data, "root", given.data))
        array = array if array.size else array.astype(dtype)  # an empty list has no type
        # NumPy would cut 1.5 to 1, take true for 1 and null for NaN, and wrap what is beyond int64.
        if array.dtype.kind not in ("fiu" if datatype == "FP32" else "i"):
            raise ValueError
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinity, which is refused
            fitting: _Array = array.astype(dtype, casting="same_kind").reshape(given.shape)
            return fitting
    except (TypeError, ValueError, OverflowError):
        count = int(np.prod(given.shape, dtype=object))
        raise InferenceError(f"data of {tensor.name} must be {count} numbers that fit {datatype}") from None
