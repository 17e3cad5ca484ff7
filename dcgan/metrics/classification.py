"""Classification Accuracy Score: generated images as a training set for a network. Needs torch.

Ravuri and Vinyals, "Classification accuracy score for conditional generative models", arXiv:1905.10887: train a
classifier on generated, labelled images only, and test it on real ones. What mistakes the images have and what variety
they lack, it learns or misses. The network here is a plain one, and new to each score: conv 3x3 32, conv 3x3 64, pool,
dropout, fc 128, dropout, fc of the classes (PyTorch's MNIST example; images of more than 32 pixels are pooled more
often); Adam 1e-3, batch 64, 10 epochs, of which 5,000 held-out *generated* images, of fewer than 30,000 a sixth, choose
the best.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcgan_infer.contract.errors import EvaluationError

from ..torch_state import our_settings

EPOCHS = 10
HELD_OUT = 5_000
_BATCH_SIZE = 64
_LR = 1e-3


class _Classifier(nn.Module):
    def __init__(self, shape: torch.Size, classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.conv1 = nn.Conv2d(channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.pool = 2
        while max(height, width) - 4 > 14 * self.pool:
            self.pool *= 2
        sides = [-(-(side - 4) // self.pool) for side in (height, width)]
        self.fc1 = nn.Linear(64 * sides[0] * sides[1], 128)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))  # (N, 32, 26, 26) of 28x28
        x = F.max_pool2d(F.relu(self.conv2(x)), self.pool, ceil_mode=True)  # (N, 64, 12, 12)
        x = F.dropout(x.flatten(1), 0.25, self.training)
        x = F.dropout(F.relu(self.fc1(x)), 0.5, self.training)  # (N, 128)
        return self.fc2(x)  # type: ignore[no-any-return]  # (N, classes)


def classification_accuracy_score(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.integer],
    test_images: npt.NDArray[np.uint8],
    test_labels: npt.NDArray[np.integer],
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    held_out: int | None = None,
    threads: int | None = None,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> float:
    """Accuracy on the test images of a network trained on the others.

    The last `held_out` images choose the epoch; the test images are looked at once.

    Args:
        images: uint8, shape (N, H, W) or (N, H, W, 3), sides 5 or more, N at least twice `held_out`.
        labels: integers, shape (N,).
        test_images: uint8, of the same shape but for their number.
        test_labels: integers, shape (M,).
        seed: of the initial weights, the order of images and dropout.
        epochs: passes over the images.
        held_out: number of images that choose the epoch; None takes `HELD_OUT`, and of fewer than 6 times that a sixth.
        threads: of the CPU, as `our_settings` takes them.
        on_epoch: called with the number of each epoch that is done.
    Returns:
        From 0 to 1; higher is better.
    Raises:
        EvaluationError: there are too few images, or too small ones.
    """

    def tensors(pictures: npt.NDArray[np.uint8], of: npt.NDArray[np.integer]) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(pictures)
        return x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2), torch.from_numpy(of.astype(np.int64))

    if held_out is None:
        held_out = max(1, min(HELD_OUT, len(images) // 6))
    if len(images) < 2 * held_out:
        raise EvaluationError(
            f"the classification accuracy score takes {2 * held_out:,} labelled images or more, found {len(images):,}"
        )
    if min(images.shape[1:3]) < 5:
        raise EvaluationError(f"the classification accuracy score takes 5x5 pixels or more, found {images.shape[1:3]}")
    x, y = tensors(images, labels)
    classes = int(max(labels.max(), test_labels.max())) + 1
    split = len(x) - held_out
    with our_settings(threads):
        torch.manual_seed(seed)
        classifier = _Classifier(x.shape[1:], classes).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=_LR, fused=True)
        best, chosen = -1.0, classifier.state_dict()
        for epoch in range(epochs):
            classifier.train()
            for batch in torch.randperm(split).split(_BATCH_SIZE):  # type: ignore[no-untyped-call]
                loss = F.cross_entropy(classifier(_scaled(x[batch])), y[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            accuracy = _accuracy(classifier, x[split:], y[split:])
            if accuracy > best:
                best, chosen = accuracy, copy.deepcopy(classifier.state_dict())
            on_epoch(epoch + 1)
        classifier.load_state_dict(chosen)
        return _accuracy(classifier, *tensors(test_images, test_labels))


def _scaled(images: Tensor) -> Tensor:
    return (images.float() / 255.0).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _accuracy(classifier: nn.Module, x: Tensor, y: Tensor) -> float:
    classifier.eval()
    pairs = zip(x.split(1000), y.split(1000), strict=True)  # type: ignore[no-untyped-call]
    return sum(int((classifier(_scaled(part)).argmax(1) == wanted).sum()) for part, wanted in pairs) / len(x)
