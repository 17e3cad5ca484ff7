"""What processor this is: a figure without it says little. Standard library only."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

# What matrix kernels choose by, as /proc/cpuinfo spells it: of x86, then of ARM.
_FLAGS = (
    "avx", "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8",
    "amx_bf16", "asimd", "asimdhp", "asimddp", "sve", "i8mm", "bf16",
)  # fmt: skip


@dataclass(frozen=True)
class Processor:
    """A processor.

    Attributes:
        name: as it calls itself, or its architecture where nobody says.
        flags: those of its instruction sets that decide how fast matrices are multiplied; empty where nobody says.
    """

    name: str
    flags: tuple[str, ...]


def processor(root: Path = Path("/")) -> Processor:
    """The first processor of this machine.

    Args:
        root: where `proc` is mounted.
    """
    fields: dict[str, str] = {}
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except (OSError, UnicodeDecodeError):  # not Linux
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    found = set(fields.get("flags", fields.get("features", "")).split())
    name = fields.get("model name") or platform.processor() or platform.machine() or "unknown processor"
    return Processor(" ".join(name.split()), tuple(flag for flag in _FLAGS if flag in found))
