"""How far a generator's artifact may be from the exact answer, by its precision. Standard library only.

The exact answer is the checkpoint run in float64. `export` holds every artifact to this before it is published, and
`dcgan-verify` whoever has the file afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

LEVEL = 1 / 127.5  # a grey level, in units of the value range
LATENT_TOLERANCE = 1e-6  # of latents by another implementation: docs/latents.md, "How exact"


@dataclass(frozen=True)
class Tolerance:
    """What is allowed. Errors are absolute, in units of the value range [-1, 1], but for those in grey levels.

    Attributes:
        factor: of the largest error: times eager float32's own largest error; correct float32 artifacts were at 2 at
            most.
        floor: added to that, for generators on which eager happens to be nearly exact.
        levels: grey levels that a pixel may move by.
        mean_levels: grey levels that pixels may be off by on average.
        image_levels: grey levels that the pixels of the worst image may be off by on average.
        tail_mean_levels: as `mean_levels`, where latents are further out than N(0, 1) ever is.
        tail_image_levels: as `image_levels`, there.
        batch_floor: as `floor`, of what an image may change by with the batch it is in.
    """

    factor: float = 4.0
    floor: float = 1e-6
    levels: int = 1
    mean_levels: float = 0.01
    image_levels: float = 0.1
    tail_mean_levels: float = 0.01
    tail_image_levels: float = 0.1
    batch_floor: float = 1e-6

    def limit(self, eager_max_error: float) -> float:
        """Of the largest error, where eager float32's own is this."""
        return self.factor * eager_max_error + self.floor

    def for_grey_levels(self) -> Tolerance:
        """The same for an artifact that gives grey levels: half a level off by nature, and at times the next one."""
        return replace(self, floor=max(self.floor, LEVEL), batch_floor=max(self.batch_floor, LEVEL))


TOLERANCES = {
    "fp32": Tolerance(),
    # The shipped generators, 74 latents each: off by 0.012 at most, 2 grey levels, and 0.007 levels on average.
    "fp16": Tolerance(
        floor=0.05, levels=4, mean_levels=0.05, image_levels=0.2, tail_mean_levels=0.05, tail_image_levels=0.2
    ),
    # Over four seeds of 74 latents they are off by 0.50 to 0.76 levels on average, the worst image by 1.8; at the
    # tails, where activations leave the ranges that were measured, by 2.6 to 5.0 and 18. A single pixel at the edge of
    # a stroke can change from black to white there, and a level that is rounded the other way in another batch moves
    # others: no limits for these.
    "int8": Tolerance(
        floor=2.0,
        levels=255,
        mean_levels=1.0,
        image_levels=5.0,
        tail_mean_levels=10.0,
        tail_image_levels=30.0,
        batch_floor=2.0,
    ),
}
