"""The frozen evaluator, what is judged with it, and the command dcgan-eval, on the shipped sample."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import MODELS, OLD

from dcgan.data import Dataset
from dcgan.datasets import DATASETS
from dcgan.eval_cli import _table, _take_from_model, _take_from_run, main
from dcgan.evaluation import METRICS, Evaluation, Reference, evaluate, judge_images, reference_of, refuse_others
from dcgan.loading import RealImages, load_dataset
from dcgan.metrics.evaluator import PATH, Evaluator, Statement, evaluator_for
from dcgan.recipes import RECIPES
from dcgan.run_options import RunOptions
from dcgan.sources import Images, _ModelImages, open_images
from dcgan_infer import ImageGenerator, shipped
from dcgan_infer.contract.errors import EvaluationError, LatentError
from dcgan_infer.contract.spec import Interface

NOWHERE = Path("nowhere")


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(threads=1)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of(load_dataset("sample", NOWHERE), None, "validation")


def labels_of(dataset: Dataset) -> np.ndarray:
    assert dataset.labels is not None
    return dataset.labels


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["--dataset", "sample", "--threads", "1", *arguments])


def test_the_evaluator_reads_real_digits(evaluator: Evaluator, reference: Reference) -> None:
    held = reference.held
    assert held.labels is not None
    judged = evaluator.judge(held.images[:1000])
    assert (judged.labels == held.labels[:1000]).mean() > 0.994
    assert judged.features.shape == (1000, 128)
    assert judged.features.min() >= 0.0
    assert judged.probabilities is not None
    assert np.allclose(judged.probabilities.sum(1), 1.0)
    again = evaluator.judge(held.images[500:600])  # in a batch of another size and company
    assert np.allclose(again.features, judged.features[500:600], atol=1e-4)


@pytest.mark.skipif("MNIST_DIR" not in os.environ, reason="needs all of MNIST in MNIST_DIR")
def test_the_evaluator_reads_the_test_images(evaluator: Evaluator) -> None:
    test = load_dataset("mnist", Path(os.environ["MNIST_DIR"]), "test")
    assert test.labels is not None
    assert (evaluator.judge(test.images).labels == test.labels).mean() > 0.994


@pytest.mark.parametrize(
    "images", [np.zeros((2, 28, 28)), np.zeros((2, 1, 28, 28), np.uint8), np.zeros((0, 28, 28), np.uint8)]
)
def test_the_evaluator_refuses_other_images(evaluator: Evaluator, images: np.ndarray) -> None:
    with pytest.raises(EvaluationError, match=r"uint8 images of shape \(N, 28, 28\)"):
        evaluator.judge(images)


def test_a_damaged_evaluator_is_one_error(tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(PATH.read_bytes()[:1000])
    for path in (cut, tmp_path / "missing.onnx"):
        with pytest.raises(EvaluationError, match="can't read the evaluator"):
            Evaluator(path)


def test_what_is_wrong_with_digits_shows_in_the_figures(evaluator: Evaluator, reference: Reference) -> None:
    """Real digits, blurred, from few classes, copied, mislabelled: each defect moves the metric that is for it."""
    part = reference.held[:1000]
    judged_held = evaluator.judge(part.images)
    images, labels = reference.real.images[:1000], labels_of(reference.real)[:1000]

    def figures(changed: np.ndarray, of: np.ndarray = labels) -> dict[str, float]:
        return judge_images(evaluator.judge(changed), of, judged_held, part)

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
        ours, labels = open_images(name, 1)(40, 7)
        generator = ImageGenerator(name, threads=1)
        assert np.abs(ours.astype(int) - generator.generate(40, seed=7)).max() <= 1
        if labels is not None:
            assert np.array_equal(labels, generator.labels(40, seed=7))


def test_a_model_that_takes_a_seed_is_judged_too() -> None:
    """The models of these fixtures make images of another size than the evaluator's, so it is looked at from within."""
    ours, peer = (
        _ModelImages(form, ImageGenerator(OLD / f"conditional-{form}.onnx", provider="cpu", threads=1))
        for form in ("seed", "uint8")
    )
    for asked in (None, np.arange(300)[::-1] % 3):
        (images, labels), (others, given) = ours(300, 7, asked), peer(300, 7, asked)
        assert np.array_equal(images, others)
        assert labels is not None
        assert given is not None
        assert np.array_equal(labels, given)
        assert asked is None or np.array_equal(labels, asked)
    with pytest.raises(LatentError, match="10,000 at most"):
        ours(10_001, 7)


