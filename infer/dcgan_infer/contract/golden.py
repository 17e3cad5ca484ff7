"""Golden vectors: twenty latents and the images that a checkpoint makes of them in float64, in one small file.

Whoever has a model's file, and neither the checkpoint nor torch, can hold it against them. The file has the layout of
safetensors (https://github.com/huggingface/safetensors#format): the length of a JSON header as 8 bytes, the header,
and raw little-endian arrays, so that any language reads it in ten lines: docs/contracts.md
has them, and the layout. `dcgan_export.golden` makes the vectors, `dcgan_infer.verify` judges by them.
NumPy and the standard library only.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ModelError, SpecError
from .pixels import to_pictures
from .spec import SPEC_KEY, WEIGHTS_SHA256_KEY, GeneratorSpec

SUFFIX = ".golden"
SEED, START = 0, 0  # of the latents, by the contract in docs/contracts.md
# Sizes of the batches that the images are made and compared in: one, and two that no vector width divides evenly.
BATCHES = (1, 7, 12)
COUNT = sum(BATCHES)

_HEADER_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"
# Of the span of values: a hundred times what float32 was off by in any network here. Limits are in proportion to it.
_MOST_EAGER_ERROR = 1e-3
_SEED_KEY, _START_KEY, _EAGER_KEY = "seed", "start", "eager_max_error"
_KEYS = {SPEC_KEY, WEIGHTS_SHA256_KEY, _SEED_KEY, _START_KEY, _EAGER_KEY}
_DTYPES: dict[str, np.dtype[Any]] = {"I64": np.dtype("<i8"), "F32": np.dtype("<f4"), "U8": np.dtype("<u1")}
_ALIGNMENT = 8  # of the data; safetensors pads the header with spaces to it


@dataclass(frozen=True, eq=False)
class Golden:
    """Latents, and what the checkpoint makes of them.

    Attributes:
        spec: of the generator.
        weights_sha256: hexadecimal digest of its weights, the one in the metadata of every artifact made from them.
        eager_max_error: largest difference of the checkpoint in eager float32 to float64 on these latents.
        z: float32, shape (COUNT, latent_dim), latents START to START + COUNT - 1 of SEED.
        image: float32, shape (COUNT, C, H, W), in the spec's value range, the images in float64, rounded.
        image_uint8: uint8, shape (COUNT, H, W), or (COUNT, H, W, C) in colour: the levels of the images in float64.
        label: int64, shape (COUNT,), i modulo the number of classes; None for an unconditional generator.
    """

    spec: GeneratorSpec
    weights_sha256: str
    eager_max_error: float
    z: npt.NDArray[np.float32]
    image: npt.NDArray[np.float32]
    image_uint8: npt.NDArray[np.uint8]
    label: npt.NDArray[np.int64] | None = None

    def to_bytes(self) -> bytes:
        """The file: the same vectors always give the same bytes.

        Raises:
            ModelError: the arrays are not of the shapes that the spec says.
        """
        arrays: dict[str, npt.NDArray[Any]] = {"z": self.z, "image": self.image, "image_uint8": self.image_uint8}
        if self.label is not None:
            arrays["label"] = self.label
        layout = _layout(self.spec)
        found = {name: array.shape for name, array in arrays.items()}
        expected = {name: shape for name, (_, shape) in layout.items()}
        if found != expected:
            raise ModelError(f"golden vectors should have the shapes {expected}, found {found}")
        metadata = {
            SPEC_KEY: self.spec.to_json(),
            WEIGHTS_SHA256_KEY: self.weights_sha256,
            _SEED_KEY: str(SEED),
            _START_KEY: str(START),
            _EAGER_KEY: repr(float(self.eager_max_error)),
        }
        header = json.dumps({_METADATA: metadata, **_index(self.spec)}, sort_keys=True, separators=(",", ":")).encode()
        header += b" " * (-len(header) % _ALIGNMENT)
        data = [np.ascontiguousarray(arrays[name], _DTYPES[dtype]).tobytes() for name, (dtype, _) in layout.items()]
        return b"".join([_HEADER_LENGTH.pack(len(header)), header, *data])


def parse_golden(content: bytes, path: Path) -> Golden:
    """Read the bytes of a golden file.

    Args:
        content: of the file; may be anything.
        path: for messages.
    Raises:
        ModelError: it is truncated, foreign, or holds other than what its own header promises.
    """
    try:
        return _parse(content)
    except (ModelError, SpecError) as error:
        raise ModelError(
            f"golden file {path} can't be used: {error}; get it again, or make it with dcgan-export --golden"
        ) from error


def _layout(spec: GeneratorSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each array, in the order of the file: the widest type first, so that all are aligned."""
    label = {"label": ("I64", (COUNT,))} if spec.num_classes else {}
    return {
        **label,
        "image": ("F32", (COUNT, *spec.image_shape)),
        "z": ("F32", (COUNT, spec.latent_dim)),
        "image_uint8": ("U8", (COUNT, *spec.picture_shape)),
    }


