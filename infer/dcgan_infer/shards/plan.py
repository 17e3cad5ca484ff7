"""What a set of shards holds: what its bytes depend on but for the processor, and nothing of who makes them.

Image i depends on the seed and on i alone (docs/contracts.md), so a shard can be made by whoever has time, and again.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..contract.errors import OutputError, first_line
from ..contract.spec import INDICES
from ..request import MOST_SHARDS, SHARDED

SCHEMA = 1  # of plans, receipts and manifests
MANIFEST = "manifest.json"
HIDDEN = ".shards"  # the folder of the plan and the receipts
PLAN = f"{HIDDEN}/plan.json"

_DIGITS = 5  # at least, of a shard's number
_WORDS = {"asked": "choice of classes", "schema": "version of this format", "model_sha256": "model of that name"}
_MOST_ROWS = 1024
_MOST_BYTES = 64 << 20  # of a chunk's pixels


@dataclass(frozen=True)
class Shard:
    """One of a set.

    Attributes:
        number: from 0 on.
        name: of its file.
        first: index of its first image.
        count: of its images.
    """

    number: int
    name: str
    first: int
    count: int

    @property
    def receipt(self) -> str:
        """Name of the file that says that it is whole."""
        return f"{HIDDEN}/{self.name}.json"


@dataclass(frozen=True)
class ShardPlan:
    """A set of shards.

    Attributes:
        format: `parquet`, `webdataset` or `npy`.
        encoding: of the images, `png` or `raw`: their pixels, row by row.
        dtype: of raw images, `uint8` or `float32`.
        image_shape: (height, width) or (height, width, channels); of float32 (channels, height, width).
        seed: of latents and labels.
        start: index of the first image.
        n: number of images.
        shard_size: images in each shard, but for the last.
        truncation: factor on the latents.
        asked: labels that the images have in turn; none: the seed draws them.
        class_names: of a conditional model; empty for others.
        model: its name.
        model_sha256: of its file.
        provider: that runs the model, such as `cpu`.
        software: versions of what the bytes depend on, by name.
    """

    format: str
    encoding: str
    dtype: str
    image_shape: tuple[int, ...]
    seed: int
    start: int
    n: int
    shard_size: int
    truncation: float
    asked: tuple[int, ...]
    class_names: tuple[str, ...]
    model: str
    model_sha256: str
    provider: str
    software: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        """Number of shards."""
        return -(-self.n // self.shard_size)

    def shard(self, number: int) -> Shard:
        """One of them, 0 <= number < len(self)."""
        width = max(_DIGITS, len(str(len(self))))
        name = f"images-{number:0{width}d}-of-{len(self):0{width}d}.{SHARDED[self.format].suffix}"
        first = number * self.shard_size
        return Shard(number, name, self.start + first, min(self.shard_size, self.n - first))

    @property
    def rows(self) -> int:
        """Images that are handed on, written and read at a time; in Parquet they are a row group."""
        size = math.prod(self.image_shape) * (4 if self.dtype == "float32" else 1)
        return max(1, min(_MOST_ROWS, _MOST_BYTES // size))

    def facts(self) -> dict[str, Any]:
        """The plan as JSON has it."""
        return {"schema": SCHEMA, **asdict(self), "software": dict(self.software)}

    @classmethod
    def of(cls, facts: dict[str, Any], where: str) -> ShardPlan:
        """The plan that a manifest begins with.

        Raises:
            OutputError: it is of another version, or makes no sense.
        """
        if facts.get("schema") != SCHEMA:
            raise OutputError(f"{where} has schema {_short(facts.get('schema'))}, and this version reads {SCHEMA}")
        try:
            plan = cls(**{field.name: _frozen(facts[field.name]) for field in fields(cls)})
            positive = (plan.n, plan.shard_size, *plan.image_shape)
            if not all(type(each) is int and 0 < each <= INDICES for each in positive):
                raise ValueError("numbers")
            if len(plan) > MOST_SHARDS or len(plan.image_shape) not in (2, 3):
                raise ValueError("numbers")
            if type(plan.start) is not int or not 0 <= plan.start <= INDICES - plan.n:
                raise ValueError("start")
            if plan.encoding not in SHARDED[plan.format].encodings or plan.dtype not in ("uint8", "float32"):
                raise ValueError("encoding")
            if not all(type(name) is str for name in plan.class_names):
                raise ValueError("class names")
        except (KeyError, TypeError, ValueError) as error:
            raise OutputError(f"{where} makes no sense ({first_line(error)}); make the set again") from error
        return plan

    def facts_of(self, shard: Shard) -> dict[str, Any]:
        """What a shard says of itself."""
        return {**self.facts(), "shard": shard.number, "shards": len(self), "first": shard.first, "count": shard.count}

    def refuse_other(self, found: bytes, where: str) -> None:
        """Refuse a place that was begun by another plan.

        Args:
            found: a plan as JSON.
            where: it was found, for the message.
        Raises:
            OutputError: it is another, or none at all.
        """
        other, mine = parse(found, where), json.loads(as_bytes(self.facts()))
        first = ("schema", "model", "model_sha256")  # which explain most of the others
        for name in sorted(mine, key=lambda name: name not in first):
            value = mine[name]
            theirs = other.get(name)
            if theirs == value:
                continue
            if name == "software" and isinstance(theirs, dict):
                name = next(each for each in {**value, **theirs} if theirs.get(each) != value.get(each))
                theirs, value = theirs.get(name), value.get(name)
            what = _WORDS.get(name, name.replace("_", " "))
            raise OutputError(
                f"{where} was begun with another {what}: {_short(theirs)}, and this is {_short(value)}; ask for the "
                "same, or choose another --out"
            )


def _frozen(value: Any) -> Any:
    """As a plan has it: JSON's lists are tuples there, and objects pairs."""
    return tuple(value.items() if isinstance(value, dict) else value) if isinstance(value, (dict, list)) else value


def as_bytes(facts: dict[str, Any]) -> bytes:
    """JSON, the same bytes for the same facts."""
    return (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode()


def parse(content: bytes, where: str) -> dict[str, Any]:
    """A JSON object of ours.

    Raises:
        OutputError: it is none.
    """
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{where} is no JSON file, or a damaged one; remove it, and make the set again") from error
    if not isinstance(facts, dict):
        raise OutputError(f"{where} holds no object; remove it, and make the set again")
    return facts


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
