"""What `verify` found of a model: a line a check, figures, and a verdict that claims no more than was checked."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .contract.difference import Difference, in_words

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
_IDENTIFY = ("integrity", "golden", "against")  # checks that say which model it is
WIDTH = 80  # of the table


@dataclass(frozen=True)
class Check:
    """One question, and what came out.

    Attributes:
        name: `integrity`, `spec`, `operators`, `golden` or `against`.
        outcome: `passed`, `failed` or `skipped`.
        detail: what was found, in a line; of a failed or skipped check why.
        figures: what was found, by name.
        difference: of images, where some were compared.
    """

    name: str
    outcome: str
    detail: str
    figures: dict[str, Any] = field(default_factory=dict)
    difference: Difference | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is no finite number is None."""
        figures = self.figures | (asdict(self.difference) if self.difference else {})
        return {
            "name": self.name,
            "outcome": self.outcome,
            "detail": self.detail,
            "figures": {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in figures.items()
            },
        }


@dataclass(frozen=True)
class VerifyReport:
    """What was checked of a model, and what came out.

    Attributes:
        model: path of the file.
        sha256: hexadecimal digest of its bytes.
        size: in bytes.
        runtime_version: of the onnxruntime that ran it.
        checks: in the order of the questions.
    """

    model: Path
    sha256: str
    size: int
    runtime_version: str
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome == FAILED)

    @property
    def identified(self) -> bool:
        """Whether the model was held against anything: its bytes, golden vectors, or another model."""
        return any(check.outcome == PASSED for check in self.checks if check.name in _IDENTIFY)

    @property
    def passed(self) -> bool:
        """Whether none failed, and at least one says which model it is; others may have been skipped."""
        return not self.failed and self.identified

    @property
    def verdict(self) -> str:
        """What it comes to, in a line that claims what was checked, and no more."""
        if self.failed:
            more = f" (and {len(self.failed) - 1} more)" if len(self.failed) > 1 else ""
            return f"NOT verified: {self.failed[0].name}: {self.failed[0].detail}{more}"
        passed = {check.name: check for check in self.checks if check.outcome == PASSED}
        found = []
        for name, model in (("golden", "its checkpoint"), ("against", "the other model")):
            if name in passed and (difference := passed[name].difference):
                found.append(f"its images are those of {model}: {in_words([difference])} ({difference.images} images)")
        if "integrity" in passed:
            found.append(f"its {passed['integrity'].detail}")
        if not found:
            return (
                f"NOT verified: it is a sound file ({', '.join(passed)}), and there is nothing to compare it with; "
                "give --golden FILE, which dcgan-export writes beside a model, or --sha256 or --against"
            )
        return f"verified: {'; '.join(found)}" + ("" if "golden" in passed else "; not compared with a checkpoint")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": str(self.model),
            "sha256": self.sha256,
            "bytes": self.size,
            "onnxruntime": self.runtime_version,
            "passed": self.passed,
            "verdict": self.verdict,
            "checks": [check.as_dict() for check in self.checks],
        }

    def summary(self) -> str:
        """For people: the verdict, and what was not looked at."""
        lines = [f"{self.model}: {self.verdict}"]
        lines += [f"not looked at: {check.name}: {check.detail}" for check in self.checks if check.outcome == SKIPPED]
        return "\n".join(lines)

    def table(self) -> str:
        """For people, at most `WIDTH` columns wide: a line a check, a column of figures a comparison, the verdict.

        Without the verdict of a model that did not pass: the command's error says it.
        """
        wrap = textwrap.TextWrapper(WIDTH, break_on_hyphens=False)
        lines = [*wrap.wrap(f"{self.model} ({self.size:,} bytes)"), f"sha256 {self.sha256}", ""]
        for check in self.checks:
            outcome = check.outcome.upper() if check.outcome == FAILED else check.outcome
            wrap.initial_indent = f"{outcome:<9}{check.name:<11}"
            wrap.subsequent_indent = " " * len(wrap.initial_indent)
            lines += wrap.wrap(check.detail)
        compared = [check for check in self.checks if check.difference is not None]
        if compared:
            lines += ["", *_figures(compared)]
        if self.passed:
            lines += ["", *textwrap.wrap(self.verdict, WIDTH, break_on_hyphens=False)]
        return "\n".join(lines)


def _figures(checks: Iterable[Check]) -> list[str]:
    columns = [(check.name, check.difference) for check in checks if check.difference is not None]
    rows: tuple[tuple[str, Callable[[Difference], str]], ...] = (
        ("images compared", lambda row: f"{row.images}"),
        ("max error", lambda row: _scientific(row.max_error)),
        ("  limit", lambda row: _scientific(row.limit)),
        ("mean error", lambda row: _scientific(row.mean_error)),
        ("grey levels off, the worst pixel", lambda row: f"{row.max_levels}"),
        ("  limit", lambda row: f"{row.levels_limit}"),
        ("grey levels off on average", lambda row: f"{row.mean_levels:.2e}"),
        ("  limit", lambda row: f"{row.mean_levels_limit:.2e}"),
        ("grey levels off, the worst image", lambda row: f"{row.image_levels:.2e}"),
        ("  limit", lambda row: f"{row.image_levels_limit:.2e}"),
        ("pixels with another grey level", lambda row: f"{row.pixels_off} of {row.pixels}"),
        ("PSNR", lambda row: f"{row.psnr:.1f} dB"),
    )
    lines = [f"{'':<36}" + "".join(f"{name:>20}" for name, _ in columns)]
    for label, cell in rows:
        lines.append(f"{label:<36}" + "".join(f"{cell(difference):>20}" for _, difference in columns))
    return lines


def _scientific(number: float | None) -> str:
    return "-" if number is None else f"{number:.2e}"
