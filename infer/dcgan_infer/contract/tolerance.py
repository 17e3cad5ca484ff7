"""How far a generator's artifact may be from the exact answer, by its precision. Standard library only.

The exact answer is the checkpoint run in float64. `export` holds every artifact to this before it is published, and
`dcgan-verify` whoever has the file afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_USUAL_SPAN = 2.0  # from -1 to 1: what the limits below were measured with
LATENT_TOLERANCE = 1e-6  # of latents by another implementation: docs/contracts.md, "Latents"


@dataclass(frozen=True)
class Tolerance:
    """What is allowed. Errors are absolute, for values from -1 to 1, but for those in levels, of 256.

    Levels are limited by a number, and by a share of how far apart the generator's images are: the mean difference of
    the right images to one another. The larger of both counts.

    Attributes:
        factor: of the largest error: times eager float32's own largest error; correct float32 artifacts were at 2 at
            most.
        floor: added to that, for generators on which eager happens to be nearly exact.
        levels: that a pixel may move by.
        mean_levels: that pixels may be off by on average.
        image_levels: that the pixels of the worst image may be off by on average.
        mean_share: as `mean_levels`, of the distance between images.
        image_share: as `image_levels`, likewise.
        tail_mean_share: as `mean_share`, where latents are further out than N(0, 1) ever is.
        tail_image_share: as `image_share`, there.
        batch_floor: as `floor`, of what an image may change by with the batch it is in.
    """

    factor: float = 4.0
    floor: float = 1e-6
    levels: int = 1
    mean_levels: float = 0.01
    image_levels: float = 0.1
    mean_share: float = 0.0
    image_share: float = 0.0
    tail_mean_share: float = 0.0
    tail_image_share: float = 0.0
    batch_floor: float = 1e-6

    def at_tails(self) -> Tolerance:
        """The same for latents that are further out than N(0, 1) ever is."""
        return replace(self, mean_share=self.tail_mean_share, image_share=self.tail_image_share)

    def limit(self, eager_max_error: float) -> float:
        """Of the largest error, where eager float32's own is this."""
        return self.factor * eager_max_error + self.floor

    def mates_limit(self, eager_max_error: float) -> float:
        """Of what an image may change by with the batch that it is in."""
        return self.factor * eager_max_error + self.batch_floor


TOLERANCES = {
    "fp32": Tolerance(),
    # The shipped generators, 74 latents each: off by 0.012 at most, 2 levels, and 0.007 levels on average. Six others
    # were off by 0.03 to 0.045 levels, 0.07 % of the distance between their images: the share is three times that.
    "fp16": Tolerance(
        floor=0.05,
        levels=4,
        mean_levels=0.05,
        image_levels=0.2,
        mean_share=0.002,
        image_share=0.004,
        tail_mean_share=0.002,
        tail_image_share=0.004,
    ),
    # Twelve generators (digits, colour, four layouts, trained and not, 32 and 64 pixels) were off by 1 to 3.5 % of the
    # distance between their images, the worst image by 4.1 %: it is the noise of 8 bits, whatever the images show. With
    # weights of 4 bits instead of 7 it is 6 % and more. At the tails, where activations leave the ranges that were
    # measured, it was 7 to 51 %, the worst image 169 %. A single pixel at the edge of a stroke can change from black to
    # white there, and a level that is rounded the other way in another batch moves others: no limits for these.
    "int8": Tolerance(
        floor=2.0,
        levels=255,
        mean_levels=0.5,
        image_levels=1.0,
        mean_share=0.05,
        image_share=0.1,
        tail_mean_share=0.75,
        tail_image_share=3.0,
        batch_floor=2.0,
    ),
}


def tolerance_of(precision: str, value_range: tuple[float, float], is_uint8: bool) -> Tolerance:
    """What an artifact may be off by, in units of its generator's values.

    Args:
        precision: a key of `TOLERANCES`.
        value_range: what is absolute grows and shrinks with it.
        is_uint8: whether it gives levels: half of one off by nature, and at times the next one.
    """
    span = value_range[1] - value_range[0]
    usual, least = TOLERANCES[precision], span / 255 if is_uint8 else 0.0
    floor, batch_floor = (max(each * span / _USUAL_SPAN, least) for each in (usual.floor, usual.batch_floor))
    return replace(usual, floor=floor, batch_floor=batch_floor)
