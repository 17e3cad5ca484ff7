"""A digit on demand: a conditional generator through export, ImageGenerator and dcgan-infer."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from exported import export
from PIL import Image

from dcgan.checkpoint import load_generator, save_generator
from dcgan.networks import Generator
from dcgan.sources import open_images
from dcgan_export import exact, formats, onnx_file, parity
from dcgan_export.formats import Variant
from dcgan_infer import ImageGenerator
from dcgan_infer.cli import main
from dcgan_infer.contract.errors import LatentError, ModelError
from dcgan_infer.contract.latents import labels, latents
from dcgan_infer.contract.spec import reference_spec


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a conditional checkpoint and its ONNX model."""
    folder = tmp_path_factory.mktemp("conditional")
    torch.manual_seed(0)
    generator = Generator(reference_spec(num_classes=10))
    with torch.no_grad():
        # So that the digit matters as it does in a trained one.
        generator.get_parameter("linear1.weight")[:, 100:] *= 20.0
    for _ in range(20):
        generator(torch.randn(32, 100), torch.arange(32) % 10)
    save_generator(folder / "digits.safetensors", generator.state_dict(), generator.spec, "{}")
    export(folder / "digits.safetensors", folder / "digits.onnx")
    return folder


@pytest.fixture(scope="module")
def model(files: Path) -> ImageGenerator:
    return ImageGenerator(files / "digits.onnx", provider="cpu", threads=1)


def run(files: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--provider", "cpu", "--model", str(files / "digits.onnx"), *arguments])


@pytest.mark.parametrize("format_name", list(formats.FORMATS))
def test_every_format_takes_labels(format_name: str, files: Path, tmp_path: Path) -> None:
    path = tmp_path / f"model{formats.FORMATS[format_name].suffix}"
    artifact = export(files / "digits.safetensors", path, format=format_name)
    assert artifact.report.passed
    run = formats.FORMATS[format_name].load_module().load(path)
    z, label = latents(0, 0, 3, 100), np.array([3, 1, 4])
    checkpoint = load_generator(files / "digits.safetensors").module
    expected = checkpoint(torch.from_numpy(z), torch.from_numpy(label)).detach().numpy()
    np.testing.assert_allclose(run(z, label), expected, atol=1e-5)


def test_the_onnx_inputs_are_z_and_label(files: Path) -> None:
    graph = onnx.load(files / "digits.onnx").graph
    assert [value.name for value in graph.input] == ["z", "label"]
    assert graph.input[1].type.tensor_type.elem_type == onnx.TensorProto.INT64
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in graph.input] == ["batch", "batch"]


def test_parity_sees_labels_that_are_mixed_up(files: Path) -> None:
    checkpoint = load_generator(files / "digits.safetensors")
    probes = exact.make_probes(checkpoint.module, checkpoint.spec)
    assert all(set(range(10)) == set(probe.labels.tolist()) for probe in probes if probe.labels is not None)
    right = onnx_file.load(files / "digits.onnx")
    variant = Variant().settled()
    assert parity.compare(right, probes, checkpoint.spec, variant).passed
    for wrong in (lambda label: (label + 1) % 10, lambda label: np.where(label == 9, 4, label), np.zeros_like):
        run = functools.partial(lambda wrong, z, label: right(z, wrong(label)), wrong)
        assert not parity.compare(run, probes, checkpoint.spec, variant).passed


def test_labels_are_drawn_by_the_seed(files: Path, model: ImageGenerator) -> None:
    drawn = labels(5, 0, 200, 10)
    assert np.array_equal(model.labels(200, seed=5), drawn)
    whole = model.generate(200, seed=5)
    assert np.array_equal(whole, model.generate_from(latents(5, 0, 200, 100), drawn))
    assert np.array_equal(whole[150:], model.generate(50, seed=5, start=150))
    assert np.array_equal(whole[:40], open_images(str(files / "digits.onnx"), 1)(40, 5)[0])


