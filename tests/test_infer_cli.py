"""dcgan-infer as a user meets it: outputs by suffix, pictures that can be made again, and bad input in one line."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import MODELS, OLD
from PIL import Image

from dcgan_infer import ImageGenerator, inputs, runtime, shipped, writers
from dcgan_infer.cli import main
from dcgan_infer.contract.errors import OutputError
from dcgan_infer.contract.files import sha256_of
from dcgan_infer.contract.latents import latents
from dcgan_infer.writers import Plan, _folder_names

COLOUR, CLOTHES = (("--model", str(MODELS / f"{name}.onnx")) for name in ("colour", "clothes"))
DIGITS = ("--model", shipped.DEFAULT)
PLAIN = "dcgan-mnist"  # the unconditional model; tests/test_conditional.py is about the other


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["--provider", "cpu", "--model", PLAIN, *arguments])


def done(*arguments: str) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def picture_of(name: str | Path) -> Any:
    """A picture, whose type depends on its format: PNGs have text, GIFs frames."""
    return Image.open(name)


def pixels_of(path: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with picture_of(path) as picture:
        return np.asarray(picture.convert("L"))


def test_a_grid_shows_the_digits_row_by_row() -> None:
    result = done("--n", "6", "--scale", "1", "--out", "grid.png")
    assert result.stdout.startswith("grid.png: 6 digits in 2x3 (seed 7, 0 to 5) by dcgan-mnist on cpu")
    assert re.match(r"try: .* --seed 8 .*--n 6", result.stdout.splitlines()[-1])
    digits = ImageGenerator(PLAIN, provider="cpu").generate(6)
    assert np.array_equal(pixels_of("grid.png"), digits.reshape(2, 3, 28, 28).swapaxes(1, 2).reshape(56, 84))


def test_a_picture_is_large_enough_to_be_seen() -> None:
    for n, side in ((1, 504), (16, 448), (100, 560), (2500, 1400)):
        done("--n", str(n), "-o", "grid.png")
        with picture_of("grid.png") as picture:
            assert picture.size == (side, side)
            facts = picture.text
        done("--n", str(n), "--scale", facts.get("dcgan.scale", "1"), "-o", "again.png")
        assert np.array_equal(pixels_of("again.png"), pixels_of("grid.png"))
    done("--n", "3", "-o", "single/")
    assert pixels_of("single/0000000000.png").shape == (28, 28)


def test_a_number_is_written_by_hand() -> None:
    done(*DIGITS, "2026-11-25", "--scale", "1", "-o", "date.png")
    digits = ImageGenerator(shipped.DEFAULT, provider="cpu").generate(8, digits=[2, 0, 2, 6, 1, 1, 2, 5])
    blank = np.zeros((28, 28), np.uint8)
    assert np.array_equal(pixels_of("date.png"), np.hstack([*digits[:4], blank, *digits[4:6], blank, *digits[6:]]))
    with picture_of("date.png") as picture:
        facts = picture.text
    assert (facts["dcgan.text"], facts["dcgan.seed"], facts["dcgan.n"]) == ("2026-11-25", "7", "8")
    done(*DIGITS, "--text", "2026-11-25", "--scale", "1", "-o", "again.png")
    assert Path("again.png").read_bytes() == Path("date.png").read_bytes()
    done(*DIGITS, "2026-11-25", "--seed", "8", "--scale", "1", "-o", "again.png")
    assert not np.array_equal(pixels_of("again.png"), pixels_of("date.png"))
    done(*DIGITS, "\uff112\n3", "--start", "5", "--scale", "1", "-o", "lines.png")  # of full width; on two lines
    digits = ImageGenerator(shipped.DEFAULT, provider="cpu").generate(3, start=5, digits=[2, 3, 1])
    assert np.array_equal(
        pixels_of("lines.png"), np.vstack([np.hstack(list(digits[:2])), np.hstack([digits[2], blank])])
    )


@pytest.mark.parametrize(
    ("words", "status", "end"),
    [
        ((*DIGITS, "10\u00b2"), 1, "can't write '\u00b2'"),
        ((*DIGITS, "call 911"), 1, "can't write 'c': a text takes classes called by its letters"),
        (("--model", "dcgan-fashion-mnist-conditional", "7"), 1, "can't write '7'"),
        (("12",), 1, "model dcgan-mnist can't write '1'"),
        ((*DIGITS, "..."), 2, "there is nothing to write in '...'"),
        ((*DIGITS, "1" * 1001), 2, "a text has at most 1000 characters"),
        ((*DIGITS, "12", "--n", "3"), 2, "a text says how many images there are and of which classes"),
        ((*DIGITS, "12", "--text", "3"), 2, "TEXT ('12') and --text ('3') exclude each other"),
        ((*DIGITS, "12", "-o", "a.npy"), 2, "a text is written into one picture"),
        ((*DIGITS, "12", "-o", "a/"), 2, "a text is written into one picture"),
        ((*DIGITS, "12", "--grid", "1x2"), 2, "A text has its own layout"),
        ((*DIGITS, "12", "--interpolate", "4"), 2, "A text that changes is an animation"),
    ],
)
def test_what_can_not_be_written_is_said(words: tuple[str, ...], status: int, end: str) -> None:
    result = run(*words)
    assert result.exit_code == status
    assert end in result.stderr.splitlines()[-1]
    assert names(".") == []


def test_grid_and_scale() -> None:
    done("--n", "3", "--grid", "1x4", "--scale", "5", "-o", "wide.png")
    sheet = pixels_of("wide.png")
    assert sheet.shape == (140, 560)
    assert np.array_equal(sheet[::5, : 84 * 5 : 5], np.hstack(list(ImageGenerator(PLAIN, provider="cpu").generate(3))))
    assert np.array_equal(sheet[:, :5], np.repeat(sheet[:, :1], 5, axis=1))
    assert not sheet[:, 420:].any()


@pytest.mark.parametrize(("suffix", "kind", "off"), [("jpg", "JPEG", 60), ("jpeg", "JPEG", 60), ("webp", "WEBP", 0)])
def test_other_pictures(suffix: str, kind: str, off: int) -> None:
    done("-o", f"grid.{suffix}")
    done("-o", "grid.png")
    with picture_of(f"grid.{suffix}") as picture:
        assert picture.format == kind
    assert np.abs(pixels_of(f"grid.{suffix}").astype(int) - pixels_of("grid.png")).max() <= off


def test_arrays_hold_what_the_library_makes() -> None:
    generator = ImageGenerator(PLAIN, provider="cpu")
    done("--n", "37", "--seed", "3", "-o", "digits.npy")
    assert np.array_equal(np.load("digits.npy"), generator.generate(37, seed=3))
    done("--n", "37", "--seed", "3", "-o", "digits.npz")
    with np.load("digits.npz") as archive:
        assert np.array_equal(archive["images"], generator.generate(37, seed=3))
        assert json.loads(str(archive["facts"]))["dcgan.seed"] == "3"
    done("--n", "37", "--seed", "3", "--dtype", "float", "-o", "digits.npy")
    values = np.load("digits.npy")
    assert values.dtype == np.float32
    assert np.array_equal(np.rint((values + 1) * 127.5).clip(0, 255), generator.generate(37, seed=3))


def test_a_walk_is_an_animation_that_loops() -> None:
    done("--n", "3", "--interpolate", "4", "--scale", "1", "-o", "walk.gif")
    with picture_of("walk.gif") as animation:
        assert animation.n_frames == 12
        assert animation.info["loop"] == 0
        frames = []
        for index in range(12):
            animation.seek(index)
            frames.append(np.asarray(animation.convert("L")))
    digits = ImageGenerator(PLAIN, provider="cpu").generate(3)
    assert np.abs(np.stack(frames[::4]).astype(int) - digits).max() <= 1
    assert not np.array_equal(frames[1], frames[0])


def frames_of(path: str) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    with picture_of(path) as animation:
        frames = []
        for index in range(animation.n_frames):
            animation.seek(index)
            frames.append(np.asarray(animation.convert("L")))
    return frames


def test_a_walk_shows_the_same_classes_throughout() -> None:
    """A class can't be half another one: who saw it change saw a digit pop up."""
    generator = ImageGenerator(shipped.DEFAULT, provider="cpu")
    walk = ("--n", "2", "--interpolate", "2", "--scale", "1", "-o", "walk.gif")
    done(*DIGITS, "--digits", "38", *walk)
    first, _, second, _ = frames_of("walk.gif")
    for index, frame in ((0, first), (1, second)):
        expected = np.hstack([generator.generate(1, start=index, digits=digit)[0] for digit in (3, 8)])
        assert np.abs(frame.astype(int) - expected).max() <= 1
    done(*DIGITS, *walk)  # that of the first image
    label = int(generator.labels(1)[0])
    assert generator.labels(2)[1] != label
    for index, frame in enumerate(frames_of("walk.gif")[::2]):
        assert np.abs(frame.astype(int) - generator.generate(1, start=index, digits=label)[0]).max() <= 1
    done(*DIGITS, "3-8", "--start", "1", *walk[2:])
    first = frames_of("walk.gif")[0]
    three, eight = (generator.generate(1, start=1, digits=digit)[0] for digit in (3, 8))
    assert np.abs(first.astype(int) - np.hstack([three, np.zeros((28, 28)), eight])).max() <= 1
    done(*DIGITS, "--n", "40", "-o", "long.gif")  # smaller, as there are more of them
    assert frames_of("long.gif")[0].shape == (224, 224)
    done(*DIGITS, "--n", "3", "--interpolate", "4", "--scale", "1", "-o", "rows.png")  # each row has its own
    labels = generator.labels(3)
    for row in range(3):
        assert np.array_equal(
            pixels_of("rows.png")[28 * row : 28 * row + 28, :28],
            generator.generate(1, start=row, digits=int(labels[row]))[0],
        )


