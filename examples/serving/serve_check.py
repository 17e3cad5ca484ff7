"""Serves ONNX files with MLServer, asks for images that are known, and sends what must be refused.

    python serve_check.py --work /tmp/serving
    python serve_check.py --work /tmp/serving --model a.onnx b.onnx --bench
    python serve_check.py --url http://127.0.0.1:8000 --name NAME --model model_repository/NAME/1/model.onnx

Runs in the project's own environment; the server's is made in the work folder. With --url it asks a server that runs
already, Triton or another, for what every server of the protocol has to do.
Exit status: 0 all is right, 1 something is not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcgan_infer.contract.vectors import Case, read_vectors
from dcgan_infer.measure import measure
from dcgan_infer.runtime import onnxruntime

HERE = Path(__file__).resolve().parent
VECTORS = HERE.parent / "vectors"
DEFAULT = HERE.parent.parent / "models" / "dcgan-mnist-conditional.onnx"
LIMITS = {"FP32": 1e-4, "UINT8": 1.0}  # an image may be off by: values, levels
DTYPES = {"FP32": "<f4", "INT64": "<i8", "UINT8": "|u1"}
TYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64", "tensor(uint8)": "UINT8"}
WAIT = 120  # seconds for the server to be ready; the first start compiles all of MLServer

# Asks through gRPC, in the server's environment, which has a client. Requests come and images go as files.
GRPC = """
import json, sys, numpy, tritonclient.grpc as grpc
address, model, folder = sys.argv[1:]
inputs = []
for given in json.load(open(f"{folder}/request.json")):
    inputs.append(grpc.InferInput(given["name"], given["shape"], given["datatype"]))
    inputs[-1].set_data_from_numpy(numpy.array(given["data"], given["dtype"]).reshape(given["shape"]))
grpc.InferenceServerClient(address).infer(model, inputs).as_numpy("image").tofile(f"{folder}/image")
"""

Array = npt.NDArray[Any]
Inputs = list[dict[str, Any]]


class CheckError(Exception):
    """Something is not as it should be."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve ONNX files, and check what the server answers.")
    parser.add_argument("--model", type=Path, nargs="+", default=[DEFAULT], help="ONNX files of dcgan-export")
    parser.add_argument("--vectors", type=Path, default=VECTORS, help="folder with folders of test vectors")
    parser.add_argument("--work", type=Path, help="folder for the server's environment, settings and log")
    parser.add_argument("--bench", action="store_true", help="also measure what serving costs")
    parser.add_argument("--url", help="of a server that runs already, instead of --work")
    parser.add_argument("--name", help="of the model on that server  [default: the file's]")
    options = parser.parse_args()
    if (options.work is None) == (options.url is None):
        parser.error("give --work FOLDER to start a server in, or the --url of one that runs")
    models = {options.name or path.stem: path for path in options.model}
    if len(models) < len(options.model):
        parser.error("each model needs a name of its own; rename the files")
    for path in models.values():
        if not path.is_file():
            parser.error(f"{path} is no file")
    try:
        with contextlib.ExitStack() as stack:
            url, grpc = options.url, None
            if url is None:
                url, grpc = stack.enter_context(mlserver(options.work.resolve(), models))
            passed = [report(url.rstrip("/"), grpc, name, path, options) for name, path in models.items()]
    except CheckError as error:
        sys.exit(f"serve_check: {error}")
    sys.exit(0 if all(passed) else 1)


def report(url: str, grpc: str | None, name: str, path: Path, options: argparse.Namespace) -> bool:
    """Check a model, print what came out, and say whether it is right."""
    try:
        served = Served(url, name, path, options.vectors, ours=grpc is not None)
        print(f"{name}: {check(served, grpc, options.work)}", flush=True)
        if options.bench:
            print(f"{name}: {bench(served)}", flush=True)
    except (CheckError, OSError) as error:
        print(f"{name}: FAILED: {error}", flush=True)
        return False
    return True


