"""Smaller numbers: int8 arithmetic and half-size weights, for ONNX.

`int8` (Jacob et al. 2018, arXiv:1712.05877): the convolutions between the first product and the last, nearly all of the
multiply-adds, take 8-bit activations and 7-bit weights, and stand between QuantizeLinear and DequantizeLinear as
runtimes expect it. The fused form alone would not do: what it adds between a convolution and its activation, a map,
would have to be rounded once more. So the stages are put together in another way, by exact algebra, with nothing there:

1. A dense product stays in float32, and so does all that follows it: its scale and shift are computed before its
   values are rounded. For ReLU that is max(s y + t, t), or min where s is negative.
2. The shift of a convolution's stage moves on into the next one: a channel of ones, padded with zeros like the others,
   brings it, borders included. The convolution makes that channel itself, of no weights and a bias of 1.
3. Each channel of an activation is divided by a power of its own range, and the next product multiplies by it, so that
   small channels are not lost in the range of the largest (after Nagel et al. 2019, arXiv:1906.04721, section 4.1).
   That is free for ReLU and leaky ReLU, which let positive factors through.
4. The ones meet weights that are larger than others, so what their rounding adds is taken off the bias (section 4.2).

Leaky ReLU is computed on values that are rounded before it too: onnxruntime takes Conv and Relu together, but falls
back to float32 for a Conv whose output is not rounded at once.

Weights have 7 bits because processors without VNNI add two products in 16 bits, which 8-bit weights can overflow
(onnxruntime's documentation calls it reduce_range): with 7, every processor computes the same numbers. Ranges are the
smallest and largest value over `CALIBRATION` seeded latents; cutting them at a quantile made the mean error smaller and
the worst pixels far worse. docs/export.md has the figures behind each choice.

`fp16` stores the large weights in half the bits, and casts them back: runtimes do that once, when they load the file.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from dcgan.networks import Generator, activation_module
from dcgan_infer.contract.errors import ExportError
from dcgan_infer.contract.latents import labels, latents
from dcgan_infer.contract.spec import GeneratorSpec

from .fuse import FusedGenerator
from .stages import Dense, Stage, Transposed, UnfusableError, stages_of

CALIBRATION, CALIBRATION_SEED = 1024, 1  # latents; parity has others
_CHUNK = 64  # of them at a time, for memory
_GRID = 256.0  # ranges are multiples of 1 / 256
_POWER = 0.5  # of a channel's range that it is divided by; before the last product all of it
_WEIGHT_LEVELS = 63  # 7 bits, symmetric
_LAYER_LEVELS = 127  # 8 bits, symmetric, of what is only stored so: dense weights, and the classes'
_CARRIERS = ("Slice", "Concat", "Transpose", "Reshape", "Pad")  # they round to what they are given
_ACTIVATIONS = ("relu", "leaky-relu")
_UNBOUNDED = float(torch.finfo(torch.float32).max)
_BIAS_LEVELS = float(1 << 30)
_LARGE = 1024  # numbers that a tensor must have to be worth storing in half the bits


class Clamp(nn.Module):
    """ReLU, and the scale and shift after it, of values that are scaled and shifted already.

    Args:
        low: bound from below, shape (C, H, W).
        high: bound from above, likewise; None for none.
    """

    def __init__(self, low: Tensor, high: Tensor | None) -> None:
        super().__init__()
        self.low = nn.Parameter(low)
        self.high = None if high is None else nn.Parameter(high)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, (N, C, H, W)."""
        x = torch.maximum(x, self.low)
        return x if self.high is None else torch.minimum(x, self.high)


class Affine(nn.Module):
    """scale * x + shift, shape (C, H, W) each."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(scale), nn.Parameter(shift)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, (N, C, H, W)."""
        return x * self.scale + self.shift


class Rounding(NamedTuple):
    """How values are rounded to 256 levels.

    Attributes:
        step: between two levels.
        zero: the level of 0.
    """

    step: np.float32
    zero: np.uint8


class QuantizableGenerator(FusedGenerator):
    """What `quantizable` makes: takes and gives what the generator does.

    Args:
        spec: of the generator.
        stages: with everything moved; all but the last give what is rounded.
        after: by place, what computes the scale and shift of a dense stage in the place of its activation.

    Attributes:
        ones: by stage, whether its last channel is 1 everywhere.
        activations: by stage.
        ranges: by stage, the smallest and largest value that it gives, of those whose values are rounded.
    """

    def __init__(self, spec: GeneratorSpec, stages: list[Stage], after: dict[int, nn.Module], ones: list[bool]) -> None:
        # What is rounded is a convolution, which a transposed one becomes by its phases.
        super().__init__(spec, stages, {}, always=True)
        for place, module in after.items():
            self.stages[place].activation = module
        self.ones = ones
        self.activations = [stage.activation for stage in stages]
        self.ranges: dict[int, tuple[float, float]] = {}


