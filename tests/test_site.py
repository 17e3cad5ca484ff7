"""What `dcgan-export --target web` puts into a folder. tests/test_web.py opens it in a browser.

The runtime is the real archive, which npm packs once a session; where there is no npm or no network, tests that need
it are skipped.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import ROOT
from exported import metadata_of, read_golden
from PIL import Image

import dcgan_export.site
from dcgan.checkpoint import save_generator
from dcgan.networks import Generator
from dcgan_export.cli import main
from dcgan_export.site import LARGEST_FILE, PAGE, PREVIEW, RUNTIME, VERSION, _makes_digits, _worded, lay_page
from dcgan_infer import shipped
from dcgan_infer.contract.errors import ExportError
from dcgan_infer.contract.files import sha256_of
from dcgan_infer.contract.pixels import tile
from dcgan_infer.contract.spec import reference_spec
from dcgan_infer.contract.tolerance import TOLERANCES, Tolerance
from dcgan_infer.generator import ImageGenerator

PAGES = {path.name for path in PAGE.iterdir()}


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """onnxruntime-web as npm packs it."""
    try:
        return dcgan_export.site._fetch(tmp_path_factory.mktemp("npm"))
    except ExportError as error:
        if shutil.which("npm") is None or re.search(r"ECONN|ENOTFOUND|EAI_AGAIN|ETIMEDOUT", str(error)):
            pytest.skip(str(error))
        raise


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["--target", "web", *map(str, arguments)])


@pytest.fixture(scope="session")
def shipped_site(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A site of the shipped checkpoint, golden vectors beside it, and what the command printed as JSON."""
    folder = tmp_path_factory.mktemp("site")
    result = run("--out", folder / "site", "--runtime", archive, "--golden", folder / "g.golden", "--json")
    assert result.exit_code == 0, result.output or repr(result.exception)
    return folder / "site", json.loads(result.stdout)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkpoint without classes: large enough for fp16 to shrink it, and mild enough for int8, being untrained."""
    torch.manual_seed(0)
    generator = Generator(reference_spec(6, (1, 8, 8), channels=(64, 32, 16))).eval()
    save_generator(tmp_path / "small one.safetensors", generator.state_dict(), generator.spec, '{"recipe":"test"}')
    return tmp_path / "small one.safetensors"


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_site_holds_what_it_should_and_nothing_else(shipped_site: tuple[Path, dict[str, Any]]) -> None:
    site, _ = shipped_site
    assert {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()} == {
        *PAGES,
        "model.json",
        "model.onnx",
        "model-fp16.onnx",
        "preview.png",
        "runtime/LICENSE.txt",
        "runtime/ThirdPartyNotices.txt",
        "runtime/ort.wasm.min.js",
        "runtime/ort-wasm-simd-threaded.js",
        "runtime/ort-wasm-simd-threaded.wasm",
        "runtime/ort.jspi.min.js",
        "runtime/ort-wasm-simd-threaded.jspi.js",
        "runtime/ort-wasm-simd-threaded.jspi.wasm",
    }
    assert left(site.parent) == ["g.golden", "site"]
    assert (site / "LICENSE.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert "Copyright (c) Microsoft Corporation" in (site / "runtime" / "LICENSE.txt").read_text(encoding="utf-8")
    # A static host runs as another user.
    assert all(path.stat().st_mode & 0o004 for path in site.rglob("*"))


def test_no_file_is_too_large_for_a_free_host(
    shipped_site: tuple[Path, dict[str, Any]],
    archive: Path,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site, _ = shipped_site
    assert max(path.stat().st_size for path in site.rglob("*")) <= LARGEST_FILE == 25 * 2**20
    monkeypatch.setattr(dcgan_export.site, "LARGEST_FILE", 15_000_000)
    result = run(small, "--out", tmp_path / "site", "--runtime", archive)
    note = "ort-wasm-simd-threaded.jspi.wasm has 16,758,545 bytes; some free hosts take no file above 15,000,000"
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (0, note)


def test_index_html_says_what_it_shows_without_being_run(shipped_site: tuple[Path, dict[str, Any]]) -> None:
    """Who shows a link reads these, and runs no script."""
    site, _ = shipped_site
    index = (site / "index.html").read_text(encoding="utf-8")
    meta = dict(re.findall(r'<meta (?:name|property)="([\w:]+)" content="([^"]*)"', index))
    said = "Digits that a small neural network makes in your browser."
    assert (meta["og:title"], meta["og:image"]) == ("Digits that nobody wrote", PREVIEW)
    assert (meta["description"], meta["og:description"]) == (said, said)
    assert "<title>Digits that nobody wrote</title>" in index
    assert '<h1 id="title">Digits that nobody wrote</h1>' in index
    assert '<span id="plural">digits</span>' in index
    strange = _worded((PAGE / "index.html").read_text(encoding="utf-8"), {"noun": 'cat" <b>'})
    assert '<meta property="og:title" content="Cat&quot; &lt;b&gt;s that nobody made" />' in strange


def test_the_preview_is_of_the_model_and_says_how_to_make_it_again(
    shipped_site: tuple[Path, dict[str, Any]],
) -> None:
    site, _ = shipped_site
    with Image.open(site / PREVIEW) as preview:
        assert preview.size == (1200, 630)
        facts = {str(key).removeprefix("dcgan."): value for key, value in preview.info.items()}
        assert facts["model_sha256"] == sha256_of(site / "model.onnx")
        assert (facts["seed"], facts["start"], facts["n"], facts["grid"]) == ("0", "0", "50", "5x10")
        # Ink on paper, 4 pixels for each of an image's, the grid in the middle.
        shown = np.asarray(preview)[35:595:4, 40:1160:4].astype(int)
    levels = tile(ImageGenerator(site / "model.onnx").generate(50, seed=0), 5, 10)
    assert np.abs(shown - (255 - levels[..., None].astype(int)) * [255, 253, 248] / 255).max() <= 1
    assert levels.std() > 50


def test_what_is_kept_for_a_visit_without_a_network_is_what_the_page_needs(
    shipped_site: tuple[Path, dict[str, Any]],
) -> None:
    site, _ = shipped_site
    worker = (site / "offline.js").read_text(encoding="utf-8")
    files = json.loads(re.findall(r"const FILES = (\{.*?\});", worker, re.DOTALL)[0])
    named = re.findall(r'(?:href|src)="([^"]+)"', (site / "index.html").read_text(encoding="utf-8"))
    assert files == {name: sha256_of(site / name) for name in ["index.html", *named]}
    (digest,) = re.findall(r'const SITE = "(\w{64})"', worker)
    lay_page(site, json.loads((site / "model.json").read_text(encoding="utf-8")))
    assert (site / "offline.js").read_text(encoding="utf-8") == worker
    about = (site / "model.json").read_bytes()
    lay_page(site, json.loads(about) | {"title": "Others"})
    assert f'const SITE = "{digest}"' not in (site / "offline.js").read_text(encoding="utf-8")
    lay_page(site, json.loads(about))


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [("", True), ('{"name":"fast"}', True), ('{"dataset":"sample"}', True), ('{"dataset":"fashion-mnist"}', False)],
)
def test_only_digits_are_called_digits(recipe: str, expected: bool) -> None:
    assert _makes_digits({"dcgan.spec": reference_spec().to_json(), "dcgan.recipe": recipe}) is expected


@pytest.mark.parametrize("backend", RUNTIME)
def test_the_page_and_each_build_of_the_runtime_name_what_is_there(
    backend: str, shipped_site: tuple[Path, dict[str, Any]]
) -> None:
    """The page tells a build its module and WebAssembly, which must be those that the build would load by itself."""
    runtime = shipped_site[0] / "runtime"
    build, module, binary = (name.replace(".mjs", ".js") for name in RUNTIME[backend])
    assert f'["{build}", "{module}", "{binary}"]' in (PAGE / "generator.js").read_text(encoding="utf-8")
    text = (runtime / build).read_text(encoding="utf-8")
    assert f"v{VERSION}" in text[:200]
    assert re.findall(r'"(ort-wasm[\w.-]+\.mjs)"', text) == [re.sub(r"js$", "mjs", module)]
    assert f'"{binary}"' in (runtime / module).read_text(encoding="utf-8")
    assert (runtime / binary).read_bytes()[:4] == b"\0asm"


def test_every_host_knows_what_the_files_are(shipped_site: tuple[Path, dict[str, Any]]) -> None:
    """Browsers run no module of a type that is not JavaScript's, and hosts go by the ends of names.

    Models and WebAssembly may have any type: the page reads them as bytes.
    """
    site, _ = shipped_site
    known = {".html", ".css", ".js", ".json", ".svg", ".txt", ".png"}
    found = {path.suffix for path in site.rglob("*") if path.is_file()}
    assert found - known == {".onnx", ".wasm"}


def test_the_page_names_what_it_needs(shipped_site: tuple[Path, dict[str, Any]]) -> None:
    """So that it is fetched side by side, and that start.js knows where to look for what is wrong."""
    site, _ = shipped_site
    named = set(re.findall(r'(?:href|src)="([^"]+)"', (site / "index.html").read_text(encoding="utf-8")))
    of_webgpu = {"model-fp16.onnx", *(f"runtime/{name.replace('.mjs', '.js')}" for name in RUNTIME["webgpu"])}
    files = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    apart = {"index.html", PREVIEW, "offline.js", "LICENSE.txt", "runtime/LICENSE.txt", "runtime/ThirdPartyNotices.txt"}
    assert named == files - of_webgpu - apart


def test_model_json_is_true(shipped_site: tuple[Path, dict[str, Any]]) -> None:
    site, _ = shipped_site
    about = json.loads((site / "model.json").read_text(encoding="utf-8"))
    assert list(about) == ["name", "title", "noun", "ink", "spec", "weights_sha256", "models", "runtime"]
    assert about["name"] == shipped.DEFAULT
    assert about["runtime"] == {"package": "onnxruntime-web", "version": VERSION}
    assert {backend: (model["file"], model["precision"]) for backend, model in about["models"].items()} == {
        "wasm": ("model.onnx", "int8"),
        "webgpu": ("model-fp16.onnx", "fp16"),
    }
    for model in about["models"].values():
        file = site / model["file"]
        metadata = metadata_of(file)
        assert (model["bytes"], model["sha256"]) == (file.stat().st_size, sha256_of(file))
        assert about["spec"] == json.loads(metadata["dcgan.spec"])
        assert about["weights_sha256"] == metadata["dcgan.weights_sha256"]
        assert model["precision"] == metadata["dcgan.precision"]
    assert about["spec"]["num_classes"] == 10


def test_what_is_printed_as_json_is_true(shipped_site: tuple[Path, dict[str, Any]]) -> None:
    site, printed = shipped_site
    files = [path for path in site.rglob("*") if path.is_file()]
    assert (printed["folder"], printed["files"]) == (str(site), len(files))
    assert printed["bytes"] == sum(path.stat().st_size for path in files)
    for model in printed["models"].values():
        assert Path(model["file"]).parent == site
        assert model["sha256"] == sha256_of(Path(model["file"]))
        assert (model["image"], model["inputs"], model["parity"]["passed"]) == ("uint8", "z", True)


def test_golden_vectors_are_of_the_same_weights(shipped_site: tuple[Path, dict[str, Any]]) -> None:
    site, printed = shipped_site
    golden = read_golden(site.parent / "g.golden")
    assert golden.weights_sha256 == printed["models"]["wasm"]["metadata"]["dcgan.weights_sha256"]


def test_a_generator_without_classes(archive: Path, small: Path, tmp_path: Path) -> None:
    (tmp_path / "my site").mkdir()  # empty: may be replaced
    result = run(small, "--out", tmp_path / "my site", "--runtime", archive, "--golden", tmp_path / "g.golden")
    assert result.exit_code == 0, result.output
    about = json.loads((tmp_path / "my site" / "model.json").read_text(encoding="utf-8"))
    assert (about["name"], about["spec"]["num_classes"], about["spec"]["latent_dim"]) == ("small one", 0, 6)
    lines = result.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines[:2]] == ["model.onnx (int8)", "model-fp16.onnx (fp16)"]
    assert lines[2].startswith(f"wrote {tmp_path / 'my site'} ({len(PAGES) + 12} files, ")
    assert lines[3:] == [
        f"wrote {tmp_path / 'g.golden'}, the exact images that dcgan-verify compares with",
        f"try: python -m http.server --directory '{tmp_path / 'my site'}'",
    ]


def test_the_default_is_a_folder_called_site(archive: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small.parent)
    (small.parent / "site").mkdir()
    (small.parent / "site" / "mine").touch()
    result = run(small, "--runtime", archive)
    assert (result.exit_code, result.stderr) == (1, "Error: site already exists; remove it, or choose another name\n")
    assert left(small.parent / "site") == ["mine"]


@pytest.mark.parametrize("out", [".", ".."])
def test_a_folder_without_a_name_of_its_own_is_refused(
    out: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert f"{out} already exists" in run(small, "--out", out).stderr


def test_the_folder_above_must_be_there(small: Path, tmp_path: Path) -> None:
    result = run(small, "--out", tmp_path / "none" / "site")
    assert result.exit_code == 1
    assert "choose a folder whose parent is writable" in result.stderr


def test_one_byte_of_the_runtime_is_enough(archive: Path, small: Path, tmp_path: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "other.tgz").write_bytes(content)
    result = run(small, "--out", tmp_path / "site", "--runtime", tmp_path / "other.tgz")
    assert result.exit_code == 1
    assert "its sha512 differs" in result.stderr
    assert f"npm pack onnxruntime-web@{VERSION}" in result.stderr
    assert left(tmp_path) == ["other.tgz", small.name]


def test_an_npm_that_reaches_nobody_says_why(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """npm itself: what it prints, and in which order, is what the message is made of."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not here; install Node.js")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")  # nobody listens on the port of `discard`
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    result = run(small, "--out", tmp_path / "site")
    assert result.exit_code == 1
    assert f"npm can't get onnxruntime-web {VERSION} (npm error code ECONNREFUSED); check the network" in result.stderr
    assert "--runtime" in result.stderr
    assert left(tmp_path) == ["cache", small.name]


