"""The command dcgan-eval: options in, one call of `evaluation.evaluate`, a table out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dcgan_infer import __version__, shipped
from dcgan_infer.commands import Command, WholeNumber
from dcgan_infer.contract.spec import SEEDS
from dcgan_infer.extras import require
from dcgan_infer.runtime import cores

from .data import EVALUATED, SPLITS

if TYPE_CHECKING:
    from .evaluation import Evaluation


@click.command(
    "dcgan-eval",
    cls=Command,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  dcgan-eval                                          the shipped model
  dcgan-eval runs/000-mnist-fast/generator.safetensors --data-dir ~/mnist
  dcgan-eval model.onnx --split test --seeds 3        for the record: three seeds, test images
  dcgan-eval digits.npz --nearest-neighbour           labelled images, whoever made them
  dcgan-eval dcgan-mnist-conditional --cas --json     many minutes, for a machine to read

Choose between models by --split validation; the test split is for the last word. docs/quality.md explains
every row.""",
)
@click.argument("source", default=shipped.DEFAULT, metavar="[CHECKPOINT|MODEL.onnx|IMAGES.npz]")
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="validation",
    show_default=True,
    help="What to hold digits against: the last 10,000 training images, or the test images.",
)
@click.option(
    "-n",
    "--n",
    type=WholeNumber(10, 60_000),
    metavar="NUMBER",
    help="How many.  [default: 10000, or all real ones]",
)
@click.option("--seed", type=WholeNumber(0, SEEDS - 1), metavar="NUMBER", help="Of the latents.  [default: 0]")
@click.option(
    "--seeds", type=WholeNumber(1, 100), metavar="NUMBER", help="How many seeds, from --seed on; medians are shown."
)
@click.option("--nearest-neighbour", is_flag=True, help="Also the 1-NN error on raw pixels; needs labelled digits.")
@click.option("--cas", is_flag=True, help="Also the classification accuracy score; needs labelled digits and torch.")
@click.option(
    "--dataset",
    type=click.Choice(EVALUATED),
    default="mnist",
    show_default=True,
    help="Real images; sample needs no files and no network, and makes coarser figures.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    metavar="DIR",
    help="Folder of the four IDX files, raw or .gz; downloaded to it if missing.",
)
@click.option(
    "--threads", type=WholeNumber(1, 1024), metavar="NUMBER", help="Of the CPU.  [default: the cores it may use]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.version_option(__version__, prog_name="dcgan-eval")
def main(
    source: str,
    split: str,
    n: int | None,
    seed: int | None,
    seeds: int | None,
    nearest_neighbour: bool,
    cas: bool,
    dataset: str,
    data_dir: Path,
    threads: int | None,
    as_json: bool,
) -> None:
    """Judge digits, and real ones beside them, which is the floor."""
    from .evaluation import evaluate, load_reference
    from .metrics.evaluator import Evaluator
    from .sources import open_digits

    if cas:
        require("torch", "train").set_num_threads(threads or cores())
    evaluator = Evaluator(threads=threads)
    digits = open_digits(source, threads)
    if not digits.seeded and (seed is not None or seeds is not None):
        raise click.UsageError(f"{source} holds images that are made already; leave --seed and --seeds out.")
    if (nearest_neighbour or cas) and not digits.labelled:
        option = "--nearest-neighbour" if nearest_neighbour else "--cas"
        raise click.UsageError(f"{option} needs labelled digits, and {source} has none; take a conditional model.")
    first = seed or 0
    evaluation = evaluate(
        digits,
        load_reference(dataset, data_dir, split),
        evaluator,
        count=n,
        seeds=range(first, first + (seeds or 1)),
        nearest_neighbour=nearest_neighbour,
        cas=cas,
        say=_status,
    )
    if as_json:
        click.echo(json.dumps({"source": source, "dataset": dataset, **evaluation.as_dict()}, indent=2))
    else:
        click.echo(_table(source, evaluation))


def _table(source: str, evaluation: Evaluation) -> str:
    """One row a metric; with several seeds medians, and the range they are from."""
    from .evaluation import METRICS

    many = len(evaluation.seeds) > 1
    head = ["", "model", *(["of seeds, from .. to"] if many else []), "real", "better", "images"]
    rows = []
    for name, metric in METRICS.items():
        if name not in evaluation.figures:
            continue
        values = evaluation.figures[name]
        row = [metric.label, format(evaluation.median(name), metric.form)]
        if many:
            row.append(f"{min(values):{metric.form}} .. {max(values):{metric.form}}")
        row += [format(evaluation.floor[name], metric.form), metric.better, f"{evaluation.counts[name]:,}"]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    ratio = evaluation.median("frechet_distance") / evaluation.floor["frechet_distance"]
    seeds = ", ".join(map(str, evaluation.seeds))
    return "\n".join(
        [
            f"{source} and real training images against {evaluation.counts['reference']:,} {evaluation.split} images",
            "",
            *lines,
            "",
            f"Frechet distance: {ratio:.2f} times the floor of real images (seed {seeds}){_few(evaluation)}",
        ]
    )


def _few(evaluation: Evaluation) -> str:
    """A warning: with few images the distance is mostly their number's own."""
    from .evaluation import FID_COUNT

    count = evaluation.counts["frechet_distance"]
    return "" if count >= FID_COUNT else f"; of {count:,} images it says little, {FID_COUNT:,} are usual"


def _status(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"{text} ...", err=True)
