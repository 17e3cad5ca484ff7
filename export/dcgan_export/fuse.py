"""Fusing: the same generator with fewer and faster operations, by exact algebra in float64.

A torch module goes in and a torch module comes out, so every format profits. stages.py gives the normal form; what is
left to do is to move each stage's scale and shift into its neighbours, and to choose a form for each product:

1. Where a is ReLU or leaky ReLU, s a(y) = a(s y) for s >= 0, so the scale's size moves back into the product that
   makes y, and only its sign moves on into the next one. Other activations let no scale through, so all of it moves on.
   The shift t, sent through the next product, is added to its bias; at the borders, where zeros are padded, it differs
   from the middle: a map instead of a bias. A map is needed only where t is not 0.
2. A transposed convolution is run as its phases, put together by copying: with the channels last that is copying of
   whole pixels, 6 % faster than the permutation of a DepthToSpace, which not every runtime has either. Without a map
   the activation is computed before: runtimes compute it inside the convolution. `FEW_CHANNELS` says which stay.
3. Weights times a one-hot class are one of their columns. So the columns of the classes leave the first product for a
   table, and the row of the class is added to what the first product makes of the latent. It is as fast, and loads
   where comparing or joining stops a runtime: ncnn compares nothing, and OpenCV 4 joins nothing whose batch size it is
   not told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcgan.networks import Generator, activation_module, check_label
from dcgan_infer.contract.layers import Pair, Unflatten
from dcgan_infer.contract.spec import GeneratorSpec

from .stages import Dense, Stage, Strided, Transposed, UnfusableError, phases_of, stages_of

# What gives so few channels is one transposed convolution, not its phases: these would fill no vectors. Times plain
# ONNX at batch 1, 16, 64 (onnxruntime 1.32, 2 threads, AVX2), kept and as phases: the reference script's generator, 1
# channel, 1.30, 1.58, 1.44 and 1.13, 1.34, 1.29; PyTorch's DCGAN example at 64x64, 3 channels, 1.33, 1.23, 1.15 and
# 1.24, 1.13, 1.07; PyTorch-GAN's at 32x32, whose last layer is a convolution to 1 channel, 1.81, 1.75, 1.78 and 1.48,
# 1.61, 1.51.
FEW_CHANNELS = 4


class PaddedConv(nn.Module):
    """A convolution of stride 1 whose four sides are padded each by its own number.

    Args:
        weight: shape (outputs, inputs, rows, columns).
        bias: shape (outputs,); None for none.
        pads: zeros at the left, right, top and bottom; negative cuts pixels off.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, pads: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.pads = pads
        self.weight = nn.Parameter(weight.contiguous())
        self.bias = None if bias is None else nn.Parameter(bias.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, inputs, H, W) to (N, outputs, H', W')."""
        left, right, top, bottom = self.pads
        if left == right >= 0 and top == bottom >= 0:
            return F.conv2d(x, self.weight, self.bias, padding=(top, left))
        return F.conv2d(F.pad(x, self.pads), self.weight, self.bias)


class Phases(nn.Module):
    """A transposed convolution as its phases.

    Args:
        product: to run.
        bias: shape (outputs,); None for none.
        inputs: height and width of what goes in.
        activation: of every value, computed before the phases are put together; None for none.
    """

    def __init__(self, product: Transposed, bias: Tensor | None, inputs: Pair, activation: nn.Module | None) -> None:
        super().__init__()
        self.stride, self.output = product.stride, product.output
        self.shape = (
            product.weight.shape[1],
            -(-self.output[0] // self.stride[0]),
            -(-self.output[1] // self.stride[1]),
        )
        kernel = product.weight.transpose(0, 1)  # (outputs, inputs, rows, columns)
        rows, columns = (
            phases_of(kernel.shape[2 + axis], product.stride[axis], product.padding[axis], inputs[axis], side)
            for axis, side in enumerate(product.output)
        )
        self.convs = nn.ModuleList()
        for row in rows:
            for column in columns:
                if row.taps and column.taps:
                    weight = kernel[:, :, row.taps][:, :, :, column.taps]
                else:  # of no taps comes the bias alone
                    weight = kernel.new_zeros(*kernel.shape[:2], max(1, len(row.taps)), max(1, len(column.taps)))
                self.convs.append(PaddedConv(weight, bias, (column.before, column.after, row.before, row.after)))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, inputs, H, W) to (N, outputs, H', W')."""
        phases = [conv(x) for conv in self.convs]
        if self.activation is not None:
            phases = [self.activation(phase) for phase in phases]
        return interleave(phases, self.shape, self.stride, self.output)


