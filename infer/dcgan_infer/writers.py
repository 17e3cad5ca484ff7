"""Where images go: a grid, an animation, an array, or a folder of single pictures. Whole, or not at all.

Every writer takes images one batch at a time, in order. Arrays and folders need no more memory for a million
images than for sixteen, but for a byte a label; grids and animations are one picture and are limited by what viewers
open.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import math
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .contract.errors import DcganError, OutputError, first_line
from .contract.files import naming, owned, replacing, temporary_folder
from .contract.pixels import tile
from .contract.spec import DRAWN
from .request import ARRAYS, FOLDER, GRIDS

# Opening a larger picture, Pillow warns of a "decompression bomb" (Image.MAX_IMAGE_PIXELS).
MAX_PIXELS = 89_478_485
_FRAME_MS = 50


class Limits(NamedTuple):
    """What a format can store, or what its usual readers open.

    Attributes:
        side: pixels of the longer side.
        text: bytes of the facts, as JSON.
        frames: of an animation.
    """

    side: int
    text: int
    frames: int = 1


LIMITS = {
    # libpng's PNG_USER_WIDTH_MAX, and PNG_USER_CHUNK_MALLOC_MAX: what it opens unless it is told otherwise.
    "png": Limits(1_000_000, 8_000_000),
    # libjpeg's JPEG_MAX_DIMENSION; a comment's length has 16 bits and counts these two bytes.
    "jpeg": Limits(65_500, 65_533),
    # libwebp's WEBP_MAX_DIMENSION. Its chunks have lengths of 32 bits: the bound is that of PNG.
    "webp": Limits(16_383, 8_000_000),
    # GIF89a: sides of 16 bits, comments of any length. Pillow makes one frame of equal ones, whose duration is their
    # sum, and that has 16 bits of hundredths of a second.
    "gif": Limits(65_535, 8_000_000, 65_535 * 10 // _FRAME_MS),
}
_LONGEST_NAME = 200  # bytes, of a folder
_PLACES = 10  # of every index in a file name, so that folders made from several ranges sort together

_Images = Iterator[npt.NDArray[Any]]


@dataclass(frozen=True)
class Plan:
    """What is going to be written.

    Attributes:
        count: number of images.
        image_shape: (channels, height, width) of one image, before scaling.
        first: number that the first file of a folder is named by.
        rows: of the grid.
        columns: of the grid; a .gif has one on each frame.
        cells: of the grid, that the images stand in; None: in all of them, one after the other.
        scale: each pixel becomes a square of this side; not for arrays.
        floats: for arrays: float32 in the model's value range, instead of uint8.
        facts: text that pictures carry, enough to make them again.
        facts_of: the same for image i of a folder.
        labels: of the images of an .npz or a folder, shape (count,), if they have any.
        names: of the classes; pictures in a folder go into one of these names each, which readers of image folders
            take for a label.
    """

    count: int
    image_shape: tuple[int, int, int]
    first: int = 0
    rows: int = 1
    columns: int = 1
    cells: tuple[int, ...] | None = None
    scale: int = 1
    floats: bool = False
    facts: dict[str, str] = field(default_factory=dict)
    facts_of: Callable[[int], dict[str, str]] = lambda _: {}
    labels: npt.NDArray[Any] | None = None
    names: tuple[str, ...] = ()

    @property
    def places(self) -> int:
        """Images on a frame of a .gif."""
        return self.rows * self.columns if self.cells is None else len(self.cells)

    def problem(self, kind: str) -> str | None:
        """Why this can't be written as `kind`, or None. Looked at before any work is done."""
        if kind in GRIDS and self.rows * self.columns < self.count:
            return f"{self.count} images don't fit a grid of {self.rows}x{self.columns}"
        channels, height, width = self.image_shape
        if channels not in DRAWN and kind not in ARRAYS:
            return f"pictures are grey or have 3 channels, and this model's have {channels}; write .npy or .npz"
        if kind in ARRAYS:
            return None
        limits = LIMITS["png" if kind == FOLDER else kind]
        rows, columns = (self.rows, self.columns) if kind in (*GRIDS, "gif") else (1, 1)
        height, width = rows * height * self.scale, columns * width * self.scale
        frames = self.count // self.places if kind == "gif" else 1
        if max(height, width) > limits.side or height * width * frames > MAX_PIXELS or frames > limits.frames:
            of = f"{frames} frames of " if kind == "gif" else ""
            picture, other = kind, "make fewer images, or write a folder of pictures or .npy"
            if kind == FOLDER:
                picture, other = "png", "scale less, or write .npy"
            return f"{of}{width}x{height} pixels are too many for one {picture} picture; {other}"
        text = len(json.dumps(self.facts))
        if text > limits.text:
            return (
                f"what it says of how it was made has {text:,} bytes, and a {kind} takes {limits.text:,}; "
                "name fewer classes, or give them as --labels"
            )
        return None


