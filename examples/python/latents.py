"""Latents and labels by the contract of docs/contracts.md: image i of a seed is the same image in every language.

Copy this file; it needs nothing else of the project. A model exported with `--inputs seed` does not even need it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
LABEL_COUNTER = 65536


def threefry2x32(seed: int, i: npt.NDArray[np.uint32], j: npt.NDArray[np.uint32]) -> list[npt.NDArray[np.uint32]]:
    """Two random words for each counter (i, j), which are broadcast (Salmon, Moraes, Dror and Shaw, SC 2011)."""
    low, high = seed & 0xFFFFFFFF, seed >> 32
    keys = np.array([[low], [high], [0x1BD11BDA ^ low ^ high]], np.uint32)  # arrays wrap around in silence
    x0, x1 = i + keys[0], j + keys[1]
    for number in range(20):
        distance = ROTATIONS[number % 8]
        x0 = x0 + x1
        x1 = (x1 << distance | x1 >> (32 - distance)) ^ x0
        if number % 4 == 3:
            step = number // 4 + 1
            x0 = x0 + keys[step % 3]
            x1 = x1 + keys[(step + 1) % 3] + np.uint32(step)
    return [x0, x1]


def latents(seed: int, n: int, latent_dim: int) -> npt.NDArray[np.float32]:
    """Latents 0 to n - 1 of a seed, 0 to 2^63 - 1: standard normals, shape (n, latent_dim)."""
    rows, pairs = np.arange(n, dtype=np.uint32)[:, None], np.arange((latent_dim + 1) // 2, dtype=np.uint32)
    x0, x1 = threefry2x32(seed, rows, pairs)
    radius = np.sqrt(-2 * np.log(((x0 >> 8) + 1.0) / 2**24))  # Box and Muller (1958), in float64
    angle = 2 * np.pi * (x1 >> 8) / 2**24
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    return normals.reshape(n, -1)[:, :latent_dim].astype(np.float32)


def labels(seed: int, n: int, classes: int) -> npt.NDArray[np.int64]:
    """The labels that a seed draws for latents 0 to n - 1: 0 to classes - 1, shape (n,)."""
    word, _ = threefry2x32(seed, np.arange(n, dtype=np.uint32), np.array([LABEL_COUNTER], np.uint32))
    drawn: npt.NDArray[np.int64] = (word.astype(np.uint64) * np.uint64(classes) >> np.uint64(32)).astype(np.int64)
    return drawn
