"""Let dcgan-infer and its library work long, and see that memory and open files stay flat.

    python tests/stress/soak.py                     all: a million images, a million calls; about an hour
    python tests/stress/soak.py --quick             the same in seconds, which shows that the script works, and not more
    python tests/stress/soak.py --only calls --json soak.json

stream   a hundred times as many images to .npy and to stdout, ten times as many to a folder: the same peak
open     generators opened and closed in one process: memory and open descriptors as before
calls    generate(1), over and over: memory after a warm-up as at the end
threads  one generator for many threads, and one each: the same bits as alone, and memory as before
Needs Linux.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from dcgan_infer import ImageGenerator

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "tests" / "fixtures" / "models" / "clothes.onnx"  # 3 classes, 4x6 pixels: the rest of the work is ours
MOST_GROWTH = 1.05  # of memory
_MEGABYTE = 1 << 20


class Sizes(NamedTuple):
    """How long each part works."""

    images: tuple[int, int] = (10_000, 1_000_000)
    files: tuple[int, int] = (10_000, 100_000)
    generators: int = 1_000
    calls: int = 1_000_000
    rounds: int = 200


QUICK = Sizes((1_000, 20_000), (200, 1_000), 40, 2_000, 4)


class Row(NamedTuple):
    """A measurement.

    Attributes:
        part: of what is measured.
        what: in words.
        before: bytes or a number, of little work or before it.
        after: of much work.
        fits: whether it stayed flat.
        seconds: that it took.
    """

    part: str
    what: str
    before: float
    after: float
    fits: bool
    seconds: float


def _memory() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  a count


def _flat(part: str, what: str, before: float, after: float, begun: float) -> Row:
    return Row(part, what, before, after, after <= before * MOST_GROWTH, time.monotonic() - begun)


# stream


def _peak(*words: str) -> int:
    """Peak of the memory of a dcgan-infer, in bytes."""
    command = [
        sys.executable,
        "-m",
        "dcgan_infer",
        "--model",
        str(MODEL),
        "--provider",
        "cpu",
        "--threads",
        "1",
        *words,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {said.decode()}")
    return usage.ru_maxrss * 1024


def stream(sizes: Sizes) -> Iterator[Row]:
    """Peaks of the command, for few images and for many."""
    for what, out, counts in (
        ("to .npy", ("-o", "images.npy"), sizes.images),
        ("to stdout", ("-o", "-", "--format", "npy"), sizes.images),
        ("to a folder", ("-o", "images/"), sizes.files),
    ):
        begun = time.monotonic()
        peaks = []
        for count in counts:
            with tempfile.TemporaryDirectory(prefix="soak-") as folder:
                words = [f"{folder}/{word}" if word.startswith("images") else word for word in out]
                peaks.append(_peak("--n", str(count), *words))
        yield _flat("stream", f"{counts[1]:,} images {what}, and {counts[0]:,}: peak", peaks[0], peaks[1], begun)


# open


def opened(sizes: Sizes) -> Iterator[Row]:
    """Memory and descriptors, while generators come and go."""
    begun = time.monotonic()
    warm = max(1, sizes.generators // 10)
    for number in range(warm + sizes.generators):
        if number == warm:
            memory, descriptors = _memory(), _descriptors()
        ImageGenerator(MODEL, provider="cpu", threads=1 + number % 2).generate(2)
    what = f"{sizes.generators:,} generators opened and closed"
    yield _flat("open", f"{what}: memory", memory, _memory(), begun)
    now = _descriptors()
    yield Row("open", f"{what}: descriptors", descriptors, now, now <= descriptors, time.monotonic() - begun)


# calls


def calls(sizes: Sizes) -> Iterator[Row]:
    """Memory, over many calls of one generator."""
    generator = ImageGenerator(MODEL, provider="cpu", threads=1)
    begun = time.monotonic()
    warm = sizes.calls // 10
    for number in range(sizes.calls):
        if number == warm:
            memory = _memory()
        generator.generate(1, seed=number)
    yield _flat("calls", f"{sizes.calls:,} calls of generate(1): memory", memory, _memory(), begun)


# threads


def threads(sizes: Sizes) -> Iterator[Row]:
    """Bits and memory, with one generator for eight threads, and with one each."""
    count, many = 64, 8
    alone = ImageGenerator(MODEL, provider="cpu", threads=1)
    expected = [alone.generate(count, seed=seed) for seed in range(many)]
    for what, of in (
        ("one generator for 8 threads", [alone] * many),
        ("8 threads with one each", [ImageGenerator(MODEL, provider="cpu", threads=1) for _ in range(many)]),
    ):
        begun, equal = time.monotonic(), True
        memory = 0
        with ThreadPoolExecutor(many) as pool:
            for number in range(sizes.rounds):
                if number == max(1, sizes.rounds // 10):
                    memory = _memory()
                made = pool.map(lambda seed, of=of: of[seed].generate(count, seed=seed), range(many))
                equal &= all(map(np.array_equal, made, expected))
            now = _memory()
        seconds = time.monotonic() - begun
        yield Row("threads", f"{what}: equal bits", 1, int(equal), bool(equal), seconds)
        yield _flat("threads", f"{what}, {sizes.rounds:,} rounds: memory", memory, now, begun)


PARTS: dict[str, Callable[[Sizes], Iterator[Row]]] = {
    "stream": stream,
    "open": opened,
    "calls": calls,
    "threads": threads,
}


def _all_of(part: str, sizes: Sizes) -> list[Row]:
    return list(PARTS[part](sizes))


def rows_of(parts: tuple[str, ...], sizes: Sizes) -> Iterator[Row]:
    """Run each part in a new process, so that none sees the memory of another."""
    context = multiprocessing.get_context("spawn")
    for part in parts:
        with context.Pool(1) as pool:
            yield from pool.apply(_all_of, (part, sizes))


def line(row: Row) -> str:
    """A row of the table."""
    is_size = max(row.before, row.after) > _MEGABYTE
    before, after = (f"{n / _MEGABYTE:.1f} MB" if is_size else f"{n:.0f}" for n in (row.before, row.after))
    return f"{row.what:<66}{before:>10}{after:>10}{row.seconds:>9.1f} s   {'flat' if row.fits else 'NOT FLAT'}"


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="One of the parts.")
@click.option("--quick", is_flag=True, help="A hundredth of it.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the rows there too.")
def main(only: tuple[str, ...], quick: bool, json_file: Path | None) -> None:
    """See that memory and open files stay flat."""
    rows = []
    click.echo(f"{'':<66}{'before':>10}{'after':>10}")
    for row in rows_of(only or tuple(PARTS), QUICK if quick else Sizes()):
        rows.append(row)
        click.echo(line(row))
    if json_file is not None:
        json_file.write_text(json.dumps([row._asdict() for row in rows], indent=2))
    sys.exit(not all(row.fits for row in rows))


if __name__ == "__main__":
    main()
