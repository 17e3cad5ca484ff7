"""The examples against the test vectors, as far as that takes seconds; `make examples` checks them all.

And the checker against hosts and models that are wrong on purpose.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import check
import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import ROOT

from dcgan_infer.contract import latents as contract

EXAMPLES = ROOT / "examples"
PYTHON = [sys.executable, str(EXAMPLES / "python" / "digits.py")]
NODE = ["node", str(EXAMPLES / "node" / "digits.mjs")]
FP32, INT8 = (next(variant for variant in check.VARIANTS if variant.name == name) for name in ("fp32", "int8-uint8"))
PLAIN = check.read_cases("dcgan-mnist")
CONDITIONAL = check.read_cases("dcgan-mnist-conditional")
SHIPPED = ROOT / "models" / "dcgan-mnist-conditional.onnx"

# What digits_ort is without its runtime, and the labels of a seed beside it.
CPP = """
#include "program.hpp"

int main(int argc, char** argv) {
  if (argc != 3 || argv[1] != std::string("labels")) return run_program(argc, argv, nullptr);
  for (std::uint32_t i = 0; i < 100; ++i) std::cout << dcgan::label(std::stoull(argv[2]), i, 10) << ' ';
}
"""
JS = "import { labels } from '%s'; console.log(labels(process.argv[1], 0, 100, 10).join(' '));"


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} on this machine")


def python_latents() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_latents", EXAMPLES / "python" / "latents.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program of examples/cpp without a runtime, compiled without a warning."""
    needs("g++")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "digits.cpp").write_text(CPP)
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
    command = ["g++", "-std=c++17", *warnings, f"-I{EXAMPLES / 'cpp'}", str(folder / "digits.cpp")]
    subprocess.run([*command, "-o", str(folder / "digits")], check=True)
    return str(folder / "digits")


def command_of(host: str, request: pytest.FixtureRequest) -> list[str]:
    if host == "cpp":
        return [request.getfixturevalue("cpp")]
    if host == "node":
        needs("node")
    return {"python": PYTHON, "node": NODE}[host]


def test_python_makes_the_digits_of_the_vectors(tmp_path: Path) -> None:
    for name, cases in (("dcgan-mnist", PLAIN), ("dcgan-mnist-conditional", CONDITIONAL)):
        row = check.check_images("python", PYTHON, name, FP32, ROOT / "models" / f"{name}.onnx", cases, tmp_path)
        assert row.passed, row
    row = check.check_picture("python", PYTHON, name, SHIPPED, cases[0], tmp_path)
    assert row.passed, row


