"""Files that version 0.1 wrote are read, run and judged as they were: tests/fixtures/0.1.

The tests here need neither torch nor onnx, unless they ask for it with `pytest.importorskip`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import OLD

from dcgan_infer import ImageGenerator, bench_cli, cli
from dcgan_infer.contract.errors import RunError
from dcgan_infer.contract.golden import parse_golden
from dcgan_infer.contract.layers import Activation
from dcgan_infer.contract.spec import reference_spec
from dcgan_infer.contract.vectors import read_vectors
from dcgan_infer.verify import verify
from dcgan_infer.verify_report import PASSED

GOLDEN = {path.name: OLD / f"{path.name.partition('-')[0]}.golden" for path in sorted(OLD.glob("*.onnx"))}


def test_all_of_them_are_here() -> None:
    forms = ("fp16", "fused", "plain", "seed", "uint8")
    assert list(GOLDEN) == [*(f"conditional-{form}.onnx" for form in forms), "quiet-int8.onnx"]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_model_makes_the_images_of_its_golden_file(name: str) -> None:
    generator = ImageGenerator(OLD / name, provider="cpu", threads=1)
    golden = parse_golden(GOLDEN[name].read_bytes(), GOLDEN[name])
    assert generator.spec == golden.spec
    assert generator.spec.layers
    assert generator.model.multiply_adds == golden.spec.multiply_adds
    images = generator.generate(20, seed=0, digits=range(10))
    assert np.abs(images.astype(int) - golden.image_uint8).max() <= 2
    if not generator.model.takes_seed:
        assert golden.label is not None
        own = generator.generate_from(golden.z, golden.label)
        assert np.array_equal(own, images)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_model_is_verified(name: str, tmp_path: Path) -> None:
    report = verify(OLD / name, GOLDEN[name], against=OLD / name, threads=1)
    assert {check.name for check in report.checks if check.outcome == PASSED} == {
        "spec",
        "operators",
        "golden",
        "against",
    }
    # And a wrong one is not: the same golden file with one image too bright.
    golden = parse_golden(GOLDEN[name].read_bytes(), GOLDEN[name])
    image, levels = golden.image.copy(), golden.image_uint8.copy()
    image[7], levels[7] = 1.0, 255
    (tmp_path / "bright.golden").write_bytes(dataclasses.replace(golden, image=image, image_uint8=levels).to_bytes())
    assert not verify(OLD / name, tmp_path / "bright.golden", threads=1).passed


@pytest.mark.parametrize("name", GOLDEN)
def test_the_commands_take_a_model(name: str, tmp_path: Path) -> None:
    out = str(tmp_path / "grid.png")
    made = CliRunner().invoke(cli.main, ["--provider", "cpu", "--model", str(OLD / name), "-o", out])
    assert made.exit_code == 0, made.output
    quick = ("--rounds", "1", "--burst", "0.002", "--rest", "0", "--threads", "1", "--batch", "2", "--json")
    measured = CliRunner().invoke(bench_cli.main, [*quick, str(OLD / name)])
    assert measured.exit_code == 0, measured.output
    (result,) = json.loads(measured.stdout)["results"]
    assert result["multiply_adds_per_image"] == 17 * 72 + 9 * 8 * 6 * 9 + 9 * 6 * 4 * 16 + 36 * 4 * 16
    assert result["sgemm_share"] > 0


@pytest.mark.parametrize("field", ["cases", "z", "image", "dtype", "file"])
def test_damaged_test_vectors_are_refused(field: str, tmp_path: Path) -> None:
    for path in (OLD / "vectors").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = json.loads((tmp_path / "index.json").read_text())
    places = [part for part in (index, index["cases"][0], index["cases"][0]["z"]) if field in part]
    for value in (None, 7, [["a"]], {"a": 1}):
        places[0][field] = value
        (tmp_path / "index.json").write_text(json.dumps(index))
        with pytest.raises((OSError, ValueError, KeyError), match=r"."):
            read_vectors(tmp_path)


def test_test_vectors_are_read_and_are_what_the_models_make() -> None:
    generator = ImageGenerator(OLD / "conditional-plain.onnx", provider="cpu", threads=1)
    vectors = read_vectors(OLD / "vectors")
    assert vectors.weights_sha256 == generator.model.metadata["dcgan.weights_sha256"]
    for case in vectors.cases:
        made = generator.model.run(case.feeds(("z", "label")), case.n)
        assert np.abs(made - case.image).max() < 1e-5
        assert np.abs(generator.pictures(made).astype(int) - case.image_uint8).max() <= 1


# Whose layers are those of the 0.1 file, with its sizes.
SPECS = {
    "run": reference_spec(16, (1, 28, 28), channels=(6, 4, 2)),
    "run/checkpoint.safetensors": reference_spec(16, (1, 28, 28), channels=(6, 4, 2)),
    "conditional.safetensors": reference_spec(7, (1, 12, 12), 10, channels=(8, 6, 4)),
    "quiet.safetensors": reference_spec(7, (1, 12, 12), 10, channels=(8, 6, 4)),
    "leaky.safetensors": reference_spec(7, (1, 12, 12), channels=(8, 6, 4), activation=Activation("leaky-relu", 0.2)),
    "state_dict.pt": reference_spec(7, (1, 12, 12), channels=(8, 6, 4)),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_checkpoint_is_read(name: str) -> None:
    checkpoint = pytest.importorskip("dcgan.checkpoint")
    loaded = checkpoint.load_generator(OLD / name)
    assert loaded.spec == SPECS[name]
    assert loaded.chain is loaded.module
    assert bool(loaded.recipe) == (name != "state_dict.pt")


def test_a_state_dict_takes_what_it_does_not_say_from_hints() -> None:
    checkpoint = pytest.importorskip("dcgan.checkpoint")
    plain = checkpoint.load_generator(OLD / "state_dict.pt")
    said = checkpoint.load_generator(OLD / "state_dict.pt", checkpoint.Hints(activation=Activation("leaky-relu", 0.2)))
    assert said.spec == SPECS["leaky.safetensors"]
    assert said.weights_sha256 == plain.weights_sha256


def test_artifacts_carry_the_digest_of_their_checkpoint() -> None:
    checkpoint = pytest.importorskip("dcgan.checkpoint")
    for name in GOLDEN:
        loaded = checkpoint.load_generator(OLD / f"{name.partition('-')[0]}.safetensors")
        generator = ImageGenerator(OLD / name, provider="cpu", threads=1)
        assert generator.model.metadata["dcgan.weights_sha256"] == loaded.weights_sha256
        assert generator.spec == loaded.spec


@pytest.mark.parametrize("format_name", ["torchscript", "pt2"])
def test_what_torch_runs_still_equals_its_checkpoint(format_name: str) -> None:
    checkpoint = pytest.importorskip("dcgan.checkpoint")
    from dcgan_export import exact, formats, parity

    form, variant = formats.FORMATS[format_name], formats.Variant(format_name).settled()
    run = form.load_module().load(OLD / f"conditional{form.suffix}")
    for name, passes in (("conditional", True), ("quiet", False)):  # the other one is of the same shape
        loaded = checkpoint.load_generator(OLD / f"{name}.safetensors")
        probes = exact.make_probes(loaded.module, loaded.spec)
        assert parity.compare(run, probes, loaded.spec, variant).passed == passes


@pytest.mark.parametrize("name", GOLDEN)
def test_a_model_passes_the_proof_of_today(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("torch")
    from dcgan.checkpoint import load_generator
    from dcgan_export import exact, formats, onnx_file, parity, publish

    form = name.removesuffix(".onnx").partition("-")[2]
    choices: dict[str, dict[str, Any]] = {
        "plain": {"optimize": "none"},
        "fp16": {"precision": "fp16"},
        "uint8": {"image": "uint8"},
        "int8": {"precision": "int8", "image": "uint8"},
        "seed": {"inputs": "seed"},
    }
    variant = formats.Variant(**choices.get(form, {})).settled()
    source = load_generator(OLD / f"{name.partition('-')[0]}.safetensors")
    probes = exact.make_probes(source.module, source.spec)
    report = parity.compare(onnx_file.load(OLD / name), probes, source.spec, variant)
    if variant.inputs == "seed":
        report += parity.compare_seeded(onnx_file.load_seeded(OLD / name), source.module, source.spec, variant)
    assert report.passed, report.table()
    if form in ("fused", "int8"):  # and so does a fresh export; dcgan-verify finds no difference between the two
        publish.publish(source, tmp_path / "new.onnx", variant)
        verified = verify(OLD / name, GOLDEN[name], against=tmp_path / "new.onnx", threads=1)
        assert {check.name: check.outcome for check in verified.checks}["against"] == PASSED


def test_the_options_of_a_run_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And a field that a later version adds to the recipe has the value that the old one worked by."""
    from dcgan import run_options
    from dcgan.recipes import RECIPES, Recipe

    recipe = dataclasses.replace(RECIPES["baseline"], epochs=1, batch_size=500)
    options = run_options.read_options(OLD / "run")
    assert options == run_options.RunOptions(recipe, "sample", "data", 0, "cpu", 1)

    @dataclasses.dataclass(frozen=True)
    class Newer(Recipe):
        warmup: int = 0
        last_activation: Activation = Activation("silu")

    monkeypatch.setattr(run_options, "Recipe", Newer)
    assert run_options.read_options(OLD / "run").recipe == Newer(**vars(recipe))
    later = dataclasses.replace(options, recipe=Newer(**vars(recipe), warmup=3, last_activation=Activation("elu", 0.5)))
    (tmp_path / run_options.OPTIONS).write_text(json.dumps({"options": later.to_dict()}))
    assert run_options.read_options(tmp_path) == later
    monkeypatch.undo()
    with pytest.raises(RunError, match=r"damaged or of another version .*warmup.*start a new run"):
        run_options.read_options(tmp_path)


# None: the field is left out.
@pytest.mark.parametrize("change", [{"warmup": 3}, {"loss": None}, {"epochs": "1"}, {"loss": "other"}, {"size": "x"}])
def test_options_that_no_version_wrote_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    from dcgan import run_options

    content = json.loads((OLD / "run" / run_options.OPTIONS).read_text())
    recipe = content["options"]["recipe"] | change
    content["options"] |= {name: recipe.pop(name) for name in change.keys() & {"size"}}
    content["options"]["recipe"] = {
        name: value for name, value in recipe.items() if value is not None
    }  # None: left out
    (tmp_path / run_options.OPTIONS).write_text(json.dumps(content))
    with pytest.raises(RunError, match="damaged or of another version"):
        run_options.read_options(tmp_path)
