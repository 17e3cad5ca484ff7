"""Kill commands with SIGKILL at random moments: what has its name is whole, and the next command clears up.

    python tests/stress/kills.py --kills 300 --seed 0 --json kills.json       about half an hour
    python tests/stress/kills.py --runtime onnxruntime-web.tgz                with sites too (npm pack onnxruntime-web)

Each command is run to its end first, for its duration and for what it writes. Then it is killed again and again in one
place, at moments that are spread over that duration. After each kill every file that has its name is compared with the
one of the whole run, byte for byte but for times; at most one temporary folder may be there for each name. At the end
the command is run once more: it must leave the same bytes, and no temporary folder. A killed training is resumed
instead, and ends in the same bits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
COLOUR = ROOT / "tests" / "fixtures" / "models" / "colour.onnx"
_TEMPORARY = re.compile(r"\..*\.tmp")
_TIMES = {"seconds", "images_per_second"}  # of metrics.jsonl, which differ from run to run


@dataclass(frozen=True)
class Victim:
    """A command that is killed.

    Attributes:
        words: of the command, after Python's `-m`.
        again: what is run after a kill, where that is something else.
        last: the file that is written last, where a run goes on after a kill; once it is there, all is compared and
            begun anew.
        from_scratch: whether its outputs are removed before each run, as it writes no file over another.
    """

    words: tuple[str, ...]
    again: tuple[str, ...] = ()
    last: str = ""
    from_scratch: bool = False


VICTIMS = {
    "infer-npy": Victim(("dcgan_infer", "--model", str(COLOUR), "--n", "60000", "-o", "images.npy", "--threads", "1")),
    "infer-npz": Victim(("dcgan_infer", "--model", str(COLOUR), "--n", "10000", "-o", "images.npz", "--threads", "1")),
    "infer-png": Victim(("dcgan_infer", "--n", "1024", "-o", "grid.png", "--threads", "1")),
    "infer-folder": Victim(
        ("dcgan_infer", "--model", str(COLOUR), "--n", "2000", "-o", "new/", "--threads", "1"), from_scratch=True
    ),
    "export-onnx": Victim(("dcgan_export", "-o", "m.onnx", "--report", "r.json", "--golden", "m.golden")),
    "export-torchscript": Victim(("dcgan_export", "-o", "m.pt")),
    "export-triton": Victim(("dcgan_export", "--target", "triton", "-o", "models"), from_scratch=True),
    "export-hub": Victim(("dcgan_export", "--target", "hub", "-o", "hub"), from_scratch=True),
    "train": Victim(
        ("dcgan", "--images", "../images", "--size", "16", "--ngf", "8", "--ndf", "8", "--batch-size", "32", "--epochs",
         "20", "--threads", "1", "-o", "run"),
        ("dcgan", "--resume", "run"),
        last="run/generator.safetensors",
    ),
    "infer-shards": Victim(
        ("dcgan_infer", "--model", str(COLOUR), "--n", "60000", "--format", "npy", "--shard-size", "2000", "-o", "set",
         "--threads", "1"),
        last="set/manifest.json",
    ),
}  # fmt: skip


@dataclass
class Report:
    """What came of the kills of one command."""

    victim: str
    seconds: float
    kills: int = 0
    in_time: int = 0  # killed before the end
    published: int = 0  # after which some file had its name
    most_temporary: int = 0
    problems: list[str] = field(default_factory=list)


def contents(folder: Path) -> dict[str, str]:
    """Digest of each file that has its name, by its path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(_TEMPORARY.fullmatch(part) for part in parts):
            found["/".join(parts)] = hashlib.sha256(_timeless(path)).hexdigest()
    return found


def _timeless(path: Path) -> bytes:
    """A file's bytes, but for what differs from run to run: how long an epoch took, and where the images are."""
    content = path.read_bytes()
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
        return json.dumps([{key: row[key] for key in row if key not in _TIMES} for row in rows]).encode()
    if path.name == "options.json":
        options = json.loads(content)
        del options["options"]["data_dir"]
        return json.dumps(options).encode()
    if path.name == "checkpoint.safetensors":  # its header has the rows of metrics.jsonl
        (length,) = struct.unpack("<Q", content[:8])
        return content[8 + length :]
    return content


def temporary(folder: Path) -> list[Path]:
    """The temporary folders, but for those inside of others."""
    found = [path for path in folder.rglob("*") if _TEMPORARY.fullmatch(path.name)]
    return [path for path in found if not any(parent in found for parent in path.parents)]


