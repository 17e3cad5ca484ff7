"""From a picture file's bytes to a square of pixels: the rules are in docs/images.md."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, UnidentifiedImageError

from dcgan_infer.contract.errors import DatasetError, first_line, printable

from .data import Channels

Pixels = npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # no other decoder of Pillow's sees a file
MOST_PIXELS = 1024**3 // 4 // 3  # of a picture: 89 million, where Pillow begins to warn of decompression bombs
_LARGE = 1 << 24  # pixels; of larger pictures one is decoded at a time, a gigabyte of memory each
_TURNS = {  # EXIF 2.32, 4.6.5.A: what puts the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
one_at_a_time: contextlib.AbstractContextManager[object] = contextlib.nullcontext()  # between processes: a lock

logging.getLogger("PIL").addHandler(logging.NullHandler())  # damaged TIFF files would write to stderr


@dataclass(frozen=True)
class Options:
    size: int
    channels: Channels
    background: tuple[int, ...]  # red, green, blue


class RefusedError(Exception):
    """Why one file is skipped."""


def options_of(size: int, channels: Channels, background: str) -> Options:
    if not 1 <= size <= 1024:
        raise DatasetError(f"the size of images is 1 to 1024 pixels, found {size}")
    if channels not in ("auto", "grey", "colour"):
        raise DatasetError(f"channels are auto, grey or colour, found {channels!r}")
    try:
        return Options(size, channels, ImageColor.getrgb(background)[:3])
    except ValueError:
        raise DatasetError(
            f"unknown background {shown(background)!r}; give a colour's name, such as white, or #rrggbb"
        ) from None


def pixels_of(content: bytes | str, options: Options) -> Pixels | str:
    """Pixels of a file, or why there are none."""
    if isinstance(content, str):
        return content
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF and the like: the pixels decide
            return _pixels(content, options)
    except Exception as error:  # Pillow's decoders raise a dozen kinds; one file must not end the others
        return reason_of(error)


def _pixels(content: bytes, options: Options) -> Pixels:
    image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        raise Image.DecompressionBombError
    size, mode = (options.size, options.size), "L" if options.channels == "grey" else "RGB"
    # JPEG alone: decodes to a half, a fourth or an eighth, not below twice the size.
    image.draft("L" if mode == "L" else None, (2 * options.size, 2 * options.size))
    with one_at_a_time if image.width * image.height > _LARGE else contextlib.nullcontext():
        with _without_stderr() if image.format == "TIFF" else contextlib.nullcontext():
            image.load()
        turn = None
        with contextlib.suppress(Exception):  # damaged EXIF turns nothing
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        if image.width != image.height:
            image = image.crop((left, top, left + side, top + side))
        if image.mode[0] in "IF":
            image = _in_8_bits(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            canvas = Image.new("RGBA", image.size, (*options.background, 255))
            canvas.alpha_composite(image)
            image = canvas
        if image.mode != mode:
            image = image.convert(mode)
        if image.size != size:
            # 16 % less time for a photograph than Lanczos, as near (1.2 levels) to the picture scaled in one step
            image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(image if turn is None else image.transpose(turn))


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Libtiff writes what is wrong with a file there, past Python."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # closed: nobody reads it
            kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 2)
            os.dup2(null, 2)
            os.close(null)
        yield


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or floating-point from 0 to 1, in 8 bits."""
    values = np.asarray(image)
    least, most = values.min(), values.max()
    if image.mode == "F":
        if not (least >= 0 and most <= 1):  # or NaN
            raise RefusedError("floating-point pixels outside 0 to 1")
        grey = (values * 255 + 0.5).astype(np.uint8)
    elif image.mode != "I" or 0 <= least <= most < 1 << 16:  # I holds 16 bits too
        grey = (values >> 8).astype(np.uint8)
    else:
        grey = (values.view(np.uint32) >> 24).astype(np.uint8)
    result = Image.fromarray(grey)
    if isinstance(clear := image.info.get("transparency"), int):
        result.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return result


def reason_of(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MOST_PIXELS:,} pixels"
    if isinstance(error, MemoryError):
        return "not enough memory"
    return shown(first_line(error))


def shown(text: str | Path) -> str:
    """As it may go to a terminal."""
    return printable(str(text))
