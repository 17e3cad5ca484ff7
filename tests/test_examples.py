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
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import check
import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import ROOT
from small_models import COLOUR, GREY, write_small, write_vectors

from dcgan_infer.contract import latents as contract
from dcgan_infer.contract.spec import GeneratorSpec

EXAMPLES = ROOT / "examples"
PYTHON = [sys.executable, str(EXAMPLES / "python" / "generate.py")]
NODE = ["node", str(EXAMPLES / "node" / "generate.mjs")]
FP32, INT8 = (next(variant for variant in check.VARIANTS if variant.name == name) for name in ("fp32", "int8-uint8"))
PLAIN, CONDITIONAL = check.shipped("dcgan-mnist"), check.shipped("dcgan-mnist-conditional")
SHIPPED = ROOT / "models" / "dcgan-mnist-conditional.onnx"

# What generate_ort is without its runtime, and the labels of a seed beside it.
CPP = """
#include "program.hpp"

int main(int argc, char** argv) {
  if (argc != 3 || argv[1] != std::string("labels")) return run_program(argc, argv, nullptr);
  for (std::uint32_t i = 0; i < 100; ++i) std::cout << dcgan::label(std::stoull(argv[2]), i, 10) << ' ';
}
"""
# What C++ reads in a spec: sizes, names, and the numbers of the classes that the further arguments name.
CPP_SPEC = """
#include <fstream>
#include <iostream>
#include <iterator>
#include "spec.hpp"

int main(int argc, char** argv) {
  std::ifstream file(argv[1]);
  const auto spec = dcgan::read_spec({std::istreambuf_iterator<char>(file), {}});
  std::cout << spec.latent_dim << ' ' << spec.classes << ' ' << spec.channels << ' ' << spec.height << ' ' << spec.width
            << ' ' << spec.low << ' ' << spec.high << '\\n';
  for (const auto& name : spec.class_names) std::cout << name << '\\n';
  for (int i = 2; i < argc; ++i) std::cout << dcgan::class_of(spec, argv[i]) << '\\n';
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
    return compiled(folder / "generate", CPP)


def compiled(program: Path, source: str) -> str:
    """Compile a program with what lies in examples/cpp; its path."""
    program.with_suffix(".cpp").write_text(source)
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
    command = ["g++", "-std=c++17", *warnings, f"-I{EXAMPLES / 'cpp'}", str(program.with_suffix(".cpp"))]
    subprocess.run([*command, "-o", str(program)], check=True)
    return str(program)


def command_of(host: str, request: pytest.FixtureRequest) -> list[str]:
    if host == "cpp":
        return [request.getfixturevalue("cpp")]
    if host == "node":
        needs("node")
    return {"python": PYTHON, "node": NODE}[host]


def test_python_makes_the_digits_of_the_vectors(tmp_path: Path) -> None:
    for model in (PLAIN, CONDITIONAL):
        file = ROOT / "models" / f"{model.name}.onnx"
        row = check.check_images("python", PYTHON, model, FP32, file, tmp_path)
        assert row.passed, row
    row = check.check_picture("python", PYTHON, CONDITIONAL, SHIPPED, tmp_path)
    assert row.passed, row


@pytest.fixture(scope="session")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a colour model of named classes, values 0 to 1 and sides that differ; and its test vectors."""
    folder = tmp_path_factory.mktemp("colour")
    write_vectors(folder / "vectors", COLOUR, [(0, 13, (0, 3, -1)), (2**63 - 1, 4, ())])
    write_small(folder / "floats.onnx", COLOUR)
    write_small(folder / "pictures.onnx", COLOUR, uint8=True)
    return folder


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in EXAMPLES.glob("*/package.json")), ids=lambda it: it.name
)
def test_what_npm_gets_is_pinned(folder: Path) -> None:
    asked = json.loads((folder / "package.json").read_text())["dependencies"]
    locked = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert locked.pop("")["dependencies"] == asked
    assert {package: locked[f"node_modules/{package}"]["version"] for package in asked} == asked
    for path, package in locked.items():
        assert package["integrity"].startswith("sha512-"), path
        assert "resolved" not in package, path  # it would name a registry
    assert "ignore-scripts=true" in (folder / ".npmrc").read_text().splitlines()


def host_command(host: str) -> list[str]:
    """Of a host with its runtime, where that is here."""
    if host == "python":
        return PYTHON
    needs("node")
    if not (EXAMPLES / "node" / "node_modules").exists():
        pytest.skip("onnxruntime-node is not here: npm ci in examples/node")
    return NODE


@pytest.mark.parametrize("host", ["python", "node"])
@pytest.mark.parametrize("form", ["floats", "pictures"])
def test_a_colour_model_of_any_size_is_as_right(host: str, form: str, colour: Path, tmp_path: Path) -> None:
    file = colour / f"{form}.onnx"
    model = check.read_model(file, colour / "vectors")
    row = check.check_images(host, host_command(host), model, check.as_it_is(file), file, tmp_path)
    assert row.passed, row
    row = check.check_picture(host, host_command(host), model, file, tmp_path)
    assert row.passed, row
    # Channels in another order, and rows for columns, would be noticed.
    first = model.cases[0]
    for wrong in (first.image_uint8[..., ::-1], first.image_uint8[:, ::-1]):
        other = replace(model, cases=(replace(first, image_uint8=wrong),))
        assert not check.check_picture(host, host_command(host), other, file, tmp_path).passed


