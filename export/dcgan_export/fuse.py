"""Fusing: the same generator with fewer and faster operations, by exact algebra in float64.

A torch module goes in and a torch module comes out, so every format profits. Four rewritings:

1. BatchNorm after an activation, s a(y) + t, leaves the graph. Where a is ReLU or leaky ReLU, s a(y) = a(s y) for
   s >= 0, so the scale's size moves back into the layer that makes y, and only its sign moves on into the next one. ELU
   and Softplus let no scale through, so all of it moves on. The shift t, sent through the next layer, which is
   linear, is a constant map that is added to that layer's output; at the borders, where the layer pads with zeros, it
   differs from the middle, hence a map and not a bias.
2. A transposed convolution with stride 1, a kernel of 3 and a padding of 1 is a convolution with the kernel turned by
   180 degrees and its channel axes swapped (Dumoulin and Visin 2016, arXiv:1603.07285, section 4.3).
3. One with stride 2, a kernel of 4 and a padding of 1 is four convolutions with kernels of 2, each for the pixels with
   the same parity of row and column, put together afterwards (Shi et al. 2016, "Is the deconvolution layer the same as
   a convolutional layer?", arXiv:1609.07009). With the channels last that is copying of whole pixels, and the graph 6 %
   faster than with the permutation of a DepthToSpace, which not every runtime has either. `decon3`, whose one channel
   fills no vector, stays as it is: it was as fast in onnxruntime.
4. Weights times a one-hot class are one of their columns. So the columns of the classes leave `linear1` for a table,
   and the row of the class is added to what `linear1` makes of the latent. It is as fast, and loads where comparing or
   joining stops a runtime: ncnn compares nothing, and OpenCV 4 joins nothing whose batch size it is not told.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcgan.networks import Generator, activation_module, check_label
from dcgan_infer.contract.spec import GeneratorSpec

_HOMOGENEOUS = ("relu", "leaky-relu")  # a(s y) = s a(y) for s >= 0
# Rows (or columns) of a 4x4 kernel that meet an even row of the larger map, and an odd one, by the smaller map's row.
_EVEN, _ODD = [3, 1], [2, 0]
PHASE_TAPS = ((_EVEN, _EVEN), (_EVEN, _ODD), (_ODD, _EVEN), (_ODD, _ODD))


class Interleave(nn.Module):
    """Puts the pixels of the four parities together."""

    def forward(self, phases: list[Tensor]) -> Tensor:
        """One map of four.

        Args:
            phases: (even row, even column), (even, odd), (odd, even), (odd, odd); shape (N, C, S, S) each.
        Returns:
            Shape (N, C, 2 S, 2 S).
        """
        _, channels, side, _ = phases[0].shape
        pixels = [phase.permute(0, 2, 3, 1) for phase in phases]  # (N, S, S, C)
        even = torch.cat(pixels[:2], 3).reshape(-1, side, 1, 2 * side * channels)  # whole rows
        odd = torch.cat(pixels[2:], 3).reshape(-1, side, 1, 2 * side * channels)
        return torch.cat([even, odd], 2).reshape(-1, 2 * side, 2 * side, channels).permute(0, 3, 1, 2)


class Gain(nn.Module):
    """A factor for each feature.

    Args:
        factor: shape (C, H, W).
    """

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = nn.Parameter(factor, requires_grad=False)  # no buffer: their types are not known to mypy

    def forward(self, x: Tensor) -> Tensor:
        """The product, same shape as `x`, (N, C, H, W)."""
        return x * self.factor


class FusedGenerator(nn.Module):
    """What `fuse` makes: takes and gives what `dcgan.networks.Generator` does.

    Args:
        spec: sizes and activation.
        gain: factors on the features of `linear1` that no neighbouring layer can take, shape (256, 7, 7); or None.
    """

    def __init__(self, spec: GeneratorSpec, gain: Tensor | None) -> None:
        super().__init__()
        first, second, third = spec.channels
        image, height, width = spec.image_shape
        side = spec.base_side
        self.activation = activation_module(spec.activation)
        self.num_classes = spec.num_classes
        features = first * side * side
        self.linear1 = nn.Linear(spec.latent_dim, features)
        self.classes = nn.Embedding(spec.num_classes, features) if spec.num_classes else None
        self.unflatten = nn.Unflatten(1, (first, side, side))
        self.gain1 = nn.Identity() if gain is None else Gain(gain)
        self.conv1 = nn.Conv2d(first, second, kernel_size=3, padding=1, bias=False)
        # Pixels of the four parities: (even row, even column), (even, odd), (odd, even), (odd, odd).
        self.conv2_ee = nn.Conv2d(second, third, kernel_size=2, bias=False)
        self.conv2_eo = nn.Conv2d(second, third, kernel_size=2, bias=False)
        self.conv2_oe = nn.Conv2d(second, third, kernel_size=2, bias=False)
        self.conv2_oo = nn.Conv2d(second, third, kernel_size=2, bias=False)
        self.merge = Interleave()
        self.decon3 = nn.ConvTranspose2d(third, image, kernel_size=4, stride=2, padding=1, bias=False)
        self.register_buffer("map1", torch.zeros(second, side, side))
        self.register_buffer("map2", torch.zeros(third, 2 * side, 2 * side))
        self.register_buffer("map3", torch.zeros(image, height, width))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images of latents; arguments, result and errors are those of `Generator.forward`."""
        check_label(label, self.num_classes)
        x = self.unflatten(self.linear1(z))  # (N, 256, 7, 7)
        if self.classes is not None and label is not None:
            x = x + self.unflatten(self.classes(label))
        x = self.gain1(self.activation(x))
        x = self.activation(self.conv1(x) + self.map1)  # (N, 128, 7, 7)
        # An even row 2i of the larger map is made of the rows i - 1 and i of the smaller, an odd one of i and i + 1.
        phases = [
            self.conv2_ee(F.pad(x, [1, 0, 1, 0])),
            self.conv2_eo(F.pad(x, [0, 1, 1, 0])),
            self.conv2_oe(F.pad(x, [1, 0, 0, 1])),
            self.conv2_oo(F.pad(x, [0, 1, 0, 1])),
        ]
        x = self.activation(self.merge(phases) + self.map2)  # (N, 64, 14, 14)
        return torch.tanh(self.decon3(x) + self.map3)  # (N, 1, 28, 28)


