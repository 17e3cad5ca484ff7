"""The same shards on a Ray cluster: actors of Ray Data that hold one session each.

What an actor makes depends on the shard alone, so Ray may make a shard again elsewhere when an actor or a machine dies.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..contract.errors import OutputError, first_line
from ..extras import require
from ..model import read_model
from ..runtime import cores
from ..session import ImageGenerator
from .make import Maker, OnImages

_EXTRA = "ray"


class _Actor:
    """Holds a session. The model's bytes come with it, since its file may not be on this machine."""

    def __init__(self, maker: dict[str, Any], content: bytes, provider: str, threads: int) -> None:
        with tempfile.TemporaryDirectory(prefix="dcgan-") as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(content)
            generator = ImageGenerator(path, provider=provider, threads=threads)
        self._maker = Maker(generator=generator, **maker)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the shards whose numbers these are, and say how many images each has."""
        receipts = self._maker.make(iter(batch["number"].tolist()))
        return {"count": [receipt["count"] for receipt in receipts]}


def made_by_ray(
    maker: Maker, numbers: list[int], provider: str, address: str | None, on_images: OnImages
) -> Iterator[dict[str, Any]]:
    """Make shards on a cluster, or on all cores of this machine.

    Args:
        maker: of the shards; each actor's session has as many threads as its generator.
        numbers: of the shards.
        provider: of the actors' sessions, as `ImageGenerator` takes it.
        address: of the cluster, as `ray.init` takes it; None starts one here, for as long as this takes.
        on_images: told of each shard that is done.
    Yields:
        `{"count": images}` of each shard.
    Raises:
        OutputError: the cluster can't be reached, or the work fails there more often than Ray tries.
        RuntimeMissingError: Ray is not installed.
    """
    if not numbers:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    ray, data = require("ray", _EXTRA), require("ray.data", _EXTRA)
    threads = maker.generator.threads
    try:
        _start(ray, address)
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        cpus = ray.cluster_resources().get("CPU", 1)
        actors = max(1, min(int(cpus // threads), len(numbers)))
        _, content = read_model(maker.generator.model.path)
        rows = data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
        made = rows.map_batches(
            _Actor,
            fn_constructor_kwargs={
                "maker": {"plan": maker.plan, "place": maker.place, "batch_size": maker.batch_size},
                "content": content,  # and not in Ray's store: a machine that dies would take it along
                "provider": provider,
                "threads": threads,
            },
            batch_size=1,
            compute=data.ActorPoolStrategy(size=actors),
            num_cpus=threads / 2,  # were all cores the actors', Ray's own tasks would wait for ever
        )
        for row in made.iter_rows():
            on_images(row["count"])
            yield {"count": row["count"]}
    except Exception as error:  # whatever it is that comes from another machine
        raise OutputError(f"the shards can't be made by Ray: {first_line(_cause(error))}") from error
    finally:
        ray.shutdown()


def _start(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ray.init("local", num_cpus=cores(), include_dashboard=False, **quiet)
    else:
        ray.init(address, **quiet)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _cause(error: BaseException) -> BaseException:
    """What went wrong in the actor: Ray wraps it more than once."""
    inner = getattr(error, "cause", None) or error.__cause__
    return _cause(inner) if isinstance(inner, BaseException) else error
