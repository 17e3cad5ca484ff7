"""Models that take a seed: the latent contract inside the graph, its proof, and who takes such files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from conftest import ROOT
from exported import export, generator_of
from onnx import numpy_helper
from planted_faults import trained_like

from dcgan.checkpoint import load_generator, save_generator
from dcgan.networks import Generator
from dcgan_export import exact, formats, onnx_file, parity
from dcgan_export.cli import main as export_main
from dcgan_export.publish import Beside
from dcgan_export.vectors import make_vectors
from dcgan_infer import ImageGenerator
from dcgan_infer.contract.errors import LatentError, ParityError
from dcgan_infer.contract.latents import asked_labels, labels, latents
from dcgan_infer.contract.pixels import to_uint8
from dcgan_infer.contract.spec import GeneratorSpec, reference_spec
from dcgan_infer.verify import verify
from dcgan_infer.verify_report import PASSED


def spec_of(latent_dim: int = 6, num_classes: int = 3) -> GeneratorSpec:
    return reference_spec(latent_dim, (1, 8, 8), num_classes, channels=(8, 6, 4))


def written(path: Path, generator: Generator, **variant: Any) -> Path:
    onnx_file.write(generator, generator.spec, path, {}, formats.Variant(inputs="seed", **variant).settled())
    return path


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small conditional generator, and the model that takes a seed beside it."""
    folder = tmp_path_factory.mktemp("seeded")
    generator = trained_like(spec_of())
    save_generator(folder / "small.safetensors", generator.state_dict(), generator.spec, "{}")
    export(folder / "small.safetensors", folder / "small.onnx", inputs="seed", image="uint8")
    return folder


@pytest.mark.parametrize(("latent_dim", "num_classes"), [(6, 3), (7, 10), (1, 0), (100, 0), (3, 1)])
def test_the_graph_draws_the_contract_s_latents_and_labels(latent_dim: int, num_classes: int, tmp_path: Path) -> None:
    run = onnx_file.load_seeded(written(tmp_path / "m.onnx", Generator(spec_of(latent_dim, num_classes)).eval()))
    asked_for: list[tuple[int, ...] | None] = [(), (-1,), (0, -1), (num_classes - 1,)] if num_classes else [None]
    for seed in (0, 7, 2**31, 2**32 - 1, 2**32, 0x123456789ABCDEF, 2**63 - 1):
        for asked in asked_for:
            made = run(seed, 13, asked)
            # Bit for bit: float64's own logarithm and sine round to the same float32 here.
            np.testing.assert_array_equal(made.z, latents(seed, 0, 13, latent_dim))
            if asked is None:
                assert made.label is None
            else:
                np.testing.assert_array_equal(made.label, asked_labels(seed, 13, asked, num_classes))


def test_latents_stay_right_far_out(tmp_path: Path) -> None:
    run = onnx_file.load_seeded(written(tmp_path / "m.onnx", Generator(spec_of(100, 0)).eval()))
    made, right = run(11, 20_000, None).z, latents(11, 0, 20_000, 100)
    assert np.abs(right).max() > 4.8
    assert np.abs(made - right).max() <= 5e-7  # a float32 step there
    assert np.count_nonzero(made != right) <= 2


def test_images_are_those_of_the_latents(conditional: Path) -> None:
    session = onnxruntime.InferenceSession(conditional / "small.onnx", providers=["CPUExecutionProvider"])
    assert [(value.name, value.type, value.shape) for value in session.get_inputs()] == [
        ("seed", "tensor(int64)", []),
        ("n", "tensor(int64)", []),
        ("label", "tensor(int64)", ["labels"]),
    ]
    inputs = {"seed": np.array(7), "n": np.array(5), "label": np.array([2, -1])}
    (images,) = session.run(None, inputs)
    checkpoint = load_generator(conditional / "small.safetensors").module
    z, label = latents(7, 0, 5, 6), asked_labels(7, 5, (2, -1), 3)
    right, _ = exact.run_exactly(checkpoint, z, label, (5,), "seed 7")
    assert images.dtype == np.uint8
    assert np.abs(images.astype(int) - to_uint8(right[:, 0])).max() <= 1
    (none,) = session.run(None, inputs | {"n": np.array(0)})
    assert none.shape == (0, 8, 8)


