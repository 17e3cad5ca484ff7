"""How fast generators run on this machine: models in runtimes, measured in turns, and held against sgemm."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import __version__, runtime
from .contract.errors import ModelError, RuntimeMissingError, first_line
from .contract.spec import PRECISION_KEY, WEIGHTS_SHA256_KEY
from .generator import ImageGenerator
from .machine import Processor, processor
from .measure import BURST, REST, ROUNDS, Burst, measure, ratios
from .model import Model, open_content, read_model

RUNTIMES = ("onnxruntime", "openvino")
BATCHES = (1, 16, 64)

_SGEMM_FILE = Path(__file__).resolve().parent / "sgemm.onnx"  # tools/make_sgemm.py writes it
_COMPARED = 64  # images, of an int8 row and its peer
_SIDE = 1024  # of its matrices
_SGEMM = ""  # its name while it is measured: no model has this one


# From a batch size and a seed to a function that makes one batch; the inputs are made beforehand.
Prepare = Callable[[int, int], Callable[[], object]]


@dataclass(frozen=True)
class Row:
    """A model in a runtime.

    Attributes:
        name: of the row, unlike all others.
        model: the shipped name or path that was asked for.
        sha256: of the model's file.
        multiply_adds: of one image; None where the model does not say.
        runtime: one of `RUNTIMES`.
        prepare: what to measure.
        opened: the model; None where nothing but the speed is known.
    """

    name: str
    model: str
    sha256: str
    multiply_adds: int | None
    runtime: str
    prepare: Prepare
    opened: Model | None = None

    @property
    def weights(self) -> str | None:
        """Digest of the checkpoint's weights, the same in all precisions; None where nobody says."""
        return self.opened.metadata.get(WEIGHTS_SHA256_KEY) if self.opened else None

    @property
    def precision(self) -> str | None:
        """`fp32`, `fp16` or `int8`; None where nobody says."""
        return self.opened.metadata.get(PRECISION_KEY) if self.opened else None


@dataclass(frozen=True)
class Result:
    """A row at a batch size.

    Attributes:
        row: that was measured.
        batch: images a call.
        bursts: one a round.
        ratios: images/s by those of the first row, one a round.
        sgemm_share: multiply-adds a second, in the fastest burst, by those of the fastest sgemm; None where the model
            does not say how many it has.
    """

    row: Row
    batch: int
    bursts: list[Burst]
    ratios: list[float]
    sgemm_share: float | None

    @property
    def rates(self) -> list[float]:
        """Images/s, one figure a round."""
        return [self.batch * burst.rate for burst in self.bursts]

    @property
    def latency(self) -> tuple[float, float]:
        """Milliseconds of a call: the median (of the rounds' medians), and the fastest call of all."""
        medians = [burst.median for burst in self.bursts]
        return 1e3 * statistics.median(medians), 1e3 * min(burst.least for burst in self.bursts)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rates = self.rates
        median, least = self.latency
        return {
            "row": self.row.name,
            "model": self.row.model,
            "sha256": self.row.sha256,
            "runtime": self.row.runtime,
            "batch": self.batch,
            "multiply_adds_per_image": self.row.multiply_adds,
            "images_per_second": {"median": statistics.median(rates), "best": max(rates), "per_round": rates},
            "ratio": {"median": statistics.median(self.ratios), "least": min(self.ratios), "per_round": self.ratios},
            "sgemm_share": self.sgemm_share,
            "latency_ms": {"median": median, "least": least},
            "calls_per_round": self.bursts[0].calls,
        }


@dataclass(frozen=True)
class Int8:
    """An int8 row beside the fastest float32 row of the same weights, both in onnxruntime.

    Attributes:
        row: in int8.
        peer: in float32.
        ratios: of images/s, by batch size, medians of the rounds.
        levels: by which a pixel differs from the peer's on average, of 255, over `_COMPARED` images.
    """

    row: Row
    peer: Row
    ratios: dict[int, float]
    levels: float

    @property
    def size(self) -> float | None:
        """Bytes of the file, by those of the peer's."""
        return self.row.opened.size / self.peer.opened.size if self.row.opened and self.peer.opened else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "row": self.row.name,
            "peer": self.peer.name,
            "ratios": {str(batch): ratio for batch, ratio in self.ratios.items()},
            "size_ratio": self.size,
            "levels_off": self.levels,
            "images_compared": _COMPARED,
        }


