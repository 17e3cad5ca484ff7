"""The proof that an artifact is equal to its checkpoint.

Two correct float32 programs differ in the last bits, and by how much depends on the weights and on the latents. So a
fixed tolerance is either blind or wrong. The yardstick here is the exact answer, the checkpoint run in float64, and an
artifact passes when it is about as near to that as PyTorch's own float32 is, on the same latents (see `Tolerance`).

Every comparison is written so that a NaN fails it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dcgan.difference import psnr
from dcgan.errors import CheckpointError, first_line
from dcgan.images import to_uint8
from dcgan.latents import asked_labels
from dcgan.latents import latents as contract_latents
from dcgan.spec import SEEDS, GeneratorSpec
from dcgan.tolerance import LATENT_TOLERANCE, LEVEL, TOLERANCES, Tolerance

from .formats import FloatArray, IntArray, Runner, Seeded, SeedRunner

ExactArray: TypeAlias = npt.NDArray[np.float64]

SEED = 0
# One image, a pair, a batch that no vector width divides, and one that is larger than any kernel's block.
BATCHES = (1, 2, 7, 64)
TAIL = 6.0  # a normal number is this far out once in 500 million


# Of what takes a seed, with the labels that are asked for in turn: all, the seed's own, and both; 0 and 2^63 - 1 are
# the ends, and one key has a low word of 0.
SEEDED = {"seed 0": (0, tuple(range(10))), "seed 2^32": (2**32, ()), "seed 2^63 - 1": (SEEDS - 1, (-1, 3))}

FLOAT32 = TOLERANCES["fp32"]
_NORMAL = "N(0,1)"  # name of the ordinary latents
# onnxruntime's tanh goes past 1 by up to two float32 steps, 2.4e-7 (measured with 1.32): right, for a float32 program.
OVERSHOOT = 2 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Probe:
    """Latents, and what the checkpoint makes of them.

    Attributes:
        name: of the kind of latents.
        latents: float32, shape (M, latent_dim), M = sum(BATCHES).
        exact: float64, shape (M, 1, 28, 28), the checkpoint in float64.
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


@dataclass(frozen=True)
class Figures:
    """What was measured on one kind of latents. Errors are absolute, in units of the value range [-1, 1].

    Attributes:
        latents: name of the kind of latents.
        images: number of images compared.
        limit: for `max_error`, `factor` times `eager_max_error` plus `floor`.
        max_error: largest difference of the artifact to float64.
        mean_error: mean of the same.
        eager_max_error: largest difference of eager float32 to float64.
        eager_mean_error: mean of the same.
        max_to_eager: largest difference of the artifact to eager float32.
        mean_to_eager: mean of the same.
        mates_limit: for `max_mates`.
        max_mates: largest difference between the images of a latent in two batches, of other sizes, order and company.
        pixels: number of pixels compared.
        pixels_off: how many have another grey level than in float64, or none.
        max_levels: grey levels that the worst of them is off by.
        mean_levels: grey levels that pixels are off by on average.
        mean_levels_limit: for `mean_levels`.
        image_levels: the same of the worst image, in either of its batches.
        image_levels_limit: for `image_levels`.
        psnr: peak signal-to-noise ratio to float64 in dB, with the value range, 2, as peak; infinite when equal.
        lowest: smallest value of the artifact.
        highest: largest value of the artifact.
    """

    latents: str
    images: int
    limit: float
    max_error: float
    mean_error: float
    eager_max_error: float
    eager_mean_error: float
    max_to_eager: float
    mean_to_eager: float
    mates_limit: float
    max_mates: float
    pixels: int
    pixels_off: int
    max_levels: int
    mean_levels: float
    mean_levels_limit: float
    image_levels: float
    image_levels_limit: float
    psnr: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class ParityReport:
    """The outcome of a comparison.

    Attributes:
        tolerance: what was allowed.
        figures: one entry a kind of latents; fewer, when the artifact could not be run on some.
        reasons: why the artifact is not equal to its checkpoint; empty when it is.
        seed: of the latents.
    """

    tolerance: Tolerance
    figures: tuple[Figures, ...]
    reasons: tuple[str, ...]
    seed: int = SEED

    @property
    def passed(self) -> bool:
        """Whether the artifact is equal to its checkpoint."""
        return not self.reasons

    def __add__(self, other: ParityReport) -> ParityReport:
        """Both outcomes as one."""
        return ParityReport(
            self.tolerance, self.figures + other.figures, tuple(dict.fromkeys(self.reasons + other.reasons)), self.seed
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the attributes, and `passed`. What is no finite number is None."""
        figures = [
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in row.items()
            }
            for row in map(asdict, self.figures)
        ]
        return {
            "passed": self.passed,
            "reasons": list(self.reasons),
            "seed": self.seed,
            "tolerance": asdict(self.tolerance),
            "figures": figures,
        }

    def table(self) -> str:
        """For people: a line a figure, a column a kind of latents, then the reasons; at most 80 columns wide."""
        parts = [self._columns(self.figures[first : first + 2]) for first in range(0, len(self.figures), 2)]
        verdict = ["parity: passed"] if self.passed else ["parity: FAILED", *(f"  {reason}" for reason in self.reasons)]
        return "\n".join(["\n\n".join(parts), *verdict] if parts else verdict)

    def _columns(self, figures: Sequence[Figures]) -> str:
        tolerance = self.tolerance
        rows = [
            ("latents", [row.latents for row in figures]),
            ("images", [f"{row.images}" for row in figures]),
            ("max error to float64", [f"{row.max_error:.2e}" for row in figures]),
            (
                f"  limit: {tolerance.factor:g} x eager's own + {tolerance.floor:g}",
                [f"{r.limit:.2e}" for r in figures],
            ),
            ("  eager float32's own", [f"{row.eager_max_error:.2e}" for row in figures]),
            ("mean error to float64", [f"{row.mean_error:.2e}" for row in figures]),
            ("  eager float32's own", [f"{row.eager_mean_error:.2e}" for row in figures]),
            ("max difference to eager", [f"{row.max_to_eager:.2e}" for row in figures]),
            ("mean difference to eager", [f"{row.mean_to_eager:.2e}" for row in figures]),
            ("max difference between batches", [f"{row.max_mates:.2e}" for row in figures]),
            ("  limit", [f"{row.mates_limit:.2e}" for row in figures]),
            ("pixels off by a grey level", [f"{row.pixels_off} of {row.pixels}" for row in figures]),
            ("  share", [f"{row.pixels_off / row.pixels:.4%}" for row in figures]),
            (f"  worst, in levels (limit {tolerance.levels})", [f"{row.max_levels}" for row in figures]),
            ("grey levels off on average", [f"{row.mean_levels:.4f}" for row in figures]),
            ("  limit", [f"{row.mean_levels_limit:g}" for row in figures]),
            ("  of the worst image", [f"{row.image_levels:.4f}" for row in figures]),
            ("  limit", [f"{row.image_levels_limit:g}" for row in figures]),
            ("PSNR to float64", [f"{row.psnr:.1f} dB" for row in figures]),
            ("lowest value", [f"{row.lowest:+.6f}" for row in figures]),
            ("highest value", [f"{row.highest:+.6f}" for row in figures]),
        ]
        return "\n".join(f"{label:<36}" + "".join(f"{cell:>18}" for cell in cells) for label, cells in rows)


def make_probes(generator: nn.Module, spec: GeneratorSpec, seed: int = SEED) -> tuple[Probe, ...]:
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
        probes: what `make_probes` made of the checkpoint.
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
