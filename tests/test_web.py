"""The page in a real browser: of the site that dcgan-export writes, and of a colour model with named classes.

And on hosts that people have; `python tests/static_hosts.py` is the whole of that. tests/test_site.py looks at what is
in a site.

Chromium and nginx come from Debian's packages, and Chromium's driver, as the site's runtime, from npm.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import static_hosts
from click.testing import CliRunner
from conftest import ROOT
from exported import export
from PIL import Image, ImageSequence
from PIL.PngImagePlugin import PngImageFile
from small_models import COLOUR, GREY, write_small, write_vectors
from static_hosts import POLICY, Condition

from dcgan_export import site as site_module
from dcgan_export.site import PAGE, VERSION
from dcgan_infer.contract import spec
from dcgan_infer.contract.errors import ExportError
from dcgan_infer.contract.files import sha256_of
from dcgan_infer.contract.pixels import tile
from dcgan_infer.contract.spec import Interface
from dcgan_infer.contract.vectors import read_vectors
from dcgan_infer.generator import ImageGenerator
from dcgan_infer.inputs import walk

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


def may_install() -> bool:
    """Whether this is a CI runner, which says so; on a developer's machine tests install nothing."""
    return bool(os.environ.get("CI") and shutil.which("apt-get") and os.geteuid() == 0)


def chromium() -> str:
    """Path of the browser, installed where it is missing and that can be done."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if found is None and may_install():
        quietly("apt-get", "update", "--quiet")
        problem = quietly("apt-get", "install", "--quiet", "--yes", "--no-install-recommends", "chromium")
        found = shutil.which("chromium")
        if found is None:
            pytest.skip(f"chromium is not here and can't be installed: {problem}")
    if found is None:
        pytest.skip("chromium is not here: apt-get install chromium, or set CHROMIUM to the path of one")
    return found


def nginx(folder: Path) -> str:
    """Path of nginx, unpacked into a folder if it is missing and can be had; installed, it would start to serve."""
    try:
        return static_hosts.tool("nginx")
    except static_hosts.UnavailableError as error:
        if not may_install():
            pytest.skip(f"{error}: apt-get install nginx")
    quietly("apt-get", "update", "--quiet")
    problem = quietly("apt-get", "download", "nginx", "nginx-common", folder=folder)
    for package in folder.glob("*.deb"):
        problem = problem or quietly("dpkg-deb", "-x", str(package), str(folder))
    program = folder / "usr" / "sbin" / "nginx"
    problem = problem or quietly(str(program), "-v")
    if problem:
        pytest.skip(f"nginx is not here and can't be had: {problem}")
    return str(program)


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of examples/web with its driver."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not here; install Node.js")
    folder = tmp_path_factory.mktemp("web") / "check"
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("node_modules"))
    problem = quietly("npm", "ci", "--no-audit", "--no-fund", folder=folder)
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
        "VECTORS": vectors,
        "UNCONDITIONAL": write_small(others / "unconditional.onnx", GREY, uint8=True),
        "MANY": write_small(others / "many.onnx", many, uint8=True),
        "FOUR_CHANNELS": write_small(others / "four.onnx", Interface(image_shape=(4, 8, 8))),
    }
    node_test(check, "page.test.mjs", site, environment | more)


def node_test(check: Path, file: str, site: Path, more: Mapping[str, Path | str]) -> None:
    """Run a test file of examples/web on a site; `more` as it says at its top."""
    environment = {"CHROMIUM": chromium(), "SITE": str(site)} | {name: str(value) for name, value in more.items()}
    done = subprocess.run(
        ["node", "--test", "--test-reporter=spec", file],
        cwd=check, env=os.environ | environment, capture_output=True, text=True, timeout=600, check=False,
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
    look(check, site, VECTORS, EXACT=exact, EXPECTED=tmp_path / "expected", DOWNLOADS=tmp_path)
    check_saved(tmp_path, site)


def check_saved(folder: Path, site: Path) -> None:
    """What the page saved is a PNG to others too, and its text is enough to make the same images with onnxruntime."""
    generator = ImageGenerator(site / "model.onnx")
    for name, keys in {
        "save-grid": {"digits": "3", "n": "48", "grid": "6x8"},
        "save-one": {"digits": "3", "n": "1"},
        "save-text": {"digits": "0 0", "n": "2", "text": "0-0"},
        "save-walk": {"digits": "3", "n": "8", "interpolate": "16"},
    }.items():
        with PngImageFile(folder / f"{name}.png") as png:
            facts = {key.removeprefix("dcgan."): value for key, value in png.text.items()}
            about = {"model": "dcgan-mnist-conditional", "model_sha256": sha256_of(site / "model.onnx"), "seed": "7"}
            more = {"Software": f"dcgan-toolkit's page, onnxruntime-web {VERSION}", "provider": "wasm", "scale": "8"}
            assert facts == about | {"start": "0"} | more | keys
            shown = np.array([np.array(frame.convert("L"))[4::8, 4::8] for frame in ImageSequence.Iterator(png)])
        asked = np.array([int(digit) for digit in facts["digits"].split()])
        blocks = generator.blocks(int(facts["n"]), seed=7, start=0, asked=asked, batch_size=16)
        if "interpolate" in facts:
            blocks = walk(blocks, 16)
        images = np.concatenate(list(map(generator.pictures, generator.run(blocks, 16)))).astype(float)
        if name == "save-text":
            images = np.insert(images, 1, 0, axis=0)  # the empty place
        if "interpolate" not in facts:
            rows, columns = map(int, facts.get("grid", f"1x{len(images)}").split("x"))
            images = tile(images, rows, columns)[None]
        assert shown.shape == images.shape
        paper = float(np.array(Image.new("RGB", (1, 1), (255, 253, 248)).convert("L")).item())
        # WebAssembly sums in another order: now and then an activation is rounded the other way, at an edge by more.
        off = np.abs(shown - (255 - images) * paper / 255)
        assert (off > 2).mean() < 5e-4
        assert off.mean() < 0.1  # int8 itself is off by half a level
        assert off.max() < 64
        assert images.std() > 50


def write_site(folder: Path, of: Interface) -> Path:
    """A site as dcgan-export writes it, of a small model, which is WebGPU's too."""
    folder.mkdir()
    try:
        site_module._vendor(None, folder / "runtime")
    except ExportError as error:
        if re.search(UNREACHABLE, str(error)):
            pytest.skip(str(error))
        raise
    write_small(folder / "model.onnx", of, uint8=True)
    # Ink is of grey images: colours stay as they are, whatever is asked.
    words = {"name": "clouds", "title": "Clouds", "noun": "cloud", "ink": True}
    model = {"file": "model.onnx", "sha256": sha256_of(folder / "model.onnx")}
    about = words | {"models": dict.fromkeys(("wasm", "webgpu"), model)}
    site_module.lay_page(folder, about)
    return folder


