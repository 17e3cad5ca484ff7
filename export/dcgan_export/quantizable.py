"""The form of a generator that int8 takes: nothing stands between a convolution and its activation.

`int8` (Jacob et al. 2018, arXiv:1712.05877): the convolutions between the first product and the last, nearly all of the
multiply-adds, take 8-bit activations and 7-bit weights, and stand between QuantizeLinear and DequantizeLinear as
runtimes expect it. The fused form alone would not do: what it adds between a convolution and its activation, a map,
would have to be rounded once more. So the stages are put together in another way, by exact algebra, with nothing there:

1. A dense product stays in float32, and so does all that follows it: its scale and shift are computed before its
   values are rounded. For ReLU that is max(s y + t, t), or min where s is negative. The last one gives its values with
   the channels last, as 8-bit convolutions take them: the order of its features is free.
2. The shift of a convolution's stage moves on into the next one: a channel of ones, padded with zeros like the others,
   brings it, borders included. It is appended to what is rounded already: a convolution that made it would give one
   channel more than kernels compute at a time, 129 for 128.
3. Each channel of an activation is divided by a power of its own range, and the next product multiplies by it, so that
   small channels are not lost in the range of the largest (after Nagel et al. 2019, arXiv:1906.04721, section 4.1).
   That is free for ReLU and leaky ReLU, which let positive factors through.
4. What the rounding of weights adds to a channel on average is taken off its bias (section 4.2).

Leaky ReLU is computed on values that are rounded before it too: onnxruntime takes Conv and Relu together, but falls
back to float32 for a Conv whose output is not rounded at once. One factor serves both, so what is below 0 counts as the
geometric mean of its sizes before and after the activation.

Ranges are the smallest and largest value over `_GROUP` latents, the mean of a few such groups: what is beyond becomes
the range's end (as Jacob et al. 2018, section 3.1, with a running mean). docs/lab-notebook.md has the figures behind
each choice.
"""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcgan.networks import Generator, activation_module
from dcgan_infer.contract.latents import labels, latents
from dcgan_infer.contract.spec import GeneratorSpec

from .fuse import FusedGenerator, PaddedConv
from .stages import Dense, Stage, Transposed, UnfusableError, stages_of

CALIBRATION, CALIBRATION_SEED = 1024, 1  # latents; parity has others
GRID = 256.0  # ranges are multiples of 1 / 256
_GROUP = 256  # latents that a range is of; a multiple of _CHUNK
_EACH = 16  # latents of each class that a group has at least, or it is all of them
_CHUNK = 64  # latents at a time, for memory
_PLACES = 16  # of an image, where is looked at what a convolution sees
_POWER = 0.5  # of a channel's range that it is divided by; before the last product all of it
_ACTIVATIONS = ("relu", "leaky-relu")
_UNBOUNDED = float(torch.finfo(torch.float32).max)


class Clamp(nn.Module):
    """ReLU, and the scale and shift after it, of values that are scaled and shifted already.

    Args:
        low: bound from below, shape (H, W, C).
        high: bound from above, likewise; None for none.
    """

    def __init__(self, low: Tensor, high: Tensor | None) -> None:
        super().__init__()
        self.low = nn.Parameter(low)
        self.high = None if high is None else nn.Parameter(high)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, (N, H, W, C)."""
        x = torch.maximum(x, self.low)
        return x if self.high is None else torch.minimum(x, self.high)


class Affine(nn.Module):
    """scale * x + shift, shape (H, W, C) each."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(scale), nn.Parameter(shift)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, (N, H, W, C)."""
        return x * self.scale + self.shift


class Ones(nn.Module):
    """One more channel, the last, of ones."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, C, H, W) to (N, C + 1, H, W)."""
        return F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)


class Windows(NamedTuple):
    """What a convolution sees before anything is rounded: windows of its inputs, flat, shape (C * rows * columns,).

    Attributes:
        mean: of each number, float64.
        covariance: of each with each, float64.
    """

    mean: Tensor
    covariance: Tensor


