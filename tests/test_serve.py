"""dcgan-serve: pictures as dcgan-infer makes them, the Open Inference Protocol, batches, limits, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import os
import random
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import MODELS, ROOT

from dcgan_infer import ImageGenerator, cli
from dcgan_infer.contract.latents import latents
from dcgan_infer.contract.spec import GeneratorSpec
from dcgan_infer.runtime import Opened

for _package in ("starlette", "uvicorn", "orjson", "prometheus_client"):
    pytest.importorskip(_package)

from dcgan_infer.serve import app as app_module  # noqa: E402
from dcgan_infer.serve.app import App, Limits  # noqa: E402
from dcgan_infer.serve.batching import BatchedSession, BusyError, Room, open_batched  # noqa: E402
from dcgan_infer.serve.cli import main  # noqa: E402

DIGITS = "dcgan-mnist-conditional"
COLOUR = str(MODELS / "colour.onnx")
SERVING = ROOT / "examples" / "serving"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def asked(
    app: App, target: str, body: bytes | None = None, method: str = "", headers: dict[str, str] | None = None
) -> Answer:
    """What the application answers, without a socket."""
    parts = urlsplit(target)
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
        "method": method or ("GET" if body is None else "POST"), "path": parts.path, "raw_path": parts.path.encode(),
        "root_path": "", "query_string": parts.query.encode(), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        "headers": [(key.lower().encode(), value.encode()) for key, value in (headers or {}).items()],
    }  # fmt: skip
    sent: list[dict[str, Any]] = []
    received: list[bool] = []

    async def receive() -> dict[str, Any]:
        if received:  # then nothing comes but the end
            await asyncio.Event().wait()
        received.append(True)
        return {"type": "http.request", "body": body or b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(dict(message))

    await app(scope, receive, send)  # type: ignore[arg-type, unused-ignore]
    found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], found, b"".join(part.get("body", b"") for part in sent[1:]))


def ask(app: App, target: str, body: bytes | None = None, **more: Any) -> Answer:
    return asyncio.run(asked(app, target, body, **more))


def app_of(model: str, limits: Limits | None = None, site: Path | None = None) -> App:
    limits = limits or Limits()
    return App(*open_batched(model, "cpu", 1, limits.batch), limits, site)


@pytest.fixture(scope="module")
def apps() -> Iterator[dict[str, App]]:
    made = {model: app_of(model) for model in (DIGITS, "dcgan-mnist", COLOUR)}
    yield made
    for app in made.values():
        app.close()


@pytest.fixture(scope="module")
def digits(apps: dict[str, App]) -> App:
    return apps[DIGITS]


def infer(*words: str) -> str:
    """The error of a dcgan-infer, without its first words."""
    done = CliRunner().invoke(cli.main, [*words, "--out", "-"])
    assert done.exit_code in (1, 2)
    return done.stderr.splitlines()[-1].removeprefix("Error: ")


@pytest.mark.parametrize(
    ("model", "query", "options"),
    [
        (DIGITS, "", ""),
        (DIGITS, "seed=7&n=5&start=3", "--seed 7 --n 5 --start 3"),
        (DIGITS, "n=20&columns=3&scale=2", "--n 20 --grid 7x3 --scale 2"),
        (DIGITS, "digits=0123456789&n=40", "--digits 0123456789 --n 40"),
        (DIGITS, "digit=7&truncation=0.5", "--digit 7 --truncation 0.5"),
        (DIGITS, "class=3&class=5&class=8", "--class 3 --class 5 --class 8"),
        (DIGITS, f"seed={2**63 - 1}&start={2**32 - 2}&n=2", f"--seed {2**63 - 1} --start {2**32 - 2} --n 2"),
        (DIGITS, "text=2026-11-25&seed=3", "--text 2026-11-25 --seed 3"),
        (COLOUR, "n=4&scale=3", "--n 4 --scale 3"),
    ],
)
def test_a_picture_is_that_of_the_command(
    model: str, query: str, options: str, apps: dict[str, App], tmp_path: Path
) -> None:
    """To the byte: pixels, and what the text chunks say."""
    out = tmp_path / "grid.png"
    done = CliRunner().invoke(cli.main, ["--model", model, "--threads", "1", "-o", str(out), *options.split()])
    assert done.exit_code == 0, done.stderr
    answer = ask(apps[model], f"/image.png?{query}")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert answer.body == out.read_bytes()


@pytest.mark.parametrize(
    "option", ["n=0", "n=x", "seed=-1", f"seed={2**63}", f"start={2**32}", "scale=65", "truncation=nan", "truncation=3",
               "digits=x", "digit=-1", "digits=", "class=zebra"],
)  # fmt: skip
def test_what_is_out_of_range_is_said_as_the_command_says_it(option: str, digits: App) -> None:
    answer = ask(digits, f"/image.png?{option}")
    assert answer.status == 400
    assert answer.json == {"error": infer(f"--{option}").replace("'-n' / ", "").replace("--", "")}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("n=101", "n 101 is more than the 100 images of a request; ask several times, with start."),
        ("text=7&columns=1", "leave columns out"),
        ("steps=3", "There is no parameter 'steps'"),
        ("help=", "There is no parameter 'help'"),
        ("seed=1&seed=2", "seed is given several times"),
        ("digit=1&digits=2", "digit and digits exclude each other"),
        ("digit=1&class=2", "class and digits exclude each other"),
        (f"start={2**32 - 1}", "goes past the last latent"),
        ("columns=0", "Invalid value for 'columns': 0 is not from 1 to 100"),
        ("columns=x", "Invalid value for 'columns': 'x' is not a valid integer"),
        ("scale=64&n=100", "more than 4,194,304 pixels"),
        ("columns=100&n=1&scale=50", "more than 4,194,304 pixels"),
        ("class=%00%ff", "no class"),
        ("class=--seed", "'--seed'"),
        ("seed=--n", "Invalid value for 'seed': '--n' is not a valid integer"),
    ],
)
def test_what_the_server_refuses_is_one_line(query: str, said: str, digits: App) -> None:
    answer = ask(digits, f"/image.png?{query}")
    assert answer.status == 400
    assert said in answer.json["error"]
    assert answer.json["error"].isprintable()


def test_a_class_of_a_model_without_any_is_the_client_s_fault(apps: dict[str, App]) -> None:
    answer = ask(apps["dcgan-mnist"], "/image.png?class=3")
    assert answer.status == 400
    assert "is unconditional" in answer.json["error"]


def test_images_that_are_no_pictures_come_by_the_protocol_alone() -> None:
    app = app_of(str(MODELS / "four.onnx"))
    answer = ask(app, "/image.png")
    assert answer.status == 400
    assert "pictures are grey or have 3 channels, and this model's have 4" in answer.json["error"]
    z = {"name": "z", "datatype": "FP32", "shape": [1, 5], "data": [0.0] * 5}
    answer = ask(app, "/v2/models/four/infer", json.dumps({"inputs": [z]}).encode())
    assert answer.json["outputs"][0]["shape"] == [1, 4, 4, 6]


def test_a_picture_that_a_client_has_is_not_made_again(digits: App) -> None:
    first = ask(digits, "/image.png?seed=3&n=4")
    made = digits.room.taken, images_of(digits)
    tag = first.headers["etag"]
    for wanted in (tag, f'"x", {tag}', "*"):
        again = ask(digits, "/image.png?n=4&seed=3", headers={"If-None-Match": wanted})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert (digits.room.taken, images_of(digits)) == made
    for other in ("seed=4&n=4", "seed=3&n=5", "seed=3&n=4&class=1", "seed=3&n=4&scale=2", "seed=3&n=4&truncation=1"):
        assert ask(digits, f"/image.png?{other}", headers={"If-None-Match": tag}).status == 200


def images_of(app: App) -> float:
    """Images that its metrics count."""
    found = re.search(rb"^dcgan_images_total (\S+)$", ask(app, "/metrics").body, re.MULTILINE)
    assert found
    return float(found[1])


def body_of(n: int, **changes: Any) -> bytes:
    z = latents(5, 0, n, 100)
    request = {"inputs": [
        {"name": "z", "datatype": "FP32", "shape": [n, 100], "data": z.ravel().tolist()},
        {"name": "label", "datatype": "INT64", "shape": [n], "data": [i % 10 for i in range(n)]},
    ]}  # fmt: skip
    return json.dumps(request | changes).encode()


INFER = f"/v2/models/{DIGITS}/infer"


def test_the_protocol_answers_with_what_the_model_gives(digits: App) -> None:
    answer = ask(digits, INFER, body_of(20, id="mine"))
    assert answer.status == 200
    assert (answer.json["id"], answer.json["model_name"]) == ("mine", DIGITS)
    (output,) = answer.json["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("image", "FP32", [20, 1, 28, 28])
    generator = ImageGenerator(DIGITS, threads=1)
    images = generator.pictures(np.array(output["data"], np.float32).reshape(output["shape"]))
    np.testing.assert_array_equal(images, generator.generate_from(latents(5, 0, 20, 100), [i % 10 for i in range(20)]))


def test_data_may_be_nested(digits: App) -> None:
    request = json.loads(body_of(3))
    request["inputs"][0]["data"] = np.reshape(request["inputs"][0]["data"], (3, 100)).tolist()
    assert ask(digits, INFER, json.dumps(request).encode()).body == ask(digits, INFER, body_of(3)).body


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"[" * 5000 + b"]" * 5000, "not JSON"),
        (b"[]", "a request is a JSON object"),
        (b"{}", "inputs of a request must be a list"),
        (b'{"inputs": [], "id": 3}', "an id, which is a text"),
        (b'{"inputs": [1]}', "inputs of a request must be a list of objects"),
        (body_of(1, outputs=[{"name": "x"}]), "this model gives image, asked for x"),
        (body_of(0), "1 to 100 images, found 0"),
        (body_of(1).replace(b'"data": [0]', b'"data": [true]'), "data of label must be numbers of INT64"),
        (body_of(1).replace(b"[1]", b"[2]").replace(b"[0]", b"[0, 1]"), "there are 2 labels for 1 latents"),
        (body_of(101), "1 to 100 images, found 101"),
    ],
)
def test_what_is_no_request_is_one_line(body: bytes, said: str, digits: App) -> None:
    answer = ask(digits, INFER, body)
    assert answer.status == 400
    assert said in answer.json["error"]
    assert answer.json["error"].isprintable()


def test_any_body_is_answered(digits: App) -> None:
    """Right ones with a part replaced: made, or refused in a line."""
    rng = random.Random(0)
    odd: list[Any] = [
        None, True, -1, 0, 1.5, 2**63, 2**64, 1e39, "z", "\ud800", [], {}, [[]], [[1], [1, 2]], {"a": 1}, [None], -2**63
    ]  # fmt: skip
    statuses = set()
    for _ in range(300):
        request = json.loads(body_of(2))
        where: Any = request
        while True:
            key = rng.choice(list(where) if isinstance(where, dict) else range(len(where)))
            if not isinstance(where[key], dict | list) or not where[key] or rng.random() < 0.3:
                where[key] = rng.choice(odd)
                break
            where = where[key]
        body = bytearray(json.dumps(request).encode())
        if rng.random() < 0.2:
            body[rng.randrange(len(body))] = rng.randrange(256)
        answer = ask(digits, INFER, bytes(body))
        statuses.add(answer.status)
        assert answer.status in (200, 400), (bytes(body), answer)
        if answer.status == 400:
            assert answer.json["error"].isprintable()
    assert statuses == {200, 400}
    assert digits.room.taken == 0


def test_a_body_is_limited_in_size_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_of(DIGITS, Limits(images=1, queue=1))
    answer = ask(app, INFER, b" " * 100_000)
    assert (answer.status, "bytes at most" in answer.json["error"]) == (413, True)

    class Slow:
        def __aiter__(self) -> Slow:
            return self

        async def __anext__(self) -> bytes:
            await asyncio.sleep(60)
            return b""

    monkeypatch.setattr(app_module, "_BODY_SECONDS", 0.05)
    monkeypatch.setattr("starlette.requests.Request.stream", lambda _self: Slow())
    assert ask(app, INFER, b"").status == 408


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("/nothing", "GET", 404), ("/v2/models/other", "GET", 404), ("/v2/models/other/infer", "POST", 404),
        ("/v2/models/other/ready", "GET", 404), ("/image.png", "POST", 405), (INFER, "GET", 405), ("/v2/", "GET", 404),
    ],
)  # fmt: skip
def test_other_addresses_are_refused_in_the_same_form(target: str, method: str, status: int, digits: App) -> None:
    answer = ask(digits, target, b"", method=method)
    assert answer.status == status
    assert answer.json["error"]
    assert (status != 404) or "/openapi.json lists" in answer.json["error"] or "no such model" in answer.json["error"]
    assert answer.headers["content-type"] == "application/json"
    assert (status == 405) == ("allow" in answer.headers)


def test_every_answer_has_the_headers_of_security(digits: App) -> None:
    for target in ("/", "/image.png", "/image.png?n=0", "/nothing", "/metrics", "/openapi.json"):
        headers = ask(digits, target).headers
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    index = ask(digits, "/", headers={"Host": "evil.example"})
    assert "default-src 'none'" in index.headers["content-security-policy"]
    assert b"evil" not in index.body


def test_metrics_say_what_was_done() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    app = app_of(DIGITS)
    for target in ("/image.png?n=5", "/image.png?n=0", "/nothing", "/v2/health/live"):
        ask(app, target)
    text = ask(app, "/metrics").body.decode()
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["dcgan_requests_total", "/image.png", "200"] == 1
    assert values["dcgan_requests_total", "/image.png", "400"] == 1
    assert values["dcgan_requests_total", "404", "other"] == 1
    assert values["dcgan_request_seconds_count", "/image.png"] == 2
    assert values["dcgan_request_seconds_bucket", "+Inf", "/image.png"] == 2
    assert values["dcgan_images_total",] == 6  # one of the start
    assert values["dcgan_batches_total",] == 2
    assert values["dcgan_queue_images",] == 0
    assert values["dcgan_queue_limit_images",] == 1024


class Counting:
    """A session that doubles latents, slowly, and fails of a 666."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.sizes: list[int] = []
        self._seconds = seconds

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="z")]

    def run(self, _outputs: list[str], feeds: dict[str, Any]) -> list[Any]:
        self.sizes.append(len(feeds["z"]))
        time.sleep(self._seconds)
        if (feeds["z"] == 666).any():
            raise RuntimeError("the beast")
        return [2 * feeds["z"]]