@torch.no_grad()
def quantizable(generator: Generator) -> QuantizableGenerator:
    """Rewrite a generator into the form that `quantize` takes, still in float32 and the same function up to rounding.

    Args:
        generator: with finite weights. Not changed.
    Returns:
        A module in eval mode, on the CPU, with its `ranges` measured.
    Raises:
        UnfusableError: its layers have no such form.
    """
    stages = stages_of(generator)
    dense = sum(isinstance(stage.product, Dense) for stage in stages)
    between = stages[dense:-1]
    if not (dense and between):  # nothing is dense after a map
        raise UnfusableError(
            "int8 is for convolutions between a dense layer and a last one; take precision fp32 or fp16"
        )
    for stage in between:
        if stage.activation is not None and stage.activation.name not in _ACTIVATIONS:
            raise UnfusableError(
                f"int8 is for generators with ReLU or leaky ReLU, whose values can be scaled; after {stage.name} there "
                f"is {stage.activation}: take precision fp32 or fp16"
            )
    places = range(dense - 1, len(stages) - 1)
    bounds = _bounds(_rewritten(generator, {}), places, generator.spec)
    factors: dict[int, Tensor] = {}
    ranges: dict[int, tuple[float, float]] = {}
    for place in places:
        low, high = (bound[: stages[place].shape[0]] for bound in bounds[place])
        size = torch.maximum(-low, high)
        size = torch.where(size > 0, size, torch.ones_like(size))  # 1 of a channel that is always 0
        factor = size if place == places[-1] else size**_POWER
        # All by one number more, so that the largest value is 1 and the ones fit in.
        factor = _coarse(factor * (size / factor).max())
        least, largest = min(0.0, float((low / factor).min())), max(1.0, float((high / factor).max()))
        factors[place] = factor[:, None, None]
        ranges[place] = (math.floor(least * _GRID) / _GRID, math.ceil(largest * _GRID) / _GRID)
    balanced = _rewritten(generator, factors)
    balanced.ranges = ranges
    return balanced.float().eval().requires_grad_(False)


def _bounds(module: QuantizableGenerator, places: range, spec: GeneratorSpec) -> dict[int, tuple[Tensor, Tensor]]:
    """Smallest and largest value of each channel of stages over the calibration's latents, float64, by place."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for first in range(0, CALIBRATION, _CHUNK):
        x = torch.from_numpy(latents(CALIBRATION_SEED, first, _CHUNK, spec.latent_dim)).double()
        more = []
        if module.classes is not None:
            more.append(module.classes(torch.from_numpy(labels(CALIBRATION_SEED, first, _CHUNK, spec.num_classes))))
        for place, stage in enumerate(module.stages[: places[-1] + 1]):
            x = stage(x, *more) if place == 0 else stage(x)
            if place in places:
                low, high = found.get(place, (torch.inf, -torch.inf))
                low, high = torch.as_tensor(low, dtype=x.dtype), torch.as_tensor(high, dtype=x.dtype)
                found[place] = (torch.minimum(low, x.amin((0, 2, 3))), torch.maximum(high, x.amax((0, 2, 3))))
    return found


def _coarse(factor: Tensor) -> Tensor:
    """Factors rounded up to 8 bits: the last bits of a measurement are the machine's, and files are to be alike."""
    mantissa, exponent = torch.frexp(factor)
    return torch.ldexp(torch.ceil(mantissa * _GRID) / _GRID, exponent)


@torch.no_grad()
def _rewritten(generator: Generator, factors: dict[int, Tensor]) -> QuantizableGenerator:
    """Steps 1 to 3 of the module's docstring.

    Args:
        generator: to rewrite.
        factors: by stage, what its channels are divided by, float64, shape (C, 1, 1); 1 where there are none.
    """
    stages = stages_of(generator)
    after: dict[int, nn.Module] = {}
    ones = [False] * len(stages)
    for place, (stage, following) in enumerate(pairwise(stages)):
        factor = factors.get(place, torch.ones_like(stage.scale[:, :1, :1]))
        if isinstance(stage.product, Dense):
            if isinstance(following.product, Dense):
                following.add_input(stage.shift, stage.shape)
                following.multiply_input(stage.scale, stage.shape)
                continue
            computed = _finish_dense(stage, factor)
            if computed is not None:
                after[place] = computed
            following.multiply_input(factor, stage.shape)
            continue
        stage.multiply_output(stage.scale.abs() / factor)
        of_ones = None
        if following is stages[-1]:
            following.add_input(stage.shift, stage.shape)
        elif stage.shift.any():
            of_ones = following.product.weight * (
                stage.shift.unsqueeze(1) if isinstance(following.product, Transposed) else stage.shift
            )
        following.multiply_input(stage.scale.sign() * factor, stage.shape)
        if of_ones is not None:
            ones[place] = True
            _append_ones(stage, following, of_ones)
    return QuantizableGenerator(generator.spec, stages, after, ones).double()


