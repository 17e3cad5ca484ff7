"""Which way imports point: `infer` never reaches torch, and no package reaches up. Each guard is seen to fail once."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dcgan
import infer

PACKAGES = Path(dcgan.__file__).resolve().parent.parent
TORCH_FREE = (
    "__init__", "cli", "commands", "console", "difference", "errors", "eval_cli", "evaluation", "extras", "files",
    "golden", "images", "latents", "recipes", "runtime", "shipped", "sources", "spec", "tolerance",
    "metrics.checkerboard", "metrics.density_coverage", "metrics.evaluator", "metrics.frechet", "metrics.kernel",
    "metrics.labels", "metrics.nearest_neighbour", "metrics.neighbours", "metrics.precision_recall",
)  # fmt: skip
BANNED = ("torch", "torchvision", "onnx", "onnxscript", "safetensors")

# Imports all of infer and what it shares with dcgan, and makes a picture, where the banned packages can't be imported.
GUARD = f"""
import importlib, pkgutil, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BANNED!r}:
            raise ImportError("banned: " + name)

sys.meta_path.insert(0, Block())
import infer
for module in pkgutil.iter_modules(infer.__path__):
    if module.name != "__main__":
        importlib.import_module("infer." + module.name)
for name in {TORCH_FREE!r}:
    importlib.import_module("dcgan" if name == "__init__" else "dcgan." + name)
from infer.cli import main
main(["--n", "2", "--out", "two.png"], standalone_mode=False)
assert not set(sys.modules) & set({BANNED!r})
"""


def run_guard(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(root)!r})\n{GUARD}"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_infer_works_where_torch_and_onnx_cannot_be_imported(tmp_path: Path) -> None:
    done = run_guard(PACKAGES, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.png").exists()


@pytest.mark.parametrize("place", ["infer/sinks.py", "infer/cli.py", "dcgan/images.py", "infer/new_module.py"])
def test_that_guard_notices_a_planted_import(tmp_path: Path, place: str) -> None:
    for package in ("dcgan", "infer"):
        ignored = shutil.ignore_patterns("__pycache__", "sample")
        shutil.copytree(PACKAGES / package, tmp_path / package, ignore=ignored)
    (tmp_path / "models").symlink_to(PACKAGES / "models")
    assert run_guard(tmp_path, tmp_path).returncode == 0
    with (tmp_path / place).open("a") as file:
        file.write("\nimport torch\n")
    done = run_guard(tmp_path, tmp_path)
    assert done.returncode != 0
    assert "banned: torch" in done.stderr


def imported(path: Path) -> Iterator[str]:
    """Top-level packages that a file imports by an absolute import, and 'relative' for one of its own."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def violations(root: Path) -> list[str]:
    # A package imports itself by relative imports only.
    forbidden = {
        "dcgan": {"dcgan", "export", "infer"},
        "export": {"export", "infer"},
        "infer": {"export", "infer", *BANNED},
    }
    return [
        f"{package}/{path.name} imports {name}"
        for package, names in forbidden.items()
        for path in sorted((root / package).rglob("*.py"))
        for name in sorted(names & set(imported(path)))
    ]


def test_no_package_imports_what_stands_above_it() -> None:
    assert violations(PACKAGES) == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("dcgan/data.py", "from infer.latents import walk"),
        ("dcgan/metrics/frechet.py", "from infer.latents import walk"),
        ("dcgan/run.py", "def f():\n    import export.parity"),
        ("export/parity.py", "import infer"),
        ("infer/session.py", "from onnx import helper"),
    ],
)
def test_that_rule_notices_a_planted_import(tmp_path: Path, place: str, line: str) -> None:
    for package in ("dcgan", "export", "infer"):
        shutil.copytree(PACKAGES / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "sample"))
    with (tmp_path / place).open("a") as file:
        file.write(f"\n{line}\n")
    assert len(violations(tmp_path)) == 1


def test_importing_infer_alone_imports_no_runtime() -> None:
    code = "import sys, infer; assert not {'numpy', 'onnxruntime', 'PIL', 'click'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(infer.__file__).parent.parent, check=True)
