"""What a generator is, apart from its weights.

`GeneratorSpec` is the one place where 100, 28, 256 and [-1, 1] are written. It travels inside every artifact
(safetensors metadata, TorchScript `_extra_files`, ONNX `metadata_props`) under the key `SPEC_KEY`; whoever reads an
artifact takes the sizes from there and hard-codes none of them. Standard library only: `infer` shares this module.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from .errors import SpecError

SCHEMA_VERSION = 1

# Of the latent contract, docs/latents.md.
SEEDS = 1 << 63  # seeds are 0 ... 2^63 - 1, so that an ONNX int64 scalar can carry one
INDICES = 1 << 32  # latents of one seed: one counter word

# Keys of the metadata that artifacts carry.
SPEC_KEY = "dcgan.spec"
RECIPE_KEY = "dcgan.recipe"
WEIGHTS_SHA256_KEY = "dcgan.weights_sha256"
VERSIONS_KEY = "dcgan.versions"
OPTIMIZE_KEY = "dcgan.optimize"
PRECISION_KEY = "dcgan.precision"

# The activations the document compares, with the parameter each one takes and PyTorch's default for it.
ACTIVATIONS: dict[str, tuple[str, float] | None] = {
    "relu": None,
    "leaky-relu": ("negative slope", 0.01),
    "elu": ("alpha", 1.0),
    "softplus": ("beta", 1.0),
}


@dataclass(frozen=True)
class Activation:
    """An activation function of the hidden layers, written `NAME` or `NAME:PARAMETER` (`leaky-relu:0.2`).

    Attributes:
        name: one of `ACTIVATIONS`.
        parameter: negative slope of leaky-relu, alpha of elu, beta of softplus; 0.0 for relu, which takes none.
    """

    name: str
    parameter: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ACTIVATIONS:
            raise SpecError(f"unknown activation {self.name!r}; choose from {', '.join(ACTIVATIONS)}")
        takes = ACTIVATIONS[self.name]
        if takes is None and self.parameter != 0.0:
            raise SpecError(f"activation {self.name} takes no parameter, found {self.parameter:g}")
        if takes is not None and not (math.isfinite(self.parameter) and self.parameter > 0.0):
            raise SpecError(f"the {takes[0]} of {self.name} must be a finite number above 0, found {self.parameter:g}")

    @classmethod
    def parse(cls, text: str) -> Activation:
        """Read `NAME` or `NAME:PARAMETER`; a missing parameter is PyTorch's default.

        Raises:
            SpecError: the name is unknown, or the parameter is no number the activation takes.
        """
        name, colon, number = text.partition(":")
        if not colon:
            takes = ACTIVATIONS.get(name)
            return cls(name, takes[1] if takes else 0.0)
        try:
            return cls(name, float(number))
        except ValueError as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError(
                f"the parameter of activation {text!r} is not a number; write it like leaky-relu:0.2"
            ) from None

    def __str__(self) -> str:
        # repr gives a number's shortest digits that read back as the same number.
        return self.name if ACTIVATIONS[self.name] is None else f"{self.name}:{self.parameter!r}".removesuffix(".0")


@dataclass(frozen=True)
class GeneratorSpec:
    """Sizes, ranges and architecture options of a generator.

    Attributes:
        latent_dim: length of a latent z.
        latent_distribution: what z is drawn from; `standard-normal` is the only one so far.
        num_classes: number of classes a label is chosen from; 0 means unconditional.
        image_shape: (channels, height, width) of one image; height and width are equal and multiples of 4.
        value_range: values of black and of white.
        channels: feature maps after `linear1`, `decon1` and `decon2`.
        activation: of the three hidden layers.
        schema: version of this description.
    """

    latent_dim: int = 100
    latent_distribution: str = "standard-normal"
    num_classes: int = 0
    image_shape: tuple[int, int, int] = (1, 28, 28)
    value_range: tuple[float, float] = (-1.0, 1.0)
    channels: tuple[int, int, int] = (256, 128, 64)
    activation: Activation = Activation("relu")
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        sizes = (self.latent_dim, *self.image_shape, *self.channels)
        if any(type(size) is not int or not 0 < size <= 1 << 16 for size in sizes):
            raise SpecError(f"sizes of a generator must be integers from 1 to 65536, found {sizes}")
        if len(self.image_shape) != 3 or len(self.channels) != 3:
            raise SpecError(
                f"image_shape and channels have three entries each, found {self.image_shape} and {self.channels}"
            )
        _, height, width = self.image_shape
        if height != width or height % 4:
            raise SpecError(f"images must be square with a side that 4 divides, found {height}x{width}")
        if type(self.num_classes) is not int or not 0 <= self.num_classes <= 1 << 16:
            raise SpecError(f"num_classes must be 0 to 65536, found {self.num_classes}")
        if self.latent_distribution != "standard-normal":
            raise SpecError(
                f"unknown latent distribution {self.latent_distribution!r}; this version knows standard-normal"
            )
        low, high = self.value_range
        if (low, high) != (-1.0, 1.0):
            raise SpecError(f"the generator ends in tanh, so its value range is (-1, 1), found ({low:g}, {high:g})")

    @property
    def base_side(self) -> int:
        """Side of the feature maps that `linear1` makes: two stride-2 layers follow, 7 for 28x28 images."""
        return self.image_shape[1] // 4

    @property
    def multiply_adds(self) -> int:
        """Multiplications, each with its addition, that the four layers need for one image: 22.3 million by default.

        A transposed convolution multiplies each of its input's pixels by the whole kernel, those at the border too.
        The fused form does as many. What is left out (biases, BatchNorm, activations) is less than a hundredth.
        """
        first, second, third = self.channels
        pixels = self.base_side**2
        linear1 = (self.latent_dim + self.num_classes) * first * pixels
        decon1 = pixels * first * second * 3 * 3
        decon2 = pixels * second * third * 4 * 4
        decon3 = 4 * pixels * third * self.image_shape[0] * 4 * 4
        return linear1 + decon1 + decon2 + decon3

    def to_json(self) -> str:
        """Canonical JSON (sorted keys, no spaces): the same spec always gives the same text."""
        fields = dataclasses.asdict(self) | {"activation": str(self.activation)}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> GeneratorSpec:
        """Read what `to_json` wrote.

        Raises:
            SpecError: `text` is no JSON object, misses or adds a field, or is of a newer schema.
        """
        try:
            fields: Any = json.loads(text)
        except (ValueError, RecursionError):
            raise SpecError(f"the generator spec is not JSON: {text[:60]!r}") from None
        if not isinstance(fields, dict):
            raise SpecError(f"the generator spec is not a JSON object: {text[:60]!r}")
        if fields.get("schema") != SCHEMA_VERSION:
            raise SpecError(
                f"the generator spec has schema {fields.get('schema')!r}, this version reads {SCHEMA_VERSION}; "
                "upgrade dcgan-toolkit, or export the model again"
            )
        expected = {field.name for field in dataclasses.fields(cls)}
        if fields.keys() != expected:
            raise SpecError(f"the generator spec has other fields than expected: {sorted(fields.keys() ^ expected)}")
        try:
            return cls(
                **fields
                | {
                    "image_shape": tuple(fields["image_shape"]),
                    "value_range": tuple(map(float, fields["value_range"])),
                    "channels": tuple(fields["channels"]),
                    "activation": Activation.parse(fields["activation"]),
                }
            )
        except SpecError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise SpecError(f"the generator spec has a field of the wrong type: {error}") from None
