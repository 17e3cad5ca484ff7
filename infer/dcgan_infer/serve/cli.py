"""The command dcgan-serve: a socket, a model, a server, and its orderly end."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from .. import __version__, shipped, signals
from ..commands import Command, WholeNumber
from ..contract.errors import first_line
from ..extras import require

_PATIENCE = 25  # seconds for requests to end, before a container's usual 30


@click.command(
    "dcgan-serve",
    cls=Command,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  dcgan-serve
  dcgan-serve clothes.onnx --port 8080
  dcgan-serve --site site/

\b
  curl -o grid.png 'http://127.0.0.1:8000/image.png?seed=7&n=16&scale=4'
  curl http://127.0.0.1:8000/v2/models/dcgan-mnist-conditional

It asks nobody for a password. SIGTERM or Ctrl-C ends it once the requests that have begun are answered.""",
)
@click.argument("model", default=shipped.DEFAULT)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all of them.")
@click.option("--port", type=WholeNumber(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--site",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A page to serve at /: a folder that dcgan-export --target web wrote.",
)
@click.option("--provider", default="auto", show_default=True, metavar="NAME", help="As dcgan-infer takes it.")
@click.option(
    "--threads", type=WholeNumber(1, 1024), metavar="NUMBER", help="Of the CPU.  [default: the cores it may use]"
)
@click.option(
    "--max-images", type=WholeNumber(1, 65536), default=100, show_default=True, help="Images in a request at most."
)
@click.option(
    "--max-batch",
    type=WholeNumber(1, 65536),
    default=16,
    show_default=True,
    help="Images at a time at most; requests that come together run together.",
)
@click.option(
    "--queue",
    type=WholeNumber(1, 1 << 20),
    default=1024,
    show_default=True,
    help="Images in hand at most; more get status 503.",
)
@click.option("-v", "--verbose", is_flag=True, help="A line for each request.")
@click.version_option(__version__, prog_name="dcgan-serve")
def main(
    model: str,
    host: str,
    port: int,
    site: Path | None,
    provider: str,
    threads: int | None,
    max_images: int,
    max_batch: int,
    queue: int,
    verbose: bool,
) -> None:
    """Serve a generator over HTTP: pictures by address, and the Open Inference Protocol.

    MODEL is a shipped model, an ONNX file that dcgan-export wrote, or a folder that holds one.
    """
    if queue < max_images:
        raise click.UsageError(f"--queue {queue} has no room for a request of --max-images {max_images}.")
    if not host:
        raise click.UsageError("--host is empty, which would be all addresses; leave it out, or say --host 0.0.0.0.")
    if site and not (site / "index.html").is_file():
        raise click.UsageError(f"--site {site} holds no index.html; write it with dcgan-export --target web.")
    app_module, uvicorn = require("dcgan_infer.serve.app", "serve"), require("uvicorn", "serve")
    from .batching import open_batched

    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2048)
        # Connections inherit it. asyncio sets it only where a socket names its protocol, and without it the second
        # part of an answer waits for the client's delayed acknowledgement: 44 ms (measured).
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        why = first_line(error).lower().partition(" (while")[0]  # where it repeats the address
        raise click.ClickException(f"can't listen on {host}:{port}: {why}; choose another --host or --port") from error
    with listening:
        generator, session = open_batched(model, provider, threads, max_batch)
        app = app_module.App(generator, session, app_module.Limits(max_images, queue, max_batch), site)
        config = uvicorn.Config(
            app, loop="asyncio", http="h11", ws="none", lifespan="off", server_header=False,
            log_level="info" if verbose else "error", timeout_graceful_shutdown=_PATIENCE,
        )  # fmt: skip
        server = uvicorn.Server(config)

        def notice(_number: int) -> str | None:
            """The first signal ends the server, the second one the process."""
            if server.should_exit:
                return "stopped"
            server.should_exit = True
            return None

        shown = f"[{host}]" if ":" in host else host
        click.echo(f"serving {generator.name} on http://{shown}:{listening.getsockname()[1]}")
        # In another thread, where uvicorn leaves signals alone: we have our own way.
        with signals.told(notice), ThreadPoolExecutor(1) as pool:
            pool.submit(server.run, [listening]).result()
        app.close()
