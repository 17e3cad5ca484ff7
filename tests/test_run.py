from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, StopAfter
from PIL import Image

from dcgan.checkpoint import load_generator
from dcgan.data import Dataset
from dcgan.loading import load_dataset
from dcgan.metrics.frechet import frechet_distance
from dcgan.recipes import RECIPES, SHOWN, Recipe
from dcgan.run import _Judge, train
from dcgan.run_options import RunOptions, longer, new_run_folder, read_options
from dcgan.trainer import Trainer
from dcgan_infer.contract.errors import DatasetError, DivergedError, EvaluationError, OutputError, RunError

TINY_FAST = dataclasses.replace(RECIPES["fast"], epochs=3, batch_size=16, precision="fp32")
TINY_BASELINE = dataclasses.replace(RECIPES["baseline"], epochs=2, batch_size=8)


def options_for(data_dir: Path, recipe: Recipe) -> RunOptions:
    return RunOptions(recipe=recipe, dataset="mnist", data_dir=str(data_dir), seed=0, device="cpu", threads=1)


def test_an_epoch_is_saved_before_it_is_measured(data_dir: Path, tmp_path: Path) -> None:
    """Where the signal comes after its last step: measuring may take longer than there is time."""
    options = options_for(data_dir, dataclasses.replace(TINY_FAST, epochs=2))
    measured: list[dict[str, Any]] = []
    steps: list[int] = []

    def step(trainer: Trainer) -> None:
        steps.append(trainer.steps_done)

    assert not train(tmp_path / "run", options, on_step=step, on_epoch=measured.append, interrupted=StopAfter(4))
    assert (steps, measured) == ([1, 2, 3, 4], [])
    rows = train(tmp_path / "run", options, resume=True, on_step=step, on_epoch=measured.append)
    assert steps == list(range(1, 9))
    assert rows == measured
    assert [row["steps"] for row in measured] == [4, 8]