def calls(session: BatchedSession, rows: list[Any]) -> list[Any]:
    """What each of several calls at a time gets: rows, or what was raised."""

    def one(z: Any) -> Any:
        try:
            return session.run(["image"], {"z": z})[0]
        except RuntimeError as error:
            return error

    with ThreadPoolExecutor(len(rows)) as pool:
        return list(pool.map(one, rows))


def test_calls_at_a_time_run_together_and_each_gets_its_own() -> None:
    counting = Counting()
    rows = [np.full((1 + i % 5, 3), i, np.float32) for i in range(40)]
    for got, given in zip(calls(BatchedSession(counting, 8), rows), rows, strict=True):
        np.testing.assert_array_equal(got, 2 * given)
    assert sum(counting.sizes) == sum(map(len, rows))
    assert max(counting.sizes) <= 8
    assert len(counting.sizes) < 30  # of 40 calls


def test_one_call_alone_waits_for_nobody() -> None:
    session = BatchedSession(Counting(0.0), 64)
    began = time.perf_counter()
    for _ in range(50):
        session.run(["image"], {"z": np.zeros((1, 3), np.float32)})
    assert time.perf_counter() - began < 1.0  # a wait of 20 ms would make it one second
    assert session.batches == 50


def test_a_call_that_fails_does_not_fail_those_beside_it() -> None:
    rows = [np.full((1, 3), 666 if i == 5 else i, np.float32) for i in range(12)]
    found = calls(BatchedSession(Counting(), 16), rows)
    assert isinstance(found.pop(5), RuntimeError)
    rows.pop(5)
    np.testing.assert_array_equal(found, 2 * np.array(rows))


