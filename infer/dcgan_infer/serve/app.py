"""The routes of the server, its limits and its metrics. Errors are JSON, `{"error": "one line"}`, at every address."""

from __future__ import annotations

import asyncio
import html
import mimetypes
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import orjson
import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from .. import __version__
from ..contract.errors import DcganError, ModelError, OutputError
from ..generator import ImageGenerator
from . import openapi, picture, protocol
from .batching import BatchedSession, BusyError, Room

_BODY_SECONDS = 30.0  # in which a body has to come
# Of an answer that says nothing else. The site has a policy of its own, which it states itself.
_POLICY = "default-src 'none'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
_TYPES = {".js": "text/javascript", ".wasm": "application/wasm", ".onnx": "application/octet-stream"}


@dataclass(frozen=True)
class Limits:
    """What a client may have.

    Attributes:
        images: in a request.
        queue: images in hand, of all clients; as many as `images` or more.
        batch: images at a time.
    """

    images: int = 100
    queue: int = 1024
    batch: int = 16


class App:
    """The server as an ASGI application (https://asgi.readthedocs.io).

    Attributes:
        room: images in hand.
    """

    def __init__(
        self, generator: ImageGenerator, session: BatchedSession, limits: Limits, site: Path | None = None
    ) -> None:
        """
        Args:
            generator: that makes the images, through `session`.
            session: of it.
            limits: of clients.
            site: folder of a page to serve at `/`, as `dcgan-export --target web` writes it.
        """
        self._generator = generator
        self._limits = limits
        self.room = Room(limits.queue)
        # Of these, some wait for a batch while others draw latents and encode.
        self._threads = ThreadPoolExecutor(min(64, 2 * limits.batch), "image")
        # A number of a latent in JSON takes 25 bytes at most where nobody pads it.
        self._most_bytes = (1 << 16) + limits.images * 32 * (generator.spec.latent_dim + 1)
        self._metrics = Metrics(session, self.room)
        model = "/v2/models/{name}"
        routes = {
            "/image.png": self._picture,
            "/metrics": self._measured,
            "/openapi.json": self._described,
            "/v2": self._server,
            "/v2/health/live": self._live,
            "/v2/health/ready": self._ready,
            model: self._model,
            f"{model}/ready": self._model_ready,
        }
        self._paths = {route.__name__: path for path, route in routes.items()} | {"_infer": f"{model}/infer"}
        listed: list[Any] = [Route(path, route) for path, route in routes.items()]
        listed.append(Route(f"{model}/infer", self._infer, methods=["POST"]))
        if site is None:
            listed.append(Route("/", self._index))
        else:
            for suffix, kind in _TYPES.items():  # systems differ in what they know
                mimetypes.add_type(kind, suffix)
            # Without its own pages and redirects, which quote the Host header.
            listed += [Route("/", lambda _: FileResponse(site / "index.html")), Mount("/", StaticFiles(directory=site))]
        handlers: Any = {HTTPException: _refused, DcganError: _refused, click.UsageError: _refused, Exception: _refused}
        self._app = Starlette(routes=listed, exception_handlers=handlers)
        self._app.router.redirect_slashes = False  # of which each would quote the Host header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, with the headers of all answers, and count it."""
        if scope["type"] != "http":
            return
        began, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] += [(key.encode(), value.encode()) for key, value in _HEADERS.items()]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            path = self._paths.get(getattr(scope.get("endpoint"), "__name__", ""), "other")
            self._metrics.count(path, status, time.perf_counter() - began)

    def close(self) -> None:
        """Drop what waits."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _made(self, n: int, make: Callable[[], bytes]) -> bytes:
        """Let a thread make `n` images, if there is room for them."""
        with self.room.hold(n):
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, make)
            except (ModelError, OutputError) as error:
                if isinstance(error, OutputError) and not isinstance(error.__cause__, OSError):
                    raise  # a picture that can't be
                raise HTTPException(500, str(error)) from error  # what was asked for was right

    async def _picture(self, request: Request) -> Response:
        limits, generator = self._limits, self._generator
        asked = picture.read(request.query_params.multi_items(), generator, limits.images, limits.batch)
        tag = picture.tag(asked, generator)
        headers = {"etag": tag, "cache-control": "public, max-age=3600"}
        known = [each.strip() for each in request.headers.get("if-none-match", "").split(",")]
        if tag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        content = await self._made(asked.n, lambda: picture.make(asked, generator))
        return Response(content, media_type="image/png", headers=headers)

    async def _infer(self, request: Request) -> Response:
        self._check_name(request)
        body = await self._body(request)
        asked = protocol.read(body, self._generator, self._limits.images, self._limits.batch)
        return Response(await self._made(asked.n, asked.make), media_type="application/json")

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > self._most_bytes:
                        raise HTTPException(413, f"a request has {self._most_bytes:,} bytes at most")
        except TimeoutError:
            raise HTTPException(408, f"the request did not come within {_BODY_SECONDS:g} seconds") from None
        except ClientDisconnect:
            raise HTTPException(400, "the request did not come to its end") from None
        return bytes(body)

    def _check_name(self, request: Request) -> None:
        if request.path_params["name"] != self._generator.name:
            raise HTTPException(404, f"there is no such model; this server has {self._generator.name}")

    async def _server(self, _request: Request) -> Response:
        return _json({"name": "dcgan-serve", "version": __version__, "extensions": []})

    async def _live(self, _request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, _request: Request) -> Response:
        return _json({"ready": True})  # it does not listen before the model is ready

    async def _model(self, request: Request) -> Response:
        self._check_name(request)
        return _json(protocol.metadata(self._generator))

    async def _model_ready(self, request: Request) -> Response:
        self._check_name(request)
        return _json({"name": self._generator.name, "ready": True})

    async def _measured(self, _request: Request) -> Response:
        return Response(self._metrics.text(), headers={"content-type": prometheus_client.CONTENT_TYPE_LATEST})

    async def _described(self, _request: Request) -> Response:
        return _json(self._description)

    @cached_property
    def _description(self) -> dict[str, Any]:
        return openapi.describe(self._generator, self._limits.images)

    async def _index(self, _request: Request) -> Response:
        name, few = html.escape(self._generator.name), min(16, self._limits.images)
        addresses = [
            f"image.png?seed=7&n={few}", "openapi.json", "metrics", "v2/health/ready",
            f"v2/models/{quote(self._generator.name, safe='')}",
        ]  # fmt: skip
        links = "".join(f'<li><a href="{html.escape(each)}">{html.escape(each)}</a>' for each in addresses)
        text = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
            f'<title>{name}</title><h1>{name}</h1><p><img src="image.png?n={few}" alt="{few} images"><ul>{links}</ul>'
        )
        return Response(text, media_type="text/html", headers={"content-security-policy": _POLICY})


class Metrics:
    """What is counted, in the text format of Prometheus."""

    def __init__(self, session: BatchedSession, room: Room) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._session = session
        self._room = room
        self._registry = registry = prometheus_client.CollectorRegistry()
        self._requests = prometheus_client.Counter(
            "dcgan_requests", "Requests answered, errors too.", ["path", "status"], registry=registry
        )
        self._seconds = prometheus_client.Histogram(
            "dcgan_request_seconds", "From a request's headers to the end of its answer.", ["path"], registry=registry
        )
        registry.register(self)

    def collect(self) -> Iterator[Any]:
        """What others count, for the registry."""
        yield CounterMetricFamily("dcgan_images", "Images made.", self._session.images)
        yield CounterMetricFamily("dcgan_batches", "Batches of them.", self._session.batches)
        yield GaugeMetricFamily("dcgan_queue_images", "Images that wait or are being made.", self._room.taken)
        yield GaugeMetricFamily("dcgan_queue_limit_images", "As many may be in hand.", self._room.most)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """All of them."""
        return bytes(prometheus_client.generate_latest(self._registry))


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


_NOT_FOUND = "Not Found"  # Starlette's word


async def _refused(_request: Request, error: Exception) -> Response:
    """Every error in the form of the protocol."""
    if isinstance(error, HTTPException):
        said = (
            "there is nothing at this address; /openapi.json lists what there is"
            if error.detail == _NOT_FOUND
            else error.detail
        )
        return _json({"error": str(said)}, error.status_code, dict(error.headers or {}))
    if isinstance(error, BusyError):
        return _json({"error": str(error)}, 503, {"retry-after": "1"})
    if isinstance(error, click.UsageError):
        return _json({"error": error.format_message()}, 400)
    if isinstance(error, DcganError):
        return _json({"error": str(error)}, 400)
    return _json({"error": "the server has failed; its log says more"}, 500)
