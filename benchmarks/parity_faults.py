"""Which faults in an ONNX file are noticed: by our parity check, and by torch.onnx's own verification.

    python benchmarks/parity_faults.py [CHECKPOINT]

Every fault of planted_faults.py is planted in a correct export of the checkpoint, and both judge the same damaged
model. `torch.onnx.export(..., verify=True)` runs `torch.onnx.verification.verify_onnx_program` on the example input it
was given, and logs a warning when values differ by 5e-3, or by a tenth of what was expected. It never refuses, and when
the model can't be run at all it says nothing. Prints Markdown.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

import click
import onnx
import onnx_ir
import torch
from planted_faults import faults, unfolded
from torch.onnx.verification import verify_onnx_program

from dcgan.checkpoint import load_generator
from dcgan_export import exact, onnx_file, parity
from dcgan_export.formats import Variant
from dcgan_export.torch_files import example_inputs
from dcgan_infer import shipped
from dcgan_infer.contract.errors import ExportError
from dcgan_infer.contract.spec import GeneratorSpec

# Where verify=True begins to warn: torch 2.14, torch/onnx/_internal/exporter/_core.py, step 6.
TORCH_ABSOLUTE, TORCH_RELATIVE = 5e-3, 1e-1
VARIANT = Variant(optimize="none").settled()


def ours(model: onnx.ModelProto, probes: tuple[exact.Probe, ...], spec: GeneratorSpec, folder: Path) -> str:
    """What parity says of a model."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    try:
        report = parity.compare(onnx_file.load(path), probes, spec, VARIANT)
    except ExportError:
        return "refused: not as promised, or does not load"
    if not report.figures:
        return "refused: does not run on every batch"
    error, limit = max(
        ((row.difference.max_error, row.difference.limit or 0.0) for row in report.figures),
        key=lambda each: each[0] / each[1],
    )
    figures = f"{error:.1e}, limit {limit:.1e}"
    return f"passed ({figures})" if report.passed else f"refused ({figures})"


def of_torch(model: onnx.ModelProto, program: torch.onnx.ONNXProgram) -> str:
    """What `verify=True` says of a model."""
    program.model = onnx_ir.from_proto(model)
    try:
        (info,) = verify_onnx_program(program)
    except Exception as error:  # verify=True catches all as well, and says nothing
        return f"silent ({type(error).__name__} swallowed)"
    finally:
        program.release()
    figures = f"{info.max_abs_diff:.1e}, relative {info.max_rel_diff:.1e}"
    warns = info.max_abs_diff >= TORCH_ABSOLUTE or info.max_rel_diff >= TORCH_RELATIVE
    return f"warns ({figures})" if warns else f"**silent** ({figures})"


@click.command()
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
def main(checkpoint: Path | None) -> None:
    """Print the table of faults for CHECKPOINT, the shipped one by default."""
    checkpoint = checkpoint or shipped.path_of("dcgan-mnist", ".safetensors")
    source = load_generator(checkpoint)
    generator, spec = source.chain, source.spec
    if generator is None:
        raise click.UsageError("faults are planted layer by layer, and this checkpoint is no chain of known layers.")
    probes = exact.make_probes(generator, spec)
    torch.manual_seed(0)
    inputs = (torch.randn(2, spec.latent_dim), *example_inputs(spec)[1:])
    program = torch.onnx.export(
        generator,
        inputs,
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},) * len(inputs),
        verbose=False,
    )
    assert program is not None
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnx", "onnxscript", "onnxruntime"))
    click.echo(f"{checkpoint.name}, weights {source.weights_sha256[:16]}, {spec.activation}; {versions}\n")
    click.echo("| fault | parity | torch.onnx verify=True |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx_file.write(generator, spec, folder / "right.onnx", {}, VARIANT)
        right = unfolded(onnx.load(folder / "right.onnx"), generator)
        click.echo(f"| none | {ours(right, probes, spec, folder)} | {of_torch(right, program)} |")
        noticed, planted = [0, 0], 0
        for fault in faults(spec):
            damaged = fault.in_copy_of(right)
            if damaged == right:
                click.echo(f"| {fault.name} | changes nothing in these weights | |")
                continue
            verdicts = ours(damaged, probes, spec, folder), of_torch(damaged, program)
            click.echo(f"| {fault.name} | {verdicts[0]} | {verdicts[1]} |")
            planted += 1
            noticed = [count + ("refused" in v or "warns" in v) for count, v in zip(noticed, verdicts, strict=True)]
    click.echo(f"\nnoticed: {noticed[0]} of {planted} by parity, {noticed[1]} of {planted} by torch's verify")


if __name__ == "__main__":
    main()
