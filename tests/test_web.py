"""The page in a real browser. Chromium comes from Debian's packages, and Playwright's driver from npm."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

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
