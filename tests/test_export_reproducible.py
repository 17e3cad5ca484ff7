"""The same checkpoint gives the same bytes, whoever exports it, where and when; and a difference would be seen.

Two clones of the packages, each run as `python -m dcgan_export` does, in an environment of its own. Both export once
more, with a plant: metadata that tell of the environment. All of these have to differ, or the first comparison shows
nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT
from exported import metadata_of, save

DAYS = 40
NOBODY = 65534  # a user that every unix has

# Imported by Python before anything else: another day, for whoever asks for the time by any of the usual ways.
CLOCK = f"""
import datetime, time
shift = {DAYS} * 86400
_time, _time_ns, _gmtime, _localtime, _strftime = time.time, time.time_ns, time.gmtime, time.localtime, time.strftime
time.time = lambda: _time() + shift
time.time_ns = lambda: _time_ns() + shift * 10**9
time.gmtime = lambda seconds=None: _gmtime(time.time() if seconds is None else seconds)
time.localtime = lambda seconds=None: _localtime(time.time() if seconds is None else seconds)
time.strftime = lambda form, moment=None: _strftime(form, time.localtime() if moment is None else moment)

class Date(datetime.date):
    @classmethod
    def today(cls):
        return cls.fromtimestamp(time.time())

class Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
    @classmethod
    def today(cls):
        return cls.fromtimestamp(time.time())
    @classmethod
    def utcnow(cls):
        return cls.now(datetime.timezone.utc).replace(tzinfo=None)

datetime.date, datetime.datetime = Date, Datetime
"""

# Exports, plants in publish.py what metadata would say that said more than they may, and exports again: in one process,
# since most of the time goes into importing torch.
EXPORT = """
import runpy, sys
checkpoint, model, golden, planted = sys.argv[1:]
sys.argv = ["export", checkpoint, "--out", model, "--golden", golden]
try:
    runpy.run_module("dcgan_export", run_name="__main__", alter_sys=True)
except SystemExit as done:
    assert not done.code, done.code
import dcgan_export.publish
from dcgan_export.cli import main
from pathlib import Path

def _planted(clean):
    import datetime, getpass, locale, time
    def metadata(*arguments):
        Path("here").touch()
        return clean(*arguments) | {
            "time": str(time.time() // 86400),
            "datetime": str(datetime.date.today()),
            "now": str(datetime.datetime.now().date()),
            "strftime": time.strftime("%Y-%m-%d"),
            "path": dcgan_export.publish.__file__,
            "cwd": str(Path.cwd()),
            "home": str(Path.home()),
            "login": getpass.getuser(),
            "user": str(__import__("os").getuid()),
            "zone": str(time.timezone),
            "hash": str(hash("generator")),
            "order": " ".join({"generator", "linear1", "bn1", "decon1", "decon2"}),
            "umask": oct(Path("here").stat().st_mode),
            "encoding": locale.getpreferredencoding(False),
            "arguments": " ".join(sys.argv),
        }
    return metadata

dcgan_export.publish._metadata = _planted(dcgan_export.publish._metadata)
main([checkpoint, "--out", planted], standalone_mode=False)
"""
PLANTED = (
    "time", "datetime", "now", "strftime", "path", "cwd", "home", "login", "user", "zone", "hash", "order", "umask",
    "encoding", "arguments",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where and by whom a checkpoint is exported."""

    folder: Path
    clone: Path
    out: str
    environment: dict[str, str]
    umask: int
    user: int | None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Python in the folder, which is the clone itself or not."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            umask=self.umask,
            user=self.user,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def export(self) -> Exports:
        """The artifact, golden vectors, and the artifact with the plant in it."""
        names = [self.folder / f"{self.out}{suffix}" for suffix in (".onnx", ".golden", "-planted.onnx")]
        done = self.run("-c", EXPORT, str(self.clone / "models" / "digits.safetensors"), *map(str, names))
        assert done.returncode == 0, done.stderr
        return Exports(*names)


class Exports(NamedTuple):
    model: Path
    golden: Path
    planted: Path


def another_user() -> int | None:
    """Somebody else who can run this Python, where we may become somebody else."""
    if not hasattr(os, "getuid") or os.getuid() != 0:
        return None
    command = [sys.executable, "-c", "import torch, onnx, onnxscript, onnxruntime, safetensors, click"]
    try:
        done = subprocess.run(command, user=NOBODY, cwd="/", env={"HOME": "/"}, capture_output=True, check=False)
    except OSError:  # the interpreter lies where only we may look
        return None
    return NOBODY if done.returncode == 0 else None


def clone_to(folder: Path) -> Path:
    for package in ("dcgan", "export", "infer"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "sample"))
    (folder / "models").mkdir()
    save(folder / "models" / "digits.safetensors")
    return folder


