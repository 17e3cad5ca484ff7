"""From a request to a file: what the command dcgan-infer does, as one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import __version__
from .contract.errors import ModelError
from .inputs import walk
from .request import GRIDS, Request
from .session import ImageGenerator
from .sinks import Plan, save

_LABELS = 1 << 16  # drawn at a time

_Array = npt.NDArray[Any]
_Batches = Iterator[_Array]


class Rendered(NamedTuple):
    """What was made.

    Attributes:
        images: their number.
        facts: text that the pictures carry.
        provider: where the model ran, such as `cpu` or `cuda`.
        note: why `auto` did not take CUDA; else empty.
        threads: of the CPU provider.
        seconds: from the first latent to the finished file.
    """

    images: int
    facts: dict[str, str]
    provider: str
    note: str
    threads: int
    seconds: float


def render(request: Request, progress: Callable[[_Batches], _Batches] = lambda batches: batches) -> Rendered:
    """Make images and write them.

    Args:
        request: what and where.
        progress: wraps the batches on their way to the file, to count them.
    Raises:
        ModelError, LatentError, DeviceError, RuntimeMissingError, OutputError
    """
    generator = ImageGenerator(request.model, provider=request.provider, threads=request.threads)
    floats = request.dtype == "float"
    if floats and generator.model.gives_uint8:
        raise ModelError(
            f"model {generator.name} gives uint8, no floats; leave --dtype float out, or take a model exported "
            "with --image float"
        )
    asked = generator.asked(
        request.start,
        classes=request.classes or None,
        digits=request.digits or None,
        labels=None if request.labels is None else request.labels.part(request.start, request.n),
    )
    values = _values(request, generator, asked)
    images: _Batches = values if floats else map(generator.pictures, values)

    rows, columns = request.layout
    facts = _facts(request, generator, asked)

    def facts_of(i: int) -> dict[str, str]:
        return {"dcgan.frame": str(i)} if request.steps else {"dcgan.start": str(request.start + i), "dcgan.n": "1"}

    plan = Plan(
        count=request.count,
        image_shape=generator.spec.image_shape,
        first=0 if request.steps else request.start,
        rows=rows,
        columns=columns,
        scale=request.scale or 1,
        floats=floats,
        facts=facts,
        facts_of=facts_of,
        labels=_labels(request, generator, asked),
    )
    started = time.perf_counter()
    assert not isinstance(request.target, str)  # a URL, which only shards take
    save(request.target, request.kind, progress(images), plan)
    seconds = time.perf_counter() - started
    return Rendered(request.count, facts, generator.model.provider, generator.model.note, generator.threads, seconds)


def _values(request: Request, generator: ImageGenerator, asked: npt.NDArray[np.int64]) -> _Batches:
    """What the model makes, in batches."""
    generator.refuse_for_seed("--latents", request.latents is not None)
    generator.refuse_for_seed("--truncation", request.truncation is not None)
    generator.refuse_for_seed("a walk (--interpolate, .gif)", bool(request.steps))
    if generator.model.takes_seed:
        return generator.run_seed(request.n, request.seed or 0, request.start, asked, request.batch_size)
    blocks = generator.blocks(
        request.n,
        seed=request.seed or 0,
        start=request.start,
        z=None if request.latents is None else request.latents.part(request.start, request.n),
        asked=asked,
        truncation=1.0 if request.truncation is None else request.truncation,
        batch_size=request.batch_size,
    )
    return generator.run(walk(blocks, request.steps) if request.steps else blocks, request.batch_size)


def _labels(request: Request, generator: ImageGenerator, asked: npt.NDArray[np.int64]) -> _Array | None:
    """Labels of the images of an .npz, uint8 as in MNIST's own files, or None where there are none to be written."""
    classes = generator.spec.num_classes
    if request.kind != "npz" or not classes:
        return None
    found = np.empty(request.n, np.uint8 if classes <= 256 else np.int64)
    for first in range(0, request.n, _LABELS):
        part = found[first : first + _LABELS]
        part[:] = generator.in_turn(asked, request.seed or 0, request.start + first, len(part))
    return found


def _facts(request: Request, generator: ImageGenerator, asked: npt.NDArray[np.int64]) -> dict[str, str]:
    """All that it takes to make the picture again; docs/latents.md says how."""
    facts = {
        "Software": f"dcgan-infer {__version__}, onnxruntime {generator.runtime_version}",
        "dcgan.model": generator.name.encode(errors="replace").decode(),
        "dcgan.model_sha256": generator.model.sha256,
        "dcgan.provider": generator.model.provider,
    }
    if request.latents is None:
        facts["dcgan.seed"] = str(request.seed or 0)
    else:
        facts["dcgan.latents_sha256"] = request.latents.sha256
    facts["dcgan.start"] = str(request.start)
    facts["dcgan.n"] = str(request.n)
    if request.labels is not None:
        facts["dcgan.labels_sha256"] = request.labels.sha256
    elif len(asked):
        # A name may hold anything printable, so no mark on a line could part two of them.
        key, mark = ("dcgan.digits", " ") if generator.makes_digits else ("dcgan.class", "\n")
        facts[key] = mark.join(generator.spec.labels[number] for number in asked)
    if request.truncation is not None:
        facts["dcgan.truncation"] = repr(request.truncation)
    if request.steps:
        facts["dcgan.interpolate"] = str(request.steps)
    if request.kind in GRIDS:
        facts["dcgan.grid"] = "{}x{}".format(*request.layout)
    if request.scale:
        facts["dcgan.scale"] = str(request.scale)
    return facts
