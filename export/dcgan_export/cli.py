"""`dcgan-export`: options in, one library call, the result out."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dcgan_infer import __version__, shipped
from dcgan_infer.commands import Command, parse_activation
from dcgan_infer.contract.errors import OutputError, ParityError
from dcgan_infer.extras import require

from .formats import FORMATS, IMAGES, INPUTS, OPTIMIZATIONS, PRECISIONS
from .site import publish_site
from .targets import TARGETS, publish_to_triton

if TYPE_CHECKING:
    from dcgan_infer.contract.spec import Activation

    from .parity_report import ParityReport
    from .site import Site


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(FORMATS)),
    help="Kind of artifact.  [default: what --out ends in, or else onnx]",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="File to write.  [default: the checkpoint's name with the format's suffix, in the current folder]",
)
@click.option(
    "--opset",
    type=int,
    metavar="N",
    help="Version of the ONNX operators, exactly.  [default: 17, or 18 with --inputs seed]",
)
@click.option(
    "--optimize",
    type=click.Choice(OPTIMIZATIONS),
    help="fused: the same function in fewer, faster operations; none: the checkpoint's own layers and parameter names."
    "  [default: fused for ONNX, none for the others]",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Of ONNX. fp16: weights stored in half the bits, computed in fp32: half the size, the same speed (half "
    "arithmetic is for GPUs: load TorchScript there, and call .half()). int8: convolutions computed in 8 bits: a third "
    "of the size, faster, and off by half a grey level on average.  [default: fp32]",
)
@click.option(
    "--image",
    type=click.Choice(IMAGES),
    help="What an ONNX file gives. float: (N, 1, 28, 28) from -1 to 1; uint8: grey levels (N, 28, 28), ready to show."
    "  [default: float, or uint8 with --inputs seed]",
)
@click.option(
    "--inputs",
    type=click.Choice(INPUTS),
    help="What an ONNX file takes. z: latents, and of a conditional generator a label each; seed: a seed, a number of "
    "images and labels in turn, so that the file needs nothing beside it (docs/embedding.md).  [default: z]",
)
@click.option(
    "--target",
    "target_name",
    type=click.Choice(list(TARGETS)),
    help="ONNX as suits a consumer. ort: the defaults; cpp: --image uint8; web: a web site in the folder --out, or in "
    "a file .onnx --precision int8 --image uint8, small; triton: a model repository in the folder --out.",
)
@click.option(
    "--runtime",
    type=click.Path(path_type=Path),
    metavar="FILE.tgz",
    help="Of --target web: onnxruntime-web as npm packs it.  [default: npm fetches it]",
)
@click.option(
    "--activation",
    callback=parse_activation,
    metavar="NAME[:NUMBER]",
    help="Of a .pt checkpoint, which does not say: relu, leaky-relu, elu or softplus.  [default: relu]",
)
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="FILE.json", help="Also write the figures to a file."
)
@click.option(
    "--golden",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write latents and exact images, which dcgan-verify holds a model's file against.",
)
@click.option(
    "--vectors",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also write latents and exact images as raw files with a JSON index, for tests in other languages.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.version_option(__version__, prog_name="dcgan-export")
def main(
    checkpoint: Path | None,
    format_name: str | None,
    out: Path | None,
    opset: int | None,
    optimize: str | None,
    precision: str | None,
    image: str | None,
    inputs: str | None,
    target_name: str | None,
    runtime: Path | None,
    activation: Activation | None,
    report: Path | None,
    golden: Path | None,
    vectors: Path | None,
    as_json: bool,
) -> None:
    """Export a generator, and prove the artifact equal to it.

    CHECKPOINT is a .safetensors file of dcgan-train, or a .pt state dict of the document's script; the default is the
    generator that ships with the project. The artifact is loaded back in its own runtime and compared with the
    checkpoint run in float64. A mismatch prints the figures, leaves no file and exits with status 1.

    \b
    Examples:
      dcgan-export
      dcgan-export runs/fast/generator.safetensors --format onnx -o digits.onnx
      dcgan-export theirs.pt --activation leaky-relu:0.2 --out ours.pt
      dcgan-export --optimize none --out plain.onnx
      dcgan-export --precision int8 --image uint8 --out small.onnx
      dcgan-export --inputs seed --out selfcontained.onnx
      dcgan-export --target web --out site
      dcgan-export --target triton --out model_repository
      dcgan-export --out digits.pt2 --report parity.json
    """
    if "-" in map(str, (out, report, golden, vectors)):
        raise click.UsageError("an artifact, its report and vectors are files; give a name instead of -.")
    implied = next((form.name for form in FORMATS.values() if out and out.suffix.lower() == form.suffix), None)
    if implied and format_name not in (None, implied):
        raise click.UsageError(f"--format {format_name} contradicts --out {out}, whose name is one of {implied}.")
    target = TARGETS[target_name or "ort"]
    makes_site = target_name == "web" and not (implied or format_name)
    makes_folder = makes_site or target_name == "triton"
    if out and not (implied or format_name or makes_folder):
        suffixes = ", ".join(form.suffix for form in FORMATS.values())
        raise click.UsageError(f"--out {out} does not say what to write: end it in {suffixes}, or give --format.")
    form = FORMATS[format_name or implied or "onnx"]
    given = {"--opset": opset, "--precision": precision, "--image": image, "--inputs": inputs, "--target": target_name}
    for option in (option for option, value in given.items() if value is not None and not form.has_variants):
        raise click.UsageError(f"{option} is for ONNX only, not for {form.name}.")
    precision = precision or target.variant.precision
    image = image or ("uint8" if inputs == "seed" else target.variant.image)
    if makes_folder and (implied or report):
        raise click.UsageError(
            f"--target {target_name} writes a folder, and no report; give a folder's name, or take --json."
        )
    if makes_site and (optimize == "none" or any((given["--precision"], given["--image"], inputs))):
        raise click.UsageError(
            "a site has its own models, int8 and fp16 that take latents and give grey levels; leave --optimize, "
            "--precision, --image and --inputs out, or end --out in .onnx for a model alone."
        )
    if runtime is not None and not makes_site:
        raise click.UsageError("--runtime is for --target web with a folder as --out.")
    if precision == "int8" and optimize == "none":
        raise click.UsageError("--precision int8 needs the fused form; leave --optimize none out.")
    checkpoint = checkpoint or shipped.path_of(shipped.DEFAULT, ".safetensors")
    if out is None and makes_folder:
        out = Path(target.folder)
    elif out is None:
        out = Path(checkpoint.stem + form.suffix)
        if out.exists():  # perhaps a checkpoint: the document's script saves .pt files too
            raise OutputError(f"{out} already exists; give --out {out} to replace it, or another name")
    for package, extra in form.needs:
        require(package, extra)
    publish = functools.partial(
        require("dcgan_export.publish", "export").publish,
        checkpoint,
        format_name=form.name,
        opset=opset if opset is not None else target.variant.opset,
        optimize=optimize,
        precision=precision,
        image=image,
        inputs=inputs or "z",
        activation=activation,
        report_path=report,
        golden_path=golden,
        vectors_path=vectors,
        say=_status,
    )
    try:
        if makes_site:
            _print_site(publish_site(publish, out, checkpoint.stem, runtime, _status), as_json)
        else:
            artifact = publish_to_triton(publish, out, checkpoint.stem) if makes_folder else publish(out)
            _print(artifact.report, artifact.as_dict() if as_json else None)
            if not as_json:
                click.echo(f"wrote {artifact.path} ({artifact.size:,} bytes, sha256 {artifact.sha256})")
    except ParityError as error:
        _print(error.report, {"format": form.name, "parity": error.report.as_dict()} if as_json else None)
        raise
    if golden is not None and not as_json:
        click.echo(f"wrote {golden}")
    if vectors is not None and not as_json:
        click.echo(f"wrote {vectors / 'index.json'} and the files it names")


def _print_site(site: Site, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(site.as_dict(), indent=2, allow_nan=False))
        return
    for artifact in site.models.values():
        click.echo(f"{artifact.path.name}: {artifact.variant.precision}, {artifact.size:,} bytes, parity passed")
    click.echo(
        f"wrote {site.path} ({site.files} files, {site.size / 1e6:.1f} MB); serve it from any static host, here:"
    )
    click.echo(f"  python -m http.server --directory {shlex.quote(str(site.path))}")


def _print(report: ParityReport, as_json: dict[str, object] | None) -> None:
    click.echo(report.table() if as_json is None else json.dumps(as_json, indent=2, allow_nan=False))


def _status(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"{text} ...", err=True)
