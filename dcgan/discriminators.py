"""Discriminators, built from the shape and the number of classes of the images that they judge.

`Discriminator` is the reference script's, with its attribute names, so a `state_dict` saved by a copy of the script
loads with `strict=True`; nothing pools in it, and its input is not normalised. `DcganDiscriminator` is PyTorch's DCGAN
example. The others are ours: a discriminator is never exported, so recipes are free to choose a better one.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from dcgan_infer.contract.errors import SpecError
from dcgan_infer.contract.layers import Activation

from .networks import activation_module

ImageShape: TypeAlias = tuple[int, int, int]  # channels, height, width

_GREY = (1, 28, 28)  # MNIST's images
_WHITE = 1 - 1 / 255  # of 256 levels from -1 to 1, what is above is the last
_SMALLEST = 4  # maps of this side are small enough to score at once


def halvings(side: int) -> list[tuple[int, int]]:
    """Convolutions of stride 2 and padding 1 that halve a side, rounding up, until it is 4 or less.

    Returns:
        The kernel of each, 4 for an even side and 3 for an odd one, and the side after it.
    """
    found = []
    while side > _SMALLEST:
        kernel = 3 if side % 2 else 4
        side = (side + 1) // 2
        found.append((kernel, side))
    return found


def _widths(first: int, count: int) -> list[int]:
    """Feature maps of `count` layers: each has twice as many as the one before, up to 8 times, but the last."""
    return [first * min(1 << min(index, max(count - 2, 0)), 8) for index in range(count)]


def _square(image_shape: ImageShape) -> tuple[int, int]:
    """Channels and side.

    Raises:
        SpecError: the images are not square, or too small to judge.
    """
    channels, height, width = image_shape
    if height != width or height <= _SMALLEST:
        raise SpecError(f"discriminators judge square images, larger than {_SMALLEST}, not {height}x{width}")
    return channels, height


class Discriminator(nn.Module):
    """The reference script's discriminator: images to one unbounded score each.

    Args:
        image_shape: (channels, height, width).
        activation: after both convolutions.
        dropout: share of feature maps that `Dropout2d` drops.
        num_classes: 0: it judges no labels.
        ndf: feature maps of the first convolution; the second has twice as many.
    Raises:
        SpecError: it is to judge labels, or images that are not square.
    """

    hidden = ("conv1", "conv2")
    normalises_batch = True  # an image's score depends on the others in its batch

    def __init__(
        self,
        image_shape: ImageShape = _GREY,
        activation: Activation = Activation("leaky-relu", 0.01),
        dropout: float = 0.5,
        num_classes: int = 0,
        ndf: int = 64,
    ) -> None:
        super().__init__()
        if num_classes:
            raise SpecError("the reference script's discriminator judges no labels")
        channels, side = _square(image_shape)
        for _ in range(2):
            side = (side - 3) // 2 + 1
        self.activation = activation_module(activation)
        self.activations = (self.activation,)
        self.dropout = nn.Dropout2d(dropout)
        self.conv1 = nn.Conv2d(channels, ndf, kernel_size=3, stride=2)
        self.conv2 = nn.Conv2d(ndf, 2 * ndf, kernel_size=3, stride=2)
        self.bn = nn.BatchNorm2d(2 * ndf)
        self.fc = nn.Linear(2 * ndf * side * side, 1)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG002  as its peers below take
        """Scores of images.

        Args:
            x: float, shape (N, C, S, S), range [-1, 1].
            label: None.
        Returns:
            Shape (N, 1): high for what looks real.
        """
        x = self.dropout(self.activation(self.conv1(x)))  # (N, 64, 13, 13) of 28x28
        x = self.dropout(self.activation(self.conv2(x)))  # (N, 128, 6, 6)
        x = self.bn(x)
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]  # (N, 1)


class DcganDiscriminator(nn.Module):
    """PyTorch's DCGAN example's discriminator, of a side that is 4 to 7 times a power of two; its names, no sigmoid.

    The sigmoid is in the loss `cross-entropy`, so that a score here means what it means everywhere: any number.

    Args:
        image_shape: (channels, height, width).
        activation: after each convolution.
        dropout: share of feature maps that `Dropout2d` drops; the example drops none.
        num_classes: 0: it judges no labels.
        ndf: feature maps of the first convolution; each other has twice as many, up to 8 times.
    Raises:
        SpecError: it is to judge labels, or images of another side.
    """

    normalises_batch = True

    def __init__(
        self,
        image_shape: ImageShape = (3, 64, 64),
        activation: Activation = Activation("leaky-relu", 0.2),
        dropout: float = 0.0,
        num_classes: int = 0,
        ndf: int = 64,
    ) -> None:
        super().__init__()
        if num_classes:
            raise SpecError("the DCGAN example's discriminator judges no labels")
        channels, side = _square(image_shape)
        self.dropout = nn.Dropout2d(dropout)
        self.main = nn.Sequential()
        hidden, activations = [], []
        width = ndf
        while side % 2 == 0 and side > _SMALLEST:
            number = len(self.main)
            hidden.append(f"main.{number}")
            self.main.append(nn.Conv2d(channels, width, 4, 2, 1, bias=False))
            if number:  # the example normalises all layers but the first and the last
                self.main.append(nn.BatchNorm2d(width))
            activations.append(activation_module(activation))
            self.main.append(activations[-1])
            channels, width, side = width, min(2 * width, 8 * ndf), side // 2
        if side > 7 or not hidden:
            raise SpecError(
                f"the DCGAN example's discriminator takes 4 to 7 times a power of two, not {image_shape[1]}"
            )
        self.main.append(nn.Conv2d(channels, 1, side, 1, 0, bias=False))
        self.hidden, self.activations = tuple(hidden), tuple(activations)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Scores of images.

        Args:
            x: float, shape (N, C, S, S), range [-1, 1].
            label: None.
        Returns:
            Shape (N, 1): high for what looks real.
        """
        for layer in self.main:
            x = layer(x)
            if layer in self.activations:
                x = self.dropout(x)
        return x.flatten(1)  # (N, 1)


