"""Making the shards that are missing, and the manifest once all are there.

    PLACE/images-00000-of-00020.parquet    a shard
    PLACE/manifest.json                    the plan, and each shard's size and sha256; written last
    PLACE/.shards/plan.json                what was asked for; written first, so that no other set mixes with this one
    PLACE/.shards/NAME.json                a receipt: written after its shard, with its size and sha256

A shard with a receipt that fits is whole, and is not made again. So whoever was killed goes on where it was, and
several that share a place need not know of each other: what two make at once is the same bytes, on processors of one
kind.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from .. import __version__
from ..contract.errors import LatentError, ModelError, OutputError
from ..contract.files import sha256_of
from ..contract.spec import DRAWN
from ..extras import require
from ..generator import ImageGenerator
from ..model import MOST_OF_A_SEED
from ..request import SHARDED, Request
from .formats import EXTRA, FORMATS, Chunk
from .plan import HIDDEN, MANIFEST, PLAN, Shard, ShardPlan, as_bytes, parse
from .stores import Store, open_store

_T = TypeVar("_T")
_PIECE = 1 << 20  # bytes of a shard that are digested at a time

OnImages = Callable[[int], None]


class Made(NamedTuple):
    """What came of a request.

    Attributes:
        plan: of the set.
        mine: number of shards that were asked for: all, or a part.
        made: of them, in this run; the others were there.
        images: made in this run.
        missing: shards that the set still lacks.
        sha256: of the set: of the lines that sha256sum writes of all shards; None while some are missing.
        size: of all shards, in bytes; None while some are missing.
        generator: that the plan was made by.
    """

    plan: ShardPlan
    mine: int
    made: int
    images: int
    missing: int
    sha256: str | None
    size: int | None
    generator: ImageGenerator


@dataclass(frozen=True)
class Maker:
    """Makes shards of a plan; may be sent to another process or machine.

    Attributes:
        plan: of all shards.
        place: where they go.
        generator: that makes the images.
        batch_size: images at a time.
    """

    plan: ShardPlan
    place: str
    generator: ImageGenerator
    batch_size: int

    def make(self, numbers: Iterable[int], on_images: OnImages = lambda _: None) -> Iterator[dict[str, Any]]:
        """Make shards, one after the other, and give their receipts.

        While a chunk is written, another thread makes the next one.
        """
        store = open_store(self.place)
        parts = _ahead((shard, chunk) for shard in map(self.plan.shard, numbers) for chunk in self._chunks(shard))
        for shard, group in itertools.groupby(parts, key=lambda part: part[0]):
            yield self._write(store, shard, (_counted(chunk, on_images) for _, chunk in group))

    def _write(self, store: Store, shard: Shard, chunks: Iterator[Chunk]) -> dict[str, Any]:
        with store.replacing(shard.name) as path:
            with path.open("wb") as file:
                FORMATS[self.plan.format].write(file, chunks, self.plan, shard)
            receipt = {**self.plan.facts_of(shard), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        _put(store, shard.receipt, receipt)
        return receipt

    def _chunks(self, shard: Shard) -> Iterator[Chunk]:
        """The images of a shard; batches begin with it, so that they do not depend on who makes it."""
        generator, plan = self.generator, self.plan
        asked = np.array(plan.asked, np.int64)
        if generator.model.takes_seed:
            values = generator.run_seed(shard.count, plan.seed, shard.first, asked, self.batch_size)
        else:
            blocks = generator.blocks(
                shard.count,
                seed=plan.seed,
                start=shard.first,
                asked=asked,
                truncation=plan.truncation,
                batch_size=self.batch_size,
            )
            values = generator.run(blocks, self.batch_size)
        first = shard.first
        images = values if plan.dtype == "float32" else map(generator.pictures, values)
        for together in _gathered(images, plan.rows):
            labels = generator.in_turn(asked, plan.seed, first, len(together)) if plan.class_names else None
            yield Chunk(first, together, labels)
            first += len(together)


def _gathered(batches: Iterator[npt.NDArray[Any]], rows: int) -> Iterator[npt.NDArray[Any]]:
    """Batches joined and parted to chunks of `rows` images, but for the last."""
    held: list[npt.NDArray[Any]] = []
    for batch in batches:
        held.append(batch)
        while sum(map(len, held)) >= rows:
            together = np.concatenate(held)
            yield together[:rows]
            held = [together[rows:]] if len(together) > rows else []
    if held:
        yield np.concatenate(held)


def _counted(chunk: Chunk, on_images: OnImages) -> Chunk:
    on_images(len(chunk.images))
    return chunk


def _ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items; another thread makes the next one meanwhile."""
    end: Any = object()
    with ThreadPoolExecutor(1, "images") as pool:
        future = pool.submit(next, items, end)
        while (item := future.result()) is not end:
            future = pool.submit(next, items, end)
            yield item


