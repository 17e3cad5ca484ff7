"""What fuzz.py damages: each parser with right files, and each command with an argument that is such a file.

A target writes the damaged file under a name into an empty folder, and reads it there as the commands do. Reading must
end with a result, or with an error that the target names as its way to refuse.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import importlib.util
import io
import itertools
import json
import os
import shutil
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import click
import numpy as np
import numpy.typing as npt
from click.testing import CliRunner
from mutations import mutated
from PIL import Image

from dcgan_infer import shipped
from dcgan_infer.contract.errors import DatasetError, DcganError
from dcgan_infer.contract.golden import parse_golden
from dcgan_infer.contract.spec import GeneratorSpec, Interface, dcgan_spec, reference_spec, trained_on
from dcgan_infer.contract.vectors import read_vectors
from dcgan_infer.onnx_outline import read_outline

ROOT = Path(__file__).resolve().parent.parent.parent
MODELS = ROOT / "tests" / "fixtures" / "models"
OLD = ROOT / "tests" / "fixtures" / "0.1"
EVALUATOR = shipped.FOLDER / "evaluator" / "mnist-evaluator.onnx"


class Target(NamedTuple):
    """A parser.

    Attributes:
        file: name that the damaged file gets.
        seeds: gives the right files.
        form: of them, a key of `mutations.FORMS`; empty for bytes alone.
        read: reads the file.
        refuses: the errors that refuse a file.
        beside: gives files that lie beside it, by name.
        torch: whether it needs torch.
    """

    file: str
    seeds: Callable[[], list[bytes]]
    form: str
    read: Callable[[Path], object]
    refuses: tuple[type[Exception], ...] = (DcganError,)
    beside: Callable[[], dict[str, bytes]] = dict
    torch: bool = False

    def damage(self, random: Random, folder: Path) -> Path:
        """Write a damaged file, and what lies beside it."""
        for name, content in self.beside().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of zipfile, which is asked to write two files of a name
            path.write_bytes(mutated(random, self.seeds(), self.form))
        return path


def _of(*paths: Path) -> Callable[[], list[bytes]]:
    return functools.cache(lambda: [path.read_bytes() for path in paths])


# Right files


def _npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@functools.cache
def _latents() -> list[bytes]:
    values = np.random.default_rng(0).normal(size=(4, 5))
    return [_npy(values.astype(kind)) for kind in ("<f4", "<f8", "<f2", ">f4")]


@functools.cache
def _npz() -> list[bytes]:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    arrays: list[dict[str, Any]] = [
        {"images": images, "labels": np.arange(20) % 2},
        {"images": images[:, None] / 127.5 - 1.0},
        {"images": np.stack([images] * 3, 3)},
    ]
    files = []
    for each, save in zip(arrays, (np.savez, np.savez_compressed, np.savez), strict=True):
        file = io.BytesIO()
        save(file, **each)
        files.append(file.getvalue())
    return files


@functools.cache
def _idx() -> list[bytes]:
    plain = bytes((0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 4)) + bytes(range(48))
    return [plain, bytes((0, 0, 8, 1, 0, 0, 0, 9)) + bytes(9), gzip.compress(plain, mtime=0)]


def _waves(side: int = 24) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[:side, :side]
    return np.stack([x * 9 % 256, y * 7 % 256, x * y % 256], 2).astype(np.uint8)


def _picture(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    image = Image.fromarray(_waves())
    if mode == "F":
        image = Image.fromarray(_waves()[..., 0].astype(np.float32) / 255)
    image = Image.fromarray(_waves()[..., 0].astype(np.uint16) * 200) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _frames() -> list[Image.Image]:
    return [Image.fromarray(255 - _waves()), Image.fromarray(_waves() // 2)]


@functools.cache
def _pngs() -> list[bytes]:
    return [
        _picture("PNG"), _picture("PNG", "L"), _picture("PNG", "P", transparency=3), _picture("PNG", "RGBA"),
        _picture("PNG", "I;16"), _picture("PNG", "1"), _picture("PNG", save_all=True, append_images=_frames()),
    ]  # fmt: skip


@functools.cache
def _jpegs() -> list[bytes]:
    turned = Image.Exif()
    turned[0x0112] = 6
    return [
        _picture("JPEG", exif=turned),
        _picture("JPEG", "L"),
        _picture("JPEG", progressive=True),
        _picture("JPEG", "CMYK"),
    ]


@functools.cache
def _webps() -> list[bytes]:
    return [
        _picture("WEBP"), _picture("WEBP", lossless=True), _picture("WEBP", "RGBA"),
        _picture("WEBP", save_all=True, append_images=_frames()),
    ]  # fmt: skip


@functools.cache
def _gifs_and_bmps() -> list[bytes]:
    return [
        _picture("GIF", "P"), _picture("GIF", "P", transparency=2),
        _picture("GIF", save_all=True, append_images=_frames()),
        _picture("BMP"), _picture("BMP", "P"), _picture("BMP", "1"),
    ]  # fmt: skip


@functools.cache
def _tiffs() -> list[bytes]:
    kinds = ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
    return [*(_picture("TIFF", compression=kind) for kind in kinds), _picture("TIFF", "I;16"), _picture("TIFF", "F")]


@functools.cache
def _zips() -> list[bytes]:
    files = []
    for classes, method in ((("a", "b"), zipfile.ZIP_DEFLATED), (("",), zipfile.ZIP_STORED)):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for number in range(20):
                content = io.BytesIO()
                Image.fromarray(np.roll(_waves(8), number, 0)).save(content, "PNG")
                folder = classes[number % len(classes)]
                info = zipfile.ZipInfo(f"{folder}/{number}.png".lstrip("/"))
                info.compress_type = method
                archive.writestr(info, content.getvalue())
        files.append(packed.getvalue())
    return files


@functools.cache
def _set_of_shards(form: str) -> dict[str, bytes]:
    """A finished set, by name."""
    from dcgan_infer.cli import main

    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, at(Path(name)):
        words = ["--model", str(MODELS / "clothes.onnx"), "--provider", "cpu", "--n", "6", "--shard-size", "4"]
        done = CliRunner().invoke(main, [*words, "--format", form, "-o", "set"])
        assert done.exit_code == 0, done.output
        return {str(path.relative_to(name)): path.read_bytes() for path in Path(name).rglob("*") if path.is_file()}


@functools.cache
def _specs() -> list[bytes]:
    named = dcgan_spec(8, (3, 16, 16), 2, ("fox", "hound"), 4)
    specs = [reference_spec(7, (1, 12, 12), 3), named, GeneratorSpec(5, (3, 4, 6))]
    first = {
        "schema": 1, "latent_dim": 100, "latent_distribution": "standard-normal", "num_classes": 10,
        "image_shape": [1, 28, 28], "value_range": [-1, 1], "channels": [256, 128, 64], "activation": "leaky-relu:0.2",
    }  # fmt: skip
    return [*(spec.to_json().encode() for spec in specs), json.dumps(first).encode()]


@functools.cache
def _recipes() -> list[bytes]:
    return [b'{"dataset": "mnist", "name": "fast", "epochs": 14}', b'{"dataset": "images", "folder": "icons"}']


@functools.cache
def _statements() -> list[bytes]:
    said = {"image_shape": [3, 16, 16], "class_names": ["a", "b"], "dataset": "mine", "accuracy": 0.9, "training": "ab"}
    return [json.dumps({**said, "schema": 1}).encode()]


@functools.cache
def _theirs() -> list[bytes]:
    """What torch.save writes: as a zip, as before torch 1.6, and with more in it than tensors."""
    import torch

    tensors = torch.load(OLD / "state_dict.pt", weights_only=True)
    files = [(OLD / "state_dict.pt").read_bytes()]
    for content, options in (
        (tensors, {"_use_new_zipfile_serialization": False}),
        ({"epoch": 3, "netG": tensors, "args": {"lr": 0.1}, "optimizer": {"state": {0: tensors["bn1.bias"]}}}, {}),
    ):
        file = io.BytesIO()
        torch.save(content, file, **options)
        files.append(file.getvalue())
    return files


PICTURES = "pictures.zip"
_SMALL = ("--ngf", "2", "--latent-dim", "4")
_TRAIN = (
    "--images", PICTURES, "--size", "8", "--recipe", "images", "--epochs", "1", "--batch-size", "8", "--ndf", "2",
    "--threads", "1", "--device", "cpu", "--lr-schedule", "constant", "--discriminator", "dcgan", "--labels", "none",
)  # fmt: skip


@functools.cache
def _run() -> dict[str, bytes]:
    """A finished run of one epoch, which can be made longer; without its times, so that it is the same each time."""
    from dcgan.checkpoint import load_training_state, save_training_state
    from dcgan.cli import main

    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, at(Path(name)):
        folder = Path(name)
        (folder / PICTURES).write_bytes(_zips()[0])
        done = CliRunner().invoke(main, [*_TRAIN, *_SMALL, "-o", "run"])
        assert done.exit_code == 0, done.output
        options = json.loads((folder / "run" / "options.json").read_text())
        options["options"]["data_dir"] = PICTURES
        path = folder / "run" / "checkpoint.safetensors"
        tensors, state = load_training_state(path)
        for row in state["rows"]:
            row |= {"seconds": 1.0, "images_per_second": 1.0}
        spec = dcgan_spec(4, (3, 8, 8), ngf=2)
        save_training_state(path, tensors, state | {"epoch_seconds": 0.0}, spec, "{}")
        kept = ("checkpoint.safetensors", "generator.safetensors")
        files = {f"run/{each}": (folder / "run" / each).read_bytes() for each in kept}
        return {PICTURES: _zips()[0], "run/options.json": json.dumps(options).encode(), **files}


# How they are read


def _read_idx(path: Path) -> object:
    from dcgan.idx import read_idx

    return read_idx(path)


def _text(path: Path) -> str:
    """As metadata reach us: text, whatever the bytes are."""
    return path.read_bytes().decode("utf-8", "replace")


def _read_spec(path: Path) -> object:
    spec = GeneratorSpec.from_json(_text(path))
    assert GeneratorSpec.from_json(spec.to_json()) == spec
    return spec.multiply_adds, spec.interface, spec.labels, spec.activation


def _read_latents(path: Path) -> object:
    from dcgan_infer.inputs import checked, load

    return checked(load(path).values[:16], 5)


def _read_labels(path: Path) -> object:
    from dcgan_infer.inputs import class_numbers, load_labels

    return class_numbers(load_labels(path).values[:16], Interface(num_classes=3, class_names=("fox", "red hound", "7")))


def _read_manifest(path: Path) -> object:
    from dcgan_infer.verify import verify

    return verify(path.parent / "m.onnx", MODELS / "colour.golden", threads=1).table()


def _go_on_with_shards(path: Path) -> object:
    from dcgan_infer.request import SHARDS, Request, Sharding
    from dcgan_infer.shards.make import make_shards

    place = path.parent.parent if path.parent.name == ".shards" else path.parent
    wish = Request(place, SHARDS, 6, model=str(MODELS / "clothes.onnx"), provider="cpu", sharding=Sharding("npy", 4))
    made = make_shards(wish)
    assert made.sha256 == json.loads(_set_of_shards("npy")["set/manifest.json"])["sha256"]
    return made.missing


def _read_shards(path: Path) -> object:
    from dcgan_infer.shards.images import ShardedImages

    images = ShardedImages(str(path.parent))
    return images[0], len(images), list(itertools.islice(images.batches(), 4))


def _shards(name: str, form: str, read: Callable[[Path], object]) -> Target:
    """A file of a set of shards, damaged; the others lie beside it."""
    file = {"webdataset": "images-00000-of-00002.tar"}.get(form, f"images-00000-of-00002.{form}")
    path = f"set/{name or file}"
    kind = "json" if name else "npy" if form == "npy" else ""
    return Target(path, lambda: [_set_of_shards(form)[path]], kind, read, beside=lambda: _set_of_shards(form))


def _verify_model(path: Path) -> object:
    from dcgan_infer.verify import verify

    report = verify(path, MODELS / "clothes.golden", against=MODELS / "clothes.onnx", n=2, threads=1)
    json.dumps(report.as_dict(), allow_nan=False)
    return report.table()


def _verify_golden(path: Path) -> object:
    from dcgan_infer.verify import verify

    return verify(MODELS / "colour.onnx", path, threads=1).table()


def _make_images(path: Path) -> object:
    from dcgan_infer.generator import ImageGenerator

    generator = ImageGenerator(path, provider="cpu", threads=1)
    images = generator.generate(2)
    return images, generator.model.multiply_adds, trained_on(generator.model.metadata.get("dcgan.recipe", ""))


def _read_run(path: Path) -> object:
    from dcgan.run_options import images_sha256_of, longer, read_options

    options = read_options(path.parent)
    return longer(options, options.recipe.epochs), options.provenance, images_sha256_of(path.parent)


def _read_picture(path: Path) -> object:
    from dcgan.listing import is_picture, read
    from dcgan.picture import options_of, pixels_of

    is_picture(path.name, path)
    for channels in ("auto", "grey"):
        pixels = pixels_of(read(path, 1 << 28), options_of(16, channels, "white"))
        if isinstance(pixels, str):
            raise DatasetError(pixels)
        assert pixels.shape[:2] == (16, 16)
        assert pixels.dtype == np.uint8
    return None


def _read_archive(path: Path) -> object:
    from dcgan.images import load_images

    loaded = load_images(path, size=8, workers=1, cache=path.parent / "cache")
    text = "".join(loaded.lines())
    assert text.isprintable(), repr(text)
    return loaded


def _read_images(path: Path) -> object:
    from dcgan.sources import open_images

    return open_images(str(path), threads=1)(4, 0)


def _read_statement(path: Path) -> object:
    from dcgan.metrics.evaluator import Statement

    return Statement.from_json(_text(path)).to_json()


def _read_evaluator(path: Path) -> object:
    from dcgan.metrics.evaluator import Evaluator

    return Evaluator(path, threads=1).judge(_digits())


def _read_features(path: Path) -> object:
    from dcgan.metrics.feature_model import FeatureModel

    return FeatureModel(path, threads=1).judge(_digits())


def _digits() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (2, 28, 28), np.uint8)


def _load_generator(path: Path) -> object:
    import torch

    from dcgan.checkpoint import load_generator

    checkpoint = load_generator(path)
    torch.set_num_threads(1)
    with torch.inference_mode():
        label = torch.zeros(2, dtype=torch.int64) if checkpoint.spec.num_classes else None
        return checkpoint.module(torch.zeros(2, checkpoint.spec.latent_dim), label), trained_on(checkpoint.recipe)


def _load_state(path: Path) -> object:
    from dcgan.checkpoint import load_training_state

    return load_training_state(path)


# What a word of a command line may be, after which option of which command; `parse` alone where more would take long.
_OPTIONS = [
    ("infer", "--grid"), ("infer", "--digits"), ("infer", "--class"), ("infer", "--n"), ("infer", "--seed"),
    ("infer", "--start"), ("infer", "--truncation"), ("infer", "--scale"), ("infer", "--format"), ("infer", "--digit"),
    ("infer", "--interpolate"), ("infer", "--model"), ("infer", "--latents"), ("infer", "--labels"),
    ("infer", "--threads"),
    ("verify", "--sha256"), ("verify", "--against"), ("verify", "-n"), ("verify", "--golden"), ("verify", "--seed"),
    ("bench", "--batch"), ("bench", "--threads"), ("export", "--activation"), ("export", "--class-names"),
    ("export", "--batch-norm-eps"), ("export", "--opset"), ("export", "--value-range"), ("export", "--key"),
    ("train", "--g-activation"), ("train", "--lr"), ("train", "--size"), ("train", "--seed"), ("train", "--ema-decay"),
    ("eval", "-n"), ("eval", "--seeds"), ("eval", "--split"), ("eval", "--size"), ("train", "--background"),
]  # fmt: skip


def _run_options(path: Path) -> None:
    content = path.read_bytes()
    word = content.decode("utf-8", "surrogateescape").replace("\0", "")
    command, option = _OPTIONS[zlib.crc32(content) % len(_OPTIONS)]
    model = str(MODELS / "clothes.onnx")
    if command == "infer":
        rest = ["--model", model, "--provider", "cpu", "--threads", "1"]
        size = ["--n", "2"] if option not in ("--n", "--digits", "--labels", "--latents") else []
        in_process(command, [*rest, *size, "-o", "out.npy", option, word])
    elif command == "verify":
        in_process(command, [model, option, word])
    else:
        with contextlib.suppress(click.exceptions.Exit):  # of --help
            main_of(command).make_context(f"dcgan-{command}", [option, word])


_WORDS = [
    b"4x8", b"0123456789", b"3,1,4", b"sneaker", b"T-shirt, top", b"16", b"0.7", b"leaky-relu:0.2", b"1e-3", b"a,b,c",
    b"9223372036854775807", b"-1,1", b"#ff0000", b"m.onnx", b"a" * 64, b"gif", b"test", b"1,16",
]  # fmt: skip

TARGETS = {
    "idx": Target("x-ubyte", _idx, "idx", _read_idx),
    "spec": Target("spec.json", _specs, "json", _read_spec),
    "recipe": Target("recipe.json", _recipes, "json", lambda path: trained_on(_text(path))),
    "statement": Target("s.json", _statements, "json", _read_statement, (ValueError,)),
    "latents": Target("z.npy", _latents, "npy", _read_latents),
    "labels": Target(
        "labels.txt", lambda: [b"0 1 2\n2,1", b"fox\nred hound\n7\n", b"2\r\n1\r\n"], "text", _read_labels
    ),
    "labels-npy": Target(
        "labels.npy", lambda: [_npy(np.arange(3)), _npy(np.array([2, 0], np.uint8))], "npy", _read_labels
    ),
    "golden": Target(
        "m.golden", _of(MODELS / "clothes.golden", MODELS / "colour.golden"), "safetensors",
        lambda path: parse_golden(path.read_bytes(), path),
    ),
    "vectors": Target(
        "index.json", _of(OLD / "vectors" / "index.json"), "json", lambda path: read_vectors(path.parent),
        (OSError, ValueError, KeyError), lambda: {file.name: file.read_bytes() for file in (OLD / "vectors").iterdir()},
    ),
    "manifest": Target(
        "SHA256SUMS", lambda: [b"%064x  m.onnx\n%064x *other.onnx\n" % (7, 8)], "text", _read_manifest,
        beside=lambda: {"m.onnx": (MODELS / "colour.onnx").read_bytes()},
    ),
    "shards-plan": _shards(".shards/plan.json", "npy", _go_on_with_shards),
    "shards-receipt": _shards(".shards/images-00000-of-00002.npy.json", "npy", _go_on_with_shards),
    "shards-manifest": _shards("manifest.json", "npy", _read_shards),
    "shards-npy": _shards("", "npy", _read_shards),
    "shards-tar": _shards("", "webdataset", _read_shards),
    **({"shards-parquet": _shards("", "parquet", _read_shards)} if importlib.util.find_spec("pyarrow") else {}),
    "outline": Target(
        "m.onnx", _of(MODELS / "clothes-uint8.onnx", OLD / "conditional-seed.onnx"), "protobuf",
        lambda path: read_outline(path.read_bytes()).custom,
    ),
    "onnx": Target(
        "m.onnx", _of(*sorted(MODELS.glob("*.onnx")), *sorted(OLD.glob("*.onnx"))), "protobuf", _make_images
    ),
    "checks": Target("m.onnx", _of(MODELS / "clothes.onnx", MODELS / "clothes-uint8.onnx"), "protobuf", _verify_model),
    "checks-golden": Target("m.golden", _of(MODELS / "colour.golden"), "safetensors", _verify_golden),
    "options": Target("word", lambda: _WORDS, "text", _run_options, (click.UsageError, DcganError)),
    "run-options": Target("options.json", _of(OLD / "run" / "options.json"), "json", _read_run),
    "png": Target("p.png", _pngs, "png", _read_picture),
    "jpeg": Target("p.jpg", _jpegs, "", _read_picture),
    "webp": Target("p.webp", _webps, "", _read_picture),
    "gif-bmp": Target("p.gif", _gifs_and_bmps, "", _read_picture),
    "tiff": Target("p.tiff", _tiffs, "", _read_picture),
    "zip": Target("pictures.zip", _zips, "zip", _read_archive),
    "npz": Target("images.npz", _npz, "zip", _read_images),
    "evaluator": Target("e.onnx", _of(EVALUATOR), "protobuf", _read_evaluator),
    "features": Target("e.onnx", _of(EVALUATOR), "protobuf", _read_features),
    "safetensors": Target(
        "g.safetensors", _of(OLD / "conditional.safetensors", OLD / "leaky.safetensors"), "safetensors",
        _load_generator, torch=True,
    ),
    "pt": Target("g.pt", _theirs, "zip", _load_generator, torch=True),
    "pickle": Target("g.pt", lambda: _theirs()[1:2], "pickle", _load_generator, torch=True),
    "artifact": Target(
        "g.pth", _of(OLD / "conditional.pt", OLD / "conditional.pt2"), "zip", _load_generator, torch=True
    ),
    "state": Target(
        "checkpoint.safetensors", lambda: [_run()["run/checkpoint.safetensors"]], "safetensors", _load_state, torch=True
    ),
}  # fmt: skip


# Commands


class Job(NamedTuple):
    """A command with a damaged file.

    Attributes:
        command: `infer` for dcgan-infer, and so on.
        target: what is damaged.
        words: of the command line, in the folder of the file.
        leaves: names that it may leave there.
        says: whether it has something to say on stderr before it fails.
    """

    command: str
    target: Target
    words: tuple[str, ...]
    leaves: tuple[str, ...] = ()
    says: bool = False


_INFER = ("--provider", "cpu", "--threads", "1")
_CLOTHES = str(MODELS / "clothes.onnx")


def _in_run(name: str) -> Target:
    form = "json" if name.endswith(".json") else "safetensors"
    return Target(f"run/{name}", lambda: [_run()[f"run/{name}"]], form, str, beside=_run, torch=True)


def _with_real_images(target: Target) -> Target:
    return target._replace(beside=lambda: {"real.zip": _zips()[0], "some.npz": _npz()[0]})


_REAL = ("--images", "real.zip", "--size", "28", "--threads", "1", "-n", "10")
JOBS = {
    "infer-model": Job("infer", TARGETS["onnx"], ("--model", "m.onnx", *_INFER, "-n", "3", "-o", "a.png"), ("a.png",)),
    "infer-classes": Job("infer", TARGETS["onnx"], ("--model", "m.onnx", "--list-classes", "--json")),
    "infer-latents": Job(
        "infer", TARGETS["latents"], ("--model", _CLOTHES, *_INFER, "--latents", "z.npy", "-o", "a.npz"), ("a.npz",)
    ),
    "infer-labels": Job(
        "infer", TARGETS["labels"], ("--model", _CLOTHES, *_INFER, "--labels", "labels.txt", "-o", "a/"), ("a",)
    ),
    "verify-model": Job("verify", TARGETS["checks"], ("m.onnx", "--threads", "1", "--against", _CLOTHES)),
    "verify-golden": Job(
        "verify", TARGETS["checks-golden"], (str(MODELS / "colour.onnx"), "--golden", "m.golden", "--json")
    ),
    "verify-manifest": Job("verify", TARGETS["manifest"], ("m.onnx", "--threads", "1")),
    "bench-model": Job(
        "bench", TARGETS["onnx"],
        ("m.onnx", "--rounds", "1", "--burst", "0.002", "--rest", "0", "--threads", "1", "--batch", "2"),
    ),
    "eval-images": Job(
        "eval", _with_real_images(TARGETS["npz"]._replace(seeds=lambda: _npz()[:2])),
        ("images.npz", *_REAL, "--features", str(EVALUATOR)), says=True,
    ),
    "eval-features": Job(
        "eval", _with_real_images(TARGETS["features"]), ("some.npz", *_REAL, "--features", "e.onnx"), says=True
    ),
    "eval-real": Job(
        "eval", TARGETS["zip"]._replace(beside=lambda: {"some.npz": _npz()[0]}),
        ("some.npz", "--images", PICTURES, "--size", "28", "--threads", "1", "-n", "10", "--features", str(EVALUATOR)),
        says=True,
    ),
    "export-safetensors": Job(
        "export", TARGETS["safetensors"], ("g.safetensors", "-o", "m.onnx"), ("m.onnx", "m.golden"), True
    ),
    "export-pt": Job("export", TARGETS["pt"], ("g.pt", "-o", "m.onnx"), ("m.onnx", "m.golden"), True),
    "export-pickle": Job("export", TARGETS["pickle"], ("g.pt", "-o", "ts.pt"), ("ts.pt",), True),
    "train-images": Job("train", TARGETS["zip"]._replace(torch=True), (*_TRAIN, *_SMALL, "-o", "run"), ("run",), True),
    "train-options": Job("train", _in_run("options.json"), ("--resume", "run", "--epochs", "2"), ("run",), True),
    "train-state": Job(
        "train", _in_run("checkpoint.safetensors"), ("--resume", "run", "--epochs", "2"), ("run",), True
    ),
    "train-init": Job(
        "train", _in_run("generator.safetensors"), (*_TRAIN, "--init", "run/generator.safetensors", "-o", "new"),
        ("new",), True,
    ),
}  # fmt: skip
MODULES = {
    "infer": "dcgan_infer.cli", "verify": "dcgan_infer.verify_cli", "bench": "dcgan_infer.bench_cli",
    "eval": "dcgan.eval_cli", "export": "dcgan_export.cli", "train": "dcgan.cli",
}  # fmt: skip


def needs_torch(job: Job) -> bool:
    """Whether the command imports torch."""
    return job.target.torch or job.command in ("export", "train")


def command_line(job: Job) -> list[str]:
    """The command as a process."""
    start = f"from {MODULES[job.command]} import main; main(prog_name='dcgan-{job.command}')"
    return [sys.executable, "-c", start, *job.words]


def main_of(command: str) -> click.Command:
    """The command as Click has it."""
    main: click.Command = importlib.import_module(MODULES[command]).main
    return main


class Failed(DcganError):  # noqa: N818
    """A command ended with 1 or 2, as it may."""


def in_process(command: str, words: list[str], says: bool = False) -> None:
    """Run a command here.

    Raises:
        Failed: it refused, as it should.
        AssertionError: it ended in a way that it should not.
    """
    done = CliRunner().invoke(main_of(command), words)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    judge(done.exit_code, done.stderr, says)


def judge(status: int, stderr: str, says: bool) -> None:
    """Raise what a command's end is, if it is not the right one: as `in_process`."""
    assert "Traceback" not in stderr, f"a traceback: {stderr.strip().splitlines()[-1]}"
    assert "Warning" not in stderr, f"a warning: {stderr.strip()[:300]}"
    assert status in (0, 1, 2), f"exit status {status}: {stderr.strip()[-300:]}"
    lines = stderr.splitlines()
    assert all(map(str.isprintable, lines)), f"control characters: {stderr!r}"
    if status == 0:
        return
    assert lines, f"exit status {status}, and it says nothing"
    errors = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    assert errors == [len(lines) - 1], f"no line of its own for the error, at the end: {stderr!r}"
    if status == 2:
        assert lines[0].startswith("Usage: "), f"no usage: {stderr!r}"
    else:
        assert says or len(lines) == 1, f"{len(lines)} lines: {stderr!r}"
    raise Failed(lines[-1])


@contextlib.contextmanager
def at(folder: Path) -> Iterator[None]:
    """Work in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def left_in(folder: Path, leaves: tuple[str, ...], before: set[str]) -> list[str]:
    """Names in a folder that should not be there."""
    return sorted({path.name for path in folder.iterdir()} - before - set(leaves))


def emptied(folder: Path) -> None:
    """Remove what is in a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
