from __future__ import annotations

import pytest
import torch
from document import DocumentDiscriminator, DocumentGenerator

from dcgan.activity import measure_activity
from dcgan.augment import AUGMENTATIONS
from dcgan.discriminators import (
    DISCRIMINATORS,
    Discriminator,
    MixedDiscriminator,
    ProjectedDiscriminator,
    SpectralDiscriminator,
    TexturedDiscriminator,
)
from dcgan.losses import LOSSES
from dcgan.networks import Generator
from dcgan.recipes import CHOICES, RECIPES, Recipe
from dcgan_infer.contract.layers import Activation
from dcgan_infer.contract.spec import reference_spec


def test_state_dicts_of_the_document_load_and_compute_the_same() -> None:
    z, images = torch.randn(3, 100), torch.rand(3, 1, 28, 28)
    for theirs, ours, x in ((DocumentGenerator(), Generator(), z), (DocumentDiscriminator(), Discriminator(), images)):
        ours.load_state_dict(theirs.state_dict(), strict=True)
        assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_initial_weights_are_the_document_s() -> None:
    torch.manual_seed(3)
    theirs = DocumentGenerator().state_dict()
    torch.manual_seed(3)
    ours = Generator().state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@pytest.mark.parametrize("activation", ["relu", "leaky-relu:0.2", "elu", "softplus:2"])
def test_shapes_and_range_for_every_activation(activation: str) -> None:
    generator = Generator(reference_spec(activation=Activation.parse(activation)))
    images = generator(torch.randn(5, 100))
    assert images.shape == (5, 1, 28, 28)
    assert images.abs().max() <= 1
    for discriminator in DISCRIMINATORS.values():
        scores = discriminator(images.shape[1:], Activation.parse(activation))(images)
        on_features = 3 if issubclass(discriminator, ProjectedDiscriminator) else 0
        on_pixels = 0 if discriminator is ProjectedDiscriminator else 1
        assert scores.shape == (5, on_features + on_pixels)


def test_a_class_is_one_hot_beside_the_latent() -> None:
    generator = Generator(reference_spec(num_classes=10)).eval()
    assert generator.get_parameter("linear1.weight").shape[1] == 110
    z, label = torch.randn(5, 100), torch.tensor([0, 3, 9, 3, 7])
    plain = Generator(reference_spec(latent_dim=110)).eval()
    plain.load_state_dict(generator.state_dict())
    assert torch.equal(generator(z, label), plain(torch.cat([z, torch.eye(10)[label]], 1)))


def test_labels_are_for_conditional_generators_only() -> None:
    with pytest.raises(ValueError, match="is conditional"):
        Generator(reference_spec(num_classes=10))(torch.randn(2, 100))
    with pytest.raises(ValueError, match="is unconditional"):
        Generator()(torch.randn(2, 100), torch.tensor([1, 2]))


@pytest.mark.parametrize(
    "discriminator",
    [SpectralDiscriminator, ProjectedDiscriminator, MixedDiscriminator, TexturedDiscriminator],
)
def test_a_discriminator_judges_by_its_labels(
    discriminator: type[SpectralDiscriminator] | type[ProjectedDiscriminator],
) -> None:
    judge = discriminator(num_classes=10).eval()
    images = torch.randn(4, 1, 28, 28)
    scores = [judge(images, torch.full((4,), label)) for label in range(10)]
    assert len({float(score[0, 0].detach()) for score in scores}) == 10


def test_every_choice_of_a_recipe_exists() -> None:
    assert set(CHOICES["loss"]) == LOSSES.keys()
    assert set(CHOICES["discriminator"]) == DISCRIMINATORS.keys()
    assert set(CHOICES["augment"]) == AUGMENTATIONS.keys()
    for recipe in RECIPES.values():
        assert Recipe.from_dict(recipe.to_dict()) == recipe
        assert all(getattr(recipe, field) in names for field, names in CHOICES.items())


def test_activity_counts_active_and_dead_units() -> None:
    generator = Generator(reference_spec(4, (1, 8, 8), channels=(4, 4, 4)))
    with torch.no_grad():
        generator.get_parameter("decon1.weight").zero_()  # of its four channels ...
        generator.state_dict()["decon1.bias"].copy_(
            torch.tensor([1.0, 1.0, 1.0, -1.0])
        )  # ... three always fire and one never does
    layers = {layer.layer: layer for layer in measure_activity(generator, [(torch.randn(8, 4),)] * 2)}
    assert list(layers) == ["linear1", "decon1", "decon2"]
    assert layers["decon1"].active == pytest.approx(0.75)
    assert layers["decon1"].dead == pytest.approx(0.25)
    assert 0.2 < layers["linear1"].active < 0.8
    assert generator.training


def test_a_unit_that_fires_in_one_batch_only_is_not_dead() -> None:
    generator = Generator(reference_spec(1, (1, 4, 4), channels=(1, 1, 1)))
    with torch.no_grad():
        generator.get_parameter("linear1.weight").fill_(1.0)
        generator.get_parameter("linear1.bias").zero_()
    batches = [(torch.full((2, 1), value),) for value in (-1.0, 1.0)]
    assert measure_activity(generator, batches)[0].dead == 0.0
    assert measure_activity(generator, batches[:1])[0].dead == 1.0