@dataclass(frozen=True)
class Report:
    """What one run measured.

    Attributes:
        processor: of this machine.
        threads: of each runtime.
        rounds, burst, rest, seed: as `bench` was given them.
        versions: of what took part, by name.
        sgemm: FLOP/s of a product of two float32 matrices in onnxruntime, a figure a round, by the batch size that was
            measured in the same rounds.
        results: by batch size, then by row, in the order that was asked for.
        int8: each row of that precision that has the same weights in float32 beside it.
    """

    processor: Processor
    threads: int
    rounds: int
    burst: float
    rest: float
    seed: int
    versions: dict[str, str]
    sgemm: dict[int, list[float]]
    results: list[Result]
    int8: list[Int8] = field(default_factory=list)

    @property
    def sgemm_best(self) -> float:
        """FLOP/s of the fastest burst of sgemm."""
        return max(max(rates) for rates in self.sgemm.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "processor": {"name": self.processor.name, "flags": list(self.processor.flags)},
            "threads": self.threads,
            "rounds": self.rounds,
            "burst_seconds": self.burst,
            "rest_seconds": self.rest,
            "seed": self.seed,
            "versions": self.versions,
            "sgemm": {
                "side": _SIDE,
                "best_flops": self.sgemm_best,
                "flops_per_round": {str(batch): rates for batch, rates in self.sgemm.items()},
            },
            "results": [result.as_dict() for result in self.results],
            "int8": [each.as_dict() for each in self.int8],
        }


def sgemm_share(multiply_adds: int | None, images_per_second: float, flops: float) -> float | None:
    """The part of the machine's sgemm rate that a generator reaches.

    Args:
        multiply_adds: of one image; None, and then so is the part, where nobody knows.
        images_per_second: that it makes.
        flops: floating-point operations a second of a large float32 product; a multiply-add is two of them.
    """
    return None if multiply_adds is None else 2 * multiply_adds * images_per_second / flops


def shortened(name: str, room: int) -> str:
    """A row's name in so many characters: of one that is too long its end, where files of one folder differ."""
    return name if len(name) <= room else "..." + name[3 - room :]


def open_rows(models: Sequence[str], runtimes: Sequence[str], threads: int) -> list[Row]:
    """Open each model in each runtime.

    Args:
        models: shipped names, paths of ONNX files that dcgan-export wrote, or folders that hold one; a model that comes
            twice makes two rows, and how far these differ is the noise.
        runtimes: of `RUNTIMES`.
        threads: of each runtime.
    Raises:
        ModelError: there is no model, or one is missing, unreadable, or no generator.
        RuntimeMissingError: a runtime is not installed.
    """
    if not models:
        raise ModelError("there is nothing to measure: no model is named, and none is installed")
    openvino = _openvino() if "openvino" in runtimes else None
    rows: list[Row] = []
    for model in models:
        # onnxruntime reads the spec whichever runtime is measured.
        path, content = read_model(model)
        opened = open_content(path, content, "cpu", threads)
        for name in runtimes:
            wanted = f"{model}, {name}" if len(runtimes) > 1 else model
            same = sum(row.model == model and row.runtime == name for row in rows)
            prepare = (
                _in_onnxruntime(opened) if name == "onnxruntime" else _in_openvino(openvino, opened, content, threads)
            )
            title = f"{wanted} #{same + 1}" if same else wanted
            rows.append(Row(title, model, opened.sha256, opened.multiply_adds, name, prepare, opened))
    return rows


def bench(
    rows: Sequence[Row],
    *,
    batches: Sequence[int] = BATCHES,
    threads: int,
    rounds: int = ROUNDS,
    burst: float = BURST,
    rest: float = REST,
    seed: int = 0,
    after_burst: Callable[[], object] = lambda: None,
) -> Report:
    """Measure rows against each other and against sgemm, one batch size after the other.

    Args:
        rows: at least one; ratios are to the first.
        batches: images a call.
        threads: that `rows` were opened with.
        rounds: as `measure` takes it; a batch size takes (rounds + 1) * (len(rows) + 1) bursts.
        burst: as `measure` takes it.
        rest: as `measure` takes it.
        seed: of latents and labels.
        after_burst: as `measure` takes it.
    Raises:
        ModelError: a model fails.
    """
    of_int8 = _with_peers(rows)  # what can fail comes before the measuring
    compared = {each.name: each for row, peers in of_int8 for each in (row, *peers)}
    pictures = {name: _pictures(row, seed) for name, row in compared.items()}
    sgemm = _sgemm(threads)
    bursts = {}
    for batch in batches:
        functions = {row.name: row.prepare(batch, seed) for row in rows} | {_SGEMM: sgemm}
        bursts[batch] = measure(functions, rounds=rounds, burst=burst, rest=rest, after_burst=after_burst)
    flops = {batch: [2 * _SIDE**3 * part.rate for part in found[_SGEMM]] for batch, found in bursts.items()}
    best = max(max(rates) for rates in flops.values())
    results = []
    for batch, found in bursts.items():
        for row in rows:
            share = sgemm_share(row.multiply_adds, batch * max(part.rate for part in found[row.name]), best)
            results.append(Result(row, batch, found[row.name], ratios(found[row.name], found[rows[0].name]), share))
    int8 = [_int8(row, peers, results, pictures) for row, peers in of_int8]
    return Report(processor(), threads, rounds, burst, rest, seed, _versions(rows), flops, results, int8)


