"""Train the frozen evaluator behind the metrics: python tools/train_evaluator.py DATA_DIR

A small classifier of MNIST digits, trained on the first 50,000 training images, moved and turned a little each time.
Nothing was chosen by its test error, which is printed once, at the end. Its features are the 128 units of its last
hidden layer. Labels are not smoothed: that draws the features of a class together to a point (Mueller, Kornblith and
Hinton, "When does label smoothing help?", arXiv:1906.02629), and a distance between such features sees no variety
within a class. The evaluator goes to models/evaluator/ as one ONNX file that takes grey levels and gives
features and logits; every figure in docs/quality.md depends on these weights, so they are not to be replaced lightly.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from itertools import pairwise
from pathlib import Path

import click
import onnx
import torch
import torch.nn.functional as F
from onnx import helper
from torch import Tensor, nn

from dcgan.data import Dataset, load_dataset
from dcgan_infer.contract.files import replacing, sha256_of
from dcgan_infer.shipped import FOLDER

EPOCHS = 12
BATCH_SIZE = 128
PEAK_LR = 4e-3
WEIGHT_DECAY = 0.02
TRAINED_ON = 50_000  # the rest of the training images is for validation
# Largest changes of an image: turned by about 11 degrees, sheared, scaled, and moved by 2 of 28 pixels.
TURN, SHEAR, SCALE, SHIFT = 0.2, 0.2, 0.1, 2 / 14


class Evaluator(nn.Module):
    """Grey levels to features and logits."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 32, 32, 64, 64, 64)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, stride=2 if layer == 4 else 1, bias=False)
            for layer, (before, after) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.fc1 = nn.Linear(64 * 4 * 4, 128)
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features, float32 (N, 128), and logits, float32 (N, 10), of images, uint8 (N, 28, 28)."""
        x = image.unsqueeze(1).float() / 255  # (N, 1, 28, 28)
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = torch.relu(norm(conv(x)))
            if index in (1, 3):
                x = F.max_pool2d(x, 2)  # (N, 32, 14, 14), (N, 64, 7, 7)
        features = torch.relu(self.fc1(x.flatten(1))).float()  # (N, 128)
        return features, self.fc2(self.dropout(features))


def moved(images: Tensor) -> Tensor:
    """The images, each turned, sheared, scaled and shifted a little: uint8, shape (N, 28, 28)."""
    n = len(images)
    turn, shear = (torch.empty(n).uniform_(-most, most) for most in (TURN, SHEAR))
    across, along = (1 + torch.empty(n).uniform_(-SCALE, SCALE) for _ in range(2))
    shift = torch.empty(n, 2).uniform_(-SHIFT, SHIFT)
    first = torch.stack([across * turn.cos(), across * (shear - turn.sin()), shift[:, 0]], 1)
    second = torch.stack([along * turn.sin(), along * turn.cos(), shift[:, 1]], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), [n, 1, 28, 28], align_corners=False)
    values = F.grid_sample(images.unsqueeze(1).float(), grid, align_corners=False)
    return values.round().to(torch.uint8).squeeze(1)


def train(images: Tensor, labels: Tensor, seed: int) -> Evaluator:
    torch.manual_seed(seed)
    evaluator = Evaluator()
    average = torch.optim.swa_utils.AveragedModel(
        evaluator,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995),  # type: ignore[no-untyped-call]
        use_buffers=True,
    )
    optimizer = torch.optim.AdamW(evaluator.parameters(), weight_decay=WEIGHT_DECAY, fused=True)
    steps = len(images) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=EPOCHS * steps)
    for epoch in range(EPOCHS):
        started = time.perf_counter()
        total = 0.0
        for batch in torch.randperm(len(images))[: steps * BATCH_SIZE].split(BATCH_SIZE):  # type: ignore[no-untyped-call]
            with torch.autocast("cpu", torch.bfloat16):
                _, logits = evaluator(moved(images[batch]))
            loss = F.cross_entropy(logits.float(), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            average.update_parameters(evaluator)
            total += loss.item()
        click.echo(f"epoch {epoch + 1:>2}: loss {total / steps:.4f}, {time.perf_counter() - started:.0f} s", err=True)
    evaluator.load_state_dict(average.module.state_dict())
    return evaluator.eval()


@torch.no_grad()
def accuracy(evaluator: Evaluator, images: Tensor, labels: Tensor) -> float:
    read = torch.cat([evaluator(part)[1].argmax(1) for part in images.split(500)])  # type: ignore[no-untyped-call]
    return float((read == labels).double().mean())


def write(evaluator: Evaluator, path: Path, metadata: dict[str, str]) -> None:
    """Write ONNX: input `image`, uint8 (batch, 28, 28); outputs `features` and `logits`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter uses parts of torch that are on their way out
        program = torch.onnx.export(
            evaluator,
            (torch.zeros(2, 28, 28, dtype=torch.uint8),),
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


@click.command()
@click.argument("data_dir", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, type=int)
@click.option("--threads", default=0, show_default="all cores", type=int)
@click.option(
    "-o",
    "--out",
    default=FOLDER / "evaluator" / "mnist-evaluator.onnx",
    show_default=True,
    type=click.Path(path_type=Path),
)
def main(data_dir: Path, seed: int, threads: int, out: Path) -> None:
    """Train, print the accuracies, write the ONNX file."""
    if threads:
        torch.set_num_threads(threads)
    train_set, test_set = (load_dataset("mnist", data_dir, split) for split in ("train", "test"))

    def tensors(dataset: Dataset) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(dataset.images), torch.from_numpy(dataset.labels).long()

    images, labels = tensors(train_set)
    evaluator = train(images[:TRAINED_ON], labels[:TRAINED_ON], seed)
    validation = accuracy(evaluator, images[TRAINED_ON:], labels[TRAINED_ON:])
    test = accuracy(evaluator, *tensors(test_set))
    metadata = {
        "dcgan.evaluator": "mnist",
        "dcgan.images_sha256": hashlib.sha256(train_set.images[:TRAINED_ON].tobytes()).hexdigest(),
        "dcgan.seed": str(seed),
        "dcgan.validation_accuracy": f"{validation:.4f}",
        "dcgan.test_accuracy": f"{test:.4f}",
    }
    write(evaluator, out, metadata)
    click.echo(f"{out}: validation {validation:.2%}, test {test:.2%}, sha256 {sha256_of(out)}")


if __name__ == "__main__":
    main()
