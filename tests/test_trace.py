from __future__ import annotations

import pytest
import torch
from document import DocumentGenerator
from their_generators import (
    Attention,
    BatchMates,
    Conditional,
    Functional,
    Mlp,
    Noisy,
    PytorchDcgan,
    PytorchGan,
    Residual,
    SigmoidOutput,
    Unbounded,
    trained,
)
from torch import Tensor, nn

from dcgan.modules import Wrapped
from dcgan.trace import Traced, chain_of, trace
from dcgan_infer.contract.layers import SIGMOID, TANH, Activate, BatchNorm, Layer, Unflatten, shapes_of
from dcgan_infer.contract.spec import GeneratorSpec, reference_spec


def traced(module: nn.Module, latent_dim: int, as_maps: bool = False) -> tuple[Wrapped, Traced]:
    wrapped = Wrapped(module, 0, as_maps, False).eval()
    return wrapped, trace(wrapped, (torch.randn(3, latent_dim),), Wrapped.PREFIX)


def kinds(layers: tuple[Layer, ...]) -> list[str]:
    return [str(layer.function) if isinstance(layer, Activate) else type(layer).__name__ for layer in layers]


@pytest.mark.parametrize(
    ("make", "latent_dim", "as_maps"),
    [
        (PytorchDcgan, 100, True),
        (PytorchGan, 20, False),
        (Mlp, 12, False),
        (Functional, 6, False),
        (SigmoidOutput, 8, False),
        (DocumentGenerator, 100, False),
    ],
)
def test_a_chain_is_found_and_equal(make: type[nn.Module], latent_dim: int, as_maps: bool) -> None:
    module = trained(make())
    wrapped, found = traced(module, latent_dim, as_maps)
    assert found.reason == ""
    assert found.tensors is not None
    image_shape = shapes_of(found.layers, latent_dim)[-1]
    assert len(image_shape) == 3
    value_range = (0.0, 1.0) if found.output == SIGMOID else (-1.0, 1.0)
    spec = GeneratorSpec(latent_dim, image_shape, value_range=value_range, layers=found.layers)
    chain = chain_of(wrapped, spec, found.tensors)
    assert chain is not None
    z = torch.randn(5, latent_dim)
    torch.testing.assert_close(chain(z), wrapped(z))
    assert isinstance(found.layers[-1], Activate)
    assert GeneratorSpec.from_json(spec.to_json()) == spec


def test_the_reference_script_s_generator_is_traced_to_its_own_layers() -> None:
    _, found = traced(trained(DocumentGenerator()), 100)
    reference = reference_spec().layers
    assert kinds(found.layers) == kinds(reference)
    weighted = [layer for layer in found.layers if not isinstance(layer, Activate | Unflatten)]
    assert weighted == [layer for layer in reference if not isinstance(layer, Activate | Unflatten)]


def test_numbers_and_names_are_those_of_the_module() -> None:
    _, found = traced(trained(PytorchGan()), 20)
    norms = [layer for layer in found.layers if isinstance(layer, BatchNorm)]
    assert [(norm.name, norm.eps) for norm in norms] == [
        ("conv_blocks.0", 1e-5),
        ("conv_blocks.3", 0.8),
        ("conv_blocks.7", 0.8),
    ]
    assert found.tensors is not None
    assert found.tensors["conv_blocks.9.weight"] == "module.conv_blocks.9.weight"


def test_layers_used_twice_and_names_of_our_own_class_get_others() -> None:
    _, found = traced(trained(Functional()), 6)
    assert found.tensors is not None
    names = [layer.name for layer in found.layers]
    assert len(set(names)) == len(names)
    assert found.tensors["up.weight"] == found.tensors["up_2.weight"] == "module.up.weight"
    assert "hidden" not in names  # a property of Generator
    assert "module.hidden.weight" in found.tensors.values()
    assert kinds(found.layers) == [
        "Linear",
        "Unflatten",
        "silu",
        "BatchNorm",
        "gelu",
        "ConvTranspose",
        "elu:0.7",
        "ConvTranspose",
        "softplus:2",
        "Upsample",
        "Conv",
        "sigmoid",
    ]