def test_digits_are_made_in_turn(model: ImageGenerator) -> None:
    one = model.generate(20, seed=0, digits=7)
    assert np.array_equal(one, model.generate_from(latents(0, 0, 20, 100), np.full(20, 7)))
    turn = model.generate(20, seed=0, digits=[7, 1])
    assert np.array_equal(turn[::2], one[::2])
    assert not np.array_equal(turn[1::2], one[1::2])
    assert np.array_equal(
        turn[5:], model.generate(15, seed=0, start=5, digits=[7, 1])
    )  # by index: ranges can be shared out
    assert model.labels(5, start=3, digits=[7, 1]).tolist() == [1, 7, 1, 7, 1]


def test_truncation_scales_latents(model: ImageGenerator) -> None:
    half = model.generate(4, seed=0, digits=3, truncation=0.5)
    assert np.array_equal(half, model.generate_from(latents(0, 0, 4, 100) * np.float32(0.5), np.full(4, 3)))
    none = model.generate(4, seed=0, digits=3, truncation=0.0)
    assert (none == none[0]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.generate(3, digits=10), "label 10 of image 0 is none of this model's, 0 to 9"),
        (lambda model: model.generate(3, digits=[1, -1]), "label -1 of image 1"),
        (lambda model: model.generate(3, digits=[]), "no classes"),
        (lambda model: model.generate_from(latents(0, 0, 3, 100)), "is conditional: give a label"),
        (lambda model: model.generate_from(latents(0, 0, 3, 100), np.zeros(2, int)), "2 labels for 3 latents"),
        (lambda model: model.generate_from(latents(0, 0, 3, 100), np.zeros(3)), "labels must be integers"),
    ],
)
def test_labels_that_do_not_fit_are_errors(model: ImageGenerator, call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(LatentError, match=message):
        call(model)


def test_an_unconditional_model_can_not_be_asked_for_a_digit() -> None:
    plain = ImageGenerator("dcgan-mnist", provider="cpu")
    for call in (
        lambda: plain.generate(2, digits=7),
        lambda: plain.labels(2),
        lambda: plain.generate_from(latents(0, 0, 2, 100), np.array([1, 2])),
    ):
        with pytest.raises(ModelError, match="is unconditional"):
            call()


def test_the_command_makes_a_column_each(files: Path, model: ImageGenerator, tmp_path: Path) -> None:
    out = tmp_path / "table.png"
    result = run(files, "--n", "30", "--digits", "0123456789", "--scale", "1", "-o", str(out))
    assert "30 images in 3x10" in result.output
    digits = model.generate(30, digits=range(10))
    with Image.open(out) as picture:
        assert picture.info["dcgan.digits"] == "0 1 2 3 4 5 6 7 8 9"
        sheet = np.asarray(picture)
    assert np.array_equal(sheet, digits.reshape(3, 10, 28, 28).swapaxes(1, 2).reshape(84, 280))


def test_as_many_digits_as_are_named(files: Path, tmp_path: Path) -> None:
    assert "4 images in 1x4" in run(files, "--digits", "3,1,4,1", "-o", str(tmp_path / "pi.png")).output
    assert "16 images in 4x4" in run(files, "--digit", "7", "-o", str(tmp_path / "sevens.png")).output
    assert "16 images in 4x4" in run(files, "-o", str(tmp_path / "any.png")).output


def test_labels_of_a_file_and_an_npz_with_labels(files: Path, model: ImageGenerator, tmp_path: Path) -> None:
    wanted = np.array([9, 8, 7, 6, 5])
    np.save(tmp_path / "labels.npy", wanted)
    (tmp_path / "labels.txt").write_text("9, 8 7\n6\n5\n")
    for name in ("labels.npy", "labels.txt"):
        assert run(files, "--seed", "0", "--labels", str(tmp_path / name), "-o", str(tmp_path / "x.npz")).exit_code == 0
        with np.load(tmp_path / "x.npz") as archive:
            assert np.array_equal(archive["labels"], wanted)
            assert archive["labels"].dtype == np.uint8
            assert np.array_equal(archive["images"], model.generate_from(latents(0, 0, 5, 100), wanted))
    later = ("--seed", "0", "--labels", str(tmp_path / "labels.npy"), "--start", "3")
    assert run(files, *later, "-o", str(tmp_path / "y.npz")).exit_code == 0
    with np.load(tmp_path / "y.npz") as archive:
        assert archive["labels"].tolist() == [6, 5]
        assert np.array_equal(archive["images"], model.generate_from(latents(0, 3, 2, 100), wanted[3:]))
    assert run(files, "--n", "300", "--seed", "4", "-o", str(tmp_path / "z.npz")).exit_code == 0
    with np.load(tmp_path / "z.npz") as archive:
        assert np.array_equal(archive["labels"], labels(4, 0, 300, 10))


def test_a_walk_keeps_its_digit(files: Path, tmp_path: Path) -> None:
    walk = ("--interpolate", "6", "--scale", "1", "-o")
    assert run(files, "--n", "2", "--digit", "5", *walk, str(tmp_path / "a.png")).exit_code == 0
    assert run(files, "--digits", "52", *walk, str(tmp_path / "b.png")).exit_code == 0
    same, mixed = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert same.shape == mixed.shape == (56, 168)
    assert np.array_equal(same[:28], mixed[:28])
    assert not np.array_equal(same[28:], mixed[28:])


def test_a_picture_says_how_to_make_it_again(files: Path, tmp_path: Path) -> None:
    options = ("--digits", "42", "--truncation", "0.7", "--seed", "3", "--n", "6")
    assert run(files, *options, "-o", str(tmp_path / "a.png")).exit_code == 0
    with Image.open(tmp_path / "a.png") as picture:
        facts = dict(picture.info)
    assert facts["dcgan.truncation"] == "0.7"
    again = [word for name in ("digits", "truncation", "seed", "n") for word in (f"--{name}", facts[f"dcgan.{name}"])]
    assert run(files, *again, "-o", str(tmp_path / "b.png")).exit_code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    found = json.loads(run(files, *options, "--json", "-o", str(tmp_path / "c.png")).stdout)
    assert found["digits"] == "4 2"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--model", "dcgan-mnist", "--digit", "7"], 1, "dcgan-mnist is unconditional"),
        (["--model", "dcgan-mnist", "--labels", "three.txt"], 1, "dcgan-mnist is unconditional"),
        (["--digit", "12"], 1, "label 12 of image 0 is none of this model's, 0 to 9"),
        (["--digit", "1", "--digits", "23"], 2, "exclude each other"),
        (["--digits", "1", "--labels", "three.txt"], 2, "exclude each other"),
        (["--digits", "one"], 2, "no list of digits"),
        (["--digits", ""], 2, "no list of digits"),
        (["--truncation", "3"], 2, "not in the range 0<=x<=2"),
        (["--truncation", "nan"], 2, "not a finite number"),
        (["--labels", "missing.txt"], 1, "can't read labels missing.txt"),
        (["--labels", "archive.npy"], 1, "archive.npy holds no labels"),
        (["--labels", "words.txt"], 1, "this model has no class 'one two'"),
        (["--labels", "three.txt", "--n", "4"], 1, "three.txt holds 3 labels, asked for 4"),
        (["--labels", "three.txt", "--start", "3"], 2, "has the rows 0 to 2"),
        (["--labels", "eleven.txt"], 1, "this model has no class '11'; did you mean 1? its classes are 0 to 9"),
        (["--labels", "three.txt", "-o", "three.txt"], 2, "three.txt"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], status: int, message: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("three.txt").write_text("1 2 3")
    Path("words.txt").write_text("one two")
    Path("eleven.txt").write_text("1 11")
    with Path("archive.npy").open("wb") as file:
        np.savez(file, labels=np.zeros(3, int))
    result = run(files, *arguments)
    assert result.exit_code == status, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert not Path("grid.png").exists()