@pytest.mark.parametrize("path", [MODELS / "colour.onnx", OLD / "conditional-seed.onnx"])
def test_models_of_other_images_are_refused(path: Path) -> None:
    result = run(str(path), "-n", "20")
    assert result.exit_code == 1
    assert "those of sample are of (1, 28, 28)" in result.output
    assert len(result.output.splitlines()) == 1


CLOTHES = DATASETS["fashion-mnist"].class_names or ()


@pytest.mark.parametrize(
    ("interface", "refused"),
    [
        (Interface(num_classes=10, class_names=CLOTHES), "makes images of t-shirt, trouser, pullover, dress, ... 10"),
        (Interface(num_classes=10, class_names=tuple("1234567890")), "makes images of 1, 2, 3, 4, ... 10"),
        (Interface(num_classes=4), "makes images of 4 classes, and sample has 0, 1, 2, 3, ... 10"),
        (Interface(image_shape=(3, 28, 28)), r"shape \(3, 28, 28\)"),
        (Interface(num_classes=10, class_names=tuple("0123456789")), ""),
        (Interface(num_classes=10), ""),
        (Interface(), ""),
    ],
)
def test_generators_of_other_classes_are_refused(interface: Interface, refused: str, reference: Reference) -> None:
    source = Images("theirs", interface, lambda z, labels: z)
    if not refused:
        refuse_others(source, reference.real)
        return
    with pytest.raises(EvaluationError, match=refused):
        refuse_others(source, reference.real)
    unlabelled = Dataset(reference.real.images, None, (), "photos")
    if interface.image_shape == (1, 28, 28):
        refuse_others(source, unlabelled)  # whose classes nobody knows


@pytest.mark.parametrize(
    ("dataset", "refused"), [("fashion-mnist", True), ("mnist", False), ("images", False), ("", False)]
)
def test_a_generator_says_what_it_was_trained_on(dataset: str, refused: bool, reference: Reference) -> None:
    """An unconditional one of clothes has the shape of digits, and no classes to tell it by."""
    recipe = json.dumps({"name": "fast", "dataset": dataset} if dataset else {"name": "fast"})
    source = Images("theirs", Interface(), lambda z, labels: z, recipe)
    if refused:
        with pytest.raises(EvaluationError, match=r"was trained on fashion-mnist, .*; give --dataset fashion-mnist"):
            refuse_others(source, reference.real)
    else:
        refuse_others(source, reference.real)


def test_colour_images_of_a_file(tmp_path: Path) -> None:
    """In every order and range that is told apart, the same pictures."""
    pictures = np.random.default_rng(0).integers(0, 256, (5, 12, 16, 3)).astype(np.uint8)
    floats = pictures / np.float32(127.5) - 1
    planes = (0, 3, 1, 2)
    for array in (pictures, floats, pictures.transpose(planes), floats.transpose(planes)):
        np.save(tmp_path / "a.npy", array)
        source = open_images(str(tmp_path / "a.npy"), 1)
        assert source.image_shape == (3, 12, 16)
        assert np.array_equal(source(5, 0)[0], pictures)
        assert not source.labelled
    np.save(tmp_path / "grey.npy", pictures[..., :1])
    assert open_images(str(tmp_path / "grey.npy"), 1).image_shape == (1, 12, 16)
    np.save(tmp_path / "four.npy", np.concatenate([pictures, pictures[..., :1]], 3))
    with pytest.raises(EvaluationError, match=r"in colour; found uint8 of shape \(5, 12, 16, 4\)"):
        open_images(str(tmp_path / "four.npy"), 1)