def start(words: tuple[str, ...], folder: Path) -> subprocess.Popen[bytes]:
    """Start a command in a folder, as a process group of its own."""
    path = os.pathsep.join(str(ROOT / name) for name in ("", "infer", "export"))
    environment = os.environ | {"PYTHONPATH": path, "XDG_CACHE_HOME": str(folder.parent / "cache")}
    errors = (folder.parent / "errors").open("wb")
    return subprocess.Popen(
        [sys.executable, "-m", *words], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors,
        start_new_session=True,
    )  # fmt: skip


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and all that it started."""
    with contextlib.suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def torture(name: str, kills: int, moments: random.Random, done: Callable[[Report], None] = lambda _: None) -> Report:
    """Kill one command so many times.

    Args:
        name: key of `VICTIMS`.
        kills: how many.
        moments: draws when.
        done: told after each kill.
    """
    victim = VICTIMS[name]
    with tempfile.TemporaryDirectory() as parent:
        whole, place = Path(parent) / "whole", Path(parent) / "place"
        whole.mkdir()
        place.mkdir()
        _write_images(Path(parent) / "images")
        began = time.monotonic()
        if start(victim.words, whole).wait():
            raise click.ClickException(f"{name} fails by itself: {(Path(parent) / 'errors').read_text()}")
        report = Report(name, time.monotonic() - began)
        expected = contents(whole)
        words = victim.words
        for _ in range(kills):
            process = start(words, place)
            time.sleep(moments.uniform(0.0, report.seconds))
            report.in_time += process.poll() is None
            if process.poll() not in (None, 0):
                report.problems.append(f"{shlex_of(words)}: {(Path(parent) / 'errors').read_text().strip()}")
            kill(process)
            report.kills += 1
            found, left = contents(place), temporary(place)
            report.published += bool(found)
            report.most_temporary = max(report.most_temporary, len(left))
            report.problems += (
                _of_a_run(found, expected, place) if victim.again else _same(found, expected, victim.last)
            )
            names = [re.sub(r"\.\d+\.tmp$", "", path.name) for path in left]
            report.problems += [f"several temporary folders for {each}" for each in names if names.count(each) > 1]
            if victim.from_scratch:
                for path in [path for path in place.iterdir() if path not in left]:
                    shutil.rmtree(path)
            if victim.again and (place / "run" / "options.json").exists():
                words = victim.again
            if victim.last and (place / victim.last).exists():
                report.problems += _same(contents(place), expected)
                shutil.rmtree((place / victim.last).parent)
                words = victim.words
            done(report)
        if start(words, place).wait():
            report.problems.append(f"at the end: {(Path(parent) / 'errors').read_text().strip()}")
        if contents(place) != expected:
            report.problems.append("the last run, which nobody killed, left other bytes")
        report.problems += [f"{path.name} was left at the end" for path in temporary(place)]
    return report


def _write_images(folder: Path) -> None:
    """Some to train on."""
    folder.mkdir()
    colours = np.random.default_rng(0).integers(0, 256, (256, 1, 1, 3), dtype=np.uint8)
    for number, colour in enumerate(colours):
        Image.fromarray(colour.repeat(16, 0).repeat(16, 1)).save(folder / f"{number}.png")


def shlex_of(words: tuple[str, ...]) -> str:
    """The command in short."""
    return " ".join(words[:3])


def _same(found: dict[str, str], expected: dict[str, str], last: str = "") -> list[str]:
    """What is there is as in the whole run; a folder that appears at once is there with all that is in it."""
    problems = [f"{name} is another one" for name, digest in found.items() if expected.get(name) != digest]
    if last and last not in found:  # it grows file by file
        return problems
    folders = {name.partition("/")[0] for name in found if "/" in name}
    missing = [name for name in expected if name not in found and name.partition("/")[0] in folders]
    return problems + [f"{name} is missing in its folder" for name in missing]


def _of_a_run(found: dict[str, str], expected: dict[str, str], place: Path) -> list[str]:
    """The files of a run change from epoch to epoch: each must load."""
    from dcgan.checkpoint import load_generator, load_training_state
    from dcgan.run_options import read_options

    problems = []
    run = place / "run"
    loaders: dict[str, Callable[[], object]] = {
        "checkpoint.safetensors": lambda: load_training_state(run / "checkpoint.safetensors"),
        "generator.safetensors": lambda: load_generator(run / "generator.safetensors"),
        "options.json": lambda: read_options(run),
    }
    for name, load in loaders.items():
        if f"run/{name}" in found:
            try:
                load()
            except Exception as error:  # whatever it is, it is the finding
                problems.append(f"{name} does not load: {error}")
    problems += [
        f"{name} is another one" for name in found if name.endswith(".png") and "samples" in name
        and found[name] != expected.get(name)
    ]  # fmt: skip
    return problems


@click.command()
@click.option("--kills", default=300, show_default=True, help="How many, of all commands together.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--victim", "victims", multiple=True, type=click.Choice([*VICTIMS, "export-site"]), help="One of them.")
@click.option("--runtime", type=click.Path(exists=True, path_type=Path), help="onnxruntime-web, to kill sites too.")
@click.option("--json", "report_file", type=click.Path(path_type=Path), help="Where to write the figures.")
def main(kills: int, seed: int, victims: tuple[str, ...], runtime: Path | None, report_file: Path | None) -> None:
    """Kill commands, and look at what they leave."""
    if runtime is not None:
        words = ("dcgan_export", "--target", "web", "-o", "site", "--runtime", str(runtime.resolve()))
        VICTIMS["export-site"] = Victim(words, from_scratch=True)
    names = victims or tuple(VICTIMS)
    reports = []
    click.echo(f"{'command':<20}{'whole run':>10}{'kills':>7}{'in time':>9}{'files':>7}{'temporary':>11}   problems")
    for number, name in enumerate(names):
        share = kills // len(names) + (number < kills % len(names))
        report = torture(name, share, random.Random(f"{seed} {name}"))
        reports.append(report)
        click.echo(
            f"{name:<20}{report.seconds:>8.1f} s{report.kills:>7}{report.in_time:>9}{report.published:>7}"
            f"{report.most_temporary:>11}   {len(report.problems)}"
        )
        for problem in dict.fromkeys(report.problems):
            click.echo(f"  {problem}")
    bad = sum(bool(report.problems) for report in reports)
    click.echo(f"{sum(report.kills for report in reports)} kills, {bad} commands with problems")
    if report_file is not None:
        report_file.write_text(json.dumps([asdict(report) for report in reports], indent=2) + "\n")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
