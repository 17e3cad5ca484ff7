"""The one way out that a signal takes: what is not finished is removed, and the process ends, wherever it is.

Python runs a handler between two instructions of its own, so a native call (a batch of onnxruntime, a step of torch)
delays it; and an exception raised in a handler lands in whatever runs then, which may swallow it or call it something
else. So handlers here do nothing. The interpreter writes each signal's number into a pipe at once (the wakeup
descriptor of https://docs.python.org/3/library/signal.html), and a thread reads it there and ends the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from .contract import files

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is not on Windows

_END = b"\0"  # no signal has this number

Notice = Callable[[int], str | None]


def _stopped(_number: int) -> str | None:
    return "stopped"


_notice: Notice = _stopped
_acts: list[Callable[[], None]] = []  # before the process ends


@contextlib.contextmanager
def told(notice: Notice) -> Iterator[None]:
    """Within, signals are told to `notice`, in another thread than this one.

    Args:
        notice: takes the number of a signal; gives None if the process is to go on for now, and else its last words,
            perhaps none.
    """
    global _notice
    before, _notice = _notice, notice
    try:
        yield
    finally:
        _notice = before


@contextlib.contextmanager
def ended_by(act: Callable[[], None]) -> Iterator[None]:
    """Within, a signal that ends the process calls `act` first, in another thread than this one."""
    _acts.append(act)
    try:
        yield
    finally:
        _acts.remove(act)


@contextlib.contextmanager
def ends_by_signal() -> Iterator[None]:
    """Within, SIGINT, SIGTERM and SIGHUP end the process with 128 + their number, as shells report it.

    Those that whoever started the process had ignored (nohup, a shell's background jobs) stay ignored. Off the main
    thread, where Python takes no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    if hasattr(os, "set_blocking"):
        os.set_blocking(writer, False)
    before = {number: signal.getsignal(number) for number in _numbers()}
    mine = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in mine:
        signal.signal(number, _wake)
    thread = threading.Thread(target=_watch, args=(reader, frozenset(mine)), daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])
        signal.set_wakeup_fd(wakeup)
        os.write(writer, _END)  # not its closing, since a forked child may have it open too
        thread.join()
        os.close(writer)
        os.close(reader)


def _numbers() -> list[signal.Signals]:
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


def _wake(_number: int, _frame: object) -> None:
    """A handler of Python's, so that the interpreter writes to the pipe."""


def _watch(reader: int, numbers: frozenset[int]) -> None:
    while (received := os.read(reader, 1)) != _END:
        if received[0] in numbers:
            try:
                words = _notice(received[0])
            except Exception:  # whatever it is: a signal ends the process
                words = "stopped"
            if words is not None:
                _leave(received[0], words)


def _leave(number: int, words: str) -> None:
    try:
        for act in _acts:
            with contextlib.suppress(Exception):  # whatever it is: a signal ends the process
                act()
        files.abandon()
        if "multiprocessing" in sys.modules:
            import multiprocessing

            for child in multiprocessing.active_children():
                child.kill()
        if words:
            say(words)
    finally:
        os._exit(128 + number)


def say(words: str) -> None:
    """Write a line of its own to stderr, which the other thread may have locked, or whose terminal may have gone."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{words}\n".encode(errors="backslashreplace"))


# A forked child has no such thread, and would tell its parent's of its own signals: they end it, as by default, and
# none is lost or misled in between.

_masks: list[set[int | signal.Signals]] = []


def _block() -> None:
    _masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, _numbers()))


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())


def _reset() -> None:
    for number in _numbers():
        if signal.getsignal(number) is _wake:
            signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
    _unblock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_reset)