def test_images_of_another_kind_are_told_by_their_pixels(evaluator: Evaluator, reference: Reference) -> None:
    """What the evaluator reads without a word: inverted digits, noise; but not digits that are merely bad."""
    small = Reference("validation", reference.real[:800], reference.held[:200])
    random = np.random.default_rng(0)
    real = reference.real.images[:200]
    blurred = np.mean([np.roll(real, (y, x), (1, 2)) for y in (-1, 0, 1) for x in (-1, 0, 1)], 0).astype(np.uint8)
    halves = np.concatenate([real[:, :14], real[random.permutation(200), 14:]], 1)
    dark_noise = np.clip(random.normal(40, 40, real.shape), 0, 255).astype(np.uint8)

    def judged(images: np.ndarray) -> Evaluation:
        return evaluate(lambda count, *_: (images[:count], None), small, evaluator, most=len(images))

    assert "farther, in pixels" in judged(random.integers(0, 256, real.shape).astype(np.uint8)).warning
    assert "their density among real images' features is 0.00" in judged(dark_noise).warning
    for images in (reference.real.images[400:600], blurred, halves):
        assert judged(images).warning == ""
    inverted = judged(255 - real)
    assert inverted.counts["precision"] == 200  # all there are
    assert inverted.as_dict()["warning"] == inverted.warning
    verdict, warning, *_ = _table("images.npy", "sample", inverted).splitlines()
    assert warning.startswith("warning: these images do not look like sample: ")
    assert verdict.endswith("(seed 0); it may mean nothing, as the warning says")


def test_a_run_is_compared_with_what_it_was_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(source: Path, **given: object) -> dict[str, Any]:
        found = dict.fromkeys(vars(RealImages())) | given
        _take_from_run(str(source), found)
        return found

    def write(dataset: str = "kmnist", **fields: Any) -> None:
        started = RunOptions(RECIPES["fast"], dataset, "there", 0, "cpu", 1, **fields)
        (tmp_path / "options.json").write_text(json.dumps({"options": started.to_dict()}))

    nothing = dict.fromkeys(vars(RealImages()))
    write()
    expected = vars(RealImages("kmnist", Path("there")))
    (tmp_path / "generator.safetensors").touch()
    assert taken(tmp_path) == taken(tmp_path / "generator.safetensors") == expected
    assert taken(tmp_path, data_dir=Path("here")) == expected | {"data_dir": Path("here")}
    assert taken(tmp_path, dataset="mnist") == nothing | {"dataset": "mnist"}
    assert taken(tmp_path / "model.onnx") == nothing  # which need not be of that run
    monkeypatch.chdir(tmp_path)
    assert taken(Path("dcgan-mnist")) == nothing  # the shipped model, beside a run's files
    write("images", size=64, channels="grey", background="black")
    expected = vars(RealImages("images", Path("there"), 64, "grey", "black"))
    assert taken(tmp_path) == expected
    moved = {"dataset": "images", "data_dir": Path("here")}
    assert taken(tmp_path, **moved) == expected | moved
    assert taken(tmp_path, channels="colour") == expected | {"channels": "colour"}
    write("photos")
    with pytest.raises(EvaluationError, match="trained on photos; name its images with --images"):
        taken(tmp_path)
    (tmp_path / "options.json").write_text("[]")
    assert taken(tmp_path) == nothing


