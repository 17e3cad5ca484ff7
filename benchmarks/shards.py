"""Shards at full size: how fast, how much memory, and the same bytes after deaths: python benchmarks/shards.py

1. Formats: `dcgan-infer --format ...` of n images in a process of its own, between two others: the session alone on
   latents that are there before, and the generator's stream, which draws latents and gives pictures. Of all of them the
   time without imports. Memory is the process's peak, beside that of 10,000 images in the same format.
2. Resume: the same command, killed by SIGKILL twice and started again; every shard's sha256 as it was.
3. Ray: `--engine ray` on a cluster of two machines, which are processes here, the second killed by SIGKILL in the
   middle; every shard's sha256 as it was. Beside it a run in which nothing dies. How long the first shard takes shows
   what the start of Ray and of a worker costs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

FORMATS = (("parquet", "raw"), ("parquet", "png"), ("webdataset", "png"), ("npy", "raw"))
FEW = 10_000  # images that memory is compared at
BATCH = 16
NODES = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster()
nodes = [cluster.add_node(num_cpus=1, include_dashboard=False), cluster.add_node(num_cpus=1)]
raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
print(json.dumps([cluster.address, *raylets]), flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def infer(place: Path, n: int, size: int, *more: str) -> list[str]:
    words = ["-m", "dcgan_infer", "--provider", "cpu", "-n", str(n), "--shard-size", str(size), "-o", str(place)]
    return [sys.executable, *words, "--json", *more]


def alone(n: int, model: str, threads: int) -> float:
    """Seconds of the session on latents that are there before."""
    from dcgan_infer import ImageGenerator
    from dcgan_infer.inputs import Block

    generator = ImageGenerator(model, provider="cpu", threads=threads)
    blocks = list(generator.blocks(128, batch_size=BATCH))

    def endless() -> Iterator[Block]:
        for _ in range(-(-n // 128)):
            yield from blocks

    start = time.perf_counter()
    for _ in generator.run(endless(), BATCH):
        pass
    return time.perf_counter() - start


def stream(n: int, model: str, threads: int) -> float:
    """Seconds of the generator: latents, the session and pictures."""
    from dcgan_infer import ImageGenerator

    generator = ImageGenerator(model, provider="cpu", threads=threads)
    start = time.perf_counter()
    for _ in generator.stream(n, batch_size=BATCH):
        pass
    return time.perf_counter() - start


PEERS: dict[str, Callable[[int, str, int], float]] = {"session alone": alone, "generator's stream": stream}


def of_a_process(words: list[str]) -> tuple[dict[str, Any], float]:
    """What a process printed as JSON, and the peak of its memory in MiB, or of this one if it is more."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{' '.join(words)} ended with {process.returncode}")
    return json.loads(said), used.ru_maxrss / 1024


