"""How good images are: every metric, for a model's images and for real ones, side by side.

The real ones are the floor: what a perfect copy of the training images would score against the same reference. No
figure means anything without it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dcgan_infer.contract.errors import EvaluationError
from dcgan_infer.contract.spec import MNIST_NAMES
from dcgan_infer.extras import require
from dcgan_infer.runtime import cores

from .data import IMAGES, SPLITS, Dataset, Progress, silent, split_validation
from .datasets import DATASETS
from .loading import RealImages
from .metrics import foreign
from .metrics.density_coverage import density_coverage
from .metrics.evaluator import Judge, Judged, describe, listed
from .metrics.frechet import frechet_distance
from .metrics.kernel import kernel_distance
from .metrics.labels import class_imbalance, clear_share, label_agreement
from .metrics.nearest_neighbour import nearest_neighbour_error
from .metrics.precision_recall import precision_recall
from .sources import Images

FID_COUNT = 10_000
NEIGHBOURS = 50_000  # images for the 1-NN error, as in the DCGAN paper
CAS_IMAGES = 60_000  # images for the classification accuracy score: as many as MNIST has
LEAST = 10  # images of any set


class Metric(NamedTuple):
    """How a figure is shown.

    Attributes:
        label: in tables.
        better: `lower` or `higher`.
        form: a format specification.
    """

    label: str
    better: str
    form: str


METRICS = {
    "frechet_distance": Metric("Frechet distance", "lower", ".2f"),
    "kernel_distance": Metric("kernel distance", "lower", ".4f"),
    "precision": Metric("precision", "higher", ".3f"),
    "recall": Metric("recall", "higher", ".3f"),
    "density": Metric("density", "higher", ".3f"),
    "coverage": Metric("coverage", "higher", ".3f"),
    "clear_share": Metric("clearly one class", "higher", ".2%"),
    "class_imbalance": Metric("class imbalance", "lower", ".2%"),
    "label_agreement": Metric("label agreement", "higher", ".2%"),
    "two_sample_accuracy": Metric("two-sample test", "lower", ".2%"),
    "nearest_neighbour_error": Metric("1-NN error", "lower", ".2%"),
    "classification_accuracy_score": Metric("classification accuracy score", "higher", ".2%"),
}

Pictures = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.integer]
# (count, seed, labels to ask for or None) -> uint8 images (count, H, W) or (count, H, W, 3), and their labels or None;
# labels are integers (count,).
Source = Callable[[int, int, "Labels | None"], tuple[Pictures, "Labels | None"]]


def read_images(
    choice: RealImages,
    split: str,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = silent,
) -> tuple[Dataset, Dataset | None]:
    """Read training images, and test images if they are asked for and there are any.

    Args:
        choice: which.
        split: `validation`, or `test`.
        say: told what was read, a line at a time.
        progress: as `load_dataset` takes it.
    Raises:
        DatasetError: as `load_dataset`.
    """
    train = choice.load("train", progress)
    for line in train.notes:
        say(line)
    tested = split == "test" and choice.dataset != IMAGES and "test" in DATASETS[choice.dataset].arguments
    return train, choice.load("test", progress) if tested else None


@dataclass(frozen=True)
class Reference:
    """What images are compared with.

    Attributes:
        split: `validation` or `test`.
        real: training images, for the floor.
        held: images that the floor's are compared with, and the model's.
    """

    split: str
    real: Dataset
    held: Dataset


def reference_of(train: Dataset, test: Dataset | None, split: str) -> Reference:
    """Training images, and those to compare images with.

    Args:
        train: all training images.
        test: the test images, or None.
        split: `validation`, which `split_validation` takes from the training images; or `test`.
    Raises:
        EvaluationError: the split is unknown, or there are no test images.
    """
    if split not in SPLITS:
        raise EvaluationError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    if split == "validation":
        return Reference(split, *split_validation(train))
    if test is None:
        raise EvaluationError(
            f"{train.name} has no test images; take --split validation, which holds some training images out"
        )
    return Reference(split, train, test)


def refuse_others(source: Images, dataset: Dataset) -> None:
    """Refuse images that can't be compared with those of a data set.

    Raises:
        EvaluationError: they are of another shape, of other classes, or made by a generator of another data set.
    """
    if source.image_shape != dataset.image_shape:
        raise EvaluationError(
            f"{source.name} makes images of shape {source.image_shape}, and those of {dataset.name} are of "
            f"{dataset.image_shape} (channels, height, width); name the data set it was made for with --dataset or "
            "--images"
        )
    made_for = source.trained_on
    if made_for in DATASETS and made_for != dataset.name and not {made_for, dataset.name} <= MNIST_NAMES:
        raise EvaluationError(
            f"{source.name} was trained on {made_for}, and can't be compared with {dataset.name}; give --dataset "
            f"{made_for}"
        )
    if not source.labelled or dataset.labels is None:
        return
    if source.num_classes not in (None, dataset.num_classes) or source.class_names not in ((), dataset.class_names):
        made = listed(source.class_names) or f"{source.num_classes} classes"
        raise EvaluationError(
            f"{source.name} makes images of {made}, and {dataset.name} has {listed(dataset.class_names)}; name the "
            "data set it was made for with --dataset or --images"
        )
    if source.labels is not None and not 0 <= source.labels.min() <= source.labels.max() < dataset.num_classes:
        raise EvaluationError(
            f"{source.name}: labels must be 0 to {dataset.num_classes - 1}, as the classes of {dataset.name} are, "
            f"found {source.labels.min()} to {source.labels.max()}"
        )


def labels_like(dataset: Dataset, count: int, seed: int) -> Labels | None:
    """Labels that are as frequent as among the images of a data set, in random order.

    They are what a conditional generator is asked for where its images are compared with that data set, as the metrics
    of stylegan3 do. Drawn evenly, the difference between the classes' frequencies would be in every figure.

    Returns:
        Integers, shape (count,): those of the data set, again and again; None if it has none.
    """
    if dataset.labels is None:
        return None
    return np.resize(np.random.default_rng(seed).permutation(dataset.labels), count)


@dataclass(frozen=True)
class Evaluation:
    """Figures of a model and of real images.

    Attributes:
        split: that both were compared with.
        counts: number of images behind each figure; by name of the metric, and `reference`.
        seeds: of the model's latents.
        figures: for each metric a figure for each seed.
        floor: for each metric the figure of real training images.
        evaluator_sha256: of the file that features come from; None without features.
        evaluator: what that file states about itself, see `metrics.evaluator.Statement`.
        warning: why the figures may mean nothing; empty if there is no sign of it.
    """

    split: str
    counts: dict[str, int]
    seeds: tuple[int, ...]
    figures: dict[str, list[float]]
    floor: dict[str, float]
    evaluator_sha256: str | None
    evaluator: dict[str, Any]
    warning: str = ""

    def median(self, metric: str) -> float:
        """Of the seeds."""
        return statistics.median(self.figures[metric])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "split": self.split,
            "seeds": list(self.seeds),
            "evaluator_sha256": self.evaluator_sha256,
            "evaluator": self.evaluator,
            "reference_images": self.counts["reference"],
            "warning": self.warning,
            "metrics": {
                name: {
                    "images": self.counts[name],
                    "model": self.median(name),
                    "model_by_seed": values,
                    "real": self.floor.get(name),
                }
                for name, values in self.figures.items()
            },
        }


def evaluate(
    source: Source,
    reference: Reference,
    judge: Judge | None,
    *,
    count: int | None = None,
    most: int | None = None,
    seeds: Sequence[int] = (0,),
    nearest_neighbour: bool = False,
    cas: bool = False,
    two_sample: bool = False,
    threads: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Judge a model's images, and real ones.

    Args:
        source: makes images.
        reference: what to compare them with.
        judge: finds features, and of an `Evaluator` classes too; None leaves out all metrics that need them.
        count: images for the metrics on features and for the two-sample test, and as many real ones for the floor;
            None takes 10,000, or as many as there are.
        most: number of images that the source has; None if it makes any number.
        seeds: of the images; each gives a figure of its own.
        nearest_neighbour: also measure the 1-NN error, for which images need labels; half a minute a seed.
        cas: also measure the classification accuracy score, for which images need labels; many minutes a seed.
        two_sample: also the two-sample test, which needs torch; about a minute a seed.
        threads: of the CPU for what trains a network; None takes the cores this process may use.
        say: told what is being done, in a few words.
    Raises:
        EvaluationError: too few images, or labels are needed and there are none.
        RuntimeMissingError: torch is needed, and not installed.
    """
    real, held = reference.real, reference.held
    there = len(real) if most is None else min(len(real), most)
    if count is None:
        count = min(FID_COUNT, there)
    if min(len(real), len(held)) < LEAST:
        raise EvaluationError(
            f"{len(real) + len(held)} images are too few to compare images with: {len(held)} are held, and "
            f"{LEAST} are needed; give more"
        )
    if not LEAST <= count <= len(real):
        raise EvaluationError(f"the number of images must be {LEAST} to {len(real)}, found {count}")
    counts = dict.fromkeys(METRICS, count) | {"reference": len(held)}
    counts["two_sample_accuracy"] = min(count, len(held))
    counts["nearest_neighbour_error"] = min(NEIGHBOURS, there)
    counts["classification_accuracy_score"] = min(CAS_IMAGES, there)
    flags = (two_sample, nearest_neighbour, cas)
    names = ("two_sample_accuracy", "nearest_neighbour_error", "classification_accuracy_score")
    asked = [name for name, wanted in zip(names, flags, strict=True) if wanted]
    if (nearest_neighbour or cas) and real.labels is None:
        raise EvaluationError(
            f"1-NN error and classification accuracy score need labels, and {real.name} has none; leave them out"
        )
    floor: dict[str, float] = {}
    judged_held = None
    if judge is not None:
        say("reading the reference")
        judged_held = judge.judge(held.images)
        say("judging real images")
        labels = None if real.labels is None else real.labels[:count]
        floor = judge_images(judge.judge(real.images[:count]), labels, judged_held, held)
    for name in asked:
        say(f"{METRICS[name].label} of real images")
        part = real[: counts[name]]
        floor[name] = _train_on(name, part.images, part.labels, held, 0, threads, say)
    figures: dict[str, list[float]] = {}
    warnings = []
    for seed in seeds:
        say(f"making images of seed {seed}")
        number = max([count, *(counts[name] for name in asked)])
        images, labels = source(number, seed, labels_like(held, number, seed))
        if (nearest_neighbour or cas) and labels is None:
            raise EvaluationError(
                "1-NN error and classification accuracy score need labelled images, and this model makes none; "
                "take a conditional model, or leave the option out"
            )
        row = {}
        if judge is not None and judged_held is not None:
            say(f"judging images of seed {seed}")
            wanted = None if labels is None or real.labels is None else labels[:count]
            row = judge_images(judge.judge(images[:count]), wanted, judged_held, held)
        warnings.append(_warning(images, reference, row, floor))
        for name in asked:
            say(f"{METRICS[name].label} of seed {seed}")
            some = None if labels is None else labels[: counts[name]]
            row[name] = _train_on(name, images[: counts[name]], some, held, seed, threads, say)
        for name, value in row.items():
            figures.setdefault(name, []).append(value)
    sha256, stated = (None, {}) if judge is None else (judge.sha256, describe(judge))
    warning = next(filter(None, warnings), "")
    return Evaluation(reference.split, counts, tuple(seeds), figures, floor, sha256, stated, warning)


