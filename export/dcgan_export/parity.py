"""The proof that an artifact is equal to its checkpoint.

Two correct float32 programs differ in the last bits, and by how much depends on the weights and on the latents. So a
fixed tolerance is either blind or wrong. The yardstick here is the exact answer, the checkpoint run in float64, and an
artifact passes when it is about as near to that as PyTorch's own float32 is, on the same latents (see `Tolerance`).

Every comparison is written so that a NaN fails it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from dcgan_infer.contract.difference import psnr
from dcgan_infer.contract.errors import first_line
from dcgan_infer.contract.latents import asked_labels
from dcgan_infer.contract.latents import latents as contract_latents
from dcgan_infer.contract.pixels import to_uint8
from dcgan_infer.contract.spec import SEEDS, GeneratorSpec
from dcgan_infer.contract.tolerance import LATENT_TOLERANCE, LEVEL, TOLERANCES, Tolerance

from .exact import BATCHES, ExactArray, Probe, run_exactly
from .formats import FloatArray, IntArray, Runner, Seeded, SeedRunner
from .parity_report import Figures, ParityReport

# Of what takes a seed, with the labels that are asked for in turn: all, the seed's own, and both; 0 and 2^63 - 1 are
# the ends, and one key has a low word of 0.
SEEDED = {"seed 0": (0, tuple(range(10))), "seed 2^32": (2**32, ()), "seed 2^63 - 1": (SEEDS - 1, (-1, 3))}

FLOAT32 = TOLERANCES["fp32"]
# onnxruntime's tanh goes past 1 by up to two float32 steps, 2.4e-7 (measured with 1.32): right, for a float32 program.
OVERSHOOT = 2 * float(np.finfo(np.float32).eps)


def compare(run: Runner, probes: Sequence[Probe], tolerance: Tolerance = FLOAT32, grey: bool = False) -> ParityReport:
    """Compare an artifact with its checkpoint.

    It passes when all of this holds, on each probe by itself:
    - every batch of `BATCHES` gives float32 images of the checkpoint's shape, or grey levels if `grey`;
    - every value is finite and in [-1, 1], give or take `OVERSHOOT`;
    - the largest error to float64 is within `factor * eager's own largest error + floor`;
    - no pixel moves by more than `levels` grey levels, all of them by no more than `mean_levels` on average, and those
      of a single image by no more than `image_levels`;
    - the image of a latent stays the same, within eager's limit or `batch_floor`, in a batch of another size, order and
      company.

    Args:
        run: the artifact; may raise whatever its runtime raises.
        probes: what `exact.make_probes` made of the checkpoint.
        tolerance: what to allow.
        grey: whether the artifact gives grey levels, uint8 of shape (N, 28, 28); `tolerance` is then for these.
    Returns:
        The figures, and the reasons why it did not pass, if so.
    """
    figures, reasons = [], []
    for probe in probes:
        # The second time back to front, in batches of the same sizes: no latent keeps its place or its mates, and those
        # that were in the small batches are now in the large one.
        results = [_images(run, probe, order, grey) for order in (1, -1)]
        broken = [result for result in results if isinstance(result, str)]
        first, again = results
        if isinstance(first, str) or isinstance(again, str):
            reasons += [f"{probe.name}: {reason}" for reason in dict.fromkeys(broken)]
            continue
        row = _measure(probe, first, again, tolerance)
        figures.append(row)
        reasons += [f"{probe.name}: {reason}" for reason in _judge(row, tolerance)]
    return ParityReport(tolerance, tuple(figures), tuple(reasons))


def compare_seeded(
    run: SeedRunner,
    generator: nn.Module,
    spec: GeneratorSpec,
    tolerance: Tolerance = FLOAT32,
    grey: bool = False,
) -> ParityReport:
    """Compare an artifact that takes a seed with its checkpoint on the seed's latents.

    It passes when for each of `SEEDED` its latents are within `LATENT_TOLERANCE` of the contract's, its labels are the
    contract's, and its images are as `compare` asks; image i must stay the same for any number of images.

    Args:
        run: the artifact; may raise whatever its runtime raises.
        generator: the checkpoint's, float32, on the CPU.
        spec: of the generator.
        tolerance: what to allow.
        grey: as in `compare`.
    Raises:
        CheckpointError: the checkpoint itself gives values that are not finite.
    """
    count = sum(BATCHES)
    figures, reasons = [], []
    for name, (seed, labels) in SEEDED.items():
        asked = tuple(label for label in labels if label < spec.num_classes) if spec.num_classes else None
        z = contract_latents(seed, 0, count, spec.latent_dim)
        label = None if asked is None else asked_labels(seed, count, asked, spec.num_classes)
        right, own = run_exactly(generator, z, label, BATCHES, name)
        probe = Probe(name, z, right, own, label)
        made = _seeded(run, seed, asked, probe, grey)
        if isinstance(made, str):
            reasons.append(f"{name}: {made}")
            continue
        row = _measure(probe, *made, tolerance)
        figures.append(row)
        reasons += [f"{name}: {reason}" for reason in _judge(row, tolerance)]
    return ParityReport(tolerance, tuple(figures), tuple(reasons))


def _seeded(
    run: SeedRunner, seed: int, asked: tuple[int, ...] | None, probe: Probe, grey: bool
) -> tuple[FloatArray, FloatArray] | str:
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
            return f"its latents are not the contract's (docs/latents.md), for {n} images"
        if probe.labels is not None and not (part.label is not None and np.array_equal(part.label, probe.labels[:n])):
            return f"its labels are not the contract's (docs/latents.md), for {n} images, {asked} asked for"
        problem = _unlike(part.images, n, probe, grey)
        if problem:
            return problem
        parts.append(part)
    whole, *few = (_floats(part.images, grey) for part in parts)
    alone, end = [], 0  # BATCHES ascend: each request adds the images past the one before
    for images, n in zip(few, BATCHES, strict=True):
        alone.append(images[end:])
        end = n
    return whole, np.concatenate([*alone, whole[end:]])


def _unlike(images: npt.NDArray[Any], size: int, probe: Probe, grey: bool) -> str:
    """How the type or shape of a batch of images is wrong; empty if it is right."""
    dtype: type[np.generic] = np.uint8 if grey else np.float32
    shape = (size, *probe.exact.shape[2 if grey else 1 :])
    if images.shape == shape and images.dtype == dtype:
        return ""
    return (
        f"a batch of {size} should give {dtype.__name__} images of shape {shape}, "
        f"found {images.dtype} of shape {images.shape}"
    )


def _floats(images: npt.NDArray[Any], grey: bool) -> FloatArray:
    """Images as float32, shape (N, 1, 28, 28), from grey levels too."""
    return (images[:, None] * LEVEL - 1.0).astype(np.float32) if grey else images.astype(np.float32, copy=False)


def _images(run: Runner, probe: Probe, order: int, grey: bool) -> FloatArray | str:
    """Images of a probe's latents, or why there are none; `order` -1 hands the latents over back to front."""
    images = []
    columns = (np.split(each[::order].copy(), np.cumsum(BATCHES)[:-1]) for each in probe.inputs)
    for size, batch in zip(BATCHES, zip(*columns, strict=True), strict=True):
        try:
            made = run(*batch)
        except Exception as error:  # runtimes raise what they like; whatever it is, these latents have no images
            return f"the artifact does not run on a batch of {size}: {first_line(error)}"
        problem = _unlike(made, size, probe, grey)
        if problem:
            return problem
        images.append(_floats(made, grey))
    return np.concatenate(images)[::order]