def test_pictures_of_classes_go_into_folders_of_their_names() -> None:
    done(*CLOTHES, "--n", "12", "-o", "a/")
    assert {path.name for path in Path("a").iterdir()} == {"T-shirt, top", "ankle boot", "sneaker"}
    labels = ImageGenerator(MODELS / "clothes.onnx", provider="cpu").labels(12)
    for index, label in enumerate(labels):
        name = ["sneaker", "ankle boot", "T-shirt, top"][label]
        assert (Path("a") / name / f"{index:010d}.png").is_file()
    done(*CLOTHES, "--n", "3", "--start", "12", "-o", "a/")
    assert len(list(Path("a").glob("*/*.png"))) == 15
    again = run(*CLOTHES, "--n", "1", "--start", "13", "--class", "sneaker", "-o", "a/")
    assert "already holds 1 of the files" in again.stderr
    assert _folder_names(["a/b", "a_b", "..", "Kitten", "kitten", "", "é: x"]) == [
        "class-0", "class-1", "class-2", "class-3", "class-4", "class-5", "é_ x",
    ]  # fmt: skip


def test_a_folder_of_single_pictures() -> None:
    done("--n", "3", "--start", "9", "--seed", "2", "-o", "digits/")
    assert names("digits") == ["0000000009.png", "0000000010.png", "0000000011.png"]
    assert np.array_equal(
        pixels_of("digits/0000000010.png"), ImageGenerator(PLAIN, provider="cpu").generate(1, seed=2, start=10)[0]
    )
    result = run("--n", "1", "--start", "11", "-o", "digits")
    assert result.exit_code == 1
    assert "already holds 1 of the files" in result.stderr
    done("--n", "1", "--start", "12", "-o", "digits")
    assert len(names("digits")) == 4


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("waits", [False, True])
def test_two_that_write_into_one_folder_do_not_overwrite_each_other(waits: bool, tmp_path: Path) -> None:
    """The other one is done while we still make images, or is just moving its files."""
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path / "digits"
    folder.mkdir()
    theirs: list[threading.Thread] = []

    def other(is_ready: threading.Event) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        is_ready.set()
        time.sleep(0.5 * waits)
        (folder / "0000000001.png").write_bytes(b"theirs")
        os.close(descriptor)

    def images() -> Iterator[np.ndarray[Any, Any]]:
        is_ready = threading.Event()
        theirs.append(threading.Thread(target=other, args=(is_ready,)))
        theirs[0].start()
        is_ready.wait()
        if not waits:
            theirs[0].join()
        yield np.zeros((3, 4, 4), np.uint8)

    plan = Plan(count=3, image_shape=(1, 4, 4))
    with pytest.raises(OutputError, match=r"already holds 1 of the files to be written, 0000000001.png first"):
        writers.save(folder, "folder", images(), plan)
    theirs[0].join()
    assert held(folder) == {"0000000001.png": b"theirs"}


