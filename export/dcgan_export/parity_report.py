"""What a comparison of an artifact with its checkpoint found: figures, reasons, a table and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dcgan_infer.contract.difference import Difference, in_words, is_same
from dcgan_infer.contract.tolerance import Tolerance

from .exact import BATCHES, SEED


@dataclass(frozen=True)
class Figures:
    """What was measured on one kind of latents. Errors are absolute, in units of the generator's values.

    Attributes:
        latents: name of the kind of latents.
        difference: of the artifact to float64; its limit is `factor` times `eager_max_error` plus `floor`.
        eager_max_error: largest difference of eager float32 to float64.
        eager_mean_error: mean of the same.
        max_to_eager: largest difference of the artifact to eager float32.
        mean_to_eager: mean of the same.
        mates_limit: for `max_mates`.
        max_mates: largest difference between the images of a latent in two batches, of other sizes, order and company.
        tail: whether the latents are further out than N(0, 1) ever is.
    """

    latents: str
    difference: Difference
    eager_max_error: float
    eager_mean_error: float
    max_to_eager: float
    mean_to_eager: float
    mates_limit: float
    max_mates: float
    tail: bool = False

    def reasons(self) -> list[str]:
        """Why the artifact is not equal to its checkpoint here; empty when it is."""
        reasons = self.difference.reasons()
        # Not `max_mates > mates_limit`: a NaN must not slip through.
        if not (self.max_mates <= self.mates_limit):
            reasons.append(
                f"images change by {self.max_mates:.2e} with their batch, the limit is {self.mates_limit:.2e}"
            )
        return reasons

    def as_dict(self) -> dict[str, Any]:
        """For JSON, those of the difference beside the others; what is not a finite number is None."""
        figures = asdict(self)
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in (figures.pop("difference") | figures).items()
        }


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
        """For JSON: the attributes, and `passed`."""
        return {
            "passed": self.passed,
            "reasons": list(self.reasons),
            "seed": self.seed,
            "tolerance": asdict(self.tolerance),
            "figures": [row.as_dict() for row in self.figures],
        }

    @property
    def is_same(self) -> bool:
        """Whether it passed, and its images are the checkpoint's."""
        return self.passed and is_same([row.difference for row in self.figures])

    @property
    def verdict(self) -> str:
        """For people, in a line: equal or not, how near, and on how much that was seen."""
        if not self.passed:
            more = f" (and {len(self.reasons) - 1} more)" if len(self.reasons) > 1 else ""
            return f"NOT the same as your checkpoint: {self.reasons[0]}{more}"
        seen, verdict = [row.difference for row in self.figures], "same as"
        if not self.is_same:  # what far-out latents do to few bits says little of the images that people make
            seen, verdict = [row.difference for row in self.figures if not row.tail], "near"
        latents = sum(each.images for each in seen)
        return f"{verdict} your checkpoint: {in_words(seen)} ({latents} latents, batches of 1 to {max(BATCHES)})"

    def table(self) -> str:
        """For people: a line a figure, a column a kind of latents, then the reasons; at most 80 columns wide."""
        parts = [self._columns(self.figures[first : first + 2]) for first in range(0, len(self.figures), 2)]
        verdict = ["parity: passed"] if self.passed else ["parity: FAILED", *(f"  {reason}" for reason in self.reasons)]
        return "\n".join(["\n\n".join(parts), *verdict] if parts else verdict)

    def _columns(self, figures: Sequence[Figures]) -> str:
        tolerance = self.tolerance
        found = [(row, row.difference) for row in figures]
        rows = [
            ("latents", [row.latents for row, _ in found]),
            ("images", [f"{to.images}" for _, to in found]),
            ("max error to float64", [f"{to.max_error:.2e}" for _, to in found]),
            (
                f"  limit: {tolerance.factor:g} x eager's own + {tolerance.floor:.2g}",
                [f"{to.limit:.2e}" for _, to in found],
            ),
            ("  eager float32's own", [f"{row.eager_max_error:.2e}" for row, _ in found]),
            ("mean error to float64", [f"{to.mean_error:.2e}" for _, to in found]),
            ("  eager float32's own", [f"{row.eager_mean_error:.2e}" for row, _ in found]),
            ("max difference to eager", [f"{row.max_to_eager:.2e}" for row, _ in found]),
            ("mean difference to eager", [f"{row.mean_to_eager:.2e}" for row, _ in found]),
            ("max difference between batches", [f"{row.max_mates:.2e}" for row, _ in found]),
            ("  limit", [f"{row.mates_limit:.2e}" for row, _ in found]),
            ("pixels off by a level", [f"{to.pixels_off} of {to.pixels}" for _, to in found]),
            ("  share", [f"{to.pixels_off / to.pixels:.4%}" for _, to in found]),
            (f"  worst, in levels (limit {tolerance.levels})", [f"{to.max_levels}" for _, to in found]),
            ("levels off on average", [f"{to.mean_levels:.4f}" for _, to in found]),
            ("  limit", [f"{to.mean_levels_limit:.3g}" for _, to in found]),
            ("  of the worst image", [f"{to.image_levels:.4f}" for _, to in found]),
            ("  limit", [f"{to.image_levels_limit:.3g}" for _, to in found]),
            ("PSNR to float64", [f"{to.psnr:.1f} dB" for _, to in found]),
            ("lowest value", [f"{to.lowest:+.6f}" for _, to in found]),
            ("highest value", [f"{to.highest:+.6f}" for _, to in found]),
        ]
        return "\n".join(f"{label:<36}" + "".join(f"{cell:>18}" for cell in cells) for label, cells in rows)
