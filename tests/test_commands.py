"""What all commands share: how a signal ends them, and standard streams as odd as a shell can make them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from conftest import MODELS

from dcgan_infer.commands import Command
from dcgan_infer.contract.errors import SpecError

INFER = [sys.executable, "-m", "dcgan_infer", "--model", str(MODELS / "colour.onnx"), "--threads", "1"]
ENDS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
ENDLESS = ["--n", "10000000", "-o", "digits.npy"]


@contextlib.contextmanager
def running(folder: Path, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A dcgan-infer in `folder`, killed at the end."""
    with subprocess.Popen([*INFER, *arguments], cwd=folder, stderr=subprocess.PIPE, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def wait(process: subprocess.Popen[Any], done: Callable[[], object]) -> None:
    while not done():
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_ends_a_command_and_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path, *ENDLESS) as process:
        wait(process, lambda: list(tmp_path.glob(".digits.npy.0.tmp/digits.npy")))
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (128 + number, b"\nstopped\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ENDS)
def test_what_is_ignored_stays_ignored(number: signal.Signals, tmp_path: Path) -> None:
    """As nohup does with SIGHUP, and a shell without job control with SIGINT of what it starts in the background."""
    with running(tmp_path, *ENDLESS, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN)) as process:
        wait(process, lambda: list(tmp_path.glob(".digits.npy.0.tmp/digits.npy")))
        process.send_signal(number)
        time.sleep(0.5)
        assert process.poll() is None


def test_native_code_does_not_delay_the_end(tmp_path: Path) -> None:
    """One batch takes seconds, in one call of onnxruntime."""
    with running(tmp_path, "--model", "dcgan-mnist", "--n", "16384", "--batch-size", "16384", "-o", "x.npy") as process:
        wait(process, lambda: list(tmp_path.glob(".x.npy.0.tmp")))
        time.sleep(0.5)  # it draws latents, and then is in that call
        start = time.monotonic()
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - start < 1.0
    assert list(tmp_path.iterdir()) == []


def terminated(code: str) -> int:
    """Exit status of a program that is sent SIGTERM once it has said something."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        return process.wait(10)


def test_an_end_can_not_be_swallowed(tmp_path: Path) -> None:
    """A library that catches everything, and takes an exception of a handler's for a failure of its own."""
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import click
from dcgan_infer.commands import Command
@click.command(cls=Command)
def work():
    while True:
        try:
            print("at work", flush=True)
            time.sleep(60)
        except BaseException:
            pass
work()
"""
    assert terminated(code) == 128 + signal.SIGTERM


def test_a_failing_notice_does_not_make_it_deaf() -> None:
    """As one that writes to a terminal that has gone."""
    code = """
import time
import click
from dcgan_infer import signals
from dcgan_infer.commands import Command
def notice(number):
    raise BrokenPipeError
@click.command(cls=Command)
def work():
    with signals.told(notice):
        print("at work", flush=True)
        time.sleep(60)
work()
"""
    assert terminated(code) == 128 + signal.SIGTERM


def test_off_the_main_thread_a_command_runs(tmp_path: Path) -> None:
    results = []

    @click.command(cls=Command)
    def work() -> None:
        click.echo("done")

    thread = threading.Thread(target=lambda: results.append(CliRunner().invoke(work)))
    thread.start()
    thread.join()
    assert (results[0].exit_code, results[0].output) == (0, "done\n")


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in ENDS]
    inside: list[object] = []

    @click.command(cls=Command)
    def work() -> None:
        inside.extend(signal.getsignal(number) for number in ENDS)

    CliRunner().invoke(work)
    assert [signal.getsignal(number) for number in ENDS] == before
    assert not set(map(id, inside)) & set(map(id, before))
    assert not [thread for thread in threading.enumerate() if thread.name.endswith("(_watch)")]


def test_a_forked_child_tells_its_parent_nothing() -> None:
    """Its signals are its own: it dies of them, and the parent goes on."""

    @click.command(cls=Command)
    def work() -> None:
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        click.echo(os.WTERMSIG(status))
        time.sleep(0.1)

    assert CliRunner().invoke(work).output == f"{signal.SIGTERM.value}\n"


# Standard streams


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_matter(closed: str, tmp_path: Path) -> None:
    line = f'exec "$@" {closed}'
    finished = subprocess.run(
        ["sh", "-c", line, "sh", *INFER, "--n", "4", "-o", "a.png"], cwd=tmp_path, capture_output=True, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, b"")
    assert (finished.stdout == b"") == (">&-" in closed.replace("2>&-", ""))
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_a_file_does_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """What a native library says on descriptor 2 would go into it."""
    code = """
import os, click
from dcgan_infer.commands import Command
@click.command(cls=Command)
def work():
    with open("a", "w") as file:
        os.write(2, b"native words")
        os._exit(file.fileno() <= 2)
