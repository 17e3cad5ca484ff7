"""Features of a user's own: what is fed to the model, in each layout, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dcgan.data import Dataset
from dcgan.evaluation import Evaluation, Reference, evaluate
from dcgan.metrics.feature_model import FeatureModel
from dcgan_infer.contract.errors import EvaluationError
from dcgan_infer.contract.files import sha256_of

onnx = pytest.importorskip("onnx")
helper, TensorProto = onnx.helper, onnx.TensorProto

COLOUR = np.random.default_rng(0).integers(0, 256, (70, 8, 10, 3)).astype(np.uint8)
GREY = COLOUR[..., 0]


def write(path: Path, shape: Sequence[int | str], kind: str = "FLOAT", outputs: Sequence[str] = ("features",)) -> Path:
    """A model whose features are the means of rows and columns, of every channel; of floats times 255."""
    spatial = [1, 2] if len(shape) == 3 or shape[3] in (1, 3) else [2, 3]
    nodes = [helper.make_node("Cast", ["picture"], ["values"], to=TensorProto.FLOAT)]
    constants = [helper.make_tensor("axes", TensorProto.INT64, [2], spatial)]
    nodes.append(helper.make_node("ReduceMean", ["values", "axes"], ["means"], keepdims=0))
    if len(shape) == 3:
        constants.append(helper.make_tensor("wide", TensorProto.INT64, [2], [-1, 1]))
        nodes.append(helper.make_node("Reshape", ["means", "wide"], ["flat"]))
    last = "flat" if len(shape) == 3 else "means"
    constants.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [255.0 if kind == "FLOAT" else 1.0]))
    nodes += [helper.make_node("Mul", [last, "scale"], [name]) for name in outputs]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("picture", getattr(TensorProto, kind), shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "d"]) for name in outputs],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def features(path: Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return FeatureModel(path, threads=1).judge(images).features


@pytest.mark.parametrize("kind", ["FLOAT", "UINT8"])
@pytest.mark.parametrize(
    "shape", [("n", 3, "h", "w"), ("n", "h", "w", 3), ("n", 3, 8, 10), (4, 8, 10, 3), (1, 3, "h", "w")]
)
def test_every_layout_is_fed_with_the_same_pictures(tmp_path: Path, shape: tuple[int | str, ...], kind: str) -> None:
    path = write(tmp_path / "means.onnx", shape, kind)
    assert np.allclose(features(path, COLOUR), COLOUR.mean((1, 2)), atol=1e-3)
    grey = features(path, GREY)  # repeated
    assert np.allclose(grey, GREY.mean((1, 2))[:, None].repeat(3, 1), atol=1e-3)


@pytest.mark.parametrize("shape", [("n", 1, "h", "w"), ("n", "h", "w", 1), ("n", "h", "w")])
def test_models_of_grey_images(tmp_path: Path, shape: tuple[int | str, ...]) -> None:
    path = write(tmp_path / "means.onnx", shape)
    assert np.allclose(features(path, GREY)[:, 0], GREY.mean((1, 2)), atol=1e-3)
    with pytest.raises(EvaluationError, match="1 channel, and these are of shape"):
        features(path, COLOUR)


@pytest.mark.parametrize(
    ("shape", "kind", "outputs", "says"),
    [
        (("n", "c", "h", "w"), "FLOAT", ("features",), "with 1 or 3 channels, fixed in the file"),
        (("n", 3, "h", 3), "FLOAT", ("features",), "with 1 or 3 channels"),
        (("n", 3, 8, 10), "DOUBLE", ("features",), "uint8 or float32; found picture: tensor\\(double\\)"),
        (("n", 3, 8, 10), "FLOAT", ("a", "b"), "one output of shape \\(N, D\\) alone; found a"),
    ],
)
def test_other_models_are_refused(
    tmp_path: Path, shape: tuple[int | str, ...], kind: str, outputs: tuple[str, ...], says: str
) -> None:
    with pytest.raises(EvaluationError, match=says):
        FeatureModel(write(tmp_path / "other.onnx", shape, kind, outputs), threads=1)


def test_what_does_not_fit_the_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"images of 9x10 pixels, float32 from 0 to 1, \(N, C, H, W\), 3"):
        features(write(tmp_path / "large.onnx", ("n", 3, 9, 10)), COLOUR)
    one = np.repeat(COLOUR[:1], 5, axis=0)
    path = write(tmp_path / "means.onnx", ("n", 3, 8, 10))
    assert len(features(path, one)) == 5  # of equal images they are equal
    model = onnx.load(path)
    next(item for item in model.graph.initializer if item.name == "scale").float_data[0] = 0.0
    onnx.save(model, path)
    with pytest.raises(EvaluationError, match="gives all images the same features"):
        features(path, COLOUR)
    next(item for item in model.graph.initializer if item.name == "scale").float_data[0] = np.nan
    onnx.save(model, path)
    with pytest.raises(EvaluationError, match="not finite"):
        features(path, COLOUR)


def divided(path: Path) -> Path:
    """The same model, with a weight in own.data beside it."""
    model = onnx.load(path)
    item = next(item for item in model.graph.initializer if item.name == "scale")
    item.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(item), item.name))  # raw bytes are moved
    onnx.save(model, path, save_as_external_data=True, location="own.data", size_threshold=0)
    return path


def test_weights_in_a_file_beside_it_are_part_of_the_digest(tmp_path: Path) -> None:
    path = write(tmp_path / "means.onnx", ("n", 3, 8, 10))
    alone = FeatureModel(path, threads=1).sha256
    assert alone == sha256_of(path)
    judge = FeatureModel(divided(path), threads=1)
    assert np.allclose(judge.judge(COLOUR).features, COLOUR.mean((1, 2)), atol=1e-3)
    assert judge.sha256 not in (alone, sha256_of(path))
    (tmp_path / "own.data").write_bytes((tmp_path / "own.data").read_bytes() + b"\0")
    assert FeatureModel(path, threads=1).sha256 != judge.sha256


@pytest.mark.parametrize("location", ["../own.data", "link.data", "missing.data", "{outside}", "{inside}"])
def test_weights_outside_of_its_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = divided(write(folder / "means.onnx", ("n", 3, 8, 10)))
    (folder / "own.data").rename(tmp_path / "own.data")
    (folder / "link.data").symlink_to("../own.data")
    shutil.copy(tmp_path / "own.data", folder / "inside.data")
    model = onnx.load(path, load_external_data=False)
    for item in model.graph.initializer:
        for entry in item.external_data:
            if entry.key == "location":
                entry.value = location.format(outside=tmp_path / "own.data", inside=folder / "inside.data")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EvaluationError, match="and there is no such file in"):
        FeatureModel(path, threads=1)


def test_metrics_of_such_features_leave_out_the_classes(tmp_path: Path) -> None:
    """And need no labels: darker images are farther."""
    judge = FeatureModel(write(tmp_path / "means.onnx", ("n", 3, "h", "w")), threads=1)
    photos = Dataset(COLOUR, name="photos")
    reference = Reference("validation", photos[:35], photos[35:])

    def judged(images: npt.NDArray[np.uint8]) -> Evaluation:
        return evaluate(lambda count, *_: (images[:count], None), reference, judge, count=30)

    near, far = judged(COLOUR[20:]), judged(COLOUR[20:] // 2)
    assert set(near.figures) == {"frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage"}
    assert near.median("frechet_distance") < 100 < far.median("frechet_distance")
    assert near.evaluator_sha256 == judge.sha256
    assert near.evaluator == {}