def _finish_dense(stage: Stage, factor: Tensor) -> nn.Module | None:
    """Divide by a factor what a dense stage gives, its scale and shift included.

    Returns:
        What to compute in the place of the activation; None where that itself does.
    """
    scale, shift = (stage.scale / factor).expand(stage.shape), (stage.shift / factor).expand(stage.shape)
    if stage.is_homogeneous and not shift.any() and bool((scale > 0).all()):
        stage.multiply_output(scale)
        return None
    assert stage.activation is not None  # else the scale and shift are in the product already
    if stage.activation.name != "relu":
        return nn.Sequential(activation_module(stage.activation), Affine(scale, shift))
    stage.multiply_output(scale)
    stage.bias = stage.bias + shift
    low = torch.where(scale > 0, shift, -_UNBOUNDED)
    return Clamp(low, torch.where(scale < 0, shift, _UNBOUNDED) if bool((scale < 0).any()) else None)


def _append_ones(stage: Stage, following: Stage, of_ones: Tensor) -> None:
    """Let a stage give one more channel, of ones, and the following one add what it makes of the shift."""
    axis = 1 if isinstance(stage.product, Transposed) else 0
    weight = stage.product.weight
    stage.product.weight = torch.cat([weight, torch.zeros_like(weight.narrow(axis, 0, 1))], axis)
    stage.bias = torch.cat([stage.bias, torch.ones_like(stage.bias[:1])])
    stage.shape = (stage.shape[0] + 1, *stage.shape[1:])
    axis = 0 if isinstance(following.product, Transposed) else 1
    more = of_ones.sum(axis, keepdim=True)
    following.product.weight = torch.cat([following.product.weight, more], axis)


def quantize(model: ModelProto, module: QuantizableGenerator) -> None:
    """Round a `QuantizableGenerator` that was written as ONNX, in place.

    Args:
        model: float32, of any opset from 17 on.
        module: that it was written from.
    Raises:
        ExportError: an operator stands where no rule rounds it.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    last = len(module.stages) - 1
    roundings: dict[str, Rounding] = {}  # of values, by the name that they had
    raw: dict[str, int] = {}  # what a convolution gives, and the stage that it is of
    nodes: list[NodeProto] = []
    for node in list(graph.node):
        sources = list(node.input)
        node.input[:] = [f"{name}.rounded" if name in roundings else name for name in sources]
        (value,) = node.output
        place = _stage_of(node)
        rounded = [roundings[name] for name in sources if name in roundings]
        stage = next((raw[name] for name in sources if name in raw), None)
        if node.op_type == "Conv" and place is not None and place < last:
            if not rounded:  # what the dense stage gives
                rounding = _rounding(module.ranges[place - 1])
                nodes += _rounded_value(graph, sources[0], rounding)
                roundings[sources[0]] = rounding
                rounded = [rounding]
                node.input[0] = f"{sources[0]}.rounded"
            nodes += _rounded_weights(graph, weights, node, float(rounded[0].step), ones=module.ones[place - 1])
            raw[value] = place
        nodes.append(node)
        if value in raw:
            activation = module.activations[raw[value]]
            if activation is not None and activation.name == "relu":
                continue  # rounded after it
            low, high = module.ranges[raw[value]]
            slope = activation.parameter if activation is not None else 1.0
            roundings[value] = _rounding((math.floor(low / slope * _GRID) / _GRID, high))
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
    for name in [name for name in weights if name.endswith("product.weight") and len(weights[name].dims) == 2]:
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


def _rounded_weights(
    graph: GraphProto, weights: dict[str, TensorProto], node: NodeProto, step: float, ones: bool
) -> list[NodeProto]:
    """Make a convolution take 8-bit weights, a step for each output channel, and a 32-bit bias."""
    name = node.input[1]
    weight = numpy_helper.to_array(weights[name]).astype(np.float64)
    if len(node.input) < 3:  # torch's exporter leaves out a bias that is 0
        node.input.append("")
    stored = weights.get(node.input[2])
    bias = np.zeros(len(weight)) if stored is None else numpy_helper.to_array(stored).astype(np.float64)
    # A step is so large that the bias fits into 32 bits: beside such a bias the weights are as good as 0.
    levels, steps = _symmetric(weight, _WEIGHT_LEVELS, least=np.abs(bias) / (step * _BIAS_LEVELS))
    if ones:  # the last channel in is 1, or 0 past the border
        error = weight[:, -1] - levels[:, -1] * steps[:, None, None].astype(np.float64)
        bias = bias + error.sum((1, 2))
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


def _symmetric(weight: np.ndarray, levels: int, least: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Weights as int8 from -levels to levels, and the size of a step for each output, float32, shape (O,).

    Args:
        weight: float64, shape (O, ...).
        levels: the largest.
        least: that a step must be.
    """
    largest = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1) / levels, least)
    steps = np.where(largest > 0, largest, 1.0).astype(np.float32)
    scaled = weight / steps.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    return np.rint(scaled).clip(-levels, levels).astype(np.int8), steps


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
        transposed = any(attribute.name == "transB" and attribute.i for attribute in user.attribute)
        axis = 0 if transposed else 1
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
