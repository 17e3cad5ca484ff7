"""What a comparison of an artifact with its checkpoint found: figures, reasons, a table and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dcgan_infer.contract.tolerance import Tolerance

from .exact import SEED


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
