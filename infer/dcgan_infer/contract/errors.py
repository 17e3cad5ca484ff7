"""Everything that can go wrong on purpose, as one tree.

Each leaf is also the builtin a caller would expect, so `except ValueError` keeps working. Libraries raise these;
only the commands turn them into a line on stderr and exit status 1 (see `infer/dcgan_infer/commands.py`).

    DcganError
    ├── SpecError             (ValueError)    a generator spec that is unreadable or makes no sense
    ├── CheckpointError       (ValueError)    a checkpoint that is missing, truncated, foreign or of another shape
    ├── DatasetError          (ValueError)    images that are missing, truncated, foreign or out of reach
    ├── RunError              (ValueError)    a run folder that is taken, incomplete or contradicted
    ├── DivergedError         (ArithmeticError)  training whose losses are no longer finite
    ├── EvaluationError       (ValueError)    digits that can't be judged, or nothing to judge them by
    ├── ExportError           (RuntimeError)  an artifact that can't be written as asked
    │   └── ParityError                       an artifact that is not equal to its checkpoint
    ├── ModelError            (ValueError)    an ONNX model that is missing, truncated, foreign or unusable
    ├── LatentError           (ValueError)    latents of another shape, type or value than the model takes
    ├── DeviceError           (RuntimeError)  a device or execution provider that is unknown or does not work here
    ├── RuntimeMissingError   (ImportError)   onnxruntime, or a package of an extra, is missing or installed twice
    └── OutputError           (OSError)       a result that can't be written where it was asked for
"""

from __future__ import annotations

from typing import Any


def first_line(error: BaseException, limit: int = 200) -> str:
    """What an exception says, as one line of at most `limit` characters; the name of its class if it says nothing.

    Of an error of the operating system the reason alone: whoever quotes it names the file.
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = printable((text.strip() or type(error).__name__).splitlines()[0])
    return line if len(line) <= limit else line[: limit - 3] + "..."


def printable(text: str) -> str:
    """Control characters and bytes that are not UTF-8 escaped: a file's words go to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class DcganError(Exception):
    """Base of every error this project raises on purpose."""

    def __str__(self) -> str:
        """In one line of printable characters: messages quote files."""
        return printable(super().__str__())


class SpecError(DcganError, ValueError):
    """A generator spec is unreadable, of an unknown schema, or describes no possible generator."""


class CheckpointError(DcganError, ValueError):
    """A checkpoint is missing, truncated, foreign, or holds other tensors than its spec says."""


class DatasetError(DcganError, ValueError):
    """Images or labels are missing, truncated, foreign, or can't be downloaded."""


class RunError(DcganError, ValueError):
    """A run folder is already taken, holds nothing to resume, or was started with other options."""


class DivergedError(DcganError, ArithmeticError):
    """A loss became NaN or infinite during training."""


class EvaluationError(DcganError, ValueError):
    """Images can't be judged as asked, or the evaluator is missing."""


class ExportError(DcganError, RuntimeError):
    """An artifact can't be written as asked."""


class ParityError(ExportError):
    """An artifact was written and run, and is not equal to its checkpoint.

    Attributes:
        report: the figures, an `dcgan_export.parity.ParityReport`.
    """

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class ModelError(DcganError, ValueError):
    """An ONNX model is missing, truncated, foreign, or not one this version can run."""


class LatentError(DcganError, ValueError):
    """Latents, seeds or index ranges are not what the model takes."""


class DeviceError(DcganError, RuntimeError):
    """A device or execution provider is unknown, or was asked for and does not work here."""


class RuntimeMissingError(DcganError, ImportError):
    """A package of an extra is missing, or onnxruntime is installed twice."""


class OutputError(DcganError, OSError):
    """A result can't be written where it was asked for."""
