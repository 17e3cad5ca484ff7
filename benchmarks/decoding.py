"""Images/s of dcgan.images against torchvision's ImageFolder and DataLoader: python benchmarks/decoding.py

JPEGs of 256x256 that look like photographs to a decoder (smooth noise, shapes, quality 90: 12 to 20 KB) in ten class
folders. Each way runs in a process of its own: all images at 64x64 as one array of uint8, with two workers; ours with
an empty cache, and again with a full one. The ways take turns. Memory is the largest process's, and the workers'.
"""

from __future__ import annotations

import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
WORKERS = 2
DIFFERENT = 300  # images that are drawn; the others are these with another comment inside


def make(folder: Path, images: int) -> int:
    """Write JPEGs; returns their bytes in all."""
    draw = np.random.default_rng(0)
    drawn = []
    for _ in range(min(images, DIFFERENT)):
        layers = np.zeros((256, 256, 3), np.float32)
        for cells, strength in ((4, 90), (16, 40), (64, 15)):  # as the spectrum of photographs falls
            coarse = Image.fromarray(draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            layers += (
                np.asarray(coarse.resize((256, 256), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1
            ) * strength
        layers += draw.normal(0, 3, layers.shape)
        picture = Image.fromarray((layers + 128).clip(0, 255).astype(np.uint8))
        pen = ImageDraw.Draw(picture)
        for _ in range(6):
            left, top, width, height = draw.integers(0, 200, 4).tolist()
            colour = tuple(draw.integers(0, 256, 3).tolist())
            (pen.ellipse if width > height else pen.rectangle)((left, top, left + width, top + height), fill=colour)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=90)
        drawn.append(stream.getvalue())
    for number in range(10):
        (folder / f"class{number}").mkdir()
    written = 0
    for number in range(images):
        data, comment = drawn[number % len(drawn)], str(number).encode()
        content = data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]
        (folder / f"class{number % 10}" / f"{number:06}.jpg").write_bytes(content)
        written += len(content)
    return written


def ours(folder: Path, cache: Path) -> tuple[int, ...]:
    from dcgan.images import load_images

    return load_images(folder, size=SIZE, cache=cache, workers=WORKERS).dataset.images.shape


def torchvisions(folder: Path, cache: Path) -> tuple[int, ...]:
    import torch
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    steps = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.PILToTensor()]
    images = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    loader = DataLoader(images, batch_size=256, num_workers=WORKERS)
    array = torch.cat([batch for batch, _ in loader]).permute(0, 2, 3, 1).contiguous().numpy()
    np.save(cache / "torchvision.npy", array)
    return array.shape


WAYS: dict[str, Callable[[Path, Path], tuple[int, ...]]] = {"dcgan.images": ours, "torchvision": torchvisions}


def in_a_process(way: str, folder: Path, cache: Path) -> tuple[float, float]:
    """Seconds without imports, and the peak of memory in MiB."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", way, str(folder), str(cache)],
        check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    seconds, mebibytes = json.loads(done.stdout)
    return seconds, mebibytes


def measure_here(way: str, folder: str, cache: str) -> None:
    if way == "torchvision":
        import torchvision.datasets  # noqa: F401  imports are no part of the time
    else:
        import dcgan.images  # noqa: F401
    start = time.perf_counter()
    shape = WAYS[way](Path(folder), Path(cache))
    seconds = time.perf_counter() - start
    assert shape[1:] == (SIZE, SIZE, 3), shape
    own, workers = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    click.echo(json.dumps([seconds, (own + WORKERS * workers) / 1024]))


@click.command(help=__doc__)
@click.option("--images", default=50_000, show_default=True, help="JPEGs to write.")
@click.option("--rounds", default=3, show_default=True, help="Each way runs so many times.")
@click.option("--measure", nargs=3, hidden=True, help="Way, folder and cache: one run, in this process.")
def main(images: int, rounds: int, measure: tuple[str, str, str] | None) -> None:
    if measure:
        measure_here(*measure)
        return
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "images"
        folder.mkdir()
        size = make(folder, images)
        for number in range(rounds):
            cache = Path(temporary) / f"cache{number}"
            cache.mkdir()
            for name, way in (
                ("dcgan.images, first time", "dcgan.images"),
                ("torchvision, ImageFolder and DataLoader", "torchvision"),
                ("dcgan.images, from its cache", "dcgan.images"),
            ):
                found.setdefault(name, []).append(in_a_process(way, folder, cache))
    click.echo(f"{images:,} JPEGs of 256x256, {size / 1e6:,.0f} MB, to 64x64; {WORKERS} workers; {rounds} rounds")
    click.echo(f"{'':<42}{'images/s, median':>17}{'most':>9}{'ratio':>8}{'MiB':>8}")
    peer = statistics.median(seconds for seconds, _ in found["torchvision, ImageFolder and DataLoader"])
    for name, runs in found.items():
        median, least = statistics.median(seconds for seconds, _ in runs), min(seconds for seconds, _ in runs)
        memory = max(mebibytes for _, mebibytes in runs)
        click.echo(f"{name:<42}{images / median:>17,.0f}{images / least:>9,.0f}{peer / median:>8.2f}{memory:>8,.0f}")


if __name__ == "__main__":
    main()
