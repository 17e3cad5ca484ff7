"""`dcgan-export` and the publishing behind it: what it prints and leaves behind."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from exported import export, generator_of, metadata_of, read_golden, save
from torch import nn

import dcgan_export
from dcgan_export import formats, onnx_file, torchscript_file
from dcgan_export.cli import main
from dcgan_export.publish import Beside
from dcgan_infer import __version__, shipped
from dcgan_infer.contract.errors import ExportError, ParityError
from dcgan_infer.contract.files import sha256_of
from dcgan_infer.contract.layers import Activation
from dcgan_infer.contract.spec import GeneratorSpec
from dcgan_infer.verify import verify

# What the last line of a result begins with, without a console script.
COMMANDS = {"dcgan-infer": f"{sys.executable} -m dcgan_infer", "python": sys.executable}
ROOT = Path(dcgan_export.__file__).resolve().parents[2]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def python(code: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ
    return subprocess.run(
        [sys.executable, *options, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def one_line_and_nothing_left(result: Result, folder: Path, *allowed: str) -> None:
    """Exit status 1, one line on stderr, and no file in the folder but those that were there before."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == sorted(allowed)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a checkpoint in it."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "digits.safetensors")
    return tmp_path


@pytest.mark.parametrize(("format_name", "suffix"), [("onnx", ".onnx"), ("torchscript", ".pt"), ("pt2", ".pt2")])
def test_the_default_name_is_the_checkpoints_in_the_current_folder(format_name: str, suffix: str, folder: Path) -> None:
    result = run("digits.safetensors", "--format", format_name)
    assert result.exit_code == 0, result.output
    path = folder / f"digits{suffix}"
    assert f"wrote {path.name} ({path.stat().st_size:,} bytes, sha256 {sha256_of(path)})" in result.stdout
    assert result.stdout.startswith("same as your checkpoint: no pixel differs (148 latents, batches of 1 to 64)\n")
    assert result.stderr == ""
    golden = ["digits.golden"] if format_name == "onnx" else []
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(["digits.safetensors", path.name, *golden])
    *_, last = result.stdout.splitlines()
    following = re.sub("^try: (python|dcgan-infer)", lambda found: COMMANDS[found[1]], last)
    done = subprocess.run(following, shell=True, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "16 images" in done.stdout if golden else done.stdout == "torch.Size([16, 1, 8, 8])\n"
    table = run("digits.safetensors", "--format", format_name, "-o", f"again{suffix}", "-v").stdout
    assert "max error to float64" in table
    assert "parity: passed" in table


def test_golden_vectors_lie_beside_an_onnx_file(folder: Path) -> None:
    result = run("digits.safetensors", "--no-golden")
    assert (result.exit_code, (folder / "digits.golden").exists()) == (0, False)
    assert verify(folder / "digits.onnx", threads=1).passed is False
    result = run("digits.safetensors", "-o", "digits.onnx", "--json")
    assert json.loads(result.stdout)["golden"] == "digits.golden"
    assert verify(folder / "digits.onnx", threads=1).passed
    assert run("digits.safetensors", "-o", "a.onnx", "--golden", "b.golden", "--no-golden").exit_code == 2


def test_without_a_checkpoint_the_shipped_one_is_exported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "models").mkdir()
    save(folder / "models" / f"{shipped.DEFAULT}.safetensors")
    monkeypatch.setattr(shipped, "FOLDER", folder / "models")
    assert run("--format", "torchscript").exit_code == 0
    assert (folder / f"{shipped.DEFAULT}.pt").is_file()
    (folder / f"{shipped.DEFAULT}.pt").unlink()
    assert run(shipped.DEFAULT, "--format", "torchscript").exit_code == 0
    assert (folder / f"{shipped.DEFAULT}.pt").is_file()


