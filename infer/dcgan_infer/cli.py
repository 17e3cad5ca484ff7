"""The command dcgan-infer: options in, one call of `render.render`, one line out."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__, shipped, signals
from .commands import Command, FiniteFloat, WholeNumber, again, closed, complete_model
from .contract.errors import DeviceError
from .contract.spec import INDICES, SEEDS
from .request import (
    DEFAULT_SEED,
    ENCODINGS,
    ENGINES,
    FILES,
    GRIDS,
    SHARD_SIZE,
    SHARDED,
    SHARDS,
    WALK_STEPS,
    Request,
    Sharding,
    classes_of,
    kind_of,
)
from .runtime import NO_CUDA

if TYPE_CHECKING:
    from .inputs import Rows
    from .render import Rendered


def _parse_grid(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text.lower())
    if not found:
        raise click.BadParameter(f"{text!r} is no grid; write rows x columns, like 4x8.")
    return int(found[1]), int(found[2])


def _parse_digits(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    words = re.split(r"[\s,]+", text.strip(" ,")) if re.search(r"[\s,]", text.strip(" ,")) else list(text.strip(" ,"))
    if not words or not all(word.isdecimal() and word.isascii() and len(word) <= 5 for word in words):
        raise click.BadParameter(f"{text!r} is no list of digits; write them like 0123456789 or 3,1,4.")
    return tuple(map(int, words))


def _parse_shard(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,7})/([1-9]\d{0,6})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise click.BadParameter(f"{text!r} is no part; write which, from 0 on, and of how many, like 3/16.")
    return int(found[1]), int(found[2])


class _Command(Command):
    """Whose argument may be a text that begins with a dash, by mistake."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name[1:].isdecimal():
                hint = f"{error.message} A text that begins with a dash is given with --text."
                raise click.NoSuchOption(error.option_name, hint, ctx=error.ctx) from error
            raise


