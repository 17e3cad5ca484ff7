"""The frozen evaluator, what is judged with it, and the command dcgan-eval, on the shipped sample."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import MODELS, OLD

from dcgan.data import load_dataset
from dcgan.eval_cli import main
from dcgan.evaluation import METRICS, Reference, evaluate, judge_digits, load_reference
from dcgan.metrics.evaluator import PATH, Evaluator
from dcgan.sources import Digits, _ModelDigits, open_digits
from dcgan_infer import ImageGenerator, shipped
from dcgan_infer.contract.errors import EvaluationError, LatentError
from dcgan_infer.contract.spec import Interface

NOWHERE = Path("nowhere")


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(threads=1)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return load_reference("sample", NOWHERE, "validation")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["--dataset", "sample", "--threads", "1", *arguments])


def test_the_evaluator_reads_real_digits(evaluator: Evaluator, reference: Reference) -> None:
    held = reference.held
    judged = evaluator.judge(held.images[:1000])
    assert (judged.labels == held.labels[:1000]).mean() > 0.994
    assert judged.features.shape == (1000, 128)
    assert judged.features.min() >= 0.0
    assert np.allclose(judged.probabilities.sum(1), 1.0)
    again = evaluator.judge(held.images[500:600])  # in a batch of another size and company
    assert np.allclose(again.features, judged.features[500:600], atol=1e-4)


@pytest.mark.skipif("MNIST_DIR" not in os.environ, reason="needs all of MNIST in MNIST_DIR")
def test_the_evaluator_reads_the_test_images(evaluator: Evaluator) -> None:
    test = load_dataset("mnist", Path(os.environ["MNIST_DIR"]), "test")
    assert (evaluator.judge(test.images).labels == test.labels).mean() > 0.994


@pytest.mark.parametrize(
    "images", [np.zeros((2, 28, 28)), np.zeros((2, 1, 28, 28), np.uint8), np.zeros((0, 28, 28), np.uint8)]
)
def test_the_evaluator_refuses_other_images(evaluator: Evaluator, images: np.ndarray) -> None:
    with pytest.raises(EvaluationError, match="uint8 images of shape"):
        evaluator.judge(images)


def test_a_damaged_evaluator_is_one_error(tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(PATH.read_bytes()[:1000])
    for path in (cut, tmp_path / "missing.onnx"):
        with pytest.raises(EvaluationError, match="can't read the evaluator"):
            Evaluator(path)


def test_what_is_wrong_with_digits_shows_in_the_figures(evaluator: Evaluator, reference: Reference) -> None:
    """Real digits, blurred, from few classes, copied, mislabelled: each defect moves the metric that is for it."""
    held = reference.held.images[:1000], reference.held.labels[:1000]
    part = type(reference.held)(*held)
    judged_held = evaluator.judge(part.images)
    images, labels = reference.real.images[:1000], reference.real.labels[:1000]

    def figures(changed: np.ndarray, of: np.ndarray = labels) -> dict[str, float]:
        return judge_digits(evaluator.judge(changed), of, judged_held, part)

    right = figures(images)
    assert set(right) < set(METRICS)
    assert right["label_agreement"] > 0.99
    assert right["coverage"] > 0.9 < right["clear_share"]
    assert right["class_imbalance"] < 0.1

    noisy = np.random.default_rng(0).integers(0, 120, images.shape) + images
    noisy_row = figures(np.clip(noisy, 0, 255).astype(np.uint8))
    assert noisy_row["frechet_distance"] > 3 * right["frechet_distance"]
    assert noisy_row["kernel_distance"] > right["kernel_distance"]
    assert noisy_row["precision"] < right["precision"]
    assert noisy_row["density"] < right["density"]

    halves = images.copy()
    halves[:, :14] = images[np.random.default_rng(1).permutation(1000), :14]
    assert figures(halves)["clear_share"] < right["clear_share"] - 0.2

    few = figures(images[labels < 5][np.arange(1000) % (labels < 5).sum()], labels)
    assert few["recall"] < right["recall"] - 0.2
    assert few["coverage"] < 0.7 * right["coverage"]
    assert few["class_imbalance"] > 0.4

    assert figures(images, np.roll(labels, 1))["label_agreement"] < 0.3


def test_digits_are_those_of_dcgan_infer() -> None:
    for name in shipped.names(".onnx"):
        ours, labels = open_digits(name, 1)(40, 7)
        generator = ImageGenerator(name, threads=1)
        assert np.abs(ours.astype(int) - generator.generate(40, seed=7)).max() <= 1
        if labels is not None:
            assert np.array_equal(labels, generator.labels(40, seed=7))


def test_a_model_that_takes_a_seed_is_judged_too() -> None:
    """The models of these fixtures make images of another size than the evaluator's, so it is looked at from within."""
    ours, peer = (
        _ModelDigits(form, ImageGenerator(OLD / f"conditional-{form}.onnx", provider="cpu", threads=1))
        for form in ("seed", "uint8")
    )
    (images, labels), (others, drawn) = ours(300, 7), peer(300, 7)
    assert np.array_equal(images, others)
    assert labels is not None
    assert drawn is not None
    assert np.array_equal(labels, drawn)
    with pytest.raises(LatentError, match="10,000 at most"):
        ours(10_001, 7)


