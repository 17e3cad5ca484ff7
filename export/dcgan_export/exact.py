"""The yardstick: a checkpoint run in float64, and in float32 for what rounding does to it, on chosen latents."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dcgan.torch_state import our_settings
from dcgan_infer.contract.errors import CheckpointError
from dcgan_infer.contract.spec import Interface

from .formats import FloatArray, IntArray

ExactArray: TypeAlias = npt.NDArray[np.float64]

SEED = 0
# One image, a pair, a batch that no vector width divides, and one that is larger than any kernel's block.
BATCHES = (1, 2, 7, 64)
TAIL = 6.0  # a normal number is this far out once in 500 million
_NORMAL = "N(0,1)"  # name of the ordinary latents


@dataclass(frozen=True)
class Probe:
    """Latents, and what the checkpoint makes of them.

    Attributes:
        name: of the kind of latents.
        latents: float32, shape (M, latent_dim), M = sum(BATCHES).
        exact: float64, shape (M, C, H, W), the checkpoint in float64.
        eager: float32, same shape, the checkpoint in float32, run in `BATCHES`.
        labels: int64, shape (M,), every class in turn; None for an unconditional checkpoint.
        tail: whether the latents are further out than N(0, 1) ever is.
    """

    name: str
    latents: FloatArray
    exact: ExactArray
    eager: FloatArray
    labels: IntArray | None = None
    tail: bool = False

    @property
    def inputs(self) -> tuple[FloatArray | IntArray, ...]:
        """What the artifact is given."""
        return (self.latents,) if self.labels is None else (self.latents, self.labels)


def make_probes(generator: nn.Module, spec: Interface, seed: int = SEED) -> tuple[Probe, ...]:
    """Run the yardstick.

    Args:
        generator: the checkpoint's, float32, on the CPU. It is copied, and the copies run in eval mode.
        spec: of the generator.
        seed: of the latents.
    Returns:
        Two probes of 74 latents: from N(0, 1), and tails.
    Raises:
        CheckpointError: the checkpoint itself gives values that are not finite.
    """
    random = np.random.default_rng(seed)
    count = sum(BATCHES)
    probes = []
    for name, latents in (
        (_NORMAL, random.standard_normal((count, spec.latent_dim)).astype(np.float32)),
        (f"tails, |z| <= {TAIL:g}", _tails(random, count, spec.latent_dim)),
    ):
        labels = np.arange(count, dtype=np.int64) % spec.num_classes if spec.num_classes else None
        right, own = run_exactly(generator, latents, labels, BATCHES, name)
        probes.append(Probe(name, latents, right, own, labels, tail=name != _NORMAL))
    return tuple(probes)


@our_settings()
def run_exactly(
    generator: nn.Module, latents: FloatArray, labels: IntArray | None, batches: Sequence[int], name: str
) -> tuple[ExactArray, FloatArray]:
    """Images of a checkpoint in float64, and in float32, for its own error.

    Args:
        generator: float32, on the CPU. It is copied, and the copies run in eval mode.
        latents: float32, shape (M, latent_dim).
        labels: int64, shape (M,), or None.
        batches: sizes that float32 runs in, M together.
        name: of the latents, for a message.
    Returns:
        float64 and float32, shape (M, C, H, W) each.
    Raises:
        CheckpointError: it gives values that are not finite.
    """
    eager = copy.deepcopy(generator).eval()
    exact = copy.deepcopy(eager).double()
    z = torch.from_numpy(latents)
    asked = () if labels is None else (torch.from_numpy(labels),)
    with torch.inference_mode():
        right = exact(z.double(), *asked).numpy()
        parts = zip(*(torch.split(each, list(batches)) for each in (z, *asked)), strict=True)
        own = np.concatenate([eager(*part).numpy() for part in parts])
    if not (np.isfinite(right).all() and np.isfinite(own).all()):
        raise CheckpointError(
            f"the checkpoint itself gives images that are not finite on latents from {name}; train it again"
        )
    return right, own


def _tails(random: np.random.Generator, count: int, latent_dim: int) -> FloatArray:
    """Latents that a user meets rarely or never, shape (count, latent_dim), no entry beyond `TAIL`.

    In turn: a draw from N(0, 1) stretched until its largest entry is at `TAIL`; one with a tenth of its entries at plus
    or minus `TAIL`; and one with all of them there, as far out as the corner of the cube.
    """
    z = random.standard_normal((count, latent_dim))
    far = TAIL * np.where(random.random(z.shape) < 0.5, -1.0, 1.0)
    some = random.random(z.shape) < 0.1
    some[:, 0] = True
    kind = np.arange(count)[:, None] % 3
    stretched = z * (TAIL / np.abs(z).max(axis=1, keepdims=True))
    spiked = np.where(some, far, z)
    latents: FloatArray = (
        np.select([kind == 0, kind == 1], [stretched, spiked], far).clip(-TAIL, TAIL).astype(np.float32)
    )
    return latents
