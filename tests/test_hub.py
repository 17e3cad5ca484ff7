"""What `dcgan-export --target hub` puts into a folder. tests/test_readme.py reads the cards that ship."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chains import dcgan_spec
from click.testing import CliRunner, Result
from conftest import ROOT
from exported import metadata_of, read_golden, small_spec
from PIL import Image
from planted_faults import trained_like
from their_generators import trained

import dcgan_export.hub
from dcgan.checkpoint import Hints, _assumed_in, load_generator, save_generator
from dcgan.datasets import DATASETS
from dcgan.networks import Generator
from dcgan.sources import open_images
from dcgan_export import card
from dcgan_export.cli import main
from dcgan_infer import shipped
from dcgan_infer.cli import main as infer
from dcgan_infer.contract.files import sha256_of
from dcgan_infer.contract.pixels import to_pictures
from dcgan_infer.contract.spec import GeneratorSpec, reference_spec
from dcgan_infer.verify_cli import main as verify

NAMES = ("red | fox", "`b` <i>", 'é "q" 🦊', "7")
CODE = f"""
import sys
sys.path.append({str(ROOT / "tests")!r})
from their_generators import Conditional, Residual
import torch

class Channels(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(6, 32), torch.nn.Sigmoid(), torch.nn.Unflatten(1, (2, 4, 4)))
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["--target", "hub", *map(str, arguments)])


def parsed(text: str) -> dict[str, Any]:
    """The front matter of a card, as the Hub reads it."""
    _, front, _ = text.split("---\n", 2)
    found: dict[str, Any] = pytest.importorskip("yaml").safe_load(front)
    return found


def save(path: Path, spec: GeneratorSpec, recipe: str = '{"dataset":"fashion-mnist","name":"fast","epochs":2}') -> Path:
    save_generator(path, trained_like(spec).state_dict(), spec, recipe)
    return path


def prepare(kind: str, folder: Path) -> list[str]:
    """Put a checkpoint of a kind into a folder; what is said on the command line."""
    if kind == "ours":
        return [save(folder / "dig*its.safetensors", small_spec()).name]
    if kind in ("conditional", "seed"):
        spec = reference_spec(6, (1, 8, 8), 4, NAMES, (8, 6, 5))
        name = save(folder / "classes.safetensors", spec, '{"dataset":"images","folder":"mine"}').name
        return [name, *(["--inputs", "seed"] if kind == "seed" else [])]
    if kind == "theirs":
        torch.save(trained_like(dcgan_spec(16, nz=20, ngf=8)).state_dict(), folder / "netG.pth")
        return ["netG.pth", "--precision", "fp16"]
    if kind == "small":  # untrained, and mild enough for int8
        torch.manual_seed(0)
        generator = Generator(reference_spec(6, (1, 8, 8), channels=(64, 32, 16))).eval()
        save_generator(folder / "s.safetensors", generator.state_dict(), generator.spec, "")
        return ["s.safetensors", "--precision", "int8", "--image", "uint8"]
    (folder / "nets.py").write_text(CODE)
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    torch.save(trained(namespace[kind]()).state_dict(), folder / "weights.pth")
    return ["weights.pth", "--module", f"nets.py:{kind}"]