def interleave(phases: list[Tensor], shape: tuple[int, int, int], stride: Pair, output: Pair) -> Tensor:
    """Put the pixels of phases together.

    Args:
        phases: by the remainder of the row, then of the column; shape (N, *shape) each.
        shape: (C, H, W).
        stride: number of remainders of rows, and of columns.
        output: height and width to cut to.
    Returns:
        Shape (N, C, *output).
    """
    (rows, columns), (channels, height, width) = stride, shape
    whole = phases[0]
    if len(phases) > 1:
        pixels = [phase.permute(0, 2, 3, 1) for phase in phases]  # (N, H, W, C)
        lines = [
            torch.cat(pixels[first : first + columns], 3).reshape(-1, height, 1, width * columns * channels)
            for first in range(0, rows * columns, columns)
        ]
        whole = torch.cat(lines, 2).reshape(-1, height * rows, width * columns, channels).permute(0, 3, 1, 2)
    if (height * rows, width * columns) != tuple(output):
        whole = whole[:, :, : output[0], : output[1]]
    return whole


def output_padding(product: Transposed, inputs: Pair) -> Pair | None:
    """What `nn.ConvTranspose2d` calls so, for a product that it can compute; None where it can't."""
    extra = tuple(
        output - ((side - 1) * stride - 2 * padding + kernel)
        for output, side, stride, padding, kernel in zip(
            product.output, inputs, product.stride, product.padding, product.weight.shape[2:], strict=True
        )
    )
    fits = all(0 <= more < stride for more, stride in zip(extra, product.stride, strict=True))
    return (extra[0], extra[1]) if fits and min(product.padding) >= 0 else None