@click.command(
    "dcgan-infer",
    cls=_Command,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    sections={
        "What": ("text_option", "n", "model", "seed", "start", "classes", "digit", "digits", "truncation"),
        "Where to": ("out", "kind", "dtype"),
        "Pictures": ("grid", "scale", "interpolate"),
        "Your own latents and labels": ("latents_file", "labels_file"),
        "Shards, for a million images": ("shard_size", "part", "encoding", "engine", "ray_address"),
        "Speed": ("provider", "threads", "batch_size"),
        "Ask": ("list_models", "list_classes", "list_providers"),
    },
    epilog="""\b
Examples:
  dcgan-infer --n 16 --out grid.png
  dcgan-infer 2026-11-25 -o date.png
  dcgan-infer --n 64 --grid 4x16 --scale 3 --seed 7 -o wide.png
  dcgan-infer --n 8 --digits 0123456789 -o walk.gif
  dcgan-infer --n 100 --digits 0123456789 -o table.png
  dcgan-infer --n 16 --digit 7 --truncation 0.7 -o sevens.png
  dcgan-infer --model clothes.onnx --n 24 --class sneaker --class bag --class coat -o columns.png
  dcgan-infer --model clothes.onnx --list-classes
  dcgan-infer --n 100000 --dtype float -o images.npy
  dcgan-infer --n 500 -o images/
  dcgan-infer --latents z.npy -o - --format npy > images.npy
  dcgan-infer --n 1_000_000 -o digits --format parquet
  dcgan-infer --n 10_000_000 -o s3://bucket/digits --format webdataset --shard 3/16

Image i of a seed is the same whatever --n, --batch-size and --threads are. A PNG says in its text chunks how it
was made (model, sha256, seed, indices, provider): give these options again, and the picture comes back.

Arrays are uint8 of shape (N, H, W), or (N, H, W, 3) in colour. With --dtype float they are float32 of shape
(N, H, W), or (N, 3, H, W) in colour, as a network gives them.""",
)
@click.argument("text", required=False)
@click.option(
    "--text",
    "text_option",
    metavar="TEXT",
    help="A text to write by hand that begins with a dash; others need no --text.",
)
@click.option(
    "-n",
    "--n",
    type=WholeNumber(1, INDICES),
    metavar="NUMBER",
    help="How many images.  [default: 16, or all of --latents, --labels, --class or --digits]",
)
@click.option(
    "-o",
    "--out",
    default="grid.png",
    show_default=True,
    metavar="PATH",
    help="Where to. The suffix chooses: .png .jpg .webp a grid, .gif a walk through the latents, .npy .npz an array; "
    "a folder, or a name that ends in /, gets single PNGs, or shards with --format; - is stdout.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(dict.fromkeys((*FILES, *SHARDED)))),
    help="Format of --out -, which is png by default; or of shards: any number of labelled images in a folder, or at a "
    "URL such as s3://bucket/digits, as parquet, webdataset or npy.",
)
@click.option(
    "--model",
    default=shipped.DEFAULT,
    show_default=True,
    metavar="NAME|PATH",
    shell_complete=complete_model,
    help="A shipped model, an ONNX file that dcgan-export wrote, or a folder that holds one.",
)
@click.option(
    "--seed",
    type=WholeNumber(0, SEEDS - 1),
    metavar="NUMBER",
    help=f"Of the latents, up to 2^63 - 1.  [default: {DEFAULT_SEED}]",
)
@click.option(
    "--start",
    type=WholeNumber(0, INDICES - 1),
    default=0,
    show_default=True,
    metavar="INDEX",
    help="The first latent: --start 100 --n 1 makes image 100 of the seed again.",
)
@click.option(
    "--latents",
    "latents_file",
    type=click.Path(path_type=Path),
    metavar="FILE.npy",
    help="Take the latents from a file instead, float of shape (N, latent size).",
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME|NUMBER",
    help="Make images of this class, of a conditional model; may be given several times: these in turn, in a grid a "
    "column each.  [default: drawn by the seed]",
)
@click.option(
    "--digit",
    type=WholeNumber(0, 65535),
    metavar="DIGIT",
    help="Make this digit only; for a model whose classes are the ten digits.",
)
@click.option(
    "--digits",
    callback=_parse_digits,
    metavar="DIGITS",
    help="Make these digits in turn, like 0123456789; in a grid a column each.",
)
@click.option(
    "--labels",
    "labels_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Make the classes that a file lists, one for each image: numbers or a name a line in text, integers in .npy.",
)
@click.option(
    "--truncation",
    type=FiniteFloat(0, 2),
    metavar="PSI",
    help="Scale the latents; below 1 the images are more regular and less varied.  [default: 1]",
)
@click.option("--grid", callback=_parse_grid, metavar="ROWSxCOLS", help="Layout of a grid.  [default: nearly square]")
@click.option(
    "--scale",
    type=WholeNumber(1, 64),
    metavar="FACTOR",
    help="Enlarge pictures, each pixel to a square.  [default: so that they can be seen; of a folder 1]",
)
@click.option(
    "--interpolate",
    type=WholeNumber(1, 1000),
    metavar="FRAMES",
    help=f"Walk from each latent to the next and back to the first, so many frames between two; in a grid each "
    f"row is one walk.  [default: {WALK_STEPS} for .gif]",
)
@click.option(
    "--dtype",
    type=click.Choice(["uint8", "float"]),
    default="uint8",
    show_default=True,
    help="Of arrays: 0 to 255, or float32 in the model's range, -1 to 1 or 0 to 1.",
)
@click.option(
    "--provider",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Where the model runs: auto is CUDA or else the CPU; cpu, cuda, or another that --list-providers names.",
)
@click.option(
    "--threads", type=WholeNumber(1, 1024), metavar="NUMBER", help="Of the CPU.  [default: the cores it may use]"
)
@click.option(
    "--batch-size",
    type=WholeNumber(1, 65536),
    metavar="NUMBER",
    help="Images at a time; memory grows with it.  [default: 16; on CUDA up to 1024]",
)
@click.option(
    "--shard-size",
    type=WholeNumber(1, INDICES),
    metavar="NUMBER",
    help=f"Images in each shard.  [default: {SHARD_SIZE}]",
)
@click.option(
    "--shard",
    "part",
    callback=_parse_shard,
    metavar="K/N",
    help="Make only the shards whose number modulo N is K, from 0 to N - 1: for N jobs side by side.",
)
@click.option(
    "--encoding",
    type=click.Choice(ENCODINGS),
    help="Of the images in shards: raw pixels are faster.  [default: png; of npy raw]",
)
@click.option(
    "--engine", type=click.Choice(ENGINES), help="Make shards in this process, or on a Ray cluster.  [default: local]"
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="Of the cluster, such as auto or ray://head:10001.  [default: one of this machine's cores]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--list-providers", is_flag=True, help="Say which providers work here, and why not, and exit.")
@click.option("--list-classes", is_flag=True, help="Name the classes of the model, a line each, and exit.")
@click.option("--list-models", is_flag=True, help="Name the shipped models and exit.")
@click.version_option(__version__, prog_name="dcgan-infer")
def main(
    text: str | None,
    text_option: str | None,
    n: int | None,
    out: str,
    kind: str | None,
    latents_file: Path | None,
    classes: tuple[str, ...],
    digit: int | None,
    digits: tuple[int, ...],
    labels_file: Path | None,
    shard_size: int | None,
    part: tuple[int, int] | None,
    encoding: str | None,
    engine: str | None,
    ray_address: str | None,
    as_json: bool,
    list_providers: bool,
    list_classes: bool,
    list_models: bool,
    **options: Any,
) -> None:
    """Make images with a trained generator and onnxruntime; the shipped ones make handwritten digits.

    TEXT is a number to be written by hand, such as a date; --seed takes another hand.
    """
    if list_models:
        _list_models(as_json)
    elif list_classes:
        _list_classes(options["model"], as_json)
    elif list_providers:
        _list_providers(options["model"], options["threads"], as_json)
    else:
        format_name = kind
        try:
            kind = kind_of(out, format_name)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        sharding = _sharding(
            kind, format_name, size=shard_size, part=part, encoding=encoding, engine=engine, address=ray_address
        )
        if out == "-" and "stdout" in closed:
            raise click.UsageError("--out - writes to stdout, which is closed.")
        if out == "-" and sys.stdout.isatty():
            raise click.UsageError("--out - would print binary data on the terminal; redirect it or pipe it on.")
        if text is not None and text_option is not None:
            raise click.UsageError(f"TEXT ({text!r}) and --text ({text_option!r}) exclude each other.")
        text = text_option if text is None else text
        try:
            counted = n is not None or labels_file is not None
            classes, digits = classes_of(classes, digits, digit, text, counted=counted)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        if text is not None:
            n = len(classes) if kind != "gif" else 8
        latents, labels = _rows(latents_file, labels_file)
        if n is None:
            n = _default_count([rows for rows in (latents, labels) if rows], len(classes or digits), options["start"])
        request = Request(
            target=sys.stdout.buffer if out == "-" else out if "://" in out else Path(out),
            kind=kind,
            n=n,
            latents=latents,
            classes=classes,
            digits=digits,
            labels=labels,
            text=text,
            sharding=sharding,
            **options,
        )
        contradiction = request.contradiction()
        if contradiction:
            raise click.UsageError(contradiction)
        if sharding:
            _make_shards(request, out, as_json)
            return
        from .render import render

        rendered = render(request, lambda batches: _with_progress(batches, request.count))
        # When the picture itself goes to stdout, what we say goes to stderr.
        click.echo(_report(out, request, rendered, as_json), err=out == "-")