def test_a_folder_gets_all_files_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("keep")
    rename = Path.rename

    def stopped(self: Path, target: Path) -> Path:
        if target.name == "0000000002.png":
            raise SystemExit(143)  # as SIGTERM ends a command
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(SystemExit):
        writers.save(tmp_path, "folder", iter([np.zeros((3, 4, 4), np.uint8)]), Plan(count=3, image_shape=(1, 4, 4)))
    assert held(tmp_path) == {"notes.txt": b"keep"}


def test_a_folder_without_locks_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*_arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    writers.save(tmp_path, "folder", iter([np.zeros((3, 4, 4), np.uint8)]), Plan(count=3, image_shape=(1, 4, 4)))
    assert len(held(tmp_path)) == 3


def test_the_text_of_a_png_makes_the_picture_again() -> None:
    np.save("z.npy", latents(5, 100, 4, 100))
    for number, arguments in enumerate(
        (
            ["--seed", "7", "--start", "30", "--grid", "1x5", "--scale", "2"],
            ["--latents", "z.npy"],
            ["--interpolate", "3"],
        )
    ):
        done("--n", "4", *arguments, "-o", "first.png")
        with picture_of("first.png") as picture:
            facts = picture.text
        assert facts["dcgan.provider"] == "cpu"
        assert facts["dcgan.model_sha256"] == sha256_of(shipped.path_of(PLAIN, ".onnx"))
        again = ["--model", facts["dcgan.model"], "--n", facts["dcgan.n"], "--start", facts["dcgan.start"]]
        for option in ("seed", "interpolate", "grid", "scale"):
            if f"dcgan.{option}" in facts:
                again += [f"--{option}", facts[f"dcgan.{option}"]]
        if number == 1:
            assert "dcgan.seed" not in facts
            again += ["--latents", "z.npy"]
        done(*again, "-o", "again.png")
        assert Path("again.png").read_bytes() == Path("first.png").read_bytes()


