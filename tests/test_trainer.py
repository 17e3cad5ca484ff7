from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from document import DocumentLoop
from pytorch_dcgan import PytorchDcganLoop

from dcgan.data import Dataset
from dcgan.networks import Generator
from dcgan.recipes import RECIPES, Recipe
from dcgan.trainer import Trainer, resolve_device, resolve_precision
from dcgan_infer.contract.errors import DatasetError, DeviceError
from dcgan_infer.contract.layers import TANH, Activate, ConvTranspose, Unflatten
from dcgan_infer.contract.spec import GeneratorSpec

CPU = torch.device("cpu")
FAST = dataclasses.replace(
    RECIPES["fast"], batch_size=8, precision="fp32", discriminator="spectral", g_lr=1e-3, d_lr=1e-3, labels="none"
)


def dataset_of(images: npt.NDArray[np.uint8]) -> Dataset:
    return Dataset(images, np.arange(len(images), dtype=np.uint8) % 10, tuple("0123456789"), "mnist")


def trained(recipe: Recipe, images: npt.NDArray[np.uint8], steps: int) -> Trainer:
    trainer = Trainer(recipe, dataset_of(images), CPU, seed=0)
    for index in range(steps):
        trainer.step(*trainer.batch(torch.arange(recipe.batch_size) + index))
    return trainer


def test_baseline_equals_the_document_s_loop_bit_for_bit(sample_images: npt.NDArray[np.uint8]) -> None:
    steps, batch = 5, RECIPES["baseline"].batch_size
    trainer = trained(RECIPES["baseline"], sample_images, steps)

    torch.manual_seed(0)
    loop = DocumentLoop()
    # What ToTensor and Normalize(0.5, 0.5) do to an image of bytes.
    real = (torch.from_numpy(sample_images).unsqueeze(1).to(torch.float32) / 255 - 0.5) / 0.5
    d_loss, g_loss = loop.train(real[index : index + batch] for index in range(steps))

    for ours, theirs in ((trainer.generator, loop.generator), (trainer.discriminator, loop.discriminator)):
        expected = theirs.state_dict()
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, expected[name]), name
    assert (trainer.epoch_losses / steps).tolist() == pytest.approx([d_loss, g_loss], rel=1e-6)


def test_dcgan_equals_pytorch_s_example_bit_for_bit() -> None:
    """At full width; the last batch is a smaller one."""
    recipe = dataclasses.replace(RECIPES["dcgan"], batch_size=5)
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    trainer = Trainer(recipe, Dataset(images), CPU, seed=0)
    assert trainer.steps_per_epoch == 2
    order = trainer.order(0)
    for indices in order.split(5):  # type: ignore[no-untyped-call]
        trainer.step(*trainer.batch(indices))

    torch.manual_seed(0)
    loop = PytorchDcganLoop()
    real = (torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32) / 255 - 0.5) / 0.5
    d_loss, g_loss = loop.train(real[order].split(5))  # type: ignore[no-untyped-call]

    for ours, theirs in ((trainer.generator, loop.generator), (trainer.discriminator, loop.discriminator)):
        expected = theirs.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, expected[name]), name
    assert (trainer.epoch_losses / 2).tolist() == pytest.approx([d_loss, g_loss], rel=1e-6)


@pytest.mark.parametrize("change", [{"g_lr": 1.001e-4}, {"d_lr": 1.001e-5}, {"beta1": 0.91}, {"dropout": 0.4}])
def test_that_comparison_sees_a_small_change(sample_images: npt.NDArray[np.uint8], change: dict[str, float]) -> None:
    before = trained(RECIPES["baseline"], sample_images, 2)
    after = trained(dataclasses.replace(RECIPES["baseline"], **change), sample_images, 2)  # type: ignore[arg-type]
    assert not all(
        torch.equal(now, then)
        for network in ("generator", "discriminator")
        for now, then in zip(
            getattr(before, network).state_dict().values(), getattr(after, network).state_dict().values(), strict=True
        )
    )


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own(sample_images: npt.NDArray[np.uint8]) -> None:
    trainer = Trainer(FAST, dataset_of(sample_images), CPU, seed=4)
    first, second = trainer.order(0), trainer.order(1)
    assert sorted(first.tolist()) == list(range(64))
    assert not torch.equal(first, second)
    assert torch.equal(first, Trainer(FAST, dataset_of(sample_images), CPU, seed=4).order(0))
    assert not torch.equal(first, Trainer(FAST, dataset_of(sample_images), CPU, seed=5).order(0))


def test_learning_rates_fall_linearly_to_the_last_step(sample_images: npt.NDArray[np.uint8]) -> None:
    trainer = Trainer(dataclasses.replace(FAST, epochs=1), dataset_of(sample_images), CPU, seed=0)
    rates = []
    for index in range(trainer.total_steps):
        trainer.step(*trainer.batch(torch.arange(8) + index))
        rates.append(trainer.g_optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3 * (1 - index / 8) for index in range(8)])


