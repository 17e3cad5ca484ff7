"""The command dcgan-bench: options in, one call of `bench.bench`, a table out."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import __version__, shipped
from .commands import Command, FiniteFloat, WholeNumber, complete_model
from .contract.files import replacing
from .contract.spec import SEEDS
from .extras import new_figure
from .runtime import cores

if TYPE_CHECKING:
    from .bench import Int8, Report, Result

_WIDTH = 80
_LABEL = 37  # columns of a row's name
_FASTER = 1.05  # less is noise
_MOST = 4096  # images a call: their feature maps take about a gigabyte
_PLOTS = (".png", ".svg", ".pdf")


def _parse_batches(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[int, ...]:
    words = re.split(r"[\s,]+", text.strip())
    if not all(re.fullmatch(r"[1-9]\d{0,3}", word, re.ASCII) and int(word) <= _MOST for word in words):
        raise click.BadParameter(f"{text!r} is no list of batch sizes from 1 to {_MOST}; write it like 1,16,64.")
    return tuple(dict.fromkeys(map(int, words)))


def _parse_plot(_ctx: click.Context, _param: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in _PLOTS:
        raise click.BadParameter(f"{path}: the name must end in {', '.join(_PLOTS)}.")
    return path


@click.command(
    "dcgan-bench",
    cls=Command,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  dcgan-bench                                         the shipped models
  dcgan-bench plain.onnx fused.onnx                   two files, ratios to the first
  dcgan-bench digits.onnx digits.onnx                 one file twice: the ratio is the noise
  dcgan-bench dcgan-mnist --runtime onnxruntime --runtime openvino
  dcgan-bench --batch 1,4,16,64,256 --plot rate.png

Rows take turns in bursts with rests between, because the thread pools of a runtime go on spinning after a call
and slow down the next one. Leave the machine alone meanwhile, and compare figures of one run only.

The last column is how much of this machine's speed a model uses: its multiplications a second, as a share of those
of large float32 matrices in onnxruntime (sgemm), fastest burst against fastest; - where a model does not say how much
it multiplies. int8 may
reach more than 100 %. OpenVINO computes in float32 here, in one stream, with the performance hint LATENCY, compiled
for each batch size. docs/inference.md has more.""",
)
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=complete_model)
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    type=click.Choice(["onnxruntime", "openvino"]),
    help="What runs the models; may be given several times.  [default: onnxruntime]",
)
@click.option(
    "--batch",
    "batches",
    callback=_parse_batches,
    default="1,16,64",
    show_default=True,
    metavar="SIZES",
    help="Images a call.",
)
@click.option(
    "--threads",
    type=WholeNumber(1, 1024),
    metavar="NUMBER",
    help="Of each runtime.  [default: the cores it may use]",
)
@click.option(
    "--rounds",
    type=WholeNumber(1, 1000),
    default=7,
    show_default=True,
    metavar="NUMBER",
    help="Bursts of each row; one more warms up and isn't counted.",
)
@click.option(
    "--burst",
    type=FiniteFloat(0.001, 60),
    default=0.3,
    show_default=True,
    metavar="SECONDS",
    help="How long a row runs before it is the next one's turn.",
)
@click.option(
    "--rest",
    type=FiniteFloat(0, 60),
    default=0.25,
    show_default=True,
    metavar="SECONDS",
    help="Before each burst.",
)
@click.option(
    "--seed",
    type=WholeNumber(0, SEEDS - 1),
    default=0,
    show_default=True,
    metavar="NUMBER",
    help="Of the latents and labels.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    callback=_parse_plot,
    metavar="FILE.png",
    help="Draw images/s by batch size; .svg and .pdf do too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, each round too.")
