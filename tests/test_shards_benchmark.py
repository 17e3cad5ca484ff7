"""benchmarks/shards.py, small: that it measures what it says, and that bytes which differ are no success."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import shards as benchmark
from click.testing import CliRunner
from conftest import MODELS, ROOT

MODEL = str(MODELS / "clothes.onnx")
QUICK = ("--quick", "--skip", "ray", "--threads", "1", "--model", MODEL)


def test_it_finds_that_the_bytes_are_the_same(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    result = CliRunner().invoke(benchmark.main, [*QUICK, "--json", str(tmp_path / "a.json")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "a.json").read_text())
    assert list(found["formats"])[:2] == list(benchmark.PEERS)
    assert all(row["images_per_second"] > 0 for row in found["formats"].values())
    assert found["formats"]["npy, raw"]["bytes_per_image"] == pytest.approx(8 + 8 + 3 * 4 * 6, abs=5)
    assert found["resume"]["equal"]
    assert found["resume"]["whole_before"] + found["resume"]["made_then"] == 20


def test_it_sees_bytes_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    infer = benchmark.infer

    def other_seed(place: Path, *arguments: Any) -> list[str]:
        return [*infer(place, *arguments), "--seed", "1" if place.name == "killed" else "0"]

    monkeypatch.setattr(benchmark, "infer", other_seed)
    result = CliRunner().invoke(benchmark.main, [*QUICK, "--skip", "formats"])
    assert result.exit_code == 1
    assert "not all files are equal" in result.output


def test_the_memory_is_that_of_the_process() -> None:
    """Measured from a small process: the peak of the one that starts another is the other's too."""
    held = "import json; held = bytearray({}); print(json.dumps([]))"
    program = f"import shards, sys; print(*[shards.of_a_process([sys.executable, '-c', {held!r}.format(size)])[1] for "
    program += "size in (1, 200 << 20)])"
    starter = ["sh", "-c", f'exec "{sys.executable}" -c "$0"', program]  # of a shell, which is small
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "benchmarks"), str(ROOT / "infer")))}
    said = subprocess.run(starter, env=environment, capture_output=True, text=True, check=True).stdout
    few, many = map(float, said.split())
    assert few + 150 < many < few + 250