class QuantizableGenerator(FusedGenerator):
    """What `quantizable` makes: takes and gives what the generator does.

    Args:
        spec: of the generator.
        stages: with everything moved; all but the last give what is rounded.
        after: by place, what computes the scale and shift of a dense stage in the place of its activation.

    Attributes:
        activations: by stage.
        seen: by the name of a convolution, what it sees.
        ranges: by stage, the values that it gives are rounded from and to, of those whose values are rounded.
    """

    def __init__(self, spec: GeneratorSpec, stages: list[Stage], after: dict[int, nn.Module], ones: list[bool]) -> None:
        # What is rounded is a convolution, which a transposed one becomes by its phases.
        super().__init__(spec, stages, {}, for_int8=True)
        for place, module in after.items():
            self.stages[place].activation = module
        for place, stage in enumerate(self.stages):
            if ones[place]:
                self.stages[place] = nn.Sequential(stage, Ones())
        self.spec = spec
        self.activations = [stage.activation for stage in stages]
        self.ranges: dict[int, tuple[float, float]] = {}
        self.seen: dict[str, Windows] = {}


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
    bounds = _bounds(_rewritten(generator, {}), places)
    factors: dict[int, Tensor] = {}
    ranges: dict[int, tuple[float, float]] = {}
    for place in places:
        low, high = (bound[: stages[place].shape[0]] for bound in bounds[place])
        size = torch.maximum(-low, high)
        if place >= dense and (activation := stages[place].activation) is not None and activation.name == "leaky-relu":
            size = torch.maximum(-low / math.sqrt(activation.parameter), high)
        size = torch.where(size > 0, size, torch.ones_like(size))  # 1 of a channel that is always 0
        factor = size if place == places[-1] else size**_POWER
        # All by one number more, so that the largest value is 1 and the ones fit in.
        factor = _coarse(factor * (size / factor).max())
        least, largest = min(0.0, float((low / factor).min())), max(1.0, float((high / factor).max()))
        factors[place] = factor[:, None, None]
        ranges[place] = (math.floor(least * GRID) / GRID, math.ceil(largest * GRID) / GRID)
    balanced = _rewritten(generator, factors)
    balanced.ranges = ranges
    balanced.seen = _seen(balanced)
    return balanced.float().eval().requires_grad_(False)


def _bounds(module: QuantizableGenerator, places: range) -> dict[int, tuple[Tensor, Tensor]]:
    """Smallest and largest value of each channel of stages over a group of latents, float64, by place."""
    groups: dict[int, list[tuple[Tensor, Tensor]]] = {place: [] for place in places}
    group = _GROUP if _EACH * module.spec.num_classes <= _GROUP else CALIBRATION
    for first in range(0, CALIBRATION, _CHUNK):
        x, *label = _seeded(module.spec, first)
        more = [] if module.classes is None else [module.classes(*label)]
        for place, stage in enumerate(module.stages[: places[-1] + 1]):
            x = stage(x, *more) if place == 0 else stage(x)
            if place in places:
                low, high = x.amin((0, 2, 3)), x.amax((0, 2, 3))
                if first % group:
                    before = groups[place].pop()
                    low, high = torch.minimum(before[0], low), torch.maximum(before[1], high)
                groups[place].append((low, high))
    return {
        place: (torch.stack([low for low, _ in found]).mean(0), torch.stack([high for _, high in found]).mean(0))
        for place, found in groups.items()
    }


