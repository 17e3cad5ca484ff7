"""The options that say which images, alike in dcgan-train and dcgan-eval."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .data import IMAGES
from .datasets import DATASETS

_Command = TypeVar("_Command", bound=Callable[..., Any])


def data_options(
    images: str, dataset: str, sizes: click.types.IntParamType, size: str
) -> Callable[[_Command], _Command]:
    """Decorate a command with options that have the names and meanings of `loading.RealImages`' fields, and `images`.

    All are None where they are not given.

    Args:
        images: help of `--images`.
        dataset: help of `--dataset`.
        sizes: that are taken.
        size: help of `--size`.
    """
    path = click.Path(path_type=Path)
    options = (
        click.option("--images", type=path, metavar="FOLDER|ZIP", help=images),
        click.option("--dataset", type=click.Choice(list(DATASETS)), metavar="NAME", help=dataset),
        click.option(
            "--data-dir",
            type=path,
            metavar="DIR",
            help="Folder of the data set's files; downloaded to it if missing.  [default: data]",
        ),
        click.option("--size", type=sizes, metavar="PIXELS", help=size),
        click.option("--grey", "channels", flag_value="grey", default=None, help="Make these images grey."),
        click.option("--colour", "channels", flag_value="colour", help="Make them colour.  [default: as they are]"),
        click.option(
            "--background", metavar="COLOUR", help="What shows through where images are transparent.  [default: white]"
        ),
    )

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def with_own_images(images: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """Options of a command, with `--images` in the place of `--dataset` and `--data-dir`.

    Raises:
        click.UsageError: both are given.
    """
    if images is None:
        return given
    if given.get("dataset") or given.get("data_dir"):
        raise click.UsageError("--images names the images already; leave out --dataset and --data-dir")
    return given | {"dataset": IMAGES, "data_dir": images}
