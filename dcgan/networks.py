"""The networks, read top to bottom.

`Generator` and `Discriminator` are the document's, with its attribute names, so a `state_dict` saved by a copy of its
script loads with `strict=True`. What is unusual in them is deliberate: the activation comes before the BatchNorm,
nothing pools, D's input is not normalised, and all weights start at PyTorch's defaults.

The other discriminators are ours. A discriminator is never exported, so recipes are free to choose a better one.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from dcgan_infer.contract.errors import SpecError
from dcgan_infer.contract.spec import Activation, GeneratorSpec


def activation_module(activation: Activation) -> nn.Module:
    """The torch module of an activation."""
    if activation.name == "relu":
        return nn.ReLU()
    if activation.name == "leaky-relu":
        return nn.LeakyReLU(activation.parameter)
    if activation.name == "elu":
        return nn.ELU(activation.parameter)
    return nn.Softplus(activation.parameter)


def with_class(z: Tensor, label: Tensor | None, num_classes: int) -> Tensor:
    """Latents with the one-hot class beside them.

    Args:
        z: float, shape (N, latent_dim).
        label: int64, shape (N,), from 0 to num_classes - 1; None without classes.
        num_classes: 0 for none.
    Returns:
        Same dtype, shape (N, latent_dim + num_classes).
    Raises:
        ValueError: there is a label and no classes, or the reverse.
    """
    check_label(label, num_classes)
    if label is None:
        return z
    classes = torch.arange(num_classes, device=label.device)
    one_hot = torch.eq(label.unsqueeze(1), classes)  # compared, not scattered: every runtime can compare
    return torch.cat([z, one_hot.to(z.dtype)], 1)


def check_label(label: Tensor | None, num_classes: int) -> None:
    """Refuse a label where there are no classes, and the reverse.

    Raises:
        ValueError: as said.
    """
    if label is None and num_classes > 0:
        raise ValueError("this generator is conditional: it needs a label for each latent")
    if label is not None and num_classes == 0:
        raise ValueError("this generator is unconditional: it takes no labels")


class Generator(nn.Module):
    """Latents, and labels if it has classes, to images.

    Args:
        spec: sizes and activation; the default is the document's generator (1.75 M parameters). With classes the
            one-hot class stands beside the latent (Mirza and Osindero 2014, arXiv:1411.1784); all else is the same.
    """

    hidden = ("linear1", "decon1", "decon2")

    def __init__(self, spec: GeneratorSpec | None = None) -> None:
        super().__init__()
        self.spec = spec = spec or GeneratorSpec()
        first, second, third = spec.channels
        side = spec.base_side
        self.activation = activation_module(spec.activation)
        self.num_classes = spec.num_classes
        self.linear1 = nn.Linear(spec.latent_dim + spec.num_classes, first * side * side)
        self.bn1 = nn.BatchNorm1d(first * side * side)
        self.unflatten = nn.Unflatten(1, (first, side, side))
        self.decon1 = nn.ConvTranspose2d(first, second, kernel_size=3, stride=1, padding=1)
        self.bn2 = nn.BatchNorm2d(second)
        self.decon2 = nn.ConvTranspose2d(second, third, kernel_size=4, stride=2, padding=1)
        self.bn3 = nn.BatchNorm2d(third)
        self.decon3 = nn.ConvTranspose2d(third, spec.image_shape[0], kernel_size=4, stride=2, padding=1)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images of latents.

        Args:
            z: float, shape (N, latent_dim), drawn from N(0, 1).
            label: int64, shape (N,), from 0 to num_classes - 1; None for a generator without classes.
        Returns:
            Same dtype, shape (N, 1, 28, 28), range [-1, 1]; -1 is black.
        Raises:
            ValueError: there is a label and no classes, or the reverse.
        """
        z = with_class(z, label, self.num_classes)  # (N, latent_dim + num_classes)
        x = self.bn1(self.activation(self.linear1(z)))  # (N, 12544)
        x = self.unflatten(x)  # (N, 256, 7, 7)
        x = self.bn2(self.activation(self.decon1(x)))  # (N, 128, 7, 7)
        x = self.bn3(self.activation(self.decon2(x)))  # (N, 64, 14, 14)
        return torch.tanh(self.decon3(x))  # (N, 1, 28, 28)


