"""The page in a real browser: of the site that dcgan-export writes, and of a colour model with named classes.

tests/test_site.py looks at what is in a site.

Chromium comes from Debian's packages, and its driver, as the site's runtime, from npm.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest
from click.testing import CliRunner
from conftest import ROOT
from exported import export
from small_models import COLOUR, GREY, write_small, write_vectors

from dcgan_export import site as site_module
from dcgan_export.site import PAGE
from dcgan_infer.contract.errors import ExportError
from dcgan_infer.contract.spec import Interface
from dcgan_infer.contract.vectors import read_vectors

WEB = ROOT / "examples" / "web"
# Of npm where there is no network: a reason to skip. Anything else that npm says is a failure.
UNREACHABLE = "ECONN|ENOTFOUND|EAI_AGAIN|ETIMEDOUT"
VECTORS = ROOT / "examples" / "vectors" / "dcgan-mnist-conditional"


def quietly(*command: str, folder: Path | None = None) -> str:
    """Run a command; empty if it worked, or else its last words."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip() or done.stdout.strip() or "failed")[-600:]


def chromium() -> str:
    """Path of the browser, installed where it is missing and that can be done."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    # A CI runner says so; on a developer's machine tests install nothing.
    if found is None and os.environ.get("CI") and shutil.which("apt-get") and os.geteuid() == 0:
        quietly("apt-get", "update", "--quiet")
        problem = quietly("apt-get", "install", "--quiet", "--yes", "--no-install-recommends", "chromium")
        found = shutil.which("chromium")
        if found is None:
            pytest.skip(f"chromium is not here and can't be installed: {problem}")
    if found is None:
        pytest.skip("chromium is not here: apt-get install chromium, or set CHROMIUM to the path of one")
    return found


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of examples/web with its driver."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not here; install Node.js")
    folder = tmp_path_factory.mktemp("web") / "check"
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("node_modules"))
    problem = quietly("npm", "install", "--no-audit", "--no-fund", folder=folder)
    if re.search(UNREACHABLE, problem):
        pytest.skip(f"npm can't install playwright-core: {problem}")
    assert problem == ""
    return folder


def images_of(model: Path) -> bytes:
    """What onnxruntime makes of the latents and labels of the test vectors: grey levels, case by case."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    made = b""
    for case in read_vectors(VECTORS).cases:
        made += session.run(["image"], case.feeds(["z", "label"]))[0].tobytes()
    return made


def look(check: Path, site: Path, vectors: Path, **more: Path | str) -> None:
    """Run page.test.mjs on a site; `more` as it says at its top."""
    others = site.parent / "others"
    others.mkdir()
    many = Interface(1, (3, 32, 32), 1000, tuple(f"class number {i}" for i in range(1000)))
    environment = {
        "CHROMIUM": chromium(),
        "SITE": site,
        "VECTORS": vectors,
        "UNCONDITIONAL": write_small(others / "unconditional.onnx", GREY, uint8=True),
        "MANY": write_small(others / "many.onnx", many, uint8=True),
        "FOUR_CHANNELS": write_small(others / "four.onnx", Interface(image_shape=(4, 8, 8))),
        **more,
    }
    done = subprocess.run(
        ["node", "--test", "--test-reporter=spec", "page.test.mjs"],
        cwd=check, env=os.environ | {name: str(value) for name, value in environment.items()},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]


def test_the_exported_site_in_chromium(check: Path, tmp_path: Path) -> None:
    from dcgan_export.cli import main

    chromium()
    site, exact = tmp_path / "site", tmp_path / "exact.onnx"
    result = CliRunner().invoke(main, ["--target", "web", "--out", str(site)])
    if re.search(UNREACHABLE, result.output):
        pytest.skip(result.output.strip().splitlines()[-1])
    assert result.exit_code == 0, result.output
    assert json.loads((site / "model.json").read_text())["models"]["wasm"]["bytes"] < 3_000_000
    export(ROOT / "models" / "dcgan-mnist-conditional.safetensors", exact, image="uint8")
    (tmp_path / "expected").write_bytes(images_of(site / "model.onnx"))
    look(check, site, VECTORS, EXACT=exact, EXPECTED=tmp_path / "expected")


def write_site(folder: Path, of: Interface) -> Path:
    """A site as dcgan-export writes it, of a small model; without WebGPU's."""
    folder.mkdir()
    try:
        site_module._vendor(None, folder / "runtime")
    except ExportError as error:
        if re.search(UNREACHABLE, str(error)):
            pytest.skip(str(error))
        raise
    for file in PAGE.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    write_small(folder / "model.onnx", of, uint8=True)
    # Ink is of grey images: colours stay as they are, whatever is asked.
    words = {"name": "clouds", "title": "Clouds", "noun": "cloud", "ink": True}
    about = words | {"models": {"wasm": {"file": "model.onnx"}}}
    (folder / "model.json").write_text(json.dumps(about))
    return folder


def test_a_colour_model_with_named_classes_in_chromium(check: Path, tmp_path: Path) -> None:
    chromium()
    vectors = write_vectors(tmp_path / "vectors", COLOUR, [(0, 8, (0, -1)), (7, 4, ()), (2**63 - 1, 4, (1,))])
    site = write_site(tmp_path / "site", COLOUR)
    look(check, site, vectors, EXACT=site / "model.onnx")


def unsafe(text: str) -> set[str]:
    """Other hosts in a page's file, and what puts text into a page as code."""
    hosts = set(re.findall(r"https?://([\w.-]+)", text)) - {"www.w3.org"}  # the name of SVG
    return hosts | set(re.findall(r"innerHTML|eval\(|document\.write", text))


def test_the_page_asks_no_other_host_and_runs_no_text() -> None:
    for file in PAGE.iterdir():
        assert unsafe(file.read_text()) == set(), file
    assert unsafe('import "https://cdn.example/x.js"; a.innerHTML = eval(b)') == {"cdn.example", "innerHTML", "eval("}
