from __future__ import annotations

import pytest
import torch

from dcgan import discriminators
from dcgan.activity import measure_activity
from dcgan.discriminators import DISCRIMINATORS, halvings
from dcgan.networks import Generator, initialise
from dcgan_infer.contract.errors import SpecError
from dcgan_infer.contract.layers import Activation, ConvTranspose, doublings, nearest_sizes
from dcgan_infer.contract.spec import GeneratorSpec, dcgan_spec

SIDES = [base << times for base in (4, 5, 6, 7) for times in range(1, 7) if 16 <= base << times <= 256]


def test_a_side_is_halved_until_it_is_4_or_less() -> None:
    assert halvings(28) == [(4, 14), (4, 7), (3, 4)]  # the reference script's images
    assert halvings(64) == [(4, 32), (4, 16), (4, 8), (4, 4)]
    assert halvings(80)[-1] == (3, 3)
    assert halvings(4) == []
    for side in SIDES:
        x = torch.zeros(1, 1, side, side)
        for kernel, after in halvings(side):
            x = torch.nn.functional.conv2d(x, torch.zeros(1, 1, kernel, kernel), stride=2, padding=1)
            assert x.shape[2:] == (after, after)
        assert after <= 4


@pytest.mark.parametrize("side", SIDES)
def test_every_size_has_its_networks(side: int) -> None:
    channels = 1 if side % 3 else 3
    spec = dcgan_spec(8, (channels, side, side), 3, ("a", "b", "c"), ngf=2)
    assert GeneratorSpec.from_json(spec.to_json()) == spec
    images = Generator(spec)(torch.randn(2, 8), torch.tensor([0, 2]))
    assert images.shape == (2, channels, side, side)
    for name, make in DISCRIMINATORS.items():
        judges_labels = name not in ("document", "dcgan")
        network = make(spec.image_shape, Activation("leaky-relu", 0.2), 0.1, 3 if judges_labels else 0, 2)
        scores = network(images, torch.tensor([0, 2]) if judges_labels else None)
        on_pixels = {"projected": 0, "mixed": 1, "textured": 1}
        assert scores.shape == (2, len(halvings(side)) + on_pixels[name] if name in on_pixels else 1)
        measured = measure_activity(network, [(images, torch.tensor([0, 2]))])
        assert [layer.layer for layer in measured] == list(network.hidden)


def test_the_widths_are_the_example_s() -> None:
    layers = [layer for layer in dcgan_spec().layers if isinstance(layer, ConvTranspose)]
    assert [(layer.inputs, layer.outputs) for layer in layers] == [
        (100, 512), (512, 256), (256, 128), (128, 64), (64, 3),
    ]  # fmt: skip
    assert dcgan_spec(image_shape=(3, 256, 256)).layers[1].outputs == 512  # type: ignore[union-attr]  # not 2048


@pytest.mark.parametrize("side", [4, 7, 9, 15, 30, 44, 100, 257])
def test_other_sizes_are_refused(side: int) -> None:
    with pytest.raises(SpecError, match="4 to 7 times a power of two"):
        dcgan_spec(image_shape=(3, side, side))


def test_the_nearest_sizes_are_named() -> None:
    assert nearest_sizes(100) == "96 and 112"
    assert nearest_sizes(9) == "8 and 10"
    assert doublings(96) == 4


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(SpecError, match="square"):
        dcgan_spec(image_shape=(3, 64, 32))
    for make in DISCRIMINATORS.values():
        with pytest.raises(SpecError, match="square"):
            make((3, 64, 32))


@pytest.mark.parametrize("name", ["document", "dcgan"])
def test_those_that_judge_no_labels_say_so(name: str) -> None:
    with pytest.raises(SpecError, match="judges no labels"):
        DISCRIMINATORS[name](num_classes=3)


def test_initial_weights_reach_layers_with_spectral_norm() -> None:
    torch.manual_seed(0)
    network = initialise(DISCRIMINATORS["spectral"]((3, 32, 32), ndf=16))
    stored = network.get_parameter("conv2.parametrizations.weight.original")
    assert stored.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("layer", [torch.nn.Conv2d(6, 1, 2), torch.nn.Linear(24, 1)])
def test_a_score_is_a_layer_of_features_and_the_projection_of_a_label(layer: torch.nn.Module, labelled: bool) -> None:
    maps = torch.randn(4, 6, 2, 2).contiguous(memory_format=torch.channels_last)
    wanted = layer(maps if isinstance(layer, torch.nn.Conv2d) else maps.flatten(1)).flatten(1)
    embedding, label = (torch.nn.Embedding(3, 24), torch.tensor([0, 2, 1, 2])) if labelled else (None, None)
    if embedding is not None:
        wanted = wanted + (embedding(label) * maps.flatten(1)).sum(1, keepdim=True)
    torch.testing.assert_close(discriminators._score(maps.flatten(1), layer, embedding, label), wanted)


def test_textures_are_seen_as_they_were_before_the_tanh() -> None:
    textured = DISCRIMINATORS["textured"]((1, 28, 28), ndf=8)
    assert isinstance(textured, discriminators.ProjectedDiscriminator)
    levels = (torch.arange(256.0) / 127.5 - 1).repeat(4)[: 28 * 28].reshape(1, 1, 28, 28)
    seen = textured.seen(levels)[-1]
    assert (float(seen.min()), float(seen.max())) == pytest.approx((-1, 1), abs=1e-5)
    before = torch.linspace(-3, 3, 28 * 28).reshape(1, 1, 28, 28).requires_grad_()
    textured.seen(before.tanh())[-1].sum().backward()  # type: ignore[no-untyped-call]
    assert before.grad is not None  # the same everywhere, where a tanh's own falls from 1 to 0.01
    torch.testing.assert_close(before.grad, before.grad[:, :, :1, :1].expand_as(before), rtol=1e-3, atol=0)
