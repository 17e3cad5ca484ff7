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
4. The ones meet weights that are larger than others, so what their rounding adds is taken off the bias (section 4.2).

Leaky ReLU is computed on values that are rounded before it too: onnxruntime takes Conv and Relu together, but falls
back to float32 for a Conv whose output is not rounded at once.

Ranges are the smallest and largest value over `CALIBRATION` seeded latents; cutting them at a quantile made the mean
error smaller and the worst pixels far worse. docs/lab-notebook.md has the figures behind each choice.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcgan.networks import Generator, activation_module
from dcgan_infer.contract.latents import labels, latents
from dcgan_infer.contract.spec import GeneratorSpec

from .fuse import FusedGenerator
from .stages import Dense, Stage, Transposed, UnfusableError, stages_of

CALIBRATION, CALIBRATION_SEED = 1024, 1  # latents; parity has others
GRID = 256.0  # ranges are multiples of 1 / 256
_CHUNK = 64  # latents at a time, for memory
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


class QuantizableGenerator(FusedGenerator):
    """What `quantizable` makes: takes and gives what the generator does.

    Args:
        spec: of the generator.
        stages: with everything moved; all but the last give what is rounded.
        after: by place, what computes the scale and shift of a dense stage in the place of its activation.

    Attributes:
        ones: by stage, whether a channel of ones is appended to what it gives.
        activations: by stage.
        ranges: by stage, the smallest and largest value that it gives, of those whose values are rounded.
    """

    def __init__(self, spec: GeneratorSpec, stages: list[Stage], after: dict[int, nn.Module], ones: list[bool]) -> None:
        # What is rounded is a convolution, which a transposed one becomes by its phases.
        super().__init__(spec, stages, {}, for_int8=True)
        for place, module in after.items():
            self.stages[place].activation = module
        for place, stage in enumerate(self.stages):
            if ones[place]:
                self.stages[place] = nn.Sequential(stage, Ones())
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
        ranges[place] = (math.floor(least * GRID) / GRID, math.ceil(largest * GRID) / GRID)
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