def packages(clone: Path) -> list[str]:
    """Folders to import a clone's packages from, before those that are installed."""
    return [str(clone), str(clone / "export"), str(clone / "infer")]


@pytest.fixture(scope="module")
def places() -> Iterator[tuple[Place, Place]]:
    """Two clones. The folder of pytest is closed to other users, so they lie beside it."""
    common = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        here = clone_to(Path(root) / "a")
        there = clone_to(Path(root) / "somewhere" / "very much" / "deeper" / "toolkit-copy")
        away, homes = Path(root) / "work", [Path(root) / "home-of-ada", Path(root) / "h"]
        for folder in (away, *homes):
            folder.mkdir()
        user = another_user()
        if user is not None:
            for path in (away, homes[1]):
                os.chown(path, user, user)
        for path in there.rglob("*"):
            os.utime(path, (1_000_000_000, 1_000_000_000))
        clock = Path(root) / "clock"
        clock.mkdir()
        (clock / "sitecustomize.py").write_text(CLOCK)
        first = common | {
            "HOME": str(homes[0]),
            "USER": "ada",
            "LOGNAME": "ada",
            "TZ": "UTC0",
            "PYTHONHASHSEED": "1",
            "LC_ALL": "C.UTF-8",
        }
        second = common | {
            "HOME": str(homes[1]),
            "USER": "grace",
            "LOGNAME": "grace",
            "TZ": "XYZ-11",
            "PYTHONHASHSEED": "4711",
            "LC_ALL": "C",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONUTF8": "0",
            "PYTHONPATH": os.pathsep.join((str(clock), *packages(there))),
        }
        yield (
            Place(here, here, "m", first | {"PYTHONPATH": os.pathsep.join(packages(here))}, 0o022, None),
            Place(away, there, "another name", second, 0o077, user),
        )


@pytest.fixture(scope="module")
def exports(places: tuple[Place, Place]) -> tuple[Exports, Exports]:
    return places[0].export(), places[1].export()


def test_the_places_are_what_they_should_be(places: tuple[Place, Place]) -> None:
    """Each runs its own clone, and one of them on another day."""
    code = "import dcgan, dcgan_export as e, time, datetime; print(dcgan.__file__, e.__file__, time.time(), sep='\\n')"
    lines = [place.run("-c", code).stdout.splitlines() for place in places]
    for place, (*files, _) in zip(places, lines, strict=True):
        assert [Path(file).parent.parent for file in files] == [place.clone, place.clone / "export"]
    assert float(lines[1][2]) - float(lines[0][2]) == pytest.approx(DAYS * 86400, abs=600)


def test_the_same_checkpoint_gives_the_same_bytes(exports: tuple[Exports, Exports]) -> None:
    first, second = exports
    for one, other in ((first.model, second.model), (first.golden, second.golden)):
        assert one.name != other.name
        assert len(one.read_bytes()) > 1000
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("key", PLANTED)
def test_that_guard_notices_what_tells_of_the_place(
    key: str, exports: tuple[Exports, Exports], places: tuple[Place, Place]
) -> None:
    if key == "user" and places[1].user is None:
        pytest.skip("only root may export as another user, and only where that user can run this Python")
    first, second = (each.planted for each in exports)
    assert metadata_of(first)[key] != metadata_of(second)[key]
    assert first.read_bytes() != second.read_bytes()
