"""Smaller numbers: int8 arithmetic and half-size weights, for ONNX.

`int8` (Jacob et al. 2018, arXiv:1712.05877): the convolutions, 94 % of the multiply-adds, take 8-bit activations and
7-bit weights, and stand between QuantizeLinear and DequantizeLinear as runtimes expect it. The fused form alone would
not do: what it adds between a convolution and its activation, a map, would have to be rounded once more. So the
generator is first rewritten, by exact algebra, into a form in which nothing stands there:

1. `bn1`, whose scale and shift differ from feature to feature, becomes max(s y + t, t), or min where s is negative:
   s moves into `linear1`, which stays in float32, and t is in the activation when it is rounded.
2. The shift of `bn2` is the same all over a feature map. A convolution of a map of ones, padded with zeros like the
   others, adds it, borders included: `linear1` makes that map as one more channel.
3. Each channel of an activation is divided by a power of its own range, and the next layer multiplies by it, so that
   small channels are not lost in the range of the largest (after Nagel et al. 2019, arXiv:1906.04721, section 4.1).
   That is free for ReLU, which lets positive factors through.
4. The ones meet weights that are larger than others, so what their rounding adds is taken off the bias (section 4.2).

Weights have 7 bits because processors without VNNI add two products in 16 bits, which 8-bit weights can overflow
(onnxruntime's documentation calls it reduce_range): with 7, every processor computes the same numbers. Ranges are the
smallest and largest value over `CALIBRATION` seeded latents; cutting them at a quantile made the mean error smaller and
the worst pixels far worse. docs/export.md has the figures behind each choice.

`fp16` stores the large weights in half the bits, and casts them back: runtimes do that once, when they load the file.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from dcgan.networks import Generator, check_label
from dcgan_infer.contract.errors import ExportError
from dcgan_infer.contract.latents import labels, latents
from dcgan_infer.contract.spec import GeneratorSpec

from .fuse import PHASE_TAPS, Interleave, scale_and_shift

CALIBRATION, CALIBRATION_SEED = 1024, 1  # latents; parity has others
_CHUNK = 128  # of them at a time, for memory
_GRID = 256.0  # ranges are multiples of 1 / 256
_POWER = 0.5  # of a channel's range that it is divided by
_WEIGHT_LEVELS = 63  # 7 bits, symmetric
_LAYER_LEVELS = 127  # 8 bits, symmetric, of what is only stored so: linear1's weights, and the classes'
_CARRIERS = ("Relu", "Slice", "Concat", "Transpose", "Reshape")  # they round to what they are given
_UNBOUNDED = float(torch.finfo(torch.float32).max)
_BIAS_LEVELS = float(1 << 30)
_LARGE = 1024  # numbers that a tensor must have to be worth storing in half the bits


class QuantizableGenerator(nn.Module):
    """What `quantizable` makes: takes and gives what `dcgan.networks.Generator` does.

    Args:
        spec: sizes; its activation is ReLU.
        two_sided: whether features of `linear1` are bounded above too.

    Attributes:
        ranges: smallest and largest value of what goes into `conv1`, into the four `conv2`, and into `decon3`.
    """

    def __init__(self, spec: GeneratorSpec, two_sided: bool) -> None:
        super().__init__()
        first, second, third = spec.channels
        image, height, width = spec.image_shape
        side = spec.base_side
        self.num_classes = spec.num_classes
        self.first = first
        self.two_sided = two_sided
        self.ranges: list[tuple[float, float]] = []
        features = (first + 1) * side * side  # the last channel is 1 everywhere
        self.linear1 = nn.Linear(spec.latent_dim, features)
        self.classes = nn.Embedding(spec.num_classes, features) if spec.num_classes else None
        self.register_buffer("low", torch.zeros(first + 1, side, side))
        self.register_buffer("high", torch.zeros(first + 1, side, side))
        self.unflatten = nn.Unflatten(1, (first + 1, side, side))
        self.conv1 = nn.Conv2d(first + 1, second, kernel_size=3, padding=1)
        self.conv2 = nn.ModuleList(nn.Conv2d(second + 1, third, kernel_size=2) for _ in PHASE_TAPS)
        self.merge = Interleave()
        self.decon3 = nn.ConvTranspose2d(third, image, kernel_size=4, stride=2, padding=1, bias=False)
        self.register_buffer("map3", torch.zeros(image, height, width))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images of latents; arguments, result and errors are those of `Generator.forward`."""
        return self.stages(z, label)[-1]

    def stages(self, z: Tensor, label: Tensor | None = None) -> list[Tensor]:
        """What goes into `conv1`, into `conv2` and into `decon3`, and the images."""
        check_label(label, self.num_classes)
        first = self.unflatten(self.linear1(z))  # (N, 257, 7, 7)
        if self.classes is not None and label is not None:
            first = first + self.unflatten(self.classes(label))
        first = torch.maximum(first, self.get_buffer("low"))
        if self.two_sided:
            first = torch.minimum(first, self.get_buffer("high"))
        x = F.relu(self.conv1(first))  # (N, 128, 7, 7)
        second = torch.cat([x, first[:, self.first :]], 1)  # (N, 129, 7, 7)
        phases = [
            F.relu(convolution(F.pad(second, [1 - column, column, 1 - row, row])))
            for convolution, (row, column) in zip(self.conv2, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True)
        ]  # (N, 64, 7, 7) each
        third = self.merge(phases)  # (N, 64, 14, 14)
        image = torch.tanh(self.decon3(third) + self.get_buffer("map3"))  # (N, 1, 28, 28)
        return [first, second, third, image]


