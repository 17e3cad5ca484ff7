"""Smaller numbers in an ONNX file: int8 arithmetic, and weights of half the size.

`int8` rounds what `quantizable.quantizable` made. Weights have 7 bits because processors without VNNI add two
products in 16 bits, which 8-bit weights can overflow (onnxruntime's documentation calls it reduce_range): with 7, every
processor computes the same numbers. For processors with VNNI the latents' product can be of integers too. Latents have
12 bits there, as 8 would make the error half as large again. docs/lab-notebook.md has the figures behind each choice.

`fp16` stores the large weights in half the bits, and casts them back: runtimes do that once, when they load the file.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dcgan_infer.contract.errors import ExportError

from .quantizable import GRID, QuantizableGenerator, Windows

_WEIGHT_LEVELS = 63  # 7 bits, symmetric
_LAYER_LEVELS = 127  # 8 bits, symmetric, of what is only stored so: dense weights, and the classes'
# A latent is two inputs: its level, and what that leaves over, in sixteenths of a level. The second meets a sixteenth
# of the weight. They are neighbours, as these are added in 16 bits where there is no VNNI: 255 * (120 + 8) < 2**15.
_LATENT_STEP, _LATENT_ZERO, _FINER, _LATENT_WEIGHT_LEVELS = np.float32(0.05), np.uint8(128), 16, 120
_CARRIERS = ("Slice", "Concat", "Transpose", "Reshape", "Pad")  # they round to what they are given
_DAMPING, _LEAST_DAMPING = 0.01, 1e-9  # of the mean variance, added to each, as GPTQ does; of values up to 1
_BLOCK = 128
_BIAS_LEVELS = float(1 << 30)
_LARGE = 1024  # numbers that a tensor must have to be worth storing in half the bits


class Rounding(NamedTuple):
    """How values are rounded to 256 levels.

    Attributes:
        step: between two levels.
        zero: the level of 0.
    """

    step: np.float32
    zero: np.uint8


def quantize(model: ModelProto, module: QuantizableGenerator, integer_latents: bool = False) -> None:
    """Round a `QuantizableGenerator` that was written as ONNX, in place.

    Args:
        model: float32, of any opset from 17 on.
        module: that it was written from.
        integer_latents: the latents' product is one of integers too.
    Raises:
        ExportError: an operator stands where no rule rounds it, or the latents' product is not found.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    last = len(module.stages) - 1
    roundings: dict[str, Rounding] = {}  # of values, by the name that they had
    raw: dict[str, int] = {}  # what a convolution gives, and the stage that it is of
    nodes: list[NodeProto] = []
    for node in list(graph.node):
        if integer_latents and node.op_type == "Gemm" and _stage_of(node) == 0:
            nodes += _latent_product(graph, weights, node)
            integer_latents = False  # they are now
            continue
        sources = list(node.input)
        node.input[:] = [f"{name}.rounded" if name in roundings else name for name in sources]
        (value,) = node.output
        place = _stage_of(node)
        rounded = [roundings[name] for name in sources if name in roundings]
        stage = next((raw[name] for name in sources if name in raw), None)
        conv = place if node.op_type == "Conv" and place != last else None
        # The first of all: what the dense stage gives, before its channels, which are the last, are moved to the front.
        if not roundings and (conv is not None or node.op_type == "Transpose"):
            rounding = _rounding(module.ranges[min(module.ranges)])
            nodes += _rounded_value(graph, sources[0], rounding)
            roundings[sources[0]] = rounding
            rounded = [rounding]
            node.input[0] = f"{sources[0]}.rounded"
        if conv is not None:
            seen = module.seen[node.input[1].removesuffix(".weight")]
            nodes += _rounded_weights(graph, weights, node, float(rounded[0].step), seen)
            raw[value] = conv
        if node.op_type == "Pad" and rounded and (number := _padded_with(node, weights)):
            nodes += _padded_levels(graph, value, node, rounded[0], number)
            roundings[value] = rounded[0]
            continue
        nodes.append(node)
        if value in raw:
            activation = module.activations[raw[value]]
            if activation is not None and activation.name == "relu":
                continue  # rounded after it
            low, high = module.ranges[raw[value]]
            slope = activation.parameter if activation is not None else 1.0
            roundings[value] = _rounding((math.floor(low / slope * GRID) / GRID, high))
        elif stage is not None:
            roundings[value] = _rounding(module.ranges[stage])
        elif rounded and node.op_type in _CARRIERS:
            roundings[value] = rounded[0]
        elif rounded and place != last:
            raise ExportError(f"int8 is not made for {node.op_type} between convolutions; take precision fp32 or fp16")
        if value in roundings:
            nodes += _rounded_value(graph, value, roundings[value])
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    if integer_latents:
        raise ExportError("the latents' product was not found; leave optimize vnni out")
    _drop_unused(graph)
    for name in [
        each.name for each in graph.initializer if each.name.endswith("product.weight") and len(each.dims) == 2
    ]:
        _store_rounded(graph, name)
    if "classes.weight" in weights:
        _store_rounded(graph, "classes.weight", axis=1)
    _drop_unused(graph)


