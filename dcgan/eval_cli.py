"""The command dcgan-eval: options in, one call of `evaluation.evaluate`, a table out."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dcgan_infer import __version__, shipped
from dcgan_infer.commands import Command, WholeNumber, again
from dcgan_infer.contract.errors import EvaluationError, RunError
from dcgan_infer.contract.spec import MNIST_NAMES, SEEDS
from dcgan_infer.extras import require

from .data import IMAGES, SPLITS
from .data_options import data_options, with_own_images
from .datasets import DATASETS
from .loading import RealImages
from .run_options import images_sha256_of, read_options

if TYPE_CHECKING:
    from .data import Dataset
    from .evaluation import Evaluation
    from .metrics.evaluator import Evaluator
    from .sources import Images


@click.command(
    "dcgan-eval",
    cls=Command,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  dcgan-eval                                          the shipped model
  dcgan-eval runs/000-mnist-fast                      a run, and the data set it was trained on
  dcgan-eval model.onnx --split test --seeds 3        for the record: three seeds, test images
  dcgan-eval clothes.onnx --dataset fashion-mnist     an evaluator is trained once, and kept
  dcgan-eval model.onnx --images photos/ --two-sample images of your own, a folder per class
  dcgan-eval images.npz --nearest-neighbour           labelled images, whoever made them
  dcgan-eval dcgan-mnist-conditional --cas --json     many minutes, for a machine to read

Choose between models by --split validation; the test split is for the last word. docs/quality.md explains
every row.""",
)
@click.argument("source", required=False, metavar="[RUN|CHECKPOINT|MODEL.onnx|IMAGES.npz]")
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="validation",
    show_default=True,
    help="What to compare images with: the last 10,000 training images (of fewer than 20,000 the last half), or the "
    "test images.",
)
@click.option(
    "-n",
    "--n",
    type=WholeNumber(10, 60_000),
    metavar="NUMBER",
    help="How many.  [default: 10000, or all there are]",
)
@click.option("--seed", type=WholeNumber(0, SEEDS - 1), metavar="NUMBER", help="Of the latents.  [default: 0]")
@click.option(
    "--seeds", type=WholeNumber(1, 100), metavar="NUMBER", help="How many seeds, from --seed on; medians are shown."
)
@click.option("--two-sample", is_flag=True, help="Also how well a new network tells them from real ones; needs torch.")
@click.option("--nearest-neighbour", is_flag=True, help="Also the 1-NN error on raw pixels; needs labelled images.")
@click.option("--cas", is_flag=True, help="Also the classification accuracy score; needs labelled images and torch.")
@data_options(
    images="Real images of your own instead, flat or in a folder per class.",
    dataset="Real images, by the names of dcgan-train; sample, of MNIST, needs no files and no network, and makes "
    "coarser figures.  [default: mnist, or what the run was trained on]",
    sizes=WholeNumber(1, 1024),
    size="Side of real images.  [default: their own; of --images the model's]",
)
@click.option(
    "--evaluator",
    type=click.Path(path_type=Path),
    metavar="FILE.onnx",
    help="To judge by.  [default: the one that ships for MNIST; for others one is trained once, and kept]",
)
@click.option("--make-evaluator", is_flag=True, help="Only train the evaluator, anew if there is one; needs torch.")
@click.option(
    "--features",
    type=click.Path(path_type=Path),
    metavar="FILE.onnx",
    help="Judge by features of your own instead, without classes; docs/quality.md says what the file takes.",
)
@click.option(
    "--threads", type=WholeNumber(1, 1024), metavar="NUMBER", help="Of the CPU.  [default: the cores it may use]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.version_option(__version__, prog_name="dcgan-eval")
def main(source: str | None, images: Path | None, as_json: bool, make_evaluator: bool, **given: Any) -> None:
    """Judge images, and real ones beside them, which is the floor."""
    from .evaluation import read_images

    options = with_own_images(images, given)
    _refuse_contradictions(source, make_evaluator, options)
    if options["two_sample"] or options["cas"]:
        require("torch", "train")  # before images are read, which may take minutes
    if make_evaluator:
        train, _ = read_images(_choice(options, None), "validation", _tell, _progress)
        made = _evaluator(train, options, make=True)
        stated = {"evaluator": str(made.path), "sha256": made.sha256, **dataclasses.asdict(made.statement)}
        click.echo(json.dumps(stated, indent=2) if as_json else f"{made.path}\nsha256 {made.sha256}")
        return
    source = source or shipped.DEFAULT
    run = _take_from_run(source, options)
    evaluation, name, is_made = _evaluate(source, options, run)
    if as_json:
        click.echo(json.dumps({"source": source, "dataset": name, **evaluation.as_dict()}, indent=2))
    else:
        lines = [_table(source, name, evaluation)]
        if run is not None:
            lines += ["", f"try: dcgan-export {shlex.quote(source)}"]
        elif len(evaluation.seeds) == 1 and not is_made:
            lines += ["", f"try: {again('--seeds', '3')}"]
        click.echo("\n".join(lines))


def _refuse_contradictions(source: str | None, make_evaluator: bool, options: dict[str, Any]) -> None:
    if make_evaluator and source:
        raise click.UsageError("--make-evaluator judges nothing; leave the model out.")
    name = options["dataset"] or "mnist"
    changed = options["size"] or options["channels"]
    if make_evaluator and options["evaluator"] is None and name in MNIST_NAMES and not changed:
        raise click.UsageError(f"{name} has an evaluator that ships; to make another, add --evaluator FILE.onnx.")
    if options["features"] and (options["evaluator"] or make_evaluator):
        raise click.UsageError("--features takes the place of an evaluator; leave one of them out.")
    if options["split"] == "test" and options["dataset"] == IMAGES:
        raise click.UsageError("images of your own have no test split; leave --split out.")
    # Before images are read, which may take minutes.
    for option in ("features", "evaluator"):
        path = options[option]
        if path is not None and not make_evaluator and not path.is_file():
            raise EvaluationError(f"there is no file {path}; --{option} takes an ONNX file")
    if make_evaluator and path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise EvaluationError(f"can't write {path}; name a file in a folder that exists with --evaluator")


def _take_from_run(source: str, options: dict[str, Any]) -> Path | None:
    """What a run was trained on, where nothing else is asked for; the run's folder if that is taken."""
    path = Path(source)
    if source in shipped.names(".onnx") or path.suffix not in ("", ".safetensors") or not path.exists():
        return None
    try:
        run = path if path.is_dir() else path.parent
        real = read_options(run).real_images
    except RunError:
        return None  # no run's, or another program's
    if options["dataset"]:
        if options["dataset"] == real.dataset == IMAGES:  # moved, or others: read as the run's were
            options |= {key: value for key, value in vars(real).items() if options[key] is None}
        return None
    if real.dataset not in (*DATASETS, IMAGES):
        raise EvaluationError(
            f"{source} was trained on {real.dataset}; name its images with --images FOLDER, or a --dataset"
        )
    options |= {key: value for key, value in vars(real).items() if options[key] is None}
    images = options["data_dir"] if real.dataset == IMAGES else real.dataset
    _tell(f"{source} was trained on {images}, so it is compared with {images}")
    return run


def _take_from_model(images: Images, options: dict[str, Any]) -> None:
    """The data set that the generator says it was trained on, where nothing else is asked for."""
    if options["dataset"]:
        return
    made_for = images.trained_on
    if made_for in DATASETS:
        options["dataset"] = made_for
        _tell(f"{images.name} was trained on {made_for}, so it is compared with {made_for}")
    elif made_for == IMAGES or images.image_shape != (1, 28, 28):
        kind = "x".join(map(str, images.image_shape))
        raise EvaluationError(
            f"{images.name} makes images of {kind}, and what to compare them with is not known; give --images FOLDER, "
            "or a --dataset"
        )


def _choice(options: dict[str, Any], images: Images | None) -> RealImages:
    """Which real images; a folder's are read in the shape of those to be judged."""
    chosen = RealImages(**{key: value for key in vars(RealImages()) if (value := options[key]) is not None})
    if images is None or chosen.dataset != IMAGES:
        return chosen
    channels, height, width = images.image_shape
    if options["size"] is None and height == width:
        chosen = dataclasses.replace(chosen, size=height)
    if options["channels"] is None:  # "auto" of a run: as they were found then, and are in the cache
        chosen = dataclasses.replace(chosen, channels="grey" if channels == 1 else "colour")
    return chosen


def _evaluator(train: Dataset, options: dict[str, Any], make: bool = False) -> Evaluator:
    from .metrics.evaluator import evaluator_for

    return evaluator_for(
        train, options["evaluator"], make=make, threads=options["threads"], say=_tell, progress=_progress
    )


def _evaluate(source: str, options: dict[str, Any], run: Path | None) -> tuple[Evaluation, str, bool]:
    from .evaluation import evaluate, read_images, reference_of, refuse_others
    from .metrics.evaluator import Judge
    from .metrics.feature_model import FeatureModel
    from .sources import open_images

    images = open_images(source, options["threads"])
    if not images.seeded and (options["seed"] is not None or options["seeds"] is not None):
        raise click.UsageError(f"{source} holds images that are made already; leave --seed and --seeds out.")
    if (options["nearest_neighbour"] or options["cas"]) and not images.labelled:
        option = "--nearest-neighbour" if options["nearest_neighbour"] else "--cas"
        raise click.UsageError(f"{option} needs labelled images, and {source} has none; take a conditional model.")
    _take_from_model(images, options)
    choice = _choice(options, images)
    train, test = read_images(choice, options["split"], _tell, _progress)
    if run is not None and train.sha256() != images_sha256_of(run):
        _tell(f"these are not the images that {run} was trained on: they were changed, or others took their place")
    refuse_others(images, train)
    reference = reference_of(train, test, options["split"])
    judge: Judge | None = None
    if options["features"]:
        judge = FeatureModel(options["features"], threads=options["threads"])
        _tell(f"{options['features']} is fed with {judge.layout}")
    elif train.labels is not None or options["evaluator"]:
        judge = _evaluator(train, options)
    elif not options["two_sample"]:
        _tell(
            f"{train.name} has no labels to train an evaluator with, so there is the two-sample test alone; the "
            "Frechet distance and the others need features: --features FILE.onnx"
        )
        require("torch", "train")
    first = options["seed"] or 0
    evaluation = evaluate(
        images,
        reference,
        judge,
        count=options["n"],
        most=images.count,
        seeds=range(first, first + (options["seeds"] or 1)),
        nearest_neighbour=options["nearest_neighbour"],
        cas=options["cas"],
        two_sample=options["two_sample"] or judge is None,
        threads=options["threads"],
        say=_status,
    )
    if images.seeded and images.num_classes and train.labels is not None:
        _tell(f"classes were asked for as often as the {options['split']} images have them")
    return evaluation, choice.title, not images.seeded


def _table(source: str, name: str, evaluation: Evaluation) -> str:
    """One row a metric; with several seeds medians, and the range they are from."""
    from .evaluation import METRICS

    many = len(evaluation.seeds) > 1
    head = ["", "model", *(["of seeds, from .. to"] if many else []), "real", "better", "images"]
    rows = []
    for key, metric in METRICS.items():
        if key not in evaluation.figures:
            continue
        values = evaluation.figures[key]
        row = [metric.label, format(evaluation.median(key), metric.form)]
        if many:
            row.append(f"{min(values):{metric.form}} .. {max(values):{metric.form}}")
        row += [format(evaluation.floor[key], metric.form), metric.better, f"{evaluation.counts[key]:,}"]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    reference = f"{evaluation.counts['reference']:,} {evaluation.split} images of {name}"
    warning = [f"warning: {evaluation.warning}"] if evaluation.warning else []
    return "\n".join(
        [
            _verdict(evaluation),
            *warning,
            "",
            f'{source} compared with {reference}; "real" is what as many real training images score',
            "",
            *lines,
        ]
    )


def _verdict(evaluation: Evaluation) -> str:
    """The figure that sums it up, beside the floor."""
    from .evaluation import FID_COUNT

    seeds = f"(seed {', '.join(map(str, evaluation.seeds))})"
    if "frechet_distance" not in evaluation.figures:
        model, real = evaluation.median("two_sample_accuracy"), evaluation.floor["two_sample_accuracy"]
        return (
            f"a new network tells them from real images in {model:.1%} of the cases, and real ones from others in "
            f"{real:.1%}; chance is 50 % {seeds}"
        )
    floor = evaluation.floor["frechet_distance"]
    found = evaluation.median("frechet_distance")
    count = evaluation.counts["frechet_distance"]
    # With few images the distance is mostly their number's own.
    few = "" if count >= FID_COUNT else f"; of {count:,} images it says little, {FID_COUNT:,} are usual"
    doubt = "; it may mean nothing, as the warning says" if evaluation.warning else ""
    times = f"{found / floor if floor else float('inf'):.1f} times as far as" if found > floor else "no farther than"
    return f"Frechet distance {found:.2f}: {times} other real images are, {floor:.2f} {seeds}{doubt or few}"


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _status(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"{text} ...", err=True)


def _progress(what: str, done: int, of: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{what}: {done:,} of {of:,}", nl=done >= of, err=True)