@torch.no_grad()
def quantizable(generator: Generator) -> QuantizableGenerator:
    """Rewrite a generator into the form that `quantize` takes, still in float32 and the same function up to rounding.

    Args:
        generator: with finite weights and ReLU. Not changed.
    Returns:
        A module in eval mode, on the CPU, with its `ranges` measured.
    Raises:
        ExportError: its activation is another one.
    """
    spec = generator.spec
    if spec.activation.name != "relu":
        raise ExportError(
            f"int8 is for generators with ReLU, which is free in an 8-bit convolution; this one has {spec.activation}, "
            "which would be rounded once more and computed in float32: take --precision fp32 or fp16"
        )
    exact = copy.deepcopy(generator).eval().cpu().double()
    ones = [torch.ones(channels, dtype=torch.float64) for channels in spec.channels]
    bounds = _bounds(_rewritten(exact, ones), spec)
    # The largest value of each channel; 1 of a channel that is always 0.
    sizes = [torch.maximum(-low, high)[:channels] for (low, high), channels in zip(bounds, spec.channels, strict=True)]
    sizes = [torch.where(size > 0, size, torch.ones_like(size)) for size in sizes]
    # What a channel is divided by; then all by one number, so that the largest value is 1 and the ones fit in.
    factors = [size**power for size, power in zip(sizes, (_POWER, _POWER, 1.0), strict=True)]
    factors = [_coarse(factor * (size / factor).max()) for size, factor in zip(sizes, factors, strict=True)]
    balanced = _rewritten(exact, factors)
    for low, high in _bounds(balanced, spec):
        least, largest = min(0.0, float(low.min())), max(1.0, float(high.max()))
        balanced.ranges.append((math.floor(least * _GRID) / _GRID, math.ceil(largest * _GRID) / _GRID))
    return balanced.float().eval().requires_grad_(False)


def _bounds(module: QuantizableGenerator, spec: GeneratorSpec) -> list[tuple[Tensor, Tensor]]:
    """Smallest and largest value of each channel of the three activations over the calibration's latents, float64."""
    found: list[tuple[Tensor, Tensor]] = []
    for first in range(0, CALIBRATION, _CHUNK):
        inputs = [torch.from_numpy(latents(CALIBRATION_SEED, first, _CHUNK, spec.latent_dim)).double()]
        if spec.num_classes:
            inputs.append(torch.from_numpy(labels(CALIBRATION_SEED, first, _CHUNK, spec.num_classes)))
        new = [(stage.amin((0, 2, 3)), stage.amax((0, 2, 3))) for stage in module.stages(*inputs)[:3]]
        old = found or new
        found = [
            (torch.minimum(low, lower), torch.maximum(high, higher))
            for (low, high), (lower, higher) in zip(old, new, strict=True)
        ]
    return found


def _coarse(factor: Tensor) -> Tensor:
    """Factors rounded up to 8 bits: the last bits of a measurement are the machine's, and files are to be alike."""
    mantissa, exponent = torch.frexp(factor)
    return torch.ldexp(torch.ceil(mantissa * _GRID) / _GRID, exponent)


