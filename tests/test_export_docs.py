"""The snippets of docs/export.md run as they are printed."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from exported import export, save

import dcgan_export
from dcgan_export import formats

TEXT = (Path(dcgan_export.__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    save(folder / "generator.safetensors")
    for form in formats.FORMATS.values():
        export(folder / "generator.safetensors", folder / f"digits{form.suffix}", format=form.name)
    return folder


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["publish", "onnx", "torchscript", "pt2"])
def test_a_snippet_runs(snippet: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit")
        exec(snippet, names)
    if "images" in names:
        assert tuple(names["images"].shape) == (16, 1, 8, 8)
