"""Generators of many kinds: random chains of layers for property tests, and the well-known ones in small."""

from __future__ import annotations

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from dcgan.networks import Generator
from dcgan_infer.contract.errors import SpecError
from dcgan_infer.contract.layers import (
    RELU,
    SIGMOID,
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
    shapes_of,
)
from dcgan_infer.contract.spec import GeneratorSpec

HIDDEN = ("relu", "leaky-relu:0.2", "elu", "softplus:2", "silu", "gelu", "tanh")
# Scales of a BatchNorm: any sign, far from 1, and none at all.
SCALES = st.sampled_from(["positive", "mixed", "negative", "zeros", "all zero"])
_MOST_PIXELS = 3000


@st.composite
def specs(draw: st.DrawFn, activations: tuple[str, ...] = HIDDEN, downsampling: bool = True) -> GeneratorSpec:
    """Any chain that has a normal form: a beginning in features, maps of any kernel, stride and padding, and an end."""
    layers: list[Layer] = []
    latent_dim, num_classes = draw(st.integers(1, 6)), draw(st.sampled_from([0, 0, 3]))

    def name() -> str:
        return f"{draw(st.sampled_from(['', 'main.', 'a.b.']))}{len(layers)}x"

    def pair(least: int, most: int) -> tuple[int, int]:
        return draw(st.integers(least, most)), draw(st.integers(least, most))

    def norm(features: int) -> None:
        if draw(st.booleans()):
            layers.append(BatchNorm(name(), features, draw(st.sampled_from([1e-5, 0.8])), draw(st.booleans())))

    def activate(features: int, always: bool = False) -> None:
        norm(features)
        if always or draw(st.integers(0, 3)):
            layers.append(Activate(name(), Activation.parse(draw(st.sampled_from(activations)))))
            norm(features)

    width = latent_dim + num_classes
    channels, side = draw(st.integers(1, 4)), pair(1, 4)
    if draw(st.booleans()):
        if draw(st.booleans()):
            layers.append(Linear(name(), width, 5, draw(st.booleans())))
            width = 5
            activate(width)
        features = channels * side[0] * side[1]
        layers.append(Linear(name(), width, features, draw(st.booleans())))
        activate(features)
        layers.append(Unflatten(name(), (channels, *side)))
        norm(channels)
    else:
        layers.append(Unflatten(name(), (width, 1, 1)))
        layers.append(ConvTranspose(name(), width, channels, side, bias=draw(st.booleans())))
        activate(channels)
    for _ in range(draw(st.integers(1, 3))):
        outputs, kernel, bias = draw(st.integers(1, 7)), pair(1, 5), draw(st.booleans())
        kind = draw(st.sampled_from(["transposed", "transposed", "upsampled", "conv", "strided"]))
        layer: Layer
        if kind == "transposed":
            stride = pair(1, 3)
            padding = draw(st.integers(0, kernel[0] - 1)), draw(st.integers(0, kernel[1] - 1))
            more = draw(st.integers(0, stride[0] - 1)), draw(st.integers(0, stride[1] - 1))
            layer = ConvTranspose(name(), channels, outputs, kernel, stride, padding, more, bias)
        else:
            if kind == "upsampled":
                layers.append(Upsample(name(), pair(1, 3)))
                norm(channels)
            stride = (2, 1) if kind == "strided" and downsampling else (1, 1)
            layer = Conv(name(), channels, outputs, kernel, stride, pair(0, 3), bias)
        layers.append(layer)
        channels = outputs
        activate(channels)
    if draw(st.booleans()):
        layers.append(Conv(name(), channels, 2, (3, 3), (1, 1), (1, 1)))
    else:
        layers.append(ConvTranspose(name(), channels, 2, (4, 4), (2, 2), (1, 1)))
    layers.append(Activate(name(), draw(st.sampled_from([TANH, SIGMOID]))))
    return _spec(layers, latent_dim, num_classes)