def _score(features: Tensor, score: nn.Module, embedding: nn.Module | None, label: Tensor | None) -> Tensor:
    """Scores of features by a layer of one output, and by labels: their projection (Miyato and Koyama 2018,
    arXiv:1802.05637), which is more weights for the same product.

    Args:
        features: shape (N, F).
        score: a linear layer of them, or a convolution as large as the maps that they were.
        embedding: of the labels, in F numbers; None where they are not judged.
        label: int64, shape (N,).
    Returns:
        Shape (N, 1).
    """
    weight: Tensor = score.weight.flatten(1)  # type: ignore[operator]  # (1, F)
    if embedding is not None:
        weight = weight + embedding(label)  # (N, F)
    return (weight * features).sum(1, keepdim=True) + score.bias  # type: ignore[operator]


class SpectralDiscriminator(nn.Module):
    """Convolutions down to a side of 4, every layer spectrally normalised (Miyato et al. 2018, arXiv:1802.05957).

    Args:
        image_shape: (channels, height, width).
        activation: after the convolutions.
        dropout: share of feature maps that `Dropout2d` drops.
        num_classes: of the labels it judges images by; 0 for none.
        ndf: feature maps of the first convolution.
    Raises:
        SpecError: the images are not square.
    """

    normalises_batch = False

    def __init__(
        self,
        image_shape: ImageShape = _GREY,
        activation: Activation = Activation("leaky-relu", 0.2),
        dropout: float = 0.1,
        num_classes: int = 0,
        ndf: int = 64,
    ) -> None:
        super().__init__()
        channels, side = _square(image_shape)
        self.activation = activation_module(activation)
        self.activations = (self.activation,)
        self.dropout = nn.Dropout2d(dropout)
        steps = halvings(side)
        self.hidden = tuple(f"conv{number + 1}" for number in range(len(steps)))
        for name, (kernel, after), width in zip(self.hidden, steps, _widths(ndf, len(steps)), strict=True):
            self.add_module(name, spectral_norm(nn.Conv2d(channels, width, kernel, stride=2, padding=1)))
            channels, side = width, after
        features = channels * side * side
        self.fc = spectral_norm(nn.Linear(features, 1))
        self.embedding = spectral_norm(nn.Embedding(num_classes, features)) if num_classes else None

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Scores of images.

        Args:
            x: float, shape (N, C, S, S), range [-1, 1].
            label: int64, shape (N,); None if it judges no labels.
        Returns:
            Shape (N, 1): high for what looks real, and like its label.
        """
        for name in self.hidden:  # of 28x28: (N, 64, 14, 14), (N, 128, 7, 7), (N, 128, 4, 4)
            x = self.dropout(self.activation(self.get_submodule(name)(x)))
        return _score(x.flatten(1), self.fc, self.embedding, label)  # of (N, 2048) of 28x28


class ImageFeatures(nn.Module):
    """Feature maps of a small classifier, frozen once it is trained: what `ProjectedDiscriminator` looks at.

    Args:
        image_shape: (channels, height, width).
        num_classes: it is trained to tell apart.
        width: C, feature maps of the first layer.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int, width: int) -> None:
        super().__init__()
        channels, side = _square(image_shape)
        steps = halvings(side)
        self.widths = _widths(width, len(steps))
        self.sides = [after for _, after in steps]
        for number, ((kernel, _), maps) in enumerate(zip(steps, self.widths, strict=True), 1):
            self.add_module(f"conv{number}", nn.Conv2d(channels, maps, kernel, stride=2, padding=1))
            channels = maps
        for number, maps in enumerate(self.widths, 1):
            self.add_module(f"bn{number}", nn.BatchNorm2d(maps))
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(channels * self.sides[-1] ** 2, num_classes)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Feature maps, a scale each, of images, shape (N, C, S, S), range [-1, 1]."""
        found = []  # of 28x28: (N, C, 14, 14), (N, 2C, 7, 7), (N, 2C, 4, 4)
        for number in range(1, len(self.sides) + 1):
            x = F.leaky_relu(self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x)), 0.2)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (N, num_classes), of images, shape (N, C, S, S), range [-1, 1]."""
        return self.fc(self.dropout(self.maps(x)[-1].flatten(1)))  # type: ignore[no-any-return]


