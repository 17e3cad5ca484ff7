"""The training loop of PyTorch's DCGAN example, in our words and apart from `dcgan`: what a test compares with.

https://github.com/pytorch/examples/tree/main/dcgan. Numbers and the order of random draws are the
original's, but for the latents that it draws beforehand, to show the same images after each epoch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from their_generators import PytorchDcgan, PytorchDcganDiscriminator
from torch import Tensor, nn, optim


def initialise(module: nn.Module) -> None:
    """What the example applies to both networks."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        torch.nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        torch.nn.init.normal_(module.weight, 1.0, 0.02)
        torch.nn.init.zeros_(module.bias)


class PytorchDcganLoop:
    """The example's networks, optimizers and training loop."""

    def __init__(self, ngf: int = 64, ndf: int = 64, nc: int = 3) -> None:
        self.generator = PytorchDcgan(ngf=ngf, nc=nc)
        self.generator.apply(initialise)
        self.discriminator = PytorchDcganDiscriminator(ndf=ndf, nc=nc)
        self.discriminator.apply(initialise)
        self.criterion = nn.BCELoss()
        self.d_optimizer = optim.Adam(self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.g_optimizer = optim.Adam(self.generator.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def train(self, batches: Iterable[Tensor]) -> tuple[float, float]:
        """One pass over batches of real images, (B, C, 64, 64) in [-1, 1]; returns the mean losses of D and G."""
        d_sum = g_sum = 0.0
        count = 0
        for real in batches:
            ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
            self.discriminator.zero_grad()
            d_real = self.criterion(self.discriminator(real), ones)
            d_real.backward()
            fake = self.generator(torch.randn(len(real), 100, 1, 1))
            d_fake = self.criterion(self.discriminator(fake.detach()), zeros)
            d_fake.backward()
            self.d_optimizer.step()

            self.generator.zero_grad()
            g_loss = self.criterion(self.discriminator(fake), ones)
            g_loss.backward()
            self.g_optimizer.step()

            d_sum += (d_real + d_fake).item()
            g_sum += g_loss.item()
            count += 1
        return d_sum / count, g_sum / count
