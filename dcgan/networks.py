"""Generators as torch modules.

A generator is its spec's list of layers, run in order: `reference_layers` in dcgan_infer/contract/layers.py is that
of the reference script, top to bottom, with its attribute names, so a `state_dict` saved by a copy of the script loads
with `strict=True`. What is unusual in it is deliberate: the activation comes before the BatchNorm, and all weights
start at PyTorch's defaults. `dcgan_layers` is PyTorch's DCGAN example, with its names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

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


_Network = TypeVar("_Network", bound=nn.Module)


@torch.no_grad()
def initialise(network: _Network) -> _Network:
    """Give a network the initial weights of Radford et al. 2015, arXiv:1511.06434, section 4.

    Weights are normal with a standard deviation of 0.02; BatchNorm's scales likewise, about 1, and its shifts are 0.
    The order of the modules is that of `nn.Module.apply`, so the bits are those of PyTorch's DCGAN example.
    """

    def one(module: nn.Module) -> None:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            # Of a layer with spectral norm, what is divided by it.
            name = "parametrizations.weight.original" if is_parametrized(module, "weight") else "weight"
            nn.init.normal_(module.get_parameter(name), 0.0, 0.02)

    return network.apply(one)


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
