"""Reading shards back: a data set as torchvision's are, for any DataLoader; needs no torch."""

from __future__ import annotations

import io
import operator
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..contract.errors import OutputError, RuntimeMissingError
from ..extras import require
from .formats import EXTRA, npy_header, record_dtype
from .make import read_manifest
from .plan import Shard, ShardPlan
from .stores import open_store

_KEPT = 8  # chunks: who goes through them in order needs one, and a shuffled reader profits from more


class _Part(NamedTuple):
    """Images in a row, as the shard holds them: PNGs, or arrays."""

    images: list[bytes] | npt.NDArray[Any]
    labels: npt.NDArray[np.int64] | None


class ShardedImages:
    """The images of a finished set of shards, in order.

        from dcgan_infer.shards.images import ShardedImages
        picture, label = ShardedImages("digits")[7]

    Any DataLoader of torch takes it; docs/scale.md has the line. An item is (picture, label), the picture a PIL
    image: what torchvision.datasets.MNIST gives. Of float images and of
    those with another number of channels than 1 or 3 it is the array; of an unconditional model the label is -1.
    1,024 images are read at a time, and eight times as many kept, so going through in order is fast, and jumping about
    is not: shuffle within `batches`. Whether a shard's bytes are those of the manifest is not looked at: who makes the
    set again by the same command learns it.

    Attributes:
        plan: what the set holds.
        classes: names of the classes, none for an unconditional model.
        class_to_idx: their numbers.
    """

    def __init__(
        self,
        place: str,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
    ) -> None:
        """
        Args:
            place: folder or URL of the shards.
            transform: of pictures.
            target_transform: of labels.
        Raises:
            OutputError: there is no manifest, or one that makes no sense.
        """
        self.place = str(place)
        self.plan: ShardPlan = read_manifest(open_store(self.place), self.place)
        self.classes = list(self.plan.class_names)
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        self.transform = transform
        self.target_transform = target_transform
        self._forget()

    def _forget(self) -> None:
        self._parts: OrderedDict[tuple[int, int], _Part] = OrderedDict()
        self._members: dict[int, npt.NDArray[np.int64]] = {}  # where they are, of a tar

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read: a DataLoader's workers read for themselves."""
        return {name: value for name, value in vars(self).items() if name not in ("_parts", "_members")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        return self.plan.n

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """One image and its label.

        Raises:
            IndexError: there are not so many.
            OutputError: the shard is missing or damaged.
        """
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self):,} images, asked for number {index:,}")
        index %= len(self)
        number, row = divmod(index, self.plan.shard_size)
        chunk, row = divmod(row, self.plan.rows)
        part = self._part(number, chunk)
        image = self._picture(part.images[row], number)
        label = -1 if part.labels is None else int(part.labels[row])
        return (
            self.transform(image) if self.transform else image,
            self.target_transform(label) if self.target_transform else label,
        )

    def batches(self) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.int64]]]:
        """All images in order, without transforms, up to 1,024 at a time (fewer, where these are over 64 MB).

        Yields:
            images, uint8 of shape (K, H, W) or (K, H, W, C), or float32 of shape (K, C, H, W); and labels, int64 of
            shape (K,), -1 each of an unconditional model.
        """
        for number in range(len(self.plan)):
            for chunk in range(-(-self.plan.shard(number).count // self.plan.rows)):
                part = self._part(number, chunk)
                images = part.images
                if not isinstance(images, np.ndarray):
                    images = np.stack([np.asarray(self._picture(image, number)) for image in images])
                labels = np.full(len(images), -1) if part.labels is None else part.labels
                yield np.array(images), np.array(labels)  # and not those that are kept

    def _picture(self, image: Any, number: int) -> Any:
        """An image of a shard: a PIL image where it is a picture."""
        from PIL import Image

        if isinstance(image, bytes):
            try:
                picture = Image.open(io.BytesIO(image), formats=["PNG"])
                wanted = ("L" if len(self.plan.image_shape) == 2 else "RGB", self.plan.image_shape[1::-1])
                if (picture.mode, picture.size) != wanted:
                    raise ValueError(f"a picture of {picture.mode}, {picture.size}")
                picture.load()
            except Exception as error:  # what Pillow raises depends on where it stumbles
                raise self._damaged(number) from error
            return picture
        if self.plan.dtype == "float32" or (image.ndim == 3 and image.shape[2] != 3):
            return image
        return Image.fromarray(np.ascontiguousarray(image))

    def _part(self, number: int, chunk: int) -> _Part:
        key = (number, chunk)
        if key in self._parts:
            self._parts.move_to_end(key)
            return self._parts[key]
        shard = self.plan.shard(number)
        rows = self.plan.rows
        count = min(rows, shard.count - chunk * rows)
        try:
            with open_store(self.place).opened(shard.name) as file:
                if self.plan.format == "webdataset":
                    if number not in self._members:
                        self._members = {number: _members(file)}
                    part = _of_tar(file, self._members[number][chunk * rows :][:count])
                elif self.plan.format == "parquet":
                    part = _of_parquet(file, self.plan, chunk)
                else:
                    part = _of_npy(file, self.plan, shard, chunk)
            if len(part.images) != count:
                raise ValueError(f"{len(part.images)} images instead of {count}")
        except (RuntimeMissingError, OutputError, PermissionError, MemoryError):
            raise
        except Exception as error:  # likewise of pyarrow and tarfile
            raise self._damaged(number) from error
        self._parts[key] = part
        if len(self._parts) > _KEPT:
            self._parts.popitem(last=False)
        return part

    def _damaged(self, number: int) -> OutputError:
        name = self.plan.shard(number).name
        return OutputError(
            f"{self.place}/{name} is missing or damaged; dcgan-infer with the same options makes it again"
        )


def _of_parquet(file: IO[bytes], plan: ShardPlan, chunk: int) -> _Part:
    table = require("pyarrow.parquet", EXTRA).ParquetFile(file, page_checksum_verification=True).read_row_group(chunk)
    labels = table.column("label").to_numpy() if plan.class_names else None
    column = table.column("image").combine_chunks()
    if plan.encoding == "png":
        return _Part(column.field("bytes").to_pylist(), labels)
    pixels = np.frombuffer(b"".join(column.to_pylist()), np.uint8)
    return _Part(pixels.reshape(-1, *plan.image_shape), labels)


def _of_npy(file: IO[bytes], plan: ShardPlan, shard: Shard, chunk: int) -> _Part:
    dtype, header = record_dtype(plan), npy_header(plan, shard)
    if file.read(len(header)) != header:
        raise ValueError("another header")
    file.seek(chunk * plan.rows * dtype.itemsize, io.SEEK_CUR)
    records = np.frombuffer(file.read(plan.rows * dtype.itemsize), dtype)
    return _Part(records["image"], records["label"] if plan.class_names else None)


def _members(file: IO[bytes]) -> npt.NDArray[np.int64]:
    """Of each sample of a tar: where its label begins, or -1; where its picture begins, and ends. Shape (N, 3)."""
    found, label = [], -1
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # else it keeps them all
            if member.name.endswith(".cls"):
                label = member.offset_data
            else:
                found.append((label, member.offset_data, member.offset_data + member.size))
    return np.array(found, np.int64).reshape(-1, 3)


def _of_tar(file: IO[bytes], members: npt.NDArray[np.int64]) -> _Part:
    if not len(members):
        return _Part([], None)
    start = int(members[0, 0] if members[0, 0] >= 0 else members[0, 1])
    file.seek(start)
    content = file.read(int(members[-1, 2]) - start)
    pictures = [content[first - start : last - start] for _, first, last in members]
    if members[0, 0] < 0:
        return _Part(pictures, None)
    texts = (content[first - start : first - start + tarfile.BLOCKSIZE] for first, _, _ in members)
    return _Part(pictures, np.array([int(text.partition(b"\0")[0]) for text in texts], np.int64))