class Discriminator(nn.Module):
    """The document's discriminator: images to one unbounded score each.

    Args:
        activation: after both convolutions.
        dropout: share of feature maps that `Dropout2d` drops.
        num_classes: 0: it judges no labels.
    Raises:
        SpecError: it is to judge labels.
    """

    hidden = ("conv1", "conv2")
    normalises_batch = True  # an image's score depends on the others in its batch

    def __init__(
        self, activation: Activation = Activation("leaky-relu", 0.01), dropout: float = 0.5, num_classes: int = 0
    ) -> None:
        super().__init__()
        if num_classes:
            raise SpecError("the document's discriminator judges no labels")
        self.activation = activation_module(activation)
        self.dropout = nn.Dropout2d(dropout)
        self.conv1 = nn.Conv2d(1, 64, kernel_size=3, stride=2)
        self.conv2 = nn.Conv2d(64, 128, kernel_size=3, stride=2)
        self.bn = nn.BatchNorm2d(128)
        self.fc = nn.Linear(128 * 6 * 6, 1)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG002  as its peer below takes
        """Scores of images.

        Args:
            x: float, shape (N, 1, 28, 28), range [-1, 1].
            label: None.
        Returns:
            Shape (N, 1): high for what looks real.
        """
        x = self.dropout(self.activation(self.conv1(x)))  # (N, 64, 13, 13)
        x = self.dropout(self.activation(self.conv2(x)))  # (N, 128, 6, 6)
        x = self.bn(x)
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]  # (N, 1)


