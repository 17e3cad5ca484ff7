"""Packages that only an extra installs. Standard library only."""

from __future__ import annotations

import importlib
import logging
from types import ModuleType
from typing import Any

from .contract.errors import RuntimeMissingError


def require(module: str, extra: str) -> ModuleType:
    """Import a module of one of our packages that needs the packages of `extra`.

    Raises:
        RuntimeMissingError: a package of that extra is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise RuntimeMissingError(
            f"{error.name} is not installed, and this command needs it; install the extra {extra}: "
            f"pip install 'dcgan-toolkit[{extra}]', or '.[{extra}]' in a checkout",
            name=error.name,
        ) from error


def new_figure(**options: Any) -> Any:
    """An empty figure of matplotlib.

    Raises:
        RuntimeMissingError: matplotlib is not installed.
    """
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)  # on import it warns of a home that can't be written to
    try:
        return require("matplotlib.figure", "plot").Figure(**options)
    finally:
        logger.setLevel(before)