def _spec(layers: list[Layer], latent_dim: int, num_classes: int) -> GeneratorSpec:
    assume(sum(map(_is_activation, layers)) > 1)
    try:
        shape = shapes_of(tuple(layers), latent_dim + num_classes)[-1]
    except SpecError:
        assume(False)
        raise
    assume(shape[1] * shape[2] <= _MOST_PIXELS)
    last = layers[-1]
    assert isinstance(last, Activate)
    value_range = (-1.0, 1.0) if last.function == TANH else (0.0, 1.0)
    return GeneratorSpec(
        latent_dim, (shape[0], shape[1], shape[2]), num_classes, value_range=value_range, layers=tuple(layers)
    )


def _is_activation(layer: Layer) -> bool:
    return isinstance(layer, Activate)


def dcgan_spec(
    size: int = 64, nc: int = 3, nz: int = 100, ngf: int = 64, activation: Activation = RELU
) -> GeneratorSpec:
    """PyTorch's DCGAN example: a power of two as size."""
    layers: list[Layer] = [Unflatten("unflatten", (nz, 1, 1))]
    inputs, channels, number, side = nz, ngf * size // 8, 0, 1
    while 2 * side < size:
        stride, padding = ((2, 2), (1, 1)) if number else ((1, 1), (0, 0))
        layers += [
            ConvTranspose(f"main.{number}", inputs, channels, (4, 4), stride, padding, bias=False),
            BatchNorm(f"main.{number + 1}", channels),
            Activate(f"main.{number + 2}", activation),
        ]
        inputs, channels, number, side = channels, channels // 2, number + 3, 2 * side if number else 4
    layers += [
        ConvTranspose(f"main.{number}", inputs, nc, (4, 4), (2, 2), (1, 1), bias=False),
        Activate(f"main.{number + 1}", TANH),
    ]
    return GeneratorSpec(nz, (nc, size, size), layers=tuple(layers))


def upsampling_spec(size: int = 32, nc: int = 1, nz: int = 100, width: int = 128) -> GeneratorSpec:
    """PyTorch-GAN's dcgan.py: 4 divides the size."""
    side, leaky = size // 4, Activation("leaky-relu", 0.2)
    layers = (
        Linear("l1.0", nz, width * side * side),
        Unflatten("unflatten", (width, side, side)),
        BatchNorm("conv_blocks.0", width),
        Upsample("conv_blocks.1", (2, 2)),
        Conv("conv_blocks.2", width, width, (3, 3), (1, 1), (1, 1)),
        BatchNorm("conv_blocks.3", width, 0.8),
        Activate("conv_blocks.4", leaky),
        Upsample("conv_blocks.5", (2, 2)),
        Conv("conv_blocks.6", width, width // 2, (3, 3), (1, 1), (1, 1)),
        BatchNorm("conv_blocks.7", width // 2, 0.8),
        Activate("conv_blocks.8", leaky),
        Conv("conv_blocks.9", width // 2, nc, (3, 3), (1, 1), (1, 1)),
        Activate("conv_blocks.10", TANH),
    )
    return GeneratorSpec(nz, (nc, size, size), layers=layers)


def with_statistics(spec: GeneratorSpec, seed: int, scales: str, spread: float = 1.0) -> Generator:
    """A generator in float64 whose BatchNorms have been somewhere."""
    torch.manual_seed(seed)
    generator = Generator(spec).double().eval()
    norms = [layer.name for layer in spec.layers if isinstance(layer, BatchNorm)]
    with torch.no_grad():
        for name, tensor in generator.state_dict().items():
            if name.rpartition(".")[0] not in norms or not tensor.is_floating_point():
                continue
            random = torch.randn_like(tensor) * spread
            if name.endswith("running_var"):
                tensor.copy_(random.exp())
            elif name.endswith("weight"):
                kinds = {
                    "positive": random.abs(),
                    "mixed": random,
                    "negative": -random.abs(),
                    "zeros": torch.where(torch.rand_like(random) < 0.3, 0.0, random),
                    "all zero": torch.zeros_like(random),
                }
                tensor.copy_(kinds[scales])
            else:
                tensor.copy_(random)
    return generator


def inputs_of(spec: GeneratorSpec, count: int = 6) -> tuple[Tensor, ...]:
    """Latents in float64 and, if there are classes, labels."""
    z = torch.randn(count, spec.latent_dim, dtype=torch.float64) * 3.0
    return (z, torch.arange(count) % spec.num_classes) if spec.num_classes else (z,)
