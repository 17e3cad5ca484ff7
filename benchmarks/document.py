"""The document's networks and loop, written plainly and apart from `dcgan`: what tests and benchmarks compare with."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim


class DocumentGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear1 = nn.Linear(100, 256 * 7 * 7)
        self.bn1 = nn.BatchNorm1d(256 * 7 * 7)
        self.decon1 = nn.ConvTranspose2d(256, 128, 3, stride=1, padding=1)
        self.bn2 = nn.BatchNorm2d(128)
        self.decon2 = nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1)
        self.bn3 = nn.BatchNorm2d(64)
        self.decon3 = nn.ConvTranspose2d(64, 1, 4, stride=2, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.linear1(z))
        x = self.bn1(x).view(-1, 256, 7, 7)
        x = self.bn2(F.relu(self.decon1(x)))
        x = self.bn3(F.relu(self.decon2(x)))
        return torch.tanh(self.decon3(x))


class DocumentDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 3, stride=2)
        self.conv2 = nn.Conv2d(64, 128, 3, stride=2)
        self.bn = nn.BatchNorm2d(128)
        self.fc = nn.Linear(128 * 6 * 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout2d(F.leaky_relu(self.conv1(x), 0.01), 0.5, self.training)
        x = F.dropout2d(F.leaky_relu(self.conv2(x), 0.01), 0.5, self.training)
        return self.fc(self.bn(x).flatten(1))  # type: ignore[no-any-return]


class DocumentLoop:
    """The document's networks, optimizers and training loop."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.generator = DocumentGenerator().to(device)
        self.discriminator = DocumentDiscriminator().to(device)
        self.g_optimizer = optim.Adam(self.generator.parameters(), lr=1e-4)
        self.d_optimizer = optim.Adam(self.discriminator.parameters(), lr=1e-5)
        self.criterion = nn.MSELoss()

    def train(self, batches: Iterable[Tensor]) -> tuple[float, float]:
        """One pass over batches of real images, (B, 1, 28, 28) in [-1, 1]; returns the mean losses of D and G."""
        d_sum = g_sum = 0.0
        count = 0
        for real in batches:
            real = real.to(self.device)
            ones, zeros = (value(len(real), 1, device=self.device) for value in (torch.ones, torch.zeros))
            fake = self.generator(torch.randn(len(real), 100, device=self.device))

            d_real = self.criterion(self.discriminator(real), ones)
            d_fake = self.criterion(self.discriminator(fake.detach()), zeros)
            d_loss = d_real + d_fake
            self.d_optimizer.zero_grad()
            d_loss.backward()
            self.d_optimizer.step()

            g_loss = self.criterion(self.discriminator(fake), ones)
            self.g_optimizer.zero_grad()
            g_loss.backward()
            self.g_optimizer.step()

            d_sum += d_loss.item()
            g_sum += g_loss.item()
            count += 1
        return d_sum / count, g_sum / count
