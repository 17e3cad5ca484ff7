"""The Open Inference Protocol (https://github.com/open-inference/open-inference-protocol), its REST form in JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from ..contract.errors import LatentError
from ..contract.spec import SPEC_KEY
from ..generator import ImageGenerator
from ..inputs import Block, checked, checked_labels

_Array = npt.NDArray[Any]
DTYPES = {"FP32": np.float32, "INT64": np.int64}


class Tensor(NamedTuple):
    """An input or output.

    Attributes:
        name: of it.
        datatype: as the protocol calls it.
        shape: -1 where any number may stand.
    """

    name: str
    datatype: str
    shape: list[int]


class Asked(NamedTuple):
    """What a request asks for.

    Attributes:
        n: number of images.
        make: makes the answer, as JSON.
    """

    n: int
    make: Callable[[], bytes]


def takes(generator: ImageGenerator) -> list[Tensor]:
    """What a model takes: latents, or a seed and a number; and labels if it has classes."""
    inputs = [Tensor("z", "FP32", [-1, generator.spec.latent_dim])]
    if generator.model.takes_seed:
        inputs = [Tensor("seed", "INT64", []), Tensor("n", "INT64", [])]
    return inputs + ([Tensor("label", "INT64", [-1])] if generator.spec.num_classes else [])


def gives(generator: ImageGenerator) -> Tensor:
    """What a model gives."""
    if generator.model.gives_uint8:
        return Tensor("image", "UINT8", [-1, *generator.spec.picture_shape])
    return Tensor("image", "FP32", [-1, *generator.spec.image_shape])


def metadata(generator: ImageGenerator) -> dict[str, Any]:
    """What a model is, with its spec: a client learns of sizes and classes there."""
    return {
        "name": generator.name,
        "platform": "onnxruntime_onnx",
        "inputs": [tensor._asdict() for tensor in takes(generator)],
        "outputs": [gives(generator)._asdict()],
        "parameters": {SPEC_KEY: generator.model.metadata[SPEC_KEY]},
    }


def read(body: bytes, generator: ImageGenerator, most: int, batch_size: int) -> Asked:
    """Read a request for images.

    Args:
        body: in JSON.
        generator: that is asked.
        most: images that may be asked for.
        batch_size: images at a time.
    Raises:
        LatentError: it is no request, or not what the model takes.
    """
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise LatentError(f"the request is not JSON: {error}") from error
    if not isinstance(request, dict) or not isinstance(request.get("id", ""), str):
        raise LatentError("a request is a JSON object with inputs, and perhaps an id, which is a text")
    for output in _objects(request, "outputs") if "outputs" in request else ():
        if output.get("name") != "image":
            raise LatentError(f"this model gives image, asked for {_shown(output.get('name'))}")
    inputs, expected = _objects(request, "inputs"), takes(generator)
    names, found = [tensor.name for tensor in expected], [each.get("name") for each in inputs]
    if len(found) != len(names) or any(name not in found for name in names):
        raise LatentError(f"this model takes {', '.join(names)}, each once; found {', '.join(map(_shown, found))}")
    arrays = {tensor.name: _array(inputs[found.index(tensor.name)], tensor) for tensor in expected}
    asked = (_of_seed if generator.model.takes_seed else _of_latents)(arrays, generator, most, batch_size)

    def make() -> bytes:
        values = np.ascontiguousarray(asked.make())
        output = {**gives(generator)._asdict(), "shape": values.shape, "data": values.ravel()}
        answer = {"model_name": generator.name, **{k: request[k] for k in ("id",) if k in request}, "outputs": [output]}
        return bytes(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))

    return Asked(asked.n, make)


class _Images(NamedTuple):
    n: int
    make: Callable[[], _Array]


def _of_latents(arrays: dict[str, _Array], generator: ImageGenerator, most: int, batch_size: int) -> _Images:
    z = checked(arrays["z"], generator.spec.latent_dim)
    _check_count(len(z), most)
    labels = arrays.get("label")
    if labels is not None:
        if len(labels) != len(z):
            raise LatentError(f"there are {len(labels)} labels for {len(z)} latents")
        labels = checked_labels(labels, generator.spec.num_classes)
    return _Images(len(z), lambda: np.concatenate(list(generator.run([Block(z, labels)], batch_size))))


def _of_seed(arrays: dict[str, _Array], generator: ImageGenerator, most: int, _batch_size: int) -> _Images:
    n, asked = int(arrays["n"]), arrays.get("label", np.empty(0, np.int64))
    _check_count(n, most)
    classes = generator.spec.num_classes
    if len(asked) > most or not ((asked >= -1) & (asked < classes)).all():
        raise LatentError(f"label has up to {most} numbers from -1, which the seed draws, to {classes - 1}")
    feeds = generator.model.feeds_of_seed(int(arrays["seed"]), n, asked)
    return _Images(n, lambda: generator.model.run(feeds, n))


def _check_count(n: int, most: int) -> None:
    if not 1 <= n <= most:
        raise LatentError(f"a request is for 1 to {most} images, found {n}")


def _objects(request: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = request.get(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise LatentError(f"{name} of a request must be a list of objects")
    return found


def _shown(name: object) -> str:
    return str(name)[:40]


def _array(given: dict[str, Any], tensor: Tensor) -> _Array:
    """The numbers of an input, flat or nested.

    Raises:
        LatentError: they are others than the model takes.
    """
    if given.get("datatype") != tensor.datatype:
        raise LatentError(f"{tensor.name} is {tensor.datatype}, found {_shown(given.get('datatype'))}")
    shape = given.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) != len(tensor.shape)
        or any(
            type(size) is not int or size < 0 or fixed not in (-1, size)
            for size, fixed in zip(shape, tensor.shape, strict=True)
        )
    ):
        raise LatentError(f"{tensor.name} has shape {tensor.shape}, -1 for any number, found {_shown(shape)}")
    try:
        array = np.asarray(given.get("data"))
        dtype = DTYPES[tensor.datatype]
        array = array if array.size else array.astype(dtype)  # an empty list has no type
        # NumPy would cut 1.5 to 1, take true for 1 and null for NaN, and wrap what is beyond int64.
        if array.dtype.kind not in ("fiu" if tensor.datatype == "FP32" else "i"):
            raise ValueError
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinity, which is refused
            fitting: _Array = array.astype(dtype, casting="same_kind").reshape(shape)
            return fitting
    except (TypeError, ValueError, OverflowError):
        raise LatentError(
            f"data of {tensor.name} must be numbers of {tensor.datatype}, as many as its shape {shape} says"
        ) from None
