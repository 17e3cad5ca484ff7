"""What is installed: names that nobody's own code can shadow, and commands that run beside files of the usual names."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from test_versions import floors

COMMANDS = ("dcgan-infer", "dcgan-verify", "dcgan-bench", "dcgan-serve", "dcgan-eval", "dcgan-export", "dcgan-train")
NAMES = {"dcgan", "dcgan_export", "dcgan_infer", "dcgan_models"}


def top_level(wheel: Path) -> set[str]:
    """What a wheel puts into site-packages."""
    names = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    return {name for name in names if not name.endswith(".dist-info")}


def test_a_wheel_has_four_names_and_all_that_is_needed(tmp_path: Path) -> None:
    source = tmp_path / "source"  # of its own: a build leaves folders behind, which would leak into the next
    for name in ("dcgan", "infer", "export", "models"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "setuptools" in done.stderr:
        pytest.skip("the build needs setuptools from the package index")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert top_level(wheel) == NAMES
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "dcgan_infer/sgemm.onnx", "dcgan_infer/web/index.html", "dcgan_infer/web/generator.js",
        "dcgan_infer/contract/spec.py", "dcgan_models/dcgan-mnist-conditional.onnx", "dcgan_models/SHA256SUMS",
        "dcgan_models/evaluator/mnist-evaluator.onnx", "dcgan/sample/train-images-idx3-ubyte.gz",
    } <= names  # fmt: skip
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("infer/__init__.py", "")
    assert top_level(wheel) != NAMES


def test_every_dependency_has_one_lower_bound_and_no_upper_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert floors(project)["numpy"] == "1.26"
    for wrong in ("numpy", "numpy>=1.26,<3", "numpy>=2"):
        project["project"]["optional-dependencies"]["wrong"] = [wrong]
        with pytest.raises(ValueError, match="lower bound"):
            floors(project)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A project with files and folders of the names that half of all projects have."""
    for path in ("infer.py", "dcgan.py", "train.py", "export/__init__.py", "models/__init__.py", "infer_utils.py"):
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"raise SystemExit('{path} of the user was run')\n")
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / command[0]
    return subprocess.run([program, *command[1:]], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs_beside_a_project_of_the_usual_names(theirs: Path, command: str) -> None:
    arguments = {"dcgan-infer": ["--n", "2", "--out", "two.png"], "dcgan-verify": []}
    done = run(theirs, command, *arguments.get(command, ["--help"]))
    assert (done.returncode, done.stderr) == (0, "")


def test_python_finds_ours_there(theirs: Path) -> None:
    code = "from dcgan_infer import ImageGenerator; print(ImageGenerator().generate(2, seed=0).shape)"
    done = run(theirs, "python", "-c", code)
    assert (done.stdout, done.stderr) == ("(2, 28, 28)\n", "")
    assert "of the user was run" in run(theirs, "python", "-c", "import infer").stderr


def test_a_checkpoint_is_exported_there(theirs: Path) -> None:
    pytest.importorskip("torch")
    done = run(theirs, "dcgan-export", "--out", "digits.onnx")
    assert done.returncode == 0, done.stderr
    assert (theirs / "digits.onnx").exists()