class SpectralDiscriminator(nn.Module):
    """One convolution deeper, every layer spectrally normalised (Miyato et al. 2018, arXiv:1802.05957).

    Args:
        activation: after the three convolutions.
        dropout: share of feature maps that `Dropout2d` drops.
        num_classes: of the labels it judges images by, projected on the features (Miyato and Koyama 2018,
            arXiv:1802.05637); 0 for none.
    """

    hidden = ("conv1", "conv2", "conv3")
    normalises_batch = False

    def __init__(
        self, activation: Activation = Activation("leaky-relu", 0.2), dropout: float = 0.1, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.activation = activation_module(activation)
        self.dropout = nn.Dropout2d(dropout)
        self.conv1 = spectral_norm(nn.Conv2d(1, 64, kernel_size=4, stride=2, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(64, 128, kernel_size=4, stride=2, padding=1))
        self.conv3 = spectral_norm(nn.Conv2d(128, 128, kernel_size=3, stride=2, padding=1))
        self.fc = spectral_norm(nn.Linear(128 * 4 * 4, 1))
        self.embedding = spectral_norm(nn.Embedding(num_classes, 128 * 4 * 4)) if num_classes else None

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Scores of images.

        Args:
            x: float, shape (N, 1, 28, 28), range [-1, 1].
            label: int64, shape (N,); None if it judges no labels.
        Returns:
            Shape (N, 1): high for what looks real, and like its label.
        """
        x = self.dropout(self.activation(self.conv1(x)))  # (N, 64, 14, 14)
        x = self.dropout(self.activation(self.conv2(x)))  # (N, 128, 7, 7)
        x = self.dropout(self.activation(self.conv3(x)))  # (N, 128, 4, 4)
        features = x.flatten(1)  # (N, 2048)
        scores: Tensor = self.fc(features)  # (N, 1)
        if self.embedding is not None:
            scores = scores + (self.embedding(label) * features).sum(1, keepdim=True)
        return scores


class DigitFeatures(nn.Module):
    """Feature maps of a small classifier, frozen once it is trained: what `ProjectedDiscriminator` looks at.

    Args:
        num_classes: it is trained to tell apart.
        channels: C, feature maps of the first layer; the others have twice as many.
    """

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        twice = 2 * channels
        self.conv1 = nn.Conv2d(1, channels, kernel_size=4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(channels, twice, kernel_size=4, stride=2, padding=1)
        self.conv3 = nn.Conv2d(twice, twice, kernel_size=3, stride=2, padding=1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(channels), nn.BatchNorm2d(twice), nn.BatchNorm2d(twice)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(twice * 4 * 4, num_classes)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Three scales of feature maps of images, shape (N, 1, 28, 28), range [-1, 1]."""
        first = F.leaky_relu(self.bn1(self.conv1(x)), 0.2)  # (N, C, 14, 14)
        second = F.leaky_relu(self.bn2(self.conv2(first)), 0.2)  # (N, 2C, 7, 7)
        third = F.leaky_relu(self.bn3(self.conv3(second)), 0.2)  # (N, 2C, 4, 4)
        return [first, second, third]

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (N, num_classes), of images, shape (N, 1, 28, 28), range [-1, 1]."""
        return self.fc(self.dropout(self.maps(x)[-1].flatten(1)))  # type: ignore[no-any-return]


class ProjectedDiscriminator(nn.Module):
    """A head on each scale of a frozen classifier's feature maps (Sauer et al. 2021, arXiv:2111.01007).

    There the features are ImageNet's; here those of a classifier of the training images, trained in the first seconds
    of a run. Its maps already tell what matters about a digit, so the heads have little to learn, and the generator
    gets useful gradients from the first step. The heads are spectrally normalised.

    Args:
        activation: of the heads' hidden layers.
        dropout: share of feature maps that `Dropout2d` drops in the heads.
        num_classes: of the labels it judges images by; 0 for none.
    """

    hidden = ("heads.0.0", "heads.0.3", "heads.1.0", "heads.2.0")
    normalises_batch = False
    channels = 32  # of the features' first layer; 64 is slower by a half and no better (docs/quality.md)

    def __init__(
        self, activation: Activation = Activation("leaky-relu", 0.2), dropout: float = 0.0, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.activation = act = activation_module(activation)
        drop = nn.Dropout2d(dropout)
        one, two = self.channels, 2 * self.channels
        self.features = DigitFeatures(10, one).eval().requires_grad_(False)
        first = (spectral_norm(nn.Conv2d(one, one, 4, 2, 1)), act, drop, spectral_norm(nn.Conv2d(one, 64, 3, 2, 1)))
        second = (spectral_norm(nn.Conv2d(two, 64, 3, 2, 1)),)
        third = (spectral_norm(nn.Conv2d(two, 64, 3, 1, 1)),)
        self.heads = nn.ModuleList(nn.Sequential(*layers, act, drop) for layers in (first, second, third))
        self.scores = nn.ModuleList(spectral_norm(nn.Conv2d(64, 1, 4)) for _ in self.heads)
        self.embeddings = nn.ModuleList(
            spectral_norm(nn.Embedding(num_classes, 64 * 4 * 4)) for _ in self.heads if num_classes
        )

    def train(self, mode: bool = True) -> ProjectedDiscriminator:
        """As `nn.Module.train`, but the frozen features stay in eval mode."""
        super().train(mode)
        self.features.eval()
        return self

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Scores of images.

        Args:
            x: float, shape (N, 1, 28, 28), range [-1, 1].
            label: int64, shape (N,); None if it judges no labels.
        Returns:
            Shape (N, 3), a score a scale: high for what looks real, and like its label.
        """
        scores = []
        for index, maps in enumerate(self.features.maps(x)):
            maps = self.heads[index](maps)  # (N, 64, 4, 4)
            score = self.scores[index](maps).flatten(1)  # (N, 1)
            if len(self.embeddings):
                score = score + (self.embeddings[index](label) * maps.flatten(1)).sum(1, keepdim=True)
            scores.append(score)
        return torch.cat(scores, 1)


AnyDiscriminator: TypeAlias = Discriminator | SpectralDiscriminator | ProjectedDiscriminator
DISCRIMINATORS: dict[str, type[AnyDiscriminator]] = {
    "document": Discriminator,
    "spectral": SpectralDiscriminator,
    "projected": ProjectedDiscriminator,
}
