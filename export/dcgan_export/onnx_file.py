"""ONNX: one file that any ONNX runtime reads, without torch.

torch's exporter does the translation. What it writes tells of the exporting machine too, so the rest of this module
makes the file small, portable and the same every time: see `_tidy`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter
from torch import nn

from dcgan_infer import __version__
from dcgan_infer.contract.errors import ExportError, first_line
from dcgan_infer.contract.spec import Interface
from dcgan_infer.runtime import cores, onnxruntime

from . import seeded
from .formats import FloatArray, IntArray, Runner, Seeded, SeedRunner, Variant
from .quantizable import QuantizableGenerator
from .quantize import halve, quantize
from .torch_files import example_inputs

PACKAGES = ("torch", "onnx", "onnxscript")
INPUTS, OUTPUT, BATCH = ("z", "label"), "image", "batch"  # of the inputs the first, if there are no classes

# Opset 17 with IR 8 is read by every runtime tried, onnxruntime 1.15 among them; newer opsets gain this graph nothing.
OLDEST_OPSET = 17  # and the default
# torch's dynamo exporter writes this one whatever lower one it is asked for, so we always ask for it and convert.
_EXPORTED_OPSET = 18
_UNCHANGED = "unchanged"  # a domain that hides operators from the converter
_GRAPH_NAME = "dcgan_generator"
# https://onnx.ai/onnx/repo-docs/MetadataProps.html: by number of channels
_PIXEL_FORMATS = {1: "Gray8", 3: "Rgb8", 4: "Rgba8"}
_PIXEL_RANGES = {(-1.0, 1.0): "Normalized_1_1", (0.0, 1.0): "Normalized_0_1"}


class Pictures(nn.Module):
    """A generator that gives pictures: `dcgan_infer.contract.pixels.to_pictures` inside the graph.

    Args:
        generator: gives float32, shape (N, C, H, W).
        spec: of the generator.
    """

    def __init__(self, generator: nn.Module, spec: Interface) -> None:
        super().__init__()
        self.generator = generator
        self.low, self.high = spec.value_range
        self.is_grey = spec.image_shape[0] == 1

    def forward(self, z: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        """Pictures of latents: uint8, shape (N, H, W) in grey, else (N, H, W, C); 0 is black."""
        image = self.generator(z) if label is None else self.generator(z, label)
        image = image.squeeze(1) if self.is_grey else image.permute(0, 2, 3, 1)
        image = image.clamp(self.low, self.high)
        # Adding 0 would be a node that does nothing.
        levels = ((image - self.low if self.low else image) * (255.0 / (self.high - self.low))).round()
        # In two steps: IREE turns floats above 127 into no byte but a signed one.
        whole: torch.Tensor = levels.to(torch.int32)
        return whole.to(torch.uint8)


def write(generator: nn.Module, spec: Interface, path: Path, metadata: Mapping[str, str], variant: Variant) -> None:
    """Write a generator as ONNX, in exactly the opset asked for; see `formats.FormatModule.write`.

    For int8 the generator is a `quantizable.QuantizableGenerator`.
    """
    oldest = seeded.OLDEST_OPSET if variant.inputs == "seed" else OLDEST_OPSET
    opset = oldest if variant.opset is None else variant.opset
    newest = newest_opset()
    if not oldest <= opset <= newest:
        why = "; one that takes a seed computes on bits, which opset 17 can't" if opset == OLDEST_OPSET else ""
        raise ExportError(
            f"opset {opset} can't be written; choose one from {oldest} to {newest}, "
            f"the newest that onnx {onnx.__version__} and onnxruntime {onnxruntime().__version__} both know{why}"
        )
    written = Pictures(generator, spec).eval() if variant.is_uint8 else generator
    model = _convert(_translate(written, spec), opset)
    _tidy(model)
    if variant.precision == "int8":
        if not isinstance(generator, QuantizableGenerator):
            raise ExportError("int8 is for the form that quantizable.quantizable makes")
        quantize(model, generator, integer_latents=variant.optimize == "vnni")
    elif variant.precision == "fp16":
        halve(model)
    if variant.inputs == "seed":
        seeded.add_seed(model, spec)
    _label(model, spec, metadata, variant)
    found = [(entry.domain, entry.version) for entry in model.opset_import]
    if found != [("", opset)]:
        raise ExportError(f"asked for ONNX opset {opset}, but the converter made {found}; choose another --opset")
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def load(path: Path) -> Runner:
    """Load a file into onnxruntime on the CPU; see `formats.FormatModule.load`.

    Of a file that takes a seed this is the part from the latents on; `load_seeded` is the whole.
    """
    content = path.read_bytes()
    session = open_session(content)
    if any(value.name == "seed" for value in session.get_inputs()):
        session = open_session(seeded.body(onnx.load_from_string(content)))
    names = [value.name for value in session.get_inputs()]
    found = [(value.name, value.shape[:1]) for value in (*session.get_inputs(), *session.get_outputs())]
    if tuple(names) not in (INPUTS[:1], INPUTS) or found != [(name, [BATCH]) for name in (*names, OUTPUT)]:
        raise ExportError(
            f"the ONNX file should take {' and perhaps '.join(map(repr, INPUTS))}, and give {OUTPUT!r}, each with a "
            f"first dimension called {BATCH!r}; found {found}"
        )

    def run(*inputs: FloatArray | IntArray) -> FloatArray | npt.NDArray[np.uint8]:
        (images,) = session.run([OUTPUT], dict(zip(names, inputs, strict=True)))
        return images  # type: ignore[no-any-return]

    return run


def load_seeded(path: Path) -> SeedRunner:
    """Load a file that takes a seed into onnxruntime on the CPU.

    Raises:
        ExportError: onnxruntime refuses it.
    """
    content = path.read_bytes()
    session = open_session(content)
    front = open_session(seeded.front(onnx.load_from_string(content)))

    def run(seed: int, n: int, asked: tuple[int, ...] | None) -> Seeded:
        inputs = {"seed": np.array(seed, np.int64), "n": np.array(n, np.int64)}
        if asked is not None:
            inputs["label"] = np.array(asked, np.int64)
        (images,) = session.run([OUTPUT], inputs)
        return Seeded(images, *front.run(None, inputs))

    return run


def open_session(content: bytes | Path) -> Any:
    """A session on the CPU.

    Args:
        content: of an ONNX file, or its path.
    Raises:
        ExportError: onnxruntime refuses the file.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; onnxruntime would print it as well
    options.intra_op_num_threads = cores()  # onnxruntime looks at the machine, and not at a container's quota
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ExportError(f"onnxruntime refuses the ONNX file; a lower --opset may do: {first_line(error)}") from error


