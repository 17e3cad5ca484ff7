"""Run tests in a fresh venv, at the lowest or the newest versions of the dependencies that pyproject.toml admits.

    python tools/test_versions.py lowest cpu tests/test_pixels.py ...

Needs Python alone. The package is installed from a copy: a build leaves folders behind, which would leak into the next.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("dcgan", "infer", "export", "models", "pyproject.toml", "README.md", "LICENSE")
TOOLS = ("pytest", "pytest-xdist", "hypothesis")  # of the tests that run where the extras are not


def floors(project: dict[str, Any]) -> dict[str, str]:
    """The lower bound of everything that a pyproject.toml asks for, by name.

    Raises:
        ValueError: a requirement has no lower bound, or two that differ.
    """
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        asked += [line for line in extra if not line.startswith(project["project"]["name"])]
    found: dict[str, str] = {}
    for line in asked:
        bound = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", line)
        if bound is None:
            raise ValueError(f"pyproject.toml: {line!r} has no lower bound; write it as name>=version")
        name, version = bound.groups()
        if found.setdefault(name, version) != version:
            raise ValueError(f"pyproject.toml: {name} has two lower bounds, {found[name]} and {version}; keep one")
    return found


def install(folder: Path, versions: str, extras: str) -> Path:
    """Make a venv with the package and what the tests need; its folder of programs."""
    source, constraints = folder / "source", folder / "constraints.txt"
    source.mkdir()
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    pins = floors(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    lines = [f"{name}=={version}\n" for name, version in pins.items()] if versions == "lowest" else []
    constraints.write_text("".join(lines), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    programs = folder / "venv" / "bin"
    pip = [str(programs / "pip"), "install", "--quiet", "--upgrade", "--constraint", str(constraints)]
    subprocess.run([*pip, "setuptools", *TOOLS], check=True)
    # Not isolated: then setuptools, too, is what the constraints say.
    subprocess.run([*pip, "--no-build-isolation", f"{source}[{extras}]"], check=True)
    listed = subprocess.run([programs / "pip", "freeze", "--all"], capture_output=True, text=True, check=True).stdout
    have = dict(line.split("==") for line in listed.splitlines() if "==" in line)
    named = {name.lower().replace("_", "-"): version for name, version in have.items()}
    print(f"{versions}:", ", ".join(f"{name} {named[name]}" for name in pins if name in named), flush=True)
    return programs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", choices=("lowest", "newest"))
    parser.add_argument("extras", help="of pyproject.toml, with commas between: cpu,export")
    parser.add_argument("tests", nargs="+", help="as pytest takes them")
    options = parser.parse_args()
    os.environ.pop("PYTHONPATH", None)  # which would lead back to the checkout
    with tempfile.TemporaryDirectory() as folder:
        programs = install(Path(folder), options.versions, options.extras)
        command = [str(programs / "pytest"), "-p", "no:cacheprovider", "--numprocesses", "auto", "--dist", "worksteal"]
        environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run([*command, *options.tests], cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
