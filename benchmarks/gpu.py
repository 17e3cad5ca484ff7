"""A generator on a CUDA device: python benchmarks/gpu.py [CHECKPOINT]

Images/s of torch and onnxruntime by batch size, as `measure.measure` does it. Latents begin in the computer's memory
and float32 images end there, as `dcgan-infer` has it; inputs are made beforehand. Beside each row the largest
difference from the images of torch on the CPU, in units of the value range's half.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from dcgan.checkpoint import GeneratorCheckpoint, load_generator
from dcgan_export.formats import Variant
from dcgan_export.publish import publish
from dcgan_infer import runtime, shipped
from dcgan_infer.contract.latents import labels, latents
from dcgan_infer.measure import BURST, REST, ROUNDS, measure, ratios

PEER = "torch, eager"
Images = Callable[
    [dict[str, np.ndarray[Any, Any]]], np.ndarray[Any, Any]
]  # of inputs by name, as the ONNX file has them


def in_torch(module: nn.Module, tf32: bool = False, half: bool = False) -> Images:
    def run(feeds: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        cast = torch.autocast("cuda", torch.float16) if half else contextlib.nullcontext()
        with torch.inference_mode(), cast:
            images = module(*(torch.from_numpy(feed).cuda() for feed in feeds.values()))
            return images.float().cpu().numpy()  # type: ignore[no-any-return]

    return run


def cuda_session(path: Path, *, tf32: bool = False, **options: str) -> Any:
    ort = runtime.onnxruntime()
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    chosen = {"use_tf32": str(int(tf32)), **options}
    return ort.InferenceSession(path, settings, providers=[("CUDAExecutionProvider", chosen)], enable_fallback=0)


def in_onnxruntime(path: Path, tf32: bool = False) -> Images:
    session = cuda_session(path, tf32=tf32)
    return lambda feeds: session.run(["image"], feeds)[0]


def bound(path: Path, graph: bool = False) -> Images:
    """With buffers on the device that stay; with `graph` the kernels are recorded once and then replayed."""
    ort = runtime.onnxruntime()
    opened: dict[int, Any] = {}

    def run(feeds: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        size = len(feeds["z"])
        if size not in opened:  # a graph holds for one size
            session = cuda_session(path, enable_cuda_graph=str(int(graph)))
            binding = session.io_binding()
            inputs = {name: ort.OrtValue.ortvalue_from_numpy(feed, "cuda", 0) for name, feed in feeds.items()}
            shape = [size, *(int(side) for side in session.get_outputs()[0].shape[1:])]
            output = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0)
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output("image", output)
            opened[size] = session, binding, inputs, output
        session, binding, inputs, output = opened[size]
        for name, feed in feeds.items():
            inputs[name].update_inplace(feed)
        session.run_with_iobinding(binding)
        return output.numpy()  # type: ignore[no-any-return]

    return run


def rows(source: GeneratorCheckpoint, folder: Path, compiled: bool) -> dict[str, Images]:
    plain, fused, half = folder / "plain.onnx", folder / "fused.onnx", folder / "half.onnx"
    publish(source, plain, Variant(optimize="none"))
    publish(source, fused, Variant(optimize="fused"))
    publish(source, half, Variant(precision="fp16"))
    module = copy.deepcopy(source.module).cuda()
    found = {
        PEER: in_torch(module),
        "torch, eager, TF32": in_torch(module, tf32=True),
        "torch, eager, autocast to fp16": in_torch(module, half=True),
    }
    if compiled:
        found["torch.compile"] = in_torch(torch.compile(module, mode="reduce-overhead"))  # type: ignore[arg-type]
    return found | {
        "onnxruntime, plain": in_onnxruntime(plain),
        "onnxruntime, fused (what ships)": in_onnxruntime(fused),
        "onnxruntime, fused, TF32": in_onnxruntime(fused, tf32=True),
        "onnxruntime, fused, fp16 weights": in_onnxruntime(half),
        "onnxruntime, fused, buffers that stay": bound(fused),
        "onnxruntime, fused, CUDA graph": bound(fused, graph=True),
    }


def start_up(path: Path) -> None:
    """Seconds until a session is there, of its first images and of the second ones; the CPU's beside them."""
    ort = runtime.onnxruntime()
    feeds = {entry.name: entry for entry in ort.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()}
    z = {"z": latents(0, 0, 16, feeds["z"].shape[1])}
    if "label" in feeds:
        z["label"] = np.zeros(16, np.int64)
    ways: dict[str, Callable[[], Any]] = {
        "cpu": lambda: ort.InferenceSession(path, providers=["CPUExecutionProvider"]),
        "cuda": lambda: cuda_session(path),
        "cuda, the default search": lambda: cuda_session(path, cudnn_conv_algo_search="DEFAULT"),
        "cuda, heuristic search": lambda: cuda_session(path, cudnn_conv_algo_search="HEURISTIC"),
    }
    for name, make in ways.items():
        moments = [time.perf_counter()]
        session = make()
        moments.append(time.perf_counter())
        for _ in range(2):
            session.run(["image"], z)
            moments.append(time.perf_counter())
        spent = ", ".join(f"{after - before:.4f}" for before, after in itertools.pairwise(moments))
        click.echo(f"start-up, {name}: session, first, second batch of 16: {spent} s")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), default=shipped.path_of("dcgan-mnist", ".safetensors"))
@click.option("--batch", "batches", multiple=True, default=(1, 16, 64, 256, 1024), show_default=True, type=int)
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1))
@click.option("--compiled/--no-compiled", default=True, help="With torch.compile, which takes a minute to start.")
def main(checkpoint: Path, batches: tuple[int, ...], rounds: int, compiled: bool) -> None:
    """Measure a generator on the first CUDA device; the shipped unconditional one if none is named."""
    source = load_generator(checkpoint)
    spec = source.spec
    ort = runtime.onnxruntime()
    click.echo(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, onnxruntime {ort.__version__}, "
        f"Python {platform.python_version()}, {rounds} rounds"
    )
    with tempfile.TemporaryDirectory() as temporary:
        functions = rows(source, Path(temporary), compiled)
        start_up(Path(temporary) / "fused.onnx")
        for batch in batches:
            feeds: dict[str, Any] = {"z": latents(0, 0, batch, spec.latent_dim)}
            if spec.num_classes:
                feeds["label"] = labels(0, 0, batch, spec.num_classes)
            with torch.inference_mode():
                expected = source.module(*map(torch.from_numpy, feeds.values())).numpy()
            off = {name: float(np.abs(run(feeds) - expected).max()) for name, run in functions.items()}
            calls = {name: functools.partial(run, feeds) for name, run in functions.items()}
            bursts = measure(calls, rounds=rounds, burst=BURST, rest=REST)
            click.echo(f"\n| images/s, batch {batch} | median | best | ratio, median | least | off by |")
            click.echo("|---|---|---|---|---|---|")
            for name, found in bursts.items():
                rates, times = [batch * part.rate for part in found], ratios(found, bursts[PEER])
                click.echo(
                    f"| {name} | {statistics.median(rates):,.0f} | {max(rates):,.0f} "
                    f"| {statistics.median(times):.2f} | {min(times):.2f} | {off[name]:.1e} |"
                )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
