"""Packages that only an extra installs. Standard library only."""

from __future__ import annotations

import importlib
from types import ModuleType

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
            f"{error.name} is not installed, and this command needs it; "
            f"in the project's folder: pip install '.[{extra}]'",
            name=error.name,
        ) from error
