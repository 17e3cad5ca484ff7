"""What the evaluator reads: the class that was asked for, clearly one class, and all classes as often as they are.

Label agreement is the accuracy of an independent classifier on a conditional generator's samples, as in Shmelkov,
Schmid and Alahari, "How good is my GAN?", arXiv:1807.09499 (there GAN-test).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CLEAR = 0.9  # an image that the evaluator reads with less than this probability is called unclear


def label_agreement(probabilities: npt.NDArray[np.float64], wanted: npt.NDArray[np.integer]) -> float:
    """Share of images that are read as the class they were asked to be.

    Args:
        probabilities: float64, shape (N, classes).
        wanted: labels, integers, shape (N,).
    """
    return float((probabilities.argmax(1) == wanted).mean())


def clear_share(probabilities: npt.NDArray[np.float64]) -> float:
    """Share of images, shape (N, classes), that are read as some class with a probability of `CLEAR` or more."""
    return float((probabilities.max(1) >= CLEAR).mean())


def class_shares(labels: npt.NDArray[np.integer], classes: int) -> list[float]:
    """Share of each class among labels, integers, shape (N,)."""
    return [float(share) for share in np.bincount(labels, minlength=classes) / len(labels)]


def class_imbalance(labels: npt.NDArray[np.integer], reference: npt.NDArray[np.integer], classes: int) -> float:
    """Total variation distance between two sets' class shares.

    Args:
        labels: integers, shape (N,).
        reference: integers, shape (M,).
        classes: number of classes.
    Returns:
        From 0, every class as often as in the reference, to 1; the share that would have to change its class.
    """
    gaps = np.subtract(class_shares(labels, classes), class_shares(reference, classes))
    return float(np.abs(gaps).sum() / 2.0)
