"""`dcgan-verify`: what it says of a right model, and of every kind of wrong one. No torch; some models need onnx."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import MODELS, OLD
from test_infer_generator import varint, with_metadata

from dcgan_infer import __version__, runtime, shipped
from dcgan_infer.bench_cli import main as bench_main
from dcgan_infer.cli import main as infer_main
from dcgan_infer.contract.errors import ModelError
from dcgan_infer.contract.golden import SUFFIX, Golden, parse_golden
from dcgan_infer.contract.spec import GeneratorSpec
from dcgan_infer.contract.tolerance import TOLERANCES, Tolerance
from dcgan_infer.manifest import listed
from dcgan_infer.model import Model
from dcgan_infer.onnx_outline import read_outline
from dcgan_infer.verify import verify
from dcgan_infer.verify_cli import main
from dcgan_infer.verify_report import FAILED, PASSED, SKIPPED, Check, VerifyReport

NAME = "dcgan-mnist"
MODEL = shipped.path_of(NAME, ".onnx")
GOLDEN = shipped.path_of(NAME, SUFFIX)
CONDITIONAL = shipped.path_of("dcgan-mnist-conditional", ".onnx")


def golden_of(path: Path) -> Golden:
    return parse_golden(path.read_bytes(), path)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["--threads", "1", *map(str, arguments)])


def outcomes(report: VerifyReport) -> dict[str, str]:
    return {check.name: check.outcome for check in report.checks}


def check_of(report: VerifyReport, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)


def golden_check(path: Path, golden: Path | None = None) -> Check:
    return check_of(verify(path, golden, threads=1), "golden")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of a shipped model with the manifest that lists it."""
    shutil.copy(MODEL, tmp_path)
    shutil.copy(shipped.FOLDER / "SHA256SUMS", tmp_path)
    return tmp_path / MODEL.name