@pytest.mark.parametrize("path", [MODELS / "colour.onnx", OLD / "conditional-seed.onnx"])
def test_models_of_other_images_are_refused(path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"the evaluator reads \(1, 28, 28\)"):
        open_digits(str(path), 1)


def test_a_checkpoint_and_its_model_get_the_same_figures() -> None:
    pytest.importorskip("torch")
    checkpoint, _ = open_digits(str(shipped.path_of("dcgan-mnist", ".safetensors")), 1)(40, 3)
    model, _ = open_digits("dcgan-mnist", 1)(40, 3)
    assert np.abs(checkpoint.astype(int) - model).max() <= 1


def test_the_table_shows_model_floor_and_counts() -> None:
    result = run("-n", "300")
    assert result.exit_code == 0, result.output
    assert "against 5,000 validation images" in result.output
    for metric in ("frechet_distance", "precision", "coverage", "class_imbalance"):
        assert METRICS[metric].label in result.output
    assert "times the floor of real images (seed 0); of 300 images it says little" in result.output


def test_json_has_every_seed() -> None:
    result = run("-n", "300", "--seeds", "2", "--seed", "5", "--json")
    found = json.loads(result.stdout)
    assert found["seeds"] == [5, 6]
    row = found["metrics"]["frechet_distance"]
    assert len(set(row["model_by_seed"])) == 2
    assert row["images"] == 300
    assert row["real"] < row["model"]
    assert found["evaluator_sha256"] == Evaluator(threads=1).sha256
    one = json.loads(run("-n", "300", "--seed", "6", "--json").stdout)
    assert one["metrics"]["frechet_distance"]["model"] == row["model_by_seed"][1]


def test_images_of_a_file_are_judged(tmp_path: Path, reference: Reference) -> None:
    images, labels = reference.real.images, reference.real.labels
    np.savez(tmp_path / "real.npz", images=images, labels=labels)
    np.save(tmp_path / "real.npy", (images / np.float32(127.5) - 1)[:, None])  # with a channel, as models make them
    result = run(str(tmp_path / "real.npz"), "-n", "400", "--nearest-neighbour", "--json")
    found = json.loads(result.stdout)["metrics"]
    assert found["frechet_distance"]["model"] == pytest.approx(found["frechet_distance"]["real"])
    assert found["label_agreement"]["model"] > 0.99
    plain = json.loads(run(str(tmp_path / "real.npy"), "-n", "400", "--json").stdout)["metrics"]
    assert plain["frechet_distance"]["model"] == pytest.approx(found["frechet_distance"]["model"])


