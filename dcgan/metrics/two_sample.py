"""Classifier two-sample test: how well a new network tells generated images from real ones. Needs torch, no labels.

Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", arXiv:1610.06545: train a classifier on half of both
sets, and test it on the other halves. Where both come from one distribution nothing can be learnt, and its accuracy
is 1/2. The network here is a plain one, new to each test: convolutions of stride 2 until 4x4 pixels or fewer are left,
and the mean over those. docs/quality.md has figures.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcgan_infer.contract.errors import EvaluationError

from ..torch_state import our_settings

MOST = 10_000  # images of either kind; half of them train
LEAST = 10
STEPS = 1200  # of batches: 8 passes over 5,000 + 5,000 images, and more over fewer
_BATCH_SIZE = 64
_PEAK_LR = 4e-3
_WEIGHT_DECAY = 0.02
_WIDTHS = (32, 64, 128, 128)  # channels after each convolution; 4 of them take 48 pixels to 3
_LARGEST = 48  # pixels a side of what the convolutions see; larger images are averaged down first

_Images = npt.NDArray[np.uint8]


def two_sample_accuracy(
    generated: _Images, real: _Images, *, seed: int = 0, steps: int = STEPS, threads: int | None = None
) -> float:
    """Accuracy of a new network, trained on a half of both sets, in telling their other halves apart.

    Args:
        generated: uint8, shape (N, H, W) or (N, H, W, C), N >= 10.
        real: as many, of the same shape.
        seed: of the halves, the initial weights and the order of images.
        steps: batches of training.
        threads: of the CPU, as `our_settings` takes them.
    Returns:
        About 0.5 for equal distributions, 1 where every image gives itself away; lower is better.
    Raises:
        EvaluationError: the sets differ in shape, or are too small.
    """
    if generated.shape != real.shape or len(real) < LEAST:
        raise EvaluationError(
            f"the two-sample test takes two sets of the same shape, {LEAST} images each or more, "
            f"found {generated.shape} and {real.shape}"
        )
    half = len(real) // 2
    random = np.random.default_rng(seed)  # sets are often in an order: MNIST's last images are of other hands
    generated, real = (images[random.permutation(len(images))] for images in (generated, real))
    with our_settings(threads):
        torch.manual_seed(seed)
        x, y = _both(generated[:half], real[:half])
        network = _network(x.shape[1:]).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=_WEIGHT_DECAY, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_LR, total_steps=steps)
        order: list[Tensor] = []
        for _ in range(steps):
            order = order or list(torch.randperm(len(x)).split(_BATCH_SIZE))  # type: ignore[no-untyped-call]
            batch = order.pop()
            loss = F.binary_cross_entropy_with_logits(network(_scaled(x[batch])).squeeze(1), y[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        network.eval()
        x, y = _both(generated[half : 2 * half], real[half : 2 * half])
        with torch.no_grad():
            scores = torch.cat([network(_scaled(part)).squeeze(1) for part in x.split(500)])  # type: ignore[no-untyped-call]
    return float(((scores > 0) == (y > 0.5)).double().mean())


def _both(generated: _Images, real: _Images) -> tuple[Tensor, Tensor]:
    """Images, uint8 (2 N, C, H, W), and whether they are real, float32 (2 N,)."""
    images = torch.from_numpy(np.concatenate([generated, real]))
    x = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return x, torch.arange(2).repeat_interleave(len(real)).float()


def _scaled(images: Tensor) -> Tensor:
    return (images.float() / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)


def _network(shape: torch.Size) -> nn.Sequential:
    channels, *sides = shape
    shrink = -(-max(sides) // _LARGEST)
    network = nn.Sequential(nn.AvgPool2d(shrink, ceil_mode=True) if shrink > 1 else nn.Identity())
    sides = [-(-side // shrink) for side in sides]
    widths = list(_WIDTHS)
    while max(sides) > 4:
        width = widths.pop(0)
        network.extend([nn.Conv2d(channels, width, 3, 2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()])
        channels, sides = width, [-(-side // 2) for side in sides]
    # What gives an image away may be anywhere in it: with the mean over places it is learnt twice as fast.
    network.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1)])
    return network
