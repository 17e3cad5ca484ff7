"""examples/serving/client.py, as far as it goes without a server; serve_check.py there goes on with real ones."""

from __future__ import annotations

import asyncio
import json
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from small_models import COLOUR, GREY

from dcgan_infer.contract.latents import labels, latents
from dcgan_infer.contract.pixels import tile, to_pictures
from dcgan_infer.contract.spec import GeneratorSpec, Interface

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


@pytest.mark.parametrize("of", [GREY, COLOUR])
@pytest.mark.parametrize(("datatype", "dtype"), [("FP32", "<f4"), ("UINT8", "u1")])
def test_it_writes_numbers_and_pictures(datatype: str, dtype: str, of: Interface, client: dict[str, Any]) -> None:
    images = np.random.default_rng(0).uniform(-1.1, 1.1, (13, *of.image_shape)).astype(np.float32)
    levels = to_pictures(images.astype(np.float64), of.value_range)  # as Python computes
    numbers = images if datatype == "FP32" else levels
    output = {"datatype": datatype, "shape": list(numbers.shape), "data": numbers.ravel().tolist()}
    assert client["raw"](output) == numbers.astype(dtype).tobytes()
    header, _, sheet = client["picture"](output, asdict(of)).partition(b"\n")
    channels, height, width = of.image_shape
    assert header == f"P{5 if channels == 1 else 6} {10 * width} {2 * height} 255".encode()
    assert sheet == tile(levels, 2, 10).tobytes()


class Generator(BaseHTTPRequestHandler):
    """A server of the protocol: the spec with the metadata, as runtime.py tells it, or in Triton's configuration."""

    of = COLOUR
    tells = "metadata"  # or "config", or neither
    asked: dict[str, Any]

    def do_GET(self) -> None:
        spec = GeneratorSpec(**asdict(self.of)).to_json()
        told: dict[str, Any] = {"inputs": [
            {"name": "z", "datatype": "FP32", "shape": [-1, self.of.latent_dim]},
            {"name": "label", "datatype": "INT64", "shape": [-1, 1] if self.tells == "config" else [-1]},
        ]}  # fmt: skip
        if self.path.endswith("/config"):
            self.answer({"parameters": {"dcgan.spec": {"string_value": spec}} if self.tells == "config" else {}})
        else:
            self.answer(told | ({"parameters": {"dcgan.spec": spec}} if self.tells == "metadata" else {}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked = {given["name"]: given for given in body["inputs"]}
        shape = [len(self.asked["label"]["data"]), *self.of.picture_shape]
        self.answer({"outputs": [{"datatype": "UINT8", "shape": shape, "data": [7] * int(np.prod(shape))}]})

    def answer(self, content: dict[str, Any]) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[Generator], str]]:
    class Here(Generator):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Here) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield Here, f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def ask(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SERVING / "client.py"), url, "clouds", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("tells", ["metadata", "config"])
def test_classes_go_by_name_and_sizes_by_the_spec(
    tells: str, server: tuple[type[Generator], str], tmp_path: Path
) -> None:
    kind, url = server
    kind.tells = tells
    done = ask(url, "--n", "4", "--seed", "7", "--class", "sneaker,7,2,-1", "--out", str(tmp_path / "clouds.ppm"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "clouds.ppm").read_bytes().startswith(b"P6 160 24 255\n\7\7")
    drawn = labels(7, 0, 4, 4)[3]
    assert kind.asked["label"]["data"] == [1, 3, 2, drawn]  # a class is called 7
    assert kind.asked["label"]["shape"] == ([4, 1] if tells == "config" else [4])
    assert kind.asked["z"]["shape"] == [4, 7]
    for wanted in ("zebra", "4", "-2"):
        done = ask(url, f"--class={wanted},{wanted}", "--out", str(tmp_path / "none"))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines()[-1].endswith(f"found {wanted}")
    assert not (tmp_path / "none").exists()


def test_a_server_that_tells_no_spec_is_refused(server: tuple[type[Generator], str], tmp_path: Path) -> None:
    kind, url = server
    kind.tells = "nothing"
    done = ask(url, "--out", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "does not tell its spec" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
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


class RefusedError(Exception):
    """Stands for MLServer's InferenceError, its answer with status 400."""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Any:
    """runtime.py's model on a shipped file; of MLServer, which is not installed here, only names."""
    names = ("InferenceRequest", "InferenceResponse", "MetadataModelResponse", "MetadataTensor", "Parameters")

    class Base:
        def __init__(self, settings: Any) -> None:
            self.settings = settings

    for module, holds in {
        "mlserver": {"MLModel": Base},
        "mlserver.errors": {"InferenceError": RefusedError},
        "mlserver.types": dict.fromkeys((*names, "RequestInput", "ResponseOutput"), SimpleNamespace),
        "mlserver.utils": {"get_model_uri": lambda settings: asyncio.sleep(0, settings.uri)},
    }.items():
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**holds))  # type: ignore[arg-type]
    path = str(ROOT / "models" / "dcgan-mnist.onnx")
    settings = SimpleNamespace(uri=path, parameters=SimpleNamespace(extra={}))
    model = runpy.run_path(str(SERVING / "runtime.py"))["OnnxGenerator"](settings)
    asyncio.run(model.load())
    return model


@pytest.mark.parametrize(("number", "taken"), [(100.0, True), (-101.0, False), (3e38, False), (1e39, False)])
def test_the_server_refuses_latents_far_out(number: float, taken: bool, served: Any) -> None:
    """MLServer would answer 200 with 784 nulls."""
    given = SimpleNamespace(name="z", datatype="FP32", shape=[1, 100], data=[number] + 99 * [0.0])
    if taken:
        assert served._checked([given])["z"].shape == (1, 100)
    else:
        with pytest.raises(RefusedError, match="z is -100 to 100, and holds another number"):
            served._checked([given])


def test_workers_of_mlserver_stay_off() -> None:
    """With one, MLServer 1.7 and uvloop 0.23 unload the model at the start."""
    assert json.loads((SERVING / "settings.json").read_text())["parallel_workers"] == 0