work()
"""
    finished = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", code], cwd=tmp_path, check=False
    )
    assert finished.returncode == 0
    assert (tmp_path / "a").read_bytes() == b""


def test_a_picture_for_a_closed_stdout_is_refused(tmp_path: Path) -> None:
    finished = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *INFER, "--n", "4", "-o", "-"], capture_output=True, check=False
    )
    assert finished.returncode == 2
    assert b"closed" in finished.stderr


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}]
)
@pytest.mark.parametrize("name", ["日本.png", "q\udcff.png"])
def test_names_that_the_encoding_lacks(environment: dict[str, str], name: str, tmp_path: Path) -> None:
    finished = subprocess.run(
        [*INFER, "--n", "4", "-o", name], cwd=tmp_path, env=os.environ | environment, capture_output=True, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, b"")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (1, ["--model", "no\nmodel\x1b[2J"]),
        (1, ["--latents", "\u202eno.npy"]),
        (2, ["-o", "a\nb"]),
        (1, ["-o", "no\n/a.png"]),
    ],
)
def test_whatever_a_name_holds_the_message_is_plain(status: int, words: list[str]) -> None:
    done = subprocess.run([*INFER, *words], capture_output=True, text=True, check=False)
    assert done.returncode == status
    *usage, line = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert line.isprintable()
    assert [each for each in usage if each and not each.startswith(("Usage: ", "Try "))] == []


def test_want_of_memory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sparse.onnx").touch()
    os.truncate(tmp_path / "sparse.onnx", 1 << 30)
    line = ["sh", "-c", 'ulimit -v 600000; exec "$@"', "sh", *INFER, "--model", "sparse.onnx", "-o", "a.npy"]
    finished = subprocess.run(line, cwd=tmp_path, capture_output=True, check=False)
    assert (finished.returncode, finished.stderr) == (1, b"Error: there is not enough memory\n")
    assert [path.name for path in tmp_path.iterdir()] == ["sparse.onnx"]


def test_a_name_that_the_locale_lacks_is_one_line(tmp_path: Path) -> None:
    line = ["env", "LC_ALL=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0", *INFER, "--n", "4", "-o", "é.png"]
    finished = subprocess.run(line, cwd=tmp_path, capture_output=True, check=False)
    assert (finished.returncode, finished.stderr.count(b"\n")) in ((0, 0), (1, 1))
    assert b"Traceback" not in finished.stderr


def test_an_endless_array_flows(tmp_path: Path) -> None:
    """And ends when whoever reads it does."""
    line = ["sh", "-c", '"$@" | head -c 1000 | wc -c', "sh", *INFER, "--n", "1000000000", "--format", "npy", "-o", "-"]
    finished = subprocess.run(line, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert finished.stdout.strip() == b"1000"
    assert finished.stderr == b""


def test_an_error_of_ours_is_one_line_of_printable_characters() -> None:
    assert str(SpecError("one\nand \x1b[31mtwo")) == "one\\nand \\x1b[31mtwo"


@pytest.mark.parametrize("words", [["--n", "4", "-o", "a.png"], ["--help"], ["--version"]])
def test_a_full_stdout_is_one_line(words: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        finished = subprocess.run([*INFER, *words], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, check=False)
    assert finished.returncode == 1
    assert finished.stderr.count(b"\n") == 1
    assert b"no space left" in finished.stderr


def completed(shell: str, words: str, number: int) -> str:
    """What a shell is told of the word with that number, in the protocol of Click's scripts."""
    environment = {"COMP_WORDS": words, "COMP_CWORD": str(number), "_DCGAN_INFER_COMPLETE": f"{shell}_complete"}
    command = [sys.executable, "-m", "dcgan_infer"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(
    ("shell", "option", "name"),
    [
        ("bash", "plain,--truncation", "plain,dcgan-mnist"),
        ("zsh", "plain\n--truncation\nScale the latents", "plain\ndcgan-mnist\n_"),
        ("fish", "plain,--truncation\tScale the latents", "plain,dcgan-mnist"),
    ],
)
def test_shells_complete_options_and_models(shell: str, option: str, name: str) -> None:
    number = 1 if shell != "fish" else "--tr"  # fish hands over the word itself
    assert option in completed(shell, "dcgan-infer --tr", number)  # type: ignore[arg-type]
    number = 2 if shell != "fish" else "dcgan-mn"
    found = completed(shell, "dcgan-infer --model dcgan-mn", number)  # type: ignore[arg-type]
    assert name in found
    assert "fashion" not in found


def test_bash_completes(tmp_path: Path) -> None:
    (tmp_path / "dcgan-infer").write_text(f'#!/bin/sh\nexec {sys.executable} -m dcgan_infer "$@"\n')
    (tmp_path / "dcgan-infer").chmod(0o755)
    script = """eval "$(_DCGAN_INFER_COMPLETE=bash_source dcgan-infer)"
    COMP_WORDS=(dcgan-infer --interp); COMP_CWORD=1
    _dcgan_infer_completion dcgan-infer --interp dcgan-infer; echo "${COMPREPLY[@]}"
    COMPREPLY=(); COMP_WORDS=(dcgan-infer --model dcgan-mnist-c); COMP_CWORD=2
    _dcgan_infer_completion dcgan-infer dcgan-mnist-c --model; echo "${COMPREPLY[@]}\""""
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "--interpolate\ndcgan-mnist-conditional\n", done.stderr


def test_help_has_each_option_once_under_a_title_that_fits() -> None:
    from dcgan_infer.cli import main

    text = CliRunner().invoke(main, ["--help"], terminal_width=100).stdout
    known = {parameter.name for parameter in main.params}
    assert isinstance(main, Command)
    named = [name for names in main.sections.values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) <= known
    titles = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == [*main.sections, "Other options"]
    assert text.index("Examples:") < text.index("What:")
    for parameter in main.params:
        if isinstance(parameter, click.Option):
            assert len(re.findall(rf"^  (-\w, )?{parameter.opts[-1]}(?![\w-])", text, re.MULTILINE)) == 1, (
                parameter.opts
            )
