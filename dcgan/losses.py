"""Adversarial losses: what D minimises on real and fake scores, and what G minimises on D's scores of its fakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A pair of loss functions.

    Attributes:
        discriminator: (scores of real images, scores of fakes), float32, shape (N, 1) or (N, heads) each, to a scalar.
        generator: scores of fakes, float32, likewise, to a scalar.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def _least_squares_d(real: Tensor, fake: Tensor) -> Tensor:
    return F.mse_loss(real, torch.ones_like(real)) + F.mse_loss(fake, torch.zeros_like(fake))


def _least_squares_g(fake: Tensor) -> Tensor:
    return F.mse_loss(fake, torch.ones_like(fake))


def _non_saturating_d(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def _non_saturating_g(fake: Tensor) -> Tensor:
    return F.softplus(-fake).mean()


def _hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()


def _hinge_g(fake: Tensor) -> Tensor:
    return -fake.mean()


def _cross_entropy_d(real: Tensor, fake: Tensor) -> Tensor:
    real, fake = real.sigmoid(), fake.sigmoid()
    return F.binary_cross_entropy(real, torch.ones_like(real)) + F.binary_cross_entropy(fake, torch.zeros_like(fake))


def _cross_entropy_g(fake: Tensor) -> Tensor:
    return F.binary_cross_entropy(fake.sigmoid(), torch.ones_like(fake))


LOSSES = {
    "least-squares": Loss(_least_squares_d, _least_squares_g),  # Mao et al. 2016, arXiv:1611.04076; the document's
    "non-saturating": Loss(_non_saturating_d, _non_saturating_g),  # Goodfellow et al. 2014, arXiv:1406.2661, section 3
    # The same formula, computed as PyTorch's DCGAN example computes it: each log is cut off at -100.
    "cross-entropy": Loss(_cross_entropy_d, _cross_entropy_g),
    "hinge": Loss(_hinge_d, _hinge_g),  # Lim and Ye 2017, arXiv:1705.02894
}