@torch.no_grad()
def fuse(generator: Generator) -> FusedGenerator:
    """Rewrite a generator.

    Args:
        generator: with finite weights; only its BatchNorms' running statistics count, as in eval mode. Not changed.
    Returns:
        A module with the same outputs up to rounding, in eval mode, of the same dtype, on the CPU.
    """
    spec = generator.spec
    exact = copy.deepcopy(generator).cpu().double()
    first, side = spec.channels[0], spec.base_side
    homogeneous = spec.activation.name in _HOMOGENEOUS

    scale, shift = zip(*(scale_and_shift(bn) for bn in (exact.bn1, exact.bn2, exact.bn3)), strict=True)
    back = [each.abs() if homogeneous else torch.ones_like(each) for each in scale]
    ahead = [each.sign() if homogeneous else each for each in scale]

    # Of a channel that has one factor everywhere, the next convolution takes it; of others it stays in the graph.
    gain = ahead[0].reshape(first, side, side)
    even = bool((gain == gain[:, :1, :1]).all())
    fused = FusedGenerator(spec, None if even else gain).double()

    weight = exact.linear1.weight * back[0][:, None]
    fused.linear1.weight.copy_(weight[:, : spec.latent_dim])
    if fused.classes is not None:
        fused.classes.weight.copy_(weight[:, spec.latent_dim :].T)
    fused.linear1.bias.copy_(exact.linear1.bias * back[0])

    weight, constant = _moved(
        exact.decon1, gain[:, 0, 0] if even else torch.ones(first), shift[0].reshape(first, side, side), back[1]
    )
    fused.conv1.weight.copy_(weight.flip(2, 3).transpose(0, 1))
    fused.get_buffer("map1").copy_(constant)

    second_shift = shift[1][:, None, None].expand(-1, side, side)
    weight, constant = _moved(exact.decon2, ahead[1], second_shift, back[2])
    kernel = weight.transpose(0, 1)  # (third, second, 4, 4)
    convolutions = (fused.conv2_ee, fused.conv2_eo, fused.conv2_oe, fused.conv2_oo)
    for convolution, (rows, columns) in zip(convolutions, PHASE_TAPS, strict=True):
        convolution.weight.copy_(kernel[:, :, rows][:, :, :, columns])
    fused.get_buffer("map2").copy_(constant)

    third_shift = shift[2][:, None, None].expand(-1, 2 * side, 2 * side)
    weight, constant = _moved(exact.decon3, ahead[2], third_shift, torch.ones(spec.image_shape[0]))
    fused.decon3.weight.copy_(weight)
    fused.get_buffer("map3").copy_(constant)
    return fused.to(generator.linear1.weight.dtype).eval().requires_grad_(False)


def scale_and_shift(bn: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The s and t of a BatchNorm in eval mode, s x + t, shape (features,) each."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    return scale, bn.bias - scale * bn.running_mean


def _moved(decon: nn.ConvTranspose2d, ahead: Tensor, shift: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """A transposed convolution that takes over what stands before and after it.

    Args:
        decon: the layer.
        ahead: factor on each of its input channels, shape (I,), from the scale before it.
        shift: added to its input, shape (I, H, W).
        back: factor on each of its output channels, shape (O,), from the scale after it.
    Returns:
        Its new weight, shape (I, O, K, K), and the map to add to its output instead of the bias, shape (O, H', W').
    """
    weight = decon.weight * ahead[:, None, None, None] * back[:, None, None]
    constant = decon(shift[None])[0] * back[:, None, None]  # the bias is in it
    return weight, constant
