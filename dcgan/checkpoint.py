"""Checkpoints: safetensors with the spec inside, and `.pt` state dicts of the document's script.

Nothing here unpickles objects: safetensors holds tensors and text only, and `.pt` files are read with
`weights_only=True`.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dcgan_infer.contract.errors import CheckpointError, SpecError, first_line
from dcgan_infer.contract.files import replacing
from dcgan_infer.contract.spec import RECIPE_KEY, SPEC_KEY, VERSIONS_KEY, Activation, GeneratorSpec

from .networks import Generator

_KIND_KEY = "dcgan.kind"
_STATE_KEY = "dcgan.state"
# Tensors of a training state whose names begin with this are the generator that a run would publish now.
PUBLISHED = "published."


@dataclass(frozen=True)
class GeneratorCheckpoint:
    """A generator read from a file.

    Attributes:
        generator: in eval mode, float32, on the CPU.
        recipe: JSON of the recipe that trained it, empty where the file does not say.
        weights_sha256: hexadecimal digest of the weights, see `weights_sha256`.
    """

    generator: Generator
    recipe: str
    weights_sha256: str


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hexadecimal SHA-256 of named tensors: name, dtype, shape and little-endian bytes of each, sorted by name.

    BatchNorm's `num_batches_tracked` is left out: it changes no image.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.endswith("num_batches_tracked"):
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype(tensor.numpy().dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def save_generator(path: Path, tensors: Mapping[str, Tensor], spec: GeneratorSpec, recipe: str) -> None:
    """Write a generator's `state_dict` as safetensors, whole or not at all.

    Args:
        path: to write to; replaced if it exists.
        tensors: the `state_dict` of a `Generator`.
        spec: of that generator.
        recipe: JSON of the recipe that trained it.
    Raises:
        OutputError: the file can't be written.
    """
    metadata = {
        _KIND_KEY: "generator",
        SPEC_KEY: spec.to_json(),
        RECIPE_KEY: recipe,
        VERSIONS_KEY: f"torch {torch.__version__}",
    }
    _write(path, tensors, metadata)


def load_generator(path: Path, activation: Activation | None = None) -> GeneratorCheckpoint:
    """Read a generator from a file, whichever kind it is.

    Takes `generator.safetensors`, the `checkpoint.safetensors` of a run (the generator it would publish now), and a
    `.pt` state dict saved by the document's script. The kind is read from the content, not from the suffix.

    Args:
        path: of the checkpoint.
        activation: of the hidden layers; a `.pt` file does not say (default ReLU), a safetensors file does, and must
            agree.
    Raises:
        CheckpointError: the file is missing, truncated, foreign, or of another shape than its spec says.
    """
    try:
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder; give a file in it, such as {path / 'generator.safetensors'}")
        if not path.is_file():
            raise CheckpointError(
                f"no checkpoint at {path}; train one with dcgan-train, or give the path of a .safetensors or .pt file"
            )
        with path.open("rb") as file:
            magic = file.read(9)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"can't read checkpoint {path}: {first_line(error).lower()}") from error
    recipe = ""
    # A safetensors file begins with the length of its JSON header, which may look like anything, then the header.
    if magic[8:] != b"{" and magic[:1] in (b"P", b"\x80"):
        tensors = _read_pt(path)
        spec = _spec_of_shapes(tensors, path, activation or Activation("relu"))
    else:
        tensors, metadata = _read_safetensors(path)
        if metadata.get(_KIND_KEY) == "training":
            tensors = {name.removeprefix(PUBLISHED): t for name, t in tensors.items() if name.startswith(PUBLISHED)}
        if SPEC_KEY in metadata:
            try:
                spec = GeneratorSpec.from_json(metadata[SPEC_KEY])
            except SpecError as error:
                raise CheckpointError(f"{path}: {error}") from error
            if activation is not None and activation != spec.activation:
                raise CheckpointError(
                    f"{path} was trained with activation {spec.activation}, not {activation}; leave the option out"
                )
        else:
            spec = _spec_of_shapes(tensors, path, activation or Activation("relu"))
        recipe = metadata.get(RECIPE_KEY, "")
    try:
        with torch.device("meta"):  # no memory before the file's tensors are known to have the shapes its spec says
            generator = Generator(spec)
        generator.load_state_dict(
            {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()},
            strict=True,
            assign=True,
        )
    except SpecError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise CheckpointError(
            f"{path} holds other tensors than the generator its spec describes: {' '.join(lines[1:3])}"
        ) from error
    return GeneratorCheckpoint(generator.eval(), recipe, weights_sha256(generator.state_dict()))


def save_training_state(
    path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], spec: GeneratorSpec, recipe: str
) -> None:
    """Write everything a run needs to go on: named tensors, and a JSON-able `state`; whole or not at all."""
    metadata = {_KIND_KEY: "training", SPEC_KEY: spec.to_json(), RECIPE_KEY: recipe, _STATE_KEY: json.dumps(state)}
    _write(path, tensors, metadata)


def load_training_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_training_state` wrote.

    Raises:
        CheckpointError: the file is missing, truncated, foreign, or a bare generator.
    """
    tensors, metadata = _read_safetensors(path)
    try:
        if metadata.get(_KIND_KEY) == "training":
            return tensors, json.loads(metadata[_STATE_KEY])
    except (KeyError, ValueError):
        pass
    raise CheckpointError(f"{path} is no training state, so it can't be resumed")


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, metadata
    )
    # safetensors writes the entries of its JSON header in an order that changes from process to process. In sorted
    # order, the same tensors and metadata give the same bytes. The header is padded, so that the tensors stay aligned.
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with replacing(path) as temporary:
        temporary.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names: list[str] = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        if path.suffix == ".onnx":
            raise _is_artifact(path, "an ONNX file") from error
        raise CheckpointError(
            f"{path} is no safetensors file, or a truncated one ({error}); give another checkpoint"
        ) from error


def _read_pt(path: Path) -> dict[str, Tensor]:
    members = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    if any("/code/" in name for name in members):
        raise _is_artifact(path, "a TorchScript file")
    if any(name.endswith("/archive_format") for name in members):
        raise _is_artifact(path, "a pt2 file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler or zip reader stumbles on
        first = first_line(error, limit=120)
        raise CheckpointError(
            f"{path} is no state dict that can be read ({first}); save it with torch.save(generator.state_dict(), ...)"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            f"{path} holds no state dict of tensors; save it with torch.save(generator.state_dict(), ...)"
        )
    return content


def _is_artifact(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is {what}, which is an artifact; give the checkpoint it was made from")


def _spec_of_shapes(tensors: Mapping[str, Tensor], path: Path, activation: Activation) -> GeneratorSpec:
    """Sizes of a bare state dict, from its tensors' shapes: the document's script saves nothing beside the weights."""
    try:
        features, latent_dim = tensors["linear1.weight"].shape
        first, second = tensors["decon1.weight"].shape[:2]
        third, image_channels = tensors["decon3.weight"].shape[:2]
        side = round((features / first) ** 0.5) * 4
        return GeneratorSpec(
            latent_dim=latent_dim,
            image_shape=(image_channels, side, side),
            channels=(first, second, third),
            activation=activation,
        )
    except (KeyError, ValueError, ZeroDivisionError) as error:
        found = ", ".join(list(tensors)[:3]) or "nothing"
        raise CheckpointError(
            f"{path} is no generator of the document's shape: expected linear1, bn1, decon1 ... decon3, found {found}"
        ) from error