@pytest.fixture(scope="module")
def colour_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(tmp_path_factory.mktemp("colour") / "site", COLOUR)


def test_a_colour_model_with_named_classes_in_chromium(check: Path, colour_site: Path, tmp_path: Path) -> None:
    chromium()
    vectors = write_vectors(tmp_path / "vectors", COLOUR, [(0, 8, (0, -1)), (7, 4, ()), (2**63 - 1, 4, (1,))])
    look(check, colour_site, vectors, EXACT=colour_site / "model.onnx")


def test_what_the_page_says_where_its_host_is_at_fault(check: Path, colour_site: Path) -> None:
    node_test(check, "hosts.test.mjs", colour_site, {})


def test_the_page_on_real_hosts_with_the_strict_policy(
    check: Path, colour_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of the host: Python's server, and nginx, packed and with types for no more than a browser needs."""
    monkeypatch.setenv("CHROMIUM", chromium())
    served = functools.partial(static_hosts.nginx, program=nginx(tmp_path))
    plain = Condition("plain", path="/some/where/", policy=POLICY)
    with (
        static_hosts.hosting(static_hosts.http_server, colour_site, plain) as one,
        static_hosts.hosting(served, colour_site, replace(plain, gzip=True)) as two,
        static_hosts.hosting(served, colour_site, replace(plain, typed=False)) as three,
    ):
        seen = static_hosts.visit([one, two, three], check)
    conditions = (plain, replace(plain, gzip=True), replace(plain, typed=False))
    assert [static_hosts.faults(on, each) for on, each in zip(conditions, seen, strict=True)] == [[], [], []]
    # What is asked and not seen is noticed: packing, a policy, types that are missing.
    assert [bool(static_hosts.faults(conditions[1], each)) for each in seen] == [True, False, True]
    assert len(static_hosts.faults(replace(plain, policy="default-src 'none'", typed=False), seen[0])) == 2


def test_the_policy_of_the_docs_is_the_pages_own() -> None:
    assert POLICY.startswith("default-src 'none'; ")
    assert f"Content-Security-Policy: {POLICY}" in " ".join((ROOT / "docs" / "web-page.md").read_text().split())


def test_the_bound_of_latents_is_that_of_python(check: Path) -> None:
    program = f"import {{ LARGEST_LATENT }} from '{(PAGE / 'latents.js').as_uri()}'; console.log(LARGEST_LATENT);"
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", program], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == getattr(spec, "LARGEST_LATENT", 100.0)


def unsafe(text: str) -> set[str]:
    """Other hosts in a page's file, and what puts text into a page as code."""
    hosts = set(re.findall(r"https?://([\w.-]+)", text)) - {"www.w3.org", "localhost"}  # the name of SVG, and advice
    return hosts | set(re.findall(r"innerHTML|eval\(|document\.write", text))


def test_the_page_asks_no_other_host_and_runs_no_text() -> None:
    for file in PAGE.iterdir():
        assert unsafe(file.read_text()) == set(), file
    assert unsafe('import "https://cdn.example/x.js"; a.innerHTML = eval(b)') == {"cdn.example", "innerHTML", "eval("}