def with_weights(module: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A torch layer with these weights in place of its own."""
    module.weight = nn.Parameter(weight.contiguous())
    module.register_parameter("bias", None if bias is None else nn.Parameter(bias.contiguous()))
    return module


class Fused(nn.Module):
    """What is left of a stage: activation(product(x) + bias) * gain.

    Args:
        stage: its bias is used up; its scale and shift are not looked at.
        inputs: (C, H, W) of what goes in.
        gain: factor on what comes out that no neighbour can take, shape (C, H, W); None for none.
        flat: of a dense product, whether features come out, and not maps.
        for_int8: whether every transposed convolution becomes its phases, those of few channels too, and a dense
            product that gives maps is computed in the order (H, W, C), as int8's convolutions take it: the channels
            come first only in the end, and there is no gain.
    """

    def __init__(
        self,
        stage: Stage,
        inputs: tuple[int, int, int],
        gain: Tensor | None,
        flat: bool,
        for_int8: bool = False,
    ) -> None:
        super().__init__()
        product, weight, bias = stage.product, stage.product.weight, stage.bias
        is_map = not isinstance(product, Dense) and bias.shape[1:] != (1, 1)
        self.channels_last = False
        each = None if is_map else (bias.expand(stage.shape) if isinstance(product, Dense) else bias).flatten()
        self.bias_map = nn.Parameter(bias.contiguous()) if is_map else None
        self.gain = None if gain is None else nn.Parameter(gain.contiguous())
        activation = None if stage.activation is None else activation_module(stage.activation)
        sizes = (weight.shape[2], weight.shape[3]) if weight.ndim == 4 else (1, 1)
        match product:
            case Dense():
                self.channels_last = for_int8 and not flat
                if self.channels_last:
                    assert each is not None
                    order = last_order(stage.shape)
                    weight, each = weight[order], each[order]
                self.product = with_weights(nn.Linear(1, 1), weight, each)
            case Strided():
                conv = nn.Conv2d(1, 1, sizes, product.stride, product.padding)
                self.product = with_weights(conv, weight, each)
            case Transposed():
                more = output_padding(product, inputs[1:])
                if for_int8 or weight.shape[1] > FEW_CHANNELS or more is None:
                    early = None if is_map else activation
                    self.product = Phases(product, each, inputs[1:], early)
                    activation = activation if is_map else None
                else:
                    decon = nn.ConvTranspose2d(1, 1, sizes, product.stride, product.padding, more)
                    self.product = with_weights(decon, weight, each)
        channels, height, width = stage.shape
        shape = (height, width, channels) if self.channels_last else stage.shape
        self.unflatten = nn.Unflatten(1, shape) if isinstance(product, Dense) and not flat else None
        self.activation = activation

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        """Maps to maps.

        Args:
            x: shape (N, *inputs), flat for a dense product.
            more: added to what the product gives; of a dense product.
        Returns:
            Shape (N, *stage.shape), or flat.
        """
        x = self.product(x)
        if more is not None:
            x = x + more
        if self.unflatten is not None:
            x = self.unflatten(x)
        if self.bias_map is not None:
            x = x + self.bias_map
        if self.activation is not None:
            x = self.activation(x)
        if self.channels_last:
            return x.permute(0, 3, 1, 2)
        return x if self.gain is None else x * self.gain


def last_order(shape: tuple[int, int, int]) -> Tensor:
    """Which feature of maps, shape (C, H, W), stands where with the channels last: int64, shape (C * H * W,)."""
    return torch.arange(math.prod(shape)).reshape(shape).permute(1, 2, 0).flatten()


class FusedGenerator(nn.Module):
    """What `fuse` makes: takes and gives what the generator does.

    Args:
        spec: of the generator.
        stages: with their scales and shifts moved.
        gains: by place, what `Fused` calls so, where there is one.
        for_int8: as `Fused` takes it, of all stages but the last.
    """

    def __init__(
        self,
        spec: GeneratorSpec,
        stages: list[Stage],
        gains: Mapping[int, Tensor],
        for_int8: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = spec.num_classes
        self.classes, inputs = class_table(spec, stages[0])
        self.unflatten = None if isinstance(stages[0].product, Dense) else nn.Unflatten(1, inputs)
        self.stages = nn.ModuleList()
        for place, stage in enumerate(stages):
            is_last = stage is stages[-1]
            flat = not is_last and isinstance(stages[place + 1].product, Dense)
            fused = Fused(stage, inputs, gains.get(place), flat, for_int8 and not is_last)
            if place == 0 and self.classes is not None and fused.channels_last:
                self.classes.weight = nn.Parameter(self.classes.weight[:, last_order(stage.shape)])
            self.stages.append(fused)
            inputs = stage.shape

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images of latents; arguments, result and errors are those of `Generator.forward`."""
        check_label(label, self.num_classes)
        x = z if self.unflatten is None else self.unflatten(z)
        more = None if self.classes is None else self.classes(label)
        for place, stage in enumerate(self.stages):
            x = stage(x, more) if place == 0 else stage(x)
        return x


def class_table(spec: GeneratorSpec, first: Stage) -> tuple[nn.Embedding | None, tuple[int, int, int]]:
    """Take the columns of the classes out of the first product.

    Returns:
        The table, None without classes; and (C, H, W) of the latent.
    Raises:
        UnfusableError: there are classes, and the product is not dense.
    """
    if not isinstance(first.product, Dense):
        if spec.num_classes:
            raise UnfusableError("labels go into a convolution of maps")
        before = next(layer.shape for layer in spec.layers if isinstance(layer, Unflatten))
        return None, before
    table = None
    if spec.num_classes:
        weight = first.product.weight
        table = nn.Embedding(spec.num_classes, len(weight))
        table.weight = nn.Parameter(weight[:, spec.latent_dim :].T.contiguous())
        first.product.weight = weight[:, : spec.latent_dim]
    return table, (spec.latent_dim, 1, 1)


@torch.no_grad()
def fuse(generator: Generator) -> FusedGenerator:
    """Rewrite a generator.

    Args:
        generator: with finite weights; only its BatchNorms' running statistics count, as in eval mode. Not changed.
    Returns:
        A module with the same outputs up to rounding, in eval mode, of the same dtype, on the CPU.
    Raises:
        UnfusableError: its layers have no normal form.
    """
    stages = stages_of(generator)
    gains: dict[int, Tensor] = {}
    for place, (stage, following) in enumerate(pairwise(stages)):
        ahead = stage.scale
        if stage.is_homogeneous:
            stage.multiply_output(stage.scale.abs())
            ahead = stage.scale.sign()
        # Of a channel that has one factor everywhere, the next product takes it; of others it stays in the graph.
        even = bool((ahead == ahead[:, :1, :1]).all())
        following.add_input(stage.shift, stage.shape)
        if even or isinstance(following.product, Dense):
            following.multiply_input(ahead if isinstance(following.product, Dense) else ahead[:, :1, :1], stage.shape)
        else:
            gains[place] = ahead.expand(stage.shape)
    fused = FusedGenerator(generator.spec, stages, gains)
    dtype = next(parameter.dtype for parameter in generator.parameters())
    return fused.to(dtype).eval().requires_grad_(False)