def _sharding(kind: str, format_name: str | None, **given: Any) -> Sharding | None:
    """How shards are wanted; None where none are."""
    given = {name: value for name, value in given.items() if value is not None}
    if kind == SHARDS:
        part, parts = given.pop("part", (0, 1))
        return Sharding(str(format_name), part=part, parts=parts, **given)
    if given:
        spelled = {"size": "--shard-size", "part": "--shard", "address": "--ray-address"}
        option = next(iter(given))
        raise click.UsageError(
            f"{spelled.get(option, f'--{option}')} is for shards: give --format {', '.join(SHARDED)}, and as --out a "
            "folder's name, which ends in no suffix of a file."
        )
    return None


def _make_shards(request: Request, out: str, as_json: bool) -> None:
    from .shards.make import make_shards
    from .shards.report import report

    began = time.perf_counter()
    with ExitStack() as stack, signals.told(lambda _: "stopped; give the same command again to go on"):
        bar = None
        if sys.stderr.isatty():
            shown = click.progressbar(length=request.n, label="images", show_pos=True, file=sys.stderr)
            bar = stack.enter_context(shown)
        made = make_shards(request, bar.update if bar else lambda _: None)
    click.echo(report(request, out, made, time.perf_counter() - began, as_json))


def _rows(latents_file: Path | None, labels_file: Path | None) -> tuple[Rows | None, Rows | None]:
    """What the files hold."""
    if latents_file is None and labels_file is None:
        return None, None
    from .inputs import load, load_labels

    return (
        None if latents_file is None else load(latents_file),
        None if labels_file is None else load_labels(labels_file),
    )


