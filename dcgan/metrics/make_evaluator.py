"""Training an evaluator: a small classifier of any labelled images, written as ONNX. Needs the extra `export`.

3x3 convolutions with BatchNorm and pooling down to about 4x4 pixels, a hidden layer of 128 units, whose values are the
features, and the classes. Images are moved and turned a little each time, and classes of few images are shown more
often. Labels are not smoothed: that draws the features of a class together to a point (Mueller, Kornblith and Hinton,
"When does label smoothing help?", arXiv:1906.02629), and a distance between such features sees no variety within a
class. Nothing is chosen by the held images; the accuracy on them is measured once, at the end.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxscript  # noqa: F401  torch's exporter needs it, and says so late
import torch
import torch.nn.functional as F
from onnx import helper
from torch import Tensor, nn

from dcgan_infer.contract.errors import EvaluationError, OutputError
from dcgan_infer.contract.files import replacing
from dcgan_infer.runtime import cores

from ..data import Dataset, Progress, silent
from ..torch_state import our_settings
from .evaluator import STATEMENT_KEY, Statement

EPOCHS = 12
# Batches, whatever the epochs come to: of 28x28 pixels a minute and four on one core without AVX-512.
LEAST_STEPS, MOST_STEPS = 400, 1_500
BATCH_SIZE = 64
PEAK_LR = 3e-3
WEIGHT_DECAY = 0.02
# Largest changes of an image: turned by about 11 degrees, sheared, scaled, and moved by a 14th of its side.
TURN, SHEAR, SCALE, SHIFT = 0.2, 0.2, 0.1, 2 / 14
_FEATURES = 128
_LARGEST = 40  # pixels a side that are convolved as they are; strides take larger images there first


class EvaluatorNetwork(nn.Module):
    """Grey levels to features and logits.

    Args:
        image_shape: (channels, height, width).
        classes: number of them.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, *sides = image_shape
        layers: list[nn.Module] = []

        def conv(width: int, stride: int = 1) -> None:
            nonlocal channels, sides
            layers.extend(
                [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            )
            channels, sides = width, [-(-side // stride) for side in sides]

        while max(sides) > _LARGEST:
            conv(32, 2)
        width = 32
        while max(sides) > 8:
            conv(width)
            conv(width)
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            sides = [-(-side // 2) for side in sides]
            width = 64
        conv(64, 2)
        self.convs = nn.Sequential(*layers)
        self.fc1 = nn.Linear(64 * sides[0] * sides[1], _FEATURES)
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(_FEATURES, classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features, float32 (N, 128), and logits, float32 (N, classes), of images, uint8 (N, H, W) or (N, H, W, C)."""
        x = image.unsqueeze(1) if image.ndim == 3 else image.permute(0, 3, 1, 2)
        x = self.convs(x.float() / 255)  # (N, 64, 4, 4) of 28x28
        features = torch.relu(self.fc1(x.flatten(1)))  # (N, 128)
        return features, self.fc2(self.dropout(features))


def make_evaluator(
    train: Dataset,
    held: Dataset,
    path: Path,
    key: str = "",
    *,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = silent,
) -> float:
    """Train an evaluator and write it.

    Args:
        train: labelled images to learn from.
        held: images of the same kind to measure its accuracy on.
        path: of the ONNX file to write: input `image`, uint8; outputs `features` and `logits`.
        key: for its statement: what it was trained on.
        seed: of everything random.
        threads: of the CPU; None takes the cores this process may use.
        progress: told of the steps.
    Returns:
        The accuracy on `held`.
    Raises:
        EvaluationError: a class has no images to learn from, or there is one class only.
        OutputError: the file can't be written.
    """
    assert train.labels is not None
    missing = sorted(set(range(train.num_classes)) - set(train.labels.tolist()))
    if missing or train.num_classes < 2 or not len(held):
        lack = f"no images of {train.class_names[missing[0]]}" if missing else f"{train.num_classes} class"
        raise EvaluationError(
            f"an evaluator takes two classes or more, with training images of each; {train.name} has {lack} "
            f"among {len(train):,} images; give more images, or features of your own with --features FILE.onnx"
        )
    if not path.parent.is_dir():  # noticed before the training
        raise OutputError(f"can't write {path}: there is no folder {path.parent}; choose one that exists")
    with our_settings(threads or cores()):
        network, accuracy = trained(train, held, seed, progress)
        statement = Statement(train.image_shape, train.class_names, Path(train.name).name, round(accuracy, 4), key)
        write(network, path, {STATEMENT_KEY: statement.to_json()}, train.images.shape[1:])
    return accuracy


def trained(train: Dataset, held: Dataset, seed: int, progress: Progress) -> tuple[EvaluatorNetwork, float]:
    """The network, in eval mode, and its accuracy on the held images."""
    assert train.labels is not None
    images, labels = torch.from_numpy(train.images), torch.from_numpy(train.labels.astype(np.int64))
    rows = evened(labels)
    steps = min(MOST_STEPS, max(LEAST_STEPS, EPOCHS * len(rows) // BATCH_SIZE))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = EvaluatorNetwork(train.image_shape, train.num_classes).to(memory_format=torch.channels_last)
        average = torch.optim.swa_utils.AveragedModel(
            network,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(  # type: ignore[no-untyped-call]
                min(0.995, 1 - 10 / (steps + 10))  # of fewer than 2,000 batches about the last tenth
            ),
            use_buffers=True,
        )
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
        order = rows[:0]
        for step in range(steps):
            if len(order) < BATCH_SIZE:
                order = torch.cat(
                    [order, *(rows[torch.randperm(len(rows))] for _ in range(-(-BATCH_SIZE // len(rows))))]
                )
            batch, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
            loss = F.cross_entropy(network(moved(images[batch]))[1], labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            average.update_parameters(network)
            progress("training an evaluator", step + 1, steps)
    network.load_state_dict(average.module.state_dict())
    network.eval()
    return network, accuracy_of(network, held)


def evened(labels: Tensor) -> Tensor:
    """Indices of all images, those of smaller classes several times, so that no class is shown twice as often."""
    counts = torch.bincount(labels)
    times = counts.max() // counts.clamp(min=1)
    return torch.arange(len(labels)).repeat_interleave(times[labels])


def moved(images: Tensor) -> Tensor:
    """The images, each turned, sheared, scaled and shifted a little: uint8, of the shape they have."""
    n = len(images)
    turn, shear = (torch.empty(n).uniform_(-most, most) for most in (TURN, SHEAR))
    across, along = (1 + torch.empty(n).uniform_(-SCALE, SCALE) for _ in range(2))
    shift = torch.empty(n, 2).uniform_(-SHIFT, SHIFT)
    first = torch.stack([across * turn.cos(), across * (shear - turn.sin()), shift[:, 0]], 1)
    second = torch.stack([along * turn.sin(), along * turn.cos(), shift[:, 1]], 1)
    planes = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    grid = F.affine_grid(torch.stack([first, second], 1), list(planes.shape), align_corners=False)
    # What comes in at an edge is the edge's own colour: of MNIST's images that is black.
    values = F.grid_sample(planes.float(), grid, padding_mode="border", align_corners=False).round().to(torch.uint8)
    return values.squeeze(1) if images.ndim == 3 else values.permute(0, 2, 3, 1)


@torch.no_grad()
def accuracy_of(network: EvaluatorNetwork, held: Dataset) -> float:
    """Share of images that are read right."""
    assert held.labels is not None
    images = torch.from_numpy(held.images)
    read = torch.cat([network(part)[1].argmax(1) for part in images.split(500)])  # type: ignore[no-untyped-call]
    return float((read == torch.from_numpy(held.labels.astype(np.int64))).double().mean())


def write(network: EvaluatorNetwork, path: Path, metadata: dict[str, str], picture_shape: tuple[int, ...]) -> None:
    """Write ONNX: input `image`, uint8 (batch, H, W) or (batch, H, W, C); outputs `features` and `logits`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter uses parts of torch that are on their way out
        program = torch.onnx.export(
            network.to(memory_format=torch.contiguous_format),
            (torch.zeros(2, *picture_shape, dtype=torch.uint8),),
            dynamo=True,
            opset_version=18,
            input_names=["image"],
            output_names=["features", "logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.ir_version = 8
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, model.graph, model):
        del part.metadata_props[:]  # source paths of this machine
        part.ClearField("doc_string")
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
