"""How many hidden units are at work, layer by layer: what the document reasons about when it compares activations.

A unit is a feature of a linear layer or a channel of a convolution. It is active on an input where its value before the
activation is above 0: there ReLU, LeakyReLU and ELU pass the gradient whole and Softplus most of it, so the shares
of all four can be compared. A unit is dead if it is active on no input of the sampled set, at no position.
"""

from __future__ import annotations

from collections.abc import Sequence
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
def measure_activity(network: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> list[LayerActivity]:
    """Measure the units of a network's hidden layers in eval mode; the network's mode is put back.

    Args:
        network: a generator or discriminator; its hidden layers are its Linear and convolution children but the last.
        batches: inputs of the network, a tuple of its arguments for each call.
    Returns:
        One entry a hidden layer, in the order of the layers.
    """
    layers = [
        (name, child)
        for name, child in network.named_children()
        if isinstance(child, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    ][:-1]
    active: dict[str, list[Tensor]] = {name: [] for name, _ in layers}
    ever: dict[str, list[Tensor]] = {name: [] for name, _ in layers}

    def watch(name: str, child: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def look(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            positive = (
                (output > 0).flatten(2) if output.ndim > 2 else (output > 0).unsqueeze(2)
            )  # (N, units, positions)
            active[name].append(positive.float().mean())
            ever[name].append(positive.any(2).any(0))

        return child.register_forward_hook(look)

    handles = [watch(name, child) for name, child in layers]
    training = network.training
    network.eval()
    try:
        for batch in batches:
            network(*batch)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return [
        LayerActivity(
            layer=name,
            active=torch.stack(active[name]).mean().item(),
            dead=1.0 - torch.stack(ever[name]).any(0).float().mean().item(),
        )
        for name, _ in layers
    ]
