"""`dcgan-export`: options in, one library call, the result out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dcgan_infer import __version__, shipped
from dcgan_infer.commands import Command, FiniteFloat, WholeNumber, parse_activation
from dcgan_infer.contract.errors import ExportError, OutputError, ParityError
from dcgan_infer.contract.golden import SUFFIX as GOLDEN
from dcgan_infer.contract.layers import OUTPUTS, Activation
from dcgan_infer.contract.spec import DRAWN
from dcgan_infer.extras import require

from .card import license_id
from .formats import FORMATS, IMAGES, INPUTS, OPTIMIZATIONS, PRECISIONS, Variant
from .hub import publish_to_hub
from .site import publish_site
from .targets import TARGETS, publish_to_triton

if TYPE_CHECKING:
    from dcgan.checkpoint import GeneratorCheckpoint

    from .hub import HubFolder
    from .publish import Artifact
    from .site import Site

_VALUE_RANGES = {f"{low:g},{high:g}": (low, high) for low, high in OUTPUTS.values()}


def _parse_license(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    try:
        return None if text is None else license_id(text)
    except ExportError as error:
        raise click.BadParameter(f"{error}.") from error


def _parse_names(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))


@contextlib.contextmanager
def _ended_by_nobody() -> Iterator[None]:
    """Within, a module of somebody's that ends the program fails like any other: nothing is written, and this says so.

    Raises:
        ExportError: it did.
    """
    try:
        yield
    except SystemExit as error:
        raise ExportError(
            "the code of --module ends the program while it makes images; take its sys.exit out"
        ) from error


@click.command(
    cls=Command,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    sections={
        "What to write": ("format_name", "out", "target_name", "runtime", "license"),
        "The artifact": ("precision", "optimize", "image", "inputs", "opset"),
        "Your own checkpoint": (
            "key",
            "module",
            "activation",
            "output_activation",
            "batch_norm_eps",
            "latent_dim",
            "num_classes",
            "class_names",
            "value_range",
        ),
        "The proof": ("verbose", "report", "golden", "no_golden", "vectors", "as_json"),
    },
)
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
    help="fused: the same function in fewer, faster operations; none: the checkpoint's own layers, as torch's exporter "
    "writes them; vnni, with --precision int8: latents are multiplied in integers too, for servers whose processor has "
    "VNNI.  [default: fused for ONNX where the layers are known, none for the others]",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Of ONNX. fp16: weights stored in half the bits, computed in fp32: half the size, the same speed (half "
    "arithmetic is for GPUs: load TorchScript there, and call .half()). int8: convolutions computed in 8 bits: a third "
    "of the size, faster, and off by about a grey level on average.",
)
@click.option(
    "--image",
    type=click.Choice(IMAGES),
    help="What an ONNX file gives. float: (N, channels, height, width) in the generator's value range; uint8: pictures "
    "ready to show, (N, height, width) in grey, (N, height, width, 3) in colour."
    "  [default: float, or uint8 with --inputs seed]",
)
@click.option(
    "--inputs",
    type=click.Choice(INPUTS),
    default="z",
    show_default=True,
    help="What an ONNX file takes. z: latents, and of a conditional generator a label each; seed: a seed, a number of "
    "images and labels in turn, so that the file needs nothing beside it (docs/which-file.md).",
)
@click.option(
    "--target",
    "target_name",
    type=click.Choice(list(TARGETS)),
    help="ONNX as suits a consumer. ort: the defaults; cpp: --image uint8; web: a web site in the folder --out, or in "
    "a file .onnx --precision int8 --image uint8, small; triton: a model repository in the folder --out; hub: a folder "
    "to push to the Hugging Face Hub, with weights, a preview and a model card.",
)
@click.option(
    "--runtime",
    type=click.Path(path_type=Path),
    metavar="FILE.tgz",
    help="Of --target web: onnxruntime-web as npm packs it.  [default: npm fetches it]",
)
@click.option(
    "--license",
    callback=_parse_license,
    metavar="ID",
    help="Of --target hub: of the weights, as the Hub calls it: mit, apache-2.0, cc-by-4.0, other.  [default: the card "
    "says that none is stated]",
)
@click.option("--key", metavar="NAME", help="Which entry of the checkpoint, where it holds several generators.")
@click.option(
    "--module",
    metavar="FILE.py:NAME",
    help="The network, where no layout is known or what is assumed of one is wrong: a class or function in your own "
    "code, called without arguments. The code is run, with your rights: read it first. CHECKPOINT is its state dict.",
)
@click.option(
    "--activation",
    callback=parse_activation,
    metavar="NAME[:NUMBER]",
    help="Of the hidden layers, which a state dict does not say: relu, leaky-relu:0.2, elu, softplus, silu, gelu."
    "  [default: what the layout has]",
)
@click.option(
    "--output-activation",
    type=click.Choice(list(OUTPUTS)),
    help="At the end, which a state dict does not say either.  [default: what the layout has]",
)
@click.option(
    "--batch-norm-eps",
    type=FiniteFloat(0, 1, min_open=True),
    metavar="NUMBER",
    help="Of every BatchNorm, likewise.  [default: what the layout has]",
)
@click.option("--latent-dim", type=WholeNumber(1, 65536), metavar="N", help="Of a --module that does not say.")
@click.option("--num-classes", type=WholeNumber(1, 65536), metavar="N", help="Of a conditional --module, likewise.")
@click.option(
    "--class-names",
    callback=_parse_names,
    metavar="A,B,...",
    help="What the classes are called, in the order of their labels.  [default: by their numbers]",
)
@click.option(
    "--value-range",
    type=click.Choice(list(_VALUE_RANGES)),
    help="Values of black and of white, of a --module that ends in neither tanh nor sigmoid.",
)
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="FILE.json", help="Also write the figures to a file."
)
@click.option(
    "--golden",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write latents and exact images, which dcgan-verify compares the model's file with.  [default: of an "
    "ONNX file, beside it]",
)
@click.option("--no-golden", is_flag=True, help="Don't write these.")
@click.option(
    "--vectors",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also write latents and exact images as raw files with a JSON index, for tests in other languages.",
)
@click.option("-v", "--verbose", is_flag=True, help="Print all figures of the comparison.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.version_option(__version__, prog_name="dcgan-export")
@_ended_by_nobody()
def main(
    checkpoint: Path | None,
    out: Path | None,
    format_name: str | None,
    target_name: str | None,
    runtime: Path | None,
    license: str | None,  # noqa: A002
    report: Path | None,
    golden: Path | None,
    no_golden: bool,
    vectors: Path | None,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Export a generator, and prove the artifact equal to it.

    CHECKPOINT is a run folder or .safetensors file of dcgan-train, or anybody's state dict (.pt, .pth, .safetensors) of
    a layout that is known: the reference script's, PyTorch's DCGAN example, PyTorch-GAN's dcgan.py; --module takes any
    other network. The default is the generator that ships with the project. The artifact is loaded back in its own
    runtime and compared with the checkpoint run in float64. A mismatch prints the figures, leaves no file and exits
    with status 1. Beside an ONNX file lies what dcgan-verify compares it with, NAME.golden.

    \b
    Examples:
      dcgan-export
      dcgan-export runs/000-mnist-fast --format onnx -o digits.onnx
      dcgan-export netG_epoch_24.pth -o faces.onnx
      dcgan-export weights.pth --module nets.py:make_generator -o model.onnx
      dcgan-export theirs.pt --activation leaky-relu:0.2 --out ours.pt
      dcgan-export --precision int8 --image uint8 --out small.onnx
      dcgan-export --inputs seed --out selfcontained.onnx
      dcgan-export --target web --out site
      dcgan-export --target triton --out model_repository
      dcgan-export runs/000-mnist-fast --target hub --out digits --license mit
      dcgan-export --out digits.pt2 --report parity.json
    """
    if golden and no_golden:
        raise click.UsageError("--golden and --no-golden exclude each other.")
    if "-" in map(str, (out, report, golden, vectors)):
        raise click.UsageError("an artifact, its report and vectors are files; give a name instead of -.")
    implied = next((form.name for form in FORMATS.values() if out and out.suffix.lower() == form.suffix), None)
    if implied and format_name not in (None, implied):
        raise click.UsageError(f"--format {format_name} contradicts --out {out}, whose name is one of {implied}.")
    makes_site = target_name == "web" and not (implied or format_name)
    makes_hub = target_name == "hub"
    makes_folder = makes_site or makes_hub or target_name == "triton"
    if out and not (implied or format_name or makes_folder):
        suffixes = ", ".join(form.suffix for form in FORMATS.values())
        raise click.UsageError(f"--out {out} does not say what to write: end it in {suffixes}, or give --format.")
    if makes_site and (options["optimize"] not in (None, "fused") or _given("precision", "image", "inputs")):
        raise click.UsageError(
            "a site has its own models, int8 and fp16 that take latents and give pictures; leave --optimize, "
            "--precision, --image and --inputs out, or end --out in .onnx for a model alone."
        )
    variant = _variant(format_name or implied or "onnx", target_name, options)
    if makes_folder and implied:
        raise click.UsageError(f"--target {target_name} writes a folder; give --out a name that ends in no suffix.")
    if makes_folder and report:
        raise click.UsageError(f"--target {target_name} writes no report; take --json.")
    if runtime is not None and not makes_site:
        raise click.UsageError("--runtime is for --target web with a folder as --out.")
    if license is not None and not makes_hub:
        raise click.UsageError("--license is for --target hub, whose model card states it.")
    if makes_hub and (golden or no_golden):
        raise click.UsageError("a folder for the Hub has its golden vectors in it; leave --golden and --no-golden out.")
    if checkpoint is None or str(checkpoint) in shipped.names(".safetensors"):
        checkpoint = shipped.path_of(str(checkpoint or shipped.DEFAULT), ".safetensors")
    # Of a folder such as "." the name is that of the folder itself.
    name = checkpoint.resolve().name if checkpoint.is_dir() else checkpoint.stem
    if out is None and checkpoint.is_fifo():
        raise click.UsageError("a pipe has no name to call the artifact by; give --out.")
    form = FORMATS[variant.format]
    if out is None and makes_folder:
        out = Path(TARGETS[target_name or ""].folder)
    elif out is None:
        out = Path(name + form.suffix)
        if out.exists():  # perhaps a checkpoint: many scripts save .pt files too
            raise OutputError(f"{out} already exists; give --out {out} to replace it, or another name")
    if golden is None and not no_golden and variant.format == "onnx" and not makes_folder and out.name:
        if os.access(out.absolute().parent, os.W_OK):
            golden = out.with_suffix(GOLDEN)
        else:  # a single file that may be written to, in a folder that may not
            click.echo("no golden file is written: nothing new can be put into that folder", err=True)
    for package, extra in form.needs:
        require(package, extra)
    library = require("dcgan_export.publish", "export")
    source = _load(checkpoint, options)
    if makes_site and source.spec.image_shape[0] not in DRAWN:
        raise ExportError(
            f"a page draws images of 1 or 3 channels, and these have {source.spec.image_shape[0]}; export a file .onnx"
        )
    beside = library.Beside(report, golden, vectors)
    try:
        if makes_site:
            site = publish_site(source, out, name, runtime, beside, _status)
            notes, made = site.notes, site.as_dict()
            lines, following = _of_site(site, verbose)
        elif makes_hub:
            hub = publish_to_hub(source, out, variant, beside, _status, name=name, license=license)
            notes, made = hub.notes, hub.as_dict()
            lines, following = _of_hub(hub, verbose)
        else:
            publish = functools.partial(library.publish, source, variant=variant, beside=beside, say=_status)
            artifact = publish_to_triton(publish, out, name) if makes_folder else publish(out)
            notes, made = (), artifact.as_dict()
            lines = [*([artifact.report.table(), ""] if verbose else []), artifact.report.verdict]
            lines.append(f"wrote {artifact.path} ({artifact.size:,} bytes, sha256 {artifact.sha256})")
            following = f"tritonserver --model-repository {shlex.quote(str(out))}" if makes_folder else _try(artifact)
    except ParityError as error:
        failed = {"format": form.name, "parity": error.report.as_dict()}
        click.echo(json.dumps(failed, indent=2, allow_nan=False) if as_json else error.report.table())
        raise
    for note in notes:
        click.echo(note, err=True)
    if as_json:
        made |= {"golden": str(golden)} if golden else {}
        click.echo(json.dumps(made, indent=2, allow_nan=False))
        return
    if golden is not None:
        lines.append(f"wrote {golden}, the exact images that dcgan-verify compares with")
    if vectors is not None:
        lines.append(f"wrote {vectors / 'index.json'} and the files it names")
    click.echo("\n".join([*lines, f"try: {following}"]))


