"""What can be asked of dcgan-infer, and which wishes contradict each other.

Standard library only, so that --help and a usage error wait for nothing.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from . import shipped
from .contract.spec import INDICES

if TYPE_CHECKING:
    from .inputs import Rows

# One of 400 whose first 16 images are all clear digits, of both shipped models. Quality is not measured on it.
DEFAULT_SEED = 7
WALK_STEPS = 16  # of a .gif that doesn't say

GRIDS = ("png", "jpeg", "webp")
ARRAYS = ("npy", "npz")
FILES = (*GRIDS, "gif", *ARRAYS)
FOLDER = "folder"
SHARDS = "shards"  # a folder, or a URL, of files in one of these formats


class ShardForm(NamedTuple):
    """What a shard of a format holds.

    Attributes:
        suffix: of its file.
        encodings: of its images, the default first.
        dtypes: that these may have.
    """

    suffix: str
    encodings: tuple[str, ...]
    dtypes: tuple[str, ...] = ("uint8",)


SHARDED = {
    "parquet": ShardForm("parquet", ("png", "raw")),
    "webdataset": ShardForm("tar", ("png",)),
    "npy": ShardForm("npy", ("raw",), ("uint8", "float")),
}
ENCODINGS = ("png", "raw")
ENGINES = ("local", "ray")
MOST_SHARDS = 1_000_000
SHARD_SIZE = 50_000  # 40 MB of MNIST's pixels, 600 MB at 64x64 in colour
# Pixels that a picture is enlarged to where nobody says how large: the root of its area, and its longer side at most.
SEEN, LONGEST = 500, 1500
MOST_LETTERS = 1000
MOST_SCALE = 64
MOST_PIXELS = 40_000_000  # of all frames, where nobody says how large: half of what a .gif may have
SUFFIXES = {".jpg": "jpeg"} | {f".{kind}": kind for kind in FILES}


_USUAL = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}  # of full-width letters, digits and signs


def _lines(text: str) -> list[str]:
    """Its lines, with full-width letters as usual ones; all of NFKC would write 10² as 102."""
    return unicodedata.normalize("NFC", text.translate(_USUAL)).splitlines()


def classes_of(
    classes: tuple[str, ...], digits: tuple[int, ...], digit: int | None, text: str | None, *, counted: bool
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Resolve `--class`, `--digit`, `--digits` and a text into classes and digits.

    Args:
        classes: by name or number.
        digits: in turn.
        digit: one alone.
        text: to be written: its letters and digits; all else leaves a place empty.
        counted: whether something else says how many images there are, or of which classes.
    Raises:
        ValueError: two of them contradict each other, the text has nothing to write, or more than `MOST_LETTERS`.
    """
    if digit is not None and digits:
        raise ValueError("digit and digits exclude each other; name all of them in digits.")
    digits = digits if digit is None else (digit,)
    if text is None:
        return classes, digits
    if classes or digits or counted:
        raise ValueError(
            "a text says how many images there are and of which classes; leave --n, --class, --digit and the like out."
        )
    letters = tuple(letter for line in _lines(text) for letter in line if letter.isalnum())
    if sum(map(len, _lines(text))) > MOST_LETTERS:
        raise ValueError(f"a text has at most {MOST_LETTERS} characters, and {text[:20]!r}... has more.")
    if not letters:
        raise ValueError(f"there is nothing to write in {text!r}; give letters or digits.")
    return letters, ()


def kind_of(out: str, kind: str | None = None) -> str:
    """What to write to `out`: one of `FILES`, `FOLDER` or `SHARDS`.

    Args:
        out: a path, or `-` for stdout.
        kind: for stdout, and for a folder of shards; else it may only say again what the suffix says.
    Raises:
        ValueError: the name does not say, or contradicts `kind`.
    """
    if out == "-":
        if kind in SHARDED and kind not in FILES:
            raise ValueError(f"--format {kind} makes a folder of files; give --out a folder's name instead of -.")
        return kind or "png"
    if not out:
        raise ValueError("--out is empty; give the name of a file or folder.")
    suffix = Path(out).suffix.lower()
    if kind in SHARDED and (kind not in FILES or suffix not in SUFFIXES or "://" in out):
        if suffix in (*SUFFIXES, *(f".{form.suffix}" for form in SHARDED.values())):
            raise ValueError(
                f"--format {kind} makes a folder of files, and --out {out} is named as one file; give a folder's name."
            )
        if re.match(r"[a-z][a-z0-9+.-]+:(?!//)", out) and not os.path.isdir(out):  # noqa: PTH112
            raise ValueError(f"--out {out}: a URL has two slashes after its colon; of a folder write ./{out}.")
        return SHARDS
    if "://" in out:
        raise ValueError(f"--out {out} is a URL, which takes shards; add --format {', '.join(SHARDED)}.")
    if out.endswith(("/", os.sep)) or os.path.isdir(out):  # noqa: PTH112 - Path.is_dir raises where a folder above may not be read
        found = FOLDER
    else:
        if suffix not in SUFFIXES:
            for name, form in SHARDED.items():
                if suffix == f".{form.suffix}":
                    raise ValueError(
                        f"--out {out}: {name} is a folder of files; give --out {Path(out).stem} --format {name}."
                    )
            raise ValueError(
                f"--out {out}: the name must end in {', '.join(SUFFIXES)}, or in / for a folder of single PNGs."
            )
        found = SUFFIXES[suffix]
    if kind not in (None, found):
        raise ValueError(
            f"--format {kind} contradicts --out {out}, which is {found}; --format is for --out - and folders."
        )
    return found