def test_pictures_of_a_folder_name_themselves() -> None:
    done("--n", "2", "--seed", "7", "--start", "5", "-o", "digits/")
    with picture_of("digits/0000000006.png") as picture:
        facts = picture.text
    assert (facts["dcgan.seed"], facts["dcgan.start"], facts["dcgan.n"]) == ("7", "6", "1")


def test_stdout_carries_the_picture_and_stderr_the_summary() -> None:
    result = run("--n", "4", "-o", "-")
    assert result.exit_code == 0
    with Image.open(io.BytesIO(result.stdout_bytes)) as picture:
        assert picture.size == (504, 504)
    assert result.stderr.startswith("stdout: 4 digits")
    result = run("--n", "4", "-o", "-", "--format", "npy")
    assert np.load(io.BytesIO(result.stdout_bytes)).shape == (4, 28, 28)


def test_json_tells_all() -> None:
    facts = json.loads(done("--n", "2", "--seed", "9", "-o", "grid.png", "--json").stdout)
    assert facts["out"] == "grid.png"
    assert (facts["n"], facts["seed"], facts["provider"], facts["provider_note"]) == (2, 9, "cpu", "")
    assert facts["images_per_second"] > 0


def test_lists() -> None:
    assert f"{shipped.DEFAULT}  (default)" in done("--list-models").stdout
    providers = json.loads(done("--list-providers", "--json").stdout)
    assert providers["cpu"] == {"works": True, "reason": ""}
    assert providers["cuda"]["works"] or providers["cuda"]["reason"]
    assert set(providers) >= set(runtime.providers(runtime.onnxruntime()))