def _given(*names: str) -> bool:
    """Whether one of these options stands on the command line."""
    context = click.get_current_context()
    return any(context.get_parameter_source(name) is not ParameterSource.DEFAULT for name in names)


def _variant(format_name: str, target_name: str | None, options: dict[str, Any]) -> Variant:
    """What is asked for: the options, and for those that are not given, what the target has."""
    target = TARGETS[target_name or "ort"].variant
    if target_name and format_name != "onnx":
        raise click.UsageError(f"--target is for ONNX only, not for {format_name}.")
    wanted = {
        name: options[name] if _given(name) else getattr(target, name)
        for name in ("optimize", "opset", "precision", "image", "inputs")
    }
    if target_name == "web" and wanted["optimize"] == "vnni":
        raise click.UsageError("--optimize vnni is for servers, WebAssembly is slower with it: leave it out.")
    variant = Variant(format_name, **wanted)
    try:
        variant.settled()
    except ExportError as error:
        raise click.UsageError(f"{error}.") from error
    return variant


def _load(checkpoint: Path, options: dict[str, Any]) -> GeneratorCheckpoint:
    """Read the checkpoint, and say what was found and assumed."""
    _status(f"reading {checkpoint}")
    library = require("dcgan.checkpoint", "export")
    hints = library.Hints(
        **{name: options[name] for name in ("key", "module", "activation", "latent_dim", "num_classes", "class_names")},
        output=Activation(options["output_activation"]) if options["output_activation"] else None,
        eps=options["batch_norm_eps"],
        value_range=_VALUE_RANGES.get(options["value_range"]),
    )
    source: GeneratorCheckpoint = library.load_generator(checkpoint, hints)
    spec = source.spec
    classes = f", {spec.num_classes} classes" if spec.num_classes else ""
    size, (low, high) = "x".join(map(str, spec.image_shape)), spec.value_range
    found = f"latents of {spec.latent_dim} numbers{classes}, images of {size} from {low:g} to {high:g}"
    if spec.image_shape[0] not in DRAWN:
        found += "; dcgan-infer writes these as arrays, since pictures have 1 or 3 channels"
    for note in (*source.notes, *([found] if source.notes else [])):
        click.echo(note, err=True)
    return source


