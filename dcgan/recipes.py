"""Recipes: how a generator is trained, as data."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcgan_infer.contract.errors import DatasetError
from dcgan_infer.contract.layers import Activation

if TYPE_CHECKING:
    from .data import Dataset

SHOWN = 300_000  # images that a run shows where its recipe leaves the epochs open

# The names that fields of a recipe take; losses, networks, discriminators and augment hold what stands behind them.
CHOICES = {
    "labels": ("auto", "none", "latent", "asked"),
    "network": ("auto", "reference", "dcgan"),
    "initial_weights": ("torch", "normal"),
    "augment": ("none", "translation", "diffaugment"),
    "loss": ("least-squares", "non-saturating", "cross-entropy", "hinge"),
    "lr_schedule": ("constant", "linear"),
    "discriminator": ("document", "dcgan", "spectral", "projected", "mixed", "textured"),
    "precision": ("auto", "fp32", "bf16"),
}


_UNLABELLED = ("document", "dcgan")  # discriminators that judge no labels


@dataclass(frozen=True)
class Recipe:
    """Every choice of a training run but the data, the seed and the machine.

    A field that was added after version 0.1 has a default here, which means what the versions before it did: so their
    runs and checkpoints stay readable. `RECIPES` names every field all the same.

    Attributes:
        name: of the recipe the choices started from.
        labels: what the discriminator judges by. `none`: the image alone. `asked`: the label too, and the generator
            is asked for it, so it is conditional. `latent`: the label too, but the generator takes none: the largest
            of a latent's first numbers, one for each class, says which class its fake is judged as. `auto`: `latent`
            where the images have classes.
        epochs: passes over the training images; 0 for as many as show `SHOWN` images.
        batch_size: images in one step, of each kind.
        loss: one of `CHOICES`.
        g_lr: Adam's learning rate for the generator.
        d_lr: Adam's learning rate for the discriminator.
        beta1: Adam's decay of the mean of the gradients, both networks.
        beta2: Adam's decay of the mean of their squares, both networks.
        fused_adam: one kernel for Adam's whole step; faster, and its last bits differ from the plain loop's.
        lr_schedule: `constant`, or `linear` to 0 at the last step.
        discriminator: one of `CHOICES`.
        g_activation: of the generator's hidden layers.
        d_activation: of the discriminator's hidden layers.
        dropout: share of feature maps dropped in the discriminator.
        ema_decay: of the moving average of G's weights and BatchNorm statistics that is published, lower over
            the first steps; 0 publishes G itself.
        channels_last: keep weights and feature maps in NHWC order; faster, and last bits differ.
        precision: `fp32`, `bf16` (autocast), or `auto`: bf16 where the processor computes in it.
        network: the generator: the reference script's, PyTorch's DCGAN example's, or `auto`: the reference script's
            for grey images of 28x28, else the example's.
        latent_dim: length of a latent.
        ngf: feature maps before the generator's last layer.
        ndf: feature maps of the discriminator's first layer.
        initial_weights: PyTorch's defaults, or normal with a standard deviation of 0.02, as Radford et al. 2015
            (arXiv:1511.06434, section 4) say and PyTorch's DCGAN example does.
        positive_gamma: keep the factors (gamma) of the generator's BatchNorms at 0 or above, unless it starts with
            others: the reference script's in int8 is faster then.
        class_lr_factor: multiplies the steps of the generator's first weights where these meet what says the class: the
            label, or the latent's numbers that name it. Where they are large, few latents give a mix.
        augment: random changes of the images that the discriminator sees, of dcgan/augment.py.
        drop_last: leave out an epoch's last, smaller batch.
    """

    name: str
    labels: str
    epochs: int
    batch_size: int
    loss: str
    g_lr: float
    d_lr: float
    beta1: float
    beta2: float
    fused_adam: bool
    lr_schedule: str
    discriminator: str
    g_activation: Activation
    d_activation: Activation
    dropout: float
    ema_decay: float
    channels_last: bool
    precision: str
    network: str = "reference"
    latent_dim: int = 100
    ngf: int = 64
    ndf: int = 64
    initial_weights: str = "torch"
    positive_gamma: bool = False
    class_lr_factor: float = 1.0
    augment: str = "none"
    drop_last: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON-able values, in the order above."""
        return {
            field.name: str(value) if isinstance(value := getattr(self, field.name), Activation) else value
            for field in dataclasses.fields(self)
        }

    def to_json(self) -> str:
        """One line of JSON, fields in the order above."""
        return json.dumps(self.to_dict())

    def contradiction(self) -> str | None:
        """Which choices can't be had together, or None."""
        if self.labels in ("latent", "asked") and self.discriminator in _UNLABELLED:
            whose = "the reference script's" if self.discriminator == "document" else "PyTorch's DCGAN example's"
            return (
                f"{whose} discriminator judges no labels, and labels are {self.labels!r}; "
                "choose another --discriminator, or --labels none"
            )
        return None

    def settled(self, dataset: Dataset) -> Recipe:
        """Settle what depends on the images.

        Raises:
            DatasetError: the recipe asks for what the images can't give.
        """
        labels = self.labels
        if labels == "auto":
            can_be_named = 0 < dataset.num_classes <= self.latent_dim
            labels = "latent" if can_be_named and self.discriminator not in _UNLABELLED else "none"
        if labels != "none" and not dataset.num_classes:
            without = "leave out --conditional" if labels == "asked" else "choose --labels none"
            raise DatasetError(
                f"{dataset.name} has no classes, which labels {labels!r} need; put images of a class into a "
                f"subfolder of its name, or {without}"
            )
        if labels == "none" and self.class_lr_factor != 1.0:
            raise DatasetError("--class-lr-factor is for what says the class, and here nothing does; leave it out")
        if labels == "latent" and self.latent_dim < dataset.num_classes:
            raise DatasetError(
                f"--labels latent takes a number of the latent for each of the {dataset.num_classes} classes; give "
                "--latent-dim that many or more"
            )
        network = self.network
        if network == "auto":
            network = "reference" if dataset.image_shape == (1, 28, 28) else "dcgan"
        epochs = self.epochs or max(1, round(SHOWN / len(dataset)))
        return dataclasses.replace(self, labels=labels, network=network, epochs=epochs)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Recipe:
        """Read what `to_dict` made, in this version or an older one, whose fields are those without a default.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, unknown, or holds what it can't.
        """
        later = {
            field.name: str(field.default) if isinstance(field.default, Activation) else field.default
            for field in dataclasses.fields(cls)
            if field.default is not dataclasses.MISSING
        }
        fields = later | fields
        for name, names in CHOICES.items():
            if fields[name] not in names:
                raise ValueError(f"{name} is {fields[name]!r}")
        for name, value in (RECIPES[DEFAULT_RECIPE].to_dict() | later).items():
            if not isinstance(fields[name], (int, float) if isinstance(value, float) else type(value)):
                raise TypeError(f"{name} is {fields[name]!r}")
        activations = {
            field.name: Activation.parse(fields[field.name])
            for field in dataclasses.fields(cls)
            if field.type == "Activation"
        }
        return cls(**{**fields, **activations})


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # The reference script's recipe, to the letter.
        Recipe(
            name="baseline",
            labels="none",
            epochs=20,
            batch_size=4,
            loss="least-squares",
            g_lr=1e-4,
            d_lr=1e-5,
            beta1=0.9,
            beta2=0.999,
            fused_adam=False,
            lr_schedule="constant",
            discriminator="document",
            g_activation=Activation("relu"),
            d_activation=Activation("leaky-relu", 0.01),
            dropout=0.5,
            ema_decay=0.0,
            channels_last=False,
            precision="fp32",
            network="reference",
            latent_dim=100,
            ngf=64,
            ndf=64,
            initial_weights="torch",
            positive_gamma=False,
            class_lr_factor=1.0,
            augment="none",
            drop_last=True,
        ),
        # The same generator against a discriminator that sees with a classifier's eyes, sixteen times the batch,
        # eighty times the learning rate. docs/lab-notebook.md has the search that found it.
        Recipe(
            name="fast",
            labels="latent",
            epochs=14,
            batch_size=64,
            loss="hinge",
            g_lr=8e-3,
            d_lr=8e-3,
            beta1=0.5,  # Radford et al. 2015, arXiv:1511.06434, section 4
            beta2=0.999,
            fused_adam=True,
            lr_schedule="linear",
            discriminator="projected",
            g_activation=Activation("relu"),
            d_activation=Activation("leaky-relu", 0.2),
            dropout=0.0,
            ema_decay=0.999,
            channels_last=True,
            precision="auto",
            network="auto",
            latent_dim=100,
            ngf=64,
            ndf=64,
            initial_weights="torch",
            positive_gamma=False,
            class_lr_factor=1.0,
            augment="none",
            drop_last=True,
        ),
        # PyTorch's DCGAN example, to the letter; it makes images of 64x64.
        Recipe(
            name="dcgan",
            labels="none",
            epochs=25,
            batch_size=128,
            loss="cross-entropy",
            g_lr=2e-4,
            d_lr=2e-4,
            beta1=0.5,
            beta2=0.999,
            fused_adam=False,
            lr_schedule="constant",
            discriminator="dcgan",
            g_activation=Activation("relu"),
            d_activation=Activation("leaky-relu", 0.2),
            dropout=0.0,
            ema_decay=0.0,
            channels_last=False,
            precision="fp32",
            network="dcgan",
            latent_dim=100,
            ngf=64,
            ndf=64,
            initial_weights="normal",
            positive_gamma=False,
            class_lr_factor=1.0,
            augment="none",
            drop_last=False,
        ),
        # Images of anybody's, few and without labels perhaps. docs/lab-notebook.md has the search that found it.
        Recipe(
            name="images",
            labels="auto",
            epochs=0,
            batch_size=32,
            loss="hinge",
            g_lr=8e-3,
            d_lr=8e-3,
            beta1=0.5,
            beta2=0.999,
            fused_adam=True,
            lr_schedule="linear",
            discriminator="mixed",
            g_activation=Activation("relu"),
            d_activation=Activation("leaky-relu", 0.2),
            dropout=0.0,
            ema_decay=0.999,
            channels_last=True,
            precision="auto",
            network="auto",
            latent_dim=100,
            ngf=32,
            ndf=32,
            initial_weights="torch",
            positive_gamma=False,
            class_lr_factor=1.0,
            augment="none",
            drop_last=True,
        ),
    )
}
DEFAULT_RECIPE = "fast"  # of MNIST and its kin
IMAGES_RECIPE = "images"  # of all others
