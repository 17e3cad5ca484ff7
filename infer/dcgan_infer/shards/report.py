"""What is said of shards once they are made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..request import Request
    from .make import Made


def report(request: Request, out: str, made: Made, seconds: float, as_json: bool) -> str:
    """The last words of a command that made shards: JSON, or a line of what was made and one of what is there.

    Args:
        request: that was made.
        out: where to, as it was said.
        made: what `make_shards` gives.
        seconds: that it took.
        as_json: for a machine to read.
    """
    plan, generator = made.plan, made.generator
    if as_json:
        return json.dumps(
            {
                "out": out,
                **plan.facts(),
                "shards": len(plan),
                "made": made.made,
                "found": made.mine - made.made,
                "missing": made.missing,
                "images": made.images,
                "sha256": made.sha256,
                "bytes": made.size,
                "provider": generator.model.provider,
                "provider_note": generator.model.note,
                "threads": generator.threads,
                "batch_size": generator.batch(request.batch_size),
                "seconds": round(seconds, 4),
                "images_per_second": round(made.images / seconds, 1),
            }
        )
    there = made.mine - made.made
    were = "was there" if there == 1 else "were there"
    found = f", {there:,} {were}" if there else ""
    indices = f"{plan.start} to {plan.start + plan.n - 1}"
    line = (
        f"{out}: {made.images:,} images in {_shards(made.made)} of {plan.format}{found} (seed {plan.seed}, {indices}) "
        f"by {plan.model} on {generator.model.provider}; {seconds:.2f} s, {made.images / seconds:,.0f} images/s"
    )
    if not made.made:
        line = f"{out}: nothing was to be made" + (f", {_shards(there)} of {plan.format} {were}" if there else "")
    if made.missing:
        return f"{line}\nof {_shards(len(plan))} {made.missing:,} are missing yet; the manifest comes with the last"
    return f"{line}\nall is there: {_shards(len(plan))}, {made.size:,} bytes, sha256 of the set {made.sha256}"


def _shards(count: int) -> str:
    return f"{count:,} shard{'s' * (count != 1)}"
