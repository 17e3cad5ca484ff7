"""Shards in object stores: a server of S3's protocol, which is another process, and fsspec's memory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import MODELS

from dcgan_infer import ImageGenerator
from dcgan_infer.cli import main
from dcgan_infer.shards import stores
from dcgan_infer.shards.images import ShardedImages

fsspec = pytest.importorskip("fsspec")
LocalFileSystem: Any = pytest.importorskip("fsspec.implementations.local").LocalFileSystem

MODEL = str(MODELS / "clothes.onnx")
SMALL = ("--model", MODEL, "--provider", "cpu", "-n", "50", "--shard-size", "20", "--format", "npy")
SHARDS = [f"images-{number:05d}-of-00003.npy" for number in range(3)]
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
LIMITED = """
import resource
from dcgan_infer.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
main()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an empty S3."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    words = [sys.executable, "-c", SERVER]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def aws(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """How a user says where S3 is, and who he is."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A file system that has one empty bucket, named bucket."""
    urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", method="POST")).close()
    aws(monkeypatch, server)
    files = fsspec.filesystem("s3", use_listings_cache=False)
    files.mkdir("bucket")
    return files


def run(place: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*SMALL, "-o", place, *arguments])


def made(place: str, *arguments: str) -> dict[str, Any]:
    result = run(place, "--json", *arguments)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def failed(place: str, *arguments: str) -> str:
    """The one line of an exit status of 1."""
    result = run(place, *arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr


def started(place: str, *arguments: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "dcgan_infer", *SMALL, "-o", place, *arguments]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_jobs_make_one_set_and_the_manifest_comes_last(s3: Any, tmp_path: Path) -> None:
    place = "s3://bucket/some/digits"
    first = started(place, "--shard", "0/2", "--json")
    out, error = first.communicate(timeout=60)
    assert (first.returncode, error) == (0, "")
    assert json.loads(out)["missing"] == 1
    assert not s3.exists("bucket/some/digits/manifest.json")

    second = started(place, "--shard", "1/2", "--json")
    out, error = second.communicate(timeout=60)
    assert (second.returncode, error) == (0, "")
    assert json.loads(out)["sha256"] == made(str(tmp_path / "digits"))["sha256"]
    held = {path.removeprefix("bucket/some/digits/"): s3.cat_file(path) for path in s3.find("bucket/some/digits")}
    folder = tmp_path / "digits"
    assert held == {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    since = {name: s3.info(f"bucket/some/digits/{name}")["LastModified"] for name in held}
    assert max(since.values()) == since["manifest.json"]
    assert min(since.values()) == since[".shards/plan.json"]
    assert all(since[name] <= since[f".shards/{name}.json"] for name in SHARDS)

    assert made(place)["made"] == 0


def test_what_is_lost_or_damaged_is_made_again(s3: Any) -> None:
    sha256 = made("s3://bucket/digits")["sha256"]
    manifest = s3.cat_file("bucket/digits/manifest.json")
    s3.rm(f"bucket/digits/{SHARDS[0]}")
    found = made("s3://bucket/digits")
    assert (found["made"], found["sha256"]) == (1, sha256)
    content = bytearray(s3.cat_file(f"bucket/digits/{SHARDS[1]}"))
    content[1000] ^= 1
    s3.pipe_file(f"bucket/digits/{SHARDS[1]}", bytes(content))
    s3.rm(f"bucket/digits/.shards/{SHARDS[2]}.json")
    found = made("s3://bucket/digits")
    assert (found["made"], found["sha256"]) == (2, sha256)
    s3.rm("bucket/digits/manifest.json")
    assert made("s3://bucket/digits")["made"] == 0
    assert s3.cat_file("bucket/digits/manifest.json") == manifest


@pytest.mark.parametrize("kind", ["npy", "parquet", "webdataset"])
def test_reading_back(kind: str, s3: Any) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    made("s3://bucket/digits", "--format", kind)
    images = ShardedImages("s3://bucket/digits")
    expected = ImageGenerator(MODEL, provider="cpu")
    assert np.array_equal(np.concatenate([part for part, _ in images.batches()]), expected.generate(50))
    assert images[49][1] == expected.labels(1, start=49)[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda it: it.name)
def test_killed_and_resumed(number: signal.Signals, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    more = ("-n", "100000", "--shard-size", "500")  # which takes a while
    process = started("s3://bucket/digits", *more)
    until = time.monotonic() + 60
    while len(s3.glob("bucket/digits/.shards/images-*")) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
    process.send_signal(number)
    _, said = process.communicate(timeout=10)
    assert process.returncode == (-9 if number == signal.SIGKILL else 143)
    assert not s3.exists("bucket/digits/manifest.json")
    left = list(tmp_path.iterdir())
    if number == signal.SIGTERM:
        assert "the same command again" in said
        assert left == []

    made_before = len(s3.glob("bucket/digits/.shards/images-*"))
    # Two parts more, since all of it would take too long here.
    first = max(int(path.rpartition("images-")[2][:5]) for path in s3.find("bucket/digits") if "/images-" in path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = [made("s3://bucket/digits", *more, "--shard", f"{first + i}/200") for i in range(3)]
    assert all(each["made"] + each["found"] == 1 for each in found)
    assert found[2]["missing"] == 200 - made_before - sum(each["made"] for each in found)
    assert found[2]["missing"] > 0
    assert list(tmp_path.iterdir()) == []  # what the killed one left was cleared
    assert json.loads(s3.cat_file("bucket/digits/.shards/plan.json"))["n"] == 100_000


def test_an_upload_that_fails_is_a_line_and_the_next_run_goes_on(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    send = type(s3).put_file

    def failing(self: Any, file: str, path: str) -> None:
        if path.endswith(SHARDS[1]):
            raise ConnectionResetError(104, "Connection reset by peer")
        send(self, file, path)

    with monkeypatch.context() as patch:
        patch.setattr(type(s3), "put_file", failing)
        said = failed("s3://bucket/digits")
        assert said == f"Error: can't write s3://bucket/digits/{SHARDS[1]}: Connection reset by peer\n"
    assert {path.rpartition("/")[2] for path in s3.ls("bucket/digits/.shards")} == {"plan.json", f"{SHARDS[0]}.json"}
    found = made("s3://bucket/digits")
    assert (found["found"], found["made"]) == (1, 2)


def test_a_bucket_that_is_not_there_is_not_made(s3: Any) -> None:
    assert "The specified bucket does not exist" in failed("s3://other/digits")
    assert s3.ls("") == ["bucket"]
    with pytest.raises(OSError, match=r"s3://other/digits has no manifest\.json"):
        ShardedImages("s3://other/digits")


def test_who_may_not_is_told_so(s3: Any, server: str) -> None:
    def demand(after: str) -> None:
        address = f"{server}/moto-api/reset-auth"
        text = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(address, after.encode(), text, method="POST")).close()

    demand("0")  # of moto: from now on it looks who asks
    try:
        said = failed("s3://bucket/digits")
    finally:
        demand("inf")
    assert said.startswith("Error: can't reach s3://bucket/digits: ")
    assert s3.find("bucket") == []


def test_a_server_that_is_down_is_a_line_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        aws(monkeypatch, f"http://127.0.0.1:{unused.getsockname()[1]}")
        began = time.monotonic()
        assert "Could not connect to the endpoint" in failed("s3://bucket/digits")
    assert time.monotonic() - began < stores._PATIENCE


def test_a_server_that_says_nothing_is_a_line_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.setattr(stores, "_PATIENCE", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        aws(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert failed("s3://bucket/digits") == "Error: can't reach s3://bucket/digits: no answer\n"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("foo://bucket/digits", "Error: can't use foo://bucket/digits: Protocol not known: foo\n"),
        ("gs://bucket/digits", "Error: can't use gs://bucket/digits: Please install gcsfs"),
    ],
)
def test_what_fsspec_does_not_know(place: str, says: str) -> None:
    if place.startswith("gs:"):
        try:
            fsspec.get_filesystem_class("gs")
        except ImportError:
            pass
        else:
            pytest.skip("gcsfs is installed")
    assert failed(place).startswith(says)


def test_a_url_without_a_bucket(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed("s3://")
    assert list(tmp_path.iterdir()) == []


def test_memory() -> None:
    place = "memory://digits"
    assert made(place)["made"] == 3
    assert made(place)["made"] == 0
    assert np.array_equal(next(ShardedImages(place).batches())[0], ImageGenerator(MODEL, provider="cpu").generate(20))
    fsspec.filesystem("memory").rm("/digits", recursive=True)


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    assert made(f"file://{tmp_path}/digits")["sha256"] == made(str(tmp_path / "other"))["sha256"]
    assert made(str(tmp_path / "digits"))["made"] == 0


class Disk(LocalFileSystem):  # type: ignore[misc]
    """A file system with folders that is no local one, as sftp's is: what it writes to must be there."""

    protocol = "disk"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("disk://")))


def test_folders_are_made_where_a_file_system_has_them(tmp_path: Path) -> None:
    fsspec.register_implementation("disk", Disk, clobber=True)
    assert made(f"disk://{tmp_path}/a/b/digits")["made"] == 3
    assert made(f"disk://{tmp_path}/a/b/digits")["made"] == 0
    (tmp_path / "file").write_text("")
    assert "Not a directory" in failed(f"disk://{tmp_path}/file/digits")


def test_without_a_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    said = failed("memory://none")
    assert "sent from: no such file or directory; set TMPDIR" in said


def test_without_room_for_temporary_files(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    words = [sys.executable, "-c", LIMITED, *SMALL, "--shard-size", "200", "-n", "400", "-o", "memory://full"]
    done = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}, check=False
    )
    assert done.returncode == 1
    assert "sent from: file too large; set TMPDIR to a folder with room for a shard\n" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
