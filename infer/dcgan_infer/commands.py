"""What the console commands share: standard streams, signals, errors as one line, and exit statuses.

Exit status: 0 done, 1 the work failed (one clear line on stderr, no traceback), 2 wrong usage; 128 + its number where a
signal ended the command, so 130 for Ctrl-C, also of a dcgan-train that saved its state.
Imports nothing but Click from outside of the standard library.
"""

from __future__ import annotations

import io
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from .contract.errors import DcganError, SpecError, first_line, printable
from .contract.files import user_cache
from .contract.layers import Activation
from .signals import ends_by_signal

closed: set[str] = set()  # of stdin, stdout and stderr: those that whoever started this process had closed


class Command(click.Command):
    """A Click command that reports a `DcganError`, or an error of the system, as one line; exit status 1."""

    def main(self, *args: Any, **extra: Any) -> Any:
        _prepare_streams()
        # Where matplotlib lists the fonts that it finds; else it makes two folders in the home.
        os.environ.setdefault("MPLCONFIGDIR", str(user_cache("matplotlib")))
        _do_without_temporary_files()
        with ends_by_signal():
            try:
                return super().main(*args, **extra)
            # Of the system, where no library of ours knew more: a full disk, a name too long, or with letters that the
            # locale lacks.
            except (OSError, MemoryError, UnicodeEncodeError) as error:
                if not extra.get("standalone_mode", True):
                    raise
                name = f"{filename}: " if (filename := getattr(error, "filename", None)) else ""
                reason = "there is not enough memory" if isinstance(error, MemoryError) else first_line(error).lower()
                click.echo(f"Error: {printable(f'{name}{reason}')}", err=True)
                sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DcganError as error:
            raise click.ClickException(str(error)) from error
        except click.UsageError as error:
            raise click.UsageError(printable(error.format_message()), error.ctx) from error


def _prepare_streams() -> None:
    """Make sure that there are three standard streams, and that they take every text.

    A closed one (`2>&-`) is None in Python. The next file that is opened would get its number, and what a native
    library says would go into that file: so the number is taken by the null device.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        stream = getattr(sys, name)
        if stream is None:
            closed.add(name)
            null = os.open(os.devnull, os.O_RDWR)
            try:
                os.fstat(number)
            except OSError:
                os.dup2(null, number)
            setattr(sys, name, open(null, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  it stays open
        elif isinstance(stream, io.TextIOWrapper) and mode == "w":
            stream.reconfigure(errors="backslashreplace")  # of a file's name that its encoding lacks


def _do_without_temporary_files() -> None:
    """Where a machine has no folder for temporary files, keep libraries from making one, or failing for want of it.

    Python takes the current folder then, and torch's compiler, as soon as an exporter or an optimizer imports it, makes
    one for its cache there. If the current folder is read-only too, Python raises an error, and some libraries ask when
    they are imported. A folder that exists, in which they then keep nothing, will do.
    """
    there = str(Path(__file__).parent)
    try:
        lacks = tempfile.gettempdir() == str(Path.cwd())
    except FileNotFoundError:
        lacks = True
        tempfile.tempdir = there
    if lacks:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", there)


class WholeNumber(click.types.IntParamType):
    """Whole numbers from `least` to `most`; --help does not print the bounds, where 2^63 - 1 has 19 digits."""

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number: int = super().convert(value, param, ctx)
        if not self._least <= number <= self._most:
            self.fail(f"{number} is not from {self._least} to {self._most}.", param, ctx)
        return number


class FiniteFloat(click.FloatRange):
    """A FloatRange without infinity and NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def parse_activation(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Activation | None:
    """Read the option `NAME[:NUMBER]`: a Click callback."""
    try:
        return None if text is None else Activation.parse(text)
    except SpecError as error:
        raise click.BadParameter(str(error)) from error
