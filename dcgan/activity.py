"""How many hidden units are at work, layer by layer: how the tutorial of the reference script compares activations.

A unit is a feature of a linear layer or a channel of a convolution. It is active on an input where its value before the
activation is above 0: there ReLU, LeakyReLU and ELU pass the gradient whole and Softplus most of it, so the shares
of all four can be compared. A unit is dead if it is active on no input of the sampled set, at no position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerActivity:
    """Activity of one layer's units over a sampled set.

    Attributes:
        layer: attribute name of the layer.
        active: mean share of active values, over inputs, units and positions.
        dead: share of dead units.
    """

    layer: str
    active: float
    dead: float


@torch.no_grad()
def measure_activity(network: nn.Module, batches: Iterable[tuple[Tensor | None, ...]]) -> list[LayerActivity]:
    """Measure the units of a network's hidden layers in eval mode; the network's mode is put back.

    Args:
        network: a generator or discriminator of networks.py: `hidden` names its hidden layers, in order, and
            `activations` are the modules that their values go through.
        batches: inputs of the network, a tuple of its arguments for each call.
    Returns:
        One entry a hidden layer, in the order of the layers.
    """
    names: Sequence[str] = network.hidden  # type: ignore[assignment]
    active: list[list[Tensor]] = [[] for _ in names]
    ever: list[list[Tensor]] = [[] for _ in names]
    layers: Iterator[int] = iter(())

    def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layer = next(layers)
        positive = inputs[0].flatten(2) > 0 if inputs[0].ndim > 2 else inputs[0].unsqueeze(2) > 0  # (N, units, places)
        active[layer].append(positive.float().mean())
        ever[layer].append(positive.any(2).any(0))

    modules: Sequence[nn.Module] = network.activations  # type: ignore[assignment]
    handles = [module.register_forward_pre_hook(look) for module in modules]
    training = network.training
    network.eval()
    try:
        for batch in batches:
            layers = iter(range(len(names)))
            network(*batch)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return [
        LayerActivity(
            layer=name,
            active=torch.stack(shares).mean().item(),
            dead=1.0 - torch.stack(fired).any(0).float().mean().item(),
        )
        for name, shares, fired in zip(names, active, ever, strict=True)
    ]
