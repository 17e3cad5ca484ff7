"""Shards made on a Ray cluster of two machines, which are processes here, while they die."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODELS

from dcgan_infer import ImageGenerator
from dcgan_infer.contract.errors import OutputError
from dcgan_infer.request import Request, Sharding
from dcgan_infer.shards import ray_engine
from dcgan_infer.shards.make import Maker, make_shards, plan_of

pytest.importorskip("ray.data")
if not Path("/proc/self/stat").exists():
    pytest.skip("processes are looked up in /proc", allow_module_level=True)

MODEL = str(MODELS / "clothes.onnx")
SIZE = 5_000  # images in a shard, which takes some tenths of a second
SHARDS = 16
NODE = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster()
first = cluster.add_node(num_cpus=1, include_dashboard=False)
second = cluster.add_node(num_cpus=1)
raylets = [node.all_processes["raylet"][0].process.pid for node in (first, second)]
print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
sys.stdin.read()
cluster.shutdown()
"""
NOWHERE = """
import sys
from dcgan_infer import ImageGenerator
from dcgan_infer.request import Request, Sharding
from dcgan_infer.shards.make import Maker, plan_of
from dcgan_infer.shards.ray_engine import made_by_ray
model, address = sys.argv[1:]
generator = ImageGenerator(model, provider="cpu", threads=1)
plan = plan_of(Request("memory://x", "shards", n=10, model=model, sharding=Sharding("npy")), generator)
for place in ("/proc/nowhere", "memory://digits"):
    try:
        list(made_by_ray(Maker(plan, place, generator, 16), [0], address, lambda _: None))
    except OSError as error:
        print(error, flush=True)
"""


def quiet() -> dict[str, str]:
    return os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, Any]]:
    """Two machines with a core each; the address of the cluster, and the processes that are the machines."""
    patient = quiet() | {"RAY_raylet_start_wait_time_s": "120"}
    for _ in range(3):  # where the cores are busy, Ray may give up on its own parts
        with subprocess.Popen(
            [sys.executable, "-c", NODE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=patient,
        ) as process:  # fmt: skip
            assert process.stdout
            if said := next((line for line in process.stdout if line.startswith("{")), ""):
                yield json.loads(said)
                process.communicate()
                return
    pytest.fail("Ray starts no cluster here")


def words(place: Path, *arguments: str) -> list[str]:
    amount = ["-n", str(SIZE * SHARDS), "--shard-size", str(SIZE), "--format", "npy"]
    return [sys.executable, "-m", "dcgan_infer", "--model", MODEL, *amount, "-o", place.name, *arguments]


def started(place: Path, *arguments: str, **surroundings: str) -> subprocess.Popen[str]:
    ray = words(place, "--engine", "ray", "--json", *arguments)
    pipe = subprocess.PIPE
    return subprocess.Popen(ray, stdout=pipe, stderr=pipe, text=True, env=os.environ | surroundings, cwd=place.parent)


def wait(process: subprocess.Popen[str], until: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 120
    while not (found := until()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def receipts(place: Path) -> int:
    return len(list(place.glob(".shards/images-*.json")))


def processes(matches: Callable[[Path], bool]) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if (folder / "stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z" and matches(folder):
                found.append(int(folder.name))
    return found


def actors(raylet: int) -> list[int]:
    """Of our own, on a machine."""

    def is_one(folder: Path) -> bool:
        parent = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
        return parent == raylet and b"MapWorker" in (folder / "cmdline").read_bytes()

    return processes(is_one)


def test_a_machine_and_then_an_actor_die_and_the_bytes_are_the_same(cluster: dict[str, Any], tmp_path: Path) -> None:
    first, second = cluster["raylets"]
    place = tmp_path / "ray"
    process = started(place, "--ray-address", cluster["address"])
    wait(process, lambda: receipts(place) >= 2 and actors(first) and actors(second))
    for number in (second, *actors(second)):
        os.kill(number, signal.SIGKILL)
    before = receipts(place)
    wait(process, lambda: receipts(place) > before + 2)
    (last,) = actors(first)
    os.kill(last, signal.SIGKILL)
    assert receipts(place) < SHARDS
    out, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (0, "")
    assert json.loads(out)["missing"] == 0

    subprocess.run(words(tmp_path / "plain", "--threads", "1"), check=True, capture_output=True, cwd=tmp_path)
    held = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "plain", tmp_path / "ray")
    ]
    assert held[0] == held[1]


def test_what_goes_wrong_on_the_cluster_is_a_line_with_its_cause(cluster: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOWHERE, MODEL, cluster["address"]], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    nowhere, unseen = done.stdout.splitlines()
    assert nowhere.startswith("the shards can't be made by Ray: can't make the folder /proc/nowhere: no such file")
    assert unseen.startswith("Ray made 1 shards, and 1 of them are not in memory://digits as this machine sees it")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda it: it.name)
def test_a_signal_ends_it_and_the_cluster_that_it_started(number: signal.Signals, tmp_path: Path) -> None:
    mark = uuid.uuid4().hex  # what it starts has it in its surroundings

    def left() -> list[int]:
        return processes(lambda folder: mark.encode() in (folder / "environ").read_bytes())

    process = started(tmp_path / "ray", DCGAN_TEST=mark)
    if number == signal.SIGINT:
        wait(process, lambda: receipts(tmp_path / "ray"))
    else:  # while Ray starts
        wait(process, lambda: len(left()) > 2)
    began = time.monotonic()
    process.send_signal(number)
    assert process.communicate(timeout=10) == ("", "\nstopped; give the same command again to go on\n")
    assert process.returncode == 128 + number
    while left():
        assert time.monotonic() < began + 10, left()
        time.sleep(0.1)


def maker(place: Path) -> tuple[Maker, bytes]:
    generator = ImageGenerator(MODEL, provider="cpu", threads=1)
    plan = plan_of(Request(place, "shards", n=10, model=MODEL, sharding=Sharding("npy")), generator)
    return Maker(plan, str(place), generator, 16), Path(MODEL).read_bytes()


def test_a_machine_with_other_versions_is_refused(tmp_path: Path) -> None:
    mine, content = maker(tmp_path)
    other = replace(mine.plan, software=(*mine.plan.software[:-1], ("numpy", "1.0")))
    actor = ray_engine._Actor({"plan": other, "place": str(tmp_path), "batch_size": 16}, content, 1)
    answer = actor({"number": np.array([0])})
    assert answer["count"] == [0]
    assert re.search(r"has numpy .*, and the set is made with 1\.0; install the same versions", answer["problem"][0])


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:1", "can't use Ray at 127.0.0.1:1: Connection refused"),
        ("ray://127.0.0.1:1", "can't use Ray at ray://127.0.0.1:1: Connection refused"),
        ("auto", "can't use Ray at auto: Connection refused"),
    ],
)
def test_a_cluster_that_does_not_answer(
    address: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    request = Request(
        tmp_path / "a", "shards", n=10, model=MODEL, sharding=Sharding("npy", engine="ray", address=address)
    )
    with pytest.raises(OutputError, match=says):
        make_shards(request)
