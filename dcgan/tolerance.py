"""How far a generator's artifact may be from the exact answer, by its precision. Standard library only.

The exact answer is the checkpoint run in float64. `export` holds every artifact to this before it is published, and
`dcgan-verify` whoever has the file afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

LEVEL = 1 / 127.5  # a grey level, in units of the value range


@dataclass(frozen=True)
class Tolerance:
    """What is allowed. Errors are absolute, in units of the value range [-1, 1], but for those in grey levels.

    Attributes:
        factor: of the largest error: times eager float32's own largest error; correct float32 artifacts were at 2 at
            most.
        floor: added to that, for generators on which eager happens to be nearly exact.
        levels: grey levels that a pixel may move by.
        mean_levels: grey levels that pixels may be off by on average.
        tail_mean_levels: the same where latents are further out than N(0, 1) ever is.
    """

    factor: float = 4.0
    floor: float = 1e-6
    levels: int = 1
    mean_levels: float = 0.01
    tail_mean_levels: float = 0.01

    def limit(self, eager_max_error: float) -> float:
        """Of the largest error, where eager float32's own is this."""
        return self.factor * eager_max_error + self.floor

    def for_grey_levels(self) -> Tolerance:
        """The same for an artifact that gives grey levels: half a level off by nature, and at times the next one."""
        return replace(self, floor=max(self.floor, LEVEL))


TOLERANCES = {
    "fp32": Tolerance(),
    # The shipped generators, 74 latents each: off by 0.012 at most, 2 grey levels, and 0.007 levels on average.
    "fp16": Tolerance(floor=0.05, levels=4, mean_levels=0.05, tail_mean_levels=0.05),
    # They are off by 0.47 and 0.70 levels on average, and 2.5 and 4.6 at the tails, where activations leave the ranges
    # that were measured. A single pixel at the edge of a stroke can change from black to white there: no limit.
    "int8": Tolerance(floor=2.0, levels=255, mean_levels=1.0, tail_mean_levels=10.0),
}
