"""The same shards on a Ray cluster: actors of Ray Data that hold one session each.

What an actor makes depends on the shard alone, so Ray may make a shard again elsewhere when an actor or a machine dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import secrets
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import signals
from ..contract.errors import DcganError, OutputError, first_line
from ..contract.files import temporary_folder
from ..extras import require
from ..generator import ImageGenerator
from ..model import read_model
from ..runtime import cores
from .make import Maker, OnImages, software_of
from .plan import HIDDEN, ShardPlan
from .stores import open_store

_EXTRA = "ray"
_PATIENCE = 5  # seconds for the cluster to take a connection; Ray itself would try for minutes


class _Actor:
    """Holds a session. The model's bytes come with it, since its file may not be on this machine.

    What goes wrong it says in its answer: Ray would wrap an exception more than once, and start the actor again.
    """

    def __init__(self, maker: dict[str, Any], content: bytes, threads: int) -> None:
        self._problem = ""
        try:
            self._maker = Maker(generator=_opened(maker["plan"], content, threads), **maker)
        except DcganError as error:
            self._problem = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the shards whose numbers these are; say how many images they have, or what went wrong."""
        count = 0
        try:
            if not self._problem:
                count = sum(receipt["count"] for receipt in self._maker.make(iter(batch["number"].tolist())))
        except DcganError as error:
            self._problem = str(error)
        return {"count": [count], "problem": [self._problem]}


def _opened(plan: ShardPlan, content: bytes, threads: int) -> ImageGenerator:
    """The model, where what runs it is what the plan says.

    Raises:
        OutputError: there are other versions on this machine, so the bytes could be others.
        ModelError, DeviceError, RuntimeMissingError: as `ImageGenerator`.
    """
    with temporary_folder(Path(tempfile.gettempdir()), "dcgan-model") as folder:
        path = folder / f"{plan.model}.onnx"
        path.write_bytes(content)
        generator = ImageGenerator(path, provider=plan.provider, threads=threads)
    here = software_of(plan.format, plan.encoding, generator)
    if here != plan.software:
        name, version = next(pair for pair in here if pair not in plan.software)
        raise OutputError(
            f"{socket.gethostname()} has {name} {version}, and the set is made with {dict(plan.software)[name]}; "
            "install the same versions on all machines"
        )
    return generator


def made_by_ray(maker: Maker, numbers: list[int], address: str | None, on_images: OnImages) -> Iterator[dict[str, Any]]:
    """Make shards on a cluster, or on all cores of this machine.

    Args:
        maker: of the shards; each actor's session has as many threads as its generator.
        numbers: of the shards.
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
    if "://" not in maker.place:  # actors have a current folder of their own
        maker = dataclasses.replace(maker, place=str(Path(maker.place).absolute()))
    # Ray prints to stdout what dies on the cluster.
    with signals.ended_by(_kill_descendants), Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
        yield from _made(maker, numbers, address, on_images)
    there = open_store(maker.place).sizes(HIDDEN)
    if unseen := [number for number in numbers if f"{maker.plan.shard(number).name}.json" not in there]:
        raise OutputError(
            f"Ray made {len(numbers):,} shards, and {len(unseen):,} of them are not in {maker.place} as this machine "
            "sees it; choose a folder that all machines share, or the URL of an object store"
        )


def _made(maker: Maker, numbers: list[int], address: str | None, on_images: OnImages) -> Iterator[dict[str, Any]]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors reach us as exceptions
    if address is None:  # it listens on every interface, and would run what anybody sends
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    threads = maker.generator.threads
    try:
        with _starting():
            ray, data = require("ray", _EXTRA), require("ray.data", _EXTRA)
            _start(ray, address)
    except DcganError:
        raise
    except Exception as error:
        raise OutputError(f"can't use Ray{f' at {address}' if address else ''}: {first_line(error)}") from error
    try:
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        cpus = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        actors = max(1, min(sum(int(each // threads) for each in cpus), len(numbers)))
        _, content = read_model(maker.generator.model.path)
        rows = data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
        made = rows.map_batches(
            _Actor,
            fn_constructor_kwargs={
                "maker": {"plan": maker.plan, "place": maker.place, "batch_size": maker.batch_size},
                "content": content,  # and not in Ray's store: a machine that dies would take it along
                "threads": threads,
            },
            batch_size=1,
            compute=data.ActorPoolStrategy(size=actors),
            # Were all cores the actors', Ray's own tasks would wait for ever, as an actor larger than any machine does.
            num_cpus=min(threads, max(cpus)) / 2,
        )
        for row in made.iter_rows():
            if row["problem"]:
                raise OutputError(f"the shards can't be made by Ray: {row['problem']}")
            on_images(row["count"])
            yield {"count": row["count"]}
    except DcganError:
        raise
    except Exception as error:  # whatever it is that comes from another machine
        raise OutputError(f"the shards can't be made by Ray: {first_line(_cause(error))}") from error
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Within, Ray's native code says nothing, and nobody takes a signal.

    Past Python's stderr, it would tell of its own log level. Its handler of SIGTERM would end the main thread before
    our own way out is done.
    """
    kept, take = os.dup(2), signal.signal

    def restore() -> None:
        signal.signal = take
        os.dup2(kept, 2)

    with signals.ended_by(restore), Path(os.devnull).open("w") as null:
        os.dup2(null.fileno(), 2)
        signal.signal = lambda number, _: signal.getsignal(number)  # type: ignore[assignment]
        try:
            yield
        finally:
            restore()
    os.close(kept)


def _start(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ray.init("local", num_cpus=cores(), include_dashboard=False, **quiet)
    else:
        _knock(address)
        ray.init(address, **quiet)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _kill_descendants() -> None:
    """Kill the processes of a cluster that was started here: those that Ray leaves to end by themselves take a minute.

    Where there is no /proc, they do that.
    """
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parent = int(status.read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(status.parent.name))
    found = children.get(os.getpid(), [])
    for process in found:  # which grows meanwhile
        found += children.get(process, [])
    for process in found:
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)


def _knock(address: str) -> None:
    """Refuse an address where nobody takes a connection.

    Raises:
        OSError: nobody does.
    """
    named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    found = re.fullmatch(r"(?:ray://)?([^:/]+|\[[^\]]+\]):(\d+)(?:/.*)?", named)
    if found:  # else it is for Ray to say what that is
        socket.create_connection((found[1].strip("[]"), int(found[2])), _PATIENCE).close()


def _cause(error: BaseException) -> BaseException:
    """What went wrong in the actor: Ray wraps it more than once."""
    inner = getattr(error, "cause", None) or error.__cause__
    return _cause(inner) if isinstance(inner, BaseException) else error