KINDS = ("ours", "conditional", "seed", "theirs", "small", "Residual", "Conditional", "Channels")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Result]]:
    """A folder of each kind, and what the command said."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        for kind in KINDS:
            place = tmp_path_factory.mktemp("somebody")
            patch.chdir(place)
            licence = ["--license", "CC-BY-4.0"] if kind == "ours" else []
            made[kind] = (place / "hub", run(*prepare(kind, place), *licence))
            assert made[kind][1].exit_code == 0, made[kind][1].output
    return made


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, folders: dict[str, tuple[Path, Result]]) -> Path:
    return folders[request.param][0]


def text_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def spec_of(folder: Path) -> GeneratorSpec:
    return GeneratorSpec.from_json((folder / "config.json").read_text(encoding="utf-8"))


def test_a_folder_holds_what_the_hub_expects_and_nothing_else(folder: Path) -> None:
    expected = {".gitattributes", "README.md", "SHA256SUMS", "config.json", "model.golden", "model.onnx"}
    expected |= {"model.safetensors"} if spec_of(folder).layers else set()
    expected |= {"preview.png"} if spec_of(folder).image_shape[0] in (1, 3) else set()
    assert {path.name for path in folder.iterdir()} == expected
    kept = {line.split()[0] for line in (folder / ".gitattributes").read_text().splitlines()}
    large = {f"*{Path(name).suffix}" for name in expected} - {"*", "*.md", "*.json"}
    assert kept == large
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert listed.keys() == expected - {".gitattributes", "README.md", "SHA256SUMS"}  # a card is edited
    assert all(sha256_of(folder / name) == digest for name, digest in listed.items())
    assert all(path.stat().st_mode & 0o004 for path in folder.iterdir())


def test_the_front_matter_is_what_the_hub_reads(folder: Path) -> None:
    front = parsed(text_of(folder))
    assert front["library_name"] == "dcgan-toolkit"
    assert front["pipeline_tag"] == "unconditional-image-generation"
    assert ("conditional" in front["tags"]) == bool(spec_of(folder).num_classes)
    assert {"dcgan", "onnx"} < set(front["tags"])
    assert set(front) <= set(card.FRONT_MATTER)
    assert not {"metrics", "model-index"} & set(front)
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(text_of(folder)).data
    assert (data.pipeline_tag, data.tags, data.license) == (front["pipeline_tag"], front["tags"], front.get("license"))


def test_only_what_is_known_is_stated(folders: dict[str, tuple[Path, Result]]) -> None:
    ours, result = folders["ours"]
    assert result.stderr == ""
    assert parsed(text_of(ours))["license"] == "cc-by-4.0"
    assert "| Licence | cc-by-4.0 |" in text_of(ours)
    assert parsed(text_of(ours))["datasets"] == ["zalando-datasets/fashion_mnist"]
    assert "| Trained on | fashion-mnist |" in text_of(ours)
    theirs, result = folders["theirs"]
    assert "hub/README.md states no licence: add a line to its top, or give --license ID" in result.stderr
    assert not {"license", "datasets"} & set(parsed(text_of(theirs)))
    assert "| Licence | not stated: add a line `license: ...`" in text_of(theirs)
    assert "| Read as | the layout pytorch-dcgan |" in text_of(theirs)
    assert re.search(
        r"^\| Assumed \| .*activation relu.*\(the weights do not say, .*\) \|$", text_of(theirs), re.MULTILINE
    )
    assert "| Trained on | a folder of images |" in text_of(folders["conditional"][0])
    assert "mine" not in text_of(folders["conditional"][0])
    residual = text_of(folders["Residual"][0])
    assert "There is no `model.safetensors`" in residual
    assert "| Read as | the module nets.py:Residual |" in residual
    assert "There is no `model.safetensors`" not in text_of(ours)


def test_somebodys_words_mean_nothing_in_a_card(folders: dict[str, tuple[Path, Result]]) -> None:
    assert "# dig\\*its\n" in text_of(folders["ours"][0])
    assert '| Classes | red \\| fox, \\`b\\` \\<i\\>, é "q" 🦊, 7 |' in text_of(folders["conditional"][0])
    assert card._plain("a\n# b\udcff") == "a \\# b"
    assert card._plain("HTTPS://a.b www.c.d") == "HTTPS\u200b://a.b www\u200b.c.d"


def test_the_last_lines_say_what_to_do(folders: dict[str, tuple[Path, Result]]) -> None:
    for kind, (folder, result) in folders.items():
        *_, verdict, wrote, last = result.stdout.splitlines()
        size = sum(path.stat().st_size for path in folder.iterdir())
        assert re.match("(same as|near) your checkpoint: ", verdict)
        files = len(list(folder.iterdir()))
        assert wrote == f"wrote hub ({files} files, {size / 1e6:.1f} MB); to push it as it is: hf upload YOU/NAME hub"
        assert last == "try: dcgan-infer --model hub --n 16" + (" --out images.npy" if kind == "Channels" else "")


def test_what_a_reader_tries_works(folder: Path, tmp_path: Path) -> None:
    arrays = ["--out", str(tmp_path / "images.npy"), "--n", "3"]
    assert CliRunner().invoke(infer, ["--model", str(folder), *arrays]).exit_code == 0
    assert np.load(tmp_path / "images.npy").shape == (3, *spec_of(folder).picture_shape)
    for model in (folder, folder / "model.onnx"):
        result = CliRunner().invoke(verify, [str(model)])
        assert result.exit_code == 0, result.output


def test_the_programs_of_a_card_run(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copyfile(folder / "model.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    ours, alone = re.findall(r"```python\n(.*?)```", text_of(folder), re.DOTALL)
    spec = spec_of(folder)
    names: dict[str, Any] = {}
    exec(ours, names)
    assert names["images"].shape == (16, *spec.picture_shape)
    assert (tmp_path / "grid.png").exists() == (spec.image_shape[0] in (1, 3))
    names = {}
    exec(alone, names)
    said = re.findall(r"^# (\w+), shape \(([\d, ]+)\)", alone, re.MULTILINE)
    images = names["images"]
    assert said == [(str(images.dtype), ", ".join(map(str, images.shape)))]
    if "pixels" in names:
        right = to_pictures(images, spec.value_range)
        assert np.array_equal(names["pixels"].transpose(0, 2, 3, 1).reshape(right.shape), right)
        assert right.std() > 5
    (command,) = re.findall(r"^    dcgan-infer (.*)$", text_of(folder), re.MULTILINE)
    result = CliRunner().invoke(infer, shlex.split(command))
    assert result.exit_code == 0, result.output


def test_the_card_says_what_the_files_are(folder: Path) -> None:
    text = text_of(folder)
    listed = dict(re.findall(r"^\| `([\w.]+)` \| .* \| `(\w{64})` \|$", text, re.MULTILINE))
    assert listed == {path.name: sha256_of(path) for path in folder.glob("model.*")}
    metadata = metadata_of(folder / "model.onnx")
    assert spec_of(folder).to_json() == metadata["dcgan.spec"]
    assert f"| Weights | sha256 `{metadata['dcgan.weights_sha256']}` |" in text
    assert read_golden(folder / "model.golden").weights_sha256 == metadata["dcgan.weights_sha256"]
    assert f"; {metadata['dcgan.precision']} |" in text
    rows = [line for line in text.splitlines() if line.startswith(("| N(0,1)", "| tails"))]
    assert len(rows) >= 2
    assert all(len(line) <= 100 for line in text.splitlines() if not line.startswith(("|", "(images", "session")))


def test_the_preview_shows_the_first_images(folder: Path) -> None:
    spec = spec_of(folder)
    if spec.image_shape[0] not in (1, 3):
        assert "preview.png" not in text_of(folder)
        return
    with Image.open(folder / "preview.png") as preview:
        facts = {str(key).removeprefix("dcgan."): value for key, value in preview.info.items()}
    assert (facts["model_sha256"], facts["seed"], facts["start"]) == (sha256_of(folder / "model.onnx"), "0", "0")
    assert facts["grid"] == f"{spec.num_classes or 10}x{spec.num_classes or 10}"
    assert facts.get("class", "").split("\n") == list(spec.labels or [""])
    assert "![Images of seed 0](preview.png)" in text_of(folder)


def test_nothing_names_the_machine(folder: Path) -> None:
    for path in folder.iterdir():
        content = path.read_bytes()
        assert b"somebody" not in content, path.name
        assert str(Path.home()).encode() not in content or str(Path.home()) == "/", path.name


@pytest.mark.parametrize(("kind", "file"), [("theirs", "model.safetensors"), ("conditional", ".")])
def test_the_weights_make_the_same_model_again(
    kind: str, file: str, folders: dict[str, tuple[Path, Result]], tmp_path: Path
) -> None:
    """From the file, and from the folder: byte for byte, with what was assumed of somebody's weights."""
    folder, _ = folders[kind]
    precision = metadata_of(folder / "model.onnx")["dcgan.precision"]
    arguments = [folder / file, "--precision", precision, "--out", tmp_path / "again.onnx"]
    assert CliRunner().invoke(main, list(map(str, arguments))).exit_code == 0
    assert sha256_of(tmp_path / "again.onnx") == sha256_of(folder / "model.onnx")


