"""Inference against its peers, as ratios of interleaved runs: python benchmarks/inference.py

1. Cold start: the whole process `dcgan-infer --n 16 --out grid.png` against a bare script that imports onnxruntime,
   runs the model once and saves a PNG. Processes take turns.
2. Throughput: DigitGenerator (latents and grey levels included) and its session alone against torch in eager mode.
   Each row runs in bursts of a few tenths of a second with a rest of 0.25 s, since the thread pools of both go on
   spinning after a call and would slow each other down. The same number of threads for all.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import click
import numpy as np

from dcgan import shipped
from infer import DigitGenerator
from infer.latents import Block

NAME = "dcgan-mnist"  # unconditional
MODEL = shipped.path_of(NAME, ".onnx")
BARE = f"""
import numpy, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession({str(MODEL)!r}, providers=["CPUExecutionProvider"])
z = numpy.random.default_rng(0).standard_normal((16, 100)).astype(numpy.float32)
(images,) = session.run(["image"], {{"z": z}})
sheet = images.reshape(4, 4, 28, 28).swapaxes(1, 2).reshape(112, 112)
Image.fromarray(((sheet + 1) * 127.5).astype(numpy.uint8)).save("grid.png")
"""


def seconds_of(command: list[str], folder: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def cold_start(rounds: int) -> None:
    ours = ["-m", "infer", "--n", "16", "--out", "grid.png"]
    commands = {"bare script": [sys.executable, "-c", BARE], "dcgan-infer": [sys.executable, *ours]}
    times: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for name, command in commands.items():
                spent = seconds_of(command, folder)
                if number:  # the first round warms up
                    times[name].append(spent)
    ratios = [a / b for a, b in zip(times["dcgan-infer"], times["bare script"], strict=True)]
    click.echo(f"cold start, {rounds} rounds      median s   least s   ratio, median")
    for name, values in times.items():
        ratio = statistics.median(ratios) if name == "dcgan-infer" else 1.0
        click.echo(f"{name:<27}{statistics.median(values):>9.3f}{min(values):>10.3f}{ratio:>16.2f}")


def rows(batch: int, threads: int) -> dict[str, Callable[[int], None]]:
    """Functions that make so many images, by name; the peer first."""
    import torch

    from dcgan.checkpoint import load_generator

    torch.set_num_threads(threads)
    eager = load_generator(shipped.path_of(NAME, ".safetensors")).generator
    ours = DigitGenerator(NAME, provider="cpu", threads=threads)
    z = np.random.default_rng(0).standard_normal((batch, ours.spec.latent_dim)).astype(np.float32)
    tensor = torch.from_numpy(z)

    def run_eager(images: int) -> None:
        with torch.inference_mode():
            for _ in range(images // batch):
                eager(tensor)

    def run_session(images: int) -> None:
        for _ in ours.run((Block(z) for _ in range(images // batch)), batch):
            pass

    def run_ours(images: int) -> None:
        for _ in ours.stream(images, batch_size=batch):
            pass

    return {"torch eager": run_eager, "session alone": run_session, "DigitGenerator": run_ours}


def throughput(batch: int, rounds: int, threads: int) -> None:
    functions = rows(batch, threads)
    images = {1: 1024, 16: 2048}.get(batch, 2048)
    rates: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            time.sleep(0.25)
            start = time.perf_counter()
            function(images)
            if number:
                rates[name].append(images / (time.perf_counter() - start))
    head = f"batch {batch}, {threads} threads"
    click.echo(f"\n{head:<27}  median images/s    best   ratio, median")
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(values, rates["torch eager"], strict=True))
        click.echo(f"{name:<27}{statistics.median(values):>17,.0f}{max(values):>8,.0f}{ratio:>16.2f}")


@click.command()
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default="all cores", type=click.IntRange(1))
def main(rounds: int, threads: int) -> None:
    """Print cold start and throughput, each with its ratio to a peer."""
    cold_start(rounds)
    for batch in (1, 16, 64):
        throughput(batch, rounds, threads)


if __name__ == "__main__":
    main()