@pytest.mark.parametrize(
    ("dataset", "shape", "expected"),
    [
        ("fashion-mnist", (1, 28, 28), "fashion-mnist"),
        ("", (1, 28, 28), None),
        ("", (3, 28, 28), "give --images"),
        ("images", (1, 28, 28), "give --images"),
    ],
)
def test_a_model_is_compared_with_what_it_was_trained_on(
    dataset: str, shape: tuple[int, int, int], expected: str | None
) -> None:
    images = Images("theirs", Interface(image_shape=shape), lambda z, labels: z, json.dumps({"dataset": dataset}))
    options: dict[str, Any] = dict.fromkeys(vars(RealImages()))
    if expected == "give --images":
        with pytest.raises(EvaluationError, match=expected):
            _take_from_model(images, options)
        return
    _take_from_model(images, options)
    assert options["dataset"] == expected
    asked = {"dataset": "kmnist"}
    _take_from_model(images, asked)
    assert asked == {"dataset": "kmnist"}


def test_statements_are_read_or_refused() -> None:
    statement = Statement((3, 32, 32), ("a", "b"), "pets", 0.9, "00")
    assert Statement.from_json(statement.to_json()) == statement
    fields = json.loads(statement.to_json())
    for change in (
        {"schema": 2}, {"more": 1}, {"image_shape": [32, 32]}, {"class_names": ["a", "a"]},
        {"class_names": [["a"], "b"]}, {"dataset": 7}, {"accuracy": "high"}, {"training": None},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"."):
            Statement.from_json(json.dumps(fields | change))
    for text in ("", "[]", "{}", "[" * 5000):
        with pytest.raises(ValueError, match=r"."):
            Statement.from_json(text)


def test_an_evaluator_of_other_classes_is_refused(reference: Reference) -> None:
    clothes = Dataset(reference.real.images, reference.real.labels, CLOTHES, "clothes")
    with pytest.raises(EvaluationError, match=r"knows mnist \(1x28x28; 0, 1, .*and these are clothes \(1x28x28; t-shi"):
        evaluator_for(clothes, PATH)
    with pytest.raises(EvaluationError, match="no labels to train an evaluator with"):
        evaluator_for(Dataset(reference.real.images, name="photos"))
    assert evaluator_for(reference.real, threads=1).path == PATH


def test_a_checkpoint_and_its_model_get_the_same_figures() -> None:
    pytest.importorskip("torch")
    checkpoint, _ = open_images(str(shipped.path_of("dcgan-mnist", ".safetensors")), 1)(40, 3)
    model, _ = open_images("dcgan-mnist", 1)(40, 3)
    assert np.abs(checkpoint.astype(int) - model).max() <= 1


def test_the_table_shows_model_floor_and_counts() -> None:
    result = run("-n", "300")
    assert result.exit_code == 0, result.output
    assert "compared with 5,000 validation images of sample" in result.output
    for metric in ("frechet_distance", "precision", "coverage", "class_imbalance"):
        assert METRICS[metric].label in result.output
    assert re.match(
        r"Frechet distance [\d.]+: (\d+\.\d times as far as|no farther than) other real images are, [\d.]+ \(seed 0\); "
        "of 300 images it says little",
        result.stdout,
    )
    assert result.stdout.endswith(" --seeds 3 --dataset sample --threads 1 -n 300\n")


def test_json_has_every_seed() -> None:
    result = run("-n", "300", "--seeds", "2", "--seed", "5", "--json")
    found = json.loads(result.stdout)
    assert found["seeds"] == [5, 6]
    row = found["metrics"]["frechet_distance"]
    assert len(set(row["model_by_seed"])) == 2
    assert row["images"] == 300
    assert row["real"] != row["model"]  # which is lower means nothing with 300 images
    assert found["evaluator_sha256"] == Evaluator(threads=1).sha256
    one = json.loads(run("-n", "300", "--seed", "6", "--json").stdout)
    assert one["metrics"]["frechet_distance"]["model"] == row["model_by_seed"][1]


