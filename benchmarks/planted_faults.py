"""Faults to plant in a correct ONNX artifact of any chain of layers, each of which parity must refuse.

They are what goes wrong in practice: an export in training mode, a kernel in the other convention, a cast on the way,
an old checkpoint, a layer that was guessed wrong, a bit lost. The tests plant them, and benchmarks/parity_faults.py.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from dcgan.networks import Generator
from dcgan_infer.contract.layers import (
    Activate,
    BatchNorm,
    Conv,
    ConvTranspose,
    Linear,
    Unflatten,
    Upsample,
    shapes_of,
)
from dcgan_infer.contract.spec import GeneratorSpec

Array = npt.NDArray[Any]
Plant: TypeAlias = Callable[[ModelProto], None]
Weighted: TypeAlias = Linear | ConvTranspose | Conv
# Hidden activations that are one operator in ONNX, by their names here.
_OPERATORS = {"relu": "Relu", "leaky-relu": "LeakyRelu", "elu": "Elu", "softplus": "Softplus"}


@dataclass(frozen=True)
class Fault:
    """Something to break.

    Attributes:
        name: what is wrong, in a few words.
        plant: breaks the model it is given, in place.
    """

    name: str
    plant: Plant

    def in_copy_of(self, model: ModelProto) -> ModelProto:
        damaged = copy.deepcopy(model)
        self.plant(damaged)
        return damaged


def trained_like(spec: GeneratorSpec, seed: int = 0, reach: float = 2.0) -> Generator:
    """A generator whose weights look like trained ones, in seconds.

    BatchNorm has statistics of real activations and scales of both signs, and the images are saturated in places.

    Args:
        spec: to make; it ends in tanh or sigmoid.
        seed: of the weights.
        reach: standard deviation of what goes into the tanh.
    """
    torch.manual_seed(seed)
    generator = Generator(spec)
    norms = [layer.name for layer in spec.layers if isinstance(layer, BatchNorm)]

    def images(count: int) -> Tensor:
        z = torch.randn(count, spec.latent_dim)
        return generator(z, torch.arange(count) % spec.num_classes) if spec.num_classes else generator(z)  # type: ignore[no-any-return]

    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.rpartition(".")[0] in norms:
                parameter.add_(torch.randn_like(parameter) * (0.5 if name.endswith("weight") else 0.3))
            else:
                parameter.mul_(2.0)
        generator.train()
        for _ in range(40):
            images(32)
        generator.eval()
        weighted = next(layer for layer in reversed(spec.layers) if isinstance(layer, Conv | ConvTranspose))
        last = generator.get_parameter(f"{weighted.name}.weight")
        low, high = spec.value_range
        values = (images(64) - low) / (high - low) * 2 - 1
        last.mul_(reach / torch.atanh(values.clamp(-0.999, 0.999)).std())
    return generator


def weighted(spec: GeneratorSpec) -> list[Weighted]:
    """The layers that have weights, in order."""
    return [layer for layer in spec.layers if isinstance(layer, Weighted)]


def unfolded(model: ModelProto, generator: Generator) -> ModelProto:
    """A copy of a plain export with a node for every BatchNorm, so that faults can be planted in each.

    torch's exporter folds a BatchNorm that follows a linear layer or a convolution at once.
    """
    model = copy.deepcopy(model)
    graph, state = model.graph, generator.state_dict()
    kept = {node.input[3] for node in _nodes(model, "BatchNormalization")}

    def set_tensor(name: str, value: Tensor) -> str:
        found = [tensor for tensor in graph.initializer if tensor.name == name]
        (found[0] if found else graph.initializer.add()).CopyFrom(numpy_helper.from_array(value.numpy(), name))
        return name

    for layer, norm in pairwise(generator.spec.layers):
        if not isinstance(layer, Weighted) or not isinstance(norm, BatchNorm) or f"{norm.name}.running_mean" in kept:
            continue
        place, node = next((i, n) for i, n in enumerate(graph.node) if f"{layer.name}.weight" in n.input)
        set_tensor(f"{layer.name}.weight", state[f"{layer.name}.weight"])
        if layer.bias:
            set_tensor(node.input[2], state[f"{layer.name}.bias"])
        else:
            del node.input[2:]
        default = {"weight": torch.ones(norm.features), "bias": torch.zeros(norm.features)}
        names = [f"{norm.name}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")]
        for name in names:
            set_tensor(name, state[name] if name in state else default[name.rpartition(".")[2]])
        after = helper.make_node(
            "BatchNormalization", [f"{norm.name}.in", *names], [node.output[0]], norm.name, epsilon=norm.eps
        )
        node.output[0] = f"{norm.name}.in"
        graph.node.insert(place + 1, after)
    return model


def weights(layer: str, change: Callable[[Array], Array], kind: str = "weight") -> Plant:
    """Change the weights (or another tensor) of a layer."""

    def plant(model: ModelProto) -> None:
        tensor = _tensor(model, f"{layer}.{kind}")
        changed = change(numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), tensor.name))

    return plant


def every_weight(change: Callable[[Array], Array]) -> Plant:
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
    return next(node for node in _nodes(model, "BatchNormalization") if node.input[3] == f"{name}.running_mean")


def _first(value: float) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        array.flat[0] = value
        return array

    return change


def _swap(array: Array) -> Array:
    """Exchange the first two of the first axis that has two."""
    axis = 0 if array.shape[0] > 1 else 1
    order = list(range(array.shape[axis]))
    order[0], order[1] = 1, 0
    return np.take(array, order, axis)


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


def _after_output(op_type: str, *constants: float, **attributes: Any) -> Plant:
    """Put one more operator behind the last one."""

    def plant(model: ModelProto) -> None:
        graph = model.graph
        graph.node[-1].output[0] = "before"
        names = [f"planted{i}" for i in range(len(constants))]
        for name, value in zip(names, constants, strict=True):
            graph.initializer.append(numpy_helper.from_array(np.float32(value).reshape(1), name))
        graph.node.append(helper.make_node(op_type, ["before", *names], ["image"], **attributes))

    return plant


def _affine_output(scale: float, shift: float) -> Plant:
    """scale * image + shift."""

    def plant(model: ModelProto) -> None:
        _after_output("Mul", scale)(model)
        model.graph.node[-1].output[0] = "scaled"
        model.graph.initializer.append(numpy_helper.from_array(np.array([shift], np.float32), "planted_shift"))
        model.graph.node.append(helper.make_node("Add", ["scaled", "planted_shift"], ["image"]))

    return plant


def _exchanged_colours(model: ModelProto) -> None:
    """BGR for RGB, as OpenCV has it."""
    model.graph.node[-1].output[0] = "before"
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "planted_order"))
    model.graph.node.append(helper.make_node("Gather", ["before", "planted_order"], ["image"], axis=1))


def _no_output_activation(model: ModelProto) -> None:
    assert model.graph.node[-1].op_type in ("Tanh", "Sigmoid")
    model.graph.node[-1].op_type = "Identity"


def _training_mode(name: str, is_flat: bool) -> Plant:
    """A BatchNorm with the statistics of its batch, spelled out: onnxruntime's own has no training mode on the CPU."""

    def plant(model: ModelProto) -> None:
        graph, node = model.graph, _norm(model, name)
        place = list(graph.node).index(node)
        axes = [0] if is_flat else [0, 2, 3]
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        graph.initializer.append(numpy_helper.from_array(np.array([epsilon], np.float32), "planted_epsilon"))
        for kind, tensor in zip(("weight", "bias"), node.input[1:3], strict=True):
            value = numpy_helper.to_array(_tensor(model, tensor))
            shaped = value if is_flat else value.reshape(-1, 1, 1)
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


