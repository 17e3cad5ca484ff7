"""What dcgan-export writes, form against form, from one run: python benchmarks/forms.py [CHECKPOINT]

Each form is exported from one checkpoint into a temporary folder, and that folder's files are measured as
`measure.measure` does it: in bursts that take turns, with rests between, because thread pools spin after a call.
Inputs are prepared, outputs ignored, and all get the same number of threads. Prints a Markdown table a batch size;
ratios are to plain ONNX in onnxruntime.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import torch
from torch import nn

from dcgan.checkpoint import GeneratorCheckpoint, load_generator
from dcgan_export.formats import FORMATS, Variant
from dcgan_export.publish import publish
from dcgan_infer import shipped
from dcgan_infer.bench import open_rows
from dcgan_infer.contract.latents import labels, latents
from dcgan_infer.contract.spec import GeneratorSpec
from dcgan_infer.machine import processor
from dcgan_infer.measure import BURST, REST, ROUNDS, Burst, measure, ratios
from dcgan_infer.runtime import cores


class Form(NamedTuple):
    """A row of the tables.

    Attributes:
        name: of the row.
        variant: what is exported.
        runtime: `torch`, or one of `dcgan_infer.bench.RUNTIMES`.
    """

    name: str
    variant: Variant
    runtime: str


EAGER = "torch, eager"
PEER = "ONNX plain"
# A row is added here; torch in eager mode, which exports nothing, comes before them.
FORMS = (
    Form("TorchScript plain", Variant("torchscript", "none"), "torch"),
    Form("TorchScript fused", Variant("torchscript", "fused"), "torch"),
    Form(PEER, Variant(optimize="none"), "onnxruntime"),
    Form("ONNX fused", Variant(optimize="fused"), "onnxruntime"),
    Form("ONNX fused, fp16 weights", Variant(precision="fp16"), "onnxruntime"),
    Form("ONNX int8", Variant(precision="int8"), "onnxruntime"),
    Form("ONNX int8 for VNNI", Variant(precision="int8", optimize="vnni"), "onnxruntime"),
    Form("ONNX int8, grey levels", Variant(precision="int8", image="uint8"), "onnxruntime"),
    Form("ONNX plain in OpenVINO, float32", Variant(optimize="none"), "openvino"),
)

Prepare = Callable[[int], Callable[[], object]]  # from a batch size to a function that makes one batch


def in_torch(module: nn.Module, spec: GeneratorSpec) -> Prepare:
    """A module, eager or traced, with its inputs made beforehand."""

    def prepare(batch: int) -> Callable[[], object]:
        inputs = [torch.from_numpy(latents(0, 0, batch, spec.latent_dim))]
        if spec.num_classes:
            inputs.append(torch.from_numpy(labels(0, 0, batch, spec.num_classes)))

        def run() -> object:
            with torch.inference_mode():
                return module(*inputs)

        return run

    return prepare


def in_runtime(path: Path, runtime: str, threads: int) -> Prepare:
    (row,) = open_rows([str(path)], [runtime], threads)
    return lambda batch: row.prepare(batch, 0)


def exported(form: Form, source: GeneratorCheckpoint, folder: Path, threads: int) -> Prepare:
    """Export a form, with the proof that it is equal to the checkpoint, and open it."""
    path = folder / f"{FORMS.index(form)}{FORMATS[form.variant.format].suffix}"
    publish(source, path, form.variant)
    if form.runtime != "torch":
        return in_runtime(path, form.runtime, threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return in_torch(module, source.spec)


def markdown(batch: int, bursts: dict[str, list[Burst]]) -> str:
    """A table of one batch size."""
    lines = [f"| images/s, batch {batch} | median | best | ratio, median | least |", "|---|---|---|---|---|"]
    for name, found in bursts.items():
        rates = [batch * part.rate for part in found]
        times = ratios(found, bursts[PEER])
        lines.append(
            f"| {name} | {statistics.median(rates):,.0f} | {max(rates):,.0f} "
            f"| {statistics.median(times):.2f} | {min(times):.2f} |"
        )
    return "\n".join(lines)


def forms_here() -> Sequence[Form]:
    """The forms whose runtime is installed; says on stderr which are left out."""
    missing = [form for form in FORMS if form.runtime != "torch" and importlib.util.find_spec(form.runtime) is None]
    for form in missing:
        click.echo(f"left out: {form.name}; {form.runtime} is not installed: pip install {form.runtime}", err=True)
    return [form for form in FORMS if form not in missing]


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), default=shipped.path_of("dcgan-mnist", ".safetensors"))
@click.option("--batch", "batches", multiple=True, default=(1, 16, 64, 256), show_default=True, type=click.IntRange(1))
@click.option("--threads", type=click.IntRange(1), help="[default: the cores this process may use]")
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1))
@click.option("--burst", default=BURST, show_default=True, type=click.FloatRange(0.001), help="Seconds.")
@click.option("--rest", default=REST, show_default=True, type=click.FloatRange(0), help="Seconds.")
def main(
    checkpoint: Path, batches: tuple[int, ...], threads: int | None, rounds: int, burst: float, rest: float
) -> None:
    """Measure the exported forms of CHECKPOINT (default: the shipped unconditional one) against each other."""
    threads = threads or cores()
    torch.set_num_threads(threads)
    forms = forms_here()
    source = load_generator(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        rows = {EAGER: in_torch(source.module, source.spec)} | {
            form.name: exported(form, source, Path(folder), threads) for form in forms
        }
        runtimes = ["torch", *dict.fromkeys(form.runtime for form in forms if form.runtime != "torch")]
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in runtimes)
        click.echo(f"{processor().name}, {threads} threads, {versions}, {rounds} rounds")
        for batch in batches:
            functions = {name: prepare(batch) for name, prepare in rows.items()}
            click.echo("\n" + markdown(batch, measure(functions, rounds=rounds, burst=burst, rest=rest)))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
