"""Evaluators that are trained here, of any labelled images, and the two-sample test. With torch and onnx."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from small_models import write_small  # noqa: E402

from dcgan.data import Dataset, split_validation  # noqa: E402
from dcgan.eval_cli import main  # noqa: E402
from dcgan.metrics import evaluator as evaluators  # noqa: E402
from dcgan.metrics import make_evaluator  # noqa: E402
from dcgan.metrics.classification import classification_accuracy_score  # noqa: E402
from dcgan.metrics.evaluator import STATEMENT_KEY, Evaluator, Statement, evaluator_for  # noqa: E402
from dcgan.metrics.two_sample import two_sample_accuracy  # noqa: E402
from dcgan_infer.contract.errors import EvaluationError, OutputError, RuntimeMissingError  # noqa: E402
from dcgan_infer.contract.files import user_cache  # noqa: E402
from dcgan_infer.contract.spec import Interface  # noqa: E402

NAMES = ("red", "green", "blue")


def colours(count: int = 300, seed: int = 0, shape: tuple[int, int] = (16, 20), rare: bool = True) -> Dataset:
    """Clouds with more of one colour, which is the class; the last class is rare."""
    random = np.random.default_rng(seed)
    labels = random.choice(3, count, p=(0.6, 0.36, 0.04) if rare else None)
    images = random.integers(40, 200, (count, *shape, 3))
    images[np.arange(count), :, :, labels] += 55
    return Dataset(images.astype(np.uint8), labels, NAMES, "clouds")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(make_evaluator, "LEAST_STEPS", 30)
    monkeypatch.setattr(make_evaluator, "MOST_STEPS", 30)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluator of `colours()`."""
    path = tmp_path_factory.mktemp("made") / "clouds.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_evaluator, "LEAST_STEPS", 30)
        evaluator_for(colours(), path, make=True, threads=1)
    return path


def test_an_evaluator_is_made_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    dataset = colours()
    threads = torch.get_num_threads()
    first = evaluator_for(dataset, threads=1, say=said.append)
    assert torch.get_num_threads() == threads
    assert first.path.parent == tmp_path / "cache" / "dcgan-toolkit" / "evaluators"
    assert first.path.name.startswith("clouds-")
    assert said[0] == "training an evaluator of clouds, once: 150 images, 3 classes"
    assert "of 150 held images right; it is kept in" in said[1]
    stated = first.statement
    assert (stated.image_shape, stated.class_names, stated.dataset) == ((3, 16, 20), NAMES, "clouds")
    judged = first.judge(colours(seed=1).images)
    assert judged.features.shape == (300, 128)
    assert (judged.labels == colours(seed=1).labels).mean() > 0.95
    assert stated.accuracy is not None
    assert 0.95 < stated.accuracy <= 1.0

    with monkeypatch.context() as patch:
        patch.setattr(make_evaluator, "make_evaluator", None)  # it would be called
        assert evaluator_for(dataset, threads=1).sha256 == first.sha256
        held_changed = dataset.images.copy()
        held_changed[-1] = 0  # a held image: the evaluator never saw it
        assert evaluator_for(dataclasses.replace(dataset, images=held_changed), threads=1).sha256 == first.sha256
        changed = dataset.images.copy()
        changed[0, 0, 0, 0] ^= 1
        for other in (
            dataclasses.replace(dataset, images=changed),
            dataclasses.replace(dataset, class_names=("a", "b", "c")),
            dataclasses.replace(dataset, labels=(labels_of(dataset) + 1) % 3),
        ):
            with pytest.raises(TypeError):
                evaluator_for(other, threads=1)

    content = first.path.read_bytes()
    first.path.write_bytes(content[:500])
    said.clear()
    assert evaluator_for(dataset, threads=1, say=said.append).sha256 == first.sha256  # the same bits again
    assert "can't read the evaluator" in said[0]
    assert first.path.read_bytes() == content


def labels_of(dataset: Dataset) -> np.ndarray[Any, Any]:
    assert dataset.labels is not None
    return dataset.labels


def test_it_learns_from_the_training_split_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Held images whose labels contradict the training images' change nothing but the accuracy."""
    networks, accuracies = [], []

    def keep(network: Any, path: Path, metadata: dict[str, str], _shape: object) -> None:
        networks.append(network.state_dict())
        accuracies.append(json.loads(metadata[STATEMENT_KEY])["accuracy"])

    monkeypatch.setattr(make_evaluator, "write", keep)
    monkeypatch.setattr(evaluators, "Evaluator", lambda path, threads: None)
    dataset = colours()
    train, held = split_validation(dataset)
    wrong = np.concatenate([labels_of(train), (labels_of(held) + 1) % 3])
    for labels in (labels_of(dataset), wrong):
        evaluator_for(dataclasses.replace(dataset, labels=labels), tmp_path / "a.onnx", make=True, threads=1)
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])
    assert accuracies[0] > 0.95
    assert accuracies[1] < 0.2