def test_what_was_assumed_stays_said_and_is_no_fact(folders: dict[str, tuple[Path, Result]], tmp_path: Path) -> None:
    folder, _ = folders["theirs"]
    result = CliRunner().invoke(main, [str(folder), "--precision", "fp16", "--out", str(tmp_path / "again.onnx")])
    assert re.search("assumed, as the file does not say: .*stride 1, then 2", result.stderr)
    result = CliRunner().invoke(
        main, [str(folder), "--activation", "leaky-relu:0.2", "--out", str(tmp_path / "b.onnx")]
    )
    assert result.exit_code == 1
    assert "was written from weights that were read with activation relu, not leaky-relu:0.2" in result.stderr


@pytest.mark.parametrize("source", ["[", "[]", '"text"', '{"assumed": 3}', "[" * 100_000])
def test_odd_metadata_assume_nothing(source: str) -> None:
    assert _assumed_in(source) == {}


def test_a_traced_module_has_its_layers_weights(folders: dict[str, tuple[Path, Result]]) -> None:
    folder, _ = folders["Channels"]
    z = torch.randn(4, 6)
    again = load_generator(folder).module(z)
    hints = Hints(module=f"{folder.parent / 'nets.py'}:Channels")
    theirs = load_generator(folder.parent / "weights.pth", hints).module(z)
    assert torch.equal(again, theirs)