class ProjectedDiscriminator(nn.Module):
    """A head on each scale of a frozen classifier's feature maps (Sauer et al. 2021, arXiv:2111.01007).

    There the features are ImageNet's; here those of a classifier of the training images, trained in the first seconds
    of a run. Its maps already tell what matters about an image, so the heads have little to learn, and the generator
    gets useful gradients from the first step. The heads are spectrally normalised.

    Args:
        image_shape: (channels, height, width).
        activation: of the heads' hidden layers.
        dropout: share of feature maps that `Dropout2d` drops in the heads.
        num_classes: of the labels it judges images by; 0 for none.
        ndf: feature maps that the heads on features end in. The features' first layer has half as many; as many are
            slower by a half and no better (docs/lab-notebook.md).
        told_apart: classes that the features are trained to tell apart.
    """

    normalises_batch = False

    def __init__(
        self,
        image_shape: ImageShape = _GREY,
        activation: Activation = Activation("leaky-relu", 0.2),
        dropout: float = 0.0,
        num_classes: int = 0,
        ndf: int = 64,
        told_apart: int = 10,
    ) -> None:
        super().__init__()
        self.activation = activation_module(activation)
        self.activations = (self.activation,)
        self.dropout = nn.Dropout2d(dropout)
        self.num_classes = num_classes
        self.hidden: tuple[str, ...] = ()
        self.features = ImageFeatures(image_shape, told_apart, self.features_width(ndf)).eval().requires_grad_(False)
        self.heads, self.scores, self.embeddings = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for width, side in zip(self.features.widths, self.features.sides, strict=True):
            kernels = [(kernel, 2) for kernel, _ in halvings(side)] or [(3, 1)]
            self._add_head(width, kernels, [*[width] * (len(kernels) - 1), ndf], self.features.sides[-1])
        self.add_heads_on_pixels(*_square(image_shape), ndf)

    def add_heads_on_pixels(self, channels: int, side: int, ndf: int) -> None:
        """Add heads that look at images of so many channels and such a side; there are none here."""

    def _add_head(self, channels: int, kernels: list[tuple[int, int]], widths: list[int], side: int) -> nn.Sequential:
        """A head on maps of so many channels: convolutions, and a score of what they give, `side` pixels a side."""
        head = nn.Sequential()
        for (kernel, stride), width in zip(kernels, widths, strict=True):
            self.hidden += (f"heads.{len(self.heads)}.{len(head)}",)
            head.extend((spectral_norm(nn.Conv2d(channels, width, kernel, stride, 1)), self.activation, self.dropout))
            channels = width
        self.heads.append(head)
        # As a convolution it is what earlier checkpoints hold; one of 1x1 would have no memory order of its own.
        self.scores.append(spectral_norm(nn.Conv2d(channels, 1, side) if side > 1 else nn.Linear(channels, 1)))
        if self.num_classes:
            self.embeddings.append(spectral_norm(nn.Embedding(self.num_classes, channels * side**2)))
        return head

    def features_width(self, ndf: int) -> int:
        """Feature maps of the features' first layer."""
        return max(ndf // 2, 1)

    def train(self, mode: bool = True) -> ProjectedDiscriminator:
        """As `nn.Module.train`, but the frozen features stay in eval mode."""
        super().train(mode)
        self.features.eval()
        return self

    def seen(self, x: Tensor) -> list[Tensor]:
        """What each head looks at of images, shape (N, C, S, S), range [-1, 1]."""
        return self.features.maps(x)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Scores of images.

        Args:
            x: float, shape (N, C, S, S), range [-1, 1].
            label: int64, shape (N,); None if it judges no labels.
        Returns:
            Shape (N, heads), a score a head: high for what looks real, and like its label.
        """
        scores = []
        for index, maps in enumerate(self.seen(x)):
            maps = self.heads[index](maps)  # (N, ndf, 4, 4), or (N, ndf / 2) of textures
            embedding = self.embeddings[index] if len(self.embeddings) else None
            scores.append(_score(maps.flatten(1), self.scores[index], embedding, label))
        return torch.cat(scores, 1)


class MixedDiscriminator(ProjectedDiscriminator):
    """A projected discriminator with one more head, on the pixels: features are blind to textures that pixels show."""

    def add_heads_on_pixels(self, channels: int, side: int, ndf: int) -> None:
        steps = halvings(side)
        widths = [*_widths(max(ndf // 2, 1), len(steps))[:-1], ndf]
        self._add_head(channels, [(kernel, 2) for kernel, _ in steps], widths, steps[-1][1])

    def seen(self, x: Tensor) -> list[Tensor]:
        """The features, and the images themselves."""
        return [*super().seen(x), x]


class Pooled(nn.Module):
    """Sums over all places, divided by the root of their number: as long as whole maps, so that a score with spectral
    norm is not smaller than theirs.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, C, H, W) to (N, C)."""
        return x.sum((2, 3)) / math.sqrt(x.shape[2] * x.shape[3])


class TexturedDiscriminator(ProjectedDiscriminator):
    """A projected discriminator with one more head, on textures: what a few pixels look like, wherever they are.

    Features that tell classes apart are blind to them, and an image gives itself away by them (docs/lab-notebook.md).
    The head looks at what the pixels were before the generator's tanh, whose gradients vanish where it is black or
    white; in the last half of a grey level (in bf16, three quarters) they end. Two convolutions of stride 2, and the
    mean over all places.
    """

    def add_heads_on_pixels(self, channels: int, side: int, ndf: int) -> None:
        kernels = [(kernel, 2) for kernel, _ in halvings(side)[:2]]
        self._add_head(channels, kernels, [max(ndf // 4, 1), max(ndf // 2, 1)][: len(kernels)], 1).append(Pooled())

    def seen(self, x: Tensor) -> list[Tensor]:
        """The features, and the values before the tanh, from -1 to 1 too."""
        return [*super().seen(x), x.float().clamp(-_WHITE, _WHITE).atanh() / math.atanh(_WHITE)]


AnyDiscriminator: TypeAlias = Discriminator | DcganDiscriminator | SpectralDiscriminator | ProjectedDiscriminator
DISCRIMINATORS: dict[str, type[AnyDiscriminator]] = {
    "document": Discriminator,
    "dcgan": DcganDiscriminator,
    "spectral": SpectralDiscriminator,
    "projected": ProjectedDiscriminator,
    "mixed": MixedDiscriminator,
    "textured": TexturedDiscriminator,
}
