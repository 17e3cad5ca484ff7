"""What the console commands share: standard streams, signals, errors as one line, and exit statuses.

Exit status: 0 done, 1 the work failed (one clear line on stderr, no traceback), 2 wrong usage; 128 + its number where a
signal ended the command, so 130 for Ctrl-C, also of a dcgan-train that saved its state.
Imports nothing but Click from outside of the standard library.
"""

from __future__ import annotations

import inspect
import io
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .contract.errors import DcganError, SpecError, first_line, printable
from .contract.files import user_cache
from .contract.layers import Activation
from .signals import ends_by_signal

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

closed: set[str] = set()  # of stdin, stdout and stderr: those that whoever started this process had closed


_GIVEN = f"{__name__}.given"


def again(option: str, value: str) -> str:
    """The command line as it was given, with one option more, or another value of it."""
    context = click.get_current_context()
    words = iter(context.meta[_GIVEN])
    kept = []
    for word in words:
        if word == option:
            next(words, None)
        elif not word.startswith(f"{option}="):
            kept.append(word)
    return f"{context.command_path} {shlex.join([option, value, *kept])}"


class Command(click.Command):
    """A Click command that reports a `DcganError`, or an error of the system, as one line; exit status 1.

    Args:
        sections: of --help: names of parameters by the title that they stand under, in order. What is in none of them
            comes last.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.sections = sections or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_GIVEN] = tuple(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        titles = {name: title for title, names in self.sections.items() for name in names}
        lines: dict[str, list[tuple[str, str]]] = {title: [] for title in self.sections}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                title = titles.get(param.name or "", "Other options" if self.sections else "Options")
                lines.setdefault(title, []).append(record)
        for title, records in lines.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As Click does it, but for the examples: they are what most people look for, and come before the options."""
        notes = self.epilog or ""
        examples = notes.partition("\n\n")[0] if notes.startswith("\b\nExamples") else ""

        def write(text: str) -> None:
            if text:
                formatter.write_paragraph()
                with formatter.indentation():
                    formatter.write_text(inspect.cleandoc(text))

        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        write(examples)
        self.format_options(ctx, formatter)
        write(notes[len(examples) :].strip("\n"))

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


def complete_model(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
    """What a shell offers for a model: the shipped names, and files; Click's callback."""
    from click.shell_completion import CompletionItem  # a millisecond and a half, which a shell can wait for

    from . import shipped

    names = [CompletionItem(name) for name in shipped.names(".onnx") if name.startswith(begun)]
    return names or [CompletionItem(begun, type="file")]  # in bash, files would take the place of names


def parse_activation(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Activation | None:
    """Read the option `NAME[:NUMBER]`: a Click callback."""
    try:
        return None if text is None else Activation.parse(text)
    except SpecError as error:
        raise click.BadParameter(str(error)) from error
