"""Damage files of every kind, and see that all parsers and commands refuse them in a line, or read them, and end.

    python tests/stress/fuzz.py                                    20,000 files, and 1,000 commands: two cores, an hour
    python tests/stress/fuzz.py --cases 2000 --commands 100 --seed 7
    python tests/stress/fuzz.py --seed 7 --only zip --case 31 --keep FOLDER      one of them again, with its file
    python tests/stress/fuzz.py --self-test                        whether every kind of fault would be seen

Parsers are called in worker processes, so that a crash has its case. What must not happen: an error that is not of our
tree, or a traceback; another exit status than 0, 1 and 2; a message of several lines, or with control characters; a
warning; something said past Python; more than `--timeout` seconds; a gigabyte of memory; a crash; a file left behind.
Commands run as processes; of those that import torch two thirds run in a worker, which has imported it already.
fuzz_targets.py lists what is damaged, mutations.py how. Needs Linux.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import queue
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import click
import fuzz_targets
from fuzz_targets import JOBS, ROOT, TARGETS, Failed, Job, Target

from dcgan_infer.contract.errors import DcganError

GIGABYTE = 1 << 30
TIMEOUT = 10.0  # seconds of a case
_OF_TORCH = 6  # times as long may a process take that imports torch, and times as little of those are run
_ADDRESSES = 4 * GIGABYTE  # that a case may map: what asks for more gets a MemoryError, and the machine is spared
_CHUNK = 25  # cases that a worker gets at once
ACCEPTED, REFUSED, FORBIDDEN = "accepted", "refused", "forbidden"


class Outcome(NamedTuple):
    """What came of a case.

    Attributes:
        verdict: one of the three above.
        what: the refusal, or what is forbidden.
        where: of ours, the innermost line; empty where there is none.
        trace: of Python, or of the crash.
    """

    verdict: str
    what: str = ""
    where: str = ""
    trace: str = ""


# In this process


def _random(seed: int, name: str, number: int) -> Random:
    return Random(f"{seed} {name} {number}")


def _memory(field: str) -> int:
    """Bytes of this process, as Linux says in /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def run_case(name: str, number: int, seed: int, folder: Path) -> Outcome:
    """Run one case here.

    Args:
        name: of a target, or of a job, which is run by Click here.
        number: of the case.
        seed: of the whole.
        folder: an empty one; it is emptied in the end.
    """
    job = JOBS.get(name)
    target = job.target if job else (TARGETS | PLANTED)[name]
    path = target.damage(_random(seed, name, number), folder)
    before = {each.name for each in folder.iterdir()}
    leaves: tuple[str, ...] = job.leaves if job else ("cache", "out.npy")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    size = _memory("VmRSS")
    with fuzz_targets.at(folder), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        outcome = _called(target, job, path)
    if outcome.verdict != FORBIDDEN:
        grown = _memory("VmHWM") - size
        left = fuzz_targets.left_in(folder, leaves, before)
        if warned:
            outcome = Outcome(FORBIDDEN, f"{warned[0].category.__name__}: {warned[0].message}")
        elif grown > GIGABYTE:
            outcome = Outcome(FORBIDDEN, f"{grown / GIGABYTE:.1f} GB of memory for {path.stat().st_size:,} bytes")
        elif left:
            outcome = Outcome(FORBIDDEN, f"left behind: {', '.join(left)}")
    fuzz_targets.emptied(folder)
    return outcome


def _called(target: Target, job: Job | None, path: Path) -> Outcome:
    refuses: tuple[type[BaseException], ...] = (Failed,) if job else target.refuses
    try:
        if job:
            fuzz_targets.in_process(job.command, list(job.words), job.says)
        else:
            target.read(path)
    except KeyboardInterrupt:
        raise
    except refuses as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        if isinstance(error, DcganError | click.ClickException) and not text.isprintable():
            return Outcome(FORBIDDEN, f"a message with control characters: {text!r}", *_place(error))
        return Outcome(REFUSED, text)
    except BaseException as error:  # of Rust too, whose panics are no Exception
        return Outcome(FORBIDDEN, f"{type(error).__name__}: {error}", *_place(error))
    return Outcome(ACCEPTED)