def newest_opset() -> int:
    """The newest opset that both the installed onnx and the installed onnxruntime know."""
    for opset in range(onnx.defs.onnx_opset_version(), OLDEST_OPSET, -1):
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", [x], [y])
        try:
            opsets = [helper.make_opsetid("", opset)]
            model = helper.make_model(graph, opset_imports=opsets, ir_version=_ir_version(opset))
            open_session(model.SerializeToString())
        except Exception:  # onnxruntime can't be asked, only tried; onnx may lack an IR version for its newest draft
            continue
        return opset
    return OLDEST_OPSET


def _ir_version(opset: int) -> int:
    # Runtimes look at the IR version first, and refuse a newer one before they look at the operators.
    return helper.find_min_ir_version_for([helper.make_opsetid("", opset)])


def _translate(generator: nn.Module, spec: Interface) -> ModelProto:
    inputs = example_inputs(spec)
    with warnings.catch_warnings():
        # torch's exporter uses parts of torch and of its own that are on their way out; its user can't change that.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", "# The axis name: batch", UserWarning)  # both inputs have it: as they should
        try:
            program = torch.onnx.export(
                generator,
                inputs,
                dynamo=True,
                opset_version=_EXPORTED_OPSET,
                input_names=list(INPUTS[: len(inputs)]),
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},) * len(inputs),
                verbose=False,
            )
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None:  # torch takes Ctrl-C for a failure of its own, and asks for a report of it
                if isinstance(cause, KeyboardInterrupt):
                    raise cause from None
                cause = cause.__cause__ or cause.__context__
            raise
    assert program is not None
    return program.model_proto


