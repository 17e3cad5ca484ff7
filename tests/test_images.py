"""Pictures from folders and archives: rules pixel by pixel, the cache, and files made to hurt."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dcgan import images, listing, picture
from dcgan.images import FEWEST, Entry, Loaded, decode, load_images
from dcgan_infer.contract.errors import DatasetError

EMOJI = Path(__file__).resolve().parents[2] / "shared" / "emoji"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
Pixels = npt.NDArray[np.uint8]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's own cache is read or written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dcgan-toolkit" / "images"


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def plain(colour: tuple[int, ...] | int | float, mode: str = "RGB", side: int = 8) -> Image.Image:
    return Image.new(mode, (side, side), colour)


def numbered(number: int) -> bytes:
    """A picture in colour, of one red level."""
    return encoded(plain((number, 200, 0)))


def pixels_of(data: bytes, size: int = 8, **options: Any) -> Pixels:
    """What a file becomes among others."""
    loaded = decode([Entry(f"{n}", lambda _: data) for n in range(FEWEST)], (), "x", size=size, **options)
    first: Pixels = loaded.dataset.images[0]
    return first


def fill(folder: Path, count: int = FEWEST, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number:03}.png").write_bytes(numbered(number))
    return folder


def reds(loaded: Loaded) -> list[int]:
    return [int(image[0, 0, 0]) for image in loaded.dataset.images]


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def many(prefix: str = "", count: int = FEWEST, first: int = 0) -> dict[str, bytes]:
    return {f"{prefix}{number:03}.png": numbered(number) for number in range(first, first + count)}


# Pixels


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats_without_loss(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    assert (pixels_of(encoded(plain((200, 100, 50)), form, **options)) == (200, 100, 50)).all()


def test_jpeg_of_several_sizes() -> None:
    for side in (5, 64, 200):
        found = pixels_of(encoded(plain((200, 100, 50), side=side), "JPEG", quality=95)).astype(int)
        assert abs(found - (200, 100, 50)).max() <= 3


def test_first_frame_of_gif_webp_and_tiff() -> None:
    for form in ("GIF", "WEBP", "TIFF"):
        data = encoded(plain(RED), form, save_all=True, append_images=[plain(BLUE)])
        assert abs(pixels_of(data).astype(int) - RED).max() <= 2


def test_alpha_lies_on_the_background() -> None:
    half = plain((255, 0, 0, 128), "RGBA")
    for form in ("PNG", "WEBP", "TIFF"):
        data = encoded(half, form, **({"lossless": True} if form == "WEBP" else {}))
        assert abs(pixels_of(data).astype(int) - (255, 127, 127)).max() <= 1
    assert (pixels_of(encoded(plain((9, 9, 9, 0), "RGBA")), background="#0000ff") == BLUE).all()
    assert (pixels_of(encoded(plain((9, 0), "LA"))) == 255).all()
    # Scaling must not draw in the colour under what is transparent.
    edge = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    assert (pixels_of(encoded(edge), channels="colour") == WHITE).all()


def test_palettes_with_and_without_transparency() -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([*RED, *GREEN, *BLUE])
    assert (pixels_of(encoded(picture)) == GREEN).all()
    for form in ("PNG", "GIF"):
        assert (pixels_of(encoded(picture, form, transparency=1), channels="colour") == WHITE).all()
    assert abs(pixels_of(encoded(picture, transparency=bytes([0, 128, 255]))).astype(int) - (127, 255, 127)).max() <= 1
    assert (
        pixels_of(encoded(plain(GREEN), transparency=GREEN), background="red") == RED
    ).all()  # a colour that is clear


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    ramp = np.repeat(np.array([[0, 0x1234, 0x8000, 0xFFFF]], np.uint16), 4, 0)
    for form in ("PNG", "TIFF"):
        assert pixels_of(encoded(Image.fromarray(ramp), form), size=4)[0].tolist() == [0, 0x12, 0x80, 255]
    wide = Image.fromarray(ramp.astype(np.int32))
    assert wide.mode == "I"
    assert pixels_of(encoded(wide, "TIFF"), size=4)[0].tolist() == [0, 0x12, 0x80, 255]
    wider = Image.fromarray((ramp.astype(np.uint32) << 16).view(np.int32))
    assert pixels_of(encoded(wider, "TIFF"), size=4)[0].tolist() == [0, 0x12, 0x80, 255]
    assert pixels_of(encoded(Image.fromarray(ramp), transparency=0x1234), size=4)[0].tolist() == [0, 255, 0x80, 255]


def test_floating_point_from_0_to_1() -> None:
    assert (pixels_of(encoded(plain(0.5, "F"), "TIFF")) == 128).all()
    for value in (2.0, -0.5, float("nan")):
        with pytest.raises(DatasetError, match="floating-point pixels outside 0 to 1"):
            pixels_of(encoded(plain(value, "F"), "TIFF"))


def test_black_and_white() -> None:
    assert (pixels_of(encoded(plain(1, "1"))) == 255).all()


def test_cmyk_of_jpeg_and_tiff() -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    for form in ("JPEG", "TIFF"):  # Pillow writes JPEG with Adobe's marker, inverted
        assert abs(pixels_of(encoded(cyan, form)).astype(int) - (0, 255, 255)).max() <= 3


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(form: str, orientation: int) -> None:
    upright = np.zeros((64, 64, 3), np.uint8)
    upright[:32, :32], upright[:32, 32:], upright[32:, :32] = RED, GREEN, BLUE
    # The camera's way back: EXIF's row 0 and column 0 are these sides of the picture.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
        6: np.rot90(upright), 7: np.rot90(upright, 2).swapaxes(0, 1), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    choices: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    options = choices.get(form, {})
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), form, exif=exif, **options)
    assert abs(pixels_of(data, size=64)[8::48, 8::48].astype(int) - upright[8::48, 8::48]).max() <= 3


@pytest.mark.parametrize("exif", [b"II*\0\x08\0\0\0\x05\0", b"II*\0\xff\xff\0\0", b"neither", b""])
def test_damaged_exif_turns_nothing(exif: bytes) -> None:
    """Pillow warns of some, which pytest makes an error, and raises at others in PNG."""
    assert (pixels_of(png(8, 8, zlib.compress((b"\0" + bytes(RED) * 8) * 8), before=chunk(b"eXIf", exif))) == RED).all()
    segment = b"Exif\0\0" + exif
    data = encoded(plain(RED), "JPEG", quality=95)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    assert abs(pixels_of(data).astype(int) - RED).max() <= 3


def test_the_centre_square_is_cut() -> None:
    for wide in (True, False):
        picture = np.zeros((16, 48, 3), np.uint8)
        picture[:, :16], picture[:, 16:32], picture[:, 32:] = RED, GREEN, BLUE
        for form in ("PNG", "BMP", "TIFF"):
            data = encoded(Image.fromarray(picture if wide else np.ascontiguousarray(picture.swapaxes(0, 1))), form)
            assert (pixels_of(data) == GREEN).all()


def test_scaling_like_torchvision() -> None:
    """The same cut and no aliasing: near the mean of what each pixel covers, where a picture is smooth."""
    rows, columns = np.mgrid[:300, :400] / 300
    smooth = np.stack([rows, columns * 0.75, rows * columns * 0.75], -1)
    picture = Image.fromarray((smooth * 255).astype(np.uint8))
    cut = picture.crop((50, 0, 350, 300)).resize((64, 64), Image.Resampling.BOX)
    for form, most in (("PNG", 3), ("JPEG", 5)):
        assert abs(pixels_of(encoded(picture, form), size=64).astype(int) - np.asarray(cut)).max() <= most
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    assert abs(pixels_of(encoded(Image.fromarray(stripes)), size=64).astype(int) - 127.5).max() <= 3


def test_of_large_pictures_one_is_decoded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = threading.Lock()
    monkeypatch.setattr(picture, "one_at_a_time", lock)
    held: list[bool] = []

    def spy(_: Image.Image) -> Image.Image:
        held.append(lock.locked())
        return plain(1, "L")

    monkeypatch.setattr(picture, "_in_8_bits", spy)
    data = encoded(Image.fromarray(np.zeros((8, 8), np.uint16)))
    pixels_of(data)
    monkeypatch.setattr(picture, "_LARGE", 63)
    pixels_of(data, background="red")
    assert held == [False] * FEWEST + [True] * FEWEST


def test_thin_pictures() -> None:
    for shape in ((1, 65535), (65535, 1)):
        assert (pixels_of(encoded(Image.fromarray(np.full(shape, 7, np.uint8)))) == 7).all()


# Grey or colour


def test_channels_are_found() -> None:
    greys = [Entry(f"{n}", lambda _: encoded(plain((50, 50, 50)))) for n in range(20)]
    found = decode(greys, (), "x", size=8).dataset
    assert found.images.shape == (20, 8, 8)
    assert found.image_shape == (1, 8, 8)
    assert (found.images == 50).all()
    near = Entry("a", lambda _: encoded(plain((50, 55, 52))))  # as JPEG does
    assert decode([*greys, near], (), "x", size=8).dataset.images.shape == (21, 8, 8)
    dot = plain((50, 50, 50))
    dot.putpixel((7, 7), (50, 90, 50))
    one = Entry("a", lambda _: encoded(dot))
    assert decode([*greys, one], (), "x", size=8).dataset.images.shape == (21, 8, 8, 3)


def test_channels_are_forced() -> None:
    luma = (299 * 200 + 587 * 100 + 114 * 50) / 1000
    for form in ("PNG", "JPEG"):
        found = pixels_of(encoded(plain((200, 100, 50)), form), channels="grey")
        assert found.shape == (8, 8)
        assert abs(found - luma).max() <= 2
    assert pixels_of(encoded(plain(50, "L")), channels="colour").tolist() == [[[50] * 3] * 8] * 8


# Folders and archives


def test_classes_are_the_first_folders(tmp_path: Path) -> None:
    root = tmp_path / "x"
    fill(root / "dog" / "deep" / "er", 10, first=100)
    fill(root / "cat", 10)
    (root / "texts").mkdir()
    (root / "texts" / "a.txt").write_text("no image")
    (root / "readme").write_text("nor this")
    loaded = load_images(root, size=8)
    assert loaded.dataset.class_names == ("cat", "dog")
    assert loaded.dataset.labels is not None
    assert loaded.dataset.labels.tolist() == [int(red >= 100) for red in reds(loaded)]
    assert loaded.ignored == 2
    assert loaded.dataset.images.dtype == np.uint8
    assert np.bincount(loaded.dataset.labels).tolist() == [10, 10]
    assert "ignored 2 files of other kinds" in loaded.lines()


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    loaded = load_images(fill(tmp_path / "x"), size=8)
    assert loaded.dataset.labels is None
    assert loaded.dataset.class_names == ()
    assert loaded.dataset.images.shape == (16, 8, 8, 3)
    assert [line.split()[0] for line in loaded.lines()] == ["the"]


def test_an_archive_gives_what_its_folder_gives(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "x" / name, 10, first=len(name + name[0]) * (name == "dog") * 10)
    members = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in (tmp_path / "x").rglob("*.png")}
    folder, zipped = load_images(tmp_path / "x", size=8), load_images(archive(tmp_path / "x.zip", members), size=8)
    assert (folder.dataset.images == zipped.dataset.images).all()
    assert folder.dataset.class_names == zipped.dataset.class_names == ("cat", "dog")
    assert (np.asarray(folder.dataset.labels) == np.asarray(zipped.dataset.labels)).all()


def test_folders_that_hold_everything_are_no_classes(tmp_path: Path) -> None:
    assert load_images(archive(tmp_path / "a.zip", many("data/train/"))).dataset.class_names == ()
    classes = archive(tmp_path / "b.zip", many("data/train/cat/") | many("data/train/catfish/"))
    assert load_images(classes).dataset.class_names == ("cat", "catfish")
    fill(tmp_path / "c" / "only")
    assert load_images(tmp_path / "c").dataset.class_names == ()


def test_loose_images_beside_folders(tmp_path: Path) -> None:
    fill(tmp_path / "x" / "cat")
    fill(tmp_path / "x", 2)
    with pytest.raises(
        DatasetError, match=r"holds loose images \(2, such as 000\.png\) beside folders of images \(cat\); move"
    ):
        load_images(tmp_path / "x")


def test_junk_is_passed_over(tmp_path: Path) -> None:
    junk = [".DS_Store", "._000.png", ".hidden/a.png", "__MACOSX/000.png", "__MACOSX/x/._000.png"]
    root = fill(tmp_path / "x")
    for name in junk:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"junk")
    zipped = archive(tmp_path / "x.zip", many("x/") | {f"x/{name}": b"" for name in junk} | {"__MACOSX/._x": b""})
    for path in (root, zipped):
        loaded = load_images(path)
        assert (len(loaded.dataset), loaded.skipped, loaded.ignored) == (16, (), 0)


def test_content_decides(tmp_path: Path) -> None:
    """A suffix may lie, or be missing."""
    root = fill(tmp_path / "x")
    (root / "jpeg.png").write_bytes(encoded(plain(RED), "JPEG"))
    (root / "bare").write_bytes(encoded(plain(RED)))
    (root / "BMW.txt").write_text("BM is how texts may begin")
    (root / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (root / "page.jpg").write_text("<html>404</html>")
    loaded = load_images(root)
    assert len(loaded.dataset) == 18
    assert loaded.ignored == 2
    assert loaded.skipped == (("page.jpg", "not an image"),)


def test_other_formats_of_pillow_are_not_opened(tmp_path: Path) -> None:
    root = fill(tmp_path / "x")
    (root / "sly.png").write_bytes(encoded(plain(RED), "PPM"))
    assert load_images(root).skipped[0][0] == "sly.png"


def test_bad_class_names(tmp_path: Path) -> None:
    for number, name in enumerate(["tab\there", " space", "x" * 201, os.fsdecode(b"\xff")]):
        zipped = tmp_path / f"{number}.zip"
        try:
            archive(zipped, many("good/") | many(name + "/"))
        except UnicodeEncodeError:
            fill(tmp_path / "f" / "good")
            zipped = fill(tmp_path / "f" / name).parent
        with pytest.raises(
            DatasetError, match=r"the folder .* can't be a class: class names must .*; rename it$"
        ) as error:
            load_images(zipped)
        assert str(error.value).isprintable()


def test_class_without_a_readable_image_is_left_out(tmp_path: Path) -> None:
    fill(tmp_path / "x" / "b", 10)
    fill(tmp_path / "x" / "c", 10)
    (tmp_path / "x" / "a").mkdir()
    (tmp_path / "x" / "a" / "a.png").write_bytes(b"")
    loaded = load_images(tmp_path / "x")
    assert loaded.dataset.class_names == ("b", "c")
    assert np.bincount(np.asarray(loaded.dataset.labels)).tolist() == [10, 10]
    fill(tmp_path / "y" / "b")
    (tmp_path / "y" / "a").mkdir()
    (tmp_path / "y" / "a" / "a.png").write_bytes(b"")
    alone = load_images(tmp_path / "y").dataset  # one class tells nothing apart
    assert (alone.class_names, alone.labels) == ((), None)


def test_decode_keeps_the_classes_it_is_given(tmp_path: Path) -> None:
    path = fill(tmp_path, 1) / "000.png"
    loaded = decode([Entry(f"{n}", path, 2) for n in range(16)], ("a", "b", "c"), "theirs", size=8)
    assert loaded.dataset.class_names == ("a", "b", "c")
    assert loaded.dataset.name == "theirs"
    assert np.asarray(loaded.dataset.labels).tolist() == [2] * 16


# Order


def test_order_is_shuffled_once_by_a_fixed_seed(tmp_path: Path) -> None:
    root = fill(tmp_path / "x", 40)
    expected = np.random.default_rng(0).permutation(40).tolist()
    assert reds(load_images(root, size=8)) == expected
    assert reds(load_images(root, size=8)) == expected  # of the cache
    (root / "007.png").write_bytes(b"broken")
    expected.remove(7)
    assert reds(load_images(root, size=8, workers=2)) == expected


def test_the_last_images_are_of_all_classes(tmp_path: Path) -> None:
    for name in "abcd":
        fill(tmp_path / "x" / name, 50)
    labels = load_images(tmp_path / "x", size=8).dataset.labels
    assert labels is not None
    assert min(np.bincount(labels[-60:], minlength=4)) >= 8


# The cache


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(images, "pixels_of", refuse)


def test_a_second_call_decodes_nothing(tmp_path: Path, cache: Path, no_decoding: Callable[[], None]) -> None:
    root = fill(tmp_path / "x", 30)
    (root / "broken.png").write_bytes(b"")
    first = load_images(root, size=8)
    no_decoding()
    second = load_images(root, size=8)
    assert (first.dataset.images == second.dataset.images).all()
    assert first.skipped == second.skipped
    assert first.skipped[0][0] == "broken.png"
    assert second.cache == first.cache == next(cache.iterdir())
    moved = root.rename(tmp_path / "y")  # the content is the key
    assert load_images(moved, size=8).cache == first.cache


def test_other_options_or_content_are_decoded(tmp_path: Path, no_decoding: Callable[[], None]) -> None:
    root = fill(tmp_path / "x", 30)
    load_images(root, size=8)
    no_decoding()

    def replaced() -> Loaded:
        (root / "000.png").write_bytes(numbered(99))
        return load_images(root, size=8)

    def renamed() -> Loaded:
        (root / "000.png").write_bytes(numbered(0))
        (root / "000.png").rename(root / "a.png")
        return load_images(root, size=8)

    changes: list[Callable[[], Loaded]] = [
        lambda: load_images(root, size=9),
        lambda: load_images(root, size=8, channels="grey"),
        lambda: load_images(root, size=8, background="black"),
        replaced,
        renamed,
    ]
    for change in changes:
        with pytest.raises(AssertionError, match="decoded again"):
            change()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:500],
        lambda data: data[:50],
        lambda data: b"",
        lambda data: b"PK\3\4" + data[4:],
        lambda data: data.replace(b"|u1", b"<i1"),
        lambda data: data.replace(b"(16,", b"(15,"),
        lambda data: data.replace(b"(16,", b"(99,"),
        lambda data: data.replace(b"'shape'", b"'shope'"),
        lambda data: data + b"more",
        lambda data: data.replace(b'{"skipped": {}}', b'{"skipped": {"1": "x"}}'),
        lambda data: data.replace(b'{"skipped": {}}', b"[]"),
    ],
)
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    root = fill(tmp_path / "x")
    first = load_images(root, size=8)
    assert first.cache is not None
    whole = first.cache.read_bytes()
    assert damage(whole) != whole
    first.cache.write_bytes(damage(whole))
    assert (load_images(root, size=8).dataset.images == first.dataset.images).all()
    assert first.cache.read_bytes() == whole


def test_the_cache_is_an_ordinary_npy_file(tmp_path: Path) -> None:
    loaded = load_images(fill(tmp_path / "x"), size=8)
    assert loaded.cache is not None
    assert (np.load(loaded.cache) == loaded.dataset.images).all()


def test_large_arrays_stay_in_their_file_and_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path / "x")
    assert not isinstance(load_images(root, size=8).dataset.images, np.memmap)
    monkeypatch.setattr(images, "_IN_MEMORY", 10)
    loaded = load_images(root, size=8)
    assert isinstance(loaded.dataset.images, np.memmap)
    assert loaded.cache is not None
    before = loaded.cache.read_bytes()
    loaded.dataset.images[:] = 0  # torch.from_numpy warns of arrays that can't be
    assert loaded.cache.read_bytes() == before


def test_no_cache_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    root = fill(tmp_path / "x")
    expected = load_images(root, size=8).dataset.images
    (tmp_path / "file").write_text("")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    for impossible in (tmp_path / "file" / "cache", tmp_path / ("x" * 300)):  # in a temporary folder
        loaded = load_images(root, size=8, cache=impossible)
        assert (loaded.dataset.images == expected).all()
        assert loaded.cache is None
        assert not list(temporary.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file" / "temporary"))  # in memory
    loaded = load_images(root, size=8, cache=tmp_path / "file" / "cache")
    assert loaded.cache is None
    assert (loaded.dataset.images == expected).all()


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(images, "_header", lambda shape: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DatasetError, match=r"can't keep the decoded images of .*: no space left on device; free space"):
        load_images(fill(tmp_path / "x"))
    assert not list(cache.iterdir())


def test_an_interruption_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    def interrupt(task: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    for workers in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            load_images(fill(tmp_path / "x", 100), progress=interrupt, workers=workers)
        assert not list(cache.iterdir())


def test_ctrl_c_reaches_the_workers_too(tmp_path: Path) -> None:
    """As a terminal sends it, to all processes: only the first one says so, soon, and nothing is left."""
    code = """
        import sys
        from pathlib import Path
        from dcgan.images import Entry, decode
        path = Path(sys.argv[1])
        entries = [Entry(str(number), path) for number in range(20_000)]
        decode(entries, (), "x", cache=Path(sys.argv[2]), workers=2, progress=lambda *step: print(step, flush=True))
    """
    path = tmp_path / "x.png"
    path.write_bytes(encoded(plain(RED, side=500)))
    command = [sys.executable, "-c", textwrap.dedent(code), str(path), str(tmp_path / "kept")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout is not None
        for _ in range(3):
            running.stdout.readline()
        start = time.monotonic()
        os.killpg(running.pid, signal.SIGINT)
        _, errors = running.communicate(timeout=30)
    assert time.monotonic() - start < 10
    assert errors.count("KeyboardInterrupt") == errors.count("Traceback") == 1
    assert not list((tmp_path / "kept").iterdir())


def test_workers_ignore_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "one_at_a_time", None)
    before = signal.getsignal(signal.SIGINT)
    try:
        images._start_worker(threading.Lock())
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_each_file_is_read_once(cache: Path) -> None:
    """To decode it, and to find it in the cache; also beside another data set in the cache."""
    read: list[int] = []

    def source(limit: int) -> bytes:
        read.append(limit)
        return numbered(1)

    for _ in range(2):
        for prefix in "ab":
            read.clear()
            decode([Entry(f"{prefix}{number}", source) for number in range(20)], (), "x", size=8)
            assert len(read) == 20
    assert len(list(cache.iterdir())) == 2


def test_progress(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    root = fill(tmp_path / "x")
    load_images(root, progress=lambda *step: told.append(step))
    assert told[0] == ("decoding images", 0, 16)
    assert told[-1] == ("decoding images", 16, 16)
    told.clear()
    load_images(root, progress=lambda *step: told.append(step))
    assert {task for task, _, _ in told} == {"looking for decoded images"}


def test_a_relative_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_images(fill(tmp_path / "x"), cache=Path("a/../kept")).cache == next((tmp_path / "kept").iterdir())


def test_workers_change_nothing(tmp_path: Path) -> None:
    root = fill(tmp_path / "x", 100)
    (root / "a.png").write_bytes(b"broken")
    one, two = (load_images(root, size=8, workers=n, cache=tmp_path / str(n)) for n in (1, 2))
    assert (one.dataset.images == two.dataset.images).all()
    assert one.skipped == two.skipped
    assert one.cache is not None
    assert two.cache is not None
    assert one.cache.read_bytes() == two.cache.read_bytes()


def test_a_worker_that_is_killed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "pixels_of", lambda *_: os._exit(9))
    with pytest.raises(DatasetError, match="died, perhaps for want of memory; use one worker"):
        load_images(fill(tmp_path / "x"), workers=2)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(0)"])
def test_workers_end_with_the_first_process(tmp_path: Path, end: str) -> None:
    code = f"""
        import multiprocessing, os, sys
        from pathlib import Path
        from dcgan.images import Entry, decode

        def leave(task, done, total):
            if done:
                print(*(child.pid for child in multiprocessing.active_children()), flush=True)
                {end}

        entries = [Entry(str(number), Path(sys.argv[1])) for number in range(1000)]
        decode(entries, (), "x", cache=Path(sys.argv[2]), workers=2, progress=leave)
    """
    path = tmp_path / "x.png"
    path.write_bytes(encoded(plain(RED, side=500)))
    command = [sys.executable, "-c", textwrap.dedent(code), str(path), str(tmp_path / "kept")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        workers = running.stdout.readline().split()
    assert len(workers) == 2
    limit = time.monotonic() + 20
    while alive := [pid for pid in workers if _is_alive(pid)]:
        assert time.monotonic() < limit, alive
        time.sleep(0.1)


def _is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_that_cannot_be_started_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(multiprocessing.context, "_default_context", multiprocessing.get_context("fork"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        with pytest.raises(DatasetError, match="can't be started; resource temporarily unavailable: allow more"):
            load_images(fill(tmp_path / "x"), workers=2)
    monkeypatch.setattr(multiprocessing, "Lock", lambda: open("/nowhere/shm"))  # noqa: PTH123, SIM115
    with pytest.raises(DatasetError, match=r"can't be started; .*\(No such file or directory\): mount /dev/shm"):
        load_images(tmp_path / "x", workers=2)


# What is refused


def test_few_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"x holds 15 images, expected at least 16; add some"):
        load_images(fill(tmp_path / "x", 15))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DatasetError, match=r"empty holds no files, so no image; expected PNG, JPEG"):
        load_images(empty)
    (empty / "film.mp4").write_bytes(b"film")
    with pytest.raises(DatasetError, match=r"holds 1 file, such as film\.mp4, and no image"):
        load_images(empty)
    with pytest.raises(DatasetError, match=r"nowhere does not exist; give a folder of images, or a \.zip"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"film\.mp4 is neither a folder nor a whole ZIP archive; give a folder"):
        load_images(empty / "film.mp4")


def test_a_tenth_may_be_broken(tmp_path: Path) -> None:
    root = fill(tmp_path / "x", 18)
    for name in ("a\x1b[31m.png", "b.png"):
        (root / name).write_bytes(b"")
    loaded = load_images(root)
    assert len(loaded.skipped) == 2
    line = "skipped 2 files that can't be read: a\\x1b[31m.png (not an image), b.png"
    assert any(text.startswith(line) for text in loaded.lines())
    (root / "c.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"3 of 21 images can't be read, expected at most a tenth: a\\x1b") as error:
        load_images(root)
    assert str(error.value).isprintable()


def test_many_broken_files_are_counted(tmp_path: Path) -> None:
    root = fill(tmp_path / "x", 90)
    for number in range(9):
        (root / f"broken{number}.png").write_bytes(b"")
    assert any("broken4.png" in line and line.endswith(" and 4 more") for line in load_images(root).lines())


def test_impossible_options(tmp_path: Path) -> None:
    root = fill(tmp_path / "x")
    for size in (0, 2000):
        with pytest.raises(DatasetError, match="1 to 1024 pixels"):
            load_images(root, size=size)
    with pytest.raises(DatasetError, match="unknown background 'nocolour'; give"):
        load_images(root, background="nocolour")
    with pytest.raises(DatasetError, match="channels are auto, grey or colour, found 'red'"):
        load_images(root, channels="red")  # type: ignore[arg-type]


def reason(tmp_path: Path, name: str, make: Callable[[Path], object]) -> str:
    """Why one file among sixteen good ones is skipped."""
    root = fill(tmp_path / "x")
    make(root / name)
    loaded = load_images(root, size=8)
    assert [shown for shown, _ in loaded.skipped] == [name]
    assert len(loaded.dataset) == 16
    return loaded.skipped[0][1]


def test_pipes_sockets_and_devices_do_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason(tmp_path / "1", "pipe.png", lambda path: os.mkfifo(path)) == "not a regular file"
    assert reason(tmp_path / "2", "null.png", lambda path: path.symlink_to("/dev/zero")) == "not a regular file"
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert reason(tmp_path / "3", "a.png", (tmp_path / "socket").rename) == "not a regular file"


def test_links(tmp_path: Path) -> None:
    assert reason(tmp_path / "1", "lost.png", lambda path: path.symlink_to("nothing")) == "No such file or directory"
    assert "symbolic links" in reason(tmp_path / "2", "self.png", lambda path: path.symlink_to("self.png"))
    root = tmp_path / "3"
    fill(root / "cat", 10)
    fill(tmp_path / "elsewhere", 10, first=100)
    (root / "cat" / "up").symlink_to("..")
    (root / "cat" / "top").symlink_to(tmp_path)
    (root / "all").symlink_to("cat")
    (root / "zoo").symlink_to("cat")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    loaded = load_images(root, size=8)
    assert loaded.dataset.class_names == ("cat", "dog")
    assert len(loaded.dataset) == 20


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    made = "/proc/self/mem"  # a regular file that gives an error, to root too
    if not Path(made).exists():
        pytest.skip("no /proc")
    reason(tmp_path, "mem.png", lambda path: path.symlink_to(made))


def test_permissions(tmp_path: Path) -> None:
    (tmp_path / "closed").touch(0)
    if os.access(tmp_path / "closed", os.R_OK):
        pytest.skip("root reads everything")
    assert reason(tmp_path / "1", "mine.png", lambda path: path.touch(0)) == "Permission denied"
    assert reason(tmp_path / "2", "mine/", lambda path: path.mkdir(0)) == "Permission denied"
    (tmp_path / "3").mkdir(0)
    with pytest.raises(DatasetError, match=r"3 can't be read \(Permission denied\); check that it is whole, and yours"):
        load_images(tmp_path / "3")
    loaded = load_images(tmp_path / "1" / "x", cache=tmp_path / "3" / "cache")
    assert loaded.cache is None


def test_a_folder_that_can_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if isinstance(path, Path) and path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    assert reason(tmp_path, "closed/", Path.mkdir) == "Permission denied"


def test_files_that_vanish(tmp_path: Path) -> None:
    paths = sorted(fill(tmp_path / "x", 20).iterdir())
    paths[3].unlink()
    loaded = decode([Entry(path.name, path) for path in paths], (), "x", size=8)
    assert loaded.skipped == (("003.png", "No such file or directory"),)


def test_a_foreign_source_may_raise_anything(tmp_path: Path) -> None:
    entries = [Entry(f"{n}", lambda _: numbered(1)) for n in range(16)]
    loaded = decode([*entries, Entry("bad", lambda _: [][0])], (), "x", size=8)
    assert loaded.skipped == (("bad", "list index out of range"),)


def test_a_file_too_large(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(numbered(1))
            file.truncate(1 << 40)

    assert reason(tmp_path, "huge.png", make) == "larger than 256 MiB"


def test_a_picture_of_too_many_pixels(tmp_path: Path) -> None:
    """Fewer than Pillow refuses, more than Pillow warns of."""
    assert reason(tmp_path, "large.png", lambda path: path.write_bytes(png(9_500, 9_500))) == (
        "more than 89,478,485 pixels"
    )


def test_a_file_that_becomes_a_pipe_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ring(*_: object) -> None:
        raise TimeoutError("hangs")

    os.mkfifo(tmp_path / "pipe.png")
    regular = Path(__file__).stat()
    monkeypatch.setattr("os.stat", lambda *_, **__: regular)
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(5)
    try:
        assert listing.read(tmp_path / "pipe.png", 10) == b""
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", [os.fsdecode(b"\xff\xfe.png"), "x" * 251 + ".png", "new\nline.png", "\u202egnp.png"])
def test_odd_names_are_read(tmp_path: Path, name: str) -> None:
    root = fill(tmp_path / "x")
    (root / name).write_bytes(numbered(20))
    loaded = load_images(root, size=8)
    assert sorted(reds(loaded)) == [*range(16), 20]
    (root / name).write_bytes(b"")
    assert all(line.isprintable() for line in load_images(root, size=8).lines())


def test_names_in_archives(tmp_path: Path) -> None:
    """None goes to the disk, and none that leads out is read."""
    names = ["../up.png", "/etc/absolute.png", "C:\\drive.png", "a/../../b.png", "..\\back.png"]
    loaded = load_images(archive(tmp_path / "x.zip", many("", 60) | {name: numbered(1) for name in names}))
    assert {why for _, why in loaded.skipped} == {"a name that leads out of the archive"}
    assert len(loaded.skipped) == 5
    assert not (tmp_path.parent / "up.png").exists()
    backslashes = many("data\\cat\\") | many("data\\dog\\")
    assert load_images(archive(tmp_path / "y.zip", backslashes)).dataset.class_names == ("cat", "dog")


def test_colons_in_archives_are_no_drives(tmp_path: Path) -> None:
    assert load_images(archive(tmp_path / "x.zip", many("at 12:30 "))).skipped == ()


def test_the_later_of_two_members_of_one_name_counts(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.zip", many())
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as file:
        file.writestr("000.png", numbered(77))
    assert sorted(reds(load_images(path))) == [*range(1, 16), 77]


def test_an_archive_in_an_archive_is_not_opened(tmp_path: Path) -> None:
    inner = archive(tmp_path / "inner.zip", many()).read_bytes()
    with pytest.raises(DatasetError, match=r"holds 1 file, such as inner\.zip, and no image"):
        load_images(archive(tmp_path / "outer.zip", {"inner.zip": inner}))


def test_encrypted_members(tmp_path: Path) -> None:
    data = bytearray(archive(tmp_path / "x.zip", many()).read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(signature, at + 1)
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(DatasetError, match=r"16 of 16 images can't be read.*000\.png \(encrypted\)"):
        load_images(tmp_path / "x.zip")


def test_bombs_in_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = encoded(plain(RED), "BMP") + bytes(8 << 20)
    loaded = load_images(archive(tmp_path / "x.zip", many("", 60) | {"bomb.bmp": bomb}))
    assert loaded.skipped == (("bomb.bmp", "packed to less than 1/100, as archives that fill memory are"),)
    # A member that says it is smaller than it is ends there.
    data = (tmp_path / "x.zip").read_bytes()
    lie = data.replace(struct.pack("<I", len(bomb)), struct.pack("<I", 1000))
    assert lie != data
    (tmp_path / "x.zip").write_bytes(lie)
    assert load_images(tmp_path / "x.zip").skipped[0][1].startswith("Bad CRC-32")


def test_damaged_archives(tmp_path: Path) -> None:
    whole = archive(tmp_path / "x.zip", many()).read_bytes()
    draw = random.Random(0)
    for number in range(120):
        data = bytearray(whole)
        if number < 40:
            del data[draw.randrange(len(data)) :]
        else:
            where = draw.randrange(whole.find(b"PK\1\2"), len(data)) if number % 2 else draw.randrange(len(data))
            data[where] = draw.randrange(256)
        (tmp_path / "x.zip").write_bytes(data)
        error = ""
        try:
            load_images(tmp_path / "x.zip", size=8)
        except DatasetError as raised:
            error = str(raised)
        assert not error or (error.isprintable() and error.startswith(str(tmp_path / "x.zip")))


# Files made to hurt, in a process whose memory is bounded


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes = b"", colour: int = 2, before: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def hostile() -> dict[str, bytes]:
    """About 120 files, each of which must be skipped or read, in little memory."""
    draw = random.Random(1)
    found: dict[str, bytes] = {}
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    forms: dict[str, tuple[str, dict[str, Any]]] = {
        "png": ("PNG", {}), "jpg": ("JPEG", {}), "jpe": ("JPEG", {"progressive": True}), "webp": ("WEBP", {}),
        "gif": ("GIF", {}), "bmp": ("BMP", {}), "tif": ("TIFF", {}), "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
        "deflate.tif": ("TIFF", {"compression": "tiff_deflate"}), "jpeg.tif": ("TIFF", {"compression": "jpeg"}),
    }  # fmt: skip
    for suffix, (form, options) in forms.items():
        whole = encoded(noise, form, **options)
        for number in range(8):
            found[f"truncated{number}.{suffix}"] = whole[: len(whole) * number // 8]
        for number in range(6):
            found[f"random{number}.{suffix}"] = whole[:16] + draw.randbytes(5000)
        for number in range(6):
            data = bytearray(whole)
            for _ in range(10):
                data[draw.randrange(len(data))] = draw.randrange(256)
            found[f"damaged{number}.{suffix}"] = bytes(data)
    side = 60_000
    found["huge.png"] = png(side, side, zlib.compress(bytes(10 << 20)))
    found["huge_grey.png"] = png(1 << 30, 1 << 30, colour=0)
    packed = zlib.compress(bytes(200 << 20))
    found["idat_bomb.png"] = png(10, 10, packed)
    found["text_bomb.png"] = png(8, 8, before=chunk(b"zTXt", b"a\0\0" + packed))
    found["profile_bomb.png"] = png(8, 8, before=chunk(b"iCCP", b"a\0\0" + packed))
    found["almost.png"] = png(9_400, 9_400)  # as many pixels as are allowed, and none there
    found["zero.png"] = png(0, 0)
    found["huge.gif"] = (
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0"
    )
    found["huge.bmp"] = b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    found["negative.bmp"] = b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, -5, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0)
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: side}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    found["huge.tif"] = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    loop = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries.replace(struct.pack("<I", side), struct.pack("<I", 4))
    found["loop.tif"] = loop + struct.pack("<I", 8)  # the next picture is this one
    found["samples.tif"] = found["loop.tif"].replace(
        struct.pack("<HHII", 277, 4, 1, 1), struct.pack("<HHII", 277, 4, 1, 99)
    )
    found["many_tags.tif"] = b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(1000)
    found["huge.webp"] = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0" + b"\xfe\x3f\0" * 2 + b"VP8L" + bytes(8)
    exif = b"\xff\xe1" + struct.pack(">H", 108) + b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + draw.randbytes(90)
    jpeg = encoded(noise, "JPEG")
    found["exif.jpg"] = jpeg[:2] + exif + jpeg[2:]
    found["largest.jpg"] = jpeg.replace(struct.pack(">HH", 40, 40), struct.pack(">HH", 65535, 65535))
    return found


HARNESS = """
    import resource, sys, warnings
    from pathlib import Path
    from dcgan.images import load_images
    from dcgan_infer.contract.errors import DatasetError
    warnings.simplefilter("error")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        for line in load_images(Path(sys.argv[1]), size=8, workers=1).lines():
            print(line)
    except DatasetError as error:
        print(error)
    print("MiB", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_hostile_files(tmp_path: Path) -> None:
    """Each is skipped with a reason, or read; none takes memory, writes to stderr or ends the process."""
    files = hostile()
    assert len(files) > 200
    good = numbered(1)
    root = tmp_path / "x"
    root.mkdir()
    for number in range(10 * len(files)):  # so that the others are less than a tenth
        (root / f"{number}.png").write_bytes(good)
    for name, content in files.items():
        (root / name).write_bytes(content)
    code = textwrap.dedent(HARNESS)
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)],
        capture_output=True, text=True, timeout=120, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 0
    assert "skipped" in done.stdout
    assert all(line.isprintable() for line in done.stdout.splitlines())
    assert int(done.stdout.split()[-1]) < 500


# Real ones


@pytest.mark.skipif(not EMOJI.is_dir(), reason="no emoji here")
def test_emoji(tmp_path: Path) -> None:
    folders = ["component", "activities", "travel-places"]
    for name in folders:
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / name).symlink_to(EMOJI / name)
    loaded = load_images(tmp_path / "x", size=32)
    assert loaded.dataset.image_shape == (3, 32, 32)
    assert loaded.dataset.class_names == tuple(sorted(folders))
    assert loaded.skipped == ()
    assert (loaded.dataset.images[:, 0, 0] == 255).mean() > 0.9  # white corners
