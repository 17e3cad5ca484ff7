"""What a server costs under load: python benchmarks/serving.py --mlserver FOLDER/venv/bin/mlserver

dcgan-serve, and MLServer with examples/serving/runtime.py where its program is named (serve_check.py makes its
environment), of the same model with the same threads. At each number of clients the servers take turns in bursts; each
client asks for one request after the other on a connection of its own, by the Open Inference Protocol in JSON, and of
dcgan-serve also by /image.png. Rates are images a second, and ratios are to the first row of the same run. Client and
servers share the machine, which must do nothing else.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from dcgan_infer.model import open_model, read_model

SERVING = Path(__file__).resolve().parents[1] / "examples" / "serving"
WAIT = 120.0  # seconds for a server to be ready

Ask = Callable[[http.client.HTTPConnection, int], http.client.HTTPResponse]


@contextlib.contextmanager
def ended(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextlib.contextmanager
def ours(model: Path, threads: int, *options: str) -> Iterator[int]:
    """The port of a dcgan-serve."""
    words = ["-c", "from dcgan_infer.serve.cli import main; main()", str(model), "--threads", str(threads)]
    command = [sys.executable, *words, "--port", "0", "--provider", "cpu", *options]
    with ended(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        line = process.stdout.readline()
        found = re.search(r":(\d+)$", line.strip())
        if found is None:
            raise click.ClickException(f"dcgan-serve does not start: {line or 'it says nothing'}")
        yield int(found[1])


@contextlib.contextmanager
def mlserver(program: str, model: Path) -> Iterator[int]:
    """The port of an MLServer."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [each.getsockname()[1] for each in sockets]
        settings = json.loads((SERVING / "settings.json").read_text())
        settings |= dict(zip(("http_port", "grpc_port", "metrics_port"), ports, strict=True))
        about = json.loads((SERVING / "model-settings.json").read_text()) | {"name": model.stem}
        about["parameters"]["uri"] = str(model.resolve())
        Path(folder, "settings.json").write_text(json.dumps(settings))
        Path(folder, "model-settings.json").write_text(json.dumps(about))
        for each in sockets:
            each.close()
        surroundings = os.environ | {"PYTHONPATH": str(SERVING)}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        stack.enter_context(ended([program, "start", folder], cwd=folder, env=surroundings, **quiet))
        deadline = time.monotonic() + WAIT
        while not ready(ports[0], model.stem):
            if time.monotonic() > deadline:
                raise click.ClickException("MLServer does not get ready; try examples/serving/serve_check.py")
            time.sleep(0.2)
        yield ports[0]


def ready(port: int, name: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("GET", f"/v2/models/{name}/ready")
        return connection.getresponse().status == 200
    return False


def load(port: int, clients: int, seconds: float, ask: Ask) -> tuple[float, list[float]]:
    """Requests a second, and seconds of each."""
    began = time.perf_counter()

    def client(number: int) -> list[float]:
        spent: list[float] = []
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            while (start := time.perf_counter()) < began + seconds:
                answer = ask(connection, number + clients * len(spent))
                answer.read()
                if answer.status != 200:
                    raise click.ClickException(f"a request got status {answer.status}")
                spent.append(time.perf_counter() - start)
        return spent

    with ThreadPoolExecutor(clients) as pool:
        spent = [each for part in pool.map(client, range(clients)) for each in part]
    return len(spent) / (time.perf_counter() - began), spent


def by_protocol(path: Path, images: int) -> Ask:
    model = open_model(path)
    inputs = []
    for name, values in model.feeds_of_seed(0, images).items():
        kind = "FP32" if values.dtype.kind == "f" else "INT64"
        inputs.append({"name": name, "datatype": kind, "shape": values.shape, "data": values.ravel().tolist()})
    body, headers = json.dumps({"inputs": inputs}).encode(), {"Content-Type": "application/json"}

    def ask(connection: http.client.HTTPConnection, _number: int) -> http.client.HTTPResponse:
        connection.request("POST", f"/v2/models/{path.stem}/infer", body, headers)
        return connection.getresponse()

    return ask


def by_address(images: int) -> Ask:
    def ask(connection: http.client.HTTPConnection, number: int) -> http.client.HTTPResponse:
        connection.request("GET", f"/image.png?n={images}&seed={number}")
        return connection.getresponse()

    return ask


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", default="dcgan-mnist-conditional", show_default=True, help="As dcgan-serve takes it.")
@click.option("--mlserver", "program", type=click.Path(exists=True, dir_okay=False), help="Its program, to compare.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of dcgan-serve's session.")
@click.option("--images", type=click.IntRange(1, 64), default=1, show_default=True, help="In a request.")
@click.option("--clients", "numbers", multiple=True, type=click.IntRange(1), default=(1, 16, 64), show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--seconds", type=float, default=1.0, show_default=True, help="Of a burst.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here.")
@click.option("--quick", is_flag=True, help="Try the script: one short burst, figures that mean nothing.")
def main(
    model: str, program: str | None, threads: int, images: int, numbers: tuple[int, ...], rounds: int, seconds: float,
    out: Path | None, quick: bool,
) -> None:  # fmt: skip
    """Load servers with clients, and print images a second and seconds of a request."""
    if quick:
        rounds, seconds = 1, 0.3
    path, _ = read_model(model)
    protocol = by_protocol(path, images)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(ours(path, threads))
        rows: dict[str, tuple[int, Ask]] = {"dcgan-serve, infer": (port, protocol)}
        rows["dcgan-serve, image.png"] = (port, by_address(images))
        alone = stack.enter_context(ours(path, threads, "--max-batch", "1"))
        rows["dcgan-serve --max-batch 1, infer"] = (alone, protocol)
        if program:
            rows["MLServer, infer"] = (stack.enter_context(mlserver(program, path)), protocol)
        for clients in numbers:
            rates: dict[str, list[float]] = {name: [] for name in rows}
            spent: dict[str, list[float]] = {name: [] for name in rows}
            for turn in range(rounds + 1):  # the first one warms up
                names = list(rows)[turn % len(rows) :] + list(rows)[: turn % len(rows)]
                for name in names:
                    time.sleep(0.0 if quick else 0.25)
                    rate, each = load(rows[name][0], clients, seconds, rows[name][1])
                    if turn:
                        rates[name].append(rate * images)
                        spent[name] += each
            first = rates[next(iter(rows))]
            found = {}
            for name in rows:
                cuts = statistics.quantiles(spent[name], n=100) if len(spent[name]) > 1 else spent[name] * 99
                ratio = statistics.median(rate / one for rate, one in zip(rates[name], first, strict=True))
                found[name] = {
                    "images_per_second": statistics.median(rates[name]), "best": max(rates[name]), "ratio": ratio,
                    "median_ms": 1e3 * cuts[49], "p99_ms": 1e3 * cuts[98],
                }  # fmt: skip
            figures[str(clients)] = found
            click.echo(
                f"\n| {clients} clients, {images} images a request | images/s | best | ratio | median ms | p99 |"
            )
            click.echo("|---|---|---|---|---|---|")
            for name, row in found.items():
                click.echo(f"| {name} | " + " | ".join(f"{value:,.2f}" for value in row.values()) + " |")
    if out:
        out.write_text(json.dumps({"threads": threads, "images": images, "clients": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
