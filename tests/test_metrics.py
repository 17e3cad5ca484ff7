"""Each metric against an implementation of other people's, and against cases whose answer is known."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest

from dcgan.metrics.checkerboard import checkerboard_energy
from dcgan.metrics.density_coverage import density_coverage
from dcgan.metrics.frechet import frechet_distance
from dcgan.metrics.kernel import kernel_distance
from dcgan.metrics.labels import class_imbalance, class_shares, clear_share, label_agreement
from dcgan.metrics.nearest_neighbour import nearest_neighbour_error
from dcgan.metrics.neighbours import squared_radii
from dcgan.metrics.precision_recall import precision_recall

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def features() -> tuple[Floats, Floats]:
    """Two sets that overlap in part, 300 and 250 features of 12 numbers, skewed as a ReLU makes them."""
    random = np.random.default_rng(0)
    mix = random.standard_normal((12, 12))
    real = np.maximum(random.standard_normal((300, 12)) @ mix, 0.0)
    generated = np.maximum(random.standard_normal((250, 12)) @ mix * 0.8 + 0.5, 0.0)
    return real, generated


def test_frechet_distance_is_scipys_matrix_root(features: tuple[Floats, Floats]) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    a, b = features
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_known_gaussians() -> None:
    random = np.random.default_rng(0)
    a = random.standard_normal((2000, 3))
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(a, a + np.array([3.0, 0.0, 4.0])) == pytest.approx(25.0)
    # The same directions, twice as wide: the sum of (2 s - s)^2.
    assert frechet_distance(a, 2.0 * a - a.mean(0)) == pytest.approx(np.trace(np.cov(a, rowvar=False)))
    flat = np.c_[a[:, :2], np.zeros(2000)]  # a covariance that can't be inverted
    assert np.isfinite(frechet_distance(a, flat))


def test_kernel_distance_is_torchmetrics(features: tuple[Floats, Floats]) -> None:
    pytest.importorskip("torchmetrics")
    import torch
    from torchmetrics.image.kid import poly_mmd

    a, b = features
    theirs = poly_mmd(torch.from_numpy(a[:250]), torch.from_numpy(b), degree=3, gamma=None, coef=1.0)
    # One subset as large as the smaller set: only the order is left to chance, and it doesn't matter.
    assert kernel_distance(a[:250], b, subsets=1, subset_size=1000) == pytest.approx(float(theirs), rel=1e-9)


def test_kernel_distance_of_equal_distributions_is_about_zero() -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 2000, 8))
    assert abs(kernel_distance(a, b)) < 5e-3
    assert kernel_distance(a, b + 1.0, subsets=5) > 0.5
    assert kernel_distance(a, b, subsets=5, seed=3) == kernel_distance(a, b, subsets=5, seed=3)


@pytest.mark.parametrize("k", [3, 5])
def test_precision_recall_density_and_coverage_are_prdcs(features: tuple[Floats, Floats], k: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prdc = pytest.importorskip("prdc")
    real, generated = features
    theirs = prdc.compute_prdc(real_features=real, fake_features=generated, nearest_k=k)
    precision, recall = precision_recall(real, generated, k)
    density, coverage = density_coverage(real, generated, k)
    # To the last hit: one more or less would be a 300th.
    assert precision == pytest.approx(theirs["precision"], abs=1e-9)
    assert recall == pytest.approx(theirs["recall"], abs=1e-9)
    assert density == pytest.approx(theirs["density"], abs=1e-9)
    assert coverage == pytest.approx(theirs["coverage"], abs=1e-9)
    assert 0.1 < precision < 0.99 > recall > 0.1


def test_copies_are_precise_and_a_single_copy_covers_nothing(features: tuple[Floats, Floats]) -> None:
    real, _ = features
    assert precision_recall(real, real) == (1.0, 1.0)
    assert density_coverage(real, real)[1] == 1.0
    one = np.repeat(real[:1], 50, axis=0)
    assert precision_recall(real, one)[0] == 1.0
    assert precision_recall(real, one)[1] < 0.05
    assert density_coverage(real, one)[1] < 0.05
    assert precision_recall(real, real + 1000.0) == (0.0, 0.0)


def test_radii_are_to_the_neighbours_among_the_others() -> None:
    points = np.array([[0.0], [1.0], [3.0], [3.0]])
    assert squared_radii(points, 1).tolist() == [1.0, 1.0, 0.0, 0.0]
    assert squared_radii(points, 2).tolist() == [9.0, 4.0, 4.0, 4.0]


def test_blocks_do_not_change_the_figures(features: tuple[Floats, Floats], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = precision_recall(*features), density_coverage(*features)
    monkeypatch.setattr("dcgan.metrics.neighbours._ROWS", 7)
    assert (precision_recall(*features), density_coverage(*features)) == whole


def test_nearest_neighbour_error_is_scikit_learns(sample_images: npt.NDArray[np.uint8]) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    labels = np.arange(64) % 4
    images, tests = sample_images[:40], sample_images[40:]
    theirs = neighbors.KNeighborsClassifier(1).fit(images.reshape(40, -1).astype(float), labels[:40])
    expected = 1.0 - theirs.score(tests.reshape(24, -1).astype(float), labels[40:])
    assert nearest_neighbour_error(images, labels[:40], tests, labels[40:]) == pytest.approx(expected)
    assert nearest_neighbour_error(images, labels[:40], images, labels[:40]) == 0.0
    assert nearest_neighbour_error(images, labels[:40], images, labels[:40] + 1) == 1.0


def test_nearest_neighbours_in_parts_and_in_colour(
    sample_images: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.arange(64) % 4
    images, tests = sample_images[:40], sample_images[40:]
    grey = nearest_neighbour_error(images, labels[:40], tests, labels[40:])
    colour = [np.repeat(part[..., None], 3, axis=3) for part in (images, tests)]
    assert nearest_neighbour_error(colour[0], labels[:40], colour[1], labels[40:]) == grey
    monkeypatch.setattr("dcgan.metrics.nearest_neighbour._VALUES", 7 * 784)
    assert nearest_neighbour_error(images, labels[:40], tests, labels[40:]) == grey


def test_labels() -> None:
    probabilities = np.array([[0.95, 0.05], [0.6, 0.4], [0.0, 1.0], [0.2, 0.8]])
    assert label_agreement(probabilities, np.array([0, 1, 1, 1])) == 0.75
    assert clear_share(probabilities) == 0.5
    assert class_shares(np.array([0, 1, 1, 3]), 4) == [0.25, 0.5, 0.0, 0.25]
    assert class_imbalance(np.array([0, 1]), np.array([0, 0]), 2) == 0.5
    assert class_imbalance(np.array([1, 0]), np.array([0, 0, 1, 1]), 2) == 0.0


def test_checkerboard_energy_finds_the_pattern_it_is_for(sample_images: npt.NDArray[np.uint8]) -> None:
    real = {period: checkerboard_energy(sample_images, period) for period in (2, 4)}
    assert 0.0 < real[2] < real[4] < 0.1  # digits are smooth
    row, column = np.indices((28, 28))
    for period in (2, 4):
        pattern = 20 * ((row // (period // 2) + column // (period // 2)) % 2)
        marked = np.clip(sample_images.astype(int) + pattern, 0, 255).astype(np.uint8)
        assert checkerboard_energy(marked, period) > 2 * real[period]
        assert checkerboard_energy(marked, 6 - period) < 1.5 * real[6 - period]
    with pytest.raises(ValueError, match="period 3"):
        checkerboard_energy(sample_images, 3)