def test_help_and_version() -> None:
    text = done("--help").stdout
    for part in ("dcgan-infer --n 16 --out grid.png", "[default: grid.png]", "--list-providers", "ROWSxCOLS"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 100
    assert done("--version").stdout.startswith("dcgan-infer, version ")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--n", "0"], 2, "'--n'"),
        (["--n", "many"], 2, "'--n'"),
        (["--seed", "-1"], 2, "'--seed'"),
        (["--seed", str(1 << 63)], 2, "'--seed'"),
        (["--threads", "0"], 2, "'--threads'"),
        (["--batch-size", "0"], 2, "'--batch-size'"),
        (["--provider", "tpu"], 1, "has no provider 'tpu'; it has "),
        (["--grid", "4by4"], 2, "is no grid"),
        (["--grid", "2x2"], 2, "has 4 places for 16 images"),
        (["--n", "0"], 2, "0 is not from 1 to 4294967296"),
        (["-o", "grid.bmp"], 2, "must end in"),
        (["-o", "s3.parquet"], 2, "give --out s3 --format parquet."),
        (["-o", "a.tar"], 2, "give --out a --format webdataset."),
        (["-5"], 2, "A text that begins with a dash is given with --text."),
        (["-o", ""], 2, "--out is empty"),
        (["--latents", "z.npy", "-o", "z.npy"], 2, "would overwrite --latents"),
        (["-o", "grid"], 2, "must end in"),
        (["-o", "x.png", "--format", "npy"], 2, "contradicts"),
        (["-o", "x.npy", "--grid", "4x4"], 2, "leave --grid out"),
        (["-o", "x.npy", "--scale", "2"], 2, "leave --scale out"),
        (["-o", "x.npy", "--interpolate", "3"], 2, "leave --interpolate out"),
        (["-o", "x.png", "--dtype", "float"], 2, "is for arrays"),
        (["-o", "x.gif", "--n", "1"], 2, "two latents or more"),
        (["--start", str((1 << 32) - 1)], 2, "past the last latent"),
        (["--latents", "z.npy", "--seed", "1"], 2, "exclude each other"),
        (["--latents", "none.npy"], 1, "can't read latents none.npy"),
        (["--latents", "narrow.npy"], 1, "must have shape (N, 100)"),
        (["--latents", "nan.npy"], 1, "latent 1 holds nan"),
        (["--latents", "text.npy"], 1, "is no .npy file"),
        (["--latents", "z.npy", "--n", "9"], 1, "holds 2 latents, asked for 9"),
        (["--latents", "z.npy", "--start", "2"], 2, "has the rows 0 to 1"),
        (["--model", "none.onnx"], 1, "there is no model 'none.onnx'"),
        (["--model", "text.npy"], 1, "can't use model text.npy"),
        (["-o", "missing/grid.png"], 1, "no such file or directory"),
        (["-o", "missing/digits/"], 1, "no such file or directory"),
        (["-o", "/dev/null/grid.png"], 1, "not a directory"),
        (["-o", "x" * 300 + ".png"], 1, "file name too long"),
        (["--model", "x" * 300], 1, "file name too long"),
        (["--latents", "x" * 300], 1, "file name too long"),
        (["--n", "100000000", "-o", "grid.png"], 1, "too many for one png"),
        (["--n", "2340", "--grid", "1x2340", "-o", "a.jpg"], 1, "65520x28 pixels are too many for one jpeg picture"),
        (
            ["--n", "900", "--truncation", "0", "-o", "a.gif"],
            1,
            "14400 frames of 28x28 pixels are too many",
        ),
        (["--model", shipped.DEFAULT, "--n", "9", "--digits", "0" * 40_000, "-o", "a.jpg"], 1, "a jpeg takes 65,533;"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(folder: Path, arguments: list[str], status: int, says: str) -> None:
    np.save("z.npy", np.zeros((2, 100), np.float32))
    np.save("narrow.npy", np.zeros((2, 99), np.float32))
    np.save("nan.npy", np.array([np.zeros(100), np.full(100, np.nan)], np.float32))
    Path("text.npy").write_text("no latents")
    before = sorted(folder.rglob("*"))
    result = run(*arguments)
    assert result.exit_code == status, result.output
    errors = [line for line in result.stderr.splitlines() if not line.startswith(("Usage: ", "Try "))]
    assert len([line for line in errors if line]) == 1, result.stderr
    assert says in result.stderr
    assert result.stdout == ""
    assert sorted(folder.rglob("*")) == before


def solid(kind: str, height: int = 4, count: int = 1, text: int = 0) -> Plan:
    """What a format is to store."""
    facts = {"a": "x" * (text - len('{"a": ""}'))}
    return Plan(count=count, image_shape=(1, height, 4), facts=facts)


@pytest.mark.parametrize("kind", writers.LIMITS)
def test_each_format_stores_what_its_limits_say_and_no_more(kind: str) -> None:
    limits = writers.LIMITS[kind]
    for at, past in (
        (solid(kind, height=limits.side), solid(kind, height=limits.side + 1)),
        (solid(kind, text=limits.text), solid(kind, text=limits.text + 1)),
    ):
        assert past.problem(kind)
        target = Path(f"a.{kind}")
        writers.save(target, kind, iter([np.zeros((1, *at.image_shape[1:]), np.uint8)]), at)
        with picture_of(target) as picture:
            picture.load()
            assert picture.size == (4, at.image_shape[1])


def test_frames_of_a_gif_may_all_be_equal() -> None:
    """Pillow makes one of them. Of 13,107 that takes it half a minute: here there are three, and each is longer."""
    most = writers.LIMITS["gif"].frames
    assert most * writers._FRAME_MS // 10 == 65_535
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers, "_FRAME_MS", writers._FRAME_MS * most // 3)
        writers.save(Path("a.gif"), "gif", iter([np.zeros((3, 4, 4), np.uint8)]), solid("gif", count=3))
        with pytest.raises(OutputError, match="can't write GIF: Pillow says: "):
            writers.save(Path("b.gif"), "gif", iter([np.zeros((4, 4, 4), np.uint8)]), solid("gif", count=4))
    with picture_of("a.gif") as animation:
        assert animation.info["duration"] == most * writers._FRAME_MS
    assert solid("gif", count=most + 1).problem("gif")
    assert solid("gif", count=most).problem("gif") is None


@pytest.mark.parametrize("kind", writers.LIMITS)
def test_what_pillow_raises_is_a_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_arguments: object, **_options: object) -> None:
        raise struct.error("'H' format requires 0 <= number <= 65535")

    monkeypatch.setattr(Image.Image, "save", fails)
    result = run("--n", "4", "--interpolate", "1", "-o", "-", "--format", kind)
    assert result.exit_code == 1
    assert f"can't write {kind.upper()}: Pillow says: 'H' format requires" in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout_bytes == b""


def test_stdout_needs_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container whose file system can only be read there is none."""

    def none() -> object:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", none)
    result = run("--n", "4", "-o", "-")
    assert result.exit_code == 0, result.output
    with Image.open(io.BytesIO(result.stdout_bytes)) as picture:
        assert picture.size == (504, 504)


def test_a_failure_halfway_keeps_the_older_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save("nan.npy", np.concatenate([np.zeros((200, 100)), np.full((1, 100), np.nan)]).astype(np.float32))
    for out in ("digits.npy", "digits.npz", "grid.png", "walk.gif"):
        Path(out).write_text("old")
        assert run("--latents", "nan.npy", "-o", out).exit_code == 1
        assert Path(out).read_text() == "old"
    assert run("--latents", "nan.npy", "-o", "digits/").exit_code == 1
    assert names(".") == ["digits.npy", "digits.npz", "grid.png", "nan.npy", "walk.gif"]


def command(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "dcgan_infer", *arguments], check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_the_real_command_is_quiet_and_refuses_cuda_with_status_1() -> None:
    good = command("--n", "4", "--out", "grid.png", capture_output=True)
    assert (good.returncode, good.stderr) == (0, b"")
    bad = command("--provider", "cuda", capture_output=True)
    if bad.returncode:  # a machine with CUDA makes a picture
        assert bad.returncode == 1
        assert bad.stderr.startswith(b"Error: CUDA ")
        assert bad.stderr.count(b"\n") == 1


def test_binary_data_is_kept_off_a_terminal() -> None:
    pty = pytest.importorskip("pty")
    keeper, terminal = pty.openpty()
    refused = command("-o", "-", stdout=terminal, stderr=subprocess.PIPE)
    os.close(terminal)
    os.close(keeper)
    assert refused.returncode == 2
    assert b"redirect it or pipe it on" in refused.stderr


def test_an_array_that_has_no_room_is_refused_before_the_work() -> None:
    result = run("--n", "4294967295", "-o", "big.npy")
    assert result.exit_code == 1
    assert "4,294,967,295 images have 3,367.3 GB, and" in result.stderr
    assert names(".") == []


def test_files_of_unequal_length_need_a_number() -> None:
    np.save("z.npy", np.zeros((4, 100), np.float32))
    Path("labels.txt").write_text("0 1 2 3 4 5")
    arguments = ("--model", "dcgan-mnist-conditional", "--latents", "z.npy", "--labels", "labels.txt", "-o", "a.png")
    result = run(*arguments)
    assert result.exit_code == 2
    assert "unequal numbers of rows, z.npy 4 and labels.txt 6; say how many with --n" in result.stderr
    done(*arguments, "--n", "3")


def test_a_closed_pipe_is_no_traceback() -> None:
    line = f"{sys.executable} -m dcgan_infer --n 2000 -o - --format npy | head -c 10 >/dev/null"
    finished = subprocess.run(["sh", "-c", line], capture_output=True, check=False)
    assert b"Traceback" not in finished.stderr


# Models of other images than grey ones: tests/fixtures/models/make.py.

SEEDED = ("--model", str(OLD / "conditional-seed.onnx"))


def coloured(path: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with picture_of(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_colour_pictures_of_every_kind() -> None:
    images = ImageGenerator(MODELS / "colour.onnx", provider="cpu").generate(6)
    sheet = images.reshape(2, 3, 4, 6, 3).swapaxes(1, 2).reshape(8, 18, 3)
    one = ("--n", "6", "--scale", "1")
    assert done(*COLOUR, *one, "-o", "grid.png").stdout.startswith("grid.png: 6 images in 2x3 (seed 7, 0 to 5)")
    assert np.array_equal(coloured("grid.png"), sheet)
    done(*COLOUR, *one, "-o", "grid.webp")
    assert np.array_equal(coloured("grid.webp"), sheet)
    done(*COLOUR, "--n", "6", "--scale", "8", "-o", "grid.jpg")
    assert np.abs(coloured("grid.jpg")[4::8, 4::8].astype(int) - sheet).mean() < 24
    done(*COLOUR, "--n", "6", "-o", "images/")
    assert np.array_equal(coloured("images/0000000004.png"), images[4])
    done(*COLOUR, *one, "--interpolate", "2", "-o", "walk.gif")
    with picture_of("walk.gif") as animation:
        assert animation.n_frames == 12
        animation.seek(2)
        assert np.abs(np.asarray(animation.convert("RGB")).astype(int) - images[1]).max() <= 8  # a palette of 256


def test_arrays_in_colour() -> None:
    generator = ImageGenerator(MODELS / "clothes.onnx", provider="cpu")
    done(*CLOTHES, "--n", "20", "-o", "a.npy")
    assert np.array_equal(np.load("a.npy"), generator.generate(20))
    done(*CLOTHES, "--n", "20", "-o", "a.npz")
    with np.load("a.npz") as archive:
        assert np.array_equal(archive["images"], generator.generate(20))
        assert np.array_equal(archive["labels"], generator.labels(20))
    done(*CLOTHES, "--n", "20", "--dtype", "float", "-o", "a.npy")
    values = np.load("a.npy")
    assert (values.dtype, values.shape) == (np.float32, (20, 3, 4, 6))
    assert 0.0 < values.min() < 0.2 < 0.8 < values.max() < 1.0
    assert np.array_equal(np.rint(values * 255).transpose(0, 2, 3, 1), generator.generate(20))


def test_images_of_other_channels_are_arrays_and_no_pictures() -> None:
    four = ("--model", str(MODELS / "four.onnx"), "--n", "3")
    done(*four, "-o", "a.npy")
    assert np.load("a.npy").shape == (3, 4, 6, 4)
    for out in ("grid.png", "walk.gif", "images/"):
        result = run(*four, "-o", out)
        assert result.exit_code == 1
        assert "pictures are grey or have 3 channels, and this model's have 4; write .npy or .npz" in result.stderr
        assert result.stderr.count("\n") == 1
    assert names(".") == ["a.npy"]


def test_classes_by_name_stand_in_columns_and_make_the_picture_again() -> None:
    named = ("--class", "T-shirt, top", "--class", "sneaker", "--scale", "1")
    assert "4 images in 2x2" in done(*CLOTHES, *named, "--n", "4", "-o", "a.png").stdout
    assert "2 images in 1x2" in done(*CLOTHES, "--class", "2", "--class", "0", "-o", "b.png").stdout
    images = ImageGenerator(MODELS / "clothes.onnx", provider="cpu").generate(4, classes=[2, 0])
    assert np.array_equal(coloured("a.png"), images.reshape(2, 2, 4, 6, 3).swapaxes(1, 2).reshape(8, 12, 3))
    with picture_of("a.png") as picture:
        facts = picture.text
    assert "dcgan.digits" not in facts
    again = [word for name in facts["dcgan.class"].split("\n") for word in ("--class", name)]
    done(*CLOTHES, *again, "--n", facts["dcgan.n"], "--scale", "1", "-o", "c.png")
    assert Path("c.png").read_bytes() == Path("a.png").read_bytes()


def test_a_class_of_a_model_of_digits_is_a_digit() -> None:
    for number, option in enumerate(("--digit", "--class")):
        done("--model", shipped.DEFAULT, option, "7", "--n", "4", "-o", f"{number}.png")
    assert Path("0.png").read_bytes() == Path("1.png").read_bytes()
    with picture_of("1.png") as picture:
        assert picture.text["dcgan.digits"] == "7"


def test_texts_that_are_no_letters_are_no_labels() -> None:
    np.save("labels.npy", np.array([[0x7FFFFFFF, 65]], "<u4").view("<U2")[0])
    result = run("--model", shipped.DEFAULT, "--labels", "labels.npy", "-o", "a.png")
    assert result.exit_code == 1
    assert "labels.npy holds no labels" in result.stderr


@pytest.mark.filterwarnings("error")
def test_an_odd_header_is_no_warning() -> None:
    np.save("z.npy", np.zeros((2, 100), np.float32))
    content = Path("z.npy").read_bytes()
    Path("z.npy").write_bytes(content.replace(b"'descr'", b"'de\\qr'"))
    result = run("--latents", "z.npy", "-o", "a.png")
    assert result.exit_code == 1
    assert "z.npy is no .npy file" in result.stderr


def test_labels_of_a_file_may_be_names() -> None:
    Path("names.txt").write_text("ankle boot\nT-shirt, top\n\n  sneaker\n")
    Path("numbers.txt").write_text("1, 2 0")
    for name in ("names", "numbers"):
        done(*CLOTHES, "--labels", f"{name}.txt", "-o", f"{name}.npz")
        with np.load(f"{name}.npz") as archive:
            assert archive["labels"].tolist() == [1, 2, 0]
    done(*CLOTHES, "--labels", "names.txt", "--start", "1", "-o", "later.npz")
    with np.load("later.npz") as archive, np.load("names.npz") as whole:
        assert archive["labels"].tolist() == [2, 0]
        assert np.array_equal(archive["images"], whole["images"][1:])


def piped(module: str, *words: str, **files: bytes) -> subprocess.CompletedProcess[bytes]:
    """A command with options that are pipes, which can be read once, as a shell's <(...) makes them."""

    def fill(writer: int, content: bytes) -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "wb") as file:
            file.write(content)

    readers = []
    for option, content in files.items():
        reader, writer = os.pipe()
        readers.append(reader)
        threading.Thread(target=fill, args=(writer, content)).start()
        words = (*words, f"--{option}", f"/dev/fd/{reader}")
    command = [sys.executable, "-c", f"from dcgan_infer.{module} import main; main()", *words]
    result = subprocess.run(command, pass_fds=readers, capture_output=True, check=False, timeout=60)
    for reader in readers:
        os.close(reader)
    return result