def damaged(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def sign_flipped(content: bytes) -> bytes:
    """One bit of the first layer's weights: the sign of a weight above 0.05."""
    weights = np.frombuffer(content, "<f4", offset=len(content) % 4, count=len(content) // 4)
    middle = len(weights) // 3
    place = middle + int(np.flatnonzero((np.abs(weights[middle:]) > 0.05) & (np.abs(weights[middle:]) < 1.0))[0])
    at = len(content) % 4 + 4 * place + 3
    return content[:at] + bytes((content[at] ^ 0x80,)) + content[at + 1 :]


@pytest.mark.parametrize("name", ["dcgan-mnist", "dcgan-mnist-conditional"])
def test_a_shipped_model_passes_every_check(name: str) -> None:
    report = verify(name, threads=1)
    assert outcomes(report) == dict.fromkeys(("integrity", "spec", "operators", "golden"), PASSED)
    assert report.verdict == (
        "verified: its images are those of its checkpoint: no pixel differs (20 images); "
        "its sha256 is what SHA256SUMS beside it says"
    )
    difference = check_of(report, "golden").difference
    assert difference is not None
    assert difference.images == 20
    assert difference.max_error is not None
    assert difference.limit is not None
    assert 0.0 < difference.max_error <= difference.limit < 1e-4
    assert difference.limit == 4 * golden_of(shipped.path_of(name, SUFFIX)).eager_max_error + 1e-6
    assert difference.psnr > 120


def test_what_is_printed(copy: Path) -> None:
    done = run(copy, "--against", NAME)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    verdict, following = done.stdout.splitlines()
    assert verdict == (
        f"{copy}: verified: its images are those of its checkpoint: no pixel differs (20 images); its images are those "
        "of the other model: no pixel differs (64 images); its sha256 is what SHA256SUMS beside it says"
    )
    assert following == f"try: dcgan-infer --model {copy} --n 16"
    done = run(copy, "--against", NAME, "-v")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "IR 8, opset 17" in done.stdout
    damaged(copy, sign_flipped)
    done = run(copy, "--against", NAME)
    assert done.exit_code == 1
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "FAILED   golden" in done.stdout
    assert "NOT verified" not in done.stdout  # the error says it
    assert done.stderr.startswith(f"Error: {copy} is NOT verified: integrity: ")
    assert done.stderr.endswith("(and 2 more)\n")
    assert done.stderr.count("\n") == 1


def test_everything_as_json(copy: Path) -> None:
    done = run(copy, "--json", "--against", NAME, "-n", "5", "--seed", "3")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["passed"] is True
    assert result["bytes"] == copy.stat().st_size
    checks = {check["name"]: check for check in result["checks"]}
    assert list(checks) == ["integrity", "spec", "operators", "golden", "against"]
    assert checks["operators"]["figures"]["opsets"] == {"": 17}
    assert checks["operators"]["figures"]["operators"]["ConvTranspose"] == 1
    assert checks["golden"]["figures"]["max_error"] < checks["golden"]["figures"]["limit"]
    assert checks["against"]["figures"]["images"] == 5
    assert checks["against"]["figures"]["psnr"] is None  # infinite: the same bytes make the same images
    damaged(copy, lambda content: content[:-4096])
    result = json.loads(run(copy, "--json").stdout)
    assert result["passed"] is False


def test_a_flipped_bit_in_the_weights_is_noticed_twice(copy: Path) -> None:
    report = verify(damaged(copy, sign_flipped), threads=1)
    assert outcomes(report) == {"integrity": FAILED, "spec": PASSED, "operators": PASSED, "golden": FAILED}
    assert "off by" in check_of(report, "golden").detail
    (copy.parent / "SHA256SUMS").unlink()
    assert outcomes(verify(copy, threads=1))["golden"] == FAILED


def test_a_truncated_file_is_noticed(copy: Path) -> None:
    report = verify(damaged(copy, lambda content: content[: len(content) // 2]), threads=1)
    assert outcomes(report) == {"integrity": FAILED, "spec": FAILED, "operators": FAILED, "golden": SKIPPED}
    assert "truncated" in check_of(report, "operators").detail


def test_nan_in_the_weights_is_noticed(copy: Path) -> None:
    def change(content: bytes) -> bytes:
        at = len(content) // 2 & ~3
        return content[:at] + b"\xff" * 4096 + content[at + 4096 :]

    found = golden_check(damaged(copy, change))
    assert found.outcome == FAILED
    assert "NaN or infinite" in found.detail
    assert found.difference is not None
    assert found.difference.max_levels == 255
    assert found.as_dict()["figures"]["max_error"] is None
    against = check_of(verify(NAME, against=copy, threads=1), "against")
    assert against.outcome == FAILED
    assert "NaN or infinite" in against.detail


@pytest.mark.parametrize(
    ("manifest", "outcome", "says"),
    [
        (None, SKIPPED, "is not beside it"),
        ("", SKIPPED, "does not list dcgan-mnist.onnx"),
        ("{right}  other.onnx\n{wrong}  dcgan-mnist.onnx.bak\n", SKIPPED, "does not list"),
        ("{right}  dcgan-mnist.onnx\n", PASSED, "is what SHA256SUMS beside it says"),
        ("{right} *dcgan-mnist.onnx\n", PASSED, "is what SHA256SUMS beside it says"),
        ("{wrong}  dcgan-mnist.onnx\n", FAILED, "changed, or another file"),
        ("{right}  dcgan-mnist.onnx\n{wrong}  dcgan-mnist.onnx\n", FAILED, "changed, or another file"),
    ],
)
def test_the_manifest_beside_the_file_is_what_counts(manifest: str | None, outcome: str, says: str, copy: Path) -> None:
    (copy.parent / "SHA256SUMS").unlink()
    right = verify(copy, threads=1).sha256
    if manifest is not None:
        (copy.parent / "SHA256SUMS").write_text(manifest.format(right=right, wrong="0" * 64))
    report = verify(copy, threads=1)
    assert check_of(report, "integrity").outcome == outcome
    assert says in check_of(report, "integrity").detail
    images = "verified: its images are those of its checkpoint: no pixel differs (20 images)"
    expected = {PASSED: f"{images}; its sha256 is what SHA256SUMS beside it says", SKIPPED: images}
    assert report.verdict.startswith(expected.get(outcome, "NOT verified: integrity: sha256 is "))
    assert ("not looked at: integrity: SHA256SUMS" in report.summary()) == (outcome == SKIPPED)
    assert outcomes(verify(copy, sha256=right.upper(), threads=1))["integrity"] == PASSED
    assert outcomes(verify(copy, sha256="1" * 64, threads=1))["integrity"] == FAILED


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("m.onnx", "{d}  ./m.onnx\n"),
        ("m.onnx", "{d} *./m.onnx\n"),
        ("m.onnx", "{d}  models/m.onnx\n"),  # sha256sum models/* > models/SHA256SUMS
        ("m.onnx", "{d}  .\\m.onnx\r\n"),
        ("m.onnx", "{d}  m.onnx"),
        ("m.onnx", "{d} m.onnx\n"),
        ("m.onnx", "{d}\tm.onnx\n"),
        ("m.onnx", "{d}   m.onnx  \n"),
        ("m.onnx", "{D}  m.onnx\r\n"),
        ("m.onnx", "\ufeff{d}  m.onnx\r\n"),
        ("m.onnx", "  {d}  m.onnx\n"),
        ("m.onnx", "SHA256 (m.onnx) = {d}\n"),
        ("m.onnx", "SHA256 (./m.onnx) = {D}\r\n"),
        ("m.onnx", "SHA2-256(m.onnx)= {d}\n"),
        ("m.onnx", "SHA256          {D}       C:\\models\\m.onnx\r\n"),
        ("m.onnx", "m.onnx: {d}\n# m.onnx {d}\n"),
        ("m.onnx", "{d}  ./m.onnx\n{wrong}  models/m.onnx\n"),  # that one is of models/models/m.onnx
        ("*m.onnx", "{d}  *m.onnx\n"),
        ("*m.onnx", "{d} **m.onnx\n{wrong}  m.onnx\n{wrong} *m.onnx\n"),
        ("m.onnx", "{wrong} **m.onnx\n{d} *m.onnx\n"),
        (" a  b .onnx", "{d}   a  b .onnx\n"),
        ("a) = b.onnx", "SHA256 (a) = b.onnx) = {d}\n"),
        ("a\\b\nc.onnx", "\\{d}  a\\\\b\\nc.onnx\n"),
        ("a\\b\nc.onnx", "\\SHA256 (a\\\\b\\nc.onnx) = {d}\n"),
        (b"\xff.onnx".decode(errors="surrogateescape"), "{d}  \udcff.onnx\n"),
    ],
)
def test_a_manifest_is_read_in_every_spelling(name: str, line: str, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for digest, wrong in (("ab" * 32, "cd" * 32), ("cd" * 32, "ab" * 32)):
        text = line.format(d=digest, D=digest.upper(), wrong=wrong)
        (folder / "SHA256SUMS").write_bytes(text.encode(errors="surrogateescape"))
        assert set(listed(folder / name)) == {digest}
    text = (
        line.format(d="ab" * 32, D="AB" * 32, wrong="ef" * 32)
        + "\n"
        + line.format(d="cd" * 32, D="CD" * 32, wrong="ef" * 32)
    )
    (folder / "SHA256SUMS").write_bytes(text.encode(errors="surrogateescape"))
    assert set(listed(folder / name)) == {"ab" * 32, "cd" * 32}  # they disagree: none of them may get lost


def test_a_manifest_of_powershell_and_one_of_other_files(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-8-sig"):
        (tmp_path / "SHA256SUMS").write_bytes(f"{'ab' * 32}  m.onnx\r\n".encode(encoding))
        assert listed(tmp_path / "m.onnx") == ["ab" * 32]
    others = [
        "{d}  n.onnx",
        "{d}  xm.onnx",
        "{d}  m.onnx.bak",
        "{d}  a m.onnx",
        "{d}",
        "{d}  ",
        "m.onnx",
        "{d}  other/m.onnx",
    ]
    (tmp_path / "SHA256SUMS").write_text("\n".join(others).format(d="ab" * 32))
    assert listed(tmp_path / "m.onnx") == []
    (tmp_path / "SHA256SUMS").unlink()
    (tmp_path / "SHA256SUMS").mkdir()
    with pytest.raises(ModelError, match=r"can't read .*SHA256SUMS: is a directory"):
        listed(tmp_path / "m.onnx")


def changed(golden: Golden, path: Path, **changes: Any) -> Path:
    path.write_bytes(dataclasses.replace(golden, **changes).to_bytes())
    return path


def test_a_perturbed_golden_file_is_noticed(tmp_path: Path) -> None:
    golden = golden_of(GOLDEN)
    path = tmp_path / "a.golden"
    assert golden_check(MODEL, changed(golden, path)).outcome == PASSED
    image = golden.image.copy()
    image[7, 0, 14, 14] -= np.sign(image[7, 0, 14, 14]) * np.float32(5e-5)
    found = golden_check(MODEL, changed(golden, path, image=image))
    assert found.outcome == FAILED
    assert "off by" in found.detail
    z = golden.z.copy()
    z[3, 3] = np.nextafter(z[3, 3], np.float32(9.0))
    found = golden_check(MODEL, changed(golden, path, z=z))
    assert found.outcome == FAILED
    assert "are not those that are drawn here" in found.detail
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  a.golden\n")
    assert "itself is not what SHA256SUMS" in golden_check(MODEL, changed(golden, path)).detail


def test_golden_vectors_of_another_model_are_refused(tmp_path: Path) -> None:
    found = golden_check(MODEL, shipped.path_of("dcgan-mnist-conditional", SUFFIX))
    assert found.outcome == FAILED
    theirs = golden_of(shipped.path_of("dcgan-mnist-conditional", SUFFIX)).weights_sha256
    assert f"is of weights {theirs[:12]}..., the model of" in found.detail
    # The digest right and the spec another.
    golden = golden_of(shipped.path_of("dcgan-mnist-conditional", SUFFIX))
    path = changed(golden, tmp_path / "a.golden", weights_sha256=golden_of(GOLDEN).weights_sha256)
    assert "another spec" in golden_check(MODEL, path).detail


def test_without_golden_vectors_equality_is_not_claimed(copy: Path) -> None:
    damaged(copy, lambda content: with_metadata(content, "dcgan.weights_sha256", "ab" * 32))
    (copy.parent / "SHA256SUMS").unlink()
    done = run(copy)
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    assert done.stderr == (
        f"Error: {copy} is NOT verified: it is a sound file (spec, operators), and there is nothing to compare it "
        "with; give --golden FILE, which dcgan-export writes beside a model, or --sha256 or --against\n"
    )
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    known = run(copy, "--sha256", digest)
    assert known.exit_code == 0, known.output
    verdict, missing, _ = known.stdout.splitlines()
    assert verdict.endswith(": verified: its sha256 is what --sha256 says; not compared with a checkpoint")
    assert missing.startswith(f"not looked at: golden: there is no {copy.stem}.golden beside it")
    assert "there is no" in run(copy, "-v").stdout


def test_golden_vectors_beside_a_model_are_found_by_name(copy: Path, tmp_path: Path) -> None:
    damaged(copy, lambda content: with_metadata(content, "dcgan.weights_sha256", "ab" * 32))
    (copy.parent / "SHA256SUMS").unlink()
    beside = changed(golden_of(GOLDEN), copy.with_suffix(SUFFIX), weights_sha256="ab" * 32)
    assert run(copy).exit_code == 0
    changed(golden_of(GOLDEN), beside, weights_sha256="cd" * 32)  # of what lay there before
    done = run(copy)
    assert (done.exit_code, "is of weights cdcdcdcdcdcd..." in done.stderr) == (1, True)
    beside.write_bytes(GOLDEN.read_bytes()[:-9])
    done = run(copy)
    assert (done.exit_code, "no golden file fits, and " in done.stderr, str(beside) in done.stderr) == (1, True, True)


def test_a_damaged_shipped_golden_file_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / GOLDEN.name).write_bytes(GOLDEN.read_bytes()[:-1])
    model = shutil.copy(MODEL, tmp_path / "m.onnx")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    found = golden_check(Path(model))
    assert found.outcome == FAILED
    assert "no golden file fits, and golden file" in found.detail


@pytest.mark.parametrize("name", ["missing", "foreign"])
def test_a_golden_file_that_can_not_be_read_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "foreign").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    done = run(MODEL, "--golden", tmp_path / name)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    for arguments in (["nothing.onnx"], [NAME, "--against", "nothing.onnx"]):
        done = run(*arguments)
        assert done.exit_code == 1
        assert done.stderr.startswith("Error: there is no model 'nothing.onnx'")
        assert done.stderr.count("\n") == 1


def test_an_unknown_precision_is_said(copy: Path) -> None:
    found = golden_check(damaged(copy, lambda content: with_metadata(content, "dcgan.precision", "fp4")))
    assert found.outcome == FAILED
    assert "precision is 'fp4', and this version knows fp32" in found.detail


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_file_does_not_choose_its_tolerance(precision: str, copy: Path) -> None:
    damaged(copy, lambda content: with_metadata(sign_flipped(content), "dcgan.precision", precision))
    found = check_of(verify(copy, threads=1), "spec")
    assert found.outcome == FAILED
    assert found.detail == f"its metadata says '{precision}', and its weights are those of fp32"


def test_nor_does_the_other_one(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(with_metadata(copy.read_bytes(), "dcgan.precision", "int8"))
    found = check_of(verify(copy, against=other, threads=1), "against")
    assert found.outcome == FAILED
    assert found.detail == "other.onnx: its metadata says 'int8', and its weights are those of fp32"


def refuse_its_claim_of_int8(made: Any, path: Path) -> None:
    """See a model refused that says in its metadata that it is int8."""
    onnx = pytest.importorskip("onnx")
    onnx.helper.set_model_props(
        made, {entry.key: entry.value for entry in made.metadata_props} | {"dcgan.precision": "int8"}
    )
    onnx.save(made, path)
    found = check_of(verify(path, threads=1), "spec")
    assert found.outcome == FAILED
    assert found.detail == "its metadata says 'int8', and its weights are those of fp32"


def test_what_does_not_run_does_not_loosen_the_tolerance(copy: Path) -> None:
    """Weights of 8 bits that nothing uses, more of them than there are others."""
    onnx = pytest.importorskip("onnx")
    made = onnx.load(copy)
    idle = np.zeros((2000, 2000), np.int8)
    made.graph.initializer.append(onnx.numpy_helper.from_array(idle, "stages.0.product.weight.levels"))
    made.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", ["stages.0.product.weight.levels", "s"], ["u"]))
    made.graph.node.insert(1, onnx.helper.make_node("MatMul", ["u", "u"], ["v"]))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), "s"))
    refuse_its_claim_of_int8(made, copy)


def test_what_runs_for_nothing_does_not_loosen_the_tolerance(copy: Path) -> None:
    """A product of more weights of 8 bits than there are others, times 0, added to every image."""
    onnx = pytest.importorskip("onnx")
    made = onnx.load(copy)
    output = made.graph.output[0].name
    next(node for node in made.graph.node if output in node.output).output[0] = "before"
    for name, values in (
        ("decoy", np.zeros((100, 30_000), np.int8)), ("s", np.float32(1)), ("nothing", np.float32(0)),
    ):  # fmt: skip
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
    for kind, inputs, result in (
        ("DequantizeLinear", ["decoy", "s"], "d"), ("MatMul", ["z", "d"], "m"), ("Mul", ["m", "nothing"], "none"),
        ("ReduceMax", ["none"], "one"), ("Add", ["before", "one"], output),
    ):  # fmt: skip
        made.graph.node.append(onnx.helper.make_node(kind, inputs, [result]))
    refuse_its_claim_of_int8(made, copy)


@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_a_manifest_that_never_ends_is_refused(kind: str, copy: Path) -> None:
    """Nobody named it: it comes with a stranger's folder."""
    manifest = copy.parent / "SHA256SUMS"
    manifest.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(manifest)
    elif kind == "device":
        manifest.symlink_to("/dev/zero")
    else:
        manifest.touch()
        os.truncate(manifest, 1 << 40)
    with pytest.raises(ModelError, match=r"can't read .*SHA256SUMS: it (is a pipe|is neither|has more than)"):
        verify(copy, threads=1)


@pytest.mark.parametrize("option", ["model", "golden"])
def test_what_never_ends_is_refused(option: str, copy: Path) -> None:
    done = run(*(["/dev/zero"] if option == "model" else [copy, "--golden", "/dev/zero"]))
    assert done.exit_code == 1
    assert "/dev/zero: it is neither a file nor a pipe" in done.stderr


def test_weights_in_another_file_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A digest of the file says nothing of them, and onnxruntime would look for them in the current folder."""
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(copy.parent)
    onnx.save(onnx.load(copy), copy, save_as_external_data=True, location="own.data")
    done = run(copy, "--sha256", hashlib.sha256(copy.read_bytes()).hexdigest())
    assert done.exit_code == 1
    says = "it keeps weights in other files (own.data), and a model is one file here; make one of it: onnx.save"
    assert says in done.stderr
    for refused in (infer_main, bench_main):
        arguments = ["--model", str(copy)] if refused is infer_main else [str(copy)]
        done = CliRunner().invoke(refused, arguments)
        assert done.exit_code == 1
        assert says in done.stderr
    onnx.save(onnx.load(copy), copy)  # as the message says
    assert outcomes(verify(copy, threads=1))["golden"] == PASSED


def test_the_tolerance_is_that_of_the_precision(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOLERANCES, "fp32", Tolerance(factor=0.0, floor=1e-9))
    assert golden_check(copy).outcome == FAILED
    monkeypatch.setitem(
        TOLERANCES, "fp32", Tolerance(factor=0.0, floor=2.0, levels=255, mean_levels=255.0, image_levels=255.0)
    )
    report = verify(damaged(copy, sign_flipped), against=NAME, threads=1)
    assert check_of(report, "golden").outcome == PASSED
    assert check_of(report, "against").outcome == PASSED


def test_a_model_against_another(copy: Path) -> None:
    against = check_of(verify(NAME, against=copy, n=30, threads=1), "against")
    assert against.outcome == PASSED
    assert against.difference is not None
    assert against.difference.max_error == 0.0
    # Each may be off by its own limit.
    assert against.difference.limit == 2 * TOLERANCES["fp32"].limit(golden_of(GOLDEN).eager_max_error)
    other = check_of(verify(NAME, against="dcgan-mnist-conditional", threads=1), "against")
    assert other.outcome == FAILED
    assert other.detail == "dcgan-mnist-conditional.onnx has another spec: num_classes"
    damaged(copy, sign_flipped)
    found = check_of(verify(NAME, against=copy, threads=1), "against")
    assert found.outcome == FAILED
    assert "off by" in found.detail
    damaged(copy, lambda content: with_metadata(content, "dcgan.weights_sha256", "ab" * 32))
    assert "metadata name other weights" in check_of(verify(NAME, against=copy, threads=1), "against").detail
    damaged(copy, lambda content: content[:1000])
    found = check_of(verify(NAME, against=copy, threads=1), "against")
    assert found.outcome == FAILED
    assert "it is truncated" in found.detail


def test_without_golden_vectors_two_models_are_judged_by_grey_levels(copy: Path) -> None:
    damaged(copy, lambda content: with_metadata(content, "dcgan.weights_sha256", "ab" * 32))
    found = check_of(verify(copy, against=NAME, threads=1), "against")
    assert found.outcome == PASSED
    assert "only grey levels are judged" in found.detail
    assert found.difference is not None
    assert found.difference.limit is None
    assert found.difference.max_error == 0.0


def test_two_conditional_models_are_asked_for_every_class() -> None:
    asked: list[int] = []
    call = Model.call

    def spy(self: Model, feeds: Any) -> Any:
        asked.extend(feeds["label"])
        return call(self, feeds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "call", spy)
        verify("dcgan-mnist-conditional", against="dcgan-mnist-conditional", n=23, threads=1)
    assert asked == [*range(10)] * 2 + 2 * [*range(10), *range(10), 0, 1, 2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sha256", "abc"],
        ["--sha256", "g" * 64],
        ["-n", "3"],
        ["--seed", "3"],
        ["--against", NAME, "-n", "0"],
        ["--threads", "0"],
        ["a", "b"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert "Error: " in done.stderr


def test_help_needs_neither_numpy_nor_onnxruntime(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom dcgan_infer.verify_cli import main\ntry: main(['--help'])\n"
        "except SystemExit: print({'numpy', 'onnxruntime', 'PIL', 'torch', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.endswith("set()\n")
    assert run("--version").stdout == f"dcgan-verify, version {__version__}\n"


# The outline: a reader of the wire format, on models made by hand.


def part(number: int, payload: bytes | int) -> bytes:
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def node(name: str, domain: str = "", more: bytes = b"") -> bytes:
    return part(1, part(4, name.encode()) + (part(7, domain.encode()) if domain else b"") + more)


def model(graph: bytes, more: bytes = b"") -> bytes:
    return part(1, 8) + part(8, part(2, 17)) + part(7, graph) + more


def nested(depth: int) -> bytes:
    graph = node("Relu")
    for _ in range(depth):
        graph = node("If", more=part(5, part(6, graph)))
    return model(graph)


def test_the_outline_of_what_ships_is_what_onnx_reads() -> None:
    onnx = pytest.importorskip("onnx")
    for path in (MODEL, CONDITIONAL):
        expected = onnx.load(path)
        outline = read_outline(path.read_bytes())
        assert outline.ir_version == expected.ir_version == 8
        assert outline.opsets == {entry.domain: entry.version for entry in expected.opset_import}
        names = sorted(entry.op_type for entry in expected.graph.node)
        assert sorted(name for (_, name), count in outline.operators.items() for _ in range(count)) == names


def test_operators_are_found_wherever_they_hide() -> None:
    within = model(node("If", more=part(5, part(11, node("Gelu", "com.microsoft")))))
    assert read_outline(within).custom == ["com.microsoft.Gelu"]
    function = model(node("Relu"), part(25, part(7, part(4, b"Gelu") + part(7, b"org.evil"))))
    assert read_outline(function).custom == ["org.evil.Gelu"]
    assert read_outline(model(node("Relu", "ai.onnx"))).custom == []
    assert read_outline(nested(16)).operators == {("", "If"): 16, ("", "Relu"): 1}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no ONNX file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "no ONNX file"),
        (model(node("Relu"))[:-1], "truncated"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "truncated"),
        (b"\x08" + b"\xff" * 11, "does not end"),
        (b"\x08", "does not end"),
        (b"\x00\x01", "number 0"),
        (b"\x0b", "wire type 3"),
        (part(1, b"8") + part(8, part(2, 17)) + part(7, b""), "no number"),
        (model(b"")[:-2] + part(7, 3), "where a part should be"),
        (part(1, 8) + part(7, node("Relu")), "no opset"),
        (model(node("\x1b[31m")), "no plain text"),
        (model(part(1, part(4, b"\xff"))), "no plain text"),
        (model(node("R" * 201)), "no plain text"),
        (nested(17), "nested more than 16 deep"),
        (model(node("Relu") * 600_000), "more than 1,000,000 fields"),
    ],
)
def test_hostile_outlines_are_refused(content: bytes, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        read_outline(content)
    assert "\n" not in str(caught.value)


def tensor(name: bytes = b"w", kind: int = 1, numbers: int = 8, more: bytes = b"") -> bytes:
    return part(1, numbers) + part(2, kind) + part(8, name) + more


ELSEWHERE = tensor(more=part(14, 1) + part(13, part(1, b"location") + part(2, b"own.data")))


@pytest.mark.parametrize(
    "content",
    [
        model(node("Relu") + part(5, ELSEWHERE)),
        model(node("Relu") + part(15, part(1, ELSEWHERE))),
        model(node("Relu") + part(15, part(1, tensor()) + part(2, ELSEWHERE))),
        model(node("Constant", more=part(5, part(5, ELSEWHERE)))),
        model(node("Constant", more=part(5, part(10, ELSEWHERE)))),
        model(node("Constant", more=part(5, part(22, part(1, ELSEWHERE))))),
        model(node("Constant", more=part(5, part(23, part(2, ELSEWHERE))))),
        model(node("If", more=part(5, part(6, part(5, ELSEWHERE))))),
        model(node("If", more=part(5, part(11, part(15, part(1, ELSEWHERE)))))),
        model(node("Relu"), part(25, part(7, part(4, b"Constant") + part(5, part(5, ELSEWHERE))))),
        model(node("Relu"), part(25, part(7, part(4, b"Relu")) + part(11, part(5, ELSEWHERE)))),
        model(node("Relu"), part(20, part(2, part(5, ELSEWHERE)))),
    ],
)
def test_weights_in_other_files_are_found_wherever_they_hide(content: bytes) -> None:
    assert read_outline(content).external == ("own.data",)
    with pytest.raises(ModelError, match=r"keeps weights in other files \(own.data\), .* onnx.save"):
        runtime.open_session(content, "cpu")


def test_weights_elsewhere_need_no_name() -> None:
    assert read_outline(model(part(5, tensor(more=part(14, 1))))).external == ("",)
    assert read_outline(model(part(5, tensor(more=part(14, 0))))).external == ()
    # protobuf cuts a number to 32 bits, so that this is 1.
    assert read_outline(model(part(5, tensor(more=part(14, (1 << 32) + 1))))).external == ("",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (model(node("Relu"), part(7, node("Gelu"))), "a field stands twice"),
        (model(node("Relu", more=part(4, b"Gelu"))), "a field stands twice"),
        (model(part(5, tensor(more=part(2, 3)))), "a field stands twice"),
        (model(node("Constant", more=part(5, part(5, tensor()) + part(5, tensor())))), "a field stands twice"),
        (model(part(5, tensor()) + part(5, tensor(kind=3))), "two of its tensors have one name"),
        (model(node("Relu"), part((1 << 29) + 7, node("Gelu"))), "a field has the number 536870919"),
    ],
)
def test_what_readers_of_protobuf_take_differently_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        read_outline(content)


def operator(name: str, inputs: str, output: str, more: bytes = b"") -> bytes:
    return node(
        name, more=b"".join(part(1, value.encode()) for value in inputs.split()) + part(2, output.encode()) + more
    )


@pytest.mark.parametrize(
    ("nodes", "tensors", "weights"),
    [
        ([operator("Gemm", "z w", "y")], {"w": (1, 8)}, {1: 8}),
        ([operator("Gemm", "z w b", "y")], {"w": (10, 8), "b": (1, 99)}, {10: 8}),
        # Through what is computed of tensors alone: the largest of them.
        (
            [operator("DequantizeLinear", "w s", "v"), operator("Transpose", "v", "t"), operator("MatMul", "t z", "y")],
            {"w": (3, 8), "s": (1, 2)},
            {3: 8},
        ),
        (
            [operator("Cast", "w", "v"), operator("Mul", "v s", "t"), operator("Conv", "z t", "y")],
            {"w": (3, 8), "s": (1, 8)},
            {1: 8},
        ),
        ([operator("Constant", "", "v", part(5, part(5, tensor(kind=10)))), operator("Conv", "z v", "y")], {}, {10: 8}),
        # What nothing uses, and what leads to no output.
        ([operator("Gemm", "z w", "y")], {"w": (1, 8), "int8.weight": (3, 999)}, {1: 8}),
        ([operator("Gemm", "z u", "x"), operator("Gemm", "z w", "y")], {"w": (1, 8), "u": (3, 999)}, {1: 8}),
        ([operator("Gemm", "z w", "x"), operator("Add", "x u", "y")], {"w": (1, 8), "u": (3, 999)}, {1: 8}),
        ([operator("Gemm", "z w", "x"), operator("Gemm", "x u", "y")], {"w": (1, 8), "u": (3, 4)}, {1: 8, 3: 4}),
        ([operator("If", "c", "y", part(5, part(6, node("Relu"))))], {"u": (3, 4)}, {1: 1 << 63}),
    ],
)
def test_weights_are_what_products_take_on_the_way_to_an_output(
    nodes: list[bytes], tensors: dict[str, tuple[int, int]], weights: dict[int, int]
) -> None:
    held = [part(5, tensor(name.encode(), kind, numbers)) for name, (kind, numbers) in tensors.items()]
    assert read_outline(model(b"".join([*nodes, *held, part(12, part(1, b"y"))]))).weights() == list(weights.items())


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([operator("Gemm", "x w", "y"), operator("Relu", "z", "x")], "not in the order in which they run"),
        ([operator("Gemm", "z w", "y"), operator("Relu", "z", "y")], "two of its values have one name"),
        ([operator("Relu", "z", "w"), operator("Gemm", "z w", "y")], "two of its values have one name"),
    ],
)
def test_graphs_that_can_be_read_in_two_ways_are_refused(nodes: list[bytes], says: str) -> None:
    outline = read_outline(model(b"".join([*nodes, part(5, tensor()), part(12, part(1, b"y"))])))
    with pytest.raises(ModelError, match=says):
        outline.weights()


def test_fixed_size_fields_are_passed_over() -> None:
    extra = varint(99 << 3 | 5) + bytes(4) + varint(99 << 3 | 1) + bytes(8)
    assert read_outline(extra + model(node("Relu"))).operators == {("", "Relu"): 1}
    with pytest.raises(ModelError, match="truncated"):
        read_outline(model(node("Relu")) + varint(99 << 3 | 1) + bytes(7))


def test_a_foreign_file_has_no_spec(copy: Path) -> None:
    damaged(copy, lambda content: content.replace(b"dcgan.spec", b"dcgan.spem"))
    report = verify(copy, threads=1)
    assert outcomes(report) == {"integrity": FAILED, "spec": FAILED, "operators": PASSED, "golden": SKIPPED}
    assert "no generator spec" in check_of(report, "spec").detail


# Models that are made with the onnx package.


def build(path: Path, nodes: list[Any], outputs: list[Any], opsets: dict[str, int], metadata: dict[str, str]) -> Path:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    z = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["batch", 100])
    graph = helper.make_graph(nodes, "g", [z], outputs)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    made = helper.make_model(graph, opset_imports=imports, ir_version=8)
    helper.set_model_props(made, metadata)
    path.write_bytes(made.SerializeToString())
    return path


def test_a_foreign_onnx_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 100])
    relu = onnx.helper.make_node("Relu", ["z"], ["y"])
    path = build(tmp_path / "a.onnx", [relu], [output], {"": 17}, {})
    assert outcomes(verify(path, threads=1)) == {
        "integrity": SKIPPED,
        "spec": FAILED,
        "operators": PASSED,
        "golden": SKIPPED,
    }


@pytest.mark.parametrize(("domain", "says"), [("com.microsoft", "com.microsoft.Gelu"), ("org.evil", "org.evil.Gelu")])
def test_operators_outside_of_the_standard_are_refused(domain: str, says: str, tmp_path: Path) -> None:
    """onnxruntime runs the first kind; other runtimes don't."""
    onnx = pytest.importorskip("onnx")
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 100])
    gelu = onnx.helper.make_node("Gelu", ["z"], ["y"], domain=domain)
    path = build(tmp_path / "a.onnx", [gelu], [output], {"": 17, domain: 1}, {})
    found = check_of(verify(path, threads=1), "operators")
    assert found.outcome == FAILED
    assert f"outside of the ONNX standard: {says}" in found.detail


