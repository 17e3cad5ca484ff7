"""Generators as other people write them, small: each class needs no arguments. `trained` gives them lived-in weights.

`benchmarks/document.py` has the reference script's. Two are of public projects, in our words: PyTorch's DCGAN example
and PyTorch-GAN's dcgan.py. Names of tensors, numbers and the order of layers are those of the originals.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PytorchDcgan(nn.Module):
    """PyTorch's DCGAN example: 64x64 RGB, latents as (N, nz, 1, 1)."""

    def __init__(self, nz: int = 100, ngf: int = 8, nc: int = 3, sizes: tuple[int, ...] = (8, 4, 2, 1)) -> None:
        super().__init__()
        self.ngpu = 1
        widths = [nz, *(ngf * size for size in sizes)]
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            stride, padding = (2, 1) if index else (1, 0)
            layers.append(nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False))
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(True)]
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], nc, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as the original calls it
        if input.is_cuda and self.ngpu > 1:
            return nn.parallel.data_parallel(self.main, input, range(self.ngpu))
        return self.main(input)  # type: ignore[no-any-return]


class PytorchDcganDiscriminator(nn.Module):
    """The other half: the same names."""

    def __init__(self, ndf: int = 8, nc: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(nc, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
        for width in (ndf, 2 * ndf, 4 * ndf):
            layers.append(nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False))
            layers += [nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2, inplace=True)]
        self.main = nn.Sequential(*layers, nn.Conv2d(8 * ndf, 1, 4, 1, 0, bias=False), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x).flatten()  # type: ignore[no-any-return]


class BlocksDcgan(nn.Module):
    """The same network in nested blocks, as many tutorials write it; the last layer has a bias."""

    def __init__(self, nz: int = 16, width: int = 16) -> None:
        super().__init__()
        self.net = nn.Sequential(
            self._block(nz, width, 1, 0),
            self._block(width, width // 2, 2, 1),
            nn.ConvTranspose2d(width // 2, 1, 4, 2, 1),
            nn.Tanh(),
        )

    def _block(self, inputs: int, outputs: int, stride: int, padding: int) -> nn.Sequential:
        return nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class PytorchGan(nn.Module):
    """PyTorch-GAN's dcgan.py, a quarter as wide: upsampling, and eps 0.8 in two BatchNorms of three."""

    def __init__(self, latent_dim: int = 20, side: int = 16, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        self.width, self.init_size = width, side // 4
        self.l1 = nn.Sequential(nn.Linear(latent_dim, width * self.init_size**2))
        self.conv_blocks = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, stride=1, padding=1),
            nn.BatchNorm2d(width, 0.8),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width // 2, 3, stride=1, padding=1),
            nn.BatchNorm2d(width // 2, 0.8),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width // 2, channels, 3, stride=1, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        out = self.l1(z)
        out = out.view(out.shape[0], self.width, self.init_size, self.init_size)
        return self.conv_blocks(out)  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Fully connected, with BatchNorm over features; tanh comes before the image's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(12, 32),
            nn.LeakyReLU(0.2),
            nn.Linear(32, 64),
            nn.BatchNorm1d(64, 0.8),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.3),
            nn.Linear(64, 3 * 8 * 8),
            nn.Tanh(),
            nn.Unflatten(1, (3, 8, 8)),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)  # type: ignore[no-any-return]


class Functional(nn.Module):
    """A chain whose state dict has no order, and names that our own class has too; BatchNorm as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, 1, 3, padding="same")
        self.hidden = nn.Linear(6, 4 * 9, bias=False)
        self.mean = nn.Buffer(torch.linspace(-0.2, 0.2, 4))
        self.var = nn.Buffer(torch.linspace(0.5, 2.0, 4))
        self.up = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = F.silu(self.hidden(z).reshape(-1, 4, 3, 3))
        x = F.gelu(F.batch_norm(x, self.mean, self.var, training=False))
        x = F.elu(self.up(x), 0.7)
        x = F.softplus(self.up(x), 2.0)  # the same weights again
        return torch.sigmoid(self.head(F.interpolate(x, scale_factor=(1, 2))))


class Residual(nn.Module):
    """Blocks that add what went in: no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(10, 8 * 4 * 4)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.out = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.fc(z).view(-1, 8, 4, 4)
        x = x + self.two(F.relu(self.bn(self.one(x))))
        return torch.tanh(self.out(F.interpolate(x, scale_factor=2, mode="bilinear")))


class Conditional(nn.Module):
    """Labels embedded beside the latent, as PyTorch-GAN's cgan.py has them."""

    def __init__(self) -> None:
        super().__init__()
        self.n_classes = 5
        self.label_emb = nn.Embedding(5, 7)
        self.model = nn.Sequential(
            nn.Linear(9 + 7, 32), nn.LeakyReLU(0.2), nn.Linear(32, 64), nn.BatchNorm1d(64, 0.8), nn.Tanh()
        )

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.model(torch.cat((self.label_emb(labels), noise), -1)).view(-1, 1, 8, 8)  # type: ignore[no-any-return]


class LabelFirst(Conditional):
    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(noise, labels)


class Attention(nn.Module):
    """Self-attention between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim = 14
        self.start = nn.ConvTranspose2d(14, 8, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.end = nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.start(z))
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return torch.tanh(self.end(tokens.transpose(1, 2).view_as(x)))


class SigmoidOutput(nn.Sequential):
    """A bare Sequential: its tensors are `0.weight` and so on; images from 0 to 1."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 64), nn.ReLU(), nn.Unflatten(1, (4, 4, 4)))
        self.append(nn.ConvTranspose2d(4, 1, 4, 2, 1)).append(nn.Sigmoid())


class Unbounded(nn.Module):
    """No function at the end."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.fc = nn.Linear(8, 64)

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * self.fc(z).view(-1, 1, 8, 8)  # type: ignore[no-any-return]


class Noisy(nn.Module):
    """Noise in every layer, as StyleGAN adds it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 64)
        self.strength = nn.Parameter(torch.full((1,), 0.1))

    def forward(self, z: Tensor) -> Tensor:
        x = self.fc(z).view(-1, 1, 8, 8)
        return torch.tanh(x + self.strength * torch.randn_like(x))