def _measure(probe: Probe, images: FloatArray, again: FloatArray, tolerance: Tolerance) -> Figures:
    with np.errstate(invalid="ignore"):  # infinity less infinity is a NaN, and judged as one
        error = np.abs(images - probe.exact)
        eager_error = np.abs(probe.eager - probe.exact)
        to_eager = np.abs(images.astype(np.float64) - probe.eager)
        mates = np.abs(images.astype(np.float64) - again)
    levels, again_levels = (_levels_off(made, probe.exact) for made in (images, again))
    by_image = np.maximum(levels, again_levels).reshape(len(images), -1).mean(1)
    return Figures(
        latents=probe.name,
        images=len(images),
        limit=tolerance.limit(float(eager_error.max())),
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        eager_max_error=float(eager_error.max()),
        eager_mean_error=float(eager_error.mean()),
        max_to_eager=float(to_eager.max()),
        mean_to_eager=float(to_eager.mean()),
        mates_limit=tolerance.factor * float(eager_error.max()) + tolerance.batch_floor,
        max_mates=float(mates.max()),
        pixels=images.size,
        pixels_off=int(np.count_nonzero(levels)),
        max_levels=int(levels.max()),
        mean_levels=float(levels.mean()),
        mean_levels_limit=tolerance.tail_mean_levels if probe.tail else tolerance.mean_levels,
        image_levels=float(by_image.max()),
        image_levels_limit=tolerance.tail_image_levels if probe.tail else tolerance.image_levels,
        psnr=psnr(error, 2.0),
        lowest=float(images.min()),
        highest=float(images.max()),
    )


def _levels_off(images: FloatArray, exact: ExactArray) -> IntArray:
    """Grey levels that each pixel is off by; 255 where there is none. Same shape."""
    finite = np.isfinite(images)
    levels: IntArray = np.abs(to_uint8(np.where(finite, images, 0.0)).astype(np.int64) - to_uint8(exact))
    levels[~finite] = 255
    return levels


def _judge(row: Figures, tolerance: Tolerance) -> list[str]:
    reasons = []
    # `not (a <= b)` where `a > b` would do for numbers: a NaN must not slip through.
    if not (row.lowest >= -1.0 - OVERSHOOT and row.highest <= 1.0 + OVERSHOOT):
        reasons.append(f"values go from {row.lowest:.7g} to {row.highest:.7g}, expected -1 to 1")
    if not (row.max_error <= row.limit):
        reasons.append(f"off by {row.max_error:.2e} from float64, the limit is {row.limit:.2e}")
    if not (row.max_levels <= tolerance.levels):
        reasons.append(f"a pixel is off by {row.max_levels} grey levels, the limit is {tolerance.levels}")
    if not (row.mean_levels <= row.mean_levels_limit):
        reasons.append(
            f"pixels are off by {row.mean_levels:.2f} grey levels on average, the limit is {row.mean_levels_limit:g}"
        )
    if not (row.image_levels <= row.image_levels_limit):
        reasons.append(
            f"the pixels of an image are off by {row.image_levels:.2f} grey levels on average, "
            f"the limit is {row.image_levels_limit:g}"
        )
    if not (row.max_mates <= row.mates_limit):
        reasons.append(f"images change by {row.max_mates:.2e} with their batch, the limit is {row.mates_limit:.2e}")
    return reasons
