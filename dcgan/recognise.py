"""Well-known generators, known by the names and shapes in their state dicts.

A state dict does not say everything: which activation, which eps, which stride. An entry of `LAYOUTS` fills in what the
code that it is named after does, and whatever it assumed is told to people and travels inside the artifact. The same
names exist with other activations in public code, so `--module`, which runs the network's own code, is the certain way.

To add a layout, write a function from shapes to layers and list it in `LAYOUTS`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from dcgan_infer.contract.errors import CheckpointError, SpecError
from dcgan_infer.contract.layers import (
    RELU,
    TANH,
    Activate,
    Activation,
    BatchNorm,
    Conv,
    ConvTranspose,
    Layer,
    Linear,
    Unflatten,
    Upsample,
    reference_layers,
    shapes_of,
)

# Names of tensors, and their shapes.
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

_CERTAIN = "--module FILE.py:NAME is the certain way"
_IMAGE_CHANNELS = 4  # at most: what ends in more is no generator of images


class AmbiguousError(CheckpointError):
    """A state dict looks like a known layout, but does not say enough."""


@dataclass(frozen=True)
class Layout:
    """A known layout.

    Attributes:
        name: short; it is recorded in artifacts.
        origin: whose code it is, for people.
        keys: what its names look like, for people.
        read: layers of a state dict with these shapes, and what was assumed beside the layers' own numbers; None if it
            is of another layout. Raises `AmbiguousError`.
    """

    name: str
    origin: str
    keys: str
    read: Callable[[Shapes], tuple[tuple[Layer, ...], dict[str, str]] | None]


@dataclass(frozen=True)
class Recognised:
    """A generator's layers, and how they were known.

    Attributes:
        layout: that it is of.
        layers: in order; their names are those of the state dict.
        inputs: features that go into the first layer.
        assumed: what the state dict does not say and nobody gave, by name.
        given: what the state dict does not say and somebody gave, by name.
    """

    layout: Layout
    layers: tuple[Layer, ...]
    inputs: int
    assumed: dict[str, str]
    given: dict[str, str]


def recognise(
    shapes: Shapes, activation: Activation | None = None, output: Activation | None = None, eps: float | None = None
) -> Recognised | None:
    """The layers behind a state dict, if its layout is known.

    Args:
        shapes: of the state dict's tensors, by name.
        activation: of the hidden layers; None takes that of the layout.
        output: the last layer's, tanh or sigmoid; None takes that of the layout.
        eps: of every BatchNorm; None takes those of the layout.
    Raises:
        AmbiguousError: the layout is known, and the state dict does not say enough.
    """
    for layout in LAYOUTS:
        found = layout.read(shapes)
        if found is None:
            continue
        layers, assumed = found
        given: dict[str, str] = {}
        for name, said, values in (
            ("activation", activation, [str(layer.function) for layer in layers[:-1] if isinstance(layer, Activate)]),
            ("eps", eps, [str(layer.eps) for layer in layers if isinstance(layer, BatchNorm)]),
            ("output", output, [str(layer.function) for layer in layers[-1:] if isinstance(layer, Activate)]),
        ):
            if said is not None:
                given[name] = str(said)
            elif values:
                assumed[name] = values[0] if len(set(values)) == 1 else ", ".join(values)
        layers = tuple(_as_said(layer, layer is layers[-1], activation, output, eps) for layer in layers)
        inputs = _inputs(layers)
        try:
            shapes_of(layers, inputs)
        except SpecError as error:
            raise AmbiguousError(f"it looks like {layout.origin}, but {error}; {_CERTAIN}") from None
        return Recognised(layout, layers, inputs, assumed, given)
    return None


def _as_said(
    layer: Layer, is_last: bool, activation: Activation | None, output: Activation | None, eps: float | None
) -> Layer:
    if isinstance(layer, BatchNorm) and eps is not None:
        return dataclasses.replace(layer, eps=eps)
    function = output if is_last else activation
    if isinstance(layer, Activate) and function is not None:
        return dataclasses.replace(layer, function=function)
    return layer


def _inputs(layers: tuple[Layer, ...]) -> int:
    first = layers[0]
    if isinstance(first, Linear):
        return first.inputs
    assert isinstance(first, Unflatten)
    return math.prod(first.shape)


def _norm(shapes: Shapes, name: str, features: int, eps: float = 1e-5) -> BatchNorm | None:
    """The BatchNorm of that name and width, if it is one.

    Raises:
        AmbiguousError: it keeps no running statistics.
    """
    affine, running = f"{name}.weight" in shapes, f"{name}.running_mean" in shapes
    if shapes.get(f"{name}.weight" if affine else f"{name}.running_mean") != (features,):
        return None
    if not running or f"{name}.running_var" not in shapes:
        raise AmbiguousError(
            f"{name} has no running statistics; a BatchNorm without them (track_running_stats=False) makes an image "
            f"depend on the others in its batch, and can't be exported; if it is another norm, {_CERTAIN}"
        )
    return BatchNorm(name, features, eps, affine)


def _kernel(shapes: Shapes, name: str) -> tuple[int, int, int, int]:
    """Shape of a convolution's weight; zeros if there is no such convolution."""
    shape = shapes.get(f"{name}.weight", ())
    return (shape[0], shape[1], shape[2], shape[3]) if len(shape) == 4 else (0, 0, 0, 0)