def test_a_folder_is_judged_by_its_onnx_file_and_a_run_by_its_checkpoint(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "models" / "dcgan-mnist.onnx", tmp_path / "model.onnx")
    save(tmp_path / "model.safetensors", small_spec())
    assert open_images(str(tmp_path), 1).image_shape == (1, 28, 28)
    shutil.copyfile(tmp_path / "model.onnx", tmp_path / "another.onnx")  # as the notebook leaves it
    (tmp_path / "model.safetensors").rename(tmp_path / "generator.safetensors")
    assert open_images(str(tmp_path), 1).image_shape == (1, 8, 8)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint in the current folder."""
    monkeypatch.chdir(tmp_path)
    return save(tmp_path / "small.safetensors", small_spec())


def test_a_model_that_ships_takes_what_its_card_says(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    shutil.copyfile(ROOT / "models" / "dcgan-mnist.md", small.with_suffix(".md"))
    theirs = parsed((ROOT / "models" / "dcgan-mnist.md").read_text())
    assert run("small.safetensors").exit_code == 0
    found = parsed(text_of(tmp_path / "hub"))
    assert list(found) == list(card.FRONT_MATTER)
    assert {key: found[key] for key in found if key != "tags"} == {key: theirs[key] for key in theirs if key != "tags"}
    assert "The figures at the top of this file" in text_of(tmp_path / "hub")
    # Figures are of images, and those of another precision are others.
    int8 = ["--precision", "int8", "--optimize", "vnni"]
    assert run("small.safetensors", *int8, "--license", "other", "-o", "less").exit_code == 0
    assert "int8, for processors with VNNI" in text_of(tmp_path / "less")
    found = parsed(text_of(tmp_path / "less"))
    assert (found["license"], found["datasets"]) == ("other", ["ylecun/mnist"])
    assert not {"metrics", "model-index"} & set(found)
    assert "This was not measured" in text_of(tmp_path / "less")


def test_data_sets_with_an_id_are_known_by_name() -> None:
    assert set(card.DATASETS) <= set(DATASETS)


def test_as_json(small: Path) -> None:
    result = run("small.safetensors", "-o", "x", "--json")
    printed = json.loads(result.stdout)
    sizes = [path.stat().st_size for path in Path("x").iterdir()]
    assert (printed["folder"], printed["files"], printed["bytes"]) == ("x", len(sizes), sum(sizes))
    assert printed["model"]["sha256"] == sha256_of(Path(printed["model"]["file"]))
    assert Path(printed["golden"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "m.onnx"], "--target hub writes a folder"),
        (["--out", "m.pt"], "--target is for ONNX only"),
        (["--format", "torchscript"], "--target is for ONNX only"),
        (["--report", "r.json"], "writes no report; take --json"),
        (["--golden", "g.golden"], "has its golden vectors in it"),
        (["--no-golden"], "has its golden vectors in it"),
        (["--license", "my own"], "is not an id of a licence"),
        (["--license", "mit\n- x"], "is not an id of a licence"),
        (["--license", ""], "is not an id of a licence"),
        (["--runtime", "r.tgz"], "--runtime is for --target web"),
        (["--precision", "int8", "--optimize", "none"], "needs the fused form"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, small: Path) -> None:
    result = run("small.safetensors", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert [path.name for path in small.parent.iterdir()] == [small.name]


def test_a_licence_is_for_a_card(small: Path) -> None:
    result = CliRunner().invoke(main, ["small.safetensors", "--license", "mit"])
    assert (result.exit_code, "--license is for --target hub" in result.stderr) == (2, True)


def test_what_is_there_stays_as_it_is(small: Path) -> None:
    Path("hub").write_text("a file")
    Path("theirs").mkdir()
    Path("theirs", "mine").touch()
    for out in ("hub", "theirs"):
        result = run("small.safetensors", "--out", out)
        assert (result.exit_code, result.stderr) == (
            1,
            f"Error: {out} already exists; remove it, or choose another name\n",
        )
    assert Path("hub").read_text() == "a file"
    assert [path.name for path in Path("theirs").iterdir()] == ["mine"]
    assert len(list(Path.cwd().iterdir())) == 3


def test_what_fails_at_the_end_leaves_nothing(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(dcgan_export.hub, "_draw", fail)
    result = run("small.safetensors")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert [path.name for path in small.parent.iterdir()] == [small.name]


def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    save(tmp_path / "faces.safetensors", dcgan_spec(16, ngf=16))
    command = [sys.executable, "-m", "dcgan_export", "faces.safetensors", "--target", "hub"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(6000):
            if any(tmp_path.glob(".hub.*/hub/.*/model.onnx")) or process.poll() is not None:
                break
            time.sleep(0.01)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert [path.name for path in tmp_path.iterdir()] == ["faces.safetensors"]
