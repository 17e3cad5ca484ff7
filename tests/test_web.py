"""The site that dcgan-export writes, and its page in a real browser.

Chromium comes from Debian's packages, and its driver, as the site's runtime, from npm.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import ROOT

from dcgan.files import sha256_of
from dcgan.tolerance import Tolerance
from export.cli import main
from export.publish import publish
from export.site import PAGE

WEB = ROOT / "examples" / "web"


def quietly(*command: str, folder: Path | None = None) -> str:
    """Run a command; empty if it worked, or else its last line."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip() or done.stdout.strip() or "failed").splitlines()[-1]


def chromium() -> str:
    """Path of the browser, installed where it is missing and that can be done."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        quietly("apt-get", "update", "--quiet")
        problem = quietly("apt-get", "install", "--quiet", "--yes", "--no-install-recommends", "chromium")
        found = shutil.which("chromium")
        if found is None:
            pytest.skip(f"chromium is not here and can't be installed: {problem}")
    if found is None:
        pytest.skip("chromium is not here, and only root on Debian can install it: install it, or set CHROMIUM")
    return found


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of examples/web with its driver."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not here; install Node.js")
    folder = tmp_path_factory.mktemp("web") / "check"
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("node_modules"))
    problem = quietly("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", folder=folder)
    if problem:
        pytest.skip(f"npm can't install playwright-core: {problem}")
    return folder


def test_the_exported_site_in_chromium(check: Path, tmp_path: Path) -> None:
    browser = chromium()
    site, unconditional = tmp_path / "site", tmp_path / "unconditional.onnx"
    result = CliRunner().invoke(main, ["--target", "web", "--out", str(site), "--json"])
    if "npm can't get" in result.output:
        pytest.skip(result.output.strip().splitlines()[-1])
    assert result.exit_code == 0, result.output
    about = json.loads((site / "model.json").read_text())
    assert json.loads(result.stdout)["bytes"] == sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    for model in about["models"].values():
        file = site / model["file"]
        assert (file.stat().st_size, sha256_of(file)) == (model["bytes"], model["sha256"])
    assert about["models"]["wasm"]["bytes"] < 3_000_000
    assert {file.name for file in PAGE.iterdir()} < {file.name for file in site.iterdir()}
    assert "Microsoft" in (site / "runtime" / "LICENSE.txt").read_text()
    publish(ROOT / "models" / "dcgan-mnist.safetensors", unconditional, precision="int8", image="uint8")

    environment = {
        "CHROMIUM": browser,
        "SITE": str(site),
        "UNCONDITIONAL": str(unconditional),
        "VECTORS": str(ROOT / "examples" / "vectors" / "dcgan-mnist-conditional"),
    }
    done = subprocess.run(
        ["node", "--test", "--test-reporter=spec", "page.test.mjs"],
        cwd=check, env=os.environ | environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]


def test_the_page_asks_no_other_host() -> None:
    hosts = {
        found
        for file in PAGE.iterdir()
        for found in re.findall(r"https?://([\w.-]+)", file.read_text())
        if found != "www.w3.org"  # the name of SVG
    }
    assert hosts == set()
    for file in PAGE.iterdir():
        assert not re.search(r"innerHTML|eval\(|document\.write", file.read_text()), file


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--target", "web", "--out", str(folder / "site")])


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_another_runtime_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.tgz").write_bytes(b"something else")
    result = run(tmp_path, "--runtime", str(tmp_path / "other.tgz"))
    assert result.exit_code == 1
    assert "other.tgz is not onnxruntime-web" in result.stderr
    assert left(tmp_path) == ["other.tgz"]
    result = run(tmp_path, "--runtime", str(tmp_path / "none.tgz"))
    assert (result.exit_code, "can't read --runtime" in result.stderr) == (1, True)


def test_without_npm_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "install Node.js" in result.stderr
    assert "--runtime" in result.stderr
    assert left(tmp_path) == []


def test_a_failing_npm_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.write_text("#!/bin/sh\necho no such host >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent))
    result = run(tmp_path)
    assert (result.exit_code, "npm can't get" in result.stderr, "no such host" in result.stderr) == (1, True, True)
    assert left(tmp_path) == ["bin"]


def test_a_folder_that_is_there_is_refused_before_the_slow_work(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine").touch()
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "already exists" in result.stderr
    assert left(tmp_path / "site") == ["mine"]


def test_a_model_that_fails_its_proof_leaves_no_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.site._vendor", lambda archive, folder: None)
    monkeypatch.setattr("export.publish.TOLERANCES", {"int8": Tolerance(mean_levels=0.0), "fp16": Tolerance()})
    result = run(tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path / 'site' / 'model.onnx'} was not written" in result.stderr
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "web", "--precision", "fp32"], "a site has its own models"),
        (["--target", "web", "--inputs", "seed"], "a site has its own models"),
        (["--target", "web", "--report", "r.json"], "writes a folder, and no report"),
        (["--target", "web", "--out", "m.onnx", "--runtime", "r.tgz"], "--runtime is for --target web with a folder"),
        (["--runtime", "r.tgz"], "--runtime is for --target web with a folder"),
    ],
)
def test_contradictions(arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert left(tmp_path) == []
