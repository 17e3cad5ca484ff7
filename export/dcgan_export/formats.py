"""The formats an artifact can have. Imports neither torch nor onnx, so that `--help` is instant."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from dcgan_infer.contract.errors import ExportError
from dcgan_infer.contract.spec import Interface
from dcgan_infer.contract.tolerance import TOLERANCES

if TYPE_CHECKING:
    from torch import nn

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
# Latents, float32 (N, latent_dim), and for a conditional generator labels, int64 (N,), to images, float32 (N, C, H, W)
# or pictures in uint8, in the format's own runtime on the CPU.
Runner: TypeAlias = Callable[..., "FloatArray | npt.NDArray[np.uint8]"]


class Seeded(NamedTuple):
    """What a model that takes a seed makes of it: images as a `Runner` gives them, and what it made on the way."""

    images: FloatArray | npt.NDArray[np.uint8]
    z: FloatArray  # (n, latent_dim)
    label: IntArray | None = None  # (n,)


# A seed, the number of images, and the labels that are asked for in turn, if there are classes.
SeedRunner: TypeAlias = Callable[[int, int, "tuple[int, ...] | None"], Seeded]

# `fused`: rewritten exactly, see fuse.py; `vnni`: int8 with one more product of integers, see quantize.py; `none`: the
# checkpoint's own layers and parameters.
OPTIMIZATIONS = ("fused", "vnni", "none")
PRECISIONS = tuple(TOLERANCES)
# Of what comes out: `float`, float32 (N, C, H, W) in the generator's value range; `uint8`, pictures ready to show,
# (N, H, W) in grey and (N, H, W, C) in colour.
IMAGES = ("float", "uint8")
# Of what goes in: `z`, latents, and a label each; `seed`, from which the graph makes them itself, see seeded.py.
INPUTS = ("z", "seed")


@dataclass(frozen=True)
class Variant:
    """What an artifact is to be. None is the default, which `settled` puts in its place.

    Attributes:
        format: one of `FORMATS`.
        optimize: one of `OPTIMIZATIONS`.
        opset: version of the operators; of ONNX, like all that follows.
        precision: one of `PRECISIONS`.
        image: one of `IMAGES`.
        inputs: one of `INPUTS`.
    """

    format: str = "onnx"
    optimize: str | None = None
    opset: int | None = None
    precision: str = "fp32"
    image: str | None = None
    inputs: str = "z"

    def settled(self) -> Variant:
        """With every default in its place: the one judge of what can be had together.

        Raises:
            ExportError: a name is unknown, or two choices exclude each other.
        """
        for what, name, names in (
            ("format", self.format, tuple(FORMATS)),
            ("optimization", self.optimize, (None, *OPTIMIZATIONS)),
            ("precision", self.precision, PRECISIONS),
            ("kind of image", self.image, (None, *IMAGES)),
            ("kind of inputs", self.inputs, INPUTS),
        ):
            if name not in names:
                raise ExportError(f"unknown {what} {name!r}; choose from {', '.join(filter(None, names))}")
        form = FORMATS[self.format]
        if self.format != "onnx" and (self.optimize == "vnni" or self != Variant(self.format, self.optimize)):
            raise ExportError(
                f"optimize vnni, opset, precision, image and inputs are for onnx only, not for {form.name}; leave them "
                "out"
            )
        if self.precision == "int8" and self.optimize == "none":
            raise ExportError("precision int8 needs the fused form; leave optimize none out")
        if self.precision != "int8" and self.optimize == "vnni":
            raise ExportError("optimize vnni is for precision int8; take that, or leave optimize vnni out")
        image = self.image or ("uint8" if self.inputs == "seed" else "float")
        return replace(self, optimize=self.optimize or form.optimize, image=image)

    @property
    def is_uint8(self) -> bool:
        """Whether pictures come out, of a settled variant."""
        return self.image == "uint8"


class FormatModule(Protocol):
    """What the module of a format offers."""

    PACKAGES: tuple[str, ...]  # whose versions go into the metadata, because they decide what is written

    def write(
        self, generator: nn.Module, spec: Interface, path: Path, metadata: Mapping[str, str], variant: Variant
    ) -> None:
        """Write a generator as one file.

        Args:
            generator: float32, in eval mode, on the CPU; takes (N, latent_dim), and (N,) labels if it has classes,
                gives (N, C, H, W). Not changed.
            spec: of the generator.
            path: to write to.
            metadata: text to put into the file, by key.
            variant: settled; `generator` suits its precision.
        Raises:
            ExportError: the generator can't be written as asked.
        """

    def load(self, path: Path) -> Runner:
        """Read a file back as a consumer would, with the runtime's default settings but for threads.

        Raises:
            ExportError: the runtime refuses the file, or its inputs and outputs are not as promised.
        """


@dataclass(frozen=True)
class Format:
    """A format by name.

    Attributes:
        name: as in `--format`.
        suffix: of its files.
        module: of this package that writes and loads it.
        needs: packages to import, each with the extra that brings it.
        optimize: the default, one of `OPTIMIZATIONS`.
    """

    name: str
    suffix: str
    module: str
    needs: tuple[tuple[str, str], ...]
    optimize: str = "fused"

    def load_module(self) -> FormatModule:
        """Import the module of this format, and with it the packages it needs."""
        return cast(FormatModule, importlib.import_module(f".{self.module}", __package__))


_TORCH = (("torch", "export"), ("safetensors", "export"))

FORMATS = {
    entry.name: entry
    for entry in (
        Format(
            "onnx",
            ".onnx",
            "onnx_file",
            (*_TORCH, ("onnx", "export"), ("onnxscript", "export"), ("onnxruntime", "cpu")),
        ),
        # torch runs the trained layers faster than their fused form, but for single images (docs/inference.md).
        Format("torchscript", ".pt", "torchscript_file", _TORCH, optimize="none"),
        # Whoever takes a pt2 compiles it, and a compiler fuses by itself.
        Format("pt2", ".pt2", "pt2_file", _TORCH, optimize="none"),
    )
}