def test_images_of_a_file_are_judged(tmp_path: Path, reference: Reference) -> None:
    images, labels = reference.real.images, labels_of(reference.real)
    np.savez(tmp_path / "real.npz", images=images, labels=labels)
    np.save(tmp_path / "real.npy", (images / np.float32(127.5) - 1)[:, None])  # with a channel, as models make them
    result = run(str(tmp_path / "real.npz"), "-n", "400", "--nearest-neighbour", "--json")
    found = json.loads(result.stdout)["metrics"]
    assert found["frechet_distance"]["model"] == pytest.approx(found["frechet_distance"]["real"])
    assert found["label_agreement"]["model"] > 0.99
    plain = json.loads(run(str(tmp_path / "real.npy"), "-n", "400", "--json").stdout)["metrics"]
    assert plain["frechet_distance"]["model"] == pytest.approx(found["frechet_distance"]["model"])


def test_nearest_neighbours_of_real_images(evaluator: Evaluator, reference: Reference) -> None:
    def again(count: int, *_: object) -> tuple[np.ndarray, np.ndarray]:
        return reference.real.images[:count], labels_of(reference.real)[:count]

    row = evaluate(again, reference, evaluator, count=500, nearest_neighbour=True)
    assert row.figures["nearest_neighbour_error"] == [row.floor["nearest_neighbour_error"]]
    assert 0.02 < row.floor["nearest_neighbour_error"] < 0.10