def test_a_model_that_fails_is_the_server_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, session = open_batched(DIGITS, "cpu", 1, 16)
    app = App(generator, session, Limits())

    def fail(*_: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(session, "_session", SimpleNamespace(run=fail))
    for answer in (ask(app, "/image.png"), ask(app, INFER, body_of(1))):
        assert answer.status == 500
        assert "failed while running: no memory" in answer.json["error"]
    assert app.room.taken == 0


def test_damaged_weights_are_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from dcgan_infer import runtime

    right = runtime.open_session

    def damaged(*args: Any, **options: Any) -> Opened:
        opened = right(*args, **options)
        session = opened.session
        broken = SimpleNamespace(
            **{name: getattr(session, name) for name in ("get_inputs", "get_outputs", "get_modelmeta")},
            run=lambda names, feeds: [np.full_like(each, np.nan) for each in session.run(names, feeds)],
        )
        return opened._replace(session=broken)

    monkeypatch.setattr(runtime, "open_session", damaged)
    with pytest.raises(ValueError, match="returned NaN or infinity"):
        open_batched(DIGITS, "cpu", 1, 16)


def test_threads_do_not_spin() -> None:
    """They would take the cores from whatever runs beside the server."""
    generator, session = open_batched(DIGITS, "cpu", 2, 16)
    options = session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert (options.intra_op_num_threads, generator.threads) == (2, 2)


def test_room_is_given_back_whatever_happens() -> None:
    room = Room(3)
    with room.hold(2), pytest.raises(BusyError, match="2 images are being made or wait, and 3 may"), room.hold(2):
        pass
    with pytest.raises(KeyError), room.hold(3):
        raise KeyError
    assert room.taken == 0


def test_a_full_queue_says_when_to_come_again() -> None:
    app = app_of(DIGITS, Limits(images=16, queue=20))

    async def crowd() -> list[Answer]:
        targets = [asked(app, f"/image.png?n=16&seed={seed}") for seed in range(8)]
        return await asyncio.gather(*targets, asked(app, INFER, body_of(16)), asked(app, "/v2/health/ready"))

    *crowded, ready = asyncio.run(crowd())
    statuses = [answer.status for answer in crowded]
    assert (statuses.count(200), statuses.count(503), ready.status) == (1, 8, 200)
    assert all(answer.headers["retry-after"] == "1" for answer in crowded if answer.status == 503)
    assert ask(app, "/image.png?n=16&seed=7").status == 200


def test_images_are_equal_alone_and_beside_others(digits: App) -> None:
    targets = [f"/image.png?seed={seed}&n={1 + seed % 7}" for seed in range(32)]
    alone = [ask(digits, target).body for target in targets]

    async def crowd() -> list[Answer]:
        bad = [asked(digits, "/image.png?n=0"), asked(digits, INFER, b"{")]
        return await asyncio.gather(*(asked(digits, target) for target in targets), *bad)

    assert [answer.body for answer in asyncio.run(crowd())[:-2]] == alone


def site_of(folder: Path) -> Path:
    site = folder / "site"
    (site / "runtime").mkdir(parents=True)
    for name, text in {"index.html": "<p>page", "page.js": "1", "runtime/a.wasm": "\0asm", "model.onnx": "m"}.items():
        (site / name).write_text(text)
    (folder / "secret").write_text("secret")
    (site / "link").symlink_to(folder / "secret")
    return site


def test_a_site_is_served_and_nothing_beside_it(tmp_path: Path) -> None:
    app = app_of(DIGITS, site=site_of(tmp_path))
    kinds = {
        "/": "text/html; charset=utf-8", "/index.html": "text/html; charset=utf-8",
        "/runtime/a.wasm": "application/wasm", "/page.js": "text/javascript; charset=utf-8",
        "/model.onnx": "application/octet-stream",
    }  # fmt: skip
    for target, kind in kinds.items():
        answer = ask(app, target)
        assert (answer.status, answer.headers["content-type"]) == (200, kind)
    assert ask(app, "/image.png").status == ask(app, "/v2").status == 200
    for target in ("/../secret", "/runtime/../../secret", "//etc/passwd", "/%2e%2e/secret", "/link", "/..\\secret",
                   "/runtime", "/runtime/", f"/{tmp_path}/secret", "/a\0b", "/" + "x" * 5000):  # fmt: skip
        for path in (target, target.replace("%2e", ".")):
            answer = ask(app, path, headers={"Host": "evil.example"})
            assert answer.status in (400, 404), path
            assert b"secret" not in answer.body
            assert "location" not in answer.headers


# The rest is about a process.


@contextlib.contextmanager
def serving(*options: str, model: str = DIGITS) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server that is ready, and its address."""
    command = [sys.executable, "-c", "from dcgan_infer.serve.cli import main; main()", model, "--port", "0"]
    with subprocess.Popen(
        [*command, "--threads", "1", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            assert process.stderr
            line = process.stdout.readline()
            found = re.fullmatch(r"serving \S+ on (http://127\.0\.0\.1:\d+)\n", line)
            assert found, line + process.stderr.read()
            yield process, found[1]
        finally:
            process.kill()


def get(url: str, target: str, **headers: str) -> Answer:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str, str]:
    process.send_signal(number)
    out, errors = process.communicate(timeout=40)
    return process.returncode, out, errors


def test_the_model_of_a_folder_is_called_after_it(tmp_path: Path) -> None:
    folder = tmp_path / "icons"
    folder.mkdir()
    shutil.copy(COLOUR, folder / "model.onnx")
    with serving(model=str(folder)) as (_, url):
        assert get(url, "/v2/models/icons").json["name"] == "icons"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0(number: int) -> None:
    with serving() as (process, url):
        assert get(url, "/image.png", Host="evil.example/..").status == 200
        assert end(process, number) == (0, "", "")


def test_requests_that_have_begun_are_answered_before_the_end() -> None:
    """Many clients, each request on a connection of its own: those that got through get their whole image."""
    outcomes: list[str] = []
    stop = threading.Event()

    def client(seed: int, url: str) -> None:
        while not stop.is_set():
            try:
                answer = get(url, f"/image.png?seed={seed}&n=8")
                outcomes.append("made" if answer.body.endswith(b"IEND\xaeB`\x82") else "cut")
            except (ConnectionError, TimeoutError, http.client.RemoteDisconnected):
                outcomes.append("refused")
                return
            except http.client.HTTPException:
                outcomes.append("cut")

    with serving("--verbose") as (process, url), ThreadPoolExecutor(16) as pool:
        for seed in range(16):
            pool.submit(client, seed, url)
        deadline = time.monotonic() + 60
        while len(outcomes) < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        status, out, _ = end(process)
        stop.set()
    assert status == 0
    assert "cut" not in outcomes
    assert outcomes.count("made") == out.count('" 200') >= 40


def test_no_answer_waits_for_an_acknowledgement() -> None:
    """Of 20 on one connection the fastest takes a millisecond or so, and 40 where Nagle's algorithm holds it up."""
    with serving() as (_, url):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        with contextlib.closing(connection):
            spent = []
            for _ in range(20):
                began = time.perf_counter()
                connection.request("GET", "/v2/health/live")
                connection.getresponse().read()
                spent.append(time.perf_counter() - began)
    assert min(spent[1:]) < 0.03


def test_a_second_signal_ends_it_at_once() -> None:
    with (
        serving("--max-images", "4000", "--queue", "4000") as (process, url),
        socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as connection,
    ):
        connection.sendall(b"GET /image.png?n=4000 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        assert end(process) == (128 + signal.SIGTERM, "", "\nstopped\n")


def test_a_line_for_each_request_only_where_it_is_asked_for() -> None:
    with serving() as (process, url):
        get(url, "/image.png")
        with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as connection:
            connection.sendall(b"no HTTP at all\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
        assert end(process) == (0, "", "")


def test_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(main, ["--port", port])
    assert done.exit_code == 1
    assert done.stderr == (
        f"Error: can't listen on 127.0.0.1:{port}: address already in use; choose another --host or --port\n"
    )


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["none.onnx"], 1, "there is no model 'none.onnx'"),
        (["--host", "256.0.0.1"], 1, "can't listen on 256.0.0.1:0: "),
        (["--host", ""], 2, "--host is empty"),
        (["--queue", "10"], 2, "--queue 10 has no room for a request of --max-images 100."),
        (["--site", str(ROOT / "tests")], 2, "holds no index.html"),
        (["--provider", "cuda9"], 1, "has no provider 'cuda9'"),
    ],
)
def test_what_can_not_be_served_is_one_line(words: list[str], status: int, said: str) -> None:
    done = CliRunner().invoke(main, ["--port", "0", *words])
    assert done.exit_code == status
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_package_that_is_missing_is_one_line(tmp_path: Path) -> None:
    code = f"import sys; sys.modules['starlette'] = None; from dcgan_infer.serve.cli import main; main(['{DIGITS}'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install 'dcgan-toolkit[serve]'" in done.stderr