@click.version_option(__version__, prog_name="dcgan-bench")
def main(
    models: tuple[str, ...],
    runtimes: tuple[str, ...],
    batches: tuple[int, ...],
    threads: int | None,
    rounds: int,
    burst: float,
    rest: float,
    seed: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure how fast ONNX generators run on this machine's CPU."""
    with contextlib.ExitStack() as stack:
        if plot is not None:  # what can't be drawn is said before the measuring
            new_figure()
            temporary = stack.enter_context(replacing(plot))
        from .bench import bench, open_rows

        threads = threads or cores()
        rows = open_rows(models or shipped.names(".onnx"), tuple(dict.fromkeys(runtimes)) or ("onnxruntime",), threads)
        with _progress(len(batches) * (rounds + 1) * (len(rows) + 1)) as after_burst:
            report = bench(
                rows,
                batches=batches,
                threads=threads,
                rounds=rounds,
                burst=burst,
                rest=rest,
                seed=seed,
                after_burst=after_burst,
            )
        # Said before it is drawn: a full disk must not cost the figures.
        shown = table(report) + _following(report)
        click.echo(json.dumps(report.as_dict(), indent=2, allow_nan=False) if as_json else shown)
        if plot is not None:
            from .bench_plot import draw

            draw(temporary, report)


@contextlib.contextmanager
def _progress(bursts: int) -> Iterator[Callable[[], object]]:
    """What to call after each burst: a bar on stderr, and only on a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with click.progressbar(length=bursts, label="bursts", show_pos=True, file=sys.stderr) as bar:
        yield lambda: bar.update(1)


def table(report: Report) -> str:
    """The figures in at most 80 columns: a block a batch size, and the latencies of single images."""
    processor = report.processor
    flags = f" ({' '.join(processor.flags)})" if processor.flags else ""
    versions = [f"{name} {report.versions[name]}" for name in ("onnxruntime", "openvino") if name in report.versions]
    lines = [
        *textwrap.wrap(processor.name + flags, _WIDTH),
        f"{_counted(report.threads, 'thread')}, {', '.join(versions)}",
        f"{_counted(report.rounds, 'round')} of bursts of {report.burst:g} s; "
        f"products of large matrices: {report.sgemm_best / 1e9:,.0f} GFLOP/s",
        "",
        f"{'':{_LABEL}}{'images/s':>18}{'times the first':>16}{'of large':>9}",
        f"{'':{_LABEL}}{'median':>9}{'best':>9}{'median':>9}{'least':>7}{'products':>9}",
    ]
    for batch in dict.fromkeys(result.batch for result in report.results):
        lines += [f"batch {batch}", *(_line(result) for result in report.results if result.batch == batch)]
    single = [result for result in report.results if result.batch == 1]
    if single:
        lines += ["", f"{'one image, ms':{_LABEL}}{'median':>9}{'least':>9}"]
        lines += [f"{_label(result)}{result.latency[0]:>9.3f}{result.latency[1]:>9.3f}" for result in single]
    return "\n".join([_summary(report), "", *lines])


def _following(report: Report) -> str:
    """The command that uses what was found, as long as it is; dcgan-infer has onnxruntime alone."""
    from .bench import fastest

    usable = [result for result in report.results if result.row.runtime == "onnxruntime"]
    if not usable:
        return ""
    best = fastest(usable)
    return f"\n\ntry: dcgan-infer --model {shlex.quote(best.row.model)} --batch-size {best.batch}"


def _summary(report: Report) -> str:
    """What it comes to, in words: which is the fastest, at which batch, and by how much."""
    from .bench import fastest

    best = fastest(report.results)
    rate = statistics.median(best.rates)
    line = f"{best.row.name} is the fastest here: {_rate(rate)} images/s in batches of {best.batch}"
    first = report.results[0].row
    if best.row is not first:
        line += f", {statistics.median(best.ratios):.1f} times {first.name}"
    lines = [line]
    if report.int8:
        found = max(report.int8, key=lambda each: max(each.ratios.values()))
        name = "int8" if len(report.int8) == 1 else f"{found.row.name} (the fastest of {len(report.int8)} in int8)"
        lines.append(_trade(found, name))
    return "\n".join(part for said in lines for part in textwrap.wrap(said, _WIDTH))


def _trade(found: Int8, name: str) -> str:
    """What int8 gives and costs here, in words; `name` is what to call it."""
    times = ", ".join(f"{ratio:.1f}" for ratio in found.ratios.values())
    sizes = ", ".join(map(str, found.ratios))
    smaller = "" if found.size is None else f", in {found.size:.0%} of its size"
    off = f"its pixels are off by {found.levels:.2g} of 255 grey levels on average"
    line = f"{name} is {times} times as fast as {found.peer.name} here in batches of {sizes}{smaller}; {off}"
    if max(found.ratios.values()) < _FASTER:
        return f"{line}: no reason to take {found.row.name} here but its size"
    return f"{line}: take {found.row.name} if that does not matter"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number > 1)}"


def _line(result: Result) -> str:
    figures = result.as_dict()
    rates, ratio, share = figures["images_per_second"], figures["ratio"], result.sgemm_share
    return (
        f"{_label(result)}{_rate(rates['median']):>9}{_rate(rates['best']):>9}"
        f"{ratio['median']:>9.2f}{ratio['least']:>7.2f}{'-' if share is None else f'{share:.0%}':>9}"
    )


def _rate(number: float) -> str:
    """In nine columns, a space before it among them."""
    return f"{number:,.0f}" if number < 999_999.5 else f"{number / 1e6:,.1f}M"


def _label(result: Result) -> str:
    from .bench import shortened

    return f"  {shortened(result.row.name, _LABEL - 2):{_LABEL - 2}}"