def tampered(path: Path, to: Path, text: str | None) -> Path:
    model = onnx.load(path)
    del model.metadata_props[:]
    if text is not None:
        onnx.helper.set_model_props(model, {STATEMENT_KEY: text})
    onnx.save(model, to)
    return to


def test_an_evaluator_that_is_not_what_it_states_is_refused(made: Path, tmp_path: Path) -> None:
    right = Evaluator(made, threads=1).statement
    other = tmp_path / "other.onnx"
    assert Evaluator(tampered(made, other, right.to_json()), threads=1).statement == right
    for text, says in (
        (None, "does not state what it knows"),
        ("{", "damaged statement"),
        (dataclasses.replace(right, class_names=("a", "b")).to_json(), "not what it states"),
        (dataclasses.replace(right, image_shape=(3, 16, 16)).to_json(), "not what it states"),
        (dataclasses.replace(right, image_shape=(1, 16, 20)).to_json(), "not what it states"),
    ):
        with pytest.raises(EvaluationError, match=says):
            Evaluator(tampered(made, other, text), threads=1)


def test_an_evaluator_of_other_images_is_refused(made: Path) -> None:
    assert evaluator_for(colours(), made, threads=1).path == made
    for dataset in (colours(shape=(20, 16)), dataclasses.replace(colours(), class_names=("red", "green", "b"))):
        with pytest.raises(EvaluationError, match=r"knows clouds \(3x16x20; red, green, blue\), and these are clouds"):
            evaluator_for(dataset, made)