def test_a_model_that_onnxruntime_refuses(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 100])
    unknown = onnx.helper.make_node("Unheard", ["z"], ["y"])
    found = check_of(verify(build(tmp_path / "a.onnx", [unknown], [output], {"": 17}, {}), threads=1), "operators")
    assert found.outcome == FAILED
    import onnxruntime

    assert f"onnxruntime {onnxruntime.__version__} does not load it: " in found.detail
    assert "Unheard" in found.detail


def grey(path: Path, *, step: int = 0) -> Path:
    """The shipped model with grey levels as its output, all of them `step` too high."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    made = onnx.load(MODEL)
    graph = made.graph
    last = graph.node[-1]
    assert last.output[0] == "image"
    last.output[0] = "values"
    for name, value in (("one", 1.0), ("half", 127.5), ("step", float(step)), ("least", 0.0), ("most", 255.0)):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    graph.node.extend(
        [
            helper.make_node("Add", ["values", "one"], ["raised"]),
            helper.make_node("Mul", ["raised", "half"], ["scaled"]),
            helper.make_node("Round", ["scaled"], ["rounded"]),
            helper.make_node("Add", ["rounded", "step"], ["stepped"]),
            helper.make_node("Clip", ["stepped", "least", "most"], ["clipped"]),
            helper.make_node("Cast", ["clipped"], ["cast"], to=onnx.TensorProto.UINT8),
            helper.make_node("Squeeze", ["cast", "axis"], ["image"]),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", 28, 28]))
    path.write_bytes(made.SerializeToString())
    return path


def test_a_model_that_gives_grey_levels_is_held_against_grey_levels(tmp_path: Path) -> None:
    path = grey(tmp_path / "a.onnx")
    report = verify(path, against=NAME, threads=1)
    assert outcomes(report) == {
        "integrity": SKIPPED,
        **dict.fromkeys(("spec", "operators", "golden", "against"), PASSED),
    }
    difference = check_of(report, "golden").difference
    assert difference is not None
    assert difference.limit is not None
    assert 0.98 / 255 < difference.max_error < difference.limit < 1.01 * 2 / 255
    against = check_of(report, "against").difference
    assert against is not None
    assert against.limit is not None
    assert against.max_error < against.limit < 1.01 * 2 / 255
    assert max(map(len, report.table().splitlines())) <= 80
    report = verify(grey(path, step=1), against=NAME, threads=1)
    assert outcomes(report)["golden"] == outcomes(report)["against"] == FAILED
    assert "grey levels on average" in check_of(report, "golden").detail
    assert "off by" in check_of(report, "golden").detail
    report = verify(grey(path, step=2), threads=1)
    assert "off by 2 grey levels" in check_of(report, "golden").detail


def test_a_batch_that_is_fixed_is_noticed(copy: Path) -> None:
    """The output promises any batch, and a Reshape inside knows one; onnxruntime sees through that."""
    onnx = pytest.importorskip("onnx")
    made = onnx.load(copy)
    (tensor,) = (each for each in made.graph.initializer if each.name == "Reshape_0.input1")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 256, 7, 7], np.int64), tensor.name))
    copy.write_bytes(made.SerializeToString())
    found = check_of(verify(copy, threads=1), "spec")
    assert found.outcome == FAILED
    assert "found ['z: tensor(float) of (N, 100)', 'image: tensor(float) of (1, 1, 28, 28)']" in found.detail


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (
            lambda images: images[:1],
            "float32 of shape (1, 1, 28, 28) for a batch of 7, its spec says float32 of shape (7, 1, 28, 28)",
        ),
        (lambda images: images.astype(np.float64), "returned float64 of shape (1, 1, 28, 28) for a batch of 1"),
        (lambda images: images / (len(images) < 7), "failed while running: divide by zero"),
    ],
)
def test_a_model_that_returns_something_else(
    broken: Callable[[Any], Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session:
        def __init__(self, session: Any) -> None:
            self._session = session

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

        def run(self, names: Any, inputs: Any) -> Any:
            with np.errstate(all="raise"):
                return [broken(self._session.run(names, inputs)[0])]

    opened = runtime.open_session
    monkeypatch.setattr(
        runtime, "open_session", lambda *options: opened(*options)._replace(session=Session(opened(*options).session))
    )
    found = golden_check(MODEL)
    assert found.outcome == FAILED
    assert says in found.detail


def test_what_a_file_says_can_not_steer_the_terminal(copy: Path) -> None:
    damaged(copy, lambda content: with_metadata(content, "dcgan.precision", "\x1b[2Jfp32"))
    done = run(copy)
    assert done.exit_code == 1
    assert "\x1b" not in done.output


def test_metadata_that_is_no_text(copy: Path) -> None:
    pairs = b"\x0a\x01a\x12\x01\xff"
    damaged(copy, lambda content: content + b"\x72" + bytes((len(pairs),)) + pairs)
    assert outcomes(verify(copy, threads=1))["spec"] == FAILED


def test_the_layout_of_the_wire_is_little_endian() -> None:
    assert struct.unpack("<Q", GOLDEN.read_bytes()[:8])[0] == len(GOLDEN.read_bytes()) - 8 - 86400


# Models of other images than grey ones: tests/fixtures/models/make.py.


@pytest.mark.parametrize("name", ["colour", "clothes"])
@pytest.mark.parametrize("form", ["", "-uint8"])
def test_colour_models_of_either_range_and_kind(name: str, form: str) -> None:
    model, golden = MODELS / f"{name}{form}.onnx", MODELS / f"{name}.golden"
    report = verify(model, golden, against=MODELS / f"{name}.onnx", threads=1)
    assert outcomes(report) == {
        "integrity": SKIPPED,
        **dict.fromkeys(("spec", "operators", "golden", "against"), PASSED),
    }
    assert "colour images of 4x6" in check_of(report, "spec").detail
    difference = check_of(report, "golden").difference
    assert difference is not None
    span = 1.0 if name == "clothes" else 2.0
    floor = span / 255 if form else span / 2 * 1e-6
    assert difference.limit == pytest.approx(4 * golden_of(golden).eager_max_error + floor)
    assert difference.pixels == 20 * 3 * 4 * 6


def test_channels_that_are_mixed_up_are_noticed(tmp_path: Path) -> None:
    golden = golden_of(MODELS / "colour.golden")
    path = changed(
        golden, tmp_path / "a.golden", image=golden.image[:, ::-1], image_uint8=golden.image_uint8[..., ::-1]
    )
    for name in ("colour.onnx", "colour-uint8.onnx"):
        assert golden_check(MODELS / name, path).outcome == FAILED


def test_what_is_absolute_in_a_tolerance_shrinks_with_the_range(tmp_path: Path) -> None:
    """An error between the limits of both ranges passes in the one and fails in the other."""
    for name, outcome in (("colour", PASSED), ("clothes", FAILED)):
        golden = golden_of(MODELS / f"{name}.golden")
        image = golden.image.copy()
        image.flat[np.abs(image - 0.5).argmin()] += np.float32(4 * golden.eager_max_error + 0.75e-6)
        assert golden_check(MODELS / f"{name}.onnx", changed(golden, tmp_path / "a", image=image)).outcome == outcome


def test_interfaces_are_compared_and_not_layers(tmp_path: Path) -> None:
    golden = golden_of(OLD / "conditional.golden")
    without = GeneratorSpec.from_json(golden.spec.to_json())
    without = dataclasses.replace(without, layers=())
    path = changed(golden, tmp_path / "a.golden", spec=without)
    assert golden_check(OLD / "conditional-plain.onnx", path).outcome == PASSED
    named = dataclasses.replace(without, class_names=tuple("abcdefghij"))
    found = golden_check(OLD / "conditional-plain.onnx", changed(golden, path, spec=named))
    assert found.outcome == FAILED
    assert found.detail == "a.golden is of another spec than the model's: class_names"


def test_a_model_that_takes_a_seed_against_one_that_takes_latents() -> None:
    report = verify(OLD / "conditional-seed.onnx", against=OLD / "conditional-plain.onnx", n=50, seed=9, threads=1)
    assert outcomes(report)["against"] == PASSED
    difference = check_of(report, "against").difference
    assert difference is not None
    assert difference.images == 50
    done = run(OLD / "conditional-seed.onnx", "--against", OLD / "conditional-plain.onnx", "-n", "20000")
    assert done.exit_code == 1
    assert "10,000 at most; 20,000 are needed" in done.stderr


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (OLD / "run", "is a run folder; make an ONNX file of it: dcgan-export "),
        (OLD / "conditional.safetensors", "this is a safetensors checkpoint; make an ONNX file of it"),
        (OLD / "conditional.golden", "this is a golden file, which dcgan-verify compares a model with; give the model"),
        (OLD / "conditional.pt", "this is TorchScript"),
        (OLD / "conditional.pt2", "this is a pt2 archive"),
    ],
)
def test_what_is_no_onnx_file_says_what_to_run(path: Path, says: str) -> None:
    for arguments in ([path], [NAME, "--against", path]):
        done = run(*arguments)
        assert done.exit_code == 1
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
