"""The networks.

A generator is its spec's list of layers, run in order: `reference_layers` in dcgan_infer/contract/layers.py is that
of the reference script, top to bottom, with its attribute names, so a `state_dict` saved by a copy of the script loads
with `strict=True`; so does one of `Discriminator`. What is unusual in them is deliberate: the activation comes before
the BatchNorm, nothing pools, D's input is not normalised, and all weights start at PyTorch's defaults.

The other discriminators are ours. A discriminator is never exported, so recipes are free to choose a better one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from dcgan_infer.contract.errors import SpecError
from dcgan_infer.contract.layers import (
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
from dcgan_infer.contract.spec import GeneratorSpec, reference_spec


def activation_module(activation: Activation) -> nn.Module:
    """The torch module of an activation."""
    modules: dict[str, nn.Module] = {
        "relu": nn.ReLU(),
        "leaky-relu": nn.LeakyReLU(activation.parameter),
        "elu": nn.ELU(activation.parameter),
        "softplus": nn.Softplus(activation.parameter),
        "silu": nn.SiLU(),
        "gelu": nn.GELU(),
        "tanh": nn.Tanh(),
        "sigmoid": nn.Sigmoid(),
    }
    return modules[activation.name]


def layer_module(layer: Layer, is_flat: bool) -> nn.Module:
    """The torch module of a layer, with PyTorch's default weights.

    Args:
        layer: to make.
        is_flat: whether it is given features, (N, F), and not maps, (N, C, H, W).
    """
    match layer:
        case Linear():
            return nn.Linear(layer.inputs, layer.outputs, layer.bias)
        case Unflatten():
            return nn.Unflatten(1, layer.shape)
        case ConvTranspose():
            sizes = (layer.kernel, layer.stride, layer.padding, layer.output_padding)
            return nn.ConvTranspose2d(layer.inputs, layer.outputs, *sizes, bias=layer.bias)
        case Conv():
            return nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding, bias=layer.bias)
        case Upsample():
            return nn.Upsample(scale_factor=tuple(map(float, layer.factor)), mode="nearest")
        case BatchNorm():
            return (nn.BatchNorm1d if is_flat else nn.BatchNorm2d)(layer.features, layer.eps, affine=layer.affine)
        case Activate():
            return activation_module(layer.function)


def check_label(label: Tensor | None, num_classes: int) -> None:
    """Refuse a label where there are no classes, and the reverse.

    Raises:
        ValueError: as said.
    """
    if label is None and num_classes > 0:
        raise ValueError("this generator is conditional: it needs a label for each latent")
    if label is not None and num_classes == 0:
        raise ValueError("this generator is unconditional: it takes no labels")


def with_counters(weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Weights for a module whose tensors have these names, with those of BatchNorm's counters that are missing."""
    return {name: torch.tensor(0) for name in names if name.endswith("num_batches_tracked")} | dict(weights)


class Generator(nn.Module):
    """Latents, and labels if it has classes, to images.

    Its modules have the names of the spec's layers: `generator.linear1`, or `generator.main` with a `0` in it.

    Args:
        spec: with layers; the default is the reference script's generator (1.75 M parameters).
    Raises:
        KeyError: a layer has a name that means something else to a module.
    """

    def __init__(self, spec: GeneratorSpec | None = None) -> None:
        super().__init__()
        self.spec = spec = spec or reference_spec()
        self.num_classes = spec.num_classes
        # Compared with labels, to make them one-hot: every runtime can compare. A buffer goes where the module goes,
        # and this one is in no checkpoint, so it has memory where the others have none yet.
        self.register_buffer("classes", torch.arange(spec.num_classes, device="cpu"), persistent=False)
        for layer, shape in zip(spec.layers, shapes_of(spec.layers, spec.inputs), strict=False):
            parent: nn.Module = self
            *path, name = layer.name.split(".")
            for part in path:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            if name in parent._modules:  # add_module would put one in the other's place
                raise KeyError(f"{layer.name} is the name of a part with layers of its own")
            parent.add_module(name, layer_module(layer, is_flat=len(shape) == 1))

    @classmethod
    def with_weights(cls, spec: GeneratorSpec, weights: Mapping[str, Tensor]) -> Generator:
        """A generator with these weights, in eval mode.

        BatchNorm's counters of batches may be missing: old files lack them, and eval mode does not read them.

        Raises:
            RuntimeError: they are not those that the spec's layers have.
            KeyError: a layer has a name that means something else to a module.
        """
        with torch.device("meta"):  # no memory before the weights are known to have the shapes that the spec says
            made = cls(spec)
        made.load_state_dict(with_counters(weights, made.state_dict()), strict=True, assign=True)
        return made.eval()

    @classmethod
    def can_name(cls, name: str) -> bool:
        """Whether a layer can have this name: not where it means something else to a module, as `hidden` does here."""
        first, *rest = name.split(".")
        taken = hasattr(cls, first) or first in ("spec", "num_classes", "classes")
        return not taken and not any(hasattr(nn.Module(), part) for part in (first, *rest))

    @property
    def hidden(self) -> tuple[str, ...]:
        """Names of the layers whose values go through an activation, but for the last layer's."""
        return tuple(name for name, _ in self._hidden())

    @property
    def activations(self) -> tuple[nn.Module, ...]:
        """The modules that the values of `hidden` go through."""
        return tuple(self.get_submodule(name) for _, name in self._hidden())

    def _hidden(self) -> list[tuple[str, str]]:
        pairs, weighted = [], ""
        for layer in self.spec.layers[:-1]:
            if isinstance(layer, Linear | ConvTranspose | Conv):
                weighted = layer.name
            elif isinstance(layer, Activate) and weighted:
                pairs.append((weighted, layer.name))
                weighted = ""
        return pairs

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images of latents.

        Args:
            z: float, shape (N, latent_dim), drawn from N(0, 1).
            label: int64, shape (N,), from 0 to num_classes - 1; None for a generator without classes.
        Returns:
            Same dtype, shape (N, C, H, W), in the spec's value range.
        Raises:
            ValueError: there is a label and no classes, or the reverse.
        """
        check_label(label, self.num_classes)
        x = z
        if label is not None:
            one_hot = torch.eq(label.unsqueeze(1), self.get_buffer("classes"))
            x = torch.cat([z, one_hot.to(z.dtype)], 1)  # (N, latent_dim + num_classes)
        for layer in self.spec.layers:
            x = self.get_submodule(layer.name)(x)
        return x  # (N, C, H, W)


class Discriminator(nn.Module):
    """The reference script's discriminator: images to one unbounded score each.

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
            raise SpecError("the reference script's discriminator judges no labels")
        self.activation = activation_module(activation)
        self.activations = (self.activation,)
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
        self.activations = (self.activation,)
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
        self.activations = (act,)
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