def _default_count(files: list[Rows], named: int, start: int) -> int:
    """As many as the files hold from `start` on, or as classes are named."""
    for rows in files:
        if start >= len(rows.values):
            raise click.UsageError(f"--start {start}: {rows.path} has the rows 0 to {len(rows.values) - 1}.")
    counts = {str(rows.path): len(rows.values) for rows in files}
    if len(set(counts.values())) > 1:
        held = " and ".join(f"{path} {count:,}" for path, count in counts.items())
        raise click.UsageError(f"The files hold unequal numbers of rows, {held}; say how many with --n.")
    if files:
        return len(files[0].values) - start
    return named if named > 1 else 16


def _report(out: str, request: Request, rendered: Rendered, as_json: bool) -> str:
    rate = rendered.images / rendered.seconds
    if as_json:
        facts = {key.removeprefix("dcgan.").lower(): value for key, value in rendered.facts.items()}
        counts = {key: int(facts[key]) for key in ("seed", "start", "n", "interpolate", "scale") if key in facts}
        return json.dumps(
            {
                "out": out,
                "format": request.kind,
                "images": rendered.images,
                **facts,
                **counts,
                "provider_note": rendered.note,
                "threads": rendered.threads,
                "batch_size": rendered.batch_size,
                "seconds": round(rendered.seconds, 4),
                "images_per_second": round(rate, 1),
            }
        )
    rows, columns = request.layout
    noun = "digit" if request.model in shipped.DIGITS else "image"
    made = f"{rendered.images} {noun}{'s' * (rendered.images > 1)}"
    if request.steps:
        frames = rendered.images // request.places
        made = f"{frames} frames through {request.n} latents"
    source = str(request.latents.path) if request.latents else f"seed {request.drawn_from}"
    indices = f"{request.start} to {request.start + request.n - 1}" if request.n > 1 else str(request.start)
    where = f"{rendered.provider}, {rendered.threads} thread{'s' * (rendered.threads > 1)}"
    if rendered.provider != "cpu":
        where = rendered.provider
    elif rendered.note not in ("", NO_CUDA):
        where += f" (CUDA does not work here: {rendered.note})"
    drawn = request.latents is None and request.labels is None
    following = f"\ntry: {again('--seed', str((request.drawn_from + 1) % SEEDS))}" if drawn else ""
    return (
        f"{'stdout' if out == '-' else out}: {made}{f' in {rows}x{columns}' if request.kind in GRIDS else ''} "
        f"({source}, {indices}) by {rendered.facts['dcgan.model']} on {where}; "
        f"{rendered.seconds:.2f} s, {rate:,.0f} images/s{following}"
    )


def _with_progress(batches: Iterator[Any], count: int) -> Iterator[Any]:
    """Count images on stderr, once a second has passed, and only on a terminal."""
    done = 0
    began = time.time()
    with ExitStack() as stack:
        bar = None
        for batch in batches:
            done += len(batch)
            if bar is not None:
                bar.update(len(batch))
            elif sys.stderr.isatty() and time.time() - began > 1.0:
                bar = click.progressbar(length=count, label="images", show_pos=True, file=sys.stderr)
                bar.start = bar.last_eta = began
                stack.enter_context(bar).update(done)
            yield batch


def _list_models(as_json: bool) -> None:
    names = shipped.names(".onnx")
    if as_json:
        click.echo(json.dumps({"models": names, "default": shipped.DEFAULT}))
    else:
        for name in names:
            click.echo(f"{name}{'  (default)' if name == shipped.DEFAULT else ''}")


def _list_classes(model: str, as_json: bool) -> None:
    from .generator import ImageGenerator

    labels = ImageGenerator(model, provider="cpu").spec.labels
    if as_json:
        click.echo(json.dumps({"model": model, "classes": labels}))
    else:
        click.echo("\n".join(labels) or f"model {model} has no classes")


def _list_providers(model: str, threads: int | None, as_json: bool) -> None:
    """Try each one on the model: what onnxruntime lists as available need not work."""
    from .generator import ImageGenerator
    from .runtime import onnxruntime, providers

    def reason(provider: str) -> str:
        try:
            ImageGenerator(model, provider=provider, threads=threads)
        except DeviceError as error:
            return str(error)
        return ""

    names = dict.fromkeys(["cpu", "cuda", *sorted(providers(onnxruntime()))])
    reasons = {provider: reason(provider) for provider in names}
    if as_json:
        click.echo(json.dumps({name: {"works": not why, "reason": why} for name, why in reasons.items()}))
    else:
        for name, why in reasons.items():
            click.echo(f"{name:<{max(map(len, names))}} {why or 'works'}")