def _epsilon(value: float) -> Plant:
    def plant(model: ModelProto) -> None:
        for node in _nodes(model, "BatchNormalization"):
            for attribute in list(node.attribute):
                if attribute.name == "epsilon":
                    node.attribute.remove(attribute)
            node.attribute.append(helper.make_attribute("epsilon", value))

    return plant


def _leaky_relu(slope: float) -> Plant:
    """Leaky ReLU in place of every hidden activation."""

    def plant(model: ModelProto) -> None:
        for node in _nodes(model, *_OPERATORS.values()):
            node.CopyFrom(helper.make_node("LeakyRelu", node.input, node.output, node.name, alpha=slope))

    return plant


def _interpolated(model: ModelProto) -> None:
    """Upsampling bilinear, and not nearest."""
    for node in _nodes(model, "Resize"):
        mode = helper.make_attribute("mode", "linear")
        others = [attribute for attribute in node.attribute if attribute.name not in ("mode", "nearest_mode")]
        del node.attribute[:]
        node.attribute.extend([*others, mode])


def _compute_in_half(model: ModelProto) -> None:
    """Round the output of every node to half precision and back, which is what computing in it comes to."""
    graph = model.graph
    nodes = list(graph.node)
    del graph.node[:]
    for index, node in enumerate(nodes):
        graph.node.append(node)
        if node.op_type in ("Reshape", "Unsqueeze", "Equal", "Greater"):  # of what is no float, or changes none
            continue
        target, narrow, wide = node.output[0], f"narrow{index}", f"wide{index}"
        graph.node[-1].output[0] = wide
        graph.node.append(helper.make_node("Cast", [wide], [narrow], to=TensorProto.FLOAT16))
        graph.node.append(helper.make_node("Cast", [narrow], [target], to=TensorProto.FLOAT))


def _fixed_reshape(model: ModelProto) -> None:
    reshape = _nodes(model, "Reshape")[0]
    tensor = _tensor(model, reshape.input[1])
    shape = numpy_helper.to_array(tensor).copy()
    shape[0] = 2
    tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))