@pytest.mark.parametrize("host", ["python", "node"])
def test_classes_have_names_and_numbers(host: str, colour: Path, tmp_path: Path) -> None:
    def made(wanted: str) -> bytes:
        command = [*host_command(host), str(colour / "pictures.onnx"), "--n=3", f"--class={wanted}"]
        return check.run_host(command, [], tmp_path / "out.raw")

    assert made("red fox,7,-1") == made("0,3,-1")  # a class is called 7
    assert made('é "q" 🦊') == made("2") != made("1")
    for wanted, said in (("zebra", "found zebra"), ("4", "found 4"), ("-2", "found -2"), ("", "red fox")):
        with pytest.raises(check.HostError, match=f"exit status 2: .*{said}"):
            made(f"{wanted},{wanted}")


@pytest.mark.parametrize("host", ["python", "node"])
def test_what_no_model_or_no_picture_is_gets_one_line(host: str, colour: Path, tmp_path: Path) -> None:
    nameless, four = tmp_path / "nameless.onnx", tmp_path / "four.onnx"
    onnx = pytest.importorskip("onnx")
    model = onnx.load(colour / "floats.onnx")
    del model.metadata_props[:]
    onnx.save(model, nameless)
    write_small(four, replace(GREY, image_shape=(4, 8, 8)))
    for arguments, status, said in (
        ([str(nameless)], 1, "no dcgan.spec"),
        ([str(four)], 1, "4 channels"),
        ([str(four), "--class=0"], 2, "this one has none"),
    ):
        with pytest.raises(check.HostError, match=f"exit status {status}: .*{said}"):
            check.run_host([*host_command(host), *arguments], [], tmp_path / "out.ppm")


