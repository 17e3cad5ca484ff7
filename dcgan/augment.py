"""Random changes of what the discriminator sees, real and generated alike, through which gradients pass.

Zhao, Liu, Lin, Zhu and Han, "Differentiable augmentation for data-efficient GAN training", arXiv:2006.10738, section 3
and appendix: with a few thousand images a discriminator learns them by heart; one that never sees the same image twice
can't. Each image of a batch is changed in its own way, and the generator does not learn the changes, since real images
are changed alike.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_MOVED = 1 / 8  # of a side, at most: the paper's
_CUT = 1 / 2  # of a side: the paper's


def _uniform(images: Tensor, low: float, high: float) -> Tensor:
    """A number for each image, shape (N, 1, 1, 1)."""
    return torch.empty(len(images), 1, 1, 1, dtype=images.dtype, device=images.device).uniform_(low, high)


def colour(images: Tensor) -> Tensor:
    """Other brightness, saturation and contrast.

    Args:
        images: float, shape (N, C, H, W), range [-1, 1].
    """
    images = images + _uniform(images, -0.5, 0.5)
    if images.shape[1] > 1:
        grey = images.mean(1, keepdim=True)
        images = (images - grey) * _uniform(images, 0.0, 2.0) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * _uniform(images, 0.5, 1.5) + mean


def translation(images: Tensor) -> Tensor:
    """Moved by up to an eighth of a side along both axes; the outermost pixels are repeated where nothing is left.

    The paper lets black in. Many pictures stand on one colour, and a bar of another would be all that there is to see.

    Args:
        images: float, shape (N, C, H, W), range [-1, 1].
    """
    count, _, height, width = images.shape
    down, right = round(height * _MOVED), round(width * _MOVED)
    padded = F.pad(images, (right, right, down, down), mode="replicate").permute(0, 2, 3, 1)
    rows = torch.randint(0, 2 * down + 1, (count, 1), device=images.device) + torch.arange(height, device=images.device)
    columns = torch.randint(0, 2 * right + 1, (count, 1), device=images.device) + torch.arange(
        width, device=images.device
    )
    image = torch.arange(count, device=images.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(images: Tensor) -> Tensor:
    """A mid-grey square of half the side somewhere, perhaps over the edge.

    Args:
        images: float, shape (N, C, H, W), range [-1, 1].
    """
    count, _, height, width = images.shape
    inside = []
    for side in (height, width):
        size = round(side * _CUT)
        start = torch.randint(0, side + 1 - size % 2, (count, 1), device=images.device) - size // 2
        place = torch.arange(side, device=images.device) - start
        inside.append((place >= 0) & (place < size))
    hole = (inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1)
    return images.masked_fill(hole, 0.0)


def diff_augment(images: Tensor) -> Tensor:
    """All three, as the paper does for small data sets.

    Args:
        images: float, shape (N, C, H, W), range [-1, 1].
    Returns:
        Same shape; colours may leave the range.
    """
    return cutout(translation(colour(images)))


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images,
    "translation": translation,
    "diffaugment": diff_augment,
}