def test_pipes_are_read_once_and_their_digests_recorded() -> None:
    z = io.BytesIO()
    np.save(z, latents(5, 0, 3, 5))
    model, labels = (MODELS / "clothes.onnx").read_bytes(), b"2\n0\n1\n"
    result = piped("cli", "--scale", "1", "-o", "a.png", model=model, labels=labels, latents=z.getvalue())
    assert (result.returncode, result.stderr) == (0, b"")
    with picture_of("a.png") as picture:
        facts = picture.text
    digests = {f"dcgan.{name}_sha256" for name in ("model", "labels", "latents")}
    assert {facts[key] for key in digests} == {
        hashlib.sha256(each).hexdigest() for each in (model, labels, z.getvalue())
    }
    expected = ImageGenerator(MODELS / "clothes.onnx", provider="cpu").generate_from(latents(5, 0, 3, 5), [2, 0, 1])
    assert np.array_equal(coloured("a.png")[:4, :6], expected[0])
    golden = (MODELS / "clothes.golden").read_bytes()
    result = piped("verify_cli", str(MODELS / "clothes.onnx"), golden=golden)
    assert b"its images are those of its checkpoint: no pixel differs" in result.stdout
    result = piped("cli", "-o", "a.png", latents=z.getvalue()[:-1])
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert b"is no .npy file, or a truncated one" in result.stderr