class NoStatistics(nn.Module):
    """A BatchNorm that always takes its batch's statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(8, 8, 4),
            nn.BatchNorm2d(8, track_running_stats=False),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 1, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)  # type: ignore[no-any-return]


class BatchMates(nn.Module):
    """The same in a function, which no type shows."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 64)

    def forward(self, z: Tensor) -> Tensor:
        x = self.fc(z)
        return torch.tanh(x - x.mean(0, keepdim=True)).view(-1, 1, 8, 8)


class Float32Inside(nn.Module):
    """A constant in float32 meets the values in a product that takes one type only."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 64)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.fc(z) @ torch.eye(64)).view(-1, 1, 8, 8)


class Float32Always(Float32Inside):
    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.fc(z)).float().view(-1, 1, 8, 8)


class Flat(Unbounded):
    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.fc(z))


class Tuple(Unbounded):
    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(z), z


class Small(Unbounded):
    """Takes no batches as large as those that its range is looked for with."""

    def forward(self, z: Tensor) -> Tensor:
        if len(z) > 7:
            raise ValueError("seven are enough")
        return torch.tanh(super().forward(z))


class Blank(Unbounded):
    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z)[..., :0]


class Ending(Unbounded):
    def forward(self, z: Tensor) -> Tensor:
        raise SystemExit(0)


class Failing(Unbounded):
    def forward(self, z: Tensor) -> Tensor:
        raise KeyError("no such key")


def trained(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module as if it had been trained: weights that saturate some pixels, and BatchNorms with statistics.

    The same seed gives the same weights, whatever they were.

    Returns:
        The module itself, in eval mode.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if parameter.ndim > 1:
                parameter.copy_(noise * 1.4 * (len(parameter) / parameter.numel()) ** 0.5)
            else:  # biases, and BatchNorm's factors: some are negative
                parameter.copy_(noise * 0.5 + (0.7 if name.endswith("weight") else 0.0))
        module.train()
        first = next((m for m in module.modules() if isinstance(m, nn.Linear | nn.ConvTranspose2d)), None)
        assert first is not None
        for _ in range(8):
            if isinstance(module, Conditional):
                z, label = torch.randn(32, 9, generator=random), torch.randint(0, 5, (32,), generator=random)
                module(label, z) if isinstance(module, LabelFirst) else module(z, label)
            elif isinstance(first, nn.Linear):
                module(torch.randn(32, first.in_features, generator=random))
            else:
                module(torch.randn(32, first.in_channels, 1, 1, generator=random))
    return module.eval()