def _stage_of(node: NodeProto) -> int | None:
    """The stage whose weights a node takes; None if it takes none."""
    found = [name.split(".")[1] for name in node.input if name.startswith("stages.") and name.endswith(".weight")]
    return int(found[0]) if found else None


def _rounding(range_of_values: tuple[float, float]) -> Rounding:
    """256 levels from a value <= 0 to one > 0."""
    low, high = range_of_values
    step = (high - low) / 255
    return Rounding(np.float32(step), np.uint8(round(-low / step)))


def _add(graph: GraphProto, name: str, array: np.ndarray | np.generic) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return name


def _rounded_value(graph: GraphProto, value: str, rounding: Rounding) -> list[NodeProto]:
    names = [_add(graph, f"{value}.step", rounding.step), _add(graph, f"{value}.zero", rounding.zero)]
    return [
        helper.make_node("QuantizeLinear", [value, *names], [f"{value}.levels"]),
        helper.make_node("DequantizeLinear", [f"{value}.levels", *names], [f"{value}.rounded"]),
    ]


def _padded_with(node: NodeProto, weights: dict[str, TensorProto]) -> float:
    """The number that a Pad adds."""
    return float(numpy_helper.to_array(weights[node.input[2]])) if len(node.input) > 2 else 0.0


def _padded_levels(
    graph: GraphProto, value: str, node: NodeProto, rounding: Rounding, number: float
) -> list[NodeProto]:
    """Pad the levels themselves: onnxruntime would make floats of them for it."""
    level = np.uint8(min(round(number / float(rounding.step)) + int(rounding.zero), 255))
    source = node.input[0].removesuffix(".rounded")
    padding = [node.input[1], _add(graph, f"{value}.level", level)]
    return [
        helper.make_node("Pad", [f"{source}.levels", *padding], [f"{value}.levels"]),
        helper.make_node(
            "DequantizeLinear", [f"{value}.levels", f"{source}.step", f"{source}.zero"], [f"{value}.rounded"]
        ),
    ]