def test_the_result_as_json(folder: Path) -> None:
    result = run("digits.safetensors", "--format", "torchscript", "-o", "a.pt", "--json", "--report", "report.json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed == json.loads((folder / "report.json").read_text())
    assert printed["file"] == "a.pt"
    assert printed["format"] == "torchscript"
    assert printed["parity"]["passed"] is True
    assert printed["sha256"] == sha256_of(folder / "a.pt")


def test_an_opset_can_be_asked_for(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    assert run("digits.safetensors", "--opset", "18", "--out", "a.onnx").exit_code == 0
    assert onnx.load(folder / "a.onnx").opset_import[0].version == 18


@pytest.mark.parametrize(("options", "form", "bn"), [([], "fused", False), (["--optimize", "none"], "none", True)])
def test_the_form_can_be_asked_for(options: list[str], form: str, bn: bool, folder: Path) -> None:
    result = run("digits.safetensors", "--out", "m.onnx", "--json", *options)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["optimize"] == form
    model = onnx.load(folder / "m.onnx")
    assert {entry.key: entry.value for entry in model.metadata_props}["dcgan.optimize"] == form
    assert any(node.op_type == "BatchNormalization" for node in model.graph.node) == bn


def test_a_form_that_does_not_exist_is_refused(folder: Path) -> None:
    with pytest.raises(ExportError, match="choose from fused, vnni, none"):
        export(folder / "digits.safetensors", folder / "m.onnx", optimize="int8")
    assert not (folder / "m.onnx").exists()


def test_a_pt_checkpoint_takes_its_activation_from_the_option(folder: Path) -> None:
    torch.save(generator_of("leaky-relu:0.2").state_dict(), folder / "g.pth")
    result = run("g.pth", "--activation", "leaky-relu:0.2", "--format", "torchscript", "--json")
    assert result.exit_code == 0, result.output
    spec = GeneratorSpec.from_json(json.loads(result.stdout)["metadata"]["dcgan.spec"])
    assert spec.activation == Activation("leaky-relu", 0.2)


def test_help_and_version_need_no_torch(tmp_path: Path) -> None:
    done = python(
        "import sys\nfrom dcgan_export.cli import main\ntry: main(['--help'])\n"
        "except SystemExit: print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))",
        tmp_path,
    )
    assert done.stdout.endswith("set()\n"), done.stderr
    assert "  Examples:\n    dcgan-export\n" in done.stdout
    assert "or else onnx]" in " ".join(done.stdout.split())
    assert run("-h").exit_code == 0
    assert run("--version").stdout == f"dcgan-export, version {__version__}\n"


def test_nothing_but_the_result_is_printed(folder: Path) -> None:
    """No progress of torch's exporter, no warning, not even with every warning shown."""
    done = python("from dcgan_export.cli import main; main(['digits.safetensors'])", folder, "-W", "error")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()] == ["same", "wrote", "wrote", "try:"]


@pytest.mark.parametrize(
    ("package", "command"),
    [("onnx", "[export]"), ("onnxscript", "[export]"), ("torch", "[export]"), ("onnxruntime", "[cpu]")],
)
def test_a_missing_package_is_one_line_with_the_command_that_mends_it(package: str, command: str, folder: Path) -> None:
    blocker = (
        f"import sys; sys.modules[{package!r}] = None\nfrom dcgan_export.cli import main\nmain(['digits.safetensors'])"
    )
    done = python(blocker, folder)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert package in done.stderr
    assert f"pip install 'dcgan-toolkit{command}'" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "tflite"],
        ["--format", "torchscript", "--opset", "17"],
        ["--format", "pt2", "--opset", "17"],
        ["--opset", "new"],
        ["--activation", "swish"],
        ["--activation", "leaky-relu:x"],
        ["--activation", "relu:1"],
        ["one", "two"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], folder: Path) -> None:
    result = run("digits.safetensors", *arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert [path.name for path in folder.iterdir()] == ["digits.safetensors"]


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("sprung",))


