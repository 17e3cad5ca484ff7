"""How far a generator's artifact may be from the exact answer, by its precision. Standard library only.

The exact answer is the checkpoint run in float64. `export` holds every artifact to this before it is published, and
`dcgan-verify` whoever has the file afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """What is allowed. Errors are absolute, in units of the value range [-1, 1], but for those in grey levels.

    Attributes:
        factor: of the largest error: times eager float32's own largest error; correct float32 artifacts were at 2 at
            most.
        floor: added to that, for generators on which eager happens to be nearly exact.
        levels: grey levels that a pixel may move by.
        mean_levels: grey levels that pixels may be off by on average.
    """

    factor: float = 4.0
    floor: float = 1e-6
    levels: int = 1
    mean_levels: float = 0.01

    def limit(self, eager_max_error: float) -> float:
        """Of the largest error, where eager float32's own is this."""
        return self.factor * eager_max_error + self.floor


TOLERANCES = {"fp32": Tolerance()}