def plan_of(request: Request, generator: ImageGenerator) -> ShardPlan:
    """What a request asks for.

    Raises:
        OutputError: these images can't be had in that format.
        ModelError: floats are asked of a model that gives pictures.
        LatentError: the model has no such class, or takes a seed and can't make so many.
    """
    sharding = request.sharding
    assert sharding is not None
    spec = generator.spec
    encoding = sharding.encoding or SHARDED[sharding.format].encodings[0]
    if encoding == "png" and spec.image_shape[0] not in DRAWN:
        raise OutputError(
            f"pictures are grey or have 3 channels, and this model's have {spec.image_shape[0]}; write npy, or parquet "
            "with --encoding raw"
        )
    if request.dtype == "float" and generator.model.gives_uint8:
        raise ModelError(f"model {generator.name} gives uint8, no floats; leave --dtype float out")
    generator.refuse_for_seed("--truncation", request.truncation is not None)
    if generator.model.takes_seed and request.start + request.n > MOST_OF_A_SEED:
        raise LatentError(
            f"model {generator.name} makes all images of a seed up to the last in one call, {MOST_OF_A_SEED:,} at "
            "most; take a model that takes z (dcgan-export --inputs z)"
        )
    asked = generator.asked(classes=request.classes or None, digits=request.digits or None)
    return ShardPlan(
        format=sharding.format,
        encoding=encoding,
        dtype="float32" if request.dtype == "float" else "uint8",
        image_shape=tuple(spec.image_shape if request.dtype == "float" else spec.picture_shape),
        seed=request.drawn_from,
        start=request.start,
        n=request.n,
        shard_size=sharding.size,
        truncation=1.0 if request.truncation is None else request.truncation,
        asked=tuple(asked.tolist()),
        class_names=tuple(spec.labels),
        model=generator.name,
        model_sha256=generator.model.sha256,
        provider=generator.model.provider,
        software=software_of(sharding.format, encoding, generator),
    )


def software_of(name: str, encoding: str, generator: ImageGenerator) -> tuple[tuple[str, str], ...]:
    """Versions here of what the bytes depend on, by name."""
    for package in FORMATS[name].packages:
        require(package, EXTRA)
    packages = ("numpy", *FORMATS[name].packages, *(("pillow",) if encoding == "png" else ()))
    return (
        ("dcgan-toolkit", __version__),
        ("onnxruntime", generator.runtime_version),
        *((package, importlib.metadata.version(package)) for package in packages),
    )


def make_shards(request: Request, on_images: OnImages = lambda _: None) -> Made:
    """Make what is missing of a set of shards, or of a part of it.

    Args:
        request: with `sharding`.
        on_images: told how many images were made or found, as it goes.
    Raises:
        ValueError: the request contradicts itself.
        ModelError, LatentError, DeviceError, RuntimeMissingError, OutputError
    """
    sharding = request.sharding
    contradiction = request.contradiction()
    if sharding is None or contradiction:
        raise ValueError(contradiction or "a request for shards says how, in `sharding`")
    place = str(request.target)
    # On a cluster, each actor has so many threads.
    threads = (request.threads or 1) if sharding.engine == "ray" else request.threads
    generator = ImageGenerator(request.model, provider=request.provider, threads=threads)
    plan = plan_of(request, generator)
    store = open_store(place)
    _claim(store, plan, place)
    mine = range(sharding.part, len(plan), sharding.parts)

    def todo() -> Iterator[int]:
        """Looked for one by one, as others may make some meanwhile."""
        for number in mine:
            shard = plan.shard(number)
            if _is_whole(store, plan, shard):
                on_images(shard.count)
            else:
                yield number

    maker = Maker(plan, place, generator, generator.batch(request.batch_size))
    if sharding.engine == "ray":
        from .ray_engine import made_by_ray

        receipts = made_by_ray(maker, list(todo()), sharding.address, on_images)
    else:
        receipts = maker.make(todo(), on_images)
    counts = [receipt["count"] for receipt in receipts]
    missing, manifest = _finish(store, plan, place)
    sha256, size = (manifest["sha256"], manifest["bytes"]) if manifest else (None, None)
    return Made(plan, len(mine), len(counts), sum(counts), missing, sha256, size, generator)