@pytest.mark.parametrize("kind", ["missing", "folder", "truncated", "foreign", "pickle", "shape", "empty", "nan"])
def test_a_bad_checkpoint_is_one_line(kind: str, folder: Path) -> None:
    path = folder / "bad"
    if kind == "folder":
        path.mkdir()
    elif kind == "truncated":
        path.write_bytes((folder / "digits.safetensors").read_bytes()[:-100])
    elif kind == "foreign":
        path.write_bytes(b"\x89PNG not a checkpoint at all")
    elif kind == "pickle":
        torch.save({"linear1.weight": Trap()}, path)
    elif kind == "shape":
        torch.save({"linear1.weight": torch.zeros(4, 4)}, path)
    elif kind == "empty":
        path.touch()
    elif kind == "nan":
        state = copy.deepcopy(generator_of().state_dict())
        state["decon2.weight"][0, 0] = torch.nan
        torch.save(state, path)
    there = ["digits.safetensors", *(["bad"] if kind != "missing" else [])]
    one_line_and_nothing_left(run("bad", "--format", "torchscript", "-o", "out.pt"), folder, *there)


def test_an_activation_that_contradicts_the_checkpoint_is_one_line(folder: Path) -> None:
    result = run("digits.safetensors", "--activation", "elu")
    one_line_and_nothing_left(result, folder, "digits.safetensors")
    assert "relu" in result.stderr


@pytest.mark.parametrize("opset", ["16", "99"])
def test_an_opset_that_can_not_be_written_is_one_line(opset: str, folder: Path) -> None:
    result = run("digits.safetensors", "--opset", opset)
    one_line_and_nothing_left(result, folder, "digits.safetensors")
    assert "choose one from 17 to" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "missing/a.pt"],
        ["-o", "taken"],
        ["-o", "digits.safetensors"],
        ["-o", "a.pt", "--report", "missing/report.json"],
        ["-o", "a.pt", "--report", "taken"],
        ["-o", "a.pt", "--report", "a.pt"],
        ["-o", "a.pt", "--report", "digits.safetensors"],
        ["-o", "a.pt", "--golden", "missing/a.golden"],
        ["-o", "a.pt", "--golden", "taken"],
        ["-o", "a.pt", "--golden", "a.pt"],
        ["-o", "a.pt", "--golden", "digits.safetensors"],
        ["-o", "a.pt", "--report", "same", "--golden", "same"],
    ],
)
def test_a_place_that_can_not_be_written_is_said_before_the_work(
    arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "taken").mkdir()
    before = (folder / "digits.safetensors").read_bytes()
    monkeypatch.setattr("dcgan_export.exact.make_probes", lambda *_: pytest.fail("started to work"))
    one_line_and_nothing_left(
        run("digits.safetensors", "--format", "torchscript", *arguments), folder, "digits.safetensors", "taken"
    )
    assert (folder / "digits.safetensors").read_bytes() == before


def damage(monkeypatch: pytest.MonkeyPatch, module: ModuleType, layer: str) -> None:
    """Every file of a format is written with one layer off by 0.1 %."""
    write = module.write

    def damaged(
        generator: nn.Module, spec: GeneratorSpec, path: Path, metadata: Mapping[str, str], variant: formats.Variant
    ) -> None:
        broken = copy.deepcopy(generator)
        with torch.no_grad():
            broken.get_parameter(layer).mul_(1.001)
        write(broken, spec, path, metadata, variant)

    monkeypatch.setattr(module, "write", damaged)


@pytest.fixture
def damaging(monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, torchscript_file, "decon2.weight")


@pytest.fixture
def damaging_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, onnx_file, "stages.2.product.convs.3.weight")


@pytest.mark.usefixtures("damaging")
def test_a_mismatch_prints_the_figures_and_leaves_no_file(folder: Path) -> None:
    result = run("digits.safetensors", "--format", "torchscript")
    one_line_and_nothing_left(result, folder, "digits.safetensors")
    assert "digits.pt was not written" in result.stderr
    assert ": off by " in result.stderr
    assert "max error to float64" in result.stdout
    assert "parity: FAILED" in result.stdout


