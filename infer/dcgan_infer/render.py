"""From a request to a file: what the command dcgan-infer does, as one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import __version__
from .contract.errors import ModelError
from .generator import ImageGenerator
from .inputs import of_each, walk
from .request import FOLDER, GRIDS, Request
from .writers import Plan, save

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
        batch_size: images at a time.
        seconds: from the first latent to the finished file.
    """

    images: int
    facts: dict[str, str]
    provider: str
    note: str
    threads: int
    batch_size: int
    seconds: float


def render(
    request: Request,
    progress: Callable[[_Batches], _Batches] = lambda batches: batches,
    generator: ImageGenerator | None = None,
) -> Rendered:
    """Make images and write them.

    Args:
        request: what and where.
        progress: wraps the batches on their way to the file, to count them.
        generator: instead of the one that the request names, which is opened.
    Raises:
        ModelError, LatentError, DeviceError, RuntimeMissingError, OutputError
    """
    generator = generator or ImageGenerator(request.model, provider=request.provider, threads=request.threads)
    floats = request.dtype == "float"
    if floats and generator.model.gives_uint8:
        raise ModelError(
            f"model {generator.name} gives uint8, no floats; leave --dtype float out, or take a model exported "
            "with --image float"
        )
    if request.text is not None:
        refuse_unknown(request.classes, generator)
    labels = None if request.labels is None else request.labels.part(request.start, request.n)
    asked = generator.asked(
        request.start,
        classes=None if request.text is not None else request.classes or None,
        digits=request.digits or None,
        labels=labels if request.text is None else request.classes,
    )
    values = _values(request, generator, asked)
    images: _Batches = values if floats else map(generator.pictures, values)

    rows, columns = request.layout
    scale = request.zoom(*generator.spec.image_shape[1:])
    facts = _facts(request, generator, asked, scale)

    def facts_of(i: int) -> dict[str, str]:
        return {"dcgan.frame": str(i)} if request.steps else {"dcgan.start": str(request.start + i), "dcgan.n": "1"}

    plan = Plan(
        count=request.count,
        image_shape=generator.spec.image_shape,
        first=0 if request.steps else request.start,
        rows=rows,
        columns=columns,
        cells=request.cells,
        scale=scale,
        floats=floats,
        facts=facts,
        facts_of=facts_of,
        labels=_labels(request, generator, asked),
        names=generator.spec.labels,
    )
    started = time.perf_counter()
    assert not isinstance(request.target, str)  # a URL, which only shards take
    save(request.target, request.kind, progress(images), plan)
    seconds = time.perf_counter() - started
    batch, model = generator.batch(request.batch_size), generator.model
    return Rendered(request.count, facts, model.provider, model.note, generator.threads, batch, seconds)


def refuse_unknown(letters: Sequence[str], generator: ImageGenerator) -> None:
    """Raise if a class is called otherwise than by a letter of a text: a number of a class would be no letter.

    Raises:
        ModelError
    """
    unknown = [letter for letter in letters if letter not in generator.spec.labels]
    if unknown:
        raise ModelError(
            f"model {generator.name} can't write {unknown[0]!r}: a text takes classes called by its letters, and "
            + (f"these are {', '.join(generator.spec.labels)[:100]}" if generator.spec.num_classes else "it has none")
        )


def _values(request: Request, generator: ImageGenerator, asked: npt.NDArray[np.int64]) -> _Batches:
    """What the model makes, in batches."""
    generator.refuse_for_seed("--latents", request.latents is not None)
    generator.refuse_for_seed("--truncation", request.truncation is not None)
    generator.refuse_for_seed("a walk (--interpolate, .gif)", bool(request.steps))
    if generator.model.takes_seed:
        return generator.run_seed(request.n, request.drawn_from, request.start, asked, request.batch_size)
    blocks = generator.blocks(
        request.n,
        seed=request.drawn_from,
        start=request.start,
        z=None if request.latents is None else request.latents.part(request.start, request.n),
        asked=asked,
        truncation=1.0 if request.truncation is None else request.truncation,
        batch_size=request.batch_size,
    )
    if request.steps:
        blocks = walk(blocks, request.steps)
    if request.is_one_walk and generator.spec.num_classes:
        blocks = of_each(blocks, _shown(request, generator, asked))
    return generator.run(blocks, request.batch_size)


def _shown(request: Request, generator: ImageGenerator, asked: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Classes on each frame of a walk: those that are asked for, or that of the first image."""
    if request.text is not None:  # its letters, in their order, whatever the first index is
        return generator.in_turn(asked, request.drawn_from, request.start, len(asked))
    if request.places > 1:
        return asked
    return generator.in_turn(asked, request.drawn_from, request.start, 1)


def _labels(request: Request, generator: ImageGenerator, asked: npt.NDArray[np.int64]) -> _Array | None:
    """Labels of the images, uint8 as in MNIST's own files, or None where there are none to be written."""
    classes = generator.spec.num_classes
    if request.kind not in ("npz", FOLDER) or request.steps or not classes:
        return None
    found = np.empty(request.n, np.uint8 if classes <= 256 else np.int64)
    for first in range(0, request.n, _LABELS):
        part = found[first : first + _LABELS]
        part[:] = generator.in_turn(asked, request.drawn_from, request.start + first, len(part))
    return found


def _facts(request: Request, generator: ImageGenerator, asked: npt.NDArray[np.int64], scale: int) -> dict[str, str]:
    """All that it takes to make the picture again; docs/contracts.md says how."""
    facts = {
        "Software": f"dcgan-infer {__version__}, onnxruntime {generator.runtime_version}",
        "dcgan.model": generator.name.encode(errors="replace").decode(),
        "dcgan.model_sha256": generator.model.sha256,
        "dcgan.provider": generator.model.provider,
    }
    if request.latents is None:
        facts["dcgan.seed"] = str(request.drawn_from)
    else:
        facts["dcgan.latents_sha256"] = request.latents.sha256
    facts["dcgan.start"] = str(request.start)
    facts["dcgan.n"] = str(request.n)
    if request.text is not None:
        facts["dcgan.text"] = request.text
    elif request.labels is not None:
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
    if scale != 1 or request.scale:
        facts["dcgan.scale"] = str(scale)
    return facts