@pytest.mark.parametrize(
    "content",
    [
        b"2,0,1,\r\n",
        b"\xef\xbb\xbf2\r\n0\r\n1\r\n",
        "\ufeff2\r\n0\r\n1".encode("utf-16-le"),
        b"\xef\xbb\xbfT-shirt, top\r\nsneaker\r\nankle boot\r\n\r\n",
        b"T-shirt, top,\nsneaker,\nankle boot,\n",
        b"T-shirt, top,\nsneaker ,\nankle boot",
        b"T-shirt, top\rsneaker\rankle boot",
        b"npy",
    ],
)
def test_labels_are_read_as_programs_write_them(content: bytes) -> None:
    if content == b"npy":  # whatever its name is
        file = io.BytesIO()
        np.save(file, np.array([2, 0, 1], np.uint8))
        content = file.getvalue()
    Path("labels.txt").write_bytes(content)
    done(*CLOTHES, "--labels", "labels.txt", "-o", "a.npz")
    with np.load("a.npz") as archive:
        assert archive["labels"].tolist() == [2, 0, 1]


def test_latents_of_a_file_are_mapped_and_of_any_order() -> None:
    z = latents(0, 0, 3, 5)
    np.save("z", np.asfortranarray(z))
    rows = inputs.load(Path("z.npy"))
    assert isinstance(rows.content, mmap.mmap)
    assert np.array_equal(rows.values, z)
    assert rows.sha256 == sha256_of(Path("z.npy"))