def test_what_no_evaluator_can_be_made_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lacking = dataclasses.replace(colours(), labels=labels_of(colours()) // 2)  # no blue
    with pytest.raises(EvaluationError, match="clouds has no images of blue among 150 images"):
        evaluator_for(lacking)
    one = Dataset(lacking.images, lacking.labels * 0, ("red",), "reds")  # type: ignore[operator, arg-type]
    with pytest.raises(EvaluationError, match="reds has 1 class"):
        evaluator_for(one)
    with pytest.raises(OutputError, match="can't write"):
        evaluator_for(colours(), tmp_path / "missing" / "a.onnx", make=True)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.delitem(sys.modules, "dcgan.metrics.make_evaluator")
    with pytest.raises(RuntimeMissingError, match=r"onnxscript is not installed.*'dcgan-toolkit\[export\]'"):
        evaluator_for(colours())


@pytest.mark.parametrize(
    ("shape", "pixels"), [((1, 28, 28), 4), ((3, 32, 32), 4), ((3, 64, 64), 4), ((1, 8, 8), 4), ((3, 100, 12), 4)]
)
def test_networks_of_any_shape(shape: tuple[int, int, int], pixels: int) -> None:
    channels, *sides = shape
    network = make_evaluator.EvaluatorNetwork(shape, 7).eval()
    features, logits = network(torch.zeros(2, *sides, *([3] if channels == 3 else []), dtype=torch.uint8))
    assert (features.shape, logits.shape) == ((2, 128), (2, 7))
    assert network.fc1.in_features <= 64 * pixels * pixels


def test_small_classes_are_shown_more_often() -> None:
    labels = torch.tensor([0] * 60 + [1] * 31 + [3] * 4)
    shown = labels[make_evaluator.evened(labels)].bincount(minlength=4).tolist()
    assert shown == [60, 31, 0, 60]


def test_moved_images_keep_shape_and_edges() -> None:
    torch.manual_seed(0)
    images = torch.full((5, 12, 10, 3), 200, dtype=torch.uint8)
    assert torch.equal(make_evaluator.moved(images), images)  # no black comes in
    assert not torch.equal(make_evaluator.moved(images.cumsum(1).byte()), images.cumsum(1).byte())
    assert make_evaluator.moved(images[..., 0]).shape == (5, 12, 10)


def test_the_two_sample_test_tells_what_differs() -> None:
    random = np.random.default_rng(0)
    pool = random.integers(0, 200, (1200, 12, 12)).astype(np.uint8)
    same = two_sample_accuracy(pool[:600], pool[600:], steps=60)
    assert 0.44 < same < 0.56  # four standard errors
    marked = pool[:600].copy()
    marked[:, 4:8, 4:8] = np.sort(marked[:, 4:8, 4:8], 2)
    marked[:, ::2] = marked[:, 1::2]
    assert two_sample_accuracy(marked, pool[600:], steps=60) > 0.95
    assert two_sample_accuracy(pool[:600], pool[600:], steps=60) == same
    assert two_sample_accuracy(pool[:600], pool[600:], steps=60, seed=1) != same
    with pytest.raises(EvaluationError, match="two sets of the same shape, 10 images each or more"):
        two_sample_accuracy(pool[:9], pool[:9])


def test_the_two_sample_test_shuffles() -> None:
    """A set that drifts from its first image to its last is still one set."""
    images = np.random.default_rng(0).integers(0, 100, (800, 12, 12)) + np.arange(800).repeat(2)[::2, None, None] // 8
    sets = images[::2].astype(np.uint8), images[1::2].astype(np.uint8)
    assert 0.4 < two_sample_accuracy(*sets, steps=60) < 0.6


def test_cas_of_colour_images_of_any_size() -> None:
    train, test = colours(120, shape=(40, 37), rare=False), colours(60, 1, (40, 37), rare=False)
    score = classification_accuracy_score(train.images, labels_of(train), test.images, labels_of(test), epochs=4)
    assert score > 0.9
    small = np.zeros((20, 4, 9), np.uint8)
    with pytest.raises(EvaluationError, match="5x5 pixels or more"):
        classification_accuracy_score(small, np.zeros(20, int), small, np.zeros(20, int))


def evaluated(monkeypatch: pytest.MonkeyPatch, dataset: Dataset, *arguments: str) -> tuple[Result, dict[str, Any]]:
    """dcgan-eval --images, where dcgan.images gives this data set, and what it was asked for."""
    asked: dict[str, Any] = {}

    def load_images(path: Path, **options: Any) -> Any:
        asked.update(options, path=path)
        return SimpleNamespace(dataset=dataset, lines=lambda: ["read them"])

    monkeypatch.setitem(sys.modules, "dcgan.images", SimpleNamespace(load_images=load_images))
    return CliRunner().invoke(main, ["--images", "clouds", "--threads", "1", *arguments]), asked


def test_a_folder_of_classes_from_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Colour, not square, three classes of uneven size; the evaluator comes by itself."""
    monkeypatch.chdir(tmp_path)
    dataset = colours(400)
    fresh = colours(200, seed=5)
    np.savez("fresh.npz", images=fresh.images.transpose(0, 3, 1, 2), labels=labels_of(fresh))
    result, asked = evaluated(monkeypatch, dataset, "fresh.npz", "--nearest-neighbour", "--cas", "--json")
    assert result.exit_code == 0, result.output
    assert asked["channels"] == "colour"
    assert "training an evaluator of clouds" in result.stderr
    found = json.loads(result.stdout)
    assert found["dataset"] == "clouds"
    assert found["evaluator"]["class_names"] == list(NAMES)
    assert found["warning"] == ""
    metrics = found["metrics"]
    assert metrics["label_agreement"]["model"] > 0.95
    assert metrics["class_imbalance"]["model"] < 0.15
    assert metrics["nearest_neighbour_error"]["images"] == 200
    again, _ = evaluated(monkeypatch, dataset, "fresh.npz", "-n", "50")
    assert "training an evaluator" not in again.output

    wrong, _ = evaluated(monkeypatch, dataset, "fresh.npz", "--split", "test")
    assert "images of your own have no test split; leave --split out" in wrong.output
    interface = Interface(7, (3, 16, 20), 3, ("red", "sneaker", "blue"))
    write_small(tmp_path / "shoes.onnx", interface)
    refused, _ = evaluated(monkeypatch, dataset, "shoes.onnx")
    assert refused.exit_code == 1
    assert "makes images of red, sneaker, blue, and clouds has red, green, blue" in refused.output
    assert len(refused.output.splitlines()) == 2  # with the line on what was read


def test_making_an_evaluator_from_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    result, _ = evaluated(monkeypatch, colours(), "--make-evaluator", "--evaluator", str(path), "--json")
    assert result.exit_code == 0, result.output
    stated = json.loads(result.stdout)
    assert stated["sha256"] == Evaluator(path, threads=1).sha256
    assert stated["accuracy"] > 0.95
    assert Statement.from_json(Evaluator(path, threads=1).statement.to_json()).training == stated["training"]


def test_images_without_labels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    short = functools.partial(two_sample_accuracy, steps=5)
    monkeypatch.setattr("dcgan.metrics.two_sample.two_sample_accuracy", short)
    unlabelled = Dataset(colours().images, name="clouds")
    np.save(tmp_path / "a.npy", colours(60, seed=5).images)
    result, asked = evaluated(monkeypatch, unlabelled, str(tmp_path / "a.npy"))
    assert result.exit_code == 0, result.output
    assert "no labels to train an evaluator with, so there is the two-sample test alone" in result.stderr
    assert "Frechet" not in result.stdout
    assert result.stdout.startswith("a new network tells them from real images in ")
    assert asked["size"] == 64  # these are not square, and a folder's are
    refused, _ = evaluated(monkeypatch, unlabelled, "--make-evaluator")
    assert "give a feature extractor of your own with --features" in refused.output


def test_the_cache_is_where_the_xdg_specification_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert user_cache("evaluators") == Path("/somewhere/dcgan-toolkit/evaluators")
    monkeypatch.setenv("HOME", "/home/me")
    for relative in ("", "caches"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert user_cache("evaluators") == Path("/home/me/.cache/dcgan-toolkit/evaluators")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    with pytest.raises(OutputError, match="choose another with XDG_CACHE_HOME, or name a file"):
        evaluator_for(colours())
