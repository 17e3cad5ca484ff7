"""Where the shipped models lie: `models/`, beside the packages in a checkout and in a wheel alike."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "models"
DEFAULT = "dcgan-mnist-conditional"


def names(suffix: str) -> list[str]:
    """Names of the shipped files with a suffix such as `.onnx`, without it, sorted."""
    return sorted(path.stem for path in FOLDER.glob(f"*{suffix}"))


def path_of(name: str, suffix: str) -> Path:
    """Path of a shipped file; it need not exist."""
    return FOLDER / f"{name}{suffix}"