def _place(error: BaseException) -> tuple[str, str]:
    """The innermost line of ours, and the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f
        for f in frames
        if f.filename.startswith(str(ROOT)) and "/tests/" not in f.filename and "/.venv" not in f.filename
    ]
    place = f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno}" if ours else ""
    return place, "".join(traceback.format_exception(error))


# Faults on purpose: --self-test


def _damaged(action: Any) -> Target:
    return Target("f", lambda: [b"right"], "", action)


def _raise(_path: Path) -> None:
    raise ValueError("of no tree of ours")


class _InLines(Failed):
    def __str__(self) -> str:
        return "one line\nand another"


def _refuse_in_lines(_path: Path) -> None:
    raise _InLines


PLANTED = {
    "planted-error": _damaged(_raise),
    "planted-lines": _damaged(_refuse_in_lines),
    "planted-warning": _damaged(lambda _: warnings.warn("of something", UserWarning, stacklevel=1)),
    "planted-file": _damaged(lambda path: (path.parent / "more").write_text("")),
    "planted-temporary": _damaged(lambda _: tempfile.mkstemp()),
    "planted-words": _damaged(lambda _: os.write(2, b"past Python")),
    "planted-memory": _damaged(lambda _: len(b"x" * (GIGABYTE + (1 << 27)))),
    "planted-hang": _damaged(lambda _: time.sleep(60)),
    "planted-crash": _damaged(lambda _: os.kill(os.getpid(), signal.SIGSEGV)),
}


# Worker processes: this file with --worker


def _serve(room: Path, timeout: float) -> None:
    """Run the cases that stdin names, and answer each with a line; all else that is said goes to a file."""
    answers = os.fdopen(os.dup(1), "w")
    log = os.open(room / "log", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    crash = (room / "crash").open("w")
    faulthandler.enable(crash)
    for number in (1, 2):
        os.dup2(log, number)
    folder, temporary = room / "case", room / "tmp"
    for line in sys.stdin:
        name, number, seed, torch = json.loads(line)
        if torch:
            _import_torch()
        _prepare(name)
        _limit()
        faulthandler.dump_traceback_later(timeout, exit=True, file=crash)
        outcome = run_case(name, number, seed, folder)
        faulthandler.cancel_dump_traceback_later()
        if outcome.verdict != FORBIDDEN:
            said = (room / "log").read_text(errors="replace")
            left = _temporaries(temporary)
            if said:
                outcome = Outcome(FORBIDDEN, f"said past Python: {said[:300]!r}")
            elif left:
                outcome = Outcome(FORBIDDEN, f"left among temporary files: {', '.join(left)}")
        os.ftruncate(log, 0)
        fuzz_targets.emptied(temporary)
        answers.write(json.dumps(outcome) + "\n")
        answers.flush()


def _prepare(name: str) -> None:
    """Make the right files of a case, some of which take seconds."""
    target = JOBS[name].target if name in JOBS else (TARGETS | PLANTED)[name]
    target.seeds()
    target.beside()


def _import_torch() -> None:
    import dcgan.run  # noqa: F401
    import dcgan_export.publish  # noqa: F401


def _limit() -> None:
    """What this process may map beside what it has mapped."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + _ADDRESSES, most))


