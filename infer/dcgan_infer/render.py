"""From a request to a file: what the command dcgan-infer does, as one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import __version__
from .contract.errors import LatentError, ModelError
from .contract.files import sha256_of
from .contract.pixels import to_levels
from .inputs import load, load_labels, walk
from .request import GRIDS, Request
from .session import DigitGenerator
from .sinks import Plan, save

_LABELS = 1 << 16  # drawn at a time

_Array = npt.NDArray[Any]
_Batches = Iterator[_Array]


class Rendered(NamedTuple):
    """What was made.

    Attributes:
        images: their number.
        facts: text that the pictures carry.
        provider: `cpu` or `cuda`, where the model ran.
        note: why `auto` did not take CUDA although onnxruntime offers it; else empty.
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
    generator = DigitGenerator(request.model, provider=request.provider, threads=request.threads)
    if request.dtype == "float" and generator.grey_levels:
        raise ModelError(
            f"model {generator.name} gives grey levels, no floats; leave --dtype float out, or take a model exported "
            "with --image float"
        )
    z = _wanted(request.latents_file, load, request, "latents")
    labels = _wanted(request.labels_file, load_labels, request, "labels")
    blocks = generator.blocks(
        request.n,
        seed=request.seed or 0,
        start=request.start,
        z=z,
        digits=request.digits or None,
        labels=labels,
        truncation=1.0 if request.truncation is None else request.truncation,
        batch_size=request.batch_size,
    )
    if request.steps:
        blocks = walk(blocks, request.steps)
    values = generator.run(blocks, request.batch_size)
    images: _Batches = values if request.dtype == "float" else map(to_levels, values)

    _, height, width = generator.spec.image_shape
    rows, columns = request.layout
    facts = _facts(request, generator)

    def facts_of(i: int) -> dict[str, str]:
        return {"dcgan.frame": str(i)} if request.steps else {"dcgan.start": str(request.start + i), "dcgan.n": "1"}

    plan = Plan(
        count=request.count,
        height=height,
        width=width,
        first=0 if request.steps else request.start,
        rows=rows,
        columns=columns,
        scale=request.scale or 1,
        floats=request.dtype == "float",
        facts=facts,
        facts_of=facts_of,
        labels=_labels(request, generator, labels),
    )
    started = time.perf_counter()
    save(request.target, request.kind, progress(images), plan)
    seconds = time.perf_counter() - started
    return Rendered(request.count, facts, generator.provider, generator.note, generator.threads, seconds)


def _wanted(path: Path | None, load: Callable[[Path], _Array], request: Request, what: str) -> _Array | None:
    """Rows `start` to `start + n - 1` of a file, or None without one."""
    if path is None:
        return None
    rows = load(path)
    if request.start + request.n > len(rows):
        raise LatentError(f"{path} holds {len(rows)} {what}, asked for {request.n} from number {request.start}")
    return rows[request.start : request.start + request.n]


def _labels(request: Request, generator: DigitGenerator, given: _Array | None) -> _Array | None:
    """Labels of the images of an .npz, uint8 as in MNIST's own files, or None where there are none to be written."""
    classes = generator.spec.num_classes
    if request.kind != "npz" or not classes:
        return None
    dtype = np.uint8 if classes <= 256 else np.int64
    if given is not None:
        return given.astype(dtype)
    seed, digits = request.seed or 0, request.digits or None
    found = np.empty(request.n, dtype)
    for first in range(0, request.n, _LABELS):
        count = min(_LABELS, request.n - first)
        found[first : first + count] = generator.labels(count, seed=seed, start=request.start + first, digits=digits)
    return found


def _facts(request: Request, generator: DigitGenerator) -> dict[str, str]:
    """All that it takes to make the picture again; docs/latents.md says how."""
    facts = {
        "Software": f"dcgan-infer {__version__}, onnxruntime {generator.runtime_version}",
        "dcgan.model": generator.name.encode(errors="replace").decode(),
        "dcgan.model_sha256": generator.sha256,
        "dcgan.provider": generator.provider,
    }
    if request.latents_file is None:
        facts["dcgan.seed"] = str(request.seed or 0)
    else:
        facts["dcgan.latents_sha256"] = sha256_of(request.latents_file)
    facts["dcgan.start"] = str(request.start)
    facts["dcgan.n"] = str(request.n)
    if request.labels_file is not None:
        facts["dcgan.labels_sha256"] = sha256_of(request.labels_file)
    elif request.digits:
        facts["dcgan.digits"] = " ".join(map(str, request.digits))
    if request.truncation is not None:
        facts["dcgan.truncation"] = repr(request.truncation)
    if request.steps:
        facts["dcgan.interpolate"] = str(request.steps)
    if request.kind in GRIDS:
        facts["dcgan.grid"] = "{}x{}".format(*request.layout)
    if request.scale:
        facts["dcgan.scale"] = str(request.scale)
    return facts