@pytest.mark.parametrize("host", ["python", "node", "cpp"])
def test_every_language_makes_the_latents_of_the_contract(
    host: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    row = check.check_latents(host, command_of(host, request), "", check.LATENTS, PLAIN, tmp_path)
    assert row.passed, row


@pytest.mark.parametrize("host", ["python", "node", "cpp"])
def test_every_language_draws_the_labels_of_the_contract(host: str, request: pytest.FixtureRequest) -> None:
    command = [*command_of(host, request), "labels"]
    for seed in (0, 2**63 - 1):
        expected = contract.labels(seed, 0, 100, 10).tolist()
        if host == "python":
            assert python_latents().labels(seed, 100, 10).tolist() == expected
            continue
        if host == "node":
            source = JS % (ROOT / "infer" / "dcgan_infer" / "web" / "latents.js").as_uri()
            command = ["node", "--input-type=module", "--eval", source]
        done = subprocess.run([*command, str(seed)], capture_output=True, text=True, check=True)
        assert list(map(int, done.stdout.split())) == expected


def test_latents_of_an_odd_length_are_the_heads_of_longer_ones() -> None:
    assert np.array_equal(python_latents().latents(7, 4, 7), PLAIN[1].z[:, :7])


@pytest.mark.parametrize("host", ["python", "node", "cpp"])
def test_bad_input_gets_one_line(host: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    command = command_of(host, request)
    out = f"--out={tmp_path / 'out'}"
    for status, arguments in (
        (2, ["latents", "--seed=-1", out]),
        (2, ["latents", f"--seed={2**63}", out]),
        (2, ["latents", "--n=0", out]),
        (2, ["latents", "--label=x", out]),
        (2, ["latents", "--surprise=1", out]),
        (2, ["latents"]),
        (1, [str(tmp_path / "none.onnx"), out]),
        (1, ["latents", f"--out={tmp_path / 'none' / 'out'}"]),
    ):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (status, ""), arguments
        assert re.fullmatch(r"digits\S*: .+\n", done.stderr), done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["digits.py", "latents.py"])
def test_the_python_example_needs_nothing_of_ours(file: str) -> None:
    imported = re.findall(r"^\s*(?:import|from) (\w+)", (EXAMPLES / "python" / file).read_text(), re.MULTILINE)
    assert not {"dcgan", "export", "infer", "torch", "onnx"} & set(imported)


def test_the_python_lines_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from dcgan.networks import Generator
    from dcgan_export import formats, onnx_file
    from dcgan_infer.contract.spec import GeneratorSpec

    spec = GeneratorSpec(latent_dim=6, image_shape=(1, 8, 8), channels=(8, 6, 4), num_classes=10)
    generator = Generator(spec).eval()
    variant = formats.Variant(inputs="seed", image="uint8")
    onnx_file.write(generator, spec, tmp_path / "digits.onnx", {}, variant)
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", (EXAMPLES / "python" / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert names["images"].shape == (16, 8, 8)
    assert names["images"].dtype == np.uint8


# What the checker must notice.


def test_one_wrong_rotation_is_noticed(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "python", tmp_path / "python")
    latents = tmp_path / "python" / "latents.py"
    source = latents.read_text()
    assert source.count(", 24)") == 1
    latents.write_text(source.replace(", 24)", ", 23)"))
    broken = [sys.executable, str(tmp_path / "python" / "digits.py")]
    row = check.check_latents("python", broken, "", check.LATENTS, PLAIN[:1], tmp_path)
    assert not row.passed
    assert row.figures[0].value > 0.1
    assert not check.check_images("python", broken, "", FP32, SHIPPED, CONDITIONAL[:1], tmp_path).passed


def test_swapped_labels_are_noticed(tmp_path: Path) -> None:
    swapped = replace(CONDITIONAL[0], asked=(1, 0, *CONDITIONAL[0].asked[2:]))
    assert not check.check_images("python", PYTHON, "", FP32, SHIPPED, [swapped], tmp_path).passed
    assert not check.check_picture("python", PYTHON, "", SHIPPED, swapped, tmp_path).passed


def test_one_weight_in_a_thousand_off_by_a_percent_is_noticed(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(SHIPPED)
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights = onnx.numpy_helper.to_array(tensor).copy()
    weights.reshape(-1)[::1000] *= np.float32(1.01)
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    onnx.save(model, tmp_path / "off.onnx")
    row = check.check_images("python", PYTHON, "", FP32, tmp_path / "off.onnx", CONDITIONAL[:1], tmp_path)
    assert not row.passed, row


def test_int8_is_held_against_onnxruntime_and_against_the_vectors() -> None:
    right = PLAIN[0].image_uint8
    two_off = np.where(right > 100, right - 2, right)
    assert all(figure.holds() for figure in check.judge(INT8, [(right, right)], [(right, right)]))
    assert not check.judge(INT8, [(right, right)], [(two_off, right)])[0].holds()
    assert not check.judge(INT8, [(255 - right, right)], [(right, right)])[1].holds()


def test_nan_passes_nothing() -> None:
    image = PLAIN[1].image.copy()
    image[0, 0, 0, 0] = np.nan
    fp16 = replace(FP32, options={"precision": "fp16"})
    for variant in (FP32, fp16):
        row = check.Row("host", "model", variant.name, check.judge(variant, [(image, PLAIN[1].image)], []))
        assert not row.passed
        assert row.as_dict()["figures"][0]["value"] is None


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("pass", "wrote no file"),
        ("open(sys.argv[-1], 'wb').write(b'12345')", r"wrote 5 bytes where float32 \(20, 100\) are 8,000"),
        ("sys.exit('out of order')", "exit status 1: out of order"),
        ("import time; time.sleep(60)", "took longer than 1 s"),
    ],
)
def test_hosts_that_do_not_work_are_noticed(
    program: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "TIMEOUT", 1 if "sleep" in program else 60)
    command = [sys.executable, "-c", f"import sys; {program}"]
    row = check.check_latents("broken", command, "", check.LATENTS, PLAIN[:1], tmp_path)
    assert not row.passed
    assert re.fullmatch(says, row.note)


def absent(_work: Path) -> list[str]:
    raise check.UnavailableError("no such thing here")


def broken(_work: Path) -> list[str]:
    raise check.HostError("a semicolon is missing")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The command with one host that is there, one that is not and one that does not build, and one shipped model."""
    here = check.Host("here", lambda _work: PYTHON, without=(check.GRAPH_LATENTS,))
    monkeypatch.setattr(check, "HOSTS", (here, check.Host("absent", absent), check.Host("broken", broken)))
    monkeypatch.setattr(check, "MODELS", ("dcgan-mnist",))
    monkeypatch.setattr(check, "VARIANTS", (FP32,))
    return tmp_path


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(check.main, ["--work", str(folder / "work"), *arguments])


def test_a_host_that_is_absent_is_said_and_fails_where_it_is_required(small: Path) -> None:
    result = run(small, "--only", "here,absent", "--json", str(small / "check.json"))
    assert result.exit_code == 0, result.output
    assert "absent     not run: no such thing here" in result.output
    assert "\nnot run: absent\n" in result.output
    assert "3 passed, 0 failed" in result.output
    written = json.loads((small / "check.json").read_text())
    assert [row["passed"] for row in written["rows"]] == [True, True, True]
    assert written["not_run"] == {"absent": "no such thing here"}
    result = run(small, "--only", "absent", "--require", "absent")
    assert result.exit_code == 1
    assert "not run: absent (required)" in result.output


def test_nothing_checked_is_no_success(small: Path) -> None:
    assert run(small, "--only", "absent").exit_code == 1


def test_an_example_that_does_not_build_fails(small: Path) -> None:
    result = run(small, "--only", "broken")
    assert result.exit_code == 1
    assert "does not build: a semicolon is missing" in result.output


def test_unknown_hosts_are_refused(small: Path) -> None:
    result = run(small, "--only", "fridge")
    assert result.exit_code == 2
    assert "fridge; choose from here, absent, broken." in result.output
