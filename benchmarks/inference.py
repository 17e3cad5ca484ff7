"""Inference against its peers, as ratios of interleaved runs: python benchmarks/inference.py

1. Cold start: the whole process `dcgan-infer --n 16 --out grid.png` against a bare script that imports onnxruntime,
   runs the model once and saves a PNG. Processes take turns.
2. Throughput: ImageGenerator (latents and grey levels included) and its session alone against torch in eager mode.
   Measured as `dcgan_infer.measure.measure` does it, in bursts with rests between; the same number of threads for all.
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

from dcgan_infer import ImageGenerator, shipped
from dcgan_infer.inputs import Block
from dcgan_infer.measure import measure, ratios

NAME = "dcgan-mnist"  # unconditional
MODEL = shipped.path_of(NAME, ".onnx")
BARE = f"""
import os
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
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
    ours = ["-m", "dcgan_infer", "--n", "16", "--out", "grid.png"]
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


def rows(batch: int, threads: int) -> tuple[int, dict[str, Callable[[], None]]]:
    """Images that a call makes, and functions by name that make so many; the peer first."""
    import torch

    from dcgan.checkpoint import load_generator

    torch.set_num_threads(threads)
    eager = load_generator(shipped.path_of(NAME, ".safetensors")).module
    ours = ImageGenerator(NAME, provider="cpu", threads=threads)
    z = np.random.default_rng(0).standard_normal((batch, ours.spec.latent_dim)).astype(np.float32)
    tensor = torch.from_numpy(z)
    calls = max(1, 256 // batch)  # ImageGenerator draws latents for several batches at a time

    def run_eager() -> None:
        with torch.inference_mode():
            for _ in range(calls):
                eager(tensor)

    def run_session() -> None:
        for _ in ours.run((Block(z) for _ in range(calls)), batch):
            pass

    def run_ours() -> None:
        for _ in ours.stream(calls * batch, batch_size=batch):
            pass

    return calls * batch, {"torch eager": run_eager, "session alone": run_session, "ImageGenerator": run_ours}


def throughput(batch: int, rounds: int, threads: int) -> None:
    images, functions = rows(batch, threads)
    bursts = measure(functions, rounds=rounds)
    head = f"batch {batch}, {threads} threads"
    click.echo(f"\n{head:<27}  median images/s    best   ratio, median")
    for name, found in bursts.items():
        rates = [images * part.rate for part in found]
        ratio = statistics.median(ratios(found, bursts["torch eager"]))
        click.echo(f"{name:<27}{statistics.median(rates):>17,.0f}{max(rates):>8,.0f}{ratio:>16.2f}")


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