@dataclass(frozen=True)
class Sharding:
    """How images are parted into files, and where these are made.

    Attributes:
        format: one of `SHARDED`.
        size: images in each file.
        encoding: of images, one of `ENCODINGS`; None takes the format's own.
        part: of the files make those whose number is `part` modulo `parts`.
        parts: how many parts there are.
        engine: one of `ENGINES`.
        address: of a Ray cluster; None starts one on this machine.
    """

    format: str
    size: int = SHARD_SIZE
    encoding: str | None = None
    part: int = 0
    parts: int = 1
    engine: str = "local"
    address: str | None = None

    def contradiction(self, request: Request) -> str | None:
        """Which wishes can't be had of shards, or None."""
        for option in ("latents", "labels"):
            if getattr(request, option) is not None:
                return f"shards are made from a seed; leave --{option} out."
        for option in ("grid", "scale", "interpolate"):
            if getattr(request, option) is not None:
                return f"--{option} is for pictures, and a shard holds single images as they are; leave --{option} out."
        if request.n > MOST_SHARDS * self.size:
            return f"--shard-size {self.size} makes more than {MOST_SHARDS:,} shards; give a larger one."
        form = SHARDED[self.format]
        for option, value, those in (
            ("encoding", self.encoding, form.encodings),
            ("dtype", request.dtype, form.dtypes),
        ):
            if value is not None and value not in those:
                return f"--{option} {value} can't be had of {self.format}, which holds {' or '.join(those)}."
        if not 0 <= self.part < self.parts:
            return f"of {self.parts} parts there is none with the number {self.part}: they count from 0."
        if self.address is not None and self.engine != "ray":
            return "--ray-address is for --engine ray."
        return None