@contextlib.contextmanager
def mlserver(work: Path, models: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """A server of `models` with the settings beside this file, on free ports, as long as the block lasts.

    Yields its URL, and its address for gRPC.
    """
    program = environment(work / "venv") / "mlserver"
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = dict(
            zip(("http_port", "grpc_port", "metrics_port"), (each.getsockname()[1] for each in sockets), strict=True)
        )
    with tempfile.TemporaryDirectory(dir=work) as folder:
        write_json(Path(folder, "settings.json"), read_json(HERE / "settings.json") | ports)
        for name, path in models.items():
            settings = read_json(HERE / "model-settings.json") | {"name": name}
            settings["parameters"]["uri"] = str(path.resolve())
            write_json(Path(folder, name, "model-settings.json"), settings)
        log = work / "server.log"
        surroundings = os.environ | {"PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}
        with log.open("wb") as out:
            server = subprocess.Popen([program, "start", folder], cwd=folder, env=surroundings, stdout=out, stderr=out)
        url = f"http://127.0.0.1:{ports['http_port']}"
        try:
            deadline = time.monotonic() + WAIT
            while not all(is_ready(url, name) for name in models):
                if server.poll() is not None or time.monotonic() > deadline:
                    # A traceback stands in the middle of what it goes on to say about shutting down.
                    lines = [
                        line
                        for line in log.read_text(errors="replace").splitlines()
                        if line.strip() and "INFO" not in line
                    ]
                    raise CheckError(f"the server does not get ready; see {log}: {lines[-1] if lines else 'no error'}")
                time.sleep(0.2)
            yield url, f"127.0.0.1:{ports['grpc_port']}"
            if server.poll() is not None:
                raise CheckError(f"the server ended by itself, with status {server.returncode}; see {log}")
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def environment(folder: Path) -> Path:
    """The programs of a venv with requirements.txt, made unless it is there."""
    programs, done = folder / "bin", folder / "installed"
    wanted = (HERE / "requirements.txt").read_text(encoding="utf-8")
    if not done.is_file() or done.read_text(encoding="utf-8") != wanted:
        print("installing MLServer, which takes a minute", file=sys.stderr, flush=True)
        commands: list[list[str | Path]] = [
            [sys.executable, "-m", "venv", "--clear", folder],
            [programs / "python", "-m", "pip", "install", "--quiet", "--requirement", HERE / "requirements.txt"],
        ]
        for command in commands:
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                raise CheckError(f"can't install the server: {result.stderr.strip()[-500:]}")
        done.write_text(wanted, encoding="utf-8")
    return programs


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def is_ready(url: str, model: str) -> bool:
    try:
        return ask(f"{url}/v2/models/{model}/ready")[0] == 200
    except OSError:
        return False


def ask(address: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON of what a server answers, to GET, or to POST where there is a body."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, content = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    try:
        return status, json.loads(content) if content else None
    except ValueError:
        return status, content.decode(errors="replace")


class Served:
    """A model on a server, and the file that it should be.

    Attributes:
        url: of the server.
        name: of the model on it.
        vectors: folder of folders of test vectors.
        ours: whether the server runs our runtime.
        session: the file, in onnxruntime.
        metadata: of the session.
        takes: the server's metadata of the inputs.
        datatype: of the image.
    """

    def __init__(self, url: str, name: str, file: Path, vectors: Path, ours: bool) -> None:
        self.url = url
        self.name = name
        self.vectors = vectors
        self.ours = ours
        try:
            self.session = onnxruntime().InferenceSession(file, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise CheckError(f"onnxruntime does not load {file}: {error}") from error
        self.metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        status, told = ask(f"{url}/v2/models/{name}")
        if status != 200:
            raise CheckError(f"no metadata: {status}, {told}")
        for side, values in (("inputs", self.session.get_inputs()), ("outputs", self.session.get_outputs())):
            found = [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in told[side]]
            right = [
                (value.name, TYPES[value.type], [size if isinstance(size, int) else -1 for size in value.shape])
                for value in values
            ]
            # Triton writes a label of shape [N] as [N, 1].
            if found != right and (ours or [entry[:2] for entry in found] != [entry[:2] for entry in right]):
                raise CheckError(f"the {side} are, by the server, {found}, and by the file {right}")
        self.takes: Inputs = told["inputs"]
        self.names = [tensor["name"] for tensor in self.takes]
        self.datatype: str = told["outputs"][0]["datatype"]

    def request(self, values: dict[str, Array]) -> Inputs:
        """The inputs of a request, in the shapes that the server names."""
        return [
            {
                "name": tensor["name"],
                "datatype": tensor["datatype"],
                "shape": [len(values[tensor["name"]]) if size < 0 else size for size in tensor["shape"]],
                "data": values[tensor["name"]].ravel().tolist(),
            }
            for tensor in self.takes
        ]

    def send(self, inputs: Any) -> tuple[int, Any]:
        """Status and answer of a request, with bytes in its place as they are."""
        return ask(
            f"{self.url}/v2/models/{self.name}/infer", inputs if isinstance(inputs, bytes) else {"inputs": inputs}
        )

    def infer(self, values: dict[str, Array]) -> Array:
        """The image that is made of right values."""
        status, answer = self.send(self.request(values))
        if status != 200:
            raise CheckError(f"a right request got {status}, {answer}")
        (output,) = answer["outputs"]
        if (output["name"], output["datatype"]) != ("image", self.datatype):
            raise CheckError(f"the answer holds {output['name']}, {output['datatype']}")
        image: Array = np.array(output["data"], DTYPES[self.datatype]).reshape(output["shape"])
        return image

    def run(self, values: dict[str, Array]) -> Array:
        """The image that the file makes here."""
        image: Array = self.session.run(["image"], {name: values[name] for name in self.names})[0]
        return image


def check(served: Served, grpc: str | None, work: Path | None) -> str:
    """Everything about a model, and what was found, in a line.

    Raises:
        CheckError: it is not right.
    """
    cases = vectors_of(served)
    exact = served.metadata["dcgan.precision"] == "fp32"
    errors = [0.0]
    for case in cases:
        values = case.feeds(served.names)
        if exact:
            right: Array = case.image_uint8 if served.datatype == "UINT8" else case.image
        else:  # fewer bits move a pixel by any number, but on every host by the same
            right = served.run(values)
        for way, image in (("REST", served.infer(values)), ("client.py", by_client(served, case, right.shape))):
            error = float(np.abs(image.astype(np.float64) - right).max()) if image.shape == right.shape else np.nan
            if not error <= LIMITS[served.datatype]:
                raise CheckError(f"{way}, seed {case.seed}: off by {error:.2e}, shape {image.shape}")
            errors.append(error)
    values = cases[0].feeds(served.names)
    alone = served.infer(values)
    refused = check_refusals(served, values)
    with ThreadPoolExecutor(8) as pool:
        for image in pool.map(served.infer, [values] * 32):
            if image.tobytes() != alone.tobytes():
                raise CheckError("after bad requests, and several at a time, a request gets another image than before")
    found = [
        f"{served.datatype}, max error {max(errors):.1e} to {'the vectors' if exact else 'onnxruntime'} "
        f"(limit {LIMITS[served.datatype]:g}), by REST and client.py, {refused} bad requests refused"
    ]
    if grpc and work:
        if by_grpc(served, values, grpc, work.resolve() / "venv" / "bin" / "python") != alone.tobytes():
            raise CheckError("gRPC gives another image than REST")
        found.append("the same by gRPC")
    return ", ".join(found)


def vectors_of(served: Served) -> Sequence[Case]:
    """The test vectors of a model's weights."""
    for path in sorted(served.vectors.iterdir()):
        vectors = read_vectors(path)
        if vectors.weights_sha256 == served.metadata.get("dcgan.weights_sha256"):
            return vectors.cases
    raise CheckError(f"there are no vectors of its weights in {served.vectors}")


def by_client(served: Served, case: Case, shape: tuple[int, ...]) -> Array:
    """The image that client.py writes."""
    asked = ",".join(map(str, case.asked))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "image"
        words = [served.url, served.name, "--seed", str(case.seed), "--n", str(case.n), f"--class={asked}"]
        command = [sys.executable, str(HERE / "client.py"), *words, "--out", str(out)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise CheckError(f"client.py: {done.stdout.strip()}")
        image: Array = np.fromfile(out, DTYPES[served.datatype]).reshape(shape)
        return image


def by_grpc(served: Served, values: dict[str, Array], address: str, python: Path) -> bytes:
    """The image through gRPC."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = [given | {"dtype": DTYPES[given["datatype"]]} for given in served.request(values)]
        write_json(Path(folder) / "request.json", inputs)
        command = [str(python), "-c", GRPC, address, served.name, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CheckError(f"gRPC: {done.stderr.strip()[-300:]}")
        return (Path(folder) / "image").read_bytes()


def check_refusals(served: Served, values: dict[str, Array]) -> int:
    """That bad requests are refused, with status 400 and a line that says why; their number."""
    right = served.request(values)
    bad = {**wrong_forms(right), **(wrong_values(right, served) if served.ours else {})}
    for what, inputs in bad.items():
        status, answer = served.send(inputs)
        message = answer.get("error") if isinstance(answer, dict) else None
        if status != 400 or not message or "\n" in message:
            raise CheckError(f"a request with {what} got {status}, {str(answer)[:200]}")
    status, answer = served.send(b'{"inputs": [')
    if status < 400:  # MLServer says 422, Triton 500
        raise CheckError(f"half a request got {status}, {str(answer)[:200]}")
    return len(bad) + 1


def spoiled(right: Inputs, name: str, **changes: Any) -> Inputs:
    """A request with one input changed."""
    return [given | changes if given["name"] == name else given for given in right]


def wrong_forms(right: Inputs) -> dict[str, Inputs]:
    """Requests that the protocol does not allow for this model."""
    bad: dict[str, Inputs] = {"no input": [], "an unknown input": [*right, right[0] | {"name": "x"}]}
    for given in right:
        name, shape = given["name"], given["shape"]
        bad[f"no {name}"] = [other for other in right if other is not given]
        bad[f"{name} of another type"] = spoiled(right, name, datatype="FP64")
        bad[f"{name} of another rank"] = spoiled(right, name, shape=[*shape, 1])
        if name == "z":
            bad["z of another size"] = spoiled(right, name, shape=[shape[0] * 2, shape[1] // 2])
    return bad


def wrong_values(right: Inputs, served: Served) -> dict[str, Inputs]:
    """Requests whose form is right."""
    classes = json.loads(served.metadata["dcgan.spec"])["num_classes"]
    most = read_json(HERE / "model-settings.json")["parameters"]["extra"]["max_images"]
    values = {
        "z": [None, 1e39, 3e38, -101.0],
        "label": [-2, classes, 1.5, 2**64 - 1],
        "seed": [-1, 2**64 - 1],
        "n": [0, most + 1],
    }
    bad: dict[str, Inputs] = {}
    for given in right:
        name, data = given["name"], given["data"]
        for value in ["text", *values[name]]:
            bad[f"{value} in {name}"] = spoiled(right, name, data=[*data[1:], value])
        bad[f"too many numbers in {name}"] = spoiled(right, name, data=[*data, 1])
        for count in (0, most + 1) if name == "z" else ():
            bad[f"{count} images"] = [
                other | {"shape": [count, *other["shape"][1:]], "data": (other["data"] * most)[: count * size]}
                for other, size in ((other, int(np.prod(other["shape"][1:]))) for other in right)
            ]
    return bad


def bench(served: Served) -> str:
    """What serving costs one client that asks for 16 images at a time, against a session here, measured in turns."""
    values = vectors_of(served)[0].feeds(served.names, n=16)
    rows = measure({"session": lambda: served.run(values), "server": lambda: served.infer(values)})
    ratio = statistics.median(
        server.rate / session.rate for session, server in zip(rows["session"], rows["server"], strict=True)
    )
    rates = {name: statistics.median(16 * burst.rate for burst in bursts) for name, bursts in rows.items()}
    least = {name: min(1e3 * burst.least for burst in bursts) for name, bursts in rows.items()}
    return (
        f"16 at a time: session {rates['session']:,.0f} images/s, served {rates['server']:,.0f}, ratio {ratio:.2f}; "
        f"the fastest took {least['session']:.1f} and {least['server']:.1f} ms, "
        f"ratio {least['session'] / least['server']:.2f}"
    )


if __name__ == "__main__":
    main()