def test_cpp_reads_specs_of_both_schemas(tmp_path: Path) -> None:
    needs("g++")
    program = compiled(tmp_path / "spec", CPP_SPEC)
    hard = replace(COLOUR, class_names=("latent_dim", '"num_classes":3', "\\u0041", "7"))
    old = json.dumps(json.loads((EXAMPLES / "vectors" / "dcgan-mnist" / "index.json").read_bytes())["spec"])
    for text, expected in (
        (GeneratorSpec(**asdict(COLOUR)).to_json(), ["7 4 3 24 40 0 1", *COLOUR.class_names]),
        (GeneratorSpec(**asdict(hard)).to_json(), ["7 4 3 24 40 0 1", *hard.class_names]),
        (old, ["100 0 1 28 28 -1 1"]),
    ):
        (tmp_path / "spec.json").write_text(text)
        done = subprocess.run([program, str(tmp_path / "spec.json")], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == expected
    (tmp_path / "spec.json").write_text(GeneratorSpec(**asdict(COLOUR)).to_json())
    words = ["7", "1", "-1", COLOUR.class_names[2]]
    done = subprocess.run([program, str(tmp_path / "spec.json"), *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-4:] == ["3", "1", "-1", "2"]


@pytest.mark.parametrize("host", ["python", "node", "cpp"])
def test_every_language_makes_the_latents_of_the_contract(
    host: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    row = check.check_latents(host, command_of(host, request), check.LATENTS, PLAIN.cases, tmp_path)
    assert row.passed, row
    odd = [replace(PLAIN.cases[1], z=PLAIN.cases[1].z[:, :7])]
    assert check.check_latents(host, command_of(host, request), check.LATENTS, odd, tmp_path).passed


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
    assert np.array_equal(python_latents().latents(7, 4, 7), PLAIN.cases[1].z[:, :7])


@pytest.mark.parametrize("host", ["python", "node", "cpp"])
def test_bad_input_gets_one_line(host: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    command = command_of(host, request)
    out = f"--out={tmp_path / 'out'}"
    for status, arguments in (
        (2, ["latents", "--seed=-1", out]),
        (2, ["latents", f"--seed={2**63}", out]),
        (2, ["latents", "--n=0", out]),
        (2, ["latents", "--latent-dim=0", out]),
        (2, ["latents", "--surprise=1", out]),
        (2, ["latents"]),
        (1, [str(tmp_path / "none.onnx"), out]),
        (1, ["latents", f"--out={tmp_path / 'none' / 'out'}"]),
    ):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (status, ""), arguments
        assert re.fullmatch(r"generate\S*: .+\n", done.stderr), done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["generate.py", "latents.py"])
def test_the_python_example_needs_nothing_of_ours(file: str) -> None:
    imported = re.findall(r"^\s*(?:import|from) (\w+)", (EXAMPLES / "python" / file).read_text(), re.MULTILINE)
    assert not {"dcgan", "dcgan_export", "dcgan_infer", "torch", "onnx"} & set(imported)


def test_the_python_lines_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    whole = onnx.TensorProto.INT64
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        graph (int64 seed, int64 n, int64[labels] label) => (uint8[n, 8, 12, 3] image) <int64[3] size = {8, 12, 3}> {
            axis = Constant <value_ints = [0]> ()
            first = Unsqueeze (n, axis)
            shape = Concat <axis = 0> (first, size)
            image = ConstantOfShape <value = uint8[1] {7}> (shape)
        }""")
    assert [value.type.tensor_type.elem_type for value in model.graph.input] == [whole] * 3
    onnx.save(model, tmp_path / "images.onnx")
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", (EXAMPLES / "python" / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert names["images"].shape == (16, 8, 12, 3)
    assert names["images"].dtype == np.uint8


def test_the_node_example_leaves_nothing_in_the_home(tmp_path: Path) -> None:
    row = check.check_home("node", host_command("node"), SHIPPED, tmp_path)
    assert row.passed, row


# What the checker must notice.


def test_a_device_id_in_the_home_is_noticed(tmp_path: Path) -> None:
    program = "import os, sys; open(os.environ['HOME'] + '/id', 'w'); open(sys.argv[-1], 'w')"
    row = check.check_home("spy", [sys.executable, "-c", program], SHIPPED, tmp_path)
    assert (row.passed, row.note) == (False, "id")


def test_one_wrong_rotation_is_noticed(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "python", tmp_path / "python")
    latents = tmp_path / "python" / "latents.py"
    source = latents.read_text()
    assert source.count(", 24)") == 1
    latents.write_text(source.replace(", 24)", ", 23)"))
    broken = [sys.executable, str(tmp_path / "python" / "generate.py")]
    row = check.check_latents("python", broken, check.LATENTS, PLAIN.cases[:1], tmp_path)
    assert not row.passed
    assert row.figures[0].value > 0.1
    assert not check.check_images("python", broken, CONDITIONAL, FP32, SHIPPED, tmp_path).passed


def test_swapped_labels_are_noticed(tmp_path: Path) -> None:
    first = CONDITIONAL.cases[0]
    swapped = replace(CONDITIONAL, cases=[replace(first, asked=(1, 0, *first.asked[2:]))])
    assert not check.check_images("python", PYTHON, swapped, FP32, SHIPPED, tmp_path).passed
    assert not check.check_picture("python", PYTHON, swapped, SHIPPED, tmp_path).passed


def test_one_weight_in_a_thousand_off_by_a_percent_is_noticed(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(SHIPPED)
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights = onnx.numpy_helper.to_array(tensor).copy()
    weights.reshape(-1)[::1000] *= np.float32(1.01)
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    onnx.save(model, tmp_path / "off.onnx")
    row = check.check_images("python", PYTHON, CONDITIONAL, FP32, tmp_path / "off.onnx", tmp_path)
    assert not row.passed, row


def test_int8_is_held_against_onnxruntime_and_against_the_vectors() -> None:
    right = PLAIN.cases[0].image_uint8
    two_off = np.where(right > 100, right - 2, right)
    assert all(figure.holds() for figure in check.judge(INT8, [(right, right)], [(right, right)], 1))
    assert not check.judge(INT8, [(right, right)], [(two_off, right)], 1)[0].holds()
    assert not check.judge(INT8, [(255 - right, right)], [(right, right)], 1)[1].holds()


def test_nan_passes_nothing() -> None:
    right = PLAIN.cases[1].image
    image = right.copy()
    image[0, 0, 0, 0] = np.nan
    fp16 = replace(FP32, options={"precision": "fp16"})
    for variant in (FP32, fp16):
        row = check.Row("host", "model", variant.name, check.judge(variant, [(image, right)], [], 2 / 255))
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
    row = check.check_latents("broken", command, check.LATENTS, PLAIN.cases[:1], tmp_path)
    assert not row.passed
    assert re.fullmatch(says, row.note)


def absent(_work: Path) -> list[str]:
    raise check.UnavailableError("no such thing here")


def broken(_work: Path) -> list[str]:
    raise check.HostError("a semicolon is missing")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The command with one host that is there, one that is not and one that does not build, and one shipped model."""
    here = check.Host("here", lambda _work: PYTHON, without=(check.GRAPH_LATENTS, check.HOME))
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


def test_a_model_of_ones_own_is_checked_as_it_is(small: Path, colour: Path) -> None:
    mine = ["--model", str(colour / "pictures.onnx"), "--vectors", str(colour / "vectors"), "--only", "here"]
    result = run(small, *mine)
    assert result.exit_code == 0, result.output
    assert "as it is" in result.output
    assert "3 passed, 0 failed" in result.output
    other = write_small(colour / "other.onnx", replace(COLOUR, class_names=()), shift=0.1)
    result = run(small, "--model", str(other), *mine[2:])
    assert result.exit_code == 1
    assert "FAIL  here       other" in result.output
    result = run(small, *mine[:2])
    assert result.exit_code == 2
    assert "--model and --vectors go together" in result.output
    result = run(small, *mine[:2], "--vectors", str(small), "--only", "here")
    assert result.exit_code == 1
    assert "holds no test vectors" in result.output
