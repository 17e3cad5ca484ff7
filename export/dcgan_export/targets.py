"""What suits a consumer: presets of an ONNX file, and Triton's model repository. Imports torch and onnx in use only.

Which consumer loads what was tried, not recalled: docs/which-file.md.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dcgan_infer.contract.errors import ExportError, OutputError
from dcgan_infer.contract.files import make_folder, new_folder
from dcgan_infer.contract.spec import SPEC_KEY

from .formats import Variant

if TYPE_CHECKING:
    from onnx import ValueInfoProto

    from .publish import Artifact


@dataclass(frozen=True)
class Target:
    """A consumer.

    Attributes:
        variant: what suits it; options that are given override it.
        folder: name of the folder that it takes, where that is more than a file; empty if it is not.
    """

    variant: Variant
    folder: str = ""


TARGETS = {
    "ort": Target(Variant()),
    # A page is loaded before it is seen, so the smallest file, and canvas wants grey levels.
    "web": Target(Variant(precision="int8", image="uint8"), folder="site"),
    "cpp": Target(Variant(image="uint8")),
    "triton": Target(Variant(), folder="model_repository"),
    "hub": Target(Variant(), folder="hub"),
}

# Of one instance on a CPU. Triton's default is every core, and threads that wait go on spinning for a while: two models
# in one server would slow each other down.
THREADS = 2
MAX_BATCH = 64  # images that Triton may put into one call; larger batches are no faster
# Triton loads any name without a slash, but its HTTP server decodes no URL: to it, a%20b is no name for "a b".
_TRITON_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def triton_config(model: Path) -> str:
    """A model's config.pbtxt, of Triton's model repository: what its ONNX file takes and gives, as Triton writes it.

    https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html:
    the name is that of the folder. If the first dimension of everything is the batch, it is left out, and
    `max_batch_size` says so; of a label nothing is left then, which takes a reshape. Otherwise shapes are whole, and
    a scalar is written as one number. Requests are joined only where no label is taken: one that the file does not
    know fails the run, and with it the requests of everybody in it (seen in tritonserver 2.51).

    Args:
        model: ONNX file.
    """
    import onnx

    types: dict[int, str] = {
        onnx.TensorProto.FLOAT: "FP32",
        onnx.TensorProto.INT64: "INT64",
        onnx.TensorProto.UINT8: "UINT8",
    }
    loaded = onnx.load(model)
    graph = loaded.graph
    # Triton tells nobody a model's own metadata; a client needs the spec to know sizes, range and classes. JSON's way
    # to write a text is the text format's too.
    spec = json.dumps({entry.key: entry.value for entry in loaded.metadata_props}[SPEC_KEY])
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    firsts = {shape[0] if shape else 1 for shape in shapes.values()}
    batched = len(firsts) == 1 and all(isinstance(first, str) for first in firsts)
    joined = batched and all(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for value in graph.input)

    def entry(value: ValueInfoProto) -> str:
        sizes = [-1 if isinstance(size, str) else size for size in shapes[value.name][batched:]]
        dims = ", ".join(map(str, sizes or [1]))
        reshape = " reshape: { shape: [ ] }" if batched and not sizes else ""
        kind = types[value.type.tensor_type.elem_type]
        return f'  {{ name: "{value.name}" data_type: TYPE_{kind} dims: [ {dims} ]{reshape} }}'

    lines = [
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH if batched else 0}",
        "input [",
        ",\n".join(map(entry, graph.input)),
        "]",
        "output [",
        ",\n".join(map(entry, graph.output)),
        "]",
        *(["dynamic_batching { }"] if joined else []),
        *(
            f'parameters {{ key: "{key}" value: {{ string_value: "{count}" }} }}'
            for key, count in (("intra_op_thread_count", THREADS), ("inter_op_thread_count", 1))
        ),
        f'parameters {{ key: "{SPEC_KEY}" value: {{ string_value: {spec} }} }}',
    ]
    return "\n".join(lines) + "\n"


def publish_to_triton(publish: Callable[[Path], Artifact], repository: Path, name: str) -> Artifact:
    """Publish a model into a model repository: REPOSITORY/NAME/config.pbtxt and REPOSITORY/NAME/1/model.onnx.

    Args:
        publish: writes and proves the ONNX file at a path.
        repository: made if it is missing; its parent must exist.
        name: of the model.
    Returns:
        The artifact in its place. The model's folder appears whole or not at all, and is on the disk.
    Raises:
        ExportError: the model could not be asked for by that name.
        OutputError: the repository has a model of that name, or can't be written to.
    """
    if not _TRITON_NAME.fullmatch(name):
        raise ExportError(
            f"Triton's HTTP server finds no model called {name!r}; rename the checkpoint, to ASCII letters, digits, "
            "underscores, dashes and dots"
        )
    model = repository / name
    if repository.exists() and not repository.is_dir():
        raise OutputError(f"{repository} is a file; give the name of a folder")
    make_folder(repository)  # before the slow work: what can't be written to is said at once
    # Made beside the repository: a server that watches it must see no half of a model.
    with new_folder(model, beside=repository) as folder:
        (folder / "1").mkdir()
        artifact = publish(folder / "1" / "model.onnx")
        (folder / "config.pbtxt").write_text(triton_config(artifact.path), encoding="utf-8")
    return dataclasses.replace(artifact, path=model / "1" / "model.onnx")