def _of_site(site: Site, verbose: bool) -> tuple[list[str], str]:
    """What is said of a site, and what to do with it."""
    lines = []
    for artifact in site.models.values():
        lines += [artifact.report.table(), ""] if verbose else []
        lines.append(f"{artifact.path.name} ({artifact.variant.precision}): {artifact.report.verdict}")
    lines.append(f"wrote {site.path} ({site.files} files, {site.size / 1e6:.1f} MB), which any static host serves")
    return lines, f"python -m http.server --directory {shlex.quote(str(site.path))}"


def _of_hub(hub: HubFolder, verbose: bool) -> tuple[list[str], str]:
    """What is said of a folder for the Hub, and what to do with it."""
    artifact, folder = hub.artifact, shlex.quote(str(hub.path))
    lines = [*([artifact.report.table(), ""] if verbose else []), artifact.report.verdict]
    pushed = f"hf upload YOU/NAME {folder}"
    lines.append(f"wrote {hub.path} ({hub.files} files, {hub.size / 1e6:.1f} MB); to push it as it is: {pushed}")
    return lines, _try(dataclasses.replace(artifact, path=hub.path))


def _try(artifact: Artifact) -> str:
    """The command that makes images with an artifact."""
    spec, file = artifact.spec, shlex.quote(str(artifact.path))
    if artifact.variant.format == "onnx":
        drawn = spec.image_shape[0] in DRAWN
        return f"dcgan-infer --model {file} --n 16" + ("" if drawn else " --out images.npy")
    load = "jit.load({!r})" if artifact.variant.format == "torchscript" else "export.load({!r}).module()"
    label = f", torch.arange(16) % {spec.num_classes}" if spec.num_classes else ""
    code = (
        f"import torch; print(torch.{load.format(str(artifact.path))}(torch.randn(16, {spec.latent_dim}){label}).shape)"
    )
    plain = re.fullmatch(r"[\w./-]+", str(artifact.path), re.ASCII)
    return f'python -c "{code}"' if plain else f"python -c {shlex.quote(code)}"


def _status(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"{text} ...", err=True)