def test_nearest_neighbours_of_real_images(evaluator: Evaluator, reference: Reference) -> None:
    def again(count: int, _seed: int) -> tuple[np.ndarray, np.ndarray]:
        return reference.real.images[:count], reference.real.labels[:count]

    row = evaluate(again, reference, evaluator, count=500, nearest_neighbour=True)
    assert row.figures["nearest_neighbour_error"] == [row.floor["nearest_neighbour_error"]]
    assert 0.02 < row.floor["nearest_neighbour_error"] < 0.10


def test_cas_learns_from_the_images_it_is_given(reference: Reference) -> None:
    pytest.importorskip("torch")
    from dcgan.metrics.classification import classification_accuracy_score

    images, labels = reference.real.images[:600], reference.real.labels[:600]
    tests = reference.held.images[:500], reference.held.labels[:500]

    def score(of: np.ndarray) -> float:
        return classification_accuracy_score(images, of, *tests, epochs=2, held_out=100)

    first = score(labels)
    assert first > 0.6
    assert score(labels) == first
    assert score(np.roll(labels, 1)) < 0.3


def test_cas_of_too_few_images_is_an_error(reference: Reference) -> None:
    pytest.importorskip("torch")
    from dcgan.metrics.classification import classification_accuracy_score

    images, labels = reference.real.images[:100], reference.real.labels[:100]
    for held_out in (51, 100, 200):
        with pytest.raises(EvaluationError, match="labelled images or more, found 100"):
            classification_accuracy_score(images, labels, images, labels, held_out=held_out)


def test_a_model_of_nothing_finite_is_not_judged() -> None:
    def broken(z: np.ndarray, _labels: object) -> np.ndarray:
        return np.full((len(z), 1, 28, 28), np.nan, np.float32)

    with pytest.raises(EvaluationError, match="not finite"):
        Digits("broken", Interface(), broken)(20, 0)


def test_without_torchvision_the_missing_images_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.datasets", raising=False)
    result = CliRunner().invoke(main, ["--threads", "1"])
    assert result.exit_code == 1
    assert "to download them, is not installed; use --data-dir" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing.onnx"], 1, "missing.onnx"),
        (["missing.safetensors"], 1, "no checkpoint at missing.safetensors"),
        (["missing.npz"], 1, "can't read images missing.npz"),
        (["--split", "test"], 1, "sample has no test images"),
        (["-n", "6000"], 1, "10 to 5000"),
        (["bright.npy"], 1, "float images go from -1"),
        (["nan.npy", "-n", "200"], 1, "float images go from -1"),
        (["many.npz", "-n", "200"], 1, "labels must be 0 to 9, found 0 to 12"),
        (["dcgan-mnist", "--nearest-neighbour"], 2, "needs labelled digits"),
        (["-n", "5"], 2, "5 is not from 10"),
        (["images.npy", "--seed", "1"], 2, "made already"),
        (["floats.npy"], 1, "uint8 or float"),
        (["unit.npy"], 1, "have to be scaled to -1 to 1"),
        (["images.npy", "-n", "300"], 1, "holds 200 digits, and 300 are needed"),
        (["text.npy"], 1, "no .npy or .npz file"),
        (["other.npz"], 1, "holds no array called images"),
        (["labels.npz"], 1, "labels must be integers"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "missing.safetensors" in arguments:
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", np.zeros((200, 28, 28), np.uint8))
    np.save("floats.npy", np.zeros((200, 784), np.float32))
    np.savez("other.npz", pictures=np.zeros((200, 28, 28), np.uint8))
    np.savez("labels.npz", images=np.zeros((200, 28, 28), np.uint8), labels=np.zeros(3, int))
    np.save("unit.npy", np.full((200, 28, 28), 0.5, np.float32))
    np.save("bright.npy", np.full((200, 28, 28), 200, np.float32))
    np.save("nan.npy", np.full((200, 28, 28), np.nan, np.float32))
    np.savez("many.npz", images=np.zeros((200, 28, 28), np.uint8), labels=np.arange(200) % 13)
    Path("text.npy").write_text("no array")
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert len(result.output.strip().splitlines()) == (1 if status == 1 else 4)