@pytest.mark.parametrize(
    ("make", "latent_dim", "as_maps", "reason"),
    [
        (Residual, 10, False, "used 2 times"),
        (Attention, 14, True, ""),
        (Noisy, 8, False, "used 2 times"),
        (BatchMates, 8, False, "used 2 times"),
        (lambda: Unbounded(2.0), 8, False, "mul is no known layer"),
    ],
)
def test_what_is_no_chain_has_no_layers(make: type[nn.Module], latent_dim: int, as_maps: bool, reason: str) -> None:
    _, found = traced(trained(make()), latent_dim, as_maps)
    assert (found.layers, found.tensors) == ((), None)
    assert reason in found.reason
    assert found.reason


def test_labels_make_no_chain_and_the_output_is_known_all_the_same() -> None:
    wrapped = Wrapped(trained(Conditional()), 5, False, False).eval()
    found = trace(wrapped, (torch.randn(3, 9), torch.tensor([0, 1, 2])), Wrapped.PREFIX)
    assert found.layers == ()
    assert found.output == TANH


class OneLayer(nn.Module):
    """A linear layer, then one other thing."""

    def __init__(self, then: nn.Module) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 64)
        self.then = then

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.then(self.fc(z).view(-1, 4, 4, 4)))


class Transposing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(2, 3)


class MixingTheBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(0)


class Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x)  # training by default


class Rounding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.half().float()


@pytest.mark.parametrize(
    "then",
    [
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.ConvTranspose2d(4, 4, 3, groups=4),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=1.5),
        nn.GELU(approximate="tanh"),
        nn.Softplus(1.0, threshold=5),
        nn.LeakyReLU(-0.5),
        nn.SELU(),
        nn.PReLU(),
        nn.InstanceNorm2d(4),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
        nn.PixelShuffle(2),
        Transposing(),
        MixingTheBatch(),
        Dropping(),
        Rounding(),
    ],
    ids=lambda then: str(then).partition("(")[0],
)
def test_other_numbers_of_a_known_layer_are_not_taken_for_it(then: nn.Module) -> None:
    assert trace(OneLayer(then).eval(), (torch.randn(3, 8),)).tensors is None


@pytest.mark.parametrize(
    "then",
    [
        nn.Conv2d(4, 2, (3, 1), stride=(2, 1), padding=(1, 0)),
        nn.ConvTranspose2d(4, 2, (3, 5), (2, 3), (1, 2), (1, 0), bias=False),
        nn.UpsamplingNearest2d(scale_factor=3),
        nn.Upsample((8, 12)),
        nn.BatchNorm2d(4, affine=False),
        nn.Sequential(nn.Dropout2d(), nn.Identity(), nn.ReLU(inplace=True)),
    ],
    ids=lambda then: str(then).partition("(")[0],
)
def test_known_layers_with_unusual_numbers_are_taken(then: nn.Module) -> None:
    module = OneLayer(then).eval()
    found = trace(module, (torch.randn(3, 8),))
    layers, tensors = found.layers, found.tensors
    assert tensors is not None
    image_shape = shapes_of(layers, 8)[-1]
    spec = GeneratorSpec(8, image_shape, layers=layers)  # type: ignore[arg-type]
    assert chain_of(module, spec, tensors) is not None


def test_a_chain_that_gives_other_images_is_not_used() -> None:
    module = OneLayer(nn.BatchNorm2d(4)).eval()
    found = trace(module, (torch.randn(3, 8),))
    layers, tensors = found.layers, found.tensors
    assert tensors is not None
    spec = GeneratorSpec(8, (4, 4, 4), layers=layers)
    assert chain_of(module, spec, tensors) is not None
    wrong = dict(tensors) | {"then.running_mean": "then.bias", "then.bias": "then.running_mean"}
    with torch.no_grad():
        module.get_parameter("then.bias").add_(1e-9)
    assert chain_of(module, spec, wrong) is None
