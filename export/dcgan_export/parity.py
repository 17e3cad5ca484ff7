"""The proof that an artifact is equal to its checkpoint.

Two correct float32 programs differ in the last bits, and by how much depends on the weights and on the latents. So a
fixed tolerance is either blind or wrong. The yardstick here is the exact answer, the checkpoint run in float64, and an
artifact passes when it is about as near to that as PyTorch's own float32 is, on the same latents (see `Tolerance`).

Every comparison is written so that a NaN fails it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from dcgan_infer.contract.difference import compare_images
from dcgan_infer.contract.errors import first_line
from dcgan_infer.contract.latents import asked_labels
from dcgan_infer.contract.latents import latents as contract_latents
from dcgan_infer.contract.pixels import to_values
from dcgan_infer.contract.spec import SEEDS, Interface
from dcgan_infer.contract.tolerance import LATENT_TOLERANCE, tolerance_of

from .exact import BATCHES, Probe, run_exactly
from .formats import Runner, Seeded, SeedRunner, Variant
from .parity_report import Figures, ParityReport

# Of what takes a seed, with the labels that are asked for in turn: all, the seed's own, and both; 0 and 2^63 - 1 are
# the ends, and one key has a low word of 0.
SEEDED = {"seed 0": (0, tuple(range(10))), "seed 2^32": (2**32, ()), "seed 2^63 - 1": (SEEDS - 1, (-1, 3))}


def compare(run: Runner, probes: Sequence[Probe], interface: Interface, variant: Variant) -> ParityReport:
    """Compare an artifact with its checkpoint.

    It passes when all of this holds, on each probe by itself:
    - every batch of `BATCHES` gives float32 images of the checkpoint's shape, or pictures if the variant says so;
    - the image of a latent stays the same, within eager's limit or `batch_floor`, in a batch of another size, order and
      company;
    - `dcgan_infer.contract.difference` finds the images near enough to those in float64: every value finite and in its
      range, the largest error within `factor * eager's own largest error + floor`, and few levels off.

    Args:
        run: the artifact; may raise whatever its runtime raises.
        probes: what `exact.make_probes` made of the checkpoint.
        interface: of the checkpoint.
        variant: that the artifact is, settled.
    Returns:
        The figures, and the reasons why it did not pass, if so.
    """
    figures, reasons = [], []
    for probe in probes:
        # The second time back to front, in batches of the same sizes: no latent keeps its place or its mates, and those
        # that were in the small batches are now in the large one.
        results = [_images(run, probe, order, interface, variant) for order in (1, -1)]
        broken = [result for result in results if isinstance(result, str)]
        first, again = results
        if isinstance(first, str) or isinstance(again, str):
            reasons += [f"{probe.name}: {reason}" for reason in dict.fromkeys(broken)]
            continue
        row = _measure(probe, first, again, interface, variant)
        figures.append(row)
        reasons += [f"{probe.name}: {reason}" for reason in row.reasons()]
    tolerance = tolerance_of(variant.precision, interface.value_range, variant.is_uint8)
    return ParityReport(tolerance, tuple(figures), tuple(reasons))


def compare_seeded(run: SeedRunner, generator: nn.Module, interface: Interface, variant: Variant) -> ParityReport:
    """Compare an artifact that takes a seed with its checkpoint on the seed's latents.

    It passes when for each of `SEEDED` its latents are within `LATENT_TOLERANCE` of the contract's, its labels are the
    contract's, and its images are as `compare` asks; image i must stay the same for any number of images.

    Args:
        run: the artifact; may raise whatever its runtime raises.
        generator: the checkpoint's, float32, on the CPU.
        interface: of the generator.
        variant: that the artifact is, settled.
    Raises:
        CheckpointError: the checkpoint itself gives values that are not finite.
    """
    count = sum(BATCHES)
    figures, reasons = [], []
    for name, (seed, labels) in SEEDED.items():
        classes = interface.num_classes
        asked = tuple(label for label in labels if label < classes) if classes else None
        z = contract_latents(seed, 0, count, interface.latent_dim)
        label = None if asked is None else asked_labels(seed, count, asked, classes)
        right, own = run_exactly(generator, z, label, BATCHES, name)
        probe = Probe(name, z, right, own, label)
        made = _seeded(run, seed, asked, probe, interface, variant)
        if isinstance(made, str):
            reasons.append(f"{name}: {made}")
            continue
        row = _measure(probe, *made, interface, variant)
        figures.append(row)
        reasons += [f"{name}: {reason}" for reason in row.reasons()]
    tolerance = tolerance_of(variant.precision, interface.value_range, variant.is_uint8)
    return ParityReport(tolerance, tuple(figures), tuple(reasons))


def _seeded(
    run: SeedRunner, seed: int, asked: tuple[int, ...] | None, probe: Probe, interface: Interface, variant: Variant
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | str:
    """Images of a seed all at once, and each from a request for as few as reach it; or why there are none."""
    parts: list[Seeded] = []
    for n in (len(probe.latents), *BATCHES):
        try:
            part = run(seed, n, asked)
        except Exception as error:  # runtimes raise what they like
            return f"the artifact does not run for {n} images: {first_line(error)}"
        if part.z.shape != (n, probe.latents.shape[1]) or not (
            np.abs(part.z - probe.latents[:n]).max() <= LATENT_TOLERANCE
        ):
            return f"its latents are not the contract's (docs/contracts.md), for {n} images"
        if probe.labels is not None and not (part.label is not None and np.array_equal(part.label, probe.labels[:n])):
            return f"its labels are not the contract's (docs/contracts.md), for {n} images, {asked} asked for"
        problem = _unlike(part.images, n, interface, variant)
        if problem:
            return problem
        parts.append(part)
    whole, *few = (part.images for part in parts)
    alone, end = [], 0  # BATCHES ascend: each request adds the images past the one before
    for images, n in zip(few, BATCHES, strict=True):
        alone.append(images[end:])
        end = n
    return whole, np.concatenate([*alone, whole[end:]])


def _unlike(images: npt.NDArray[Any], size: int, interface: Interface, variant: Variant) -> str:
    """How the type or shape of a batch of images is wrong; empty if it is right."""
    dtype: type[np.generic] = np.uint8 if variant.is_uint8 else np.float32
    shape = (size, *(interface.picture_shape if variant.is_uint8 else interface.image_shape))
    if images.shape == shape and images.dtype == dtype:
        return ""
    return (
        f"a batch of {size} should give {dtype.__name__} images of shape {shape}, "
        f"found {images.dtype} of shape {images.shape}"
    )


def _images(run: Runner, probe: Probe, order: int, interface: Interface, variant: Variant) -> npt.NDArray[Any] | str:
    """Images of a probe's latents, or why there are none; `order` -1 hands the latents over back to front."""
    images = []
    columns = (np.split(each[::order].copy(), np.cumsum(BATCHES)[:-1]) for each in probe.inputs)
    for size, batch in zip(BATCHES, zip(*columns, strict=True), strict=True):
        try:
            made = run(*batch)
        except Exception as error:  # runtimes raise what they like; whatever it is, these latents have no images
            return f"the artifact does not run on a batch of {size}: {first_line(error)}"
        problem = _unlike(made, size, interface, variant)
        if problem:
            return problem
        images.append(made)
    return np.concatenate(images)[::order]