class Worker:
    """A process that runs cases, and its folder; it is started when it is needed, and again when it died."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self._room = tempfile.TemporaryDirectory(prefix="fuzz-")
        self._timeout = timeout
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._room.cleanup()

    def run(self, name: str, number: int, seed: int) -> Outcome:
        """Run a case there."""
        torch = name in JOBS or (name in TARGETS and TARGETS[name].torch)
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([name, number, seed, torch]) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if answer:
            return Outcome(*json.loads(answer))
        self._process.communicate()
        status, self._process = self._process.returncode, None
        trace = (Path(self._room.name) / "crash").read_text(errors="replace")
        what = f"a crash: {_signal(status)}"
        if trace.startswith("Timeout"):
            what = f"not done after {self._timeout:g} s"
        return Outcome(FORBIDDEN, what, "", trace or (Path(self._room.name) / "log").read_text(errors="replace"))

    def _start(self) -> None:
        room = Path(self._room.name)
        fuzz_targets.emptied(room)
        environment = surroundings(room)
        (room / "case").mkdir()
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", str(room), "--timeout", str(self._timeout)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip


def surroundings(room: Path) -> dict[str, str]:
    """An environment in which home, caches and temporary files are in a folder; they are made."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "PYTEST", "ORT_"))}
    for name, folder in (("HOME", "home"), ("TMPDIR", "tmp"), ("XDG_CACHE_HOME", "cache")):
        (room / folder).mkdir(exist_ok=True)
        environment[name] = str(room / folder)
    return environment | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONFAULTHANDLER": "1"}


def _temporaries(folder: Path) -> list[str]:
    """What was left among temporary files, but for the cache that torch makes there."""
    return [path.name for path in folder.iterdir() if not path.name.startswith("torchinductor_")]