def save(target: Path | IO[bytes], kind: str, images: _Images, plan: Plan) -> None:
    """Write images.

    Nothing is seen under the target's name before it is complete, and nothing is left behind when `images` raises.

    Args:
        target: a path, or a binary stream.
        kind: one of `request.FILES`, or `FOLDER` for a path.
        images: uint8, shape (K, height, width) or in colour (K, height, width, channels) each; or for arrays float32,
            shape (K, channels, height, width) each; pulled once the target is open.
        plan: what they are.
    Raises:
        OutputError: the target can't be written, or a folder already holds some of these files.
    """
    problem = plan.problem(kind)
    if problem:
        raise OutputError(f"can't write {kind}: {problem}")
    if kind == "npy" and isinstance(target, Path):
        _refuse_without_room(target, plan)
    try:
        if not isinstance(target, Path) and kind == "npy":  # nothing in it is known late, and it may be endless
            _write_npy(target, images, plan)
        elif not isinstance(target, Path):
            with _scratch() as file:
                _WRITERS[kind](file, images, plan)
                file.seek(0)
                shutil.copyfileobj(file, target)
        elif kind == FOLDER:
            _save_folder(target, images, plan)
        else:
            with replacing(target) as temporary, temporary.open("wb") as file:
                _WRITERS[kind](file, images, plan)
    except DcganError:
        raise
    except BrokenPipeError:  # whoever read our stdout has gone; the command ends quietly
        raise
    except OSError as error:
        name = target if isinstance(target, Path) else "stdout"
        raise OutputError(f"can't write {name}: {first_line(error).lower()}") from error


def _refuse_without_room(target: Path, plan: Plan) -> None:
    """An array's size is known before the work."""
    needed = plan.count * math.prod(plan.image_shape) * (4 if plan.floats else 1)
    try:
        free = shutil.disk_usage(target.absolute().parent).free
    except OSError:  # of a folder that is not there, which is said by whoever writes
        return
    if needed > free:
        raise OutputError(
            f"can't write {target}: {plan.count:,} images have {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are "
            "free there; make fewer, or choose another place"
        )