def _seen(module: QuantizableGenerator) -> dict[str, Windows]:
    """What the convolutions between the first stage and the last see over seeded latents, by their names."""
    order = torch.Generator().manual_seed(CALIBRATION_SEED)
    sums: dict[str, tuple[int, Tensor, Tensor]] = {}  # of the windows: how many, their sum, their products' sum

    def look(conv: PaddedConv | nn.Conv2d, given: tuple[Tensor], name: str) -> None:
        windows = _windows(conv, given[0], order)
        size = windows.shape[1]
        number, total, products = sums.get(name) or (0, windows.new_zeros(size), windows.new_zeros(size, size))
        sums[name] = number + len(windows), total + windows.sum(0), products.addmm_(windows.T, windows)

    hooks = [
        conv.register_forward_pre_hook(functools.partial(look, name=name))
        for name, conv in module.stages[:-1].named_modules(prefix="stages")
        if isinstance(conv, PaddedConv | nn.Conv2d)
    ]
    for first in range(0, CALIBRATION, _CHUNK):
        module(*_seeded(module.spec, first))
    for hook in hooks:
        hook.remove()
    found = {}
    for name, (number, total, products) in sums.items():
        mean = total / number
        found[name] = Windows(mean, products.div_(number).sub_(torch.outer(mean, mean)))
    return found


def _windows(conv: PaddedConv | nn.Conv2d, x: Tensor, order: torch.Generator) -> Tensor:
    """What a convolution sees of maps, padding included, at `_PLACES` of its places: shape (windows, numbers)."""
    rows, columns = conv.weight.shape[2:]
    if isinstance(conv, PaddedConv):
        pads, down, right = conv.pads, 1, 1
    else:
        assert isinstance(conv.padding, tuple)
        (above, left), (down, right) = conv.padding, conv.stride
        pads = (left, left, above, above)
    x = F.pad(x, pads)
    places = torch.cartesian_prod(
        torch.arange(0, x.shape[2] - rows + 1, down), torch.arange(0, x.shape[3] - columns + 1, right)
    )
    drawn = places[torch.randperm(len(places), generator=order)[:_PLACES]].tolist()
    return torch.cat([x[:, :, row : row + rows, column : column + columns].flatten(1) for row, column in drawn])


def _seeded(spec: GeneratorSpec, first: int) -> list[Tensor]:
    """The calibration's latents from one on, `_CHUNK` of them, float64, and their labels, if there are classes."""
    given = [torch.from_numpy(latents(CALIBRATION_SEED, first, _CHUNK, spec.latent_dim)).double()]
    if spec.num_classes:
        given.append(torch.from_numpy(labels(CALIBRATION_SEED, first, _CHUNK, spec.num_classes)))
    return given


def _coarse(factor: Tensor) -> Tensor:
    """Factors rounded up to 8 bits: the last bits of a measurement are the machine's, and files are to be alike."""
    mantissa, exponent = torch.frexp(factor)
    return torch.ldexp(torch.ceil(mantissa * GRID) / GRID, exponent)


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
            axis = 0 if isinstance(following.product, Transposed) else 1  # of the inputs
            more = of_ones.sum(axis, keepdim=True)
            following.product.weight = torch.cat([following.product.weight, more], axis)
    return QuantizableGenerator(generator.spec, stages, after, ones).double()


def _finish_dense(stage: Stage, factor: Tensor) -> nn.Module | None:
    """Divide by a factor what a dense stage gives, its scale and shift included.

    Returns:
        What to compute in the place of the activation; None where that itself does.
    """
    scale, shift = (stage.scale / factor).expand(stage.shape), (stage.shift / factor).expand(stage.shape)

    def last(values: Tensor) -> Tensor:  # channels last, as `Fused` computes it
        return values.permute(1, 2, 0).contiguous()

    if stage.is_homogeneous and not shift.any() and bool((scale > 0).all()):
        stage.multiply_output(scale)
        return None
    assert stage.activation is not None  # else the scale and shift are in the product already
    if stage.activation.name != "relu":
        return nn.Sequential(activation_module(stage.activation), Affine(last(scale), last(shift)))
    stage.multiply_output(scale)
    stage.bias = stage.bias + shift
    low, high = torch.where(scale > 0, shift, -_UNBOUNDED), torch.where(scale < 0, shift, _UNBOUNDED)
    return Clamp(last(low), last(high) if bool((scale < 0).any()) else None)
