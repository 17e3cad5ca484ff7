"""examples/serving/client.py, as far as it goes without a server; serve_check.py there goes on with real ones."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from dcgan_infer.contract.latents import labels, latents
from dcgan_infer.contract.pixels import tile, to_uint8

SERVING = ROOT / "examples" / "serving"


@pytest.fixture(scope="module")
def client() -> dict[str, Any]:
    return runpy.run_path(str(SERVING / "client.py"))


@pytest.mark.parametrize("seed", [0, 7, 2**32, 2**63 - 1])
def test_it_draws_by_the_contract(seed: int, client: dict[str, Any]) -> None:
    for length in (100, 7):
        drawn = [client["latent"](seed, i, length) for i in range(3)]
        np.testing.assert_allclose(drawn, latents(seed, 0, 3, length), rtol=0, atol=1e-6)
    words = [client["words"](seed, i, 65536)[0] * 10 >> 32 for i in range(20)]
    assert words == labels(seed, 0, 20, 10).tolist()


@pytest.mark.parametrize(("datatype", "dtype"), [("FP32", "<f4"), ("UINT8", "u1")])
def test_it_writes_numbers_and_pictures(datatype: str, dtype: str, client: dict[str, Any]) -> None:
    images = np.random.default_rng(0).uniform(-1.1, 1.1, (13, 1, 28, 28)).astype(np.float32)
    levels = to_uint8(images[:, 0].astype(np.float64))  # as Python computes
    numbers = images if datatype == "FP32" else levels
    output = {"datatype": datatype, "shape": list(numbers.shape), "data": numbers.ravel().tolist()}
    assert client["raw"](output) == numbers.astype(dtype).tobytes()
    header, _, sheet = client["picture"](output).partition(b"\n")
    assert header == b"P5 280 56 255"
    assert sheet == tile(levels, 2, 10).tobytes()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--label", "zero"], 2, "--label is numbers between commas, found 'zero'"),
        (["--n", "0"], 2, "--n is 1 or more"),
        (["--seed", str(2**63)], 2, "--seed 0 to 2^63 - 1"),
        ([], 1, "can't ask http://127.0.0.1:1 for digits: "),
    ],
)
def test_what_goes_wrong_is_one_line(arguments: list[str], status: int, said: str, tmp_path: Path) -> None:
    words = ["http://127.0.0.1:1", "digits", "--out", str(tmp_path / "out"), *arguments]
    done = subprocess.run([sys.executable, SERVING / "client.py", *words], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_workers_of_mlserver_stay_off() -> None:
    """With one, MLServer 1.7 and uvloop 0.23 unload the model at the start."""
    assert json.loads((SERVING / "settings.json").read_text())["parallel_workers"] == 0
