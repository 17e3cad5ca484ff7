"""Commands on odd machines, and what they open: some of tests/stress/surroundings.py, and all under strace."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "tests" / "stress"))

from surroundings import COMMANDS, Job, permitted, run

SLOW = {"train", "eval"}  # with torch, and some seconds each


@pytest.mark.parametrize(
    ("command", "place"),
    [
        *itertools.product(
            ("infer", "infer-folder", "infer-shards", "bench", "export-torchscript"),
            ("no-streams", "read-only-home", "nobody", "read-only-root"),
        ),
        ("export-onnx", "read-only-root"),  # whose exporter wants a temporary folder
    ],
)
def test_a_command_goes_in_an_odd_place(command: str, place: str) -> None:
    if command.startswith("export"):
        pytest.importorskip("torch")
    if command == "bench":
        pytest.importorskip("matplotlib")
    if not permitted(place):
        pytest.skip("namespaces are not permitted here")
    assert run(command, place).problem == ""


def test_what_goes_wrong_in_a_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for words, problem in (
        (["-c", "1/0"], "exit status 1: ZeroDivisionError: division by zero"),
        (["-c", ""], "it left no a"),
        (["-c", "open('a', 'w'); import warnings; warnings.warn('hear')"], "it said "),
        (["-c", "open('a', 'w'); open('b', 'w')"], "it left b too"),
    ):
        monkeypatch.setitem(COMMANDS, "planted", Job([sys.executable, *words], ("a",)))
        assert run("planted", "home").problem.startswith(problem)


# What is opened, by strace: Python's own audit hooks do not see native code.


@pytest.fixture(scope="module")
def strace() -> str:
    if shutil.which("strace") is None and os.environ.get("CI"):
        subprocess.run(["apt-get", "install", "-qq", "strace"], check=False, capture_output=True)
    found = shutil.which("strace")
    if found is None or subprocess.run([found, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace does not work here")
    return found


_MAKING = ("open", "openat", "creat", "mkdir", "mkdirat", "rename", "renameat2")
_CALL = re.compile(r"^\d+\s+(\w+)\((.*)$")
_PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')


def traced(strace: str, words: list[str], folder: Path) -> tuple[list[str], list[str]]:
    """Run a command.

    Returns:
        The sockets that it opened, and the paths outside of `folder` that it made or opened for writing, both as strace
        writes the calls.
    """
    log = folder.parent / "calls"
    line = [
        strace,
        "-f",
        "-qq",
        "-o",
        str(log),
        "-e",
        "trace=%network,open,openat,creat,mkdir,mkdirat,rename,renameat2",
    ]
    hidden = ("XDG_", "ORT_", "MPL")  # of our own environment, which would hide what a user's lacks
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {
        "HOME": str(folder.parent / "home"), "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("", "infer", "export")),
    }  # fmt: skip
    (folder.parent / "home").mkdir(exist_ok=True)
    subprocess.run([*line, *words], cwd=folder, env=environment, check=True, capture_output=True)
    calls = [(match[1], match[2]) for match in map(_CALL.match, log.read_text().splitlines()) if match]
    # AF_UNIX does not leave the machine: libc asks nscd for the user's name by it.
    sockets = [f"{name}({rest}" for name, rest in calls if name == "socket" and not rest.startswith("AF_UNIX")]
    return sockets, list(_written(calls, folder))


def _written(calls: list[tuple[str, str]], folder: Path) -> Iterator[str]:
    for name, rest in calls:
        reads = name in ("open", "openat") and not re.search(r"O_(WRONLY|RDWR|CREAT)", rest)
        if (
            reads
            or "= -1" in rest
            or name not in ("open", "openat", "creat", "mkdir", "mkdirat", "rename", "renameat2")
        ):
            continue
        paths = [Path(path) for path in _PATH.findall(rest)]
        own = (folder, Path("/dev"), Path("/proc/self"))
        if any(path.is_absolute() and not any(map(path.is_relative_to, own)) for path in paths):
            yield f"{name}({rest}"


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in SLOW])
def test_no_command_opens_a_socket_or_writes_elsewhere(command: str, strace: str, tmp_path: Path) -> None:
    if command.startswith("export"):
        pytest.importorskip("torch")
    if command == "bench":
        pytest.importorskip("matplotlib")
    folder = tmp_path / "work"
    folder.mkdir()
    sockets, written = traced(strace, COMMANDS[command].words, folder)
    assert sockets == []
    kept = tmp_path / "home" / ".cache" / "dcgan-toolkit"  # what SECURITY.md and the docs say
    assert [call for call in written if str(kept) not in call and f'"{kept.parent}"' not in call] == []


@pytest.mark.parametrize("planted", ["socket", "file"])
def test_a_planted_one_is_seen(planted: str, strace: str, tmp_path: Path) -> None:
    """In native code, past all that Python can see."""
    folder = tmp_path / "work"
    folder.mkdir()
    code = "import ctypes; c = ctypes.CDLL(None); c.socket(2, 1, 0)"
    if planted == "file":
        code = f"import ctypes; c = ctypes.CDLL(None); c.creat({str(tmp_path / 'id').encode()!r}, 0o600)"
    sockets, written = traced(strace, [sys.executable, "-c", code], folder)
    assert (len(sockets), len(written)) == ((1, 0) if planted == "socket" else (0, 1))