def _signal(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


# Commands as processes


def run_command(name: str, number: int, seed: int, timeout: float = TIMEOUT) -> Outcome:
    """Run one case of a job as a process."""
    job = JOBS[name]
    torch = fuzz_targets.needs_torch(job)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as parent:
        room, folder = Path(parent), Path(parent) / "case"
        folder.mkdir()
        job.target.damage(_random(seed, name, number), folder)
        before = {each.name for each in folder.iterdir()}
        with (room / "said").open("w+") as said:
            process = subprocess.Popen(
                fuzz_targets.command_line(job), cwd=folder, env=surroundings(room),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
            )  # fmt: skip
            resource.prlimit(process.pid, resource.RLIMIT_AS, (4 * _ADDRESSES, 4 * _ADDRESSES))
            status, peak = _waited(process, timeout * (_OF_TORCH if torch else 1))
        stderr = (room / "said").read_text(errors="replace")
        if status is None:
            return Outcome(FORBIDDEN, "not done in time", "", stderr)
        if status < 0:
            return Outcome(FORBIDDEN, f"a crash: {_signal(status)}", "", stderr)
        if peak > GIGABYTE * (2 if torch else 1.2):
            return Outcome(FORBIDDEN, f"{peak / GIGABYTE:.1f} GB of memory")
        left = fuzz_targets.left_in(folder, job.leaves if status == 0 or "run" in before else (), before)
        left += [*_temporaries(room / "tmp"), *(path.name for path in (room / "home").iterdir())]
        if left:
            return Outcome(FORBIDDEN, f"left behind: {', '.join(left)}", "", stderr)
        try:
            fuzz_targets.judge(status, stderr, job.says)
        except Failed as error:
            return Outcome(REFUSED, str(error))
        except AssertionError as error:
            return Outcome(FORBIDDEN, str(error), "", stderr)
    return Outcome(ACCEPTED)


def _waited(process: subprocess.Popen[bytes], timeout: float) -> tuple[int | None, int]:
    """Exit status, None where it did not end; and the peak of its memory in bytes."""
    until, peak = time.monotonic() + timeout, 0
    while time.monotonic() < until:
        # Looked at as it goes: what wait4 tells begins with the peak of whoever started the process.
        with contextlib.suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            peak = max(peak, int(found[1]) * 1024 if found else 0)
        if process.poll() is not None:
            return process.returncode, peak
        time.sleep(0.01)
    process.kill()
    process.wait()
    return None, 0


def _as_process(name: str, number: int) -> bool:
    """Whether a case of a job is a process of its own."""
    return not fuzz_targets.needs_torch(JOBS[name]) or number % 3 == 0


# All of it


class Case(NamedTuple):
    name: str
    number: int


def plan(cases: int, commands: int, only: tuple[str, ...] = ()) -> list[list[Case]]:
    """All cases in groups: as many of each target; of the commands three of ten import torch."""
    torch = [name for name, job in JOBS.items() if fuzz_targets.needs_torch(job)]
    light = [name for name in JOBS if name not in torch]
    counts: Counter[str] = Counter()
    for names, count in ((list(TARGETS), cases), (torch, commands * 3 // 10), (light, commands - commands * 3 // 10)):
        wanted = [name for name in names if not only or name in only]
        counts.update(wanted[number % len(wanted)] for number in range(count if wanted else 0))
    return [
        [Case(name, number) for number in range(first, min(first + _CHUNK, count))]
        for name, count in counts.items()
        for first in range(0, count, _CHUNK)
    ]


def run_all(groups: list[list[Case]], seed: int, jobs: int, timeout: float) -> Iterator[tuple[Case, Outcome, float]]:
    """Run them in so many processes at a time."""
    waiting: queue.SimpleQueue[list[Case]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Case, Outcome, float] | BaseException] = queue.SimpleQueue()
    for name in {case.name for group in groups for case in group if case.name in JOBS}:
        _prepare(name)  # before there are threads: it changes the folder
    for group in groups:
        waiting.put(group)

    def work() -> None:
        try:
            with Worker(timeout) as worker, contextlib.suppress(queue.Empty):
                while True:
                    for case in waiting.get_nowait():
                        begun = time.monotonic()
                        outcome = one(worker, case, seed, timeout)
                        done.put((case, outcome, time.monotonic() - begun))
        except BaseException as error:
            done.put(error)

    for _ in range(jobs):
        threading.Thread(target=work, daemon=True).start()
    for _ in range(sum(map(len, groups))):
        result = done.get()
        if isinstance(result, BaseException):
            raise result
        yield result


def one(worker: Worker, case: Case, seed: int, timeout: float) -> Outcome:
    """Run a case; what took too long is run again, since the machine may have been busy."""
    for last in (False, True):
        if case.name in JOBS and _as_process(*case):
            outcome = run_command(*case, seed, timeout)
        else:
            outcome = worker.run(*case, seed)
        if last or not outcome.what.startswith("not done"):
            break
    return outcome


class Fault(NamedTuple):
    """Cases that went wrong alike.

    Attributes:
        target: their target or job.
        what: of the first.
        where: of ours.
        times: how many.
        again: the command that runs the first one again.
        trace: of the first.
    """

    target: str
    what: str
    where: str
    times: int
    again: str
    trace: str


def faults_of(results: list[tuple[Case, Outcome, float]], seed: int) -> list[Fault]:
    """What is forbidden, alike ones together."""
    groups: dict[tuple[str, str], list[tuple[Case, Outcome]]] = {}
    for case, outcome, _ in results:
        if outcome.verdict == FORBIDDEN:
            kind = outcome.where + outcome.what.partition(":")[0] if outcome.where else outcome.what[:60]
            groups.setdefault((case.name, kind), []).append((case, outcome))
    again = f"python tests/stress/fuzz.py --seed {seed} --keep FOLDER"
    return [
        Fault(
            name, outcome.what, outcome.where, len(alike), f"{again} --only {name} --case {case.number}", outcome.trace
        )
        for (name, _), alike in groups.items()
        for case, outcome in alike[:1]
    ]


def table(results: list[tuple[Case, Outcome, float]]) -> str:
    """A row a target."""
    names = list(dict.fromkeys(case.name for case, _, _ in results))
    rows = [f"{'':<20}{'cases':>8}{ACCEPTED:>10}{REFUSED:>10}{FORBIDDEN:>11}{'longest':>11}"]
    for name in (*sorted(names, key=[*TARGETS, *JOBS, *PLANTED].index), "total"):
        part = [each for each in results if name in (each[0].name, "total")]
        count = Counter(outcome.verdict for _, outcome, _ in part)
        longest = max((seconds for _, _, seconds in part), default=0.0)
        columns = f"{count[ACCEPTED]:>10,}{count[REFUSED]:>10,}{count[FORBIDDEN]:>11,}{longest:>9.2f} s"
        rows.append(f"{name:<20}{len(part):>8,}{columns}")
    return "\n".join(rows)


def _again(case: Case, seed: int, timeout: float, keep: Path | None) -> None:
    """One case, with all that is known of it."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        job = JOBS.get(case.name)
        target = job.target if job else TARGETS[case.name]
        click.echo(f"kept {target.damage(_random(seed, *case), keep)}")
        if job:
            click.echo(" ".join(fuzz_targets.command_line(job)))
    with Worker(timeout) as worker:
        outcome = one(worker, case, seed, timeout)
    click.echo(f"{outcome.verdict} {outcome.what}\n{outcome.trace}".rstrip())
    sys.exit(outcome.verdict == FORBIDDEN)


def _self_test() -> None:
    with Worker(timeout=5.0) as worker:
        outcomes = {name: worker.run(name, 0, 0) for name in PLANTED}
    for name, outcome in outcomes.items():
        click.echo(f"{name:<20}{outcome.verdict:<12}{outcome.what}")
    sys.exit(any(outcome.verdict != FORBIDDEN for outcome in outcomes.values()))


@click.command()
@click.option("--cases", default=20_000, show_default=True, help="Damaged files that parsers get, in workers.")
@click.option("--commands", default=1_000, show_default=True, help="Commands with a damaged file.")
@click.option("--seed", default=0, show_default=True, help="Another one damages otherwise.")
@click.option("--jobs", default=2, show_default=True, help="Processes at a time.")
@click.option("--timeout", default=TIMEOUT, show_default=True, help="Seconds of a case.")
@click.option("--only", multiple=True, type=click.Choice([*TARGETS, *JOBS]), metavar="NAME", help="A target or a job.")
@click.option("--case", type=int, help="One case again, of the one in --only.")
@click.option("--keep", type=click.Path(path_type=Path), help="Of --case: a folder that gets the damaged file.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures and faults there too.")
@click.option("--self-test", is_flag=True, help="Run faults on purpose, which must be seen.")
@click.option("--worker", type=click.Path(path_type=Path), hidden=True)
def main(
    cases: int, commands: int, seed: int, jobs: int, timeout: float, only: tuple[str, ...], case: int | None,
    keep: Path | None, json_file: Path | None, self_test: bool, worker: Path | None,
) -> None:  # fmt: skip
    """Damage files, and see that they are refused, or read."""
    if worker is not None:
        _serve(worker, timeout)
        return
    if self_test:
        _self_test()
    if case is not None:
        if len(only) != 1:
            raise click.UsageError("--case is of one target: give --only")
        _again(Case(only[0], case), seed, timeout, keep)
    begun, results = time.monotonic(), []
    groups = plan(cases, commands, only)
    total = sum(map(len, groups))
    for result in run_all(groups, seed, jobs, timeout):
        results.append(result)
        if sys.stderr.isatty() and len(results) % 20 == 0:
            click.echo(f"\r{len(results):,} of {total:,} ", nl=False, err=True)
    faults = faults_of(results, seed)
    click.echo(table(results))
    for fault in faults:
        click.echo(f"\n{fault.target}, {fault.times} times: {fault.what[:500]}  {fault.where}\n  {fault.again}")
    click.echo(f"\n{sum(fault.times for fault in faults)} forbidden, in {time.monotonic() - begun:.0f} s, seed {seed}")
    if json_file is not None:
        counts: dict[str, Counter[str]] = {}
        for each, outcome, _ in results:
            counts.setdefault(each.name, Counter())[outcome.verdict] += 1
        said = {"seed": seed, "targets": counts, "faults": [fault._asdict() for fault in faults]}
        json_file.write_text(json.dumps(said, indent=2))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