@pytest.mark.usefixtures("damaging")
def test_a_mismatch_leaves_the_older_file_and_writes_the_report(folder: Path) -> None:
    (folder / "a.pt").write_bytes(b"older")
    result = run("digits.safetensors", "--format", "torchscript", "-o", "a.pt", "--report", "report.json", "--json")
    one_line_and_nothing_left(result, folder, "a.pt", "digits.safetensors", "report.json")
    assert (folder / "a.pt").read_bytes() == b"older"
    report = json.loads((folder / "report.json").read_text())
    assert report["parity"]["passed"] is False
    assert report["parity"]["figures"][0]["max_error"] > report["parity"]["figures"][0]["limit"]
    assert json.loads(result.stdout)["parity"] == report["parity"]
    assert "file" not in report


def test_golden_vectors_are_written_beside_the_artifact(folder: Path) -> None:
    result = run("digits.safetensors", "-o", "a.onnx", "--golden", "a.golden", "--json")
    assert result.exit_code == 0, result.output
    golden = read_golden(folder / "a.golden")
    assert golden.weights_sha256 == json.loads(result.stdout)["metadata"]["dcgan.weights_sha256"]
    assert golden.spec == generator_of().spec
    first = (folder / "a.golden").read_bytes()
    assert "wrote a.golden" in run("digits.safetensors", "-o", "a.onnx", "--golden", "a.golden").stdout
    assert (folder / "a.golden").read_bytes() == first


@pytest.mark.usefixtures("damaging")
def test_a_mismatch_leaves_the_older_golden_file(folder: Path) -> None:
    (folder / "a.golden").write_bytes(b"older")
    result = run("digits.safetensors", "-o", "a.pt", "--golden", "a.golden")
    one_line_and_nothing_left(result, folder, "a.golden", "digits.safetensors")
    assert (folder / "a.golden").read_bytes() == b"older"


@pytest.mark.usefixtures("damaging")
def test_a_parity_error_carries_the_report(folder: Path) -> None:
    with pytest.raises(ParityError) as caught:
        export(folder / "digits.safetensors", folder / "a.pt", format="torchscript")
    difference = caught.value.report.figures[0].difference
    assert difference.limit is not None
    assert difference.max_error > difference.limit


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), ExportError("no")])
def test_whatever_stops_the_export_leaves_nothing(
    error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(
        generator: nn.Module, spec: GeneratorSpec, path: Path, metadata: Mapping[str, str], variant: formats.Variant
    ) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torchscript_file, "write", stop)
    with pytest.raises(type(error)):
        export(folder / "digits.safetensors", folder / "a.pt", Beside(report=folder / "r.json"), format="torchscript")
    assert [path.name for path in folder.iterdir()] == ["digits.safetensors"]


def test_a_default_name_never_replaces_a_file(folder: Path) -> None:
    theirs = folder / "digits.onnx"
    theirs.write_text("somebody's")
    done = run("digits.safetensors")
    assert done.exit_code == 1
    assert "digits.onnx already exists; give --out digits.onnx to replace it" in done.stderr
    assert theirs.read_text() == "somebody's"


def test_the_name_chooses_the_format_and_contradictions_are_refused(folder: Path) -> None:
    assert run("digits.safetensors", "--out", "a.pt").exit_code == 0
    with zipfile.ZipFile(folder / "a.pt") as archive:
        assert any("/code/" in name for name in archive.namelist())
    done = run("digits.safetensors", "--out", "a.pt2", "--format", "onnx")
    assert done.exit_code == 2
    assert "contradicts --out a.pt2" in done.stderr
    assert not (folder / "a.pt2").exists()


def test_a_published_proof_has_both_kinds_of_latents(folder: Path) -> None:
    done = run("digits.safetensors", "--json", "--out", "b.onnx")
    assert [row["latents"] for row in json.loads(done.stdout)["parity"]["figures"]] == ["N(0,1)", "tails, |z| <= 6"]