def _convert(model: ModelProto, opset: int) -> ModelProto:
    if opset == _EXPORTED_OPSET:
        return model
    if opset < _EXPORTED_OPSET:
        # onnx has no rule that takes Pad from opset 18 back to 17. The only news of 18 is a fourth input, which ours
        # lack, so the converter is kept from seeing them.
        for node in model.graph.node:
            node.domain = _UNCHANGED if node.op_type == "Pad" and len(node.input) < 4 else node.domain
        model.opset_import.append(helper.make_opsetid(_UNCHANGED, 1))
    try:
        converted = version_converter.convert_version(model, opset)
    except Exception as error:  # the converter's C++ part raises RuntimeError, its Python part several others
        raise ExportError(f"the model has no form in ONNX opset {opset}: {first_line(error)}") from error
    for node in converted.graph.node:
        if node.domain == _UNCHANGED:
            node.domain = ""
    opsets = [each for each in converted.opset_import if each.domain != _UNCHANGED]
    del converted.opset_import[:]
    converted.opset_import.extend(opsets)
    return converted


def _tidy(model: ModelProto) -> None:
    """Take out what is not the model, in place: source paths, comments, default attributes, incidental names."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:]
    model.ClearField("doc_string")
    graph.ClearField("doc_string")
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("doc_string")
        del part.metadata_props[:]  # each node lists the source lines of the exporting machine
    opset = model.opset_import[0].version
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        _drop_defaults(node, opset, constants)
    weights = set(constants)
    made = [value for value in graph.value_info if value.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(made)
    _rename(model)


def _drop_defaults(node: NodeProto, opset: int, constants: Mapping[str, np.ndarray]) -> None:
    if node.op_type == "Reshape" and 0 not in constants.get(node.input[1], [0]):
        # `allowzero` says what a 0 in the shape means; without a 0 it says nothing, and some parsers refuse it.
        kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
    else:
        kept = list(node.attribute)
    defaults = onnx.defs.get_schema(node.op_type, opset, node.domain).attributes
    kept = [each for each in kept if each.name not in defaults or each != defaults[each.name].default_value]
    del node.attribute[:]
    node.attribute.extend(sorted(kept, key=lambda attribute: attribute.name))


def _rename(model: ModelProto) -> None:
    """Name nodes, and the values between them, by operator and order; torch's names change with its version."""
    graph = model.graph
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    # Torch's names, such as bn1.weight, without what Pictures puts before them.
    names |= {tensor.name: tensor.name.removeprefix("generator.") for tensor in graph.initializer if "." in tensor.name}
    count: Counter[str] = Counter()
    for node in graph.node:
        node.name = f"{node.op_type}_{count[node.op_type]}"
        count[node.op_type] += 1
        for index, value in enumerate(node.output):
            names.setdefault(value, node.name if index == 0 else f"{node.name}.{index}")
        for index, value in enumerate(node.input):
            names.setdefault(value, f"{node.name}.input{index}")  # a constant; values made by nodes are named already
    for node in graph.node:
        node.input[:] = [names[value] if value else "" for value in node.input]
        node.output[:] = [names[value] if value else "" for value in node.output]
    for part in (*graph.value_info, *graph.initializer):
        part.name = names[part.name]


def _label(model: ModelProto, spec: Interface, metadata: Mapping[str, str], variant: Variant) -> None:
    model.ir_version = _ir_version(model.opset_import[0].version)
    model.producer_name, model.producer_version = "dcgan-toolkit", __version__
    model.graph.name = _GRAPH_NAME
    # The `Image.*` keys speak of every value whose type says that it is an image.
    model.graph.output[0].type.denotation = "IMAGE"
    image = {"Image.NominalPixelRange": "NominalRange_0_255" if variant.is_uint8 else _PIXEL_RANGES[spec.value_range]}
    if spec.image_shape[0] in _PIXEL_FORMATS:
        image["Image.BitmapPixelFormat"] = _PIXEL_FORMATS[spec.image_shape[0]]
    helper.set_model_props(model, dict(sorted((image | dict(metadata)).items())))