def test_what_serves_the_protocol_elsewhere_is_held_against_it_here() -> None:
    """examples/serving/serve_check.py, with what it asks of our own runtime behind MLServer; its client.py too."""
    check = runpy.run_path(str(SERVING / "serve_check.py"))
    with serving("--max-images", "64") as (process, url):
        served = check["Served"](url, DIGITS, ROOT / "models" / f"{DIGITS}.onnx", check["VECTORS"], ours=True)
        assert "bad requests refused" in check["check"](served, None, None)
        assert end(process) == (0, "", "")


def write_seeded(path: Path) -> Path:
    """A model that takes a seed as dcgan-export writes them, but whose images are of one level each."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    node = helper.make_node
    nodes = [
        node("ReduceSum", ["label"], ["labels"], keepdims=0),
        node("Add", ["seed", "labels"], ["sum"]),
        node("Mod", ["sum", "levels"], ["level"]),
        node("Cast", ["level"], ["grey"], to=kinds.UINT8),
        node("Reshape", ["n", "one"], ["count"]),
        node("Concat", ["count", "sides"], ["shape"], axis=0),
        node("Expand", ["grey", "shape"], ["image"]),
    ]
    constants = {"levels": np.array(256), "one": np.array([1]), "sides": np.array([4, 4])}
    graph = helper.make_graph(
        nodes, "seeded",
        [helper.make_tensor_value_info(name, kinds.INT64, shape) for name, shape in
         {"seed": [], "n": [], "label": ["labels_asked"]}.items()],
        [helper.make_tensor_value_info("image", kinds.UINT8, ["batch", 4, 4])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"dcgan.spec": GeneratorSpec(5, (1, 4, 4), 3).to_json()})
    onnx.save(model, path)
    return path


def test_a_model_that_takes_a_seed_is_served(tmp_path: Path) -> None:
    path = write_seeded(tmp_path / "seeded.onnx")
    check = runpy.run_path(str(SERVING / "serve_check.py"))
    with serving("--max-images", "64", model=str(path)) as (process, url):
        served = check["Served"](url, "seeded", path, check["VECTORS"], ours=True)
        values = {"seed": np.array(7), "n": np.array(20), "label": np.array([1, -1])}
        np.testing.assert_array_equal(served.infer(values), served.run(values))
        assert check["check_refusals"](served, values) > 10
        status, answer = served.send(served.request(values | {"label": np.zeros(65, np.int64)}))
        assert (status, "label has up to 64 numbers" in answer["error"]) == (400, True)
        assert get(url, "/image.png?seed=7&n=10&start=54").status == 200
        refused = get(url, "/image.png?seed=7&n=10&start=55")
        assert (refused.status, b"64 at most" in refused.body) == (400, True)
        assert get(url, "/image.png?truncation=0.5").status == 400
        assert end(process) == (0, "", "")


def test_the_description_is_true(tmp_path: Path) -> None:
    """By schemathesis, which asks what it allows and what it does not.

    Not that all it allows is accepted: a schema can't say that the numbers of two lists agree, or that digit and class
    exclude each other.
    """
    pytest.importorskip("schemathesis")
    with serving() as (process, url):
        program = Path(sys.executable).parent / "schemathesis"
        words = ["run", f"{url}/openapi.json", "--checks", "all", "--exclude-checks", "positive_data_acceptance"]
        limits = ["--max-examples", "5", "--seed", "1", "--phases", "coverage,fuzzing", "--no-color", "--workers", "2"]
        done = subprocess.run(
            [program, *words, *limits], cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr
        status, _, errors = end(process)
        assert (status, errors) == (0, "")


def test_the_index_has_addresses_that_work(digits: App) -> None:
    index = ask(digits, "/").body.decode()
    targets = [each.replace("&amp;", "&") for each in re.findall(r'(?:href|src)="([^"]+)"', index)]
    assert len(targets) > 4
    for target in targets:
        assert ask(digits, f"/{target}").status == 200


def test_pictures_open(digits: App) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(ask(digits, "/image.png?n=6&columns=2&scale=3").body)) as picture:
        assert picture.size == (2 * 28 * 3, 3 * 28 * 3)
        assert picture.info["dcgan.grid"] == "3x2"


def dockerfile() -> list[tuple[str, str]]:
    text = (SERVING / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.partition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in lines]


def test_the_container_is_made_of_what_there_is() -> None:
    """Docker itself is not run: that its paths exist, its extras and its command do, and that nobody is root."""
    steps = dockerfile()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    copied = [rest.split()[:-1] for word, rest in steps if word == "COPY" and not rest.startswith("--from")]
    sources = {source for each in copied for source in each}
    assert all((ROOT / source).exists() for source in sources)
    roots = {folder.partition("/")[0] for folder in project["tool"]["setuptools"]["package-dir"].values()} | {"dcgan"}
    assert sources == roots | {"pyproject.toml", "README.md", "LICENSE"}  # all that a wheel is made of
    (install,) = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    (extras,) = re.findall(r"\[([\w,]+)\]", install)
    assert set(extras.split(",")) == {"cpu", "serve"} <= set(project["project"]["optional-dependencies"])
    last = dict(steps)
    assert not last["USER"].startswith(("0", "root"))
    program, *options = json.loads(last["CMD"])
    assert program in project["project"]["scripts"]
    with main.make_context(program, options) as context:
        assert (context.params["host"], str(context.params["port"])) == ("0.0.0.0", last["EXPOSE"])
    python, dash, code = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    assert (python, dash) == ("python", "-c")
    with serving() as (_, url):
        for address, status in ((url, 0), ("http://127.0.0.1:1", 1)):
            health = code.replace("http://127.0.0.1:8000", address)
            done = subprocess.run([sys.executable, "-c", health], capture_output=True, check=False)
            assert done.returncode == status


def test_the_benchmark_measures(tmp_path: Path) -> None:
    import serving as benchmark

    out = tmp_path / "figures.json"
    done = CliRunner().invoke(benchmark.main, ["--quick", "--clients", "2", "--json", str(out)])
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["clients"]["2"]
    assert rows["dcgan-serve, infer"]["ratio"] == 1
    assert all(row["images_per_second"] > 0 and 0 < row["median_ms"] <= row["p99_ms"] for row in rows.values())