def _index(spec: GeneratorSpec) -> dict[str, Any]:
    """The header without its metadata: type, shape and place of each array, from the end of the header on."""
    index, at = {}, 0
    for name, (dtype, shape) in _layout(spec).items():
        end = at + math.prod(shape) * _DTYPES[dtype].itemsize
        index[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return index


def _parse(content: bytes) -> Golden:
    start = _HEADER_LENGTH.size
    if len(content) < start:
        raise ModelError(f"it has {len(content)} bytes, fewer than the length of a header needs")
    (length,) = _HEADER_LENGTH.unpack_from(content)
    if length > len(content) - start:
        raise ModelError(f"its header should have {length} bytes and the file has {len(content)}: foreign or truncated")
    try:
        header = json.loads(content[start : start + length].decode())
    except (ValueError, RecursionError):
        raise ModelError("its header is not JSON") from None
    metadata = header.pop(_METADATA, None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or metadata.keys() != _KEYS:
        raise ModelError(f"its header should have {_METADATA} with the keys {', '.join(sorted(_KEYS))}")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ModelError(f"a value in its {_METADATA} is no string")
    spec = GeneratorSpec.from_json(metadata[SPEC_KEY])
    if not re.fullmatch(r"[0-9a-f]{64}", metadata[WEIGHTS_SHA256_KEY]):
        raise ModelError(f"its {WEIGHTS_SHA256_KEY} is no digest: {metadata[WEIGHTS_SHA256_KEY][:80]!r}")
    if (metadata[_SEED_KEY], metadata[_START_KEY]) != (str(SEED), str(START)):
        raise ModelError(f"its latents should be of seed {SEED} from {START} on, the header says otherwise")
    index = _index(spec)
    if header != index:
        raise ModelError(f"its arrays should be {_brief(index)}; found {_brief(header)}")
    data = memoryview(content)[start + length :]
    size = max(entry["data_offsets"][1] for entry in index.values())
    if len(data) != size:
        raise ModelError(f"its arrays should have {size} bytes, found {len(data)}")
    arrays = {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], _DTYPES[entry["dtype"]])
        .reshape(entry["shape"])
        .astype(_DTYPES[entry["dtype"]].newbyteorder("="))
        for name, entry in index.items()
    }
    low, high = spec.value_range
    most = _MOST_EAGER_ERROR * (high - low)
    golden = Golden(spec, metadata[WEIGHTS_SHA256_KEY], _eager_max_error(metadata[_EAGER_KEY], most), **arrays)
    _check_values(golden)
    return golden


def _brief(index: dict[str, Any]) -> str:
    """An index in a line."""
    text = json.dumps(index, sort_keys=True)
    return text if len(text) <= 400 else text[:397] + "..."


def _eager_max_error(text: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 <= number <= most:  # a NaN must not pass
        raise ModelError(f"its {_EAGER_KEY} should be a number from 0 to {most:g}, found {text[:40]!r}")
    return number


def _check_values(golden: Golden) -> None:
    if not np.isfinite(golden.z).all():
        raise ModelError("its latents are not finite")
    low, high = golden.spec.value_range
    if not ((golden.image >= low) & (golden.image <= high)).all():  # a NaN must not pass
        raise ModelError(f"its images have values that are not within {low:g} to {high:g}")
    # Rounding to float32 may carry a value over the border between two levels, never further.
    if np.abs(to_pictures(golden.image, (low, high)).astype(int) - golden.image_uint8).max() > 1:
        raise ModelError("its images and their grey levels contradict each other")
    if golden.label is not None and not np.array_equal(golden.label, np.arange(COUNT) % golden.spec.num_classes):
        raise ModelError(f"its labels should be i modulo {golden.spec.num_classes}")
