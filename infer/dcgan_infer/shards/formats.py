"""One shard in one file: Parquet as Hugging Face's datasets read it, a tar as WebDataset reads it, or .npy.

Each holds for every image its index and, of a conditional model, its label; Parquet the class's name too. The files are
the same bytes whenever they are written by the same versions: no clock, no user, no host.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..extras import require
from ..writers import encoded_png
from .plan import Shard, ShardPlan

FACTS = "dcgan.shard"  # key of what a shard says of itself
EXTRA = "shards"  # that installs pyarrow and fsspec


class Chunk(NamedTuple):
    """Images in a row.

    Attributes:
        first: index of the first one.
        images: uint8, shape (K, height, width) or (K, height, width, channels), or float32, shape (K, channels, height,
            width).
        labels: int64, shape (K,); None of an unconditional model.
    """

    first: int
    images: npt.NDArray[Any]
    labels: npt.NDArray[np.int64] | None


class Format(NamedTuple):
    """How a shard is written.

    Attributes:
        packages: that it needs, and its bytes depend on.
        write: the shard's images to a file.
    """

    packages: tuple[str, ...]
    write: Callable[[IO[bytes], Iterable[Chunk], ShardPlan, Shard], None]


def record_dtype(plan: ShardPlan) -> np.dtype[Any]:
    """Of a .npy shard: an index, perhaps a label, and an image."""
    label = [("label", "<i8")] if plan.class_names else []
    image = "<f4" if plan.dtype == "float32" else "|u1"
    return np.dtype([("index", "<i8"), *label, ("image", image, plan.image_shape)])


def npy_header(plan: ShardPlan, shard: Shard) -> bytes:
    """How a .npy shard begins."""
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(record_dtype(plan))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (shard.count,)})
    return file.getvalue()


def _write_npy(file: IO[bytes], chunks: Iterable[Chunk], plan: ShardPlan, shard: Shard) -> None:
    dtype = record_dtype(plan)
    file.write(npy_header(plan, shard))
    for chunk in chunks:
        records = np.empty(len(chunk.images), dtype)
        records["index"] = np.arange(chunk.first, chunk.first + len(records))
        if chunk.labels is not None:
            records["label"] = chunk.labels
        records["image"] = chunk.images
        file.write(records.tobytes())


def _write_webdataset(file: IO[bytes], chunks: Iterable[Chunk], plan: ShardPlan, shard: Shard) -> None:
    """A sample is the files of one name (https://github.com/webdataset/webdataset): 0000000123.png, 0000000123.cls."""
    facts = json.dumps(plan.facts_of(shard))  # ASCII, in a record of the whole archive's that readers of files skip

    def add(name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)  # of the year 1970, and nobody's
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))

    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={FACTS: facts}) as archive:
        for chunk in chunks:
            for i, image in enumerate(chunk.images):
                key = f"{chunk.first + i:010d}"
                if chunk.labels is not None:
                    add(f"{key}.cls", b"%d" % chunk.labels[i])
                add(f"{key}.png", encoded_png(image))
            archive.members.clear()  # type: ignore[attr-defined]  # else it keeps them all


def _write_parquet(file: IO[bytes], chunks: Iterable[Chunk], plan: ShardPlan, shard: Shard) -> None:
    arrow, parquet = require("pyarrow", EXTRA), require("pyarrow.parquet", EXTRA)
    schema = _schema(arrow, plan, shard)
    raw = plan.encoding == "raw"
    names = arrow.array(plan.class_names, arrow.string())
    writer = parquet.ParquetWriter(
        file,
        schema,
        compression="zstd" if raw else "none",  # a PNG is compressed already
        use_dictionary=["class"] if plan.class_names else False,
        write_statistics=["index", "label"],
        write_page_checksum=True,
    )
    with writer:
        for chunk in chunks:
            indices = np.arange(chunk.first, chunk.first + len(chunk.images))
            columns = {"index": arrow.array(indices), "image": _image_column(arrow, chunk, indices, raw)}
            if chunk.labels is not None:
                codes = arrow.array(chunk.labels.astype(np.int32))
                columns |= {
                    "label": arrow.array(chunk.labels),
                    "class": arrow.DictionaryArray.from_arrays(codes, names),
                }
            writer.write_batch(arrow.record_batch(columns, schema=schema), row_group_size=plan.rows)


def _schema(arrow: Any, plan: ShardPlan, shard: Shard) -> Any:
    """Columns, what the shard says of itself, and what Hugging Face's datasets take the columns for."""
    raw = plan.encoding == "raw"
    fields = [("index", arrow.int64())]
    fields.append(
        ("image", arrow.binary() if raw else arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())]))
    )
    features: dict[str, Any] = {
        "index": {"dtype": "int64", "_type": "Value"},
        "image": {"dtype": "binary", "_type": "Value"} if raw else {"_type": "Image"},
    }
    if plan.class_names:
        fields += [("label", arrow.int64()), ("class", arrow.dictionary(arrow.int32(), arrow.string()))]
        features["label"] = {"names": list(plan.class_names), "_type": "ClassLabel"}
        features["class"] = {"dtype": "string", "_type": "Value"}
    metadata = {
        FACTS: json.dumps(plan.facts_of(shard)),
        "huggingface": json.dumps({"info": {"features": features}}),
    }
    return arrow.schema(fields, metadata=metadata)


def _image_column(arrow: Any, chunk: Chunk, indices: npt.NDArray[np.int64], raw: bool) -> Any:
    count = len(chunk.images)
    if not raw:
        pictures = arrow.array([encoded_png(image) for image in chunk.images], arrow.binary())
        paths = arrow.array([f"{index:010d}.png" for index in indices], arrow.string())
        return arrow.StructArray.from_arrays([pictures, paths], names=["bytes", "path"])
    size = chunk.images[0].nbytes
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(size)
    pixels = np.ascontiguousarray(chunk.images)
    return arrow.Array.from_buffers(arrow.binary(), count, [None, arrow.py_buffer(offsets), arrow.py_buffer(pixels)])


FORMATS = {
    "parquet": Format(("pyarrow",), _write_parquet),
    "webdataset": Format((), _write_webdataset),
    "npy": Format((), _write_npy),
}
