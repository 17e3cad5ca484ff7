"""The layers of a generator, as data: what an `nn.Sequential` would hold, each with its numbers and its name.

Whatever trains, recognises, fuses, quantizes or counts a generator reads this list, so networks differ in data only.
A layer's name is the prefix of its tensors in a state dict: `linear1` has `linear1.weight`. Standard library only.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from .errors import SpecError

Pair: TypeAlias = tuple[int, int]  # of rows, of columns
# (features,), or (channels, height, width)
Shape: TypeAlias = tuple[int, ...]

LARGEST = 1 << 16  # of any size; what is larger is no generator, and would exhaust the memory
_LONGEST_NAME = 200
_MOST_LAYERS = 1000

# The activations that hidden layers have, with the parameter each one takes and PyTorch's default for it.
ACTIVATIONS: dict[str, tuple[str, float] | None] = {
    "relu": None,
    "leaky-relu": ("negative slope", 0.01),
    "elu": ("alpha", 1.0),
    "softplus": ("beta", 1.0),
    "silu": None,
    "gelu": None,
}
# Those that end a generator, with the range of their values.
OUTPUTS: dict[str, tuple[float, float]] = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}


@dataclass(frozen=True)
class Activation:
    """An activation function, written `NAME` or `NAME:PARAMETER` (`leaky-relu:0.2`).

    Attributes:
        name: one of `ACTIVATIONS` or `OUTPUTS`.
        parameter: negative slope of leaky-relu, alpha of elu, beta of softplus; 0.0 for those that take none.
    """

    name: str
    parameter: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ACTIVATIONS and self.name not in OUTPUTS:
            raise SpecError(f"unknown activation {self.name!r}; choose from {', '.join((*ACTIVATIONS, *OUTPUTS))}")
        takes = ACTIVATIONS.get(self.name)
        if takes is None and self.parameter != 0.0:
            raise SpecError(f"activation {self.name} takes no parameter, found {self.parameter:g}")
        if takes is not None and not (math.isfinite(self.parameter) and self.parameter > 0.0):
            raise SpecError(f"the {takes[0]} of {self.name} must be a finite number above 0, found {self.parameter:g}")

    @classmethod
    def parse(cls, text: str) -> Activation:
        """Read `NAME` or `NAME:PARAMETER`; a missing parameter is PyTorch's default.

        Raises:
            SpecError: the name is unknown, or the parameter is not a number that the activation takes.
        """
        name, colon, number = text.partition(":")
        if not colon:
            takes = ACTIVATIONS.get(name)
            return cls(name, takes[1] if takes else 0.0)
        try:
            return cls(name, float(number))
        except ValueError as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError(
                f"the parameter of activation {text!r} is not a number; write it like leaky-relu:0.2"
            ) from None

    def __str__(self) -> str:
        # repr gives a number's shortest digits that read back as the same number.
        return f"{self.name}:{self.parameter!r}".removesuffix(".0") if ACTIVATIONS.get(self.name) else self.name


RELU, TANH, SIGMOID = Activation("relu"), Activation("tanh"), Activation("sigmoid")


@dataclass(frozen=True)
class Linear:
    """`nn.Linear`."""

    name: str
    inputs: int
    outputs: int
    bias: bool = True

    def shape_after(self, shape: Shape) -> Shape:
        _expect(self, shape == (self.inputs,), shape, f"({self.inputs},)")
        return (self.outputs,)

    def multiply_adds(self, shape: Shape) -> int:  # noqa: ARG002  as its peers take it
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Unflatten:
    """`nn.Unflatten(1, shape)`, or a view of features as (channels, height, width)."""

    name: str
    shape: tuple[int, int, int]

    def shape_after(self, shape: Shape) -> Shape:
        _expect(self, shape == (math.prod(self.shape),), shape, f"({math.prod(self.shape)},)")
        return self.shape


@dataclass(frozen=True)
class ConvTranspose:
    """`nn.ConvTranspose2d`, one group, no dilation."""

    name: str
    inputs: int
    outputs: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    bias: bool = True

    def shape_after(self, shape: Shape) -> Shape:
        _expect(self, len(shape) == 3 and shape[0] == self.inputs, shape, f"({self.inputs}, height, width)")
        sides = zip(shape[1:], self.kernel, self.stride, self.padding, self.output_padding, strict=True)
        return self.outputs, *((side - 1) * s - 2 * p + k + o for side, k, s, p, o in sides)

    def multiply_adds(self, shape: Shape) -> int:
        # Each pixel of the input meets the whole kernel, those at the border too.
        return math.prod(shape) * self.outputs * math.prod(self.kernel)


@dataclass(frozen=True)
class Conv:
    """`nn.Conv2d`, one group, no dilation, padded with zeros."""

    name: str
    inputs: int
    outputs: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    bias: bool = True

    def shape_after(self, shape: Shape) -> Shape:
        _expect(self, len(shape) == 3 and shape[0] == self.inputs, shape, f"({self.inputs}, height, width)")
        sides = zip(shape[1:], self.kernel, self.stride, self.padding, strict=True)
        return self.outputs, *((side + 2 * p - k) // s + 1 for side, k, s, p in sides)

    def multiply_adds(self, shape: Shape) -> int:
        return math.prod(self.shape_after(shape)) * self.inputs * math.prod(self.kernel)


@dataclass(frozen=True)
class Upsample:
    """`nn.Upsample(scale_factor, mode="nearest")`: each pixel becomes a block of equal ones."""

    name: str
    factor: Pair

    def shape_after(self, shape: Shape) -> Shape:
        _expect(self, len(shape) == 3, shape, "(channels, height, width)")
        return shape[0], shape[1] * self.factor[0], shape[2] * self.factor[1]


@dataclass(frozen=True)
class BatchNorm:
    """`nn.BatchNorm1d` or `nn.BatchNorm2d` with running statistics, as in eval mode."""

    name: str
    features: int
    eps: float = 1e-5  # PyTorch's default
    affine: bool = True

    def shape_after(self, shape: Shape) -> Shape:
        _expect(self, shape[0] == self.features, shape, f"({self.features}, ...)")
        return shape


@dataclass(frozen=True)
class Activate:
    """An activation function on every value."""

    name: str
    function: Activation

    def shape_after(self, shape: Shape) -> Shape:
        return shape


Layer: TypeAlias = Linear | Unflatten | ConvTranspose | Conv | Upsample | BatchNorm | Activate
KINDS: dict[str, type[Layer]] = {
    "linear": Linear,
    "unflatten": Unflatten,
    "conv-transpose": ConvTranspose,
    "conv": Conv,
    "upsample": Upsample,
    "batch-norm": BatchNorm,
    "activation": Activate,
}
_KIND_OF = {cls: kind for kind, cls in KINDS.items()}


def shapes_of(layers: tuple[Layer, ...], inputs: int) -> list[Shape]:
    """Shapes of one image's values: what goes into the first layer, and what comes out of each.

    Args:
        layers: in order.
        inputs: features that go into the first one: the latent, and of a conditional generator the one-hot class.
    Raises:
        SpecError: a layer does not fit the one before it.
    """
    found: list[Shape] = [(inputs,)]
    for layer in layers:
        shape = layer.shape_after(found[-1])
        if any(not 0 < size <= LARGEST for size in shape[1:]) or not 0 < math.prod(shape) <= LARGEST**2:
            raise SpecError(f"layer {layer.name} would give the shape {shape}")
        found.append(shape)
    return found


def multiply_adds(layers: tuple[Layer, ...], inputs: int) -> int:
    """Multiplications, each with its addition, that the layers need for one image as they stand.

    What is left out (biases, BatchNorm, activations) is less than a hundredth.
    """
    shapes = shapes_of(layers, inputs)
    return sum(
        layer.multiply_adds(shape)
        for layer, shape in zip(layers, shapes, strict=False)
        if isinstance(layer, Linear | ConvTranspose | Conv)
    )


def reference_layers(
    inputs: int, image_shape: tuple[int, int, int], channels: tuple[int, int, int], activation: Activation
) -> tuple[Layer, ...]:
    """The generator of the reference script, with its attribute names.

    The activation comes before the BatchNorm, and the first BatchNorm is over single features.

    Args:
        inputs: the latent's length, and of a conditional generator the number of classes more.
        image_shape: (channels, height, width); 4 divides height and width.
        channels: feature maps after `linear1`, `decon1` and `decon2`.
        activation: of the three hidden layers.
    Raises:
        SpecError: 4 does not divide a side.
    """
    image, height, width = image_shape
    first, second, third = channels
    if height % 4 or width % 4:
        raise SpecError(f"4 must divide the sides of this generator's images, found {height}x{width}")
    rows, columns = height // 4, width // 4
    features = first * rows * columns
    return (
        Linear("linear1", inputs, features),  # 12544 by default
        Activate("activation1", activation),
        BatchNorm("bn1", features),
        Unflatten("unflatten", (first, rows, columns)),  # 256, 7, 7
        ConvTranspose("decon1", first, second, (3, 3), (1, 1), (1, 1)),  # 128, 7, 7
        Activate("activation2", activation),
        BatchNorm("bn2", second),
        ConvTranspose("decon2", second, third, (4, 4), (2, 2), (1, 1)),  # 64, 14, 14
        Activate("activation3", activation),
        BatchNorm("bn3", third),
        ConvTranspose("decon3", third, image, (4, 4), (2, 2), (1, 1)),  # 1, 28, 28
        Activate("tanh", TANH),
    )


def doublings(side: int) -> int:
    """How often 4, 5, 6 or 7 is doubled to give a side.

    Raises:
        SpecError: it is none of them times a power of two, or less than 8.
    """
    times = max(side.bit_length() - 3, 0)
    if times == 0 or side % (1 << times):
        raise SpecError(f"{side} is not 4 to 7 times a power of two")
    return times


def nearest_sizes(side: int) -> str:
    """The sides below and above one that `doublings` refuses, for messages."""
    possible = sorted({base << times for base in range(4, 8) for times in range(1, 7)})
    below, above = [each for each in possible if each < side], [each for each in possible if each > side]
    return " and ".join(map(str, below[-1:] + above[:1]))


def dcgan_layers(inputs: int, image_shape: tuple[int, int, int], ngf: int, activation: Activation) -> tuple[Layer, ...]:
    """The generator of PyTorch's DCGAN example, with the names of its state dict.

    The example makes images of 64x64. Here the first map has a side of 4 to 7, and as many layers
    double it as it takes.

    Args:
        inputs: the latent's length, and of a conditional generator the number of classes more.
        image_shape: (channels, side, side).
        ngf: feature maps before the last layer; each layer before has twice as many, up to 8 times.
        activation: of the hidden layers.
    Raises:
        SpecError: the images are not square, or their side is not 4 to 7 times a power of two.
    """
    image, height, width = image_shape
    if height != width:
        raise SpecError(f"this generator's images are square, not {height}x{width}")
    times = doublings(height)
    widths = [ngf * min(1 << left, 8) for left in reversed(range(times))]
    kernel, stride, padding = height >> times, 1, 0
    layers: list[Layer] = [Unflatten("unflatten", (inputs, 1, 1))]
    for number, maps in enumerate(widths):
        sizes = ((kernel, kernel), (stride, stride), (padding, padding))
        layers += [
            ConvTranspose(f"main.{3 * number}", inputs, maps, *sizes, bias=False),
            BatchNorm(f"main.{3 * number + 1}", maps),
            Activate(f"main.{3 * number + 2}", activation),
        ]
        inputs, kernel, stride, padding = maps, 4, 2, 1
    last = 3 * len(widths)
    layers.append(ConvTranspose(f"main.{last}", inputs, image, (4, 4), (2, 2), (1, 1), bias=False))
    return *layers, Activate(f"main.{last + 1}", TANH)


def to_jsonable(layer: Layer) -> dict[str, Any]:
    """A layer as JSON-able values, with its kind."""
    fields = {
        field.name: str(value) if isinstance(value := getattr(layer, field.name), Activation) else value
        for field in dataclasses.fields(layer)
    }
    return {"kind": _KIND_OF[type(layer)], **fields}


def from_jsonable(entries: Any) -> tuple[Layer, ...]:
    """Read a list of what `to_jsonable` gives.

    Raises:
        SpecError: it holds anything else.
    """
    if not isinstance(entries, list) or len(entries) > _MOST_LAYERS:
        raise SpecError(f"layers should be a list of at most {_MOST_LAYERS}")
    layers = tuple(map(_from_jsonable, entries))
    if len({layer.name for layer in layers}) < len(layers):
        raise SpecError("two layers have the same name")
    return layers


def _from_jsonable(entry: Any) -> Layer:
    try:
        values = dict(entry)
        cls = KINDS[values.pop("kind")]
    except (TypeError, ValueError, KeyError, AttributeError):
        raise SpecError(f"unknown layer {str(entry)[:80]}; this version knows {', '.join(KINDS)}") from None
    types = {field.name: field.type for field in dataclasses.fields(cls)}
    if values.keys() != types.keys():
        raise SpecError(f"a layer should have the fields {', '.join(types)}; found {', '.join(map(str, values))[:200]}")
    return cls(**{name: _read(types[name], name, value) for name, value in values.items()})


def _read(kind: Any, name: str, value: Any) -> Any:
    """A field's value, of the type that its annotation says."""
    if kind == "Activation" and isinstance(value, str):
        return Activation.parse(value)
    if kind == "str" and isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable():
        return value
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "float" and type(value) in (int, float) and 0.0 < value < 1e6:
        return float(value)
    if kind == "int" and type(value) is int and 0 < value <= LARGEST * LARGEST:
        return value
    if (
        kind in ("Pair", "tuple[int, int, int]")
        and isinstance(value, list)
        and len(value) == (2 if kind == "Pair" else 3)
    ):
        least = 0 if name in ("padding", "output_padding") else 1
        if all(type(size) is int and least <= size <= LARGEST for size in value):
            return tuple(value)
    raise SpecError(f"a layer's {name} can't be {str(value)[:80]!r}")


def _expect(layer: Layer, fits: bool, found: Shape, expected: str) -> None:
    if not fits:
        raise SpecError(f"layer {layer.name} takes {expected}, and the layer before it gives {found}")
