from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dcgan.checkpoint import load_generator
from dcgan.cli import main
from dcgan.eval_cli import main as evaluate
from dcgan.recipes import RECIPES
from dcgan_infer.contract.layers import Activation

TINY = ["--batch-size", "16", "--epochs", "1", "--threads", "1", "--precision", "fp32"]


@pytest.mark.parametrize("activation", ["relu", "leaky-relu:0.2", "elu:0.5", "softplus:2"])
def test_every_activation_trains_in_both_networks(data_dir: Path, tmp_path: Path, activation: str) -> None:
    out = tmp_path / "run"
    arguments = ["--data-dir", str(data_dir), "-o", str(out), *TINY, "--g-activation", activation]
    result = CliRunner().invoke(main, [*arguments, "--d-activation", activation, "-v"])
    assert result.exit_code == 0, result.output
    assert "images   mnist: 64 of 28x28, grey" in result.stdout
    assert "epoch 1/1" in result.stdout
    assert "generator.linear1" in result.stdout
    assert result.stderr == ""  # no progress bar where stderr is no terminal
    assert load_generator(out / "generator.safetensors").spec.activation == Activation.parse(activation)


def test_dry_run_prints_what_would_be_done_and_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["--recipe", "baseline", "--lr", "0.5", "--d-lr", "0.25", "--dry-run"])
    assert result.exit_code == 0, result.output
    options = json.loads(result.stdout)
    assert options["recipe"]["g_lr"] == 0.5
    assert options["recipe"]["d_lr"] == 0.25
    assert options["recipe"]["epochs"] == 20
    assert options["device"] in ("cpu", "cuda")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "fast"),
        (["--dataset", "kmnist", "--size", "28"], "fast"),
        (["--dataset", "qmnist"], "fast"),
        (["--dataset", "mnist", "--size", "32"], "images"),
        (["--dataset", "mnist", "--colour"], "images"),
        (["--dataset", "celeba", "--size", "28"], "images"),
        (["--dataset", "cifar10", "--size", "28"], "images"),
        (["--images", "icons", "--size", "28", "--grey"], "images"),
    ],
)
def test_the_default_recipe(arguments: list[str], expected: str) -> None:
    result = CliRunner().invoke(main, [*arguments, "--dry-run"])
    assert json.loads(result.stdout)["recipe"]["name"] == expected


def test_every_field_of_the_recipe_has_an_option() -> None:
    options = {parameter.name for parameter in main.params}
    recipe = json.loads(CliRunner().invoke(main, ["--dry-run"]).stdout)["recipe"]
    assert recipe.keys() - {"name"} <= options


def test_help_shows_the_recipes_and_an_example() -> None:
    result = CliRunner().invoke(main, ["--help"], terminal_width=100)
    assert result.exit_code == 0
    for text in ("dcgan-train --resume", "baseline fast dcgan images", "leaky-relu:0.01", "default: mnist"):
        assert text in " ".join(result.stdout.split())


@pytest.fixture
def icons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 24 colour pictures in two classes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for index in range(24):
        folder = tmp_path / "icons" / ("round things" if index % 3 else "arrows")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "icons"


OWN = ["--size", "16", "--ngf", "4", "--ndf", "4", "--batch-size", "8", "--epochs", "1", "--threads", "1"]