def test_classes_are_asked_for_as_often_as_the_reference_has_them(reference: Reference) -> None:
    labels = labels_of(reference.real)
    uneven = np.concatenate([np.flatnonzero(labels == 3)[:90], np.flatnonzero(labels == 7)[:30]])
    held = Dataset(reference.real.images[uneven], labels[uneven], reference.real.class_names, "uneven")
    asked = []

    def run(z: np.ndarray, label: np.ndarray | None) -> np.ndarray:
        assert label is not None
        asked.append(label)
        return np.zeros((len(z), 1, 28, 28), np.float32)

    source = Images("theirs", Interface(num_classes=10), run)
    evaluate(source, Reference("validation", reference.real, held), None, count=120, seeds=[0, 1])
    first, second = np.concatenate(asked[: len(asked) // 2]), np.concatenate(asked[len(asked) // 2 :])
    assert len(first) == 120
    assert np.bincount(first, minlength=10).tolist() == [0, 0, 0, 90, 0, 0, 0, 30, 0, 0]
    assert sorted(first) == sorted(second)
    assert not np.array_equal(first, second)
    images, given = source(5, 0)  # nobody asks: the seed draws them
    assert given is not None
    assert len(images) == 5
    assert len(set(given.tolist())) > 2


def test_cas_learns_from_the_images_it_is_given(reference: Reference) -> None:
    pytest.importorskip("torch")
    from dcgan.metrics.classification import classification_accuracy_score

    images, labels = reference.real.images[:600], labels_of(reference.real)[:600]
    tests = reference.held.images[:500], labels_of(reference.held)[:500]

    def score(of: np.ndarray) -> float:
        return classification_accuracy_score(images, of, *tests, epochs=2, held_out=100)

    first = score(labels)
    assert first > 0.6
    assert score(labels) == first
    assert score(np.roll(labels, 1)) < 0.3


def test_cas_of_too_few_images_is_an_error(reference: Reference) -> None:
    pytest.importorskip("torch")
    from dcgan.metrics.classification import classification_accuracy_score

    images, labels = reference.real.images[:100], labels_of(reference.real)[:100]
    for held_out in (51, 100, 200):
        with pytest.raises(EvaluationError, match="labelled images or more, found 100"):
            classification_accuracy_score(images, labels, images, labels, held_out=held_out)


def test_a_model_of_nothing_finite_is_not_judged() -> None:
    def broken(z: np.ndarray, _labels: object) -> np.ndarray:
        return np.full((len(z), 1, 28, 28), np.nan, np.float32)

    with pytest.raises(EvaluationError, match="not finite"):
        Images("broken", Interface(), broken)(20, 0)


def test_without_torchvision_the_missing_images_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.datasets", raising=False)
    result = CliRunner().invoke(main, ["--threads", "1"])
    assert result.exit_code == 1
    assert "to download them, is not installed; use --data-dir" in result.output
    assert "Traceback" not in result.output


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in folders are POSIX's")
@pytest.mark.parametrize("pipe_name", ["pipe", "pipe.safetensors"])
@pytest.mark.parametrize("kind", ["images.npy", "images.npz", "checkpoint"])
def test_images_and_checkpoints_come_from_pipes(tmp_path: Path, kind: str, pipe_name: str) -> None:
    if kind == "checkpoint":
        pytest.importorskip("torch")
        whole = shipped.path_of(shipped.DEFAULT, ".safetensors")
    else:
        whole = tmp_path / kind
        images = np.arange(20 * 28 * 28).reshape(20, 28, 28).astype(np.uint8)
        np.save(whole, images) if kind.endswith("npy") else np.savez(whole, images=images)
    pipe = tmp_path / pipe_name
    os.mkfifo(pipe)
    content = whole.read_bytes()  # before the thread: were it to fail in there, the reader would wait for ever
    writer = threading.Thread(target=lambda: pipe.write_bytes(content), daemon=True)
    writer.start()
    found, right = (open_images(str(path), 1)(20, 0)[0] for path in (pipe, whole))
    assert (found == right).all()
    writer.join(10)
    assert not writer.is_alive()


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
        (["many.npz", "-n", "200"], 1, "labels must be 0 to 9, as the classes of sample are, found 0 to 12"),
        (["dcgan-mnist", "--nearest-neighbour"], 2, "needs labelled images"),
        (["-n", "5"], 2, "5 is not from 10"),
        (["--make-evaluator"], 2, "sample has an evaluator that ships"),
        (["--make-evaluator", "dcgan-mnist"], 2, "leave the model out"),
        (["--features", "a.onnx", "--evaluator", "b.onnx"], 2, "takes the place of an evaluator"),
        (["--features", "missing.onnx"], 1, "there is no file missing.onnx; --features"),
        (["--evaluator", "missing.onnx"], 1, "there is no file missing.onnx; --evaluator"),
        (["--images", "folder"], 2, "leave out --dataset"),
        (["--size", "32"], 1, "those of sample are of (1, 32, 32)"),
        (["images.npy", "--seed", "1"], 2, "made already"),
        (["floats.npy"], 1, "uint8 or float"),
        (["unit.npy"], 1, "have to be scaled to -1 to 1"),
        (["images.npy", "-n", "300"], 1, "holds 200 images, and 300 are needed"),
        (["text.npy"], 1, "no .npy or .npz file"),
        (["other.npz"], 1, "holds no array called images"),
        (["raw.npz"], 1, "holds no array called images"),
        (["bomb.npz"], 1, "bomb.npz unpacks to more than 100 times its size"),
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
    np.savez_compressed("bomb.npz", images=np.zeros((6000, 28, 28), np.uint8))
    np.savez("other.npz", pictures=np.zeros((200, 28, 28), np.uint8))
    np.savez("labels.npz", images=np.zeros((200, 28, 28), np.uint8), labels=np.zeros(3, int))
    np.save("unit.npy", np.full((200, 28, 28), 0.5, np.float32))
    np.save("bright.npy", np.full((200, 28, 28), 200, np.float32))
    np.save("nan.npy", np.full((200, 28, 28), np.nan, np.float32))
    np.savez("many.npz", images=np.zeros((200, 28, 28), np.uint8), labels=np.arange(200) % 13)
    Path("text.npy").write_text("no array")
    with zipfile.ZipFile("raw.npz", "w") as archive:
        archive.writestr("images", b"no array")
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert len(result.output.strip().splitlines()) == (1 if status == 1 else 4)