def test_a_run_leaves_all_it_promises(data_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    options = options_for(data_dir, TINY_FAST)
    assert train(run, options)
    assert {path.name for path in run.iterdir()} == {
        "options.json", "checkpoint.safetensors", "metrics.jsonl", "samples", "losses.png", "generator.safetensors",
    }  # fmt: skip
    settled = dataclasses.replace(TINY_FAST, network="reference")  # auto, for these images
    assert read_options(run) == dataclasses.replace(options, recipe=settled)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(row["images_per_second"] > 0 and row["d_loss"] > 0 and row["g_loss"] > 0 for row in rows)
    assert [layer["layer"] for layer in rows[0]["activity"]["generator"]] == ["linear1", "decon1", "decon2"]
    judged = {layer["layer"]: layer["active"] for layer in rows[0]["activity"]["discriminator"]}
    assert list(judged) == ["heads.0.0", "heads.0.3", "heads.1.0", "heads.2.0"]
    assert all(0.05 < share < 0.95 for share in judged.values())
    assert len(list((run / "samples").iterdir())) == 3
    with Image.open(run / "samples" / "epoch-001.png") as grid:
        assert (grid.mode, grid.size) == ("L", (896, 896))
    final, last = (load_generator(run / name) for name in ("generator.safetensors", "checkpoint.safetensors"))
    assert final.weights_sha256 == last.weights_sha256
    assert json.loads(final.recipe)["name"] == "fast"


@pytest.mark.parametrize(
    ("recipe", "stop"),  # in the first epoch, at the end of one, in the second
    [
        (TINY_FAST, 1),
        (TINY_FAST, 4),
        (TINY_BASELINE, 10),
        (dataclasses.replace(TINY_FAST, epochs=2, precision="bf16"), 6),
        (dataclasses.replace(TINY_FAST, epochs=2, labels="asked"), 5),
        (dataclasses.replace(TINY_FAST, epochs=2, discriminator="spectral", labels="none"), 5),
    ],
    ids=["fast-1", "fast-4", "baseline-10", "bf16-6", "conditional-5", "spectral-5"],
)
def test_interrupted_and_resumed_gives_the_same_bits(data_dir: Path, tmp_path: Path, recipe: Recipe, stop: int) -> None:
    options = options_for(data_dir, recipe)
    assert train(tmp_path / "whole", options)
    assert not train(tmp_path / "parts", options, interrupted=StopAfter(stop))
    assert not (tmp_path / "parts" / "generator.safetensors").exists()
    torch.manual_seed(1234)  # what happens in between must not matter
    assert train(tmp_path / "parts", options, resume=True)
    losses = [
        [
            (row["d_loss"], row["g_loss"])
            for row in map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        ]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]
    names = ["generator.safetensors", *(f"samples/epoch-{epoch:03d}.png" for epoch in range(1, recipe.epochs + 1))]
    for name in names:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_conditional_run_shows_a_column_a_digit(data_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = options_for(data_dir, dataclasses.replace(TINY_FAST, epochs=1, labels="asked"))
    assert train(run, options)
    with Image.open(run / "samples" / "epoch-001.png") as grid:
        assert grid.size == (1120, 1120)
    checkpoint = load_generator(run / "generator.safetensors")
    assert checkpoint.spec.num_classes == 10
    assert json.loads(checkpoint.recipe)["labels"] == "asked"


def test_eval_every_measures_and_keeps_the_best(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcgan.run.FID_COUNT", 100)
    # The real measurement, whose result is then bent: which epoch is best must not depend on this machine's arithmetic.
    real, factors = frechet_distance, iter([3.0, 1.0, 2.0] * 4)
    monkeypatch.setattr("dcgan.run.frechet_distance", lambda a, b: next(factors) + 1e-9 * real(a, b))
    options = dataclasses.replace(
        options_for(data_dir, dataclasses.replace(TINY_FAST, epochs=5, g_lr=0.05)), eval_every=2, holdout=True
    )
    seen: list[Trainer] = []
    rows = train(tmp_path / "whole", options, on_step=seen.append)
    assert rows
    assert len(seen[0].images) == 32  # the other half of the 64 images is held out
    measured = {row["epoch"]: row["frechet_distance"] for row in rows if "frechet_distance" in row}
    assert list(measured) == [2, 4, 5]  # every second epoch, and the last
    assert min(measured, key=lambda epoch: measured[epoch]) == 4
    kept, last = (load_generator(tmp_path / "whole" / f"{name}.safetensors") for name in ("best", "generator"))
    assert kept.weights_sha256 != last.weights_sha256

    # Measuring changes nothing, and a run that was interrupted keeps the same best.
    assert train(tmp_path / "unmeasured", dataclasses.replace(options, eval_every=0))
    assert load_generator(tmp_path / "unmeasured" / "generator.safetensors").weights_sha256 == last.weights_sha256
    assert not train(tmp_path / "parts", options, interrupted=StopAfter(7))
    again = train(tmp_path / "parts", options, resume=True)
    assert again
    assert [row.get("frechet_distance") for row in again] == [row.get("frechet_distance") for row in rows]
    assert (tmp_path / "parts" / "best.safetensors").read_bytes() == (
        tmp_path / "whole" / "best.safetensors"
    ).read_bytes()


def test_eval_every_makes_an_evaluator_of_other_images(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a data set that none ships for; and that changes no bit of the training."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("dcgan.run.FID_COUNT", 50)
    monkeypatch.setattr("dcgan.metrics.make_evaluator.LEAST_STEPS", 5)
    options = dataclasses.replace(
        options_for(data_dir, dataclasses.replace(TINY_FAST, epochs=1)), dataset="kmnist", eval_every=1
    )
    rows = train(tmp_path / "run", options)
    assert rows
    assert rows[0]["frechet_distance"] > 0
    assert len(list((tmp_path / "dcgan-toolkit" / "evaluators").glob("kmnist-*.onnx"))) == 1
    assert train(tmp_path / "unmeasured", dataclasses.replace(options, eval_every=0))
    measured, unmeasured = (load_generator(tmp_path / name) for name in ("run", "unmeasured"))
    assert measured.weights_sha256 == unmeasured.weights_sha256


def test_eval_every_needs_labels(data_dir: Path) -> None:
    images = load_dataset("mnist", data_dir).images
    with pytest.raises(EvaluationError, match="learns from labels, and photos has none; leave it out"):
        _Judge(Dataset(images, name="photos"), Dataset(images, name="photos"), 1)
    labelled = load_dataset("mnist", data_dir)
    with pytest.raises(EvaluationError, match="more images than these"):
        _Judge(labelled, labelled[:1], 1)


def test_that_comparison_sees_a_lost_random_state(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_for(data_dir, TINY_FAST)
    assert train(tmp_path / "whole", options)
    assert not train(tmp_path / "parts", options, interrupted=StopAfter(5))
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    assert train(tmp_path / "parts", options, resume=True)
    results = [(tmp_path / run / "generator.safetensors").read_bytes() for run in ("whole", "parts")]
    assert results[0] != results[1]


def start(data_dir: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dcgan", "--data-dir", str(data_dir), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_and_resumed_gives_the_same_bits(data_dir: Path, tmp_path: Path) -> None:
    choices = ("--recipe", "fast", "--batch-size", "16", "--epochs", "6", "--threads", "1", "--precision", "fp32")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    killed = start(data_dir, parts, "-o", str(parts), *choices)
    while not (parts / "checkpoint.safetensors").exists() and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()  # SIGKILL: no handler runs
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (parts / "generator.safetensors").exists()

    for process in (start(data_dir, parts, "--resume", str(parts)), start(data_dir, whole, "-o", str(whole), *choices)):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert (parts / "generator.safetensors").read_bytes() == (whole / "generator.safetensors").read_bytes()
    epochs = [json.loads(line)["epoch"] for line in (parts / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, 7))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(number: signal.Signals, data_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(data_dir, run, "-o", str(run), "--epochs", "1000", "--batch-size", "16", "--threads", "1")
    while not (run / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    acknowledged, _, end = errors.strip().partition("\n")
    assert acknowledged.startswith("stopping after this step")
    assert end == f"stopped and saved; resume with: dcgan-train --resume {run}"
    assert (run / "checkpoint.safetensors").exists()


def test_it_saves_when_whoever_read_its_words_has_gone(data_dir: Path, tmp_path: Path) -> None:
    """As `dcgan-train 2>&1 | tee log`, where Ctrl-C ends tee too."""
    run = tmp_path / "run"
    process = start(data_dir, run, "-o", str(run), "--epochs", "1000", "--batch-size", "16", "--threads", "1")
    while not (run / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    assert process.stderr is not None
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert (run / "checkpoint.safetensors").exists()


def test_two_default_runs_at_once_have_a_folder_each(data_dir: Path, tmp_path: Path) -> None:
    """Both choose a name at the same time: from then on it is theirs."""
    line = [sys.executable, "-m", "dcgan", "--data-dir", str(data_dir), "--epochs", "1", "--batch-size", "16"]
    both = [subprocess.Popen([*line, "--threads", "1"], cwd=tmp_path, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, b"")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["000-mnist-fast", "001-mnist-fast"]
    assert all((run / "generator.safetensors").exists() for run in (tmp_path / "runs").iterdir())


def test_a_default_run_that_can_not_start_leaves_no_folder(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "dcgan", "--images", str(tmp_path / "none")]
    assert subprocess.run(line, cwd=tmp_path, capture_output=True, check=False).returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_before_the_first_step_is_one_line(data_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(data_dir, run, "-o", str(run), "--dataset", "sample", "--threads", "1")
    assert process.stdout is not None
    while "run  " not in process.stdout.readline():  # the header's last line: a classifier is trained now
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().startswith("stopped; what was not saved yet is lost")


def test_a_taken_folder_is_left_alone(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for run in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(RunError, match="already exists"):
            train(run, options_for(data_dir, TINY_FAST))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resuming_on_other_images_is_refused(data_dir: Path, tmp_path: Path) -> None:
    options = options_for(data_dir, TINY_FAST)
    assert not train(tmp_path / "run", options, interrupted=StopAfter(2))
    images = data_dir / "train-images-idx3-ubyte"
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    with pytest.raises(RunError, match="other images"):
        train(tmp_path / "run", options, resume=True)


def test_a_lost_checkpoint_is_said(data_dir: Path, tmp_path: Path) -> None:
    options = options_for(data_dir, TINY_FAST)
    run = tmp_path / "run"
    train(run, options)
    (run / "generator.safetensors").unlink()
    (run / "checkpoint.safetensors").unlink()
    assert len((run / "metrics.jsonl").read_text().splitlines()) > 1
    with pytest.raises(RunError, match=r"no checkpoint.safetensors any more, .*; start a new run"):
        train(run, options, resume=True)


def test_two_runs_in_one_folder_are_refused(data_dir: Path, tmp_path: Path) -> None:
    options = options_for(data_dir, TINY_FAST)
    caught: list[object] = []

    def start_another(_: object) -> None:
        if not caught:
            with pytest.raises(OutputError, match="another command is at work") as error:
                train(tmp_path / "run", options, resume=True)
            caught.append(error)

    assert train(tmp_path / "run", options, on_step=start_another)
    assert caught


def test_nothing_that_is_not_finite_is_saved(data_dir: Path, tmp_path: Path) -> None:
    options = options_for(data_dir, TINY_FAST)

    def poison(trainer: Trainer) -> None:
        if trainer.steps_done == 5:
            trainer.average.state_dict()["decon3.bias"].fill_(float("nan"))

    with pytest.raises(DivergedError, match="the last good state is in"):
        train(tmp_path / "run", options, on_step=poison, interrupted=StopAfter(7))
    saved = load_generator(tmp_path / "run" / "checkpoint.safetensors").module
    assert all(torch.isfinite(tensor).all() for tensor in saved.state_dict().values())


def test_what_a_killed_process_left_is_cleared_on_resume(data_dir: Path, tmp_path: Path) -> None:
    options = options_for(data_dir, TINY_FAST)
    assert not train(tmp_path / "run", options, interrupted=StopAfter(2))
    (tmp_path / "run" / ".checkpoint.safetensors.0.tmp").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("{half a li")
    assert train(tmp_path / "run", options, resume=True)
    assert not list((tmp_path / "run").glob(".*"))
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


def test_losses_that_diverge_stop_the_run(data_dir: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY_BASELINE, g_lr=1e30, d_lr=1e30)
    with pytest.raises(DivergedError, match="lower --g-lr"):
        train(tmp_path / "run", options_for(data_dir, recipe))
    assert not (tmp_path / "run" / "generator.safetensors").exists()


def test_a_batch_larger_than_the_data_set_is_refused(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="2 to 64 of"):
        train(tmp_path / "run", options_for(data_dir, dataclasses.replace(TINY_FAST, batch_size=65)))
    assert not (tmp_path / "run").exists()


def test_threads_are_what_the_options_say(data_dir: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    options = dataclasses.replace(options_for(data_dir, TINY_FAST), threads=2)
    train(tmp_path / "run", options, on_step=lambda _: seen.append(torch.get_num_threads()), interrupted=StopAfter(1))
    torch.set_num_threads(1)
    assert seen == [2]


def colours(count: int, classes: int = 0) -> Dataset:
    random = np.random.default_rng(0)
    labels = np.arange(count) % classes if classes else None
    names = tuple(f"kind {label}" for label in range(classes))
    return Dataset(random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8), labels, names, "mine")


TINY_IMAGES = dataclasses.replace(RECIPES["images"], epochs=2, batch_size=8, ngf=4, ndf=4, precision="fp32")


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[[Dataset], RunOptions]:
    """Options of a run on images that are at hand, so that no files are needed."""

    def put(dataset: Dataset) -> RunOptions:
        monkeypatch.setattr("dcgan.loading.load_dataset", lambda *_, **__: dataset)
        return RunOptions(TINY_IMAGES, "images", "/somewhere/mine.zip", 0, "cpu", 1)

    return put


def test_colour_images_train_and_resume_to_the_same_bits(own: Callable[[Dataset], RunOptions], tmp_path: Path) -> None:
    options = own(colours(32))
    assert train(tmp_path / "whole", options)
    assert not train(tmp_path / "parts", options, interrupted=StopAfter(5))
    assert train(tmp_path / "parts", read_options(tmp_path / "parts"), resume=True)
    whole, parts = ((tmp_path / name / "generator.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    spec = load_generator(tmp_path / "whole").spec
    assert (spec.image_shape, spec.num_classes) == ((3, 16, 16), 0)
    with Image.open(tmp_path / "whole" / "samples" / "epoch-001.png") as grid:
        assert (grid.mode, grid.size) == ("RGB", (8 * 112, 8 * 112))


def test_classes_have_their_names_and_a_column_each(own: Callable[[Dataset], RunOptions], tmp_path: Path) -> None:
    options = own(colours(30, 3))
    recipe = dataclasses.replace(TINY_IMAGES, labels="asked", epochs=1)
    assert train(tmp_path / "run", dataclasses.replace(options, recipe=recipe))
    assert load_generator(tmp_path / "run").spec.class_names == ("kind 0", "kind 1", "kind 2")
    with Image.open(tmp_path / "run" / "samples" / "epoch-001.png") as grid:
        assert grid.size == (3 * 112, 10 * 112)


@pytest.mark.parametrize("labels", ["asked", "latent"])
def test_images_without_classes_are_told_what_they_lack(
    own: Callable[[Dataset], RunOptions], tmp_path: Path, labels: str
) -> None:
    options = dataclasses.replace(own(colours(32)), recipe=dataclasses.replace(TINY_IMAGES, labels=labels))
    with pytest.raises(DatasetError, match="mine has no classes"):
        train(tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


def test_epochs_left_open_are_settled_by_the_number_of_images(
    own: Callable[[Dataset], RunOptions], tmp_path: Path
) -> None:
    options = own(colours(32))
    options = dataclasses.replace(options, recipe=dataclasses.replace(TINY_IMAGES, epochs=0))
    seen: list[RunOptions] = []
    train(tmp_path / "run", options, on_start=lambda settled, _: seen.append(settled), interrupted=StopAfter(1))
    assert seen[0].recipe.epochs == SHOWN // 32 == read_options(tmp_path / "run").recipe.epochs
    assert seen[0].recipe.network == "dcgan"
    half = dataclasses.replace(options, holdout=True, recipe=dataclasses.replace(options.recipe, batch_size=8))
    train(tmp_path / "half", half, on_start=lambda settled, _: seen.append(settled), interrupted=StopAfter(1))
    assert seen[1].recipe.epochs == SHOWN // 16  # as many images are shown of those that are left


def test_batches_that_can_not_be_had_are_refused(own: Callable[[Dataset], RunOptions], tmp_path: Path) -> None:
    options = own(colours(33))
    for change, message in (
        ({"batch_size": 34}, "2 to 33 of these 33 images, not 34; give --batch-size"),
        ({"batch_size": 8, "drop_last": False, "network": "reference"}, "the last batch would be one image of 33"),
    ):
        recipe = dataclasses.replace(TINY_IMAGES, **change)
        with pytest.raises(DatasetError, match=message):
            train(tmp_path / "run", dataclasses.replace(options, recipe=recipe))
    assert not (tmp_path / "run").exists()


def test_more_epochs_at_a_constant_rate_are_the_longer_run(
    own: Callable[[Dataset], RunOptions], tmp_path: Path
) -> None:
    constant = dataclasses.replace(TINY_IMAGES, lr_schedule="constant")
    options = dataclasses.replace(own(colours(32)), recipe=constant)
    assert train(tmp_path / "parts", options)
    assert train(tmp_path / "parts", longer(read_options(tmp_path / "parts"), 3), resume=True)
    assert train(tmp_path / "whole", longer(options, 3))
    whole, parts = ((tmp_path / name / "generator.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    assert read_options(tmp_path / "parts").recipe.epochs == 3
    with pytest.raises(RunError, match="falls to 0"):
        longer(dataclasses.replace(options, recipe=TINY_IMAGES), 3)
    with pytest.raises(RunError, match="longer, not shorter"):
        longer(options, constant.epochs - 1)


def test_a_run_starts_from_a_generator(own: Callable[[Dataset], RunOptions], tmp_path: Path) -> None:
    options = own(colours(32))
    assert train(tmp_path / "first", options)
    tuned = dataclasses.replace(options, init=str(tmp_path / "first"))
    seen: list[Trainer] = []
    assert not train(tmp_path / "second", tuned, on_step=seen.append, interrupted=StopAfter(3))
    before = load_generator(tmp_path / "first").module.state_dict()["main.0.weight"]
    now = seen[0].generator.state_dict()["main.0.weight"]
    assert 0 < (now - before).abs().max() < 3.5 * TINY_IMAGES.g_lr  # three steps of Adam away, not another draw
    shutil.rmtree(tmp_path / "first")  # the run has its own copy
    assert train(tmp_path / "second", read_options(tmp_path / "second"), resume=True)

    other = dataclasses.replace(tuned, init=str(tmp_path / "second"))
    own(dataclasses.replace(colours(32), images=np.zeros((32, 32, 32, 3), np.uint8)))
    with pytest.raises(DatasetError, match=r"makes images of shape \(3, 16, 16\).*choose --size"):
        train(tmp_path / "third", other)


def test_the_latents_of_a_run_are_those_of_the_generator_it_starts_from(
    own: Callable[[Dataset], RunOptions], tmp_path: Path
) -> None:
    short = dataclasses.replace(TINY_IMAGES, latent_dim=2)  # too few for three classes to be named by
    assert train(tmp_path / "first", dataclasses.replace(own(colours(32)), recipe=short))
    assert train(tmp_path / "second", dataclasses.replace(own(colours(32, 3)), init=str(tmp_path / "first")))
    recipe = read_options(tmp_path / "second").recipe
    assert (recipe.latent_dim, recipe.labels) == (2, "none")


def test_tensorboard_gets_losses_and_samples(own: Callable[[Dataset], RunOptions], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = dataclasses.replace(own(colours(32)), tensorboard=True)
    rows = train(tmp_path / "run", options)
    assert rows
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("g_loss")] == pytest.approx([row["g_loss"] for row in rows])
    assert [event.step for event in events.Images("samples")] == [1, 2]


def test_new_run_folders_count_up(tmp_path: Path) -> None:
    assert new_run_folder(tmp_path, "mnist-fast").name == "000-mnist-fast"
    (tmp_path / "007-other").mkdir()
    (tmp_path / "notes").mkdir()
    assert new_run_folder(tmp_path, "mnist-fast").name == "008-mnist-fast"