def test_a_folder_of_images_becomes_a_generator_with_class_names(icons: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (icons / "arrows" / "notes.txt").write_text("no image")
    result = CliRunner().invoke(main, ["--images", str(icons), "--conditional", "-o", str(out), *OWN])
    assert result.exit_code == 0, result.output
    assert "images   icons: 24 of 16x16, colour" in result.stdout
    assert "classes  2: arrows 8, round things 16" in result.stdout
    assert "ignored 1 file of other kinds" in result.stdout
    assert f"look at it:     {out / 'samples' / 'epoch-001.png'}" in result.stdout
    assert f"export it with: dcgan-export {out} --out {out.name}.onnx\n" in result.stdout
    checkpoint = load_generator(out)
    assert checkpoint.spec.class_names == ("arrows", "round things")
    assert checkpoint.spec.image_shape == (3, 16, 16)
    trained = json.loads(checkpoint.recipe)
    assert (trained["dataset"], trained["folder"]) == ("images", "icons")

    icons.rename(tmp_path / "moved")
    again = ["--resume", str(out), "--images", str(tmp_path / "moved")]
    result = CliRunner().invoke(main, again)
    assert result.exit_code == 0, result.output
    (tmp_path / "moved" / "arrows" / "0.png").unlink()
    result = CliRunner().invoke(main, again)
    assert result.exit_code == 1
    assert "was trained on other images than these; give --images" in result.stderr
    (tmp_path / "moved").rename(tmp_path / "away")
    result = CliRunner().invoke(main, ["--resume", str(out)])
    assert result.exit_code == 1
    assert "which is not there; if it moved, add --images NEWPLACE" in result.stderr
    inside = ["--images", str(tmp_path / "away"), "--out", str(tmp_path / "away" / "runs" / "0")]
    result = CliRunner().invoke(main, inside)
    assert result.exit_code == 1
    assert "would be among the images" in result.stderr


def test_init_takes_no_choices_of_a_generator(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--init", str(tmp_path), "--latent-dim", "50"])
    assert result.exit_code == 2
    assert "--init brings a generator of its own; leave out --latent-dim" in result.stderr


def test_images_can_be_made_grey_and_need_no_classes(icons: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in icons.rglob("*.png"):
        path.rename(flat / path.name)
    out = tmp_path / "run"
    result = CliRunner().invoke(main, ["--images", str(flat), "--grey", "-o", str(out), *OWN])
    assert result.exit_code == 0, result.output
    assert "images   flat: 24 of 16x16, grey" in result.stdout
    assert "classes  none" in result.stdout
    assert load_generator(out).spec.image_shape == (1, 16, 16)
    for changed in (False, True):
        if changed:
            (flat / "1.png").write_bytes((flat / "2.png").read_bytes())
        result = CliRunner().invoke(evaluate, [str(out), "--threads", "1"])
        assert result.exit_code == 0, result.output
        assert ("these are not the images that" in result.stderr) == changed
    result = CliRunner().invoke(main, ["--images", str(flat), "--conditional", "-o", str(tmp_path / "other"), *OWN])
    assert result.exit_code == 1
    assert "has no classes" in result.stderr
    assert "subfolder of its name" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--epochs", "-1"], "'--epochs'"),
        (["--size", "100"], "100 is not 4 to 7 times a power of two; the nearest are 96 and 112"),
        (["--images", "icons", "--dataset", "mnist"], "leave out --dataset and --data-dir"),
        (["--recipe", "dcgan", "--conditional"], "PyTorch's DCGAN example's discriminator judges no labels"),
        (["--resume", "runs/x", "--init", "g.safetensors"], "leave out --out and --init"),
        (["--batch-size", "1"], "'--batch-size'"),
        (["--lr", "-1"], "'--lr'"),
        (["--lr", "nan"], "nan is not a finite number"),
        (["--d-lr", "inf"], "inf is not a finite number"),
        (["--threads", "100000"], "'--threads'"),
        (["--dataset", "imagenet"], "'imagenet' is not one of"),
        (["--recipe", "slow"], "'slow' is not one of"),
        (["--g-activation", "mish"], "unknown activation 'mish'"),
        (["--d-activation", "elu:-1"], "above 0"),
        (["--g-activation", "relu:3"], "takes no parameter"),
        (["--threads", "0"], "'--threads'"),
        (["--nonsense"], "No such option"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_work_that_fails_exits_1_with_one_line(data_dir: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated"
    truncated.mkdir()
    for path in data_dir.iterdir():
        (truncated / path.name).write_bytes(path.read_bytes()[:-1])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    out = ["-o", str(tmp_path / "run"), *TINY]
    for arguments, says in (
        (["--data-dir", str(truncated), *out], "truncated or damaged"),
        (["--data-dir", str(data_dir), "-o", str(tmp_path / "taken"), *TINY], "already exists"),
        (["--data-dir", str(data_dir), "-o", "/dev/null/run", *TINY], "/dev/null/run"),
        (["--data-dir", str(data_dir), "-o", str(tmp_path / ("x" * 300)), *TINY], "file name too long"),
        (["--data-dir", "x" * 300, *out], "file name too long"),
        (["--data-dir", str(data_dir), *out, "--batch-size", "100"], "2 to 64 of"),
        (["--data-dir", "nowhere", *out, "--init", "nowhere.pth"], "no checkpoint at"),  # before images are looked for
        (["--resume", str(tmp_path / "nowhere")], "is no run folder"),
        (["--resume", str(tmp_path / "taken")], "is no run folder"),
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1, result.output
        assert says in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_resume_refuses_options_that_contradict_the_run(data_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert CliRunner().invoke(main, ["--data-dir", str(data_dir), "-o", str(run), *TINY]).exit_code == 0
    for arguments, says in (
        (["--recipe", "baseline"], "started with recipe fast"),
        (["--g-activation", "elu"], "started with --g-activation relu, not with --g-activation elu:1"),
        (["--seed", "5"], "started with --seed 0, not with --seed 5"),
        (["--positive-gamma"], "started with --any-gamma, not with --positive-gamma"),
        (["--holdout"], "started with --no-holdout, not with --holdout"),
        (["--colour"], "started with neither --grey nor --colour, not with --colour"),
        (["--images", str(data_dir)], "not with --images"),
        (["-o", str(tmp_path / "other")], "leave out --out"),
    ):
        result = CliRunner().invoke(main, ["--resume", str(run), *arguments])
        assert result.exit_code == 2, result.output
        assert says in result.stderr
    result = CliRunner().invoke(main, ["--resume", str(run), "--epochs", "9"])
    assert result.exit_code == 1
    assert (
        "falls to 0 at epoch 1, its last; to train its generator further, start a new run with --init" in result.stderr
    )
    before = (run / "generator.safetensors").read_bytes()
    agreeing = ["--resume", str(run), "--recipe", "fast", "--epochs", "1", "--data-dir", str(data_dir)]
    agreeing += ["--device", "auto", "--precision", "auto"]
    result = CliRunner().invoke(main, agreeing)
    assert result.exit_code == 0, result.output
    assert "the run was finished already" in result.stdout
    assert (run / "generator.safetensors").read_bytes() == before


def test_a_damaged_run_is_said(data_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert CliRunner().invoke(main, ["--data-dir", str(data_dir), "-o", str(run), *TINY]).exit_code == 0
    checkpoint = run / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    result = CliRunner().invoke(main, ["--resume", str(run)])
    assert result.exit_code == 1
    assert "checkpoint.safetensors is no safetensors file, or a truncated one" in result.stderr
    (run / "options.json").write_text("{")
    result = CliRunner().invoke(main, ["--resume", str(run)])
    assert result.exit_code == 1
    assert "options.json is damaged" in result.stderr


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loss", "foo"),
        ("discriminator", 3),
        ("epochs", "x"),
        ("g_lr", None),
        ("g_activation", False),
        ("processes", 0),
        ("processes", -3),
    ],
)
def test_options_that_say_what_they_can_not_are_one_line(field: str, value: object, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    recipe = RECIPES["fast"].to_dict()
    options = {"dataset": "sample", "data_dir": "x", "seed": 0, "device": "cpu", "threads": 1, "processes": 1}
    (recipe if field in recipe else options)[field] = value
    options["recipe"] = recipe
    (run / "options.json").write_text(json.dumps({"options": options}))
    result = CliRunner().invoke(main, ["--resume", str(run)])
    assert result.exit_code == 1
    assert f"options.json is damaged or of another version ({field} is" in result.stderr
    assert result.stderr.count("\n") == 1
    (run / "options.json").write_text('{"options": ' + "[" * 5000)
    result = CliRunner().invoke(main, ["--resume", str(run)])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1


def test_the_module_alone_says_what_it_can() -> None:
    """It would train for half an hour."""
    done = subprocess.run([sys.executable, "-m", "dcgan"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: dcgan-train [OPTIONS]")