def test_a_second_model_that_fails_leaves_nothing_either(
    archive: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for precision in ("fp16", "fp32"):  # all that the second may be
        monkeypatch.setitem(TOLERANCES, precision, Tolerance(levels=-1))
    result = run(small, "--out", tmp_path / "site", "--runtime", archive, "--golden", tmp_path / "g.golden")
    assert result.exit_code == 1
    assert "model-fp16.onnx was not written" in result.stderr
    assert left(tmp_path) == [small.name]


def test_interrupted_it_leaves_nothing(archive: Path, small: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dcgan_export", small, "--target", "web", "--out", tmp_path / "site"]
    process = subprocess.Popen(
        [*map(str, command), "--runtime", str(archive)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(1200):
            if any(tmp_path.glob(".site.*/*/runtime/LICENSE.txt")) or process.poll() is not None:
                break
            time.sleep(0.05)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert left(tmp_path) == [small.name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--precision", "int8"], "a site has its own models"),
        (["--image", "uint8"], "a site has its own models"),
        (["--optimize", "none"], "a site has its own models"),
        (["--optimize", "vnni"], "a site has its own models"),
        (["--optimize", "vnni", "--out", "m.onnx"], "WebAssembly is slower with it"),
        (["--inputs", "z"], "a site has its own models"),
        (["--report", "r.json"], "writes no report; take --json"),
        (["--format", "pt2"], "--target is for ONNX only"),
        (["--out", "site.pt"], "--target is for ONNX only"),
        (["--out", "m.onnx", "--runtime", "r.tgz"], "--runtime is for --target web with a folder"),
        (["--target", "triton", "--runtime", "r.tgz"], "--runtime is for --target web with a folder"),
    ],
)
def test_contradictions_are_refused(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert left(tmp_path) == []