def test_the_average_follows_the_weights_and_the_batchnorm_statistics(sample_images: npt.NDArray[np.uint8]) -> None:
    trainer = trained(FAST, sample_images, 3)
    before = copy.deepcopy(trainer.average.state_dict())
    trainer.step(*trainer.batch(torch.arange(8)))
    now, average = trainer.generator.state_dict(), trainer.average.state_dict()
    decay = (1 + 3) / (10 + 3)
    for name in ("decon1.weight", "bn2.running_mean", "bn2.running_var"):
        torch.testing.assert_close(average[name], decay * before[name] + (1 - decay) * now[name])
        assert not torch.equal(average[name], now[name])


def test_the_discriminator_gets_no_gradient_from_the_generator_s_step(sample_images: npt.NDArray[np.uint8]) -> None:
    trainer = Trainer(dataclasses.replace(FAST, d_lr=1e-30), dataset_of(sample_images), CPU, seed=0)
    seen: list[bool] = []
    trainer.g_optimizer.register_step_pre_hook(
        lambda *_: seen.extend(parameter.requires_grad for parameter in trainer.discriminator.parameters())
    )
    trainer.step(*trainer.batch(torch.arange(8)))
    assert seen == [False] * len(seen) != []
    assert all(parameter.requires_grad for parameter in trainer.discriminator.parameters())


def test_bf16_trains_and_keeps_fp32_weights(sample_images: npt.NDArray[np.uint8]) -> None:
    trainer = trained(dataclasses.replace(FAST, precision="bf16"), sample_images, 2)
    assert torch.isfinite(trainer.epoch_losses).all()
    assert {parameter.dtype for parameter in trainer.generator.parameters()} == {torch.float32}


def test_devices_and_precision_are_resolved() -> None:
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("auto", CPU) in ("fp32", "bf16")
    if not torch.cuda.is_available():
        assert resolve_device("auto") == CPU
        with pytest.raises(DeviceError, match="--device cpu"):
            resolve_device("cuda")


