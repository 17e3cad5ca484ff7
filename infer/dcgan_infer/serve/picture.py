"""A picture by its address: the query is read as dcgan-infer reads its options, and made by the same code."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re

import click

from .. import __version__, shipped
from ..cli import main
from ..commands import WholeNumber
from ..contract.errors import LatentError
from ..generator import ImageGenerator
from ..render import refuse_unknown, render
from ..request import Request, classes_of

OPTIONS = ("seed", "n", "start", "class", "digit", "digits", "truncation", "scale", "text")
PARAMETERS = (*OPTIONS, "columns")
MOST_PIXELS = 1 << 22  # of a picture: a second of encoding, 12 MB of colour


def read(query: list[tuple[str, str]], generator: ImageGenerator, most: int, batch_size: int) -> Request:
    """What a query asks for; arguments and errors are those of `_read`.

    Raises:
        click.UsageError: as `_read` does, in the words of an address.
    """
    try:
        return _read(query, generator, most, batch_size)
    except click.UsageError as error:
        raise click.UsageError(_words_of_a_query(error.format_message())) from error


def _read(query: list[tuple[str, str]], generator: ImageGenerator, most: int, batch_size: int) -> Request:
    """What a query asks for.

    Args:
        query: names and values, in order; only `class` may come several times.
        generator: that is asked.
        most: images that may be asked for.
        batch_size: images at a time.
    Raises:
        click.UsageError: an option is unknown, out of range, or contradicts another; in the words of dcgan-infer.
        LatentError, ModelError: the model has no such class, or can't have such an option.
    """
    names = [name for name, _ in query]
    for name in names:
        if name not in PARAMETERS:
            raise click.UsageError(f"There is no parameter {name[:40]!r}; these are: {', '.join(PARAMETERS)}.")
        if name != "class" and names.count(name) > 1:
            raise click.UsageError(f"{name} is given several times; give it once.")
    words = [f"--{name}={value}" for name, value in query if name in OPTIONS]
    with main.make_context("dcgan-infer", words) as context:
        given = context.params
    text = given["text_option"]
    try:
        classes, digits = classes_of(
            given["classes"], given["digits"], given["digit"], text, counted=given["n"] is not None
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if text is not None:
        refuse_unknown(classes, generator)
    named = len(classes or digits)
    n = given["n"] or (named if text is not None or named > 1 else min(most, 16))
    if n > most:
        raise click.UsageError(f"--n {n} is more than the {most} images of a request; ask several times, with --start.")
    columns = _columns(dict(query).get("columns"), most)
    request = Request(
        target=io.BytesIO(),
        kind="png",
        n=n,
        start=given["start"],
        seed=given["seed"],
        classes=classes,
        digits=digits,
        text=text,
        truncation=given["truncation"],
        grid=None if columns is None else (-(-n // columns), columns),
        scale=given["scale"],
        batch_size=batch_size,
        model=shipped.DEFAULT,  # nobody opens it
    )
    if contradiction := request.contradiction():
        raise click.UsageError(contradiction)
    generator.asked(classes=classes or None, digits=digits or None)
    generator.refuse_for_seed("truncation", request.truncation is not None)
    if generator.model.takes_seed and request.start + n > most:
        raise LatentError(f"this model makes all images up to the last, {most} at most, asked for {request.start + n}")
    (rows, columns), (_, height, width) = request.layout, generator.spec.image_shape
    if rows * height * columns * width * request.zoom(height, width) ** 2 > MOST_PIXELS:
        raise click.UsageError(f"The picture would have more than {MOST_PIXELS:,} pixels; give less --scale or --n.")
    return request


def _columns(text: str | None, most: int) -> int | None:
    if text is None:
        return None
    try:
        return WholeNumber(1, most).convert(text, None, None)
    except click.BadParameter as error:
        raise click.UsageError(f"Invalid value for 'columns': {error.message}") from error


def _words_of_a_query(message: str) -> str:
    """What dcgan-infer says of its options, for who wrote an address: there they have no dashes."""
    message = re.sub(r"^(Invalid value for ')(?:-n' / ')?--", r"\1", message)
    message = re.sub(r"(?<![\w'-])--grid\b", "columns", message)
    return re.sub(rf"(?<![\w'-])--({'|'.join(PARAMETERS)})(?![\w-])", r"\1", message)


def tag(request: Request, generator: ImageGenerator) -> str:
    """An entity tag: what is asked for, and of whom. RFC 9110, 8.8.3.

    A weak one: pictures are equal, but another batch may round a pixel of a foreign model otherwise.
    """
    by = (__version__, generator.runtime_version, generator.model.provider, generator.model.sha256)
    asked = repr((by, dataclasses.replace(request, target="-")))
    return f'W/"{hashlib.sha256(asked.encode(errors="replace")).hexdigest()[:32]}"'


def make(request: Request, generator: ImageGenerator) -> bytes:
    """The picture, as a PNG.

    Raises:
        ModelError, LatentError, OutputError
    """
    target = io.BytesIO()
    render(dataclasses.replace(request, target=target), generator=generator)
    return target.getvalue()