def test_paths_the_system_refuses_are_one_line(folder: Path) -> None:
    for arguments in (["x" * 300], ["digits.safetensors", "--out", "x" * 300 + ".onnx"]):
        done = run(*arguments)
        assert done.exit_code == 1
        assert "file name too long" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_target_is_a_preset_that_options_override(folder: Path) -> None:
    assert run("digits.safetensors", "--target", "web", "--out", "a.onnx", "--precision", "fp32").exit_code == 0
    metadata = metadata_of(folder / "a.onnx")
    assert (metadata["dcgan.precision"], metadata["Image.NominalPixelRange"]) == ("fp32", "NominalRange_0_255")


def test_triton_gets_a_model_repository(folder: Path) -> None:
    result = run("digits.safetensors", "--target", "triton", "--out", "models", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["file"] == "models/digits/1/model.onnx"
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["digits.safetensors", "models/digits/1/model.onnx", "models/digits/config.pbtxt"]
    config = (folder / "models/digits/config.pbtxt").read_text()
    assert "dims: [ 6 ]" in config
    assert "dims: [ 1, 8, 8 ]" in config
    again = run("digits.safetensors", "--target", "triton", "--out", "models")
    assert again.exit_code == 1
    assert again.stderr == "Error: models/digits already exists; remove it, or choose another name\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "triton", "--out", "a.onnx"], "--target triton writes a folder"),
        (["--target", "triton", "--report", "r.json"], "--target triton writes no report"),
        (["--target", "web", "--out", "a.pt"], "--target is for ONNX only"),
        (
            ["--precision", "int8", "--format", "torchscript"],
            "are for onnx only, not for torchscript",
        ),
        (["--image", "uint8", "--out", "a.pt2"], "are for onnx only, not for pt2"),
        (["--optimize", "vnni", "--out", "a.pt"], "are for onnx only, not for torchscript"),
        (["--optimize", "vnni"], "is for precision int8; take that, or leave optimize vnni out"),
        (["--precision", "int8", "--optimize", "none"], "precision int8 needs the fused form; leave optimize none out"),
    ],
)
def test_variants_that_can_not_be_had_are_wrong_usage(arguments: list[str], said: str, folder: Path) -> None:
    result = run("digits.safetensors", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert [path.name for path in folder.iterdir()] == ["digits.safetensors"]


@pytest.mark.usefixtures("damaging_onnx")
def test_a_mismatch_leaves_no_half_of_a_repository(folder: Path) -> None:
    result = run("digits.safetensors", "--target", "triton", "--out", "models")
    one_line_and_nothing_left(result, folder, "digits.safetensors", "models")
    assert "model.onnx was not written" in result.stderr
    assert not list((folder / "models").iterdir())


def test_torchscript_that_is_switched_off_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.jit._state._enabled, "enabled", False)  # what PYTORCH_JIT=0 sets at the start
    result = run("digits.safetensors", "--out", "a.pt")
    one_line_and_nothing_left(result, folder, "digits.safetensors")
    assert "unset it" in result.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in folders are POSIX's")
def test_a_pipe_needs_a_name_for_the_artifact(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    result = run("pipe")
    assert result.exit_code == 2
    assert "give --out" in result.stderr


def test_a_module_that_ends_the_program_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ending.py").write_text(
        "import sys, torch\n\n\nclass Late(torch.nn.Module):\n"
        "    calls = 0\n\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = torch.nn.Linear(8, 64)\n\n"
        "    def forward(self, z):\n        Late.calls += 1\n        if Late.calls > 5:\n            sys.exit(0)\n"
        "        return torch.tanh(self.fc(z)).view(-1, 1, 8, 8)\n"
    )
    torch.save(torch.nn.ModuleDict({"fc": torch.nn.Linear(8, 64)}).state_dict(), tmp_path / "late.pth")
    monkeypatch.chdir(tmp_path)
    before = [path.name for path in tmp_path.iterdir()]
    result = run("late.pth", "--module", "ending.py:Late", "--out", "late.onnx")
    assert "ends the program while it makes images" in result.stderr
    one_line_and_nothing_left(result, tmp_path, *before)