def _scratch() -> IO[bytes]:
    """A file that nobody sees; in memory where there is no folder for one, as in a read-only container."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return io.BytesIO()


def _encode(picture: Any, file: IO[bytes], kind: str, **options: Any) -> None:
    """Let Pillow write a picture; whatever it raises, of one that no limit of ours names, becomes an OutputError."""
    try:
        picture.save(file, kind, **options)
    except (DcganError, BrokenPipeError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # of the system: a full disk
            raise
        raise OutputError(f"can't write {kind}: Pillow says: {first_line(error)}; try another format") from error


def _write_png(file: IO[bytes], images: _Images, plan: Plan) -> None:
    _save_png(file, _sheet(images, plan), plan.facts)


def _write_jpeg(file: IO[bytes], images: _Images, plan: Plan) -> None:
    _encode(_image(_sheet(images, plan)), file, "JPEG", quality=95, comment=json.dumps(plan.facts).encode())


def _write_webp(file: IO[bytes], images: _Images, plan: Plan) -> None:
    picture = _image(_sheet(images, plan))
    exif = picture.getexif()
    exif[0x010E] = json.dumps(plan.facts)  # ImageDescription
    _encode(picture, file, "WEBP", lossless=True, exif=exif)


def _write_gif(file: IO[bytes], images: _Images, plan: Plan) -> None:
    flat = (image for batch in images for image in batch)
    frames = (_image(_sheet(iter([np.stack(frame)]), plan)) for frame in _grouped(flat, plan.places))
    _encode(
        next(frames),
        file,
        "GIF",
        save_all=True,
        append_images=frames,
        duration=_FRAME_MS,
        loop=0,
        comment=json.dumps(plan.facts).encode(),
    )


def _write_npy(file: IO[bytes], images: _Images, plan: Plan) -> None:
    dtype = "<f4" if plan.floats else "|u1"
    channels, *sides = plan.image_shape
    # Of one channel the axis is left out in floats too: (N, H, W).
    one = sides if channels == 1 else [channels, *sides] if plan.floats else [*sides, channels]
    shape = (plan.count, *one)
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    for batch in images:
        file.write(batch.astype(dtype, copy=False).tobytes())


def _write_npz(file: IO[bytes], images: _Images, plan: Plan) -> None:
    from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

    # A ZipInfo made by hand bears the year 1980 and not the hour of writing: the same images give the same bytes.
    with ZipFile(file, "w") as archive:
        others = {"facts.npy": np.array(json.dumps(plan.facts))}
        if plan.labels is not None:
            others["labels.npy"] = plan.labels
        for name in ("images.npy", *others):
            info = ZipInfo(name)
            info.compress_type = ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as member:
                if name == "images.npy":
                    _write_npy(member, images, plan)
                else:
                    np.lib.format.write_array(member, others[name], allow_pickle=False)


_WRITERS: dict[str, Callable[[IO[bytes], _Images, Plan], None]] = {
    "png": _write_png,
    "jpeg": _write_jpeg,
    "webp": _write_webp,
    "gif": _write_gif,
    "npy": _write_npy,
    "npz": _write_npz,
}


def _save_folder(folder: Path, images: _Images, plan: Plan) -> None:
    """Single PNGs, named by index, in a folder for each class if there are any.

    A new folder appears at once; into an existing one the finished files are moved.
    """
    classes = _folder_names(plan.names) if plan.labels is not None else []

    def name(i: int) -> str:
        file = f"{plan.first + i:0{_PLACES}d}.png"
        return file if plan.labels is None else f"{classes[plan.labels[i]]}/{file}"

    exists = folder.is_dir()
    if exists:
        _refuse_taken(folder, plan)
    if folder.exists() and not exists:
        raise OutputError(f"can't write folder {folder}: a file has that name; choose another")
    with temporary_folder(folder if exists else folder.absolute().parent, folder.name or "images") as parent:
        # A folder inside the temporary one: that one is private to its owner, this one has the usual permissions.
        temporary = parent / "images"
        temporary.mkdir()
        there = classes if plan.labels is None else [classes[label] for label in np.unique(plan.labels)]
        for each in there:
            (temporary / each).mkdir()
        flat = (image for batch in images for image in batch)
        for i, image in enumerate(flat):
            with (temporary / name(i)).open("wb") as file:
                _save_png(file, _scaled(image, plan.scale), plan.facts | plan.facts_of(i))
        if not exists:
            try:
                with naming():
                    temporary.rename(folder)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    raise OutputError(f"folder {folder} has come into being meanwhile; choose another") from error
                raise
            return
        with owned(folder, patience=5.0), naming():
            _refuse_taken(folder, plan)  # another one may have been writing here meanwhile
            for each in there:
                (folder / each).mkdir(exist_ok=True)
            try:
                for i in range(plan.count):
                    (temporary / name(i)).rename(folder / name(i))
            except BaseException:  # all of them, or none
                for i in range(plan.count):
                    if (temporary / name(i)).exists():
                        break
                    (folder / name(i)).unlink()
                for each in there:
                    with contextlib.suppress(OSError):  # others' files are in it
                        (folder / each).rmdir()
                raise


def _folder_names(names: Sequence[str]) -> list[str]:
    """Names of folders for classes: theirs, as far as every file system takes them, and no two alike."""
    cleaned = [re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", name).strip(". ") for name in names]
    alike = Counter(name.lower() for name in cleaned)
    return [
        name if name and len(name.encode()) < _LONGEST_NAME and alike[name.lower()] == 1 else f"class-{number}"
        for number, name in enumerate(cleaned)
    ]


def _refuse_taken(folder: Path, plan: Plan) -> None:
    # Judged from what is there: to list all names to come would need memory for each.
    files = itertools.chain(folder.glob("*.png"), folder.glob("*/*.png"))
    found = (path.stem for path in files if path.stem.isdecimal() and path.stem.isascii())
    taken = sorted(stem for stem in found if len(stem) == _PLACES and 0 <= int(stem) - plan.first < plan.count)
    if taken:
        raise OutputError(
            f"folder {folder} already holds {len(taken)} of the files to be written, {taken[0]}.png first; "
            "remove them, or choose another folder"
        )


def _grouped(images: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """So many at a time."""
    rest = iter(images)
    while group := list(itertools.islice(rest, size)):
        yield group


def _sheet(images: _Images, plan: Plan) -> npt.NDArray[np.uint8]:
    """All images on one sheet, scaled."""
    return _scaled(tile(np.concatenate(list(images)), plan.rows, plan.columns, plan.cells), plan.scale)


def _scaled(image: npt.NDArray[np.uint8], scale: int) -> npt.NDArray[np.uint8]:
    return image if scale == 1 else image.repeat(scale, axis=0).repeat(scale, axis=1)


def _save_png(file: IO[bytes], image: npt.NDArray[np.uint8], facts: dict[str, str]) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in facts.items():
        info.add_text(key, value)
    _encode(_image(image), file, "PNG", pnginfo=info)


def encoded_png(image: npt.NDArray[np.uint8], facts: dict[str, str] | None = None) -> bytes:
    """A picture, uint8 of shape (H, W) or (H, W, 3), as the bytes of a PNG."""
    file = io.BytesIO()
    _save_png(file, image, facts or {})
    return file.getvalue()


def _image(pixels: npt.NDArray[np.uint8]) -> Any:
    from PIL import Image  # some milliseconds that arrays need not pay

    return Image.fromarray(pixels)