def _with_peers(rows: Sequence[Row]) -> list[tuple[Row, list[Row]]]:
    """Each int8 row that has the same weights in float32 beside it, and all rows that do."""
    known = [row for row in rows if row.runtime == "onnxruntime" and row.weights]
    found = []
    for row in known:
        peers = [each for each in known if (each.weights, each.precision) == (row.weights, "fp32")]
        if row.precision == "int8" and peers:
            found.append((row, peers))
    return found


def _pictures(row: Row, seed: int) -> npt.NDArray[np.int16]:
    """The first images of a seed."""
    assert row.opened
    generator = ImageGenerator(row.opened)
    return generator.generate(_COMPARED, seed=seed).astype(np.int16)


def _int8(row: Row, peers: list[Row], results: Sequence[Result], pictures: Mapping[str, npt.NDArray[np.int16]]) -> Int8:
    mine = [result for result in results if result.row is row]
    peer = fastest(result for result in results if result.row in peers).row
    its = [result for result in results if result.row is peer]
    levels = float(np.abs(pictures[row.name] - pictures[peer.name]).mean())
    medians = {a.batch: statistics.median(ratios(a.bursts, b.bursts)) for a, b in zip(mine, its, strict=True)}
    return Int8(row, peer, medians, levels)


def fastest(results: Iterable[Result]) -> Result:
    """The one with the most images/s, by the median of its rounds."""
    return max(results, key=lambda result: statistics.median(result.rates))


def _in_onnxruntime(model: Model) -> Prepare:
    def prepare(batch: int, seed: int) -> Callable[[], object]:
        feeds = model.feeds_of_seed(seed, batch)

        def run() -> Any:
            return model.call(feeds)

        _try(run, model, batch, "onnxruntime")
        return run

    return prepare


def _in_openvino(core: Any, model: Model, content: bytes, threads: int) -> Prepare:
    # What answers one request soonest: a single stream on all threads. Without the precision hint it would compute in
    # bfloat16 where the processor can, and round what the others do not.
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }

    def prepare(batch: int, seed: int) -> Callable[[], object]:
        feeds = model.feeds_of_seed(seed, batch)

        def run() -> Any:
            return request.infer(feeds, share_inputs=True, share_outputs=True)[0]

        try:
            network = core.read_model(content)  # the bytes that were judged
            # For this batch size alone: a free one is slower, and a peer is measured at its best.
            network.reshape({name: list(values.shape) for name, values in feeds.items()})
            request = core.compile_model(network, "CPU", options).create_infer_request()
        except Exception as error:  # its exceptions have no common base below Exception
            raise ModelError(f"OpenVINO can't use model {model.path}: {_last_line(error)}") from error
        _try(run, model, batch, "OpenVINO")
        return run

    return prepare


def _try(run: Callable[[], Any], model: Model, batch: int, name: str) -> None:
    """Run a model once, and see that it makes so many images, float or uint8."""
    try:
        values = run()
    except Exception as error:  # neither runtime's exceptions have a common base below Exception
        raise ModelError(f"model {model.path} failed in {name}: {runtime.reason(error)}") from error
    if values.shape[:1] != (batch,) or values.size != batch * math.prod(model.spec.image_shape):
        raise ModelError(
            f"model {model.path} returned shape {values.shape} for a batch of {batch}, "
            f"its spec says {(batch, *model.spec.image_shape)}"
        )


def _last_line(error: Exception) -> str:
    """What an exception of OpenVINO says: lines of its own source files come first."""
    return first_line(ValueError(str(error).strip().rpartition("\n")[2]))


def _openvino() -> Any:
    try:
        module = importlib.import_module("openvino")
    except ImportError as error:
        raise RuntimeMissingError(
            "openvino is not installed: pip install openvino, or leave --runtime openvino out", name="openvino"
        ) from error
    return module.Core()


def _sgemm(threads: int) -> Callable[[], Any]:
    """A product of two square matrices in onnxruntime, with the kernel that its convolutions use.

    numpy's would be no fair yardstick: which library it calls, and on how many threads, depends on how it was built and
    on the environment.
    """
    session = runtime.open_session(_SGEMM_FILE.read_bytes(), "cpu", threads).session
    inputs = {"a": np.random.default_rng(0).standard_normal((_SIDE, _SIDE), dtype=np.float32)}
    return lambda: session.run(["c"], inputs)


def _versions(rows: Sequence[Row]) -> dict[str, str]:
    versions = {"dcgan-toolkit": __version__, "python": platform.python_version(), "numpy": np.__version__}
    versions["onnxruntime"] = runtime.onnxruntime().__version__
    if any(row.runtime == "openvino" for row in rows):
        versions["openvino"] = importlib.metadata.version("openvino")
    return versions