def test_classes_are_listed() -> None:
    assert done(*CLOTHES, "--list-classes").stdout == "sneaker\nankle boot\nT-shirt, top\n"
    assert json.loads(done(*CLOTHES, "--list-classes", "--json").stdout)["classes"][0] == "sneaker"
    assert done(*COLOUR, "--list-classes").stdout.endswith("has no classes\n")


def test_a_model_that_takes_a_seed() -> None:
    Path("labels.txt").write_text("0 1 2 3 4 5 6 7")
    for number, form in enumerate(("seed", "uint8")):
        model = ("--model", str(OLD / f"conditional-{form}.onnx"))
        done(*model, "--n", "6", "--start", "5", "--seed", "3", "-o", f"{number}.png")
        done(*model, "--n", "6", "--start", "5", "--seed", "3", "--digits", "42", "-o", f"{number}.npz")
        done(*model, "--labels", "labels.txt", "--start", "2", "-o", f"labels{number}.npz")
    assert np.array_equal(pixels_of("0.png"), pixels_of("1.png"))
    for name in ("", "labels"):
        with np.load(f"{name}0.npz") as ours, np.load(f"{name}1.npz") as theirs:
            assert np.array_equal(ours["labels"], theirs["labels"])
            assert np.array_equal(ours["images"], theirs["images"])


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ([*CLOTHES, "--class", "sneeker"], 1, "did you mean sneaker? its classes are sneaker, ankle boot, T-shirt"),
        ([*CLOTHES, "--digit", "1"], 1, "not the ten digits; ask for a class"),
        ([*CLOTHES, "--labels", "hats.txt"], 1, "no class 'hat'"),
        ([*CLOTHES, "--class", "1", "--digit", "1"], 2, "--class and --digits exclude each other"),
        ([*CLOTHES, "--class", "1", "--labels", "hats.txt"], 2, "--class and --labels exclude each other"),
        ([*COLOUR, "--class", "1"], 1, "colour is unconditional"),
        ([*SEEDED, "--latents", "z.npy"], 1, "so --latents can't be had"),
        ([*SEEDED, "--truncation", "1"], 1, "so --truncation can't be had"),
        ([*SEEDED, "--interpolate", "3"], 1, "so a walk (--interpolate, .gif)"),
        ([*SEEDED, "-o", "a.gif"], 1, "so a walk (--interpolate, .gif)"),
        ([*SEEDED, "--n", "10001", "-o", "a.npy"], 1, "10,000 at most"),
        ([*SEEDED, "--dtype", "float", "-o", "a.npy"], 1, "gives uint8, no floats"),
        (["--model", str(OLD / "run")], 1, "is a run folder; make an ONNX file of it: dcgan-export "),
        (["--model", str(OLD / "conditional.safetensors")], 1, "this is a safetensors checkpoint"),
        (["--model", str(OLD / "state_dict.pt")], 1, "this is a checkpoint as torch.save writes it"),
    ],
)
def test_what_a_model_has_not_is_said_in_a_line(arguments: list[str], status: int, says: str) -> None:
    Path("hats.txt").write_text("hat\n")
    np.save("z.npy", np.zeros((2, 7), np.float32))
    result = run(*arguments)
    assert result.exit_code == status, result.output
    errors = [line for line in result.stderr.splitlines() if line and not line.startswith(("Usage: ", "Try "))]
    assert len(errors) == 1, result.stderr
    assert says in result.stderr
    assert names(".") == ["hats.txt", "z.npy"]