def judge_images(judged: Judged, labels: Labels | None, held: Judged, reference: Dataset) -> dict[str, float]:
    """Every metric on features and, where they are read, on classes.

    Args:
        judged: of the images.
        labels: that they were asked to have, integers, shape (N,); None for an unconditional model.
        held: of the reference images.
        reference: those images.
    """
    precision, recall = precision_recall(held.features, judged.features)
    density, coverage = density_coverage(held.features, judged.features)
    figures = {
        "frechet_distance": frechet_distance(judged.features, held.features),
        "kernel_distance": kernel_distance(judged.features, held.features),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }
    if judged.probabilities is None or reference.labels is None:
        return figures
    figures["clear_share"] = clear_share(judged.probabilities)
    figures["class_imbalance"] = class_imbalance(judged.labels, reference.labels, judged.probabilities.shape[1])
    if labels is not None:
        figures["label_agreement"] = label_agreement(judged.probabilities, labels)
    return figures


def _warning(images: Pictures, reference: Reference, figures: dict[str, float], floor: dict[str, float]) -> str:
    """Why these images may be of another kind than the real ones, whatever the figures say."""
    real, held = reference.real.images, reference.held.images
    if min(len(images), len(real), len(held)) < foreign.LEAST:
        return ""
    far = foreign.far_share(images, real, held)
    if far > foreign.MOST:
        sign = (
            f"{far:.0%} are farther, in pixels, from every real image than {foreign.USUAL:.0%} of the "
            f"{reference.split} images are (real ones: {1 - foreign.USUAL:.0%})"
        )
    elif "density" in figures and figures["density"] < foreign.LEAST_DENSITY * floor["density"]:
        sign = (
            f"their density among real images' features is {figures['density']:.2f}, that of real ones "
            f"{floor['density']:.2f}"
        )
    else:
        return ""
    return (
        f"these images do not look like {reference.real.name}: {sign}; they are of another kind, and the figures say "
        "nothing, or their generator is hardly trained"
    )


def _train_on(
    name: str,
    images: Pictures,
    labels: Labels | None,
    held: Dataset,
    seed: int,
    threads: int | None,
    say: Callable[[str], None],
) -> float:
    threads = threads or cores()
    if name == "two_sample_accuracy":
        test = require(f"{__package__}.metrics.two_sample", "train").two_sample_accuracy
        accuracy: float = test(images, held.images[: len(images)], seed=seed, threads=threads)
        return accuracy
    assert labels is not None
    assert held.labels is not None
    if name == "nearest_neighbour_error":
        return nearest_neighbour_error(images, labels, held.images, held.labels)

    def on_epoch(epoch: int) -> None:
        say(f"  epoch {epoch} of {classification.EPOCHS}")

    classification = require(f"{__package__}.metrics.classification", "train")
    score = classification.classification_accuracy_score
    result: float = score(images, labels, held.images, held.labels, seed=seed, threads=threads, on_epoch=on_epoch)
    return result