def _measure(
    probe: Probe, images: npt.NDArray[Any], again: npt.NDArray[Any], interface: Interface, variant: Variant
) -> Figures:
    tolerance = tolerance_of(variant.precision, interface.value_range, variant.is_uint8)
    allowed = tolerance.at_tails() if probe.tail else tolerance
    eager_error = np.abs(probe.eager - probe.exact)
    limit = tolerance.limit(float(eager_error.max()))
    difference, other = (compare_images(each, probe.exact, interface, allowed, limit) for each in (images, again))
    values, others = (to_values(each, interface.value_range) for each in (images, again))
    with np.errstate(invalid="ignore"):  # infinity less infinity is a NaN, and judged as one
        to_eager = np.abs(values.astype(np.float64) - probe.eager)
        mates = np.abs(values.astype(np.float64) - others)
    return Figures(
        latents=probe.name,
        difference=replace(difference, image_levels=max(difference.image_levels, other.image_levels)),
        eager_max_error=float(eager_error.max()),
        eager_mean_error=float(eager_error.mean()),
        max_to_eager=float(to_eager.max()),
        mean_to_eager=float(to_eager.mean()),
        mates_limit=tolerance.mates_limit(float(eager_error.max())),
        max_mates=float(mates.max()),
        tail=probe.tail,
    )
