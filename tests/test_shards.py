"""Shards as a user meets them: what they hold, who reads them, and that no order of events changes a byte."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import MODELS, OLD

from dcgan_infer import ImageGenerator, shipped
from dcgan_infer.cli import main
from dcgan_infer.contract.errors import OutputError
from dcgan_infer.shards import make
from dcgan_infer.shards.images import ShardedImages
from dcgan_infer.shards.plan import PLAN

CLOTHES = MODELS / "clothes.onnx"  # 3 classes of 4x6 pixels, in colour
COLOUR = MODELS / "colour.onnx"
FOUR = MODELS / "four.onnx"  # 4 channels, no classes


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, model: Path = CLOTHES) -> Result:
    return CliRunner().invoke(main, ["--provider", "cpu", "--threads", "1", "--model", str(model), *arguments])


def done(*arguments: str, model: Path = CLOTHES) -> dict[str, Any]:
    result = run(*arguments, "--json", model=model)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refusal(*arguments: str, status: int = 1, model: Path = CLOTHES) -> str:
    result = run(*arguments, model=model)
    assert result.exit_code == status, result.output
    return result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("name", ["cats", ".gitattributes"])
def test_a_folder_of_somebody_elses_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    said = refusal("--n", "6", "--out", str(tmp_path), "--format", "npy")
    assert "holds other files; shards have a folder of their own" in said
    assert [path.name for path in tmp_path.iterdir()] == [name]


def contents(place: str | Path) -> dict[str, str]:
    """Digest of each file of a set, by its name."""
    paths = [path for path in Path(place).rglob("*") if path.is_file()]
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


KINDS = [("parquet", "png"), ("parquet", "raw"), ("webdataset", "png"), ("npy", "raw")]


@pytest.mark.parametrize(("form", "encoding"), KINDS)
def test_shards_hold_the_images_and_labels_of_the_seed(form: str, encoding: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    wish = ("--n", "2600", "--seed", "3", "--start", "100", "--shard-size", "1100", "--encoding", encoding)
    made = done(*wish, "--format", form, "-o", "set")
    assert (made["shards"], made["made"], made["found"], made["missing"], made["images"]) == (3, 3, 0, 0, 2600)
    generator = ImageGenerator(CLOTHES, provider="cpu")
    images = ShardedImages("set")
    pixels, labels = (np.concatenate(each) for each in zip(*images.batches(), strict=True))
    assert np.array_equal(pixels, generator.generate(2600, seed=3, start=100))
    assert np.array_equal(labels, generator.labels(2600, seed=3, start=100))
    assert images.classes == list(generator.spec.labels)

    assert len(images) == 2600
    worker = pickle.loads(pickle.dumps(images))  # as a DataLoader sends it
    for index in (1105, 0, 2599, -1, 1024, 1099):
        picture, label = worker[index]
        assert np.array_equal(np.asarray(picture), pixels[index])
        assert label == labels[index]
    with pytest.raises(IndexError, match="2,600"):
        images[2600]
    with pytest.raises(TypeError, match="slice"):
        images[1:3]  # type: ignore[index]
    changed = ShardedImages("set", transform=lambda picture: picture.size, target_transform=lambda label: label + 10)
    assert changed[5] == ((6, 4), labels[5] + 10)


def test_a_manifest_lists_the_shards_as_sha256sum_does() -> None:
    done("--n", "10", "--format", "npy", "--shard-size", "4", "-o", "set", "--class", "sneaker", "--truncation", "0.5")
    manifest = json.loads(Path("set/manifest.json").read_text())
    lines = "".join(f"{hashlib.sha256((Path('set') / row['file']).read_bytes()).hexdigest()}  {row['file']}\n"
                    for row in manifest["shards"])  # fmt: skip
    assert manifest["sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    assert [(row["file"], row["first"], row["count"]) for row in manifest["shards"]] == [
        ("images-00000-of-00003.npy", 0, 4), ("images-00001-of-00003.npy", 4, 4), ("images-00002-of-00003.npy", 8, 2)
    ]  # fmt: skip
    assert manifest["model_sha256"] == hashlib.sha256(CLOTHES.read_bytes()).hexdigest()
    assert manifest["bytes"] == sum(row["bytes"] for row in manifest["shards"])
    generator = ImageGenerator(CLOTHES, provider="cpu")
    records = np.load("set/images-00001-of-00003.npy")
    assert np.array_equal(records["image"], generator.generate(4, start=4, classes="sneaker", truncation=0.5))
    assert records["index"].tolist() == [4, 5, 6, 7]
    assert records["label"].tolist() == [generator.spec.labels.index("sneaker")] * 4


def test_floats_and_models_without_classes() -> None:
    done("--n", "5", "--format", "npy", "--dtype", "float", "-o", "floats")
    (values, labels), = ShardedImages("floats").batches()  # fmt: skip
    assert values.dtype == np.float32
    assert values.shape == (5, 3, 4, 6)
    pictures = ImageGenerator(CLOTHES, provider="cpu").pictures(values)
    assert np.array_equal(pictures, ImageGenerator(CLOTHES, provider="cpu").generate(5))
    assert labels.tolist() == ImageGenerator(CLOTHES, provider="cpu").labels(5).tolist()

    done("--n", "5", "--format", "npy", "-o", "four", model=FOUR)
    (pixels, labels), = ShardedImages("four").batches()  # fmt: skip
    assert np.array_equal(pixels, ImageGenerator(FOUR, provider="cpu").generate(5))
    assert labels.tolist() == [-1] * 5
    assert ShardedImages("four")[2][0].shape == pixels.shape[1:]
    assert "4" in refusal("--n", "5", "--format", "webdataset", "-o", "tar", model=FOUR)

    plain = shipped.path_of("dcgan-mnist", ".onnx")
    want = ImageGenerator(plain, provider="cpu").generate(5)
    for form in ("webdataset", "parquet"):
        if form == "parquet":
            pytest.importorskip("pyarrow")
        done("--n", "5", "--format", form, "-o", form, model=plain)
        (pixels, labels), = ShardedImages(form).batches()  # fmt: skip
        assert np.array_equal(pixels, want)
        assert labels.tolist() == [-1] * 5


def test_a_model_that_takes_a_seed_makes_shards() -> None:
    seeded = OLD / "conditional-seed.onnx"
    done("--n", "40", "--format", "npy", "--shard-size", "15", "-o", "set", model=seeded)
    pixels = np.concatenate([images for images, _ in ShardedImages("set").batches()])
    assert np.array_equal(pixels, ImageGenerator(seeded, provider="cpu").generate(40))
    assert "--truncation" in refusal("--format", "npy", "-o", "t", "--truncation", "0.5", model=seeded)
    assert "10,000 at most" in refusal("--n", "10001", "--format", "npy", "-o", "t", model=seeded)
    assert not Path("t").exists()


# Other readers.


def elsewhere(program: str) -> list[Any]:
    """What a program prints as JSON, which reads shards by another library: these leave files open, and much loaded."""
    environment = os.environ | {"HF_HOME": str(Path("home").absolute()), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_hugging_face_datasets_show_pictures() -> None:
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("datasets is not installed")
    generator = ImageGenerator(CLOTHES, provider="cpu")
    want, labels, names = generator.generate(9).tolist(), generator.labels(9).tolist(), list(generator.spec.labels)
    done("--n", "9", "--format", "parquet", "--shard-size", "5", "-o", "p")
    done("--n", "9", "--format", "webdataset", "--shard-size", "5", "-o", "w")
    program = """
