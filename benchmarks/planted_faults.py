"""Faults to plant in a correct ONNX artifact, each of which parity must refuse.

They are what goes wrong in practice: an export in training mode, a kernel in the other convention, a cast on the way,
an old checkpoint, a bit lost. The tests plant them, and benchmarks/parity_faults.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from dcgan.networks import Generator
from dcgan_infer.contract.spec import GeneratorSpec

LAYERS = ("linear1", "decon1", "decon2", "decon3")
NORMS = ("bn1", "bn2", "bn3")
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Fault:
    """Something to break.

    Attributes:
        name: what is wrong, in a few words.
        plant: breaks the model it is given, in place.
    """

    name: str
    plant: Callable[[ModelProto], None]

    def in_copy_of(self, model: ModelProto) -> ModelProto:
        damaged = copy.deepcopy(model)
        self.plant(damaged)
        return damaged


def trained_like(spec: GeneratorSpec, seed: int = 0) -> Generator:
    """A generator whose weights look like trained ones, in a second.

    BatchNorm has statistics of real activations and scales of both signs, and the images are saturated in places.
    """
    torch.manual_seed(seed)
    generator = Generator(spec)

    def images(count: int) -> Tensor:
        z = torch.randn(count, spec.latent_dim)
        result: Tensor = generator(z, torch.arange(count) % spec.num_classes) if spec.num_classes else generator(z)
        return result

    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.startswith("bn"):
                parameter.add_(torch.randn_like(parameter) * (0.5 if name.endswith("weight") else 0.3))
            else:
                parameter.mul_(2.0)
        generator.train()
        for _ in range(40):
            images(32)
        generator.eval()
        reach = generator.decon3.weight
        reach.mul_(2.0 / torch.atanh(images(64).clamp(-0.999, 0.999)).std())
    return generator


def weights(layer: str, change: Callable[[Array], Array], kind: str = "weight") -> Callable[[ModelProto], None]:
    """Change the weights (or another tensor) of a layer."""

    def plant(model: ModelProto) -> None:
        tensor = _tensor(model, f"{layer}.{kind}")
        changed = change(numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), tensor.name))

    return plant


def every_weight(change: Callable[[Array], Array]) -> Callable[[ModelProto], None]:
    """Change all floating-point constants."""

    def plant(model: ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                changed = change(numpy_helper.to_array(tensor).copy())
                tensor.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), tensor.name))

    return plant


def _tensor(model: ModelProto, name: str) -> TensorProto:
    found: TensorProto = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return found


def _nodes(model: ModelProto, *op_types: str) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type in op_types]


def _norm(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in _nodes(model, "BatchNormalization") if node.input[1] == f"{name}.weight")


def _first(value: float) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        array.flat[0] = value
        return array

    return change


def _swap(axis: int) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        order = list(range(array.shape[axis]))
        order[0], order[1] = 1, 0
        return np.take(array, order, axis)

    return change


def _negate_largest(array: Array) -> Array:
    index = np.abs(array).argmax()
    array.flat[index] = -array.flat[index]
    return array


def _bfloat16(array: Array) -> Array:
    rounded: Array = torch.from_numpy(array).bfloat16().float().numpy()
    return rounded


def _noise(share: float) -> Callable[[Array], Array]:
    random = np.random.default_rng(1)
    return lambda array: array * (1.0 + share * random.standard_normal(array.shape))


def _after_output(op_type: str, *constants: float, **attributes: Any) -> Callable[[ModelProto], None]:
    """Put one more operator behind the last one."""

    def plant(model: ModelProto) -> None:
        graph = model.graph
        graph.node[-1].output[0] = "before"
        names = [f"planted{i}" for i in range(len(constants))]
        for name, value in zip(names, constants, strict=True):
            graph.initializer.append(numpy_helper.from_array(np.float32(value).reshape(1), name))
        graph.node.append(helper.make_node(op_type, ["before", *names], ["image"], **attributes))

    return plant


def _zero_to_one(model: ModelProto) -> None:
    _after_output("Mul", 0.5)(model)
    model.graph.node[-1].output[0] = "half"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0.5], np.float32), "planted_half"))
    model.graph.node.append(helper.make_node("Add", ["half", "planted_half"], ["image"]))


def _no_tanh(model: ModelProto) -> None:
    (tanh,) = _nodes(model, "Tanh")
    tanh.op_type = "Identity"


def _training_mode(name: str) -> Callable[[ModelProto], None]:
    """A BatchNorm with the statistics of its batch, spelled out: onnxruntime's own has no training mode on the CPU."""

    def plant(model: ModelProto) -> None:
        graph, node = model.graph, _norm(model, name)
        place = list(graph.node).index(node)
        axes = [0] if name == "bn1" else [0, 2, 3]
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        graph.initializer.append(numpy_helper.from_array(np.array([epsilon], np.float32), "planted_epsilon"))
        for kind in ("weight", "bias"):
            value = numpy_helper.to_array(_tensor(model, f"{name}.{kind}"))
            shaped = value if name == "bn1" else value.reshape(-1, 1, 1)
            graph.initializer.append(numpy_helper.from_array(shaped, f"planted_{kind}"))
        steps = [
            helper.make_node("ReduceMean", [node.input[0]], ["p_mean"], axes=axes, keepdims=1),
            helper.make_node("Sub", [node.input[0], "p_mean"], ["p_centred"]),
            helper.make_node("Mul", ["p_centred", "p_centred"], ["p_square"]),
            helper.make_node("ReduceMean", ["p_square"], ["p_variance"], axes=axes, keepdims=1),
            helper.make_node("Add", ["p_variance", "planted_epsilon"], ["p_safe"]),
            helper.make_node("Sqrt", ["p_safe"], ["p_deviation"]),
            helper.make_node("Div", ["p_centred", "p_deviation"], ["p_unit"]),
            helper.make_node("Mul", ["p_unit", "planted_weight"], ["p_scaled"]),
            helper.make_node("Add", ["p_scaled", "planted_bias"], [node.output[0]]),
        ]
        rest = list(graph.node)
        del graph.node[:]
        graph.node.extend([*rest[:place], *steps, *rest[place + 1 :]])

    return plant


