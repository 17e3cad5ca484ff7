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
from planted_faults import FAULTS
from torch.onnx.verification import verify_onnx_program

from dcgan.checkpoint import load_generator
from dcgan_export import exact, onnx_file, parity
from dcgan_infer import shipped
from dcgan_infer.contract.errors import ExportError

# Where verify=True begins to warn: torch 2.14, torch/onnx/_internal/exporter/_core.py, step 6.
TORCH_ABSOLUTE, TORCH_RELATIVE = 5e-3, 1e-1


def ours(model: onnx.ModelProto, probes: tuple[exact.Probe, ...], folder: Path) -> str:
    """What parity says of a model."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    try:
        report = parity.compare(onnx_file.load(path), probes)
    except ExportError:
        return "refused: not as promised, or does not load"
    if not report.figures:
        return "refused: does not run on every batch"
    worst = max(report.figures, key=lambda row: row.max_error / row.limit)
    figures = f"{worst.max_error:.1e}, limit {worst.limit:.1e}"
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
    spec = source.generator.spec
    probes = exact.make_probes(source.generator, spec)
    torch.manual_seed(0)
    program = torch.onnx.export(
        source.generator,
        (torch.randn(2, spec.latent_dim),),
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        verbose=False,
    )
    assert program is not None
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnx", "onnxscript", "onnxruntime"))
    click.echo(f"{checkpoint.name}, weights {source.weights_sha256[:16]}, {spec.activation}; {versions}\n")
    click.echo("| fault | parity | torch.onnx verify=True |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx_file.write(source.generator, spec, folder / "right.onnx", {})
        right = onnx.load(folder / "right.onnx")
        click.echo(f"| none | {ours(right, probes, folder)} | {of_torch(right, program)} |")
        noticed, planted = [0, 0], 0
        for fault in FAULTS:
            damaged = fault.in_copy_of(right)
            if damaged == right:
                click.echo(f"| {fault.name} | changes nothing in these weights | |")
                continue
            verdicts = ours(damaged, probes, folder), of_torch(damaged, program)
            click.echo(f"| {fault.name} | {verdicts[0]} | {verdicts[1]} |")
            planted += 1
            noticed = [count + ("refused" in v or "warns" in v) for count, v in zip(noticed, verdicts, strict=True)]
    click.echo(f"\nnoticed: {noticed[0]} of {planted} by parity, {noticed[1]} of {planted} by torch's verify")


if __name__ == "__main__":
    main()
