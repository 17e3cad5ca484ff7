"""Make images from an exported generator with onnxruntime. Never imports torch.

    from dcgan_infer import ImageGenerator
    images = ImageGenerator()(16, seed=0)  # uint8, shape (16, 28, 28); a notebook shows them

It is imported when it is first used, so `import dcgan_infer` alone costs nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .generator import DigitGenerator, ImageGenerator
    from .pictures import Images

# onnxruntime reads this once, when it is imported, whoever imports it. Its wheels would write a device's identity and a
# database into ~/.cache, and ask for the address of a server. Who sets it to 0 wants that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["DigitGenerator", "ImageGenerator", "Images"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from . import generator

        return getattr(generator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
