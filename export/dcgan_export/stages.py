"""The normal form of a generator: stages, each a product, an activation, and a scale and shift, in float64.

One walk over the layers folds away what is not one of these. A BatchNorm is s x + t in eval mode: before the activation
it goes into the product, after it, it stays as the stage's scale and shift, and fuse.py and quantizable.py move it on.
Three rules turn every product into one of three kinds:

- A convolution of one-pixel maps is a dense layer.
- Nearest upsampling by f and then a convolution (kernel k, padding p, stride 1) is a transposed convolution of stride
  f, whose kernel of k + f - 1 sums those taps that meet the same pixel; its padding is k - 1 - p. With f = 1 it is the
  convolution itself with its kernel turned by 180 degrees (Dumoulin and Visin 2016, arXiv:1603.07285, section 4).
- A transposed convolution of stride s is s convolutions a side, one for each remainder r of the output's place: phase r
  takes the taps t with (r + p - t) mod s = 0, tap t from the input pixel (r + p - t) / s further on (Shi et al. 2016,
  arXiv:1609.07009). `phases_of` is that formula; a phase may have no taps, and padding may be negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from dcgan.networks import Generator
from dcgan_infer.contract.errors import ExportError
from dcgan_infer.contract.layers import (
    Activate,
    Activation,
    BatchNorm,
    Conv,
    ConvTranspose,
    Linear,
    Pair,
    Unflatten,
    Upsample,
    shapes_of,
)

HOMOGENEOUS = ("relu", "leaky-relu")  # a(s y) = s a(y) for s >= 0


class UnfusableError(ExportError):
    """The layers stand in an order that has no normal form; the generator is exported as it is."""


@dataclass
class Dense:
    """Every output is a sum over all inputs.

    Attributes:
        weight: shape (outputs, inputs).
    """

    weight: Tensor


@dataclass
class Transposed:
    """A transposed convolution.

    Attributes:
        weight: shape (inputs, outputs, rows, columns).
        stride: of rows and columns.
        padding: rows and columns cut off at the top and left; those at the other end follow from `output`.
        output: height and width of what comes out.
    """

    weight: Tensor
    stride: Pair
    padding: Pair
    output: Pair


@dataclass
class Strided:
    """A convolution that takes every second pixel or fewer.

    Attributes:
        weight: shape (outputs, inputs, rows, columns).
        stride: of rows and columns.
        padding: of rows and columns, at all ends.
    """

    weight: Tensor
    stride: Pair
    padding: Pair


Product: TypeAlias = Dense | Transposed | Strided


@dataclass
class Stage:
    """scale * activation(product(x) + bias) + shift.

    Attributes:
        name: of the layer that the product is from.
        product: of its input.
        bias: shape (C, 1, 1) or (C, H, W).
        shape: (C, H, W) of what comes out; features are channels of one pixel.
        activation: None for none.
        scale: shape (C, 1, 1) or (C, H, W).
        shift: likewise.
    """

    name: str
    product: Product
    bias: Tensor
    shape: tuple[int, int, int]
    activation: Activation | None
    scale: Tensor
    shift: Tensor

    @property
    def is_homogeneous(self) -> bool:
        """Whether a positive factor goes through the activation."""
        return self.activation is None or self.activation.name in HOMOGENEOUS

    def multiply_output(self, factor: Tensor) -> None:
        """Multiply what the product and the bias give, channel by channel (or value by value of a dense one)."""
        if isinstance(self.product, Dense):
            self.bias = (self.bias * factor).expand(self.shape)
            self.product.weight = self.product.weight * factor.expand(self.shape).reshape(-1, 1)
            return
        self.bias = self.bias * factor
        by_channel = factor.reshape(-1, 1, 1)
        of_inputs = isinstance(self.product, Transposed)
        self.product.weight = self.product.weight * (by_channel if of_inputs else by_channel.unsqueeze(1))

    def multiply_input(self, factor: Tensor, shape: tuple[int, int, int]) -> None:
        """Make up for an input that is divided by a factor, shape (C, 1, 1), or for a dense product (C, H, W)."""
        if isinstance(self.product, Dense):
            self.product.weight = self.product.weight * factor.expand(shape).reshape(1, -1)
        elif isinstance(self.product, Transposed):
            self.product.weight = self.product.weight * factor.unsqueeze(1)
        else:
            self.product.weight = self.product.weight * factor

    def add_input(self, shift: Tensor, shape: tuple[int, int, int]) -> None:
        """Make up for an input that lacks a shift: what the product makes of it is added to the bias, at the borders
        another number than in the middle. One number a channel stays one.
        """
        if not shift.any():
            return
        bias = self.bias + apply(self.product, shift.expand(shape)[None], self.shape)[0]
        alike = bool(((bias - bias[:, :1, :1]).abs() <= 1e-14 * bias.abs().amax()).all())
        self.bias = bias[:, :1, :1] if alike and not isinstance(self.product, Dense) else bias


def apply(product: Product, x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """What a product makes of maps, shape (N, C, H, W): maps of `shape`."""
    match product:
        case Dense():
            return (x.flatten(1) @ product.weight.T).reshape(-1, *shape)
        case Strided():
            return F.conv2d(x, product.weight, stride=product.stride, padding=product.padding)
        case Transposed():
            whole = F.conv_transpose2d(x, product.weight, stride=product.stride)
            (top, left), (height, width) = product.padding, product.output
            return F.pad(whole, [-left, width + left - whole.shape[3], -top, height + top - whole.shape[2]])


@torch.no_grad()
def stages_of(generator: Generator) -> list[Stage]:
    """The normal form of a generator.

    Args:
        generator: a chain of layers with finite weights. Not changed.
    Returns:
        At least one stage, the last without a scale and shift; float64, on the CPU.
    Raises:
        UnfusableError: its layers have none.
    """
    tensors = {
        name: tensor.detach().to("cpu", torch.float64, copy=True)
        for name, tensor in generator.state_dict().items()
        if tensor.is_floating_point()
    }
    spec = generator.spec
    shapes = shapes_of(spec.layers, spec.inputs)
    stages: list[Stage] = []
    upsampled = (1, 1)  # by nearest upsampling since the last product
    for layer, before, after in zip(spec.layers, shapes, shapes[1:], strict=False):
        stage = stages[-1] if stages else None
        match layer:
            case Linear() | ConvTranspose() | Conv():
                weight = tensors[f"{layer.name}.weight"]
                bias = tensors[f"{layer.name}.bias"] if layer.bias else weight.new_zeros(layer.outputs)
                features = stage is None or isinstance(stage.product, Dense)
                stages.append(_stage(layer, weight, bias, before, after, upsampled, features))
                upsampled = (1, 1)
            case Unflatten() if stage is None:
                pass  # of the latents themselves: products look at the number of pixels only
            case Unflatten() if stage is not None:
                stage.shape = layer.shape
                parts = (stage.bias, stage.scale, stage.shift)
                stage.bias, stage.scale, stage.shift = (part.reshape(layer.shape) for part in parts)
            case Upsample():
                upsampled = (upsampled[0] * layer.factor[0], upsampled[1] * layer.factor[1])
            case BatchNorm() if stage is not None:
                scale, shift = _scale_and_shift(layer, tensors)
                if stage.activation is None:
                    stage.multiply_output(scale)
                    stage.bias = stage.bias + shift
                else:
                    stage.scale, stage.shift = stage.scale * scale, stage.shift * scale + shift
            case Activate() if stage is not None and stage.activation is None:
                stage.activation = layer.function
            case _:
                raise UnfusableError(f"layer {layer.name} stands where no rule takes it")
    if not stages or upsampled != (1, 1):
        raise UnfusableError("the generator does not end in a product and its activation")
    if bool((stages[-1].scale != 1).any()) or stages[-1].shift.any():
        raise UnfusableError("a BatchNorm follows the last activation")
    return stages


def _stage(
    layer: Linear | ConvTranspose | Conv,
    weight: Tensor,
    bias: Tensor,
    before: Sequence[int],
    after: Sequence[int],
    upsampled: Pair,
    features: bool,
) -> Stage:
    shape = (after[0], after[1], after[2]) if len(after) == 3 else (after[0], 1, 1)
    product: Product
    if isinstance(layer, Linear):
        product = Dense(weight)
    elif isinstance(layer, ConvTranspose):
        if upsampled != (1, 1):
            raise UnfusableError(f"{layer.name} is a transposed convolution of an upsampled map")
        product = Transposed(weight, layer.stride, layer.padding, shape[1:])
    elif layer.stride == (1, 1):
        padding = (layer.kernel[0] - 1 - layer.padding[0], layer.kernel[1] - 1 - layer.padding[1])
        product = Transposed(_summed(weight, upsampled), upsampled, padding, shape[1:])
    elif upsampled == (1, 1):
        product = Strided(weight, layer.stride, layer.padding)
    else:
        raise UnfusableError(f"{layer.name} is a convolution with a stride of an upsampled map")
    bias = bias[:, None, None]
    if not isinstance(product, Dense) and features and tuple(before[1:]) == (1, 1) and upsampled == (1, 1):
        units = torch.eye(before[0], dtype=weight.dtype)[:, :, None, None]
        product, bias = Dense(apply(product, units, shape).flatten(1).T.contiguous()), bias.expand(shape)
    neutral = weight.new_ones(shape[0], 1, 1)
    return Stage(layer.name, product, bias, shape, None, neutral, torch.zeros_like(neutral))


def _summed(weight: Tensor, factor: Pair) -> Tensor:
    """The kernel of a transposed convolution that does what upsampling by `factor` and a convolution do.

    Tap j of the convolution meets pixel m of an upsampled block as tap m - j + k - 1 of the transposed one.

    Args:
        weight: of the convolution, shape (outputs, inputs, k, k).
        factor: of rows and columns.
    Returns:
        Shape (inputs, outputs, k + f - 1, k + f - 1).
    """
    outputs, inputs, rows, columns = weight.shape
    turned = weight.flip(2, 3).transpose(0, 1)
    kernel = weight.new_zeros(inputs, outputs, rows + factor[0] - 1, columns + factor[1] - 1)
    for row in range(factor[0]):
        for column in range(factor[1]):
            kernel[:, :, row : row + rows, column : column + columns] += turned
    return kernel


def _scale_and_shift(layer: BatchNorm, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The s and t of a BatchNorm in eval mode, shape (features, 1, 1) each."""
    mean, variance = tensors[f"{layer.name}.running_mean"], tensors[f"{layer.name}.running_var"]
    scale = 1.0 / torch.sqrt(variance + layer.eps)
    shift = torch.zeros_like(scale)
    if layer.affine:
        scale, shift = scale * tensors[f"{layer.name}.weight"], tensors[f"{layer.name}.bias"]
    return scale[:, None, None], (shift - scale * mean)[:, None, None]


class Phase(NamedTuple):
    """One side of a phase of a transposed convolution: a convolution of stride 1.

    Attributes:
        taps: indices of the kernel's rows (or columns), in the order in which they meet the input; [] for none.
        before: zeros before the input; negative cuts pixels off.
        after: zeros after it, likewise.
    """

    taps: list[int]
    before: int
    after: int


def phases_of(kernel: int, stride: int, padding: int, side: int, output: int) -> list[Phase]:
    """The phases of one side of a transposed convolution, of remainder 0 to stride - 1.

    All give as many pixels, so that they can be interleaved; where the stride does not divide `output`, the last ones
    of some lie past its end.

    Args:
        kernel: its length.
        stride: of the transposed convolution.
        padding: cut off at the beginning.
        side: length of the input.
        output: length of the output.
    """
    pixels = -(-output // stride)
    phases = []
    for remainder in range(stride):
        offsets = {
            (remainder + padding - tap) // stride: tap
            for tap in range(kernel)
            if (remainder + padding - tap) % stride == 0
        }
        first, last = (min(offsets), max(offsets)) if offsets else (0, 0)
        phases.append(Phase([offsets[place] for place in sorted(offsets)], -first, pixels - 1 + last - (side - 1)))
    return phases