@dataclass(frozen=True)
class Request:
    """What to make, from what, and where to put it.

    Attributes:
        target: a path, a binary stream, or a URL of shards.
        kind: one of `FILES`, `FOLDER` or `SHARDS`.
        n: number of latents, 1 or more.
        start: index of the first latent.
        seed: of the latents; None: `DEFAULT_SEED`.
        latents: a file to take latents `start` to `start + n - 1` from instead.
        classes: of a conditional model, which to make in turn, by name or number; empty draws them by the seed.
        digits: the same, where the classes are the ten digits.
        labels: a file with labels `start` to `start + n - 1` instead.
        text: that a picture spells: `classes` are its letters, as `classes_of` gives them, and `n` is their number.
        truncation: factor on the latents, below 1 for more regular images; None is 1.
        interpolate: frames from each latent to the next on a round trip; None makes just the latents' own images.
        grid: rows and columns; None makes it as square as can be, or a row a latent for a round trip.
        scale: each pixel of a picture becomes a square of this side; None makes a picture that can be seen, and leaves
            single ones of a folder as they are.
        dtype: of arrays, `uint8` pictures or `float`, float32 in the model's value range.
        batch_size: images at a time; None: as many as suit the provider.
        model, provider, threads: as `ImageGenerator` takes them.
        sharding: of `SHARDS`, and only of these.
    """

    target: Path | str | IO[bytes]
    kind: str
    n: int = 16
    start: int = 0
    seed: int | None = None
    latents: Rows | None = None
    classes: tuple[str, ...] = ()
    digits: tuple[int, ...] = ()
    labels: Rows | None = None
    text: str | None = None
    truncation: float | None = None
    interpolate: int | None = None
    grid: tuple[int, int] | None = None
    scale: int | None = None
    dtype: str = "uint8"
    batch_size: int | None = None
    model: str = shipped.DEFAULT
    provider: str = "auto"
    threads: int | None = None
    sharding: Sharding | None = None

    @property
    def drawn_from(self) -> int:
        """The seed of latents and labels."""
        return DEFAULT_SEED if self.seed is None else self.seed

    @property
    def steps(self) -> int | None:
        """Frames between two latents: a .gif is always a walk."""
        return WALK_STEPS if self.kind == "gif" and self.interpolate is None else self.interpolate

    @property
    def is_one_walk(self) -> bool:
        """Whether frames follow each other, so that all show the same classes."""
        return bool(self.steps) and self.kind not in GRIDS

    @property
    def places(self) -> int:
        """Images on a frame of a .gif: of each class that is asked for one."""
        return len(self.classes or self.digits) or 1 if self.kind == "gif" else 1

    @property
    def count(self) -> int:
        """Number of images."""
        return self.n * (self.steps or 1) * self.places

    @property
    def layout(self) -> tuple[int, int]:
        """Rows and columns of a grid, or of the frames of a .gif."""
        if self.grid:
            return self.grid
        if self.text is not None:
            lines = _lines(self.text)
            return len(lines), max(map(len, lines))
        if self.kind == "gif":
            columns = min(self.places, 10)
            return -(-self.places // columns), columns
        columns = self.steps or math.isqrt(self.n - 1) + 1
        each = len(self.classes or self.digits)
        if 1 < each <= self.n and not self.steps:
            columns = each
        return -(-self.count // columns), columns

    @property
    def cells(self) -> tuple[int, ...] | None:
        """Of the grid, that the letters of `text` stand in, or the images on a frame of a .gif; None: all of them."""
        if self.text is None:
            return tuple(range(self.places)) if self.kind == "gif" else None
        columns = self.layout[1]
        return tuple(
            columns * row + column
            for row, line in enumerate(_lines(self.text))
            for column, letter in enumerate(line)
            if letter.isalnum()
        )

    def zoom(self, height: int, width: int) -> int:
        """The side of the square that each pixel becomes.

        Args:
            height: of one image.
            width: likewise.
        """
        if self.scale is not None or self.kind not in (*GRIDS, "gif"):
            return self.scale or 1
        rows, columns = self.layout
        sides = rows * height, columns * width
        area = math.prod(sides)
        frames = self.count // self.places if self.kind == "gif" else 1
        room = math.isqrt(MOST_PIXELS // (area * frames))
        return max(1, min(round(SEEN / math.sqrt(area)), LONGEST // max(sides), MOST_SCALE, room))

    def contradiction(self) -> str | None:
        """Which wishes can't be had together, or None."""
        what = {FOLDER: "a folder", SHARDS: "a folder of shards"}.get(self.kind, f"a {self.kind}")
        if isinstance(self.target, Path):
            inputs = {"--model": Path(self.model)}
            inputs |= {f"--{rows.what}": rows.path for rows in (self.latents, self.labels) if rows}
            for option, path in inputs.items():
                if path.is_file() and os.path.realpath(path) == os.path.realpath(self.target):
                    return f"--out {self.target} would overwrite {option}; choose another name."
        if self.sharding and (reason := self.sharding.contradiction(self)):
            return reason
        if self.seed is not None and self.latents is not None:
            return "--seed and --latents exclude each other: latents come from one of them."
        asked = [option for option in ("classes", "digits", "labels") if getattr(self, option)]
        if len(asked) > 1:
            names = " and ".join({"classes": "--class"}.get(option, f"--{option}") for option in asked)
            return f"{names} exclude each other: classes come from one of them."
        if self.latents is None and self.start + self.n > INDICES:
            return f"--start {self.start} with --n {self.n} goes past the last latent of a seed, 2^32 - 1."
        if self.text is not None and self.kind not in (*GRIDS, "gif"):
            return f"a text is written into one picture, and {what} is none; ask for --class of each letter instead."
        if self.text is not None and self.grid:
            return "A text has its own layout, a place for each of its characters; leave --grid out."
        if self.text is not None and self.interpolate is not None and self.kind != "gif":
            return "A text that changes is an animation: end --out in .gif, or leave --interpolate out."
        if self.grid and self.kind not in (*GRIDS, "gif"):
            return f"--grid is the layout of one picture, and {what} has none; leave --grid out."
        if self.scale is not None and self.kind in ARRAYS:
            return f"--scale enlarges pictures, and {what} holds none; leave --scale out."
        if self.dtype == "float" and self.kind not in (*ARRAYS, SHARDS):
            return f"--dtype float is for arrays (.npy, .npz), and {what} holds none."
        if self.interpolate is not None and self.kind in ARRAYS:
            return f"--interpolate makes pictures, and {what} holds none; leave --interpolate out."
        if self.is_one_walk and self.kind == FOLDER and len(self.classes or self.digits) > 1:
            return "Single frames show one class; name one, or write a .gif, which shows several side by side."
        if self.steps and self.n < 2:
            return "A walk needs two latents or more: give --n 2, or another format than gif without --interpolate."
        rows, columns = self.layout
        images = self.places if self.kind == "gif" else self.count
        if rows * columns < images:
            return f"--grid {rows}x{columns} has {rows * columns} places for {images} images."
        return None
