"""How good digits are: every metric, for a model's digits and for real ones, side by side.

The real ones are the floor: what a perfect copy of the training images would score against the same reference. No
figure means anything without it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dcgan_infer.contract.errors import EvaluationError

from .data import CLASSES, EVALUATED, SAMPLE, SPLITS, Dataset, load_dataset, split_validation
from .metrics.density_coverage import density_coverage
from .metrics.evaluator import Evaluator, Judged
from .metrics.frechet import frechet_distance
from .metrics.kernel import kernel_distance
from .metrics.labels import class_imbalance, clear_share, label_agreement
from .metrics.nearest_neighbour import nearest_neighbour_error
from .metrics.precision_recall import precision_recall

FID_COUNT = 10_000
NEIGHBOURS = 50_000  # images for the 1-NN error, as in the DCGAN paper
CAS_IMAGES = 60_000  # images for the classification accuracy score: as many as MNIST has


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
    "clear_share": Metric("clearly one digit", "higher", ".2%"),
    "class_imbalance": Metric("class imbalance", "lower", ".2%"),
    "label_agreement": Metric("label agreement", "higher", ".2%"),
    "nearest_neighbour_error": Metric("1-NN error", "lower", ".2%"),
    "classification_accuracy_score": Metric("classification accuracy score", "higher", ".2%"),
}

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.integer]
# (count, seed) -> uint8 images (count, 28, 28), and their labels, int64 (count,), or None.
Source = Callable[[int, int], tuple[Images, "Labels | None"]]


@dataclass(frozen=True)
class Reference:
    """What digits are held against.

    Attributes:
        split: `validation` or `test`.
        real: training images, for the floor.
        held: images that the floor's are held against, and the model's.
    """

    split: str
    real: Dataset
    held: Dataset


def load_reference(name: str, data_dir: Path, split: str) -> Reference:
    """Training images, and those to hold digits against.

    Args:
        name: `mnist` or `sample`; the evaluator knows no others.
        data_dir: as `load_dataset` takes it.
        split: `validation`, the last 10,000 training images (of the sample the last half); or `test`.
    Raises:
        DatasetError: as `load_dataset`.
        EvaluationError: the split is unknown, or the sample, which has no test images, is to be tested.
    """
    if split not in SPLITS:
        raise EvaluationError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    if name not in EVALUATED:
        raise EvaluationError(f"the evaluator reads MNIST's digits only, not {name}; leave --dataset out")
    if split == "test":
        if name == SAMPLE:
            raise EvaluationError("the sample has no test images; take --split validation, or --dataset mnist")
        return Reference(split, load_dataset(name, data_dir), load_dataset(name, data_dir, "test"))
    return Reference(split, *split_validation(load_dataset(name, data_dir)))


@dataclass(frozen=True)
class Evaluation:
    """Figures of a model and of real images.

    Attributes:
        split: that both were held against.
        counts: number of images behind each figure; by name of the metric, and `reference`.
        seeds: of the model's latents.
        figures: for each metric a figure for each seed.
        floor: for each metric the figure of real training images.
        evaluator_sha256: of the frozen classifier.
    """

    split: str
    counts: dict[str, int]
    seeds: tuple[int, ...]
    figures: dict[str, list[float]]
    floor: dict[str, float]
    evaluator_sha256: str

    def median(self, metric: str) -> float:
        """Of the seeds."""
        return statistics.median(self.figures[metric])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "split": self.split,
            "seeds": list(self.seeds),
            "evaluator_sha256": self.evaluator_sha256,
            "reference_images": self.counts["reference"],
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
    evaluator: Evaluator,
    *,
    count: int | None = None,
    seeds: Sequence[int] = (0,),
    nearest_neighbour: bool = False,
    cas: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Judge a model's digits, and real ones.

    Args:
        source: makes digits.
        reference: what to hold them against.
        evaluator: reads them.
        count: digits for the metrics on features, and as many real ones for the floor; None takes 10,000, or as many
            as there are real ones.
        seeds: of the digits; each gives a figure of its own.
        nearest_neighbour: also measure the 1-NN error, for which digits need labels; half a minute a seed.
        cas: also measure the classification accuracy score, for which digits need labels; many minutes a seed.
        say: told what is being done, in a few words.
    Raises:
        EvaluationError: too few images, or labels are needed and there are none.
    """
    count = min(FID_COUNT, len(reference.real.images)) if count is None else count
    if not 10 <= count <= len(reference.real.images):
        raise EvaluationError(f"the number of digits must be 10 to {len(reference.real.images)}, found {count}")
    if len(reference.held.images) < 10:
        raise EvaluationError(f"{len(reference.held.images)} images are too few to hold digits against")
    say("reading the reference")
    held = evaluator.judge(reference.held.images)
    real = reference.real
    say("judging real images")
    judged_real = evaluator.judge(real.images[:count])
    floor = judge_digits(judged_real, real.labels[:count], held, reference.held)
    counts = dict.fromkeys(METRICS, count) | {"reference": len(reference.held.images)}
    counts["nearest_neighbour_error"] = min(NEIGHBOURS, len(real.images))
    counts["classification_accuracy_score"] = min(CAS_IMAGES, len(real.images))
    figures: dict[str, list[float]] = {}
    asked = [
        name
        for name, wanted in (("nearest_neighbour_error", nearest_neighbour), ("classification_accuracy_score", cas))
        if wanted
    ]
    for name in asked:
        say(f"{METRICS[name].label} of real images")
        floor[name] = _train_on(name, real.images[: counts[name]], real.labels[: counts[name]], reference.held, 0, say)
    for seed in seeds:
        say(f"making digits of seed {seed}")
        images, labels = source(max([count, *(counts[name] for name in asked)]), seed)
        if asked and labels is None:
            raise EvaluationError(
                "1-NN error and classification accuracy score need labelled digits, and this model makes none; "
                "take a conditional model, or leave the option out"
            )
        say(f"judging digits of seed {seed}")
        row = judge_digits(
            evaluator.judge(images[:count]), None if labels is None else labels[:count], held, reference.held
        )
        for name in asked:
            assert labels is not None
            say(f"{METRICS[name].label} of seed {seed}")
            row[name] = _train_on(name, images[: counts[name]], labels[: counts[name]], reference.held, seed, say)
        for name, value in row.items():
            figures.setdefault(name, []).append(value)
    return Evaluation(reference.split, counts, tuple(seeds), figures, floor, evaluator.sha256)


def judge_digits(judged: Judged, labels: Labels | None, held: Judged, reference: Dataset) -> dict[str, float]:
    """Every metric on features and read labels.

    Args:
        judged: of the digits.
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
        "clear_share": clear_share(judged.probabilities),
        "class_imbalance": class_imbalance(judged.labels, reference.labels, CLASSES),
    }
    if labels is not None:
        figures["label_agreement"] = label_agreement(judged.probabilities, labels)
    return figures


def _train_on(name: str, images: Images, labels: Labels, held: Dataset, seed: int, say: Callable[[str], None]) -> float:
    if name == "nearest_neighbour_error":
        return nearest_neighbour_error(images, labels, held.images, held.labels)
    from .metrics.classification import EPOCHS, classification_accuracy_score  # the one that needs torch

    def on_epoch(epoch: int) -> None:
        say(f"  epoch {epoch} of {EPOCHS}")

    return classification_accuracy_score(images, labels, held.images, held.labels, seed=seed, on_epoch=on_epoch)