def test_labels_reach_both_networks(sample_images: npt.NDArray[np.uint8]) -> None:
    trainer = trained(dataclasses.replace(FAST, labels="asked"), sample_images, 2)
    assert trainer.spec.num_classes == 10
    z = torch.randn(1, 100).expand(10, -1)
    images = trainer.average.eval()(z, torch.arange(10))
    assert len({image.detach().numpy().tobytes() for image in images}) == 10
    before = copy.deepcopy(trainer.discriminator.state_dict())
    trainer.step(*trainer.batch(torch.arange(8)))
    changed = {
        name for name, tensor in trainer.discriminator.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert any(name.startswith("embedding") for name in changed)


def test_a_latent_names_the_digit_its_fake_is_judged_as(sample_images: npt.NDArray[np.uint8]) -> None:
    trainer = Trainer(dataclasses.replace(FAST, labels="latent"), dataset_of(sample_images), CPU, seed=0)
    assert trainer.spec.num_classes == 0
    seen: list[Any] = []
    trainer.generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    trainer.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    real, label = trainer.batch(torch.arange(8))
    trainer.step(real, label)
    (z, asked), (both, labels), (_, again) = seen
    assert asked is None
    assert len(both) == 16
    assert torch.equal(labels[:8], torch.arange(8))
    assert torch.equal(labels[8:], again)
    assert torch.equal(again, z[:, :10].argmax(1))  # digits are not quite even, and named evenly


def test_latents_name_uneven_classes_as_often_as_they_are(
    sample_images: npt.NDArray[np.uint8],
) -> None:
    labels = np.repeat([0, 1, 2], [40, 8, 16])
    trainer = Trainer(
        dataclasses.replace(FAST, labels="latent"), Dataset(sample_images, labels, ("a", "b", "c")), CPU, seed=0
    )
    named = trainer._named(torch.randn(20_000, 100, generator=torch.Generator().manual_seed(1)))
    shares = torch.bincount(named) / len(named)
    torch.testing.assert_close(shares, torch.tensor([40, 8, 16]) / 64, atol=0.01, rtol=0)


@pytest.mark.parametrize("discriminator", ["projected", "mixed", "textured"])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_projected_discriminator_trains_its_heads_and_not_its_features(
    sample_images: npt.NDArray[np.uint8], discriminator: str, labelled: bool
) -> None:
    dataset = dataset_of(sample_images) if labelled else Dataset(sample_images)
    trainer = Trainer(dataclasses.replace(FAST, discriminator=discriminator), dataset, CPU, seed=0)
    at_first = copy.deepcopy(trainer.discriminator.state_dict())
    states = []
    for index in range(2):
        trainer.step(*trainer.batch(torch.arange(8) + index))
        states.append(copy.deepcopy(trainer.discriminator.state_dict()))
    for name, tensor in states[1].items():
        frozen = name.startswith("features.")
        # What the hinge pulls up of all real images and down of all fakes can stay where it is: a score's bias.
        may_stay = name.endswith(("._u", "._v")) or (name.startswith("scores.") and name.endswith("bias"))
        assert torch.equal(tensor, states[0][name]) == frozen or may_stay, name
    assert not torch.equal(states[0]["features.fc.weight"], at_first["features.fc.weight"])  # before the first step
    assert len(states[0]["features.fc.bias"]) == (10 if labelled else 4)  # how it was turned
    assert torch.isfinite(trainer.epoch_losses).all()


@pytest.mark.parametrize("positive", [True, False])
def test_factors_of_batchnorm_stay_positive_where_they_are_to(
    sample_images: npt.NDArray[np.uint8], positive: bool
) -> None:
    trainer = Trainer(dataclasses.replace(FAST, positive_gamma=positive), dataset_of(sample_images), CPU, seed=0)
    norms = [module for module in trainer.generator.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    with torch.no_grad():
        norms[0].weight.fill_(1e-4)  # a step is 8e-3
    trainer.step(*trainer.batch(torch.arange(8)))
    assert norms[0].weight.min() == 0 if positive else norms[0].weight.min() < 0
    start = copy.deepcopy(trainer.generator)
    recipe = dataclasses.replace(FAST, positive_gamma=positive)
    for factor in (1e-4, -1.0):  # of one to go on from
        with torch.no_grad():
            start.get_parameter("bn1.weight").fill_(factor)
        tuned = Trainer(recipe, dataset_of(sample_images), CPU, seed=0, start=start)
        tuned.step(*tuned.batch(torch.arange(8)))
        least = tuned.generator.get_parameter("bn1.weight").min()
        assert least == 0 if positive and factor > 0 else least < 0


@pytest.mark.parametrize(("labels", "classes"), [("latent", slice(0, 10)), ("asked", slice(100, 110))])
@pytest.mark.parametrize("network", ["reference", "dcgan"])
def test_what_says_the_class_learns_as_fast_as_asked(
    sample_images: npt.NDArray[np.uint8], labels: str, classes: slice, network: str
) -> None:
    steps = []
    for factor in (1.0, 4.0):
        recipe = dataclasses.replace(FAST, labels=labels, network=network, class_lr_factor=factor)
        trainer = Trainer(recipe, dataset_of(sample_images), CPU, seed=0)
        trainer.load_tensors(trainer.tensors(), 0)  # as a resumed run does
        weight = next(trainer.generator.parameters())
        before = weight.detach().clone()
        trainer.step(*trainer.batch(torch.arange(8)))
        step = weight.detach() - before
        steps.append(step if network == "reference" else step.transpose(0, 1))
    assert steps[0][:, classes].abs().max() > 0
    steps[0][:, classes] *= 4.0
    assert torch.allclose(steps[1], steps[0], atol=1e-7)


def test_a_factor_for_what_says_the_class_is_refused_where_nothing_does(sample_images: npt.NDArray[np.uint8]) -> None:
    recipe = dataclasses.replace(FAST, labels="latent", class_lr_factor=4.0)
    with pytest.raises(DatasetError, match="here nothing does"):
        Trainer(dataclasses.replace(recipe, labels="none"), dataset_of(sample_images), CPU, seed=0)
    layers = (Unflatten("u", (25, 2, 2)), ConvTranspose("t", 25, 1, (14, 14), (14, 14)), Activate("tanh", TANH))
    start = Generator(GeneratorSpec(100, (1, 28, 28), layers=layers))
    with pytest.raises(DatasetError, match="this one has t"):
        Trainer(recipe, dataset_of(sample_images), CPU, seed=0, start=start)


def test_scores_of_one_large_batch_are_those_of_two(sample_images: npt.NDArray[np.uint8]) -> None:
    trainer = Trainer(dataclasses.replace(FAST, labels="asked"), dataset_of(sample_images), CPU, seed=0)
    trainer.discriminator.eval()
    real, label = trainer.batch(torch.arange(8))
    fake = torch.randn_like(real)
    together = trainer._scores(real, label, fake, label)
    for scores, images in zip(together, (real, fake), strict=True):
        torch.testing.assert_close(scores, trainer.discriminator(images, label))


def test_memory_order_changes_no_more_than_last_bits(sample_images: npt.NDArray[np.uint8]) -> None:
    nhwc, nchw = (trained(dataclasses.replace(FAST, channels_last=order), sample_images, 1) for order in (True, False))
    assert nhwc.generator.get_parameter("decon1.weight").is_contiguous(memory_format=torch.channels_last)
    assert nchw.generator.get_parameter("decon1.weight").is_contiguous()
    torch.testing.assert_close(nhwc.epoch_losses, nchw.epoch_losses, rtol=1e-4, atol=1e-5)


def test_augmentation_changes_what_the_discriminator_sees(sample_images: npt.NDArray[np.uint8]) -> None:
    trainer = Trainer(dataclasses.replace(FAST, augment="diffaugment"), dataset_of(sample_images), CPU, seed=0)
    seen: list[torch.Tensor] = []
    trainer.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    real, label = trainer.batch(torch.arange(8))
    trainer.step(real, label)
    both, fake = seen
    assert not torch.equal(both[:8], real)
    assert not torch.equal(both[8:], fake)  # each time in another way
