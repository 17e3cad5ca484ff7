"""Run each command where its streams, home, language, user and file system are odd: all must go as at home.

    python tests/stress/surroundings.py                       all, some minutes
    python tests/stress/surroundings.py --command infer --place no-home

Needs Linux; where namespaces are not permitted (util-linux' unshare), the places that need them are left out, and said.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).resolve().parent.parent.parent
COLOUR = ROOT / "tests" / "fixtures" / "models" / "colour.onnx"


class Job(NamedTuple):
    """A command, and the files that it has to leave; names are in its own folder."""

    words: list[str]
    leaves: tuple[str, ...] = ()


def _job(module: str, *words: str, leaves: tuple[str, ...] = ()) -> Job:
    return Job([sys.executable, "-c", f"from {module} import main; main()", *words], leaves)


COMMANDS = {
    "infer": _job("dcgan_infer.cli", "--model", str(COLOUR), "--n", "4", "-o", "grid.png", leaves=("grid.png",)),
    "infer-folder": _job("dcgan_infer.cli", "--n", "4", "-o", "digits/", leaves=("digits/8/0000000003.png",)),
    "infer-shards": _job(
        "dcgan_infer.cli", "--model", str(COLOUR), "--n", "40", "--format", "webdataset", "--shard-size", "20",
        "-o", "set", leaves=("set/manifest.json", "set/images-00001-of-00002.tar"),
    ),
    "verify": _job("dcgan_infer.verify_cli", "dcgan-mnist"),
    "bench": _job(
        "dcgan_infer.bench_cli", str(COLOUR), "--rounds", "1", "--burst", "0.01", "--rest", "0", "--batch", "1",
        "--plot", "plot.png", leaves=("plot.png",),
    ),
    "export-onnx": _job(
        "dcgan_export.cli", "-o", "m.onnx", "--report", "r.json", leaves=("m.onnx", "m.golden", "r.json")
    ),
    "export-torchscript": _job("dcgan_export.cli", "-o", "m.pt", leaves=("m.pt",)),
    "export-pt2": _job("dcgan_export.cli", "-o", "m.pt2", leaves=("m.pt2",)),
    "train": _job(
        "dcgan.cli", "--dataset", "sample", "--epochs", "1", "--batch-size", "64", "--threads", "1", "-o", "run",
        leaves=("run/generator.safetensors", "run/losses.png"),
    ),
    "eval": _job("dcgan.eval_cli", "dcgan-mnist", "--dataset", "sample", "-n", "500"),
}  # fmt: skip


class Place(NamedTuple):
    """Where a command runs.

    Attributes:
        script: of a shell, in which "$@" is the command.
        unshare: options of util-linux' unshare, or none.
        full: whether the disk is: then it must say so in a line, with exit status 1, and leave nothing half-written.
    """

    script: str
    unshare: tuple[str, ...] = ()
    full: bool = False


_LEFT = "-- left --"  # after this line, the script of a full disk says what is in the folder
_FULL = (
    f'mount -t tmpfs -o size={{}}k none . && cd "$PWD" && {{{{ "$@"; s=$?; echo; echo {_LEFT}; ls -AR; exit $s; }}}}'
)


PLACES = {
    "home": Place('exec "$@"'),
    "no-stdin": Place('exec "$@" <&-'),
    "no-stdout": Place('exec "$@" >&-'),
    "no-stderr": Place('exec "$@" 2>&-'),
    "no-streams": Place('exec "$@" <&- >&- 2>&-'),
    "read-only-home": Place('HOME=/proc exec "$@"'),
    "no-home": Place('unset HOME; exec "$@"'),
    "cp1252": Place('PYTHONIOENCODING=cp1252 exec "$@"'),
    "c-locale": Place('LC_ALL=C exec "$@"'),
    "nobody": Place('unset HOME USER LOGNAME; exec "$@"', ("-r", "--map-user=54321")),
    "read-only-root": Place(
        # A writable folder, and nothing else: no /tmp, no home, as `docker run --read-only -v $PWD:/data`.
        'mount --bind . . && cd "$PWD" && mount -o remount,bind,ro / && HOME=/root TMPDIR= exec "$@"', ("-m",)
    ),
    **{f"full-{size}k": Place(_FULL.format(size), ("-m",), full=True) for size in (4, 16, 256)},
}  # fmt: skip


class Outcome(NamedTuple):
    """What came of it; `problem` is empty where all went well."""

    command: str
    place: str
    seconds: float
    problem: str


def run(command: str, place: str) -> Outcome:
    """Run one command in one place, in a new folder, for five minutes at most."""
    job, script, unshare = COMMANDS[command], PLACES[place].script, PLACES[place].unshare
    hidden = ("XDG_", "ORT_", "MPL")  # of our own environment, which would hide what a user's lacks
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment["PYTHONPATH"] = os.pathsep.join(str(ROOT / name) for name in ("", "infer", "export"))
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="a place of ") as name:
        folder = Path(name)
        line = [*(("unshare", *unshare) if unshare else ()), "sh", "-c", script, "sh", *job.words]
        try:
            done = subprocess.run(
                line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
            )
        except subprocess.TimeoutExpired:
            return Outcome(command, place, time.monotonic() - begun, "it did not end in five minutes")
        problem = _problem_of_a_full_disk(done, job) if PLACES[place].full else _problem(done, job, folder)
    return Outcome(command, place, time.monotonic() - begun, problem)


def _problem(done: subprocess.CompletedProcess[str], job: Job, folder: Path) -> str:
    last = done.stderr.strip().splitlines()[-1:] or [""]
    if done.returncode:
        return f"exit status {done.returncode}: {last[0]}"
    missing = [name for name in job.leaves if not (folder / name).exists()]
    if missing:
        return f"it left no {', '.join(missing)}"
    if "Traceback" in done.stderr or "arning" in done.stderr:
        return f"it said {last[0]!r}"
    tops = {name.partition("/")[0] for name in job.leaves}
    if more := [path.name for path in folder.iterdir() if path.name not in tops]:
        return f"it left {', '.join(more)} too"
    return ""


def _problem_of_a_full_disk(done: subprocess.CompletedProcess[str], job: Job) -> str:
    listed = done.stdout.partition(_LEFT)[2].split()
    names = {name for name in listed if not name.endswith(":")}
    if not job.leaves or (done.returncode == 0 and all(Path(name).name in names for name in job.leaves)):
        return "" if done.returncode == 0 else f"exit status {done.returncode}"  # it writes nothing, or all had room
    lines = done.stderr.strip().splitlines()
    if done.returncode != 1 or len(lines) != 1 or "no space left" not in lines[0].lower():
        return f"exit status {done.returncode}: {lines[-1:]}"
    if halves := sorted(name for name in names if name.endswith(".tmp") or name in map(os.path.basename, job.leaves)):
        return f"it left {', '.join(halves)}"
    return ""


def permitted(place: str) -> bool:
    """Whether this machine lets us make that place."""
    unshare = PLACES[place].unshare
    return not unshare or not subprocess.run(["unshare", *unshare, "true"], capture_output=True, check=False).returncode


def outcomes(commands: tuple[str, ...], places: tuple[str, ...]) -> Iterator[Outcome]:
    """Run each command in each place."""
    for place in places:
        for command in commands:
            yield run(command, place)


@click.command()
@click.option("--command", "commands", multiple=True, type=click.Choice(list(COMMANDS)), help="One of them.")
@click.option("--place", "places", multiple=True, type=click.Choice(list(PLACES)), help="One of them.")
def main(commands: tuple[str, ...], places: tuple[str, ...]) -> None:
    """Run each command in each place, and say which went wrong."""
    wanted = places or tuple(PLACES)
    for place in wanted:
        if not permitted(place):
            click.echo(f"{place:<16}left out: unshare {shlex.join(PLACES[place].unshare)} is not permitted here")
    failed = 0
    for one in outcomes(commands or tuple(COMMANDS), tuple(filter(permitted, wanted))):
        failed += bool(one.problem)
        click.echo(f"{one.place:<16}{one.command:<20}{one.seconds:6.1f} s   {one.problem or 'as at home'}")
    click.echo(f"{failed} went wrong")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
