"""Small generators of any shape as ONNX files, made here and untrained, and test vectors of them.

For tests of what runs a generator and must not care who wrote it: the page, the examples, the servers. Without torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from dcgan_infer.contract.latents import labels, latents
from dcgan_infer.contract.pixels import to_pictures
from dcgan_infer.contract.spec import GeneratorSpec, Interface
from dcgan_infer.contract.vectors import DTYPES

HARD_NAMES = ("red fox", "sneaker", 'é "q" 🦊', "7")  # 7 is class 3
COLOUR = Interface(7, (3, 24, 40), 4, HARD_NAMES, (0.0, 1.0))
GREY = Interface(100, (1, 28, 28))
WEIGHTS_SHA256 = "0" * 64  # of all of them


def write_small(path: Path, of: Interface, uint8: bool = False, shift: float = 0.0) -> Path:
    """Write a generator: a linear layer, whose few pixels are enlarged into clouds, and tanh or sigmoid.

    Args:
        of: its interface; sides must be multiples of four.
        uint8: whether it gives pictures, (N, H, W) or (N, H, W, 3), or else values, (N, C, H, W).
        shift: added to the weights, for another generator.
    """
    rng = np.random.default_rng(0)
    channels, height, width = of.image_shape
    small = (channels, height // 4, width // 4)
    features = int(np.prod(small))
    constants = {
        "w": rng.normal(0, 2 / np.sqrt(of.latent_dim), (of.latent_dim, features)) + shift,
        "shape": np.array([-1, *small]),
        "scales": np.array([1.0, 1.0, 4.0, 4.0]),
    }
    inputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", of.latent_dim])]
    nodes = [helper.make_node("MatMul", ["z", "w"], ["features"])]
    if of.num_classes:
        inputs.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]))
        constants["classes"] = rng.normal(0, 2, (of.num_classes, features))
        nodes = [
            helper.make_node("MatMul", ["z", "w"], ["of_z"]),
            helper.make_node("Gather", ["classes", "label"], ["of_label"]),
            helper.make_node("Add", ["of_z", "of_label"], ["features"]),
        ]
    low, high = of.value_range
    nodes += [
        helper.make_node("Reshape", ["features", "shape"], ["pixels_few"]),
        helper.make_node("Resize", ["pixels_few", "", "scales"], ["clouds"], mode="linear"),
        helper.make_node("Tanh" if low else "Sigmoid", ["clouds"], ["values" if uint8 else "image"]),
    ]
    kind, shape = TensorProto.FLOAT, list(of.image_shape)
    if uint8:
        kind, shape = TensorProto.UINT8, list(of.picture_shape)
        constants |= {"low": np.array(low), "scale": np.array(255 / (high - low)), "picture": np.array([-1, *shape])}
        nodes += [
            helper.make_node("Sub", ["values", "low"], ["above"]),
            helper.make_node("Mul", ["above", "scale"], ["levels"]),
            helper.make_node("Round", ["levels"], ["whole"]),
            helper.make_node("Transpose", ["whole"], ["last"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", ["last", "picture"], ["pixels"]),
            helper.make_node("Cast", ["pixels"], ["image"], to=kind),
        ]
    outputs = [helper.make_tensor_value_info("image", kind, ["batch", *shape])]
    initializers = [
        numpy_helper.from_array(value.astype(np.int64 if value.dtype.kind == "i" else np.float32), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "small", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    spec = GeneratorSpec(**asdict(of)).to_json()
    metadata = {"dcgan.spec": spec, "dcgan.precision": "fp32", "dcgan.weights_sha256": WEIGHTS_SHA256}
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def write_vectors(folder: Path, of: Interface, cases: Sequence[tuple[int, int, tuple[int, ...]]]) -> Path:
    """Write test vectors of `write_small`'s generator, as dcgan-export writes them.

    Args:
        cases: of each seed, the number of images, and the classes that are asked for.
    """
    folder.mkdir()
    session = onnxruntime.InferenceSession(write_small(folder / "exact.onnx", of), providers=["CPUExecutionProvider"])
    entries = []
    for seed, n, asked in cases:
        arrays: dict[str, np.ndarray[Any, Any]] = {"z": latents(seed, 0, n, of.latent_dim)}
        if of.num_classes:
            turn = np.resize(np.array(asked or [-1], np.int64), n)
            arrays["label"] = np.where(turn < 0, labels(seed, 0, n, of.num_classes), turn)
        (arrays["image"],) = session.run(["image"], arrays)
        arrays["image_uint8"] = to_pictures(arrays["image"], of.value_range)
        entry: dict[str, Any] = {"seed": str(seed), "n": n} | ({"asked": asked} if of.num_classes else {})
        for name, array in arrays.items():
            code, suffix = DTYPES[str(array.dtype)]
            file = f"seed-{seed}.{name}.{suffix}"
            (folder / file).write_bytes(array.astype(code).tobytes())
            entry[name] = {"file": file, "dtype": str(array.dtype), "shape": array.shape}
        entries.append(entry)
    spec = json.loads(GeneratorSpec(**asdict(of)).to_json())
    index = {"format": 1, "spec": spec, "weights_sha256": WEIGHTS_SHA256, "cases": entries}
    (folder / "index.json").write_text(json.dumps(index))
    return folder
