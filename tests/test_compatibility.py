"""The files in onnx's own evaluator, which shares no code with onnxruntime; benchmarks/compatibility.py has others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from compatibility import check_file
from onnx import AttributeProto, ModelProto, helper
from onnx.reference import ReferenceEvaluator

from dcgan.checkpoint import load_generator
from dcgan_export import onnx_file
from dcgan_export.formats import Variant
from dcgan_export.fuse import fuse
from dcgan_infer import shipped
from dcgan_infer.contract.vectors import Case, read_vectors

VECTORS = Path(__file__).resolve().parent.parent / "examples" / "vectors"
IMAGES = 2  # the evaluator is slow


def first_case(name: str) -> Case:
    return read_vectors(VECTORS / name).cases[0]


def run(model: ModelProto, name: str) -> npt.NDArray[Any]:
    names = [value.name for value in model.graph.input]
    (image,) = ReferenceEvaluator(model).run(None, first_case(name).feeds(names, n=IMAGES))
    assert isinstance(image, np.ndarray)
    return image


@pytest.mark.parametrize("name", shipped.names(".onnx"))
def test_the_shipped_files_give_the_exact_images(name: str) -> None:
    model = onnx.load(shipped.path_of(name, ".onnx"))
    image = run(model, name)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, first_case(name).image[:IMAGES], rtol=0.0, atol=1e-5)

    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))  # the first convolution's
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(1.001)).tobytes()
    assert np.abs(run(model, name) - first_case(name).image[:IMAGES]).max() > 1e-4  # a small change is seen


def test_grey_levels(tmp_path: Path) -> None:
    checkpoint = load_generator(shipped.path_of(shipped.DEFAULT, ".safetensors"))
    assert checkpoint.chain is not None
    path = tmp_path / "model.onnx"
    onnx_file.write(fuse(checkpoint.chain), checkpoint.spec, path, {}, Variant(image="uint8"))
    image = run(onnx.load(path), shipped.DEFAULT)
    assert image.dtype == np.uint8
    assert np.array_equal(image, first_case(shipped.DEFAULT).image_uint8[:IMAGES])


def plant_allowzero(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Reshape")
    node.attribute.append(helper.make_attribute("allowzero", 0, attr_type=AttributeProto.INT))


def plant_empty_input(model: ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Conv").input.append("")


def plant_comment(model: ModelProto) -> None:
    model.graph.node[0].doc_string = "somewhere.py, line 1"


def plant_other_operators(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def plant_weight_as_input(model: ModelProto) -> None:
    weight = model.graph.initializer[0]
    model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (plant_allowzero, "allowzero"),
        (plant_empty_input, "empty optional input"),
        (plant_comment, "comments on nodes"),
        (plant_other_operators, "not ONNX's own"),
        (plant_weight_as_input, "listed as inputs"),
    ],
)
def test_what_stops_parsers_is_not_in_the_default_file(
    plant: Callable[[ModelProto], None], said: str, tmp_path: Path
) -> None:
    path = shipped.path_of(shipped.DEFAULT, ".onnx")
    model = onnx.load(path)
    assert (model.ir_version, [entry.version for entry in model.opset_import]) == (8, [17])
    assert check_file(path) == []
    plant(model)
    onnx.save(model, tmp_path / "model.onnx")
    (found,) = check_file(tmp_path / "model.onnx")
    assert said in found
