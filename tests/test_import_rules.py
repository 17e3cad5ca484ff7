"""Which way imports point: down, and nothing under infer/ reaches torch or onnx. Each guard is seen to fail once."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

EXTRAS = ("starlette", "orjson", "prometheus_client")  # which dcgan_infer.serve imports, and nobody imports that
BANNED = ("torch", "torchvision", "onnx", "onnxscript", "safetensors")
# The floors, from the ground up: a package may import those before it.
FLOORS = {"dcgan_infer": ROOT / "infer", "dcgan": ROOT, "dcgan_export": ROOT / "export"}
COMMANDS = ("dcgan-infer", "dcgan-verify", "dcgan-bench", "dcgan-serve", "dcgan-eval", "dcgan-export", "dcgan-train")

# Imports all of infer/ and makes a picture, where the banned packages can't be imported.
GUARD = f"""
import importlib, pkgutil, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BANNED!r}:
            raise ImportError("banned: " + name)

sys.meta_path.insert(0, Block())
import dcgan_infer
for module in pkgutil.walk_packages(dcgan_infer.__path__, "dcgan_infer."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # of an extra
            if error.name not in {EXTRAS!r}:
                raise
from dcgan_infer.cli import main
main(["--n", "2", "--out", "two.png"], standalone_mode=False)
assert not set(sys.modules) & set({BANNED!r})
"""


def run_guard(folder: Path, ground: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The guard on the installed ground floor, or on a copy in a folder."""
    environment = os.environ | ({"PYTHONPATH": str(ground)} if ground else {})
    command = [sys.executable, "-c", GUARD]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_infer_works_where_torch_and_onnx_cannot_be_imported(tmp_path: Path) -> None:
    done = run_guard(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.png").exists()


@pytest.mark.parametrize("place", ["writers.py", "cli.py", "contract/pixels.py", "new_module.py"])
def test_that_guard_notices_a_planted_import(tmp_path: Path, place: str) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "infer" / "dcgan_infer", tmp_path / "ground" / "dcgan_infer", ignore=ignored)
    assert run_guard(tmp_path, tmp_path / "ground").returncode == 0
    with (tmp_path / "ground" / "dcgan_infer" / place).open("a") as file:
        file.write("\nimport torch\n")
    done = run_guard(tmp_path, tmp_path / "ground")
    assert done.returncode != 0
    assert "banned: torch" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_torch(tmp_path: Path, command: str) -> None:
    """Of every command, also of those whose work needs it."""
    poison = tmp_path / "poison"
    poison.mkdir()
    for name in BANNED:
        (poison / f"{name}.py").write_text(f"raise ImportError('banned: {name}')\n")
    done = subprocess.run(
        [Path(sys.executable).parent / command, "--help"],
        env=os.environ | {"PYTHONPATH": str(poison)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_eval_of_an_onnx_model_and_of_images_needs_no_torch(tmp_path: Path) -> None:
    poison = tmp_path / "poison"
    poison.mkdir()
    for name in BANNED:
        (poison / f"{name}.py").write_text(f"raise ImportError('banned: {name}')\n")
    environment = os.environ | {"PYTHONPATH": str(poison)}
    programs = Path(sys.executable).parent

    def run(*command: str) -> str:
        done = subprocess.run(
            [programs / command[0], *command[1:]],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("dcgan-infer", "--n", "50", "--out", "digits.npz")
    for source in ("dcgan-mnist", "digits.npz"):
        figures = json.loads(run("dcgan-eval", source, "--dataset", "sample", "-n", "50", "--json"))
        assert figures["source"] == source


def imported(path: Path) -> Iterator[str]:
    """Top-level packages that a file imports by an absolute import."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def violations(roots: dict[str, Path]) -> list[str]:
    """Imports of a floor above, of a package's own modules by their full names, and on the ground those banned."""
    found = []
    for number, (package, root) in enumerate(roots.items()):
        forbidden = {*list(roots)[number:], *(BANNED if number == 0 else ())}
        found += [
            f"{path.relative_to(root)} imports {name}"
            for path in sorted((root / package).rglob("*.py"))
            for name in sorted(forbidden & set(imported(path)))
        ]
    return found


def test_no_package_imports_what_stands_above_it() -> None:
    assert violations(FLOORS) == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("dcgan/metrics/frechet.py", "from dcgan_export.publish import publish"),
        ("dcgan/run.py", "def f():\n    import dcgan_export.parity"),
        ("dcgan/data.py", "from dcgan.run import train"),
        ("dcgan_infer/generator.py", "from dcgan.networks import Generator"),
        ("dcgan_infer/generator.py", "from onnx import helper"),
    ],
)
def test_that_rule_notices_a_planted_import(tmp_path: Path, place: str, line: str) -> None:
    for package, root in FLOORS.items():
        ignored = shutil.ignore_patterns("__pycache__", "sample")
        shutil.copytree(root / package, tmp_path / package, ignore=ignored)
    with (tmp_path / place).open("a") as file:
        file.write(f"\n{line}\n")
    assert len(violations(dict.fromkeys(FLOORS, tmp_path))) == 1


def test_importing_infer_alone_imports_no_runtime(tmp_path: Path) -> None:
    code = "import sys, dcgan_infer; assert not {'numpy', 'onnxruntime', 'PIL', 'click'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
