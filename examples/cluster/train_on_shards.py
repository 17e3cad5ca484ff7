"""A classifier that sees generated images only, and is tested on real ones.

    python train_on_shards.py digits --mnist FOLDER

Its accuracy is the classification accuracy score of Ravuri and Vinyals (2019, arXiv:1905.10887): what a generator
leaves out of a class, such a classifier can't learn. Compare it with the accuracy after real images, `--real`.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms.functional import pil_to_tensor

from dcgan.loading import load_dataset
from dcgan_infer.shards.images import ShardedImages


def real(split: str, folder: Path | None) -> TensorDataset:
    """MNIST; without a folder the sample that dcgan has, of which every sixth image is for the test."""
    found = load_dataset("mnist" if folder else "sample", folder or Path(), split if folder else "train")
    images, labels = torch.from_numpy(found.images)[:, None], torch.from_numpy(found.labels)
    if not folder:
        in_test = torch.arange(len(images)) % 6 == 0
        images, labels = (each[in_test == (split == "test")] for each in (images, labels))
    return TensorDataset(images, labels)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),  # (N, 16, 14, 14)
        nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),  # (N, 32, 7, 7)
        nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
    )  # fmt: skip


@click.command()
@click.argument("shards", required=False)
@click.option("--mnist", type=click.Path(path_type=Path), help="Folder of MNIST's files.  [default: dcgan's sample]")
@click.option("--real", "on_real", is_flag=True, help="Train on the real training images instead of SHARDS.")
@click.option("--epochs", default=1, show_default=True)
@click.option("--workers", default=0, show_default=True, help="Processes that read shards.")
def main(shards: str | None, mnist: Path | None, on_real: bool, epochs: int, workers: int) -> None:
    """Train on the images in SHARDS, a folder or URL, and say how many of MNIST's test images are told right."""
    torch.manual_seed(0)
    if on_real == bool(shards):
        raise click.UsageError("Give either SHARDS or --real.")
    tests = real("test", mnist)  # before the work: its files may be missing
    images: Dataset[tuple[Tensor, ...]] = real("train", mnist)
    if shards:
        generated = ShardedImages(shards, transform=pil_to_tensor)
        if generated.plan.image_shape != (28, 28) or len(generated.classes) != 10:
            raise click.ClickException(f"{shards} holds no labelled digits of 28x28 pixels in grey, as MNIST has them")
        images = generated  # type: ignore[assignment]
    # In their order, which is fast: the images of a seed are in no order.
    loader = DataLoader(images, batch_size=64, shuffle=on_real, num_workers=workers)
    model, loss = network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(epochs):
        for pictures, labels in loader:
            optimizer.zero_grad()
            loss(model(pictures / 127.5 - 1), labels.long()).backward()
            optimizer.step()
    model.eval()
    with torch.inference_mode():
        right = [model(x / 127.5 - 1).argmax(1) == y for x, y in DataLoader(tests, batch_size=1000)]
    accuracy = torch.cat(right).float().mean()
    click.echo(f"{shards or 'real images'}: {len(images):,} images, {epochs} epochs; accuracy {accuracy:.4f}")  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