def shards_of(place: Path) -> dict[str, str]:
    """The sha256 of each file, as sha256sum reads it from the disk."""
    names = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
    lines = subprocess.run(["sha256sum", *names], cwd=place, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {line[66:]: line[:64] for line in lines.splitlines()}


def whole(place: Path) -> int:
    return len(list(place.glob(".shards/images-*.json")))


def formats(folder: Path, n: int, size: int, rounds: int, model: str, threads: int) -> dict[str, Any]:
    """Rates in turn, and memory at n images and at few."""
    rates: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    found: dict[str, dict[str, Any]] = {}
    place = folder / "set"
    common = ["--model", model, "--threads", str(threads)]
    for _ in range(rounds):
        for name in PEERS:
            words = [sys.executable, __file__, "--peer", name, "--images", str(n), "--model", model]
            seconds, peak = of_a_process([*words, "--threads", str(threads)])
            rates.setdefault(name, []).append(n / float(seconds["seconds"]))
            memory.setdefault(name, []).append(peak)
        for kind, encoding in FORMATS:
            name = f"{kind}, {encoding}"
            facts, peak = of_a_process(infer(place, n, size, "--format", kind, "--encoding", encoding, *common))
            rates.setdefault(name, []).append(facts["images"] / facts["seconds"])
            memory.setdefault(name, []).append(peak)
            found[name] = {"bytes_per_image": facts["bytes"] / n, "sha256": facts["sha256"]}
            shutil.rmtree(place)
    rows = {}
    for name, measured in rates.items():
        shares = [rate / peer for rate, peer in zip(measured, rates["session alone"], strict=True)]
        rows[name] = {
            "images_per_second": statistics.median(measured),
            "share_of_session": statistics.median(shares),
            "peak_mib": max(memory[name]),
            **found.get(name, {}),
        }
    for kind, encoding in FORMATS:
        few = min(FEW, n // 10)
        _, peak = of_a_process(infer(place, few, min(size, few), "--format", kind, "--encoding", encoding, *common))
        rows[f"{kind}, {encoding}"]["peak_mib_of_few"] = peak
        shutil.rmtree(place)
    head = f"{n:,} images in shards of {size:,}, {threads} threads, {rounds} rounds"
    click.echo(f"{head:<44}{'images/s':>10}{'of session':>12}{'MiB':>7}{'of few':>8}{'bytes/image':>13}")
    for name, row in rows.items():
        line = f"{name:<44}{row['images_per_second']:>10,.0f}{row['share_of_session']:>12.2f}{row['peak_mib']:>7,.0f}"
        if "bytes_per_image" in row:
            line += f"{row['peak_mib_of_few']:>8,.0f}{row['bytes_per_image']:>13,.0f}"
        click.echo(line)
    return rows


def wait_for(process: subprocess.Popen[str], shards: int, place: Path) -> None:
    while whole(place) < shards:
        if process.poll() is not None:
            raise click.ClickException("it was done before it could be killed: take more --images or smaller shards")
        time.sleep(0.005)


def resumed(folder: Path, n: int, size: int, common: list[str], expected: dict[str, str]) -> dict[str, Any]:
    """Killed twice; whether all files are as they should be."""
    place, count = folder / "killed", -(-n // size)
    words = infer(place, n, size, "--format", "npy", *common)
    for part in (1, 2):
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, text=True) as process:
            wait_for(process, max(part, count * part // 3), place)
            process.kill()
    before = whole(place)
    facts, _ = of_a_process(words)
    same = shards_of(place) == expected
    shutil.rmtree(place)
    click.echo(f"killed twice: {before} of {count} shards were whole, {facts['made']} made then; files equal: {same}")
    return {"whole_before": before, "made_then": facts["made"], "equal": same}


@contextmanager
def cluster() -> Iterator[tuple[str, int, int]]:
    """Two machines with a core each: the cluster's address, and the processes that are the machines."""
    surroundings = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    words = [sys.executable, "-c", NODES]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=null, text=True, env=surroundings) as process:
        assert process.stdout
        address, first, second = json.loads(next(line for line in process.stdout if line.startswith("[")))
        yield address, first, second
        process.communicate()


def children(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_bytes().rpartition(b")")[2].split()[1]) == parent:
                found.append(int(status.parent.name))
        except OSError:  # it has just ended
            continue
    return found


def on_ray(folder: Path, n: int, size: int, common: list[str], expected: dict[str, str]) -> dict[str, Any]:
    """A run on two machines, and one during which the second dies."""
    place, count = folder / "ray", -(-n // size)
    rows: dict[str, Any] = {}
    plain, _ = of_a_process(infer(place, n, size, "--format", "npy", *common, "--threads", "2"))
    shutil.rmtree(place)
    with cluster() as (address, _, second):
        words = infer(place, n, size, "--format", "npy", *common, "--engine", "ray", "--ray-address", address)
        for dies in (False, True):
            start = time.perf_counter()
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
                wait_for(process, 1, place)
                first = time.perf_counter() - start
                if dies:
                    wait_for(process, max(2, count // 3), place)
                    for number in (*children(second), second):
                        os.kill(number, signal.SIGKILL)
                facts = json.loads(process.communicate()[0])
            same = shards_of(place) == expected
            shutil.rmtree(place)
            rows["a machine dies" if dies else "nothing dies"] = {
                "seconds": facts["seconds"],
                "seconds_to_first_shard": first,
                "seconds_of_plain_run": plain["seconds"],
                "equal": same,
            }
    for name, row in rows.items():
        click.echo(
            f"Ray, {name}: {row['seconds']:.1f} s, the first shard after {row['seconds_to_first_shard']:.1f} s; "
            f"plain with 2 threads {row['seconds_of_plain_run']:.1f} s; files equal: {row['equal']}"
        )
    return rows


@click.command(help=__doc__)
@click.option("--images", default=1_000_000, show_default=True, type=click.IntRange(100))
@click.option("--shard-size", default=20_000, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default="all cores", type=click.IntRange(1))
@click.option("--model", default="dcgan-mnist-conditional", show_default=True)
@click.option("--skip", multiple=True, type=click.Choice(["formats", "resume", "ray"]))
@click.option("--quick", is_flag=True, help="All of it small, to see that it works: 2,000 images, one round.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to a file.")
@click.option("--peer", type=click.Choice(list(PEERS)), hidden=True)
def main(
    images: int, shard_size: int, rounds: int, threads: int, model: str, skip: tuple[str, ...], quick: bool,
    json_file: Path | None, peer: str | None,
) -> None:  # fmt: skip
    if peer:
        click.echo(json.dumps({"seconds": PEERS[peer](images, model, threads)}))
        return
    if quick:
        images, shard_size, rounds = 2_000, 100, 1
    found: dict[str, Any] = {"images": images, "shard_size": shard_size, "threads": threads, "model": model}
    common = ["--model", model]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "formats" not in skip:
            found["formats"] = formats(folder, images, shard_size, rounds, model, threads)
        if {"resume", "ray"} - set(skip):
            of_a_process(infer(folder / "plain", images, shard_size, "--format", "npy", *common))
            expected = shards_of(folder / "plain")
            if "resume" not in skip:
                found["resume"] = resumed(folder, images, shard_size, common, expected)
            if "ray" not in skip:
                found["ray"] = on_ray(folder, images, shard_size, common, expected)
    if json_file:
        json_file.write_text(json.dumps(found, indent=1) + "\n")
    equal = [row["equal"] for row in (found.get("resume"), *found.get("ray", {}).values()) if row]
    if not all(equal):
        raise click.ClickException("not all files are equal")


if __name__ == "__main__":
    main()
