"""What the console commands share: errors as one line, and exit statuses.

Exit status: 0 done, 1 the work failed (one clear line on stderr, no traceback), 2 wrong usage; 130 from a
dcgan-train that Ctrl-C interrupted and that saved its state.
Imports Click and the standard library only.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Iterator
from typing import Any

import click

from .contract.errors import DcganError, SpecError, first_line
from .contract.layers import Activation

INTERRUPTED = 128 + signal.SIGINT


class Command(click.Command):
    """A Click command that reports a `DcganError`, or an error of the system, as one line; exit status 1.

    Ctrl-C ends it with a line too, and 130, what shells report for a program that it ended.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _terminable():
                return super().invoke(ctx)
        except DcganError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            click.echo("\nstopped", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            raise  # whoever read our output has gone; Click ends quietly
        except OSError as error:  # of the system, where no library of ours knew more: a full disk, a name too long
            name = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{name}{first_line(error).lower()}") from error


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command as an exception, so that temporary files are removed on the way out."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)  # what shells report for a program that a signal ended

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
