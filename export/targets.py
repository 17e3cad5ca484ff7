"""What suits a consumer: presets of an ONNX file, and Triton's model repository. Imports neither torch nor onnx.

Which consumer loads what was tried, not recalled: docs/export.md, "Targets".
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dcgan.errors import OutputError, ParityError, first_line
from dcgan.files import TEMPORARY
from dcgan.spec import SPEC_KEY, GeneratorSpec

from .formats import Variant

if TYPE_CHECKING:
    from .publish import Artifact


@dataclass(frozen=True)
class Target:
    """A consumer.

    Attributes:
        variant: what suits it; options that are given override it.
        repository: whether it reads a folder of models, as Triton does, and no single file.
    """

    variant: Variant
    repository: bool = False


TARGETS = {
    "ort": Target(Variant()),
    # A page is loaded before it is seen, so the smallest file, and canvas wants grey levels.
    "web": Target(Variant(precision="int8", image="uint8")),
    "cpp": Target(Variant(image="uint8")),
    "triton": Target(Variant(), repository=True),
}

_TRITON_TYPES = {"float": "TYPE_FP32", "uint8": "TYPE_UINT8"}
MAX_BATCH = 64  # images that Triton may put into one call; larger batches are no faster


def triton_config(spec: GeneratorSpec, image: str) -> str:
    """A model's config.pbtxt, of Triton's model repository.

    https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html:
    the name is that of the folder; with a `max_batch_size` the first dimension is left out; of a label nothing is left
    then, which takes a reshape.

    Args:
        spec: of the generator.
        image: one of `formats.IMAGES`.
    """
    sides = ", ".join(map(str, spec.image_shape if image == "float" else spec.image_shape[1:]))
    inputs = [f'  {{ name: "z" data_type: TYPE_FP32 dims: [ {spec.latent_dim} ] }}']
    if spec.num_classes:
        inputs.append('  { name: "label" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] } }')
    lines = [
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH}",
        "input [",
        ",\n".join(inputs),
        "]",
        f'output [\n  {{ name: "image" data_type: {_TRITON_TYPES[image]} dims: [ {sides} ] }}\n]',
        "dynamic_batching { }",
    ]
    return "\n".join(lines) + "\n"


def publish_to_triton(publish: Callable[[Path], Artifact], repository: Path, name: str, image: str) -> Artifact:
    """Publish a model into a model repository: REPOSITORY/NAME/config.pbtxt and REPOSITORY/NAME/1/model.onnx.

    Args:
        publish: writes and proves the ONNX file at a path.
        repository: made if it is missing; its parent must exist.
        name: of the model.
        image: one of `formats.IMAGES`.
    Returns:
        The artifact in its place. The model's folder appears whole or not at all.
    Raises:
        OutputError: the repository has a model of that name, or can't be written to.
    """
    model = repository / name
    if repository.exists() and not repository.is_dir():
        raise OutputError(f"{repository} is a file; give the name of a folder")
    if os.path.lexists(model):
        raise OutputError(f"{model} already exists; remove it, or give another --out")
    try:
        repository.mkdir(exist_ok=True)  # before the slow work: what can't be written to is said at once
        # Beside the repository: a server that watches it must see no half of a model.
        with tempfile.TemporaryDirectory(
            prefix=".dcgan-export.", suffix=TEMPORARY, dir=repository.resolve().parent
        ) as folder:
            whole = Path(folder) / name
            (whole / "1").mkdir(parents=True)
            try:
                artifact = publish(whole / "1" / "model.onnx")
            except ParityError as error:  # its message names a file that nobody will find
                message = str(error).replace(str(whole), str(model))
                raise ParityError(message, error.report) from error
            spec = GeneratorSpec.from_json(artifact.metadata[SPEC_KEY])
            (whole / "config.pbtxt").write_text(triton_config(spec, image), encoding="utf-8")
            whole.rename(model)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"can't write {repository}: {first_line(error).lower()}; choose a folder whose parent is writable"
        ) from error
    return dataclasses.replace(artifact, path=model / "1" / "model.onnx")