def _fixed_shape(model: ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    _fixed_reshape(model)


def _noisy(low: float, high: float) -> Plant:
    def plant(model: ModelProto) -> None:
        graph = model.graph
        graph.node[-1].output[0] = "before"
        scale = 5e-5 * (high - low)
        graph.node.append(helper.make_node("RandomNormalLike", ["before"], ["noise"], scale=scale, seed=1.0))
        graph.node.append(helper.make_node("Add", ["before", "noise"], ["noisy"]))
        graph.initializer.extend(
            numpy_helper.from_array(np.array(value, np.float32), f"planted_limit{i}")
            for i, value in enumerate((low, high))
        )
        graph.node.append(helper.make_node("Clip", ["noisy", "planted_limit0", "planted_limit1"], ["image"]))

    return plant


def faults(spec: GeneratorSpec) -> tuple[Fault, ...]:
    """The faults that a chain of layers can have, for its plain export, `unfolded`.

    Args:
        spec: with layers; the last one is tanh or sigmoid.
    """
    return (*_of_weights(spec), *_of_norms(spec), *_of_activations(spec), *_of_images(spec), *_of_all(spec))


def _of_weights(spec: GeneratorSpec) -> Iterator[Fault]:
    changes: dict[str, Callable[[Array], Array]] = {
        "weights off by 0.1 %": lambda w: w * 1.001,
        "two channels swapped": _swap,
        "NaN in one weight": _first(np.nan),
        "weights rounded to float16": lambda w: w.astype(np.float16),
        "sign of one weight flipped": _negate_largest,
    }
    for layer in weighted(spec):
        for what, change in changes.items():
            if change is not _swap or max(layer.inputs, layer.outputs) > 1:
                yield Fault(f"{layer.name}: {what}", weights(layer.name, change))
        if layer.bias:
            yield Fault(f"{layer.name}: bias dropped", weights(layer.name, np.zeros_like, "bias"))
        if not isinstance(layer, Linear) and math.prod(layer.kernel) > 1:
            yield Fault(f"{layer.name}: kernel flipped", weights(layer.name, lambda w: w[:, :, ::-1, ::-1]))
    yield Fault("weights rounded to float16", every_weight(lambda w: w.astype(np.float16)))
    yield Fault("weights rounded to bfloat16", every_weight(_bfloat16))
    yield Fault("an older checkpoint's weights (1 % apart)", every_weight(_noise(0.01)))


def _of_norms(spec: GeneratorSpec) -> Iterator[Fault]:
    shapes = shapes_of(spec.layers, spec.inputs)
    norms = [(norm, shape) for norm, shape in zip(spec.layers, shapes, strict=False) if isinstance(norm, BatchNorm)]
    for norm, shape in norms:
        yield Fault(f"{norm.name}: in training mode", _training_mode(norm.name, is_flat=len(shape) == 1))
        if norm.affine:
            yield Fault(f"{norm.name}: bias dropped", weights(norm.name, np.zeros_like, "bias"))
    if norms:
        yield Fault("BatchNorm epsilon 1e-3", _epsilon(1e-3))
        yield Fault("BatchNorm epsilon 2e-5", _epsilon(2e-5))
    if any(norm.eps != 1e-5 for norm, _ in norms):
        yield Fault("BatchNorm epsilon 1e-5, PyTorch's default", _epsilon(1e-5))


def _of_activations(spec: GeneratorSpec) -> Iterator[Fault]:
    hidden = [layer.function for layer in spec.layers[:-1] if isinstance(layer, Activate)]
    if any(function.name in _OPERATORS for function in hidden):
        slope = next((function.parameter * 1.1 for function in hidden if function.name == "leaky-relu"), 0.011)
        yield Fault(f"activation: leaky-relu {slope:.2g}", _leaky_relu(slope))
        # What a recogniser may guess wrong.
        if slope < 0.1:
            yield Fault("activation: leaky-relu 0.2", _leaky_relu(0.2))
        else:
            yield Fault("activation: relu", _leaky_relu(0.0))
    if any(isinstance(layer, Upsample) and layer.factor != (1, 1) for layer in spec.layers):
        yield Fault("upsampling bilinear", _interpolated)


def _of_images(spec: GeneratorSpec) -> Iterator[Fault]:
    low, high = spec.value_range
    channels, height, width = spec.image_shape
    yield Fault(f"{spec.layers[-1].name}: output activation missing", _no_output_activation)
    scaled = ("[0, 1]", 0.5, 0.5) if low < 0 else ("[-1, 1]", 2.0, -1.0)
    yield Fault(f"output scaled to {scaled[0]}", _affine_output(*scaled[1:]))
    yield Fault("output upside down in value", _affine_output(-1.0, low + high))
    if height > 1 or width > 1:
        yield Fault("height and width exchanged", _after_output("Transpose", perm=[0, 1, 3, 2]))
    if channels == 3:
        yield Fault("red and blue exchanged", _exchanged_colours)
    yield Fault("noise of 1e-4 in the output", _noisy(low, high))


def _of_all(spec: GeneratorSpec) -> Iterator[Fault]:
    if any(isinstance(layer, Unflatten) for layer in spec.layers):
        yield Fault("batch fixed at the example's size", _fixed_shape)
        yield Fault("batch fixed in the Reshape alone", _fixed_reshape)
    yield Fault("computed in float16", _compute_in_half)