def _latent_product(graph: GraphProto, weights: dict[str, TensorProto], node: NodeProto) -> list[NodeProto]:
    """Make the product of the latents one of integers, exact in 32 bits.

    Half of its weights are made of the others: runtimes do that once, when they load the file.

    Returns:
        Nodes in the place of `node`, a Gemm.
    """
    latent, name, *bias = node.input
    weight = numpy_helper.to_array(weights[name]).astype(np.float64)
    levels, steps = _symmetric(weight if _takes_transposed(node) else weight.T, _LATENT_WEIGHT_LEVELS)
    (value,) = node.output

    def made(operator: str, *sources: str, **attributes: Any) -> str:
        result = f"{value}.{len(nodes)}"
        nodes.append(helper.make_node(operator, sources, [result], **attributes))
        return result

    def constant(key: str, array: np.ndarray | np.generic) -> str:
        return _add(graph, f"{name}.{key}", array)

    nodes: list[NodeProto] = []
    zero = constant("latents.zero", _LATENT_ZERO)
    rounding = constant("latents.step", _LATENT_STEP), zero
    finer = constant("latents.finer", np.float32(_LATENT_STEP / _FINER)), zero
    column = made("Reshape", latent, constant("column", np.array([0, -1, 1])))
    whole = made("QuantizeLinear", column, *rounding)
    rest = made("QuantizeLinear", made("Sub", column, made("DequantizeLinear", whole, *rounding)), *finer)
    flat = constant("flat", np.array([0, -1]))
    both = made("Reshape", made("Concat", whole, rest, axis=2), flat)  # (N, 2 latent_dim)

    large = made("Unsqueeze", constant("levels", np.ascontiguousarray(levels.T)), constant("axis", np.array([1])))
    sixteenth = made("Div", made("Cast", large, to=TensorProto.FLOAT), constant("divisor", np.float32(_FINER)))
    small = made("Cast", made("Round", sixteenth), to=TensorProto.INT8)
    shape = constant("shape", np.array([2 * levels.shape[1], len(levels)]))
    product = made("MatMulInteger", both, made("Reshape", made("Concat", large, small, axis=1), shape), zero)

    scale = constant("scale", steps * _LATENT_STEP)
    scaled = made("Mul", made("Cast", product, to=TensorProto.FLOAT), scale)
    if bias:
        made("Add", scaled, *bias)
    nodes[-1].output[:] = [value]
    return nodes


def _takes_transposed(node: NodeProto) -> bool:
    """Whether a Gemm takes its weights as (outputs, inputs)."""
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _rounded_weights(
    graph: GraphProto, weights: dict[str, TensorProto], node: NodeProto, step: float, seen: Windows
) -> list[NodeProto]:
    """Make a convolution take 8-bit weights, a step for each output channel, and a 32-bit bias.

    Args:
        graph: to add to.
        weights: of the graph, by name.
        node: the convolution.
        step: of the levels that it takes.
        seen: what it sees.
    """
    name = node.input[1]
    weight = numpy_helper.to_array(weights[name]).astype(np.float64)
    if len(node.input) < 3:  # torch's exporter leaves out a bias that is 0
        node.input.append("")
    stored = weights.get(node.input[2])
    bias = np.zeros(len(weight)) if stored is None else numpy_helper.to_array(stored).astype(np.float64)
    # A step is so large that the bias fits into 32 bits: beside such a bias the weights are as good as 0.
    steps = _steps(weight, _WEIGHT_LEVELS, least=np.abs(bias) / (step * _BIAS_LEVELS))
    levels = _compensated(weight, steps, seen.covariance.numpy())
    error = weight - levels * steps.astype(np.float64)[:, None, None, None]
    bias = bias + error.reshape(len(weight), -1) @ seen.mean.numpy()
    bias_steps = steps * np.float32(step)
    bias_levels = np.rint(bias / bias_steps.astype(np.float64)).astype(np.int32)
    nodes = []
    for index, key, values, sizes in ((1, name, levels, steps), (2, f"{name}.bias", bias_levels, bias_steps)):
        names = [
            _add(graph, f"{key}.levels", values),
            _add(graph, f"{key}.step", sizes),
            _add(graph, f"{key}.zero", np.zeros(len(sizes), values.dtype)),
        ]
        nodes.append(helper.make_node("DequantizeLinear", names, [f"{key}.rounded"], axis=0))
        node.input[index] = f"{key}.rounded"
    return nodes


def _steps(weight: np.ndarray, levels: int, least: np.ndarray | float = 0.0) -> np.ndarray:
    """Size of a step for each output, float32, shape (O,): its largest weight is `levels` steps.

    Args:
        weight: float64, shape (O, ...).
        levels: of the largest weight.
        least: that a step must be.
    """
    largest = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1) / levels, least)
    return np.where(largest > 0, largest, 1.0).astype(np.float32)