def read_manifest(store: Store, place: str) -> ShardPlan:
    """What a finished set holds.

    Raises:
        OutputError: it is not finished, or its manifest makes no sense.
    """
    store.reach()
    content = _read(store, MANIFEST)
    if content is None:
        raise OutputError(
            f"{place} has no {MANIFEST}, so it is no finished set of shards; dcgan-infer --format with the same "
            "options finishes one"
        )
    return ShardPlan.of(parse(content, f"{place}/{MANIFEST}"), f"{place}/{MANIFEST}")


def _claim(store: Store, plan: ShardPlan, place: str) -> None:
    """Say what this place is for, or find it said."""
    store.reach()
    for name in (PLAN, MANIFEST):  # the second says it too, where somebody has cleared the hidden folder
        found = _read(store, name)
        if found is not None:
            plan.refuse_other(found, f"{place}/{name}")
            break
    if found is not None and name == PLAN:
        return
    mine = {plan.shard(number).name for number in range(len(plan))}
    if found is None and (taken := sorted(mine & store.sizes("").keys())):
        raise OutputError(
            f"{place} holds {taken[0]}, and nothing there says whose it is; remove it, or choose another --out"
        )
    if found is None and store.is_foreign():
        raise OutputError(f"{place} holds other files; shards have a folder of their own, so choose another --out")
    _put(store, PLAN, plan.facts())
    plan.refuse_other(_read(store, PLAN) or b"", f"{place}/{PLAN}")  # another may have begun at the same moment


def _is_whole(store: Store, plan: ShardPlan, shard: Shard) -> bool:
    """Whether a shard is there, to the byte as its receipt says."""
    receipt = _receipt(store, plan, shard)
    return receipt is not None and (receipt["bytes"], receipt["sha256"]) == _measured(store, shard.name)


def _receipt(store: Store, plan: ShardPlan, shard: Shard) -> dict[str, Any] | None:
    """What a receipt says; None where there is none, or one that this plan would not write."""
    content = _read(store, shard.receipt)
    if content is None:
        return None
    try:
        found = parse(content, shard.receipt)
        receipt = {**plan.facts_of(shard), "bytes": found["bytes"], "sha256": found["sha256"]}
    except (OutputError, KeyError):
        return None
    if type(receipt["bytes"]) is not int or type(receipt["sha256"]) is not str:
        return None
    return receipt if as_bytes(receipt) == content else None


def _measured(store: Store, name: str) -> tuple[int, str] | None:
    """Size and sha256 of a file; None where there is none."""
    digest, size = hashlib.sha256(), 0
    try:
        with store.opened(name) as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                size += len(piece)
    except FileNotFoundError:
        return None
    return size, digest.hexdigest()


def _finish(store: Store, plan: ShardPlan, place: str) -> tuple[int, dict[str, Any] | None]:
    """Write the manifest if all shards are there, of the sizes in their receipts; else how many are not."""
    shards = [plan.shard(number) for number in range(len(plan))]
    receipts, sizes = store.sizes(HIDDEN), store.sizes("")
    missing = sum(shard.receipt.rpartition("/")[2] not in receipts or shard.name not in sizes for shard in shards)
    if missing:  # most of the time, of one of many jobs: it need not read thousands of receipts
        return missing, None
    rows = []
    for shard in shards:
        receipt = _receipt(store, plan, shard)
        if receipt is not None and receipt["bytes"] == sizes[shard.name]:
            keys = ("first", "count", "bytes", "sha256")
            rows.append({"file": shard.name, **{key: receipt[key] for key in keys}})
    if len(rows) < len(shards):
        return len(shards) - len(rows), None
    plan.refuse_other(_read(store, PLAN) or b"", f"{place}/{PLAN}")
    lines = "".join(f"{row['sha256']}  {row['file']}\n" for row in rows)
    manifest = {
        **plan.facts(),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "bytes": sum(row["bytes"] for row in rows),
        "shards": rows,
    }
    if _read(store, MANIFEST) != as_bytes(manifest):
        _put(store, MANIFEST, manifest)
    return 0, manifest


def _read(store: Store, name: str) -> bytes | None:
    try:
        with store.opened(name) as file:
            return file.read()
    except FileNotFoundError:
        return None


def _put(store: Store, name: str, facts: dict[str, Any]) -> None:
    with store.replacing(name) as path:
        path.write_bytes(as_bytes(facts))
