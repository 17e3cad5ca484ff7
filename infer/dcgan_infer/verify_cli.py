"""The command dcgan-verify: options in, one call of `verify.verify`, a verdict out."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click

from . import __version__, shipped
from .commands import Command, WholeNumber, complete_model
from .contract.errors import ModelError
from .contract.spec import SEEDS

MOST = 20_000  # images of two models at a time, in half a gigabyte


def _parse_digest(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise click.BadParameter(f"{text[:80]!r} is no SHA-256; write 64 hexadecimal digits.")
    return text


@click.command(
    "dcgan-verify",
    cls=Command,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  dcgan-verify                                        the shipped model
  dcgan-verify digits.onnx
  dcgan-verify digits.onnx --sha256 7be1c5a1a72c94718354765b5ef3954f4cae1b357d7d6d0e1e3cea24c9cb4346
  dcgan-verify digits.onnx --golden other.golden      exact images that lie elsewhere
  dcgan-verify digits.onnx --against dcgan-mnist-conditional -n 1000 --json

Exit status: 0 none failed, and there was something to compare the file with; 1 otherwise; 2 wrong usage.
docs/verify.md explains every check.""",
)
@click.argument("model", default=shipped.DEFAULT, metavar="[NAME|MODEL.onnx]", shell_complete=complete_model)
@click.option(
    "--golden",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Exact images to compare with.  [default: NAME.golden beside NAME.onnx, or the shipped ones of its weights]",
)
@click.option("--sha256", callback=_parse_digest, metavar="HEX", help="Of the file.  [default: SHA256SUMS beside it]")
@click.option("--against", metavar="NAME|PATH", help="Another model, to compare images with.")
@click.option("-n", "--n", type=WholeNumber(1, MOST), metavar="NUMBER", help="How many, for --against.  [default: 64]")
@click.option(
    "--seed",
    type=WholeNumber(0, SEEDS - 1),
    metavar="NUMBER",
    help="Of the latents, for --against.  [default: 0]",
)
@click.option(
    "--provider", default="cpu", show_default=True, help="Where the models run: cpu, cuda, or as dcgan-infer takes it."
)
@click.option(
    "--threads", type=WholeNumber(1, 1024), metavar="NUMBER", help="Of the CPU.  [default: the cores it may use]"
)
@click.option("-v", "--verbose", is_flag=True, help="Print every check, and the figures.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.version_option(__version__, prog_name="dcgan-verify")
def main(
    model: str,
    golden: Path | None,
    sha256: str | None,
    against: str | None,
    n: int | None,
    seed: int | None,
    provider: str,
    threads: int | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Check that an ONNX file is the model it should be, without torch.

    Its bytes against SHA256SUMS, its spec against its inputs and outputs, its operators against the ONNX standard, and
    its images against those that the checkpoint makes in float64.
    """
    if against is None and (n is not None or seed is not None):
        raise click.UsageError("--n and --seed are for --against; without it the golden latents are all that is run.")
    from .verify import N, verify

    report = verify(
        model,
        golden,
        against=against,
        sha256=sha256,
        n=N if n is None else n,
        seed=seed or 0,
        provider=provider,
        threads=threads,
    )
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2, allow_nan=False))
    elif verbose or report.failed:
        click.echo(report.table())
    elif report.passed:
        click.echo(f"{report.summary()}\ntry: dcgan-infer --model {shlex.quote(model)} --n 16")
    if not report.passed:
        raise ModelError(f"{report.model} is {report.verdict}")
