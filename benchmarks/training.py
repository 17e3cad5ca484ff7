"""Training images/s of the recipes against the document's loop, on the shipped sample: python benchmarks/training.py

The document's loop reads its images as its script does: torchvision's transforms, a DataLoader, batch 4. Bursts of the
three take turns, with a rest between, because thread pools go on spinning for a while; medians and best of the rounds.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import click
import torch
from document import DocumentLoop
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dcgan.loading import load_dataset
from dcgan.recipes import RECIPES
from dcgan.trainer import Trainer, resolve_device, resolve_precision


class TransformedImages(Dataset[Tensor]):
    """Images the way torchvision's MNIST hands them out: through PIL, one at a time."""

    def __init__(self) -> None:
        self.images = load_dataset("sample", Path("unused")).images
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.fromarray(self.images[index]))  # type: ignore[no-any-return]


def document_burst(device: str) -> Callable[[int], int]:
    """A function that trains on about so many images and returns the exact number."""
    loop = DocumentLoop(device)
    loader = DataLoader(TransformedImages(), batch_size=4, shuffle=True)

    def burst(images: int) -> int:
        batches = images // 4
        loop.train(islice(loader, batches))
        return batches * 4

    return burst


def recipe_burst(name: str, device: torch.device, precision: str) -> Callable[[int], int]:
    recipe = dataclasses.replace(RECIPES[name], precision=resolve_precision(precision, device))
    trainer = Trainer(recipe, load_dataset("sample", Path("unused")), device, seed=0)
    order = trainer.order(0)

    def burst(images: int) -> int:
        steps = images // recipe.batch_size
        for index in range(steps):
            first = index * recipe.batch_size % (len(order) - recipe.batch_size)
            trainer.step(*trainer.batch(order[first : first + recipe.batch_size]))
        trainer.epoch_losses.tolist()  # waits for the device
        return steps * recipe.batch_size

    return burst


@click.command()
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default="all cores", type=click.IntRange(1))
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda.")
def main(rounds: int, threads: int, device: str) -> None:
    """Print training images/s and ratios to the document's loop."""
    torch.set_num_threads(threads)
    there = resolve_device(device)
    many = 1 if there.type == "cpu" else 16
    # (name, burst, images a burst): about a second each.
    rows = [
        ("document's loop", document_burst(device), 240 * many),
        ("baseline", recipe_burst("baseline", there, RECIPES["baseline"].precision), 240 * many),
        ("fast", recipe_burst("fast", there, RECIPES["fast"].precision), 1024 * many),
    ]
    if there.type == "cuda":
        rows.append(("fast, fp32", recipe_burst("fast", there, "fp32"), 1024 * many))
    rates: dict[str, list[float]] = {name: [] for name, _, _ in rows}
    for number in range(rounds + 1):
        for name, burst, images in rows:
            time.sleep(0.25)
            start = time.perf_counter()
            done = burst(images)
            if number:  # the first round warms up
                rates[name].append(done / (time.perf_counter() - start))
    ratios = {
        name: [rate / peer for rate, peer in zip(rates[name], rates["document's loop"], strict=True)] for name in rates
    }
    head = f"{'':<18}{'median images/s':>16}{'best':>8}{'ratio, median':>16}{'least':>8}"
    click.echo(f"{head}   ({threads} threads, {rounds} rounds)")
    for name, values in rates.items():
        click.echo(
            f"{name:<18}{statistics.median(values):>16,.0f}{max(values):>8,.0f}"
            f"{statistics.median(ratios[name]):>16.2f}{min(ratios[name]):>8.2f}"
        )


if __name__ == "__main__":
    main()
