"""Frechet distance of checkpoints to training images: python benchmarks/frechet.py DATA_DIR CHECKPOINT ...

A coarse yardstick for choosing between recipes: Gaussians are fitted to the pixels of 10,000 images, projected on the
64 principal directions of real digits, and compared by the distance of Frechet (Dowson and Landau 1982; used for
generators by Heusel et al. 2017, arXiv:1706.08500). It needs no classifier, and sees no more than means and
covariances of blurred digits. The reference is the last 10,000 training images, the floor the first 10,000 against
them; the test set is not touched.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch

from dcgan.checkpoint import load_generator
from dcgan.data import load_dataset
from dcgan.images import to_uint8
from dcgan.networks import Generator

COUNT = 10_000
DIRECTIONS = 64

Floats = npt.NDArray[np.float64]


def frechet_distance(a: Floats, b: Floats) -> float:
    """Distance of the Gaussians fitted to two sets of features, float64, shape (N, D): squared, in squared units."""
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(covariance_a)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    # The trace of (A B)^(1/2) is that of (A^(1/2) B A^(1/2))^(1/2), whose matrix is symmetric.
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ covariance_b @ root), 0, None)).sum()
    mean_gap = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(mean_gap + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross)


@torch.no_grad()
def generated(generator: Generator, seed: int) -> npt.NDArray[np.uint8]:
    z = torch.randn(COUNT, generator.spec.latent_dim, generator=torch.Generator().manual_seed(seed))
    return np.concatenate([to_uint8(generator(part).numpy()) for part in z.split(250)])  # type: ignore[no-untyped-call]


@click.command()
@click.argument("data_dir", type=click.Path(path_type=Path))
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(data_dir: Path, checkpoints: tuple[Path, ...]) -> None:
    """Print the distance of each CHECKPOINT, and of real images, from three seeds."""
    real = load_dataset("mnist", data_dir).images
    reference = real[-COUNT:].reshape(COUNT, -1) / 255.0
    centre = reference.mean(0)
    directions = np.linalg.svd(reference - centre, full_matrices=False)[2][:DIRECTIONS].T

    def features(images: npt.NDArray[np.uint8]) -> Floats:
        projected: Floats = (images.reshape(len(images), -1) / 255.0 - centre) @ directions
        return projected

    target = features(real[-COUNT:])
    click.echo(f"{'real training images (the floor)':<48}{frechet_distance(features(real[:COUNT]), target):>8.3f}")
    for path in checkpoints:
        generator = load_generator(path).generator
        distances = [frechet_distance(features(generated(generator, seed)), target) for seed in range(3)]
        click.echo(f"{path!s:<48}{np.median(distances):>8.3f}   ({min(distances):.3f} to {max(distances):.3f})")


if __name__ == "__main__":
    main()
