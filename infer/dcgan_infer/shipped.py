"""Where the shipped models lie: `models/` of a checkout, which a wheel installs as `dcgan_models`."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def _folder() -> Path:
    # importlib.resources would say the same, and cost a tenth of the command's start.
    found = importlib.util.find_spec("dcgan_models")
    places = list(found.submodule_search_locations or ()) if found else []
    return Path(places[0]) if places else Path(__file__).resolve().parent / "dcgan_models"  # which holds nothing


FOLDER = _folder()
DEFAULT = "dcgan-mnist-conditional"
DIGITS = frozenset({DEFAULT, "dcgan-mnist"})  # those that make digits


def names(suffix: str) -> list[str]:
    """Names of the shipped files with a suffix such as `.onnx`, without it, sorted."""
    return sorted(path.stem for path in FOLDER.glob(f"*{suffix}"))


def path_of(name: str, suffix: str) -> Path:
    """Path of a shipped file; it need not exist."""
    return FOLDER / f"{name}{suffix}"
