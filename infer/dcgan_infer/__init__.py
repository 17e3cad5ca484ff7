"""Make digits from an exported generator with onnxruntime. Never imports torch.

    from dcgan_infer import DigitGenerator
    digits = DigitGenerator().generate(16, seed=0)  # uint8, shape (16, 28, 28)

It is imported when it is first used, so `import dcgan_infer` alone costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .session import DigitGenerator

__version__ = "0.1.0"
__all__ = ["DigitGenerator"]


def __getattr__(name: str) -> object:
    if name == "DigitGenerator":
        from .session import DigitGenerator

        return DigitGenerator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