def _side(features: int, channels: int, layer: str) -> int:
    """Of square maps that have this many features."""
    side = math.isqrt(features // channels)
    if side * side * channels != features:
        raise AmbiguousError(
            f"{layer} gives {features} features, which are no {channels} square maps, and the state dict does not say "
            f"which sides they have; {_CERTAIN}"
        )
    return side


def _reference(shapes: Shapes) -> tuple[tuple[Layer, ...], dict[str, str]] | None:
    """The reference script: linear1, then decon1 to decon3; a BatchNorm after the activation of each."""
    linear = shapes.get("linear1.weight", ())
    kernels = [_kernel(shapes, f"decon{number}") for number in (1, 2, 3)]
    (first, second, *k1), (second_in, third, *k2), (third_in, image, *k3) = kernels
    if len(linear) != 2 or (k1, k2, k3) != ([3, 3], [4, 4], [4, 4]) or (second_in, third_in) != (second, third):
        return None
    features, inputs = linear
    side = 4 * _side(features, first, "linear1")
    for name, width in (("bn1", features), ("bn2", second), ("bn3", third)):
        if _norm(shapes, name, width) is None:
            return None
    layers = reference_layers(inputs, (image, side, side), (first, second, third), RELU)
    return layers, {"images": "square", "stride": "1, 2, 2", "padding": "1, 1, 1"}


# A name of a tensor in (nested) Sequentials: an attribute, numbers, and what the tensor is.
_NUMBERED = re.compile(
    r"(?P<prefix>(?:[^\W\d]\w*\.)?)(?P<numbers>\d+(?:\.\d+)*)\."
    r"(?P<tensor>weight|bias|running_mean|running_var|num_batches_tracked)"
)


def _pytorch_dcgan(shapes: Shapes) -> tuple[tuple[Layer, ...], dict[str, str]] | None:
    """PyTorch's DCGAN example and tutorial, and its many relatives: transposed convolutions in a Sequential.

    The first makes a map of its kernel's size from the latent; each of the others, with a 4x4 kernel, doubles the sides
    (stride 2, padding 1). Where a number is left out, there is a module without tensors: an activation.
    """
    matches = [match for match in map(_NUMBERED.fullmatch, shapes) if match]
    if not matches or len(matches) < len(shapes) or len({match["prefix"] for match in matches}) > 1:
        return None
    prefix = matches[0]["prefix"]
    places = sorted({tuple(map(int, match["numbers"].split("."))) for match in matches})
    modules = [_convolution_or_norm(shapes, prefix + ".".join(map(str, place))) for place in places]
    convolutions = [module for module in modules if isinstance(module, ConvTranspose)]
    if len(convolutions) < 2 or modules[0] is not convolutions[0] or modules[-1] is not convolutions[-1]:
        return None
    width = convolutions[0].inputs
    for module in modules:
        if module is None or width != (module.inputs if isinstance(module, ConvTranspose) else module.features):
            return None
        width = module.outputs if isinstance(module, ConvTranspose) else width
    for module in modules:
        if isinstance(module, BatchNorm) and _norm(shapes, module.name, module.features) is None:
            return None
    if width > _IMAGE_CHANNELS:
        return None
    if any(places[0]):
        raise AmbiguousError(f"a module without tensors lies before {convolutions[0].name}; {_CERTAIN}")
    layers: list[Layer] = [Unflatten("unflatten", (convolutions[0].inputs, 1, 1)), convolutions[0]]
    is_due = True  # an activation, since the last convolution
    for before, place, module in zip(places, places[1:], modules[1:], strict=False):
        assert module is not None
        missing, ends_block = _between(before, place)
        is_convolution = isinstance(module, ConvTranspose)
        if missing == 1 or (missing == 0 and ends_block and is_convolution and is_due):
            layers.append(Activate(prefix + ".".join(map(str, (*before[:-1], before[-1] + 1))), RELU))
            missing = 0 if is_due else missing
            is_due = False
        if missing or (is_convolution and is_due):
            raise AmbiguousError(
                f"{missing or 'no'} modules without tensors lie between {layers[-1].name} and {module.name}, where one "
                f"activation was expected; {_CERTAIN}"
            )
        if isinstance(module, ConvTranspose):
            if module.kernel != (4, 4):
                raise AmbiguousError(
                    f"the {module.kernel[0]}x{module.kernel[1]} kernel of {module.name} does not say its stride and "
                    f"padding (only of 4x4 kernels 2 and 1 are assumed); {_CERTAIN}"
                )
            module, is_due = dataclasses.replace(module, stride=(2, 2), padding=(1, 1)), True
        layers.append(module)
    last = places[-1]
    layers.append(Activate(prefix + ".".join(map(str, (*last[:-1], last[-1] + 1))), TANH))
    return tuple(layers), {"stride": "1, then 2", "padding": "0, then 1"}


def _convolution_or_norm(shapes: Shapes, name: str) -> ConvTranspose | BatchNorm | None:
    inputs, outputs, *kernel = _kernel(shapes, name)
    if inputs:
        return ConvTranspose(name, inputs, outputs, (kernel[0], kernel[1]), bias=f"{name}.bias" in shapes)
    (features, *others) = shapes.get(f"{name}.weight", shapes.get(f"{name}.running_mean", ())) or (0,)
    is_norm = features and not others and (f"{name}.running_mean" in shapes or f"{name}.bias" in shapes)
    return BatchNorm(name, features, affine=f"{name}.weight" in shapes) if is_norm else None


def _between(before: tuple[int, ...], place: tuple[int, ...]) -> tuple[int, bool]:
    """Numbers left out between two places of nested Sequentials, and whether a block ends, which may hide one more."""
    level = next(index for index, (one, two) in enumerate(zip(before, place, strict=False)) if one != two)
    return place[level] - before[level] - 1 + sum(place[level + 1 :]), len(before) > level + 1


def _pytorch_gan(shapes: Shapes) -> tuple[tuple[Layer, ...], dict[str, str]] | None:
    """PyTorch-GAN's dcgan.py: a linear layer, and three convolutions with two nearest upsamplings before them."""
    blocks = next((name for name in ("conv_blocks", "conv_model") if f"{name}.9.weight" in shapes), "")
    linear = shapes.get("l1.0.weight", ())
    kernels = [_kernel(shapes, f"{blocks}.{number}") for number in (2, 6, 9)]
    (first_out, first, *k1), (second_out, second_in, *k2), (image, third_in, *k3) = kernels
    if len(linear) != 2 or (k1, k2, k3) != ([3, 3], [3, 3], [3, 3]) or (second_in, third_in) != (first_out, second_out):
        return None
    if image > _IMAGE_CHANNELS:
        return None
    if any(name.startswith("label_emb.") for name in shapes):
        raise AmbiguousError(
            "it has the names of PyTorch-GAN's acgan.py, whose labels go in, and of its sgan.py, whose labels do not; "
            f"{_CERTAIN}"
        )
    features, inputs = linear
    side = _side(features, first, "l1.0")
    # 0.8 stands where eps does: nn.BatchNorm2d(128, 0.8), in all of PyTorch-GAN.
    norms = [
        _norm(shapes, f"{blocks}.{number}", width, eps)
        for number, width, eps in ((0, first, 1e-5), (3, first_out, 0.8), (7, second_out, 0.8))
    ]
    if norms[0] is None or norms[1] is None or norms[2] is None:
        return None
    leaky = Activation("leaky-relu", 0.2)

    def conv(number: int, inputs: int, outputs: int) -> Conv:
        name = f"{blocks}.{number}"
        return Conv(name, inputs, outputs, (3, 3), (1, 1), (1, 1), bias=f"{name}.bias" in shapes)

    layers = (
        Linear("l1.0", inputs, features, bias="l1.0.bias" in shapes),
        Unflatten("unflatten", (first, side, side)),
        norms[0],
        Upsample(f"{blocks}.1", (2, 2)),
        conv(2, first, first_out),
        norms[1],
        Activate(f"{blocks}.4", leaky),
        Upsample(f"{blocks}.5", (2, 2)),
        conv(6, first_out, second_out),
        norms[2],
        Activate(f"{blocks}.8", leaky),
        conv(9, second_out, image),
        Activate(f"{blocks}.10", TANH),
    )
    return layers, {"images": "square", "upsampling": "nearest, 2"}


LAYOUTS = (
    Layout("reference", "the reference script's generator", "linear1, bn1, decon1 ... decon3", _reference),
    Layout("pytorch-gan-dcgan", "PyTorch-GAN's dcgan.py", "l1.0, conv_blocks.0 ... conv_blocks.9", _pytorch_gan),
    Layout("pytorch-dcgan", "PyTorch's DCGAN example", "main.0, main.1, main.3 ...", _pytorch_dcgan),
)


def unknown(names: list[str]) -> str:
    """What to say of a state dict whose layout is not known."""
    found = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or "nothing"
    known = "; ".join(f"{layout.origin} ({layout.keys})" for layout in LAYOUTS)
    return f"no generator of a known layout: found {found}; known are {known}; for any other network {_CERTAIN}"