def _epsilon(value: float) -> Callable[[ModelProto], None]:
    def plant(model: ModelProto) -> None:
        for node in _nodes(model, "BatchNormalization"):
            for attribute in list(node.attribute):
                if attribute.name == "epsilon":
                    node.attribute.remove(attribute)
            node.attribute.append(helper.make_attribute("epsilon", value))

    return plant


def _other_activation(model: ModelProto) -> None:
    for node in _nodes(model, "Relu", "LeakyRelu", "Elu", "Softplus"):
        node.CopyFrom(helper.make_node("LeakyRelu", node.input, node.output, node.name, alpha=0.011))


def _compute_in_half(model: ModelProto) -> None:
    """Round the output of every node to half precision and back, which is what computing in it comes to."""
    graph = model.graph
    nodes = list(graph.node)
    del graph.node[:]
    for index, node in enumerate(nodes):
        graph.node.append(node)
        if node.op_type in ("Reshape", "Greater"):
            continue
        target, narrow, wide = node.output[0], f"narrow{index}", f"wide{index}"
        graph.node[-1].output[0] = wide
        graph.node.append(helper.make_node("Cast", [wide], [narrow], to=TensorProto.FLOAT16))
        graph.node.append(helper.make_node("Cast", [narrow], [target], to=TensorProto.FLOAT))


def _fixed_reshape(model: ModelProto) -> None:
    (reshape,) = _nodes(model, "Reshape")
    tensor = _tensor(model, reshape.input[1])
    shape = numpy_helper.to_array(tensor).copy()
    shape[0] = 2
    tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))


def _fixed_shape(model: ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    _fixed_reshape(model)


def _noisy(model: ModelProto) -> None:
    graph = model.graph
    graph.node[-1].output[0] = "before"
    graph.node.append(helper.make_node("RandomNormalLike", ["before"], ["noise"], scale=1e-4, seed=1.0))
    graph.node.append(helper.make_node("Add", ["before", "noise"], ["noisy"]))
    graph.initializer.extend(
        numpy_helper.from_array(np.float32(value), f"planted_limit{i}") for i, value in enumerate((-1, 1))
    )
    graph.node.append(helper.make_node("Clip", ["noisy", "planted_limit0", "planted_limit1"], ["image"]))


FAULTS = (
    *(Fault(f"{layer}: weights off by 0.1 %", weights(layer, lambda w: w * 1.001)) for layer in LAYERS),
    *(Fault(f"{layer}: bias dropped", weights(layer, np.zeros_like, "bias")) for layer in (*LAYERS, *NORMS)),
    *(Fault(f"{layer}: two channels swapped", weights(layer, _swap(0))) for layer in LAYERS),
    *(
        Fault(f"{layer}: kernel flipped", weights(layer, lambda w: w[:, :, ::-1, ::-1]))
        for layer in ("decon1", "decon2", "decon3")
    ),
    *(Fault(f"{norm}: in training mode", _training_mode(norm)) for norm in NORMS),
    Fault("tanh missing", _no_tanh),
    *(Fault(f"{layer}: NaN in one weight", weights(layer, _first(np.nan))) for layer in LAYERS),
    Fault("batch fixed at the example's size", _fixed_shape),
    Fault("batch fixed in the Reshape alone", _fixed_reshape),
    Fault("weights rounded to float16", every_weight(lambda w: w.astype(np.float16))),
    Fault("weights rounded to bfloat16", every_weight(_bfloat16)),
    *(
        Fault(f"{layer}: weights rounded to float16", weights(layer, lambda w: w.astype(np.float16)))
        for layer in LAYERS
    ),
    Fault("computed in float16", _compute_in_half),
    Fault("BatchNorm epsilon 1e-3", _epsilon(1e-3)),
    Fault("BatchNorm epsilon 2e-5", _epsilon(2e-5)),
    Fault("activation: leaky-relu 0.011", _other_activation),
    Fault("output scaled to [0, 1]", _zero_to_one),
    Fault("output upside down in value", _after_output("Neg")),
    Fault("height and width exchanged", _after_output("Transpose", perm=[0, 1, 3, 2])),
    Fault("an older checkpoint's weights (1 % apart)", every_weight(_noise(0.01))),
    Fault("noise of 1e-4 in the output", _noisy),
    *(Fault(f"{layer}: sign of one weight flipped", weights(layer, _negate_largest)) for layer in LAYERS),
)
