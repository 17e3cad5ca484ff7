from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from document import DocumentDiscriminator, DocumentGenerator
from their_generators import (
    BlocksDcgan,
    Conditional,
    Mlp,
    NoStatistics,
    PytorchDcgan,
    PytorchDcganDiscriminator,
    PytorchGan,
    trained,
)
from torch import Tensor, nn

from dcgan.checkpoint import GeneratorCheckpoint, Hints, load_generator
from dcgan.recognise import LAYOUTS, recognise
from dcgan_infer.contract.errors import CheckpointError
from dcgan_infer.contract.layers import SIGMOID, Activate, Activation, BatchNorm


def saved(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "theirs.pth"
    torch.save(content, path)
    return path


def images(module: nn.Module, z: Tensor) -> Tensor:
    with torch.no_grad():
        return module(z)  # type: ignore[no-any-return]


def assert_same_images(loaded: GeneratorCheckpoint, module: nn.Module, as_maps: bool = False) -> None:
    z = torch.randn(4, loaded.spec.latent_dim)
    torch.testing.assert_close(images(loaded.module, z), images(module, z[:, :, None, None] if as_maps else z))
    assert loaded.chain is loaded.module


@pytest.mark.parametrize(
    ("make", "latent_dim", "image_shape", "layout"),
    [
        (PytorchDcgan, 100, (3, 64, 64), "pytorch-dcgan"),
        (lambda: PytorchDcgan(7, 5, 1, (4, 1)), 7, (1, 16, 16), "pytorch-dcgan"),
        (lambda: PytorchDcgan(64, 4, 3, (16, 8, 4, 2, 1)), 64, (3, 128, 128), "pytorch-dcgan"),
        (BlocksDcgan, 16, (1, 16, 16), "pytorch-dcgan"),
        (PytorchGan, 20, (1, 16, 16), "pytorch-gan-dcgan"),
        (lambda: PytorchGan(100, 64, 3, 16), 100, (3, 64, 64), "pytorch-gan-dcgan"),
        (DocumentGenerator, 100, (1, 28, 28), "reference"),
    ],
)
def test_a_known_layout_gives_the_images_of_its_own_class(
    tmp_path: Path,
    make: Callable[[], nn.Module],
    latent_dim: int,
    image_shape: tuple[int, int, int],
    layout: str,
) -> None:
    module = trained(make())
    loaded = load_generator(saved(tmp_path, module.state_dict()))
    assert (loaded.spec.latent_dim, loaded.spec.image_shape) == (latent_dim, image_shape)
    assert json.loads(loaded.source)["layout"] == layout
    assert_same_images(loaded, module, isinstance(module, PytorchDcgan | BlocksDcgan))
    assert list(loaded.module.state_dict()) == list(module.state_dict())


def test_older_copies_of_pytorch_gan_have_another_name(tmp_path: Path) -> None:
    module = trained(PytorchGan())
    renamed = {name.replace("conv_blocks", "conv_model"): t for name, t in module.state_dict().items()}
    assert_same_images(load_generator(saved(tmp_path, renamed)), module)


@pytest.mark.parametrize("prefix", ["", "gen.", "model.layers.", "hidden.", "train."])
def test_the_name_before_the_numbers_is_free(tmp_path: Path, prefix: str) -> None:
    module = trained(PytorchDcgan(8, 4, 3, (2, 1)))
    renamed = {name.replace("main.", prefix, 1): t for name, t in module.state_dict().items()}
    assert_same_images(load_generator(saved(tmp_path, renamed)), module, as_maps=True)


def test_activation_before_batchnorm_is_seen_in_the_numbers(tmp_path: Path) -> None:
    main = nn.Sequential(
        nn.ConvTranspose2d(8, 6, 4),
        nn.ReLU(),
        nn.BatchNorm2d(6),
        nn.ConvTranspose2d(6, 4, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 1, 4, 2, 1),
        nn.Tanh(),
    )
    module = trained(main)
    assert_same_images(load_generator(saved(tmp_path, module.state_dict())), module, as_maps=True)


def test_what_is_assumed_is_told_recorded_and_can_be_overridden(tmp_path: Path) -> None:
    path = saved(tmp_path, trained(PytorchDcgan(8, 4, 3, (2, 1))).state_dict())
    plain = load_generator(path)
    assert json.loads(plain.source) == {
        "assumed": {
            "activation": "relu",
            "eps": "1e-05",
            "inputs": "latent only",
            "output": "tanh",
            "padding": "0, then 1",
            "stride": "1, then 2",
        },
        "given": {},
        "key": "",
        "layout": "pytorch-dcgan",
        "prefix": "",
    }
    assert "recognised as PyTorch's DCGAN example" in plain.notes
    assert any("activation relu; eps 1e-05; output tanh" in note for note in plain.notes)
    said = load_generator(path, Hints(activation=Activation("leaky-relu", 0.2), output=SIGMOID, eps=0.01))
    hidden = [layer.function for layer in said.spec.layers if isinstance(layer, Activate)]
    assert hidden == [Activation("leaky-relu", 0.2), Activation("leaky-relu", 0.2), SIGMOID]
    assert {layer.eps for layer in said.spec.layers if isinstance(layer, BatchNorm)} == {0.01}
    assert said.spec.value_range == (0.0, 1.0)
    facts = json.loads(said.source)
    assert facts["given"] == {"activation": "leaky-relu:0.2", "eps": "0.01", "output": "sigmoid"}
    assert facts["assumed"].keys() == {"inputs", "padding", "stride"}
    assert not torch.equal(images(said.module, torch.ones(1, 8)), images(plain.module, torch.ones(1, 8)))


def test_pytorch_gan_s_three_eps_are_assumed_and_one_can_be_given(tmp_path: Path) -> None:
    path = saved(tmp_path, trained(PytorchGan()).state_dict())
    assert json.loads(load_generator(path).source)["assumed"]["eps"] == "1e-05, 0.8, 0.8"
    layers = load_generator(path, Hints(eps=1e-5)).spec.layers
    assert {layer.eps for layer in layers if isinstance(layer, BatchNorm)} == {1e-5}


def test_a_reference_state_dict_with_classes_needs_their_number(tmp_path: Path) -> None:
    path = saved(tmp_path, DocumentGenerator().state_dict())
    loaded = load_generator(path, Hints(num_classes=10, class_names=tuple("abcdefghij")))
    assert (loaded.spec.latent_dim, loaded.spec.num_classes) == (90, 10)
    assert loaded.spec.class_names == tuple("abcdefghij")
    with pytest.raises(CheckpointError, match="10 class names for 0 classes"):
        load_generator(path, Hints(class_names=tuple("abcdefghij")))


def test_a_foreign_safetensors_file_is_recognised(tmp_path: Path) -> None:
    module = trained(PytorchGan())
    safetensors.torch.save_file(module.state_dict(), tmp_path / "theirs.pth")  # by content, not by suffix
    assert_same_images(load_generator(tmp_path / "theirs.pth"), module)


def with_gap(module: nn.Module) -> dict[str, Tensor]:
    """As if two modules lay where one activation was."""
    return {
        f"main.{int(number) + (int(number) > 2)}.{rest}": tensor
        for name, tensor in module.state_dict().items()
        for _, number, rest in [name.split(".", 2)]
    }


def without_gap(module: nn.Module) -> dict[str, Tensor]:
    return {
        f"main.{int(number) - (int(number) > 2)}.{rest}": tensor
        for name, tensor in module.state_dict().items()
        for _, number, rest in [name.split(".", 2)]
    }


def shifted(module: nn.Module) -> dict[str, Tensor]:
    return {
        f"main.{int(number) + 1}.{rest}": tensor
        for name, tensor in module.state_dict().items()
        for _, number, rest in [name.split(".", 2)]
    }


def small() -> nn.Module:
    return PytorchDcgan(8, 4, 3, (2, 1))


def other_kernel() -> nn.Module:
    module = small()
    assert isinstance(module.main, nn.Sequential)
    module.main[3] = nn.ConvTranspose2d(8, 4, 3, 2, bias=False)
    return module


def not_square() -> nn.Module:
    module = PytorchGan()
    module.l1[0] = nn.Linear(20, 32 * 4 * 5)
    return module


def acgan() -> dict[str, Tensor]:
    return {**PytorchGan().state_dict(), "label_emb.weight": torch.zeros(10, 20)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_gap(small()), "2 modules without tensors lie between main.1 and main.4"),
        (lambda: without_gap(small()), "no modules without tensors lie between main.1 and main.2"),
        (lambda: shifted(small()), "a module without tensors lies before main.1"),
        (lambda: other_kernel().state_dict(), "the 3x3 kernel of main.3 does not say its stride"),
        (lambda: not_square().state_dict(), "l1.0 gives 640 features, which are no 32 square maps"),
        (acgan, "acgan.py, whose labels go in, and of its sgan.py"),
        (lambda: NoStatistics().state_dict(), r"main.1 has no running statistics"),
    ],
)
def test_what_is_ambiguous_is_refused(tmp_path: Path, make: Callable[[], dict[str, Tensor]], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(saved(tmp_path, make()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        DocumentDiscriminator,
        PytorchDcganDiscriminator,
        Mlp,
        Conditional,
        lambda: nn.Sequential(nn.Linear(4, 4)),
        lambda: nn.ConvTranspose2d(4, 3, 4),
        # The rest of a generator that begins with a linear layer looks like a whole one.
        lambda: nn.ModuleDict({"fc": nn.Linear(4, 8), "main": small()}),
        lambda: PytorchDcgan(8, 4, 5, (2, 1)),  # five channels are no image
    ],
)
def test_an_unknown_layout_is_refused_with_what_is_known(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    module = make()
    with pytest.raises(CheckpointError, match="no generator of a known layout: found") as caught:
        load_generator(saved(tmp_path, module.state_dict()))
    assert next(iter(module.state_dict())) in str(caught.value)
    assert all(layout.origin in str(caught.value) for layout in LAYOUTS)
    assert str(caught.value).endswith("--module FILE.py:NAME is the certain way")


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        (Hints(latent_dim=50), "so latents of 8, not 50"),
        (Hints(num_classes=3), "how PyTorch's DCGAN example takes labels is not known"),
        (Hints(value_range=(0.0, 1.0)), "tanh gives values from -1 to 1"),
        (Hints(output=Activation("relu")), "the output is tanh or sigmoid"),
        (Hints(eps=0.0), "eps must be above 0"),
        (Hints(eps=float("nan")), "eps must be above 0"),
    ],
)
def test_hints_that_make_no_sense_are_refused(tmp_path: Path, hints: Hints, message: str) -> None:
    path = saved(tmp_path, small().state_dict())
    load_generator(path, Hints(latent_dim=8, num_classes=0, value_range=(-1.0, 1.0)))
    with pytest.raises(CheckpointError, match=message):
        load_generator(path, hints)


def test_shapes_alone_are_enough() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in small().state_dict().items()}
    found = recognise(shapes)
    assert found is not None
    assert found.inputs == 8
    assert recognise({}) is None
    assert recognise({"0.weight": (3,)}) is None