@pytest.mark.parametrize(("precision", "image"), [("fp32", "uint8"), ("fp16", "float"), ("int8", "uint8")])
def test_every_precision_and_image_passes(precision: str, image: str, tmp_path: Path) -> None:
    checkpoint = ROOT / "models" / "dcgan-mnist-conditional.safetensors"
    artifact = export(checkpoint, tmp_path / "m.onnx", precision=precision, image=image, inputs="seed")
    assert artifact.report.passed
    assert [row.latents for row in artifact.report.figures][2:] == list(parity.SEEDED)
    assert max(map(len, artifact.report.table().splitlines())) <= 80


@pytest.mark.parametrize("opset", [18, 20, 23, onnx_file.newest_opset()])
def test_opsets_old_and_new_pass_parity(opset: int, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    generator = generator_of("elu")
    save_generator(path, generator.state_dict(), generator.spec, "{}")
    artifact = export(path, tmp_path / "m.onnx", opset=opset, inputs="seed")
    assert artifact.report.passed
    assert onnx.load(artifact.path).opset_import[0].version == opset


def test_the_file_s_operators_are_few_and_standard(conditional: Path) -> None:
    model = onnx.load(conditional / "small.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    assert (model.ir_version, model.opset_import[0].version) == (8, 18)
    front = {node.op_type for node in model.graph.node if node.name.startswith("latent.")}
    assert front == {
        "Add", "BitwiseAnd", "BitwiseXor", "Cast", "Concat", "Div", "Gather", "Less", "Log", "Max", "Mod", "Mul",
        "Range", "Reshape", "Sin", "Size", "Slice", "Sqrt", "Unsqueeze", "Where",
    }  # fmt: skip


# A constant of the graph, what is made of it, and what the proof says.
FAULTS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "a rotation": ("latent.2^13", lambda value: value * 2, "latents are not the contract's"),
    "the parity word": ("latent.parity", lambda value: value ^ 1, "latents are not the contract's"),
    "a step of the key": ("latent.step3", lambda value: value + 1, "latents are not the contract's"),
    "an angle by a millionth": ("latent.pi/2", lambda value: value * (1 + 2e-6), "latents are not the contract's"),
    "the number of classes": ("latent.classes", lambda value: value - 1, "labels are not the contract's"),
    "the label for none": ("latent.draw", lambda value: value + 1, "labels are not the contract's"),
    "a weight": ("stages.0.product.bias", lambda value: value + np.float32(0.5), "grey level"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_parity_sees_planted_faults(fault: str, conditional: Path, tmp_path: Path) -> None:
    name, change, expected = FAULTS[fault]
    model = onnx.load(conditional / "small.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(numpy_helper.to_array(tensor))), name))
    onnx.save(model, tmp_path / "bad.onnx")
    checkpoint = load_generator(conditional / "small.safetensors")
    generator, spec = checkpoint.module, checkpoint.spec
    variant = formats.Variant(inputs="seed").settled()
    compare = parity.compare_seeded
    right = compare(onnx_file.load_seeded(conditional / "small.onnx"), generator, spec, variant)
    assert right.passed, right.reasons
    wrong = compare(onnx_file.load_seeded(tmp_path / "bad.onnx"), generator, spec, variant)
    assert any(expected in reason for reason in wrong.reasons), wrong.reasons


def test_a_fault_in_the_graph_leaves_no_file(
    conditional: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcgan_export.seeded.ROTATIONS", (13, 15, 26, 6, 17, 29, 16, 25))
    with pytest.raises(ParityError, match="latents are not the contract's"):
        export(conditional / "small.safetensors", tmp_path / "bad.onnx", inputs="seed")
    assert list(tmp_path.iterdir()) == []


def test_the_command_makes_grey_levels_and_says_what_contradicts(conditional: Path, tmp_path: Path) -> None:
    checkpoint, out = str(conditional / "small.safetensors"), tmp_path / "m.onnx"
    result = CliRunner().invoke(export_main, [checkpoint, "--inputs", "seed", "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["image"] == "uint8"
    assert onnx.load(out).graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    for name, arguments, status, message in (
        ("none.onnx", ["--opset", "17"], 1, "choose one from 18 to"),
        ("none.pt", [], 2, "inputs are for onnx only, not for torchscript"),
    ):
        out = tmp_path / name
        result = CliRunner().invoke(export_main, [checkpoint, "--inputs", "seed", *arguments, "--out", str(out)])
        assert (result.exit_code, message in result.output) == (status, True), result.output
        assert not out.exists()


def test_a_session_takes_it_and_says_that_it_takes_no_latents(conditional: Path) -> None:
    generator = ImageGenerator(conditional / "small.onnx", provider="cpu", threads=1)
    assert generator.generate(3, seed=7).shape == (3, 8, 8)
    with pytest.raises(LatentError, match="makes its own latents from a seed"):
        generator.generate_from(latents(0, 0, 2, 6), np.array([1, 2]))


@pytest.mark.parametrize("image", formats.IMAGES)
def test_verify_holds_it_against_golden_vectors_and_other_models(image: str, conditional: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "ten.safetensors"
    generator = trained_like(spec_of(num_classes=10))
    save_generator(checkpoint, generator.state_dict(), generator.spec, "{}")
    path, golden = tmp_path / "m.onnx", tmp_path / "m.golden"
    export(checkpoint, path, Beside(golden=golden), image=image, inputs="seed")
    export(checkpoint, tmp_path / "z.onnx", image=image)
    report = verify(path, golden, against=tmp_path / "z.onnx", threads=1)
    assert {check.name: check.outcome for check in report.checks if check.name in ("golden", "against")} == {
        "golden": PASSED,
        "against": PASSED,
    }
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "latent.2^13")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
    onnx.save(model, path)
    report = verify(path, golden, against=tmp_path / "z.onnx", threads=1)
    assert {check.name for check in report.checks if check.outcome != PASSED} >= {"golden", "against"}


def test_labels_that_are_asked_for() -> None:
    np.testing.assert_array_equal(asked_labels(7, 5, (), 10), labels(7, 0, 5, 10))
    assert asked_labels(7, 5, (3, 1), 10).tolist() == [3, 1, 3, 1, 3]
    assert asked_labels(7, 4, (-1, 5), 10)[1::2].tolist() == [5, 5]
    assert asked_labels(7, 4, (-1, 5), 10)[::2].tolist() == labels(7, 0, 4, 10)[::2].tolist()
    with pytest.raises(LatentError, match="below 10"):
        asked_labels(7, 4, (10,), 10)


@pytest.mark.parametrize("name", ["dcgan-mnist", "dcgan-mnist-conditional"])
def test_the_shipped_test_vectors_are_the_checkpoint_s(name: str) -> None:
    folder = ROOT / "examples" / "vectors" / name
    made = make_vectors(load_generator(ROOT / "models" / f"{name}.safetensors"))
    assert {path.name for path in folder.iterdir()} == made.keys()
    index, own = json.loads((folder / "index.json").read_text()), json.loads(made["index.json"])
    # An index of an older schema of the spec says the same.
    specs = [GeneratorSpec.from_json(json.dumps(each.pop("spec"))) for each in (index, own)]
    assert specs[0] == specs[1]
    assert index == own
    for file, content in made.items():
        if file == "index.json":
            continue
        shipped = (folder / file).read_bytes()
        if file.endswith(".f32") and ".image." in file:  # another processor rounds float64's last bits otherwise
            difference = np.frombuffer(shipped, "<f4") - np.frombuffer(content, "<f4")
            assert np.abs(difference).max() <= 1e-6
        elif file.endswith(".u8"):
            difference = np.frombuffer(shipped, "u1").astype(int) - np.frombuffer(content, "u1")
            assert np.abs(difference).max() <= 1
        else:
            assert hashlib.sha256(shipped).digest() == hashlib.sha256(content).digest()


def test_the_lines_of_docs_embedding_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "embedding.md").read_text(), re.DOTALL)
    written(tmp_path / "digits.onnx", trained_like(spec_of(num_classes=10)), image="uint8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert (names["images"].shape, names["images"].dtype) == ((16, 8, 8), np.uint8)