@torch.no_grad()
def _rewritten(exact: Generator, factors: list[Tensor]) -> QuantizableGenerator:
    """Steps 1 to 3 of the module's docstring.

    Args:
        exact: float64, in eval mode.
        factors: that the channels of the three activations are divided by, float64, shape (C,) each.
    """
    spec = exact.spec
    first, side = spec.channels[0], spec.base_side
    features = first * side * side
    (scale1, shift1), (scale2, shift2), (scale3, shift3) = (
        scale_and_shift(bn) for bn in (exact.bn1, exact.bn2, exact.bn3)
    )
    new = QuantizableGenerator(spec, two_sided=bool((scale1 < 0).any())).double()

    divisor = factors[0].repeat_interleave(side * side)
    new.linear1.weight.zero_()  # of the ones: no weight, and a bias of 1
    weight = exact.linear1.weight * (scale1 / divisor)[:, None]
    new.linear1.weight[:features] = weight[:, : spec.latent_dim]
    if new.classes is not None:
        new.classes.weight.zero_()
        new.classes.weight[:, :features] = weight[:, spec.latent_dim :].T
    new.linear1.bias.fill_(1.0)
    new.linear1.bias[:features] = (exact.linear1.bias * scale1 + shift1) / divisor
    for name, bounded, unbounded in (("low", scale1 > 0, -_UNBOUNDED), ("high", scale1 < 0, _UNBOUNDED)):
        bound = new.get_buffer(name)
        bound.fill_(unbounded)
        bound[:first] = torch.where(bounded, shift1 / divisor, unbounded).reshape(first, side, side)

    # A positive factor moves through ReLU into the layer before; a sign and a shift move on into the layer after.
    back = scale2.abs() / factors[1]
    weight = exact.decon1.weight * factors[0][:, None, None, None] * back[:, None, None]
    new.conv1.weight.zero_()
    new.conv1.weight[:, :first] = weight.flip(2, 3).transpose(0, 1)
    new.conv1.bias.copy_(exact.decon1.bias * back)  # type: ignore[union-attr,operator]

    weight = exact.decon2.weight * (scale3.abs() / factors[2])[:, None, None]
    of_ones = (weight * shift2[:, None, None, None]).sum(0, keepdim=True)
    weight = torch.cat([weight * (scale2.sign() * factors[1])[:, None, None, None], of_ones])
    kernel = weight.transpose(0, 1)  # (third, second + 1, 4, 4)
    for convolution, (rows, columns) in zip(new.conv2, PHASE_TAPS, strict=True):
        convolution.weight.copy_(kernel[:, :, rows][:, :, :, columns])  # type: ignore[operator]
        convolution.bias.copy_(exact.decon2.bias * scale3.abs() / factors[2])  # type: ignore[operator]

    third_shift = shift3[:, None, None].expand(-1, 2 * side, 2 * side)
    new.decon3.weight.copy_(exact.decon3.weight * (scale3.sign() * factors[2])[:, None, None, None])
    new.get_buffer("map3").copy_(exact.decon3(third_shift[None])[0])
    return new


def quantize(model: ModelProto, ranges: list[tuple[float, float]]) -> None:
    """Round a `QuantizableGenerator` that was written as ONNX, in place.

    Args:
        model: float32, of any opset from 17 on.
        ranges: of the module.
    Raises:
        ExportError: the model has another form, and nothing would have been rounded.
    """
    graph = model.graph
    steps = [_step(low, high) for low, high in ranges]
    weights = {tensor.name: tensor for tensor in graph.initializer}
    kinds = [node.op_type for node in graph.node]
    if kinds.count("Conv") != 1 + len(PHASE_TAPS) or kinds.count("ConvTranspose") != 1:
        raise ExportError(f"int8 would change nothing in a graph of {kinds}; export the fused form")
    rounded: dict[str, str] = {}  # values, by the name that their rounded version has
    nodes: list[NodeProto] = []
    convolutions = 0
    inside = False  # between the first convolution's input and the last layer's
    first = graph.node[kinds.index("Conv")].input[0]
    for node in list(graph.node):
        node.input[:] = [rounded.get(name, name) for name in node.input]
        if node.op_type == "ConvTranspose":
            inside = False
        if node.op_type == "Conv":
            step = steps[min(convolutions, 1)]
            nodes += _rounded_weights(graph, weights, node, float(step[0]), ones=convolutions > 0)
            convolutions += 1
            inside = True
        elif inside and node.op_type not in _CARRIERS:
            raise ExportError(f"int8 is not made for {node.op_type} between convolutions; export the fused form")
        nodes.append(node)
        (value,) = node.output
        if value == first or (inside and node.op_type != "Conv"):
            nodes += _rounded_value(graph, value, *steps[min(convolutions, 2)])
            rounded[value] = f"{value}.rounded"
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    _store_rounded(graph, "linear1.weight", axis=0)
    if "classes.weight" in weights:
        _store_rounded(graph, "classes.weight", axis=1)
    _drop_unused(graph)


def _step(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Size of a step, and the level of 0, of 256 levels from `low` <= 0 to `high` > 0."""
    step = (high - low) / 255
    return np.float32(step), np.uint8(round(-low / step))


def _add(graph: GraphProto, name: str, array: np.ndarray | np.generic) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return name


def _rounded_value(graph: GraphProto, value: str, step: np.float32, zero: np.uint8) -> list[NodeProto]:
    names = [_add(graph, f"{value}.step", step), _add(graph, f"{value}.zero", zero)]
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


def _store_rounded(graph: GraphProto, name: str, axis: int) -> None:
    """Store weights, shape (A, B), in 8 bits, with a step for each feature, which are the rows or columns by `axis`.

    A Cast and a Mul make floats of them: those runtimes do once, at load.
    """
    tensor = next(each for each in graph.initializer if each.name == name)
    user = next(node for node in graph.node if name in node.input)
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