def _symmetric(weight: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights, float64, shape (O, ...), as int8 from -levels to levels, and their `_steps`."""
    steps = _steps(weight, levels)
    scaled = weight / steps.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    return np.rint(scaled).clip(-levels, levels).astype(np.int8), steps


def _compensated(weight: np.ndarray, steps: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Round weights one input after the other, each time adding to the inputs that follow what makes up for it.

    Inputs go together, so others can give most of what an input's rounding takes away: this is GPTQ (Frantar et al.
    2022, arXiv:2210.17323, section 3), with the largest variance first. Of the mean the bias takes care.

    Args:
        weight: float64, shape (O, ...).
        steps: float32, shape (O,).
        covariance: of the inputs, float64, shape (I, I).
    Returns:
        int8, shape (O, ...), from -_WEIGHT_LEVELS to _WEIGHT_LEVELS.
    """
    variance = np.diag(covariance).clip(0)
    order = np.argsort(-variance.astype(np.float32), kind="stable")  # the last bits are the machine's
    damped = covariance[np.ix_(order, order)]
    # Of inputs that never change, what is left of the subtraction is no variance.
    damped[np.diag_indices_from(damped)] += max(_DAMPING * variance.mean(), _LEAST_DAMPING)
    # Row k says how an error at input k is shared among those after it: the Cholesky factor of the inverse.
    shares = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = weight.reshape(len(weight), -1)[:, order] / steps.astype(np.float64)[:, None]
    levels = np.empty_like(left)
    for first in range(0, len(order), _BLOCK):  # one product for all that follow a block is faster than many
        block = slice(first, first + _BLOCK)
        errors = np.zeros_like(left[:, block])
        for place, number in enumerate(range(*block.indices(len(order)))):
            levels[:, number] = np.rint(left[:, number]).clip(-_WEIGHT_LEVELS, _WEIGHT_LEVELS)
            errors[:, place] = (left[:, number] - levels[:, number]) / shares[number, number]
            left[:, number + 1 : block.stop] -= np.outer(errors[:, place], shares[number, number + 1 : block.stop])
        left[:, block.stop :] -= errors @ shares[block, block.stop :]
    found = np.empty(levels.shape, np.int8)
    found[:, order] = levels
    return found.reshape(weight.shape)


def _store_rounded(graph: GraphProto, name: str, axis: int | None = None) -> None:
    """Store weights, shape (A, B), in 8 bits, with a step for each feature.

    A Cast and a Mul make floats of them: those runtimes do once, at load.

    Args:
        graph: to change.
        name: of the weights.
        axis: of the features; None for what a Gemm says.
    """
    tensor = next(each for each in graph.initializer if each.name == name)
    user = next(node for node in graph.node if name in node.input)
    if axis is None:
        axis = 0 if _takes_transposed(user) else 1
    weight = np.moveaxis(numpy_helper.to_array(tensor), axis, 0)
    levels, steps = _symmetric(weight.astype(np.float64), _LAYER_LEVELS)
    _add(graph, f"{name}.levels", np.ascontiguousarray(np.moveaxis(levels, 0, axis)))
    _add(graph, f"{name}.step", np.expand_dims(steps, 1 - axis))
    made = [
        helper.make_node("Cast", [f"{name}.levels"], [f"{name}.cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.cast", f"{name}.step"], [f"{name}.rounded"]),
    ]
    user.input[:] = [f"{name}.rounded" if each == name else each for each in user.input]
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def halve(model: ModelProto) -> None:
    """Store the large float32 weights of a model as float16, in place.

    Raises:
        ExportError: there are none, or one is too large a number for float16.
    """
    graph = model.graph
    halved = {}
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) < _LARGE:
            continue
        array = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.isfinite(half).all():
            raise ExportError(
                f"{tensor.name} holds {np.abs(array).max():.3g}, past float16's largest number, 65504; "
                "take --precision fp32"
            )
        halved[tensor.name] = half
    if not halved:
        raise ExportError("fp16 would change nothing: the graph has no large float32 weights")
    nodes = [
        helper.make_node("Cast", [f"{name}.half"], [f"{name}.float"], to=TensorProto.FLOAT) for name in sorted(halved)
    ]
    for node in graph.node:
        node.input[:] = [f"{name}.float" if name in halved else name for name in node.input]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    for name in sorted(halved):
        _add(graph, f"{name}.half", halved[name])
    _drop_unused(graph)


def _drop_unused(graph: GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