import json, datasets, numpy
found = datasets.load_dataset({form!r}, data_files={files!r}, cache_dir="cache")["train"]
names = getattr(found.features[{label!r}], "names", None)
rows = [(numpy.asarray(row[{image!r}]).tolist(), row[{label!r}], row.get("class")) for row in found]
print(json.dumps([*zip(*rows), names]))
"""
    for form, files, image, label in (
        ("parquet", "p/*.parquet", "image", "label"),
        ("webdataset", "w/*.tar", "png", "cls"),
    ):
        found = elsewhere(program.format(form=form, files=files, image=image, label=label))
        assert found[:2] == [want, labels]
        if form == "parquet":
            assert found[2:] == [[names[each] for each in labels], names]


def test_webdataset_reads_the_tars() -> None:
    if importlib.util.find_spec("webdataset") is None:
        pytest.skip("webdataset is not installed")
    done("--n", "9", "--format", "webdataset", "--shard-size", "5", "-o", "set")
    found = elsewhere("""
import json, webdataset
loaded = webdataset.WebDataset("set/images-{00000..00001}-of-00002.tar", shardshuffle=False)
samples = list(loaded.decode("rgb8").to_tuple("__key__", "png", "cls"))
print(json.dumps([[key, picture.tolist(), label] for key, picture, label in samples]))
""")
    generator = ImageGenerator(CLOTHES, provider="cpu")
    keys, pictures, labels = map(list, zip(*found, strict=True))
    assert keys == [f"{i:010d}" for i in range(9)]
    assert pictures == generator.generate(9).tolist()
    assert labels == generator.labels(9).tolist()


def test_each_shard_says_how_it_was_made() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    done("--n", "9", "--seed", "7", "--format", "parquet", "--shard-size", "5", "-o", "p")
    done("--n", "9", "--seed", "7", "--format", "webdataset", "--shard-size", "5", "-o", "w")
    metadata = parquet.read_schema("p/images-00001-of-00002.parquet").metadata
    with tarfile.open("w/images-00001-of-00002.tar") as archive:
        archive.next()
        told = archive.pax_headers["dcgan.shard"]
    for text in (metadata[b"dcgan.shard"], told):
        facts = json.loads(text)
        assert (facts["seed"], facts["first"], facts["count"], facts["shard"], facts["shards"]) == (7, 5, 4, 1, 2)
        assert facts["model_sha256"] == hashlib.sha256(CLOTHES.read_bytes()).hexdigest()
        assert facts["class_names"] == list(ImageGenerator(CLOTHES, provider="cpu").spec.labels)


# What happened before.

THIRD = "images-00003-of-00007.npy"
WISH = ("--n", "50", "--format", "npy", "--shard-size", "8", "-o")


@pytest.fixture
def whole() -> dict[str, str]:
    done(*WISH, "whole")
    return contents("whole")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
@pytest.mark.parametrize(
    "name", ["images-00003-of-00007.npy", ".shards/images-00003-of-00007.npy.json", "manifest.json"]
)
def test_what_is_missing_or_damaged_is_made_again(whole: dict[str, str], harm: Any, name: str) -> None:
    harm(Path("whole") / name)
    assert contents("whole") != whole
    made = done(*WISH, "whole")
    assert made["made"] == (name != "manifest.json")
    assert contents("whole") == whole
    assert done(*WISH, "whole")["made"] == 0


def test_a_set_whose_hidden_folder_is_gone_is_known_by_its_manifest(whole: dict[str, str]) -> None:
    shutil.rmtree("whole/.shards")
    assert "manifest.json was begun with another seed" in refusal(*WISH, "whole", "--seed", "1")
    done(*WISH, "whole")
    assert contents("whole") == whole


def test_parts_need_not_know_of_each_other(whole: dict[str, str]) -> None:
    for part, missing in ((2, 5), (0, 2), (1, 0)):
        made = done(*WISH, "parts", "--shard", f"{part}/3", "--batch-size", str(5 + part))
        assert made["missing"] == missing
        assert (made["sha256"] is None) == (missing > 0)
        assert Path("parts/manifest.json").exists() == (missing == 0)
    assert contents("parts") == whole


def test_a_missing_shard_of_another_part_is_not_taken_for_there(whole: dict[str, str]) -> None:
    Path("whole", THIRD).unlink()
    Path("whole/manifest.json").unlink()
    assert done(*WISH, "whole", "--shard", "0/2")["missing"] == 1
    assert not Path("whole/manifest.json").exists()
    assert done(*WISH, "whole", "--shard", "1/2")["missing"] == 0
    assert contents("whole") == whole


def test_a_wish_that_came_at_the_same_moment_is_noticed(whole: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    put = make._put

    def put_by_both(store: Any, name: str, facts: dict[str, Any]) -> None:
        put(store, name, facts)
        if name == PLAN:
            put(store, name, facts | {"seed": 1})

    monkeypatch.setattr(make, "_put", put_by_both)
    assert "another seed: 1, and this is 7" in refusal(*WISH, "both")


def test_two_at_once_make_the_same_bytes(whole: dict[str, str]) -> None:
    command = [sys.executable, "-m", "dcgan_infer", "--model", str(CLOTHES), "--provider", "cpu", "--threads", "1"]
    both = [subprocess.Popen([*command, *WISH, "both"], stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert contents("both") == whole


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_same_command_goes_on_after_a_signal(number: signal.Signals) -> None:
    wish = ["--n", "60000", "--format", "npy", "--shard-size", "2000"]
    command = [
        sys.executable,
        "-m",
        "dcgan_infer",
        "--model",
        str(CLOTHES),
        "--provider",
        "cpu",
        "--threads",
        "1",
        *wish,
    ]
    process = subprocess.Popen([*command, "-o", "set"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(Path("set").glob("*.npy"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert said.strip() == "stopped; give the same command again to go on"
        assert not list(Path("set").rglob("*.tmp"))
    assert not Path("set/manifest.json").exists()
    made = done(*wish, "-o", "set")
    assert 2 <= made["found"] < 30
    assert not list(Path("set").rglob("*.tmp"))
    done(*wish, "-o", "whole")
    assert contents("set") == contents("whole")


def test_another_wish_is_refused_and_nothing_is_lost(whole: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for extra, reason in (
        (("--seed", "1"), "another seed: 7, and this is 1"),
        (("--shard-size", "9"), "another shard size: 8, and this is 9"),
        (("--format", "webdataset"), 'another format: "npy", and this is "webdataset"'),
        (("--class", "0"), "another choice of classes: [], and this is [0]"),
    ):
        assert reason in refusal(*WISH, "whole", *extra)
    newer = ("npy", "raw", ImageGenerator(CLOTHES, provider="cpu"))
    versions = tuple((name, "9" if name == "numpy" else version) for name, version in make.software_of(*newer))
    with monkeypatch.context() as patch:
        patch.setattr(make, "software_of", lambda *_: versions)
        assert 'another numpy: "' in refusal(*WISH, "whole")
    assert "another dtype" in refusal(*WISH, "whole", "--dtype", "float")
    assert "another model: " in refusal(*WISH, "whole", model=COLOUR)
    assert contents("whole") == whole


def test_foreign_files_are_not_overwritten() -> None:
    Path("mine").mkdir()
    Path("mine/images-00002-of-00007.npy").write_text("precious")
    assert "mine holds images-00002-of-00007.npy" in refusal(*WISH, "mine")
    assert contents("mine").keys() == {"images-00002-of-00007.npy"}
    Path("mine/.shards").mkdir()
    Path("mine/.shards/plan.json").write_text("[")
    assert "mine/.shards/plan.json is no JSON file" in refusal(*WISH, "mine")
    Path("mine/images-00002-of-00007.npy").unlink()
    Path("mine/.shards/plan.json").unlink()
    Path("mine/notes.txt").write_text("kept")
    done(*WISH, "mine")
    assert Path("mine/notes.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (("-o", "set", "--shard-size", "5"), 2, "must end in"),
        (("-o", "a.png", "--shard-size", "5"), 2, "--shard-size is for shards: give --format parquet, webdataset, npy"),
        (("-o", "a.npy", "--format", "npy", "--shard", "0/2"), 2, "--shard is for shards"),
        (("-o", "a.npy", "--format", "parquet"), 2, "--out a.npy is named as one file"),
        (("-o", "-", "--format", "parquet"), 2, "give --out a folder's name instead of -"),
        (("-o", "s3://bucket/x"), 2, "is a URL, which takes shards; add --format"),
        (("-o", "s3://bucket/x", "--format", "png"), 2, "is a URL, which takes shards; add --format"),
        (("-o", "set", "--format", "npy", "--shard", "3/3"), 2, "'3/3' is no part"),
        (("-o", "set", "--format", "npy", "--shard", "1"), 2, "'1' is no part"),
        (("-o", "a.tar", "--format", "webdataset"), 2, "--out a.tar is named as one file"),
        (("-o", "memory://a/b.npy", "--format", "npy"), 2, "--out memory://a/b.npy is named as one file"),
        (("-o", "set", "--format", "npy", "--encoding", "png"), 2, "png can't be had of npy, which holds raw"),
        (("-o", "set", "--format", "webdataset", "--encoding", "raw"), 2, "raw can't be had of webdataset"),
        (("-o", "set", "--format", "parquet", "--dtype", "float"), 2, "float can't be had of parquet"),
        (("-o", "set", "--format", "npy", "--grid", "2x2"), 2, "--grid is for pictures"),
        (("-o", "set", "--format", "npy", "--ray-address", "auto"), 2, "--ray-address is for --engine ray"),
        (("-o", "set", "--format", "npy", "--n", "4_000_000_000", "--shard-size", "1"), 2, "give a larger one"),
        (("-o", "s3:bucket/set", "--format", "npy"), 2, "a URL has two slashes after its colon"),
        (("-o", "taken", "--format", "npy"), 1, "taken is no folder"),
        (("-o", "taken/set", "--format", "npy"), 1, "taken"),
    ],
)
def test_wrong_use_is_a_line(words: tuple[str, ...], status: int, reason: str) -> None:
    Path("taken").write_text("a file")
    assert reason in refusal(*words, status=status)
    assert [path.name for path in Path().iterdir()] == ["taken"]


def test_latents_of_ones_own_make_no_shards() -> None:
    np.save("z.npy", np.zeros((3, 4), np.float32))
    Path("labels.txt").write_text("0\n")
    for option in ("latents", "labels"):
        file = {"latents": "z.npy", "labels": "labels.txt"}[option]
        assert f"leave --{option} out" in refusal("-o", "set", "--format", "npy", f"--{option}", file, status=2)


# Reading what is not as it should be.


def test_a_set_that_is_not_finished_or_damaged_is_not_read(whole: dict[str, str]) -> None:
    with pytest.raises(OutputError, match=r"nowhere has no manifest\.json"):
        ShardedImages("nowhere")
    cut(Path("whole/images-00001-of-00007.npy"))
    images = ShardedImages("whole")
    assert images[0]
    with pytest.raises(OutputError, match=r"whole/images-00001-of-00007\.npy is missing or damaged"):
        images[8]
    manifest = Path("whole/manifest.json")
    for change in (
        {"schema": 2}, {"n": "many"}, {"image_shape": [0]}, {"format": None}, {"shard_size": 0}, {"n": 10**30},
        {"n": 10**9, "shard_size": 1}, {"start": -1}, {"encoding": "png"},
    ):  # fmt: skip
        manifest.write_text(json.dumps(json.loads(Path("whole/.shards/plan.json").read_text()) | change))
        with pytest.raises(OutputError, match=r"manifest\.json (makes no sense|has schema)"):
            ShardedImages("whole")


@pytest.mark.parametrize(("form", "encoding"), KINDS)
def test_a_damaged_shard_is_a_line(form: str, encoding: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    done("--n", "6", "--format", form, "--encoding", encoding, "-o", "set")
    (path,) = Path("set").glob("images-*")
    content = path.read_bytes()
    harmful = 0
    for place in range(0, len(content), max(1, len(content) // 200)):
        path.write_bytes(content[:place])
        try:
            list(ShardedImages("set").batches())
        except OutputError:
            harmful += 1
    assert harmful > 100


@pytest.mark.parametrize("form", ["parquet", "webdataset", "npy"])
def test_memory_does_not_grow_with_the_number_of_images_in_a_shard(form: str) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from Linux' /proc")
    if form == "parquet":
        pytest.importorskip("pyarrow")
    program = (
        "import sys\nfrom dcgan_infer.cli import main\nmain(sys.argv[1:], standalone_mode=False)\n"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )  # getrusage would start from the peak of the process that this one was forked from
    peaks = []
    for n in (2000, 40000):
        words = ["--model", str(CLOTHES), "--threads", "1", "--n", str(n), "--format", form, "-o", f"set{n}"]
        made = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
        peaks.append(int(made.stdout.splitlines()[-1]))
    assert peaks[1] < 1.1 * peaks[0], peaks


def test_the_report_says_what_was_made_and_what_is_missing() -> None:
    result = run(*WISH, "set", "--shard", "0/2")
    assert result.stdout.startswith("set: 26 images in 4 shards of npy (seed 7, 0 to 49) by clothes on cpu; ")
    assert result.stdout.endswith("\nof 7 shards 3 are missing yet; the manifest comes with the last\n")
    result = run(*WISH, "set")
    assert "24 images in 3 shards of npy, 4 were there (seed 7" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("all is there: 7 shards, ")
    assert run(*WISH, "set").stdout.startswith(
        "set: nothing was to be made, 7 shards of npy were there\nall is there: "
    )
