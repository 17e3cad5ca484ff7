"""What a generator is, apart from its weights: its interface, and its layers where they are known.

The spec travels inside every artifact (safetensors metadata, TorchScript's and pt2's extra files, ONNX
`metadata_props`) under the key `SPEC_KEY`; whoever reads an artifact takes the sizes from there and hard-codes none of
them. Schema 1, of version 0.1, is read as well: `_upgraded` is the one place that knows it. Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from .errors import SpecError
from .layers import (
    LARGEST,
    OUTPUTS,
    RELU,
    Activate,
    Activation,
    Layer,
    dcgan_layers,
    from_jsonable,
    multiply_adds,
    reference_layers,
    shapes_of,
    to_jsonable,
)

SCHEMA_VERSION = 2

# Of the latent contract, docs/contracts.md.
SEEDS = 1 << 63  # seeds are 0 ... 2^63 - 1, so that an ONNX int64 scalar can carry one
INDICES = 1 << 32  # latents of one seed: one counter word
# The largest number in a caller's latents, either way. Those of a seed end at 5.77 (docs/contracts.md), and truncation
# doubles them at most. Far beyond, sums inside of a network leave float32 (in the shipped ones from 1e36 on, measured),
# and images come out as NaN, or black.
LARGEST_LATENT = 100.0

# Keys of the metadata that artifacts carry.
SPEC_KEY = "dcgan.spec"
RECIPE_KEY = "dcgan.recipe"
WEIGHTS_SHA256_KEY = "dcgan.weights_sha256"
VERSIONS_KEY = "dcgan.versions"
OPTIMIZE_KEY = "dcgan.optimize"
PRECISION_KEY = "dcgan.precision"
MULTIPLY_ADDS_KEY = "dcgan.multiply_adds"
SOURCE_KEY = "dcgan.source"  # how the network was known, and what was assumed of it

VALUE_RANGES = tuple(OUTPUTS.values())
LONGEST_NAME = 200  # of a class
DRAWN = (1, 3)  # numbers of channels that pictures have: grey, and colour


@dataclass(frozen=True)
class Interface:
    """What a generator takes and gives: all that it takes to run one.

    Attributes:
        latent_dim: length of a latent z.
        image_shape: (channels, height, width) of one image.
        num_classes: number of classes a label is chosen from; 0 means unconditional.
        class_names: a name for each class, or none at all: then classes are called by their numbers.
        value_range: values of black and of white, one of `VALUE_RANGES`.
        latent_distribution: what z is drawn from; `standard-normal` is the only one so far.
    """

    latent_dim: int = 100
    image_shape: tuple[int, int, int] = (1, 28, 28)
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    value_range: tuple[float, float] = (-1.0, 1.0)
    latent_distribution: str = "standard-normal"

    def __post_init__(self) -> None:
        if len(self.image_shape) != 3:
            raise SpecError(f"image_shape has three entries, found {self.image_shape}")
        sizes = (self.latent_dim, *self.image_shape)
        if any(type(size) is not int or not 0 < size <= LARGEST for size in sizes):
            raise SpecError(f"sizes of a generator must be integers from 1 to {LARGEST}, found {sizes}")
        if type(self.num_classes) is not int or not 0 <= self.num_classes <= LARGEST:
            raise SpecError(f"num_classes must be 0 to {LARGEST}, found {self.num_classes}")
        names = self.class_names
        if names and len(names) != self.num_classes:
            raise SpecError(f"there are {len(names)} class names for {self.num_classes} classes")
        if len(set(names)) < len(names) or not all(
            isinstance(name, str) and name.isprintable() and 0 < len(name.strip()) == len(name) <= LONGEST_NAME
            for name in names
        ):
            raise SpecError("class names must be different, of 1 to 200 printable characters, no space at the ends")
        if self.latent_distribution != "standard-normal":
            raise SpecError(
                f"unknown latent distribution {self.latent_distribution!r}; this version knows standard-normal"
            )
        if tuple(self.value_range) not in VALUE_RANGES:
            raise SpecError(f"a value range is (-1, 1) or (0, 1), found {self.value_range}")

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """Of one picture in uint8: (height, width) if it is grey, else (height, width, channels)."""
        channels, height, width = self.image_shape
        return (height, width) if channels == 1 else (height, width, channels)

    @property
    def level(self) -> float:
        """A step between two of the 256 levels of a pixel, in units of the value range."""
        low, high = self.value_range
        return (high - low) / 255

    @property
    def labels(self) -> tuple[str, ...]:
        """What the classes are called: their names, or their numbers."""
        return self.class_names or tuple(map(str, range(self.num_classes)))


@dataclass(frozen=True)
class GeneratorSpec(Interface):
    """An interface, and the layers behind it.

    Attributes:
        layers: in order, from the latent, beside which the one-hot class stands if there are classes; empty where they
            are not known.
    """

    layers: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers:
            return
        shape = shapes_of(self.layers, self.inputs)[-1]
        if shape != self.image_shape:
            raise SpecError(f"the layers give images of shape {shape}, and the interface says {self.image_shape}")

    @property
    def inputs(self) -> int:
        """Features that go into the first layer."""
        return self.latent_dim + self.num_classes

    @property
    def multiply_adds(self) -> int | None:
        """Multiplications, each with its addition, for one image; None where the layers are not known."""
        return multiply_adds(self.layers, self.inputs) if self.layers else None

    @property
    def interface(self) -> Interface:
        """Without the layers."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Interface)}
        return Interface(**fields)

    @property
    def activation(self) -> Activation | None:
        """Of the hidden layers, the first of them; None where there is none."""
        return next((layer.function for layer in self.layers[:-1] if isinstance(layer, Activate)), None)

    def to_json(self) -> str:
        """Canonical JSON (sorted keys, no spaces): the same spec always gives the same text."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Interface)}
        entries = {**fields, "layers": list(map(to_jsonable, self.layers)), "schema": SCHEMA_VERSION}
        return json.dumps(entries, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> GeneratorSpec:
        """Read what `to_json` wrote, in this version or an older one.

        Raises:
            SpecError: `text` is not a JSON object, misses or adds a field, or is of a newer schema.
        """
        try:
            fields: Any = json.loads(text)
        except (ValueError, RecursionError):
            raise SpecError(f"the generator spec is not JSON: {text[:60]!r}") from None
        if not isinstance(fields, dict):
            raise SpecError(f"the generator spec is not a JSON object: {text[:60]!r}")
        schema = fields.pop("schema", None)
        if type(schema) is not int or not 1 <= schema <= SCHEMA_VERSION:
            newer = type(schema) is int and schema > SCHEMA_VERSION
            raise SpecError(
                f"the generator spec has schema {schema!r}, this version reads 1 to {SCHEMA_VERSION}; "
                f"{'upgrade dcgan-toolkit, or ' if newer else ''}export the model again"
            )
        try:
            if schema == 1:
                return _upgraded(fields)
            expected = {field.name for field in dataclasses.fields(cls)}
            _expect_fields(fields, expected)
            layers = from_jsonable(fields.pop("layers"))
            return cls(**_interface_fields(fields), layers=layers)
        except SpecError:
            raise
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise SpecError(f"the generator spec has a field of the wrong type: {error}") from None


def reference_spec(
    latent_dim: int = 100,
    image_shape: tuple[int, int, int] = (1, 28, 28),
    num_classes: int = 0,
    class_names: tuple[str, ...] = (),
    channels: tuple[int, int, int] = (256, 128, 64),
    activation: Activation = RELU,
) -> GeneratorSpec:
    """The generator of the reference script; the defaults are its own.

    With classes the one-hot class stands beside the latent (Mirza and Osindero 2014, arXiv:1411.1784).

    Raises:
        SpecError: a size is impossible.
    """
    if len(channels) != 3 or any(type(count) is not int or not 0 < count <= LARGEST for count in channels):
        raise SpecError(f"channels are three integers from 1 to {LARGEST}, found {channels}")
    bare = Interface(latent_dim, image_shape, num_classes, class_names)
    layers = reference_layers(latent_dim + num_classes, image_shape, channels, activation)
    return GeneratorSpec(bare.latent_dim, bare.image_shape, num_classes, class_names, layers=layers)


def dcgan_spec(
    latent_dim: int = 100,
    image_shape: tuple[int, int, int] = (3, 64, 64),
    num_classes: int = 0,
    class_names: tuple[str, ...] = (),
    ngf: int = 64,
    activation: Activation = RELU,
) -> GeneratorSpec:
    """The generator of PyTorch's DCGAN example; the defaults are its own.

    With classes the one-hot class stands beside the latent, as in `reference_spec`.

    Raises:
        SpecError: a size is impossible.
    """
    if type(ngf) is not int or not 0 < ngf <= LARGEST:
        raise SpecError(f"ngf is an integer from 1 to {LARGEST}, found {ngf}")
    bare = Interface(latent_dim, image_shape, num_classes, class_names)
    layers = dcgan_layers(latent_dim + num_classes, image_shape, ngf, activation)
    return GeneratorSpec(bare.latent_dim, bare.image_shape, num_classes, class_names, layers=layers)


MNIST_NAMES = frozenset({"mnist", "sample"})  # data sets by name that hold MNIST's digits, all or some


def trained_on(recipe: str) -> str:
    """The data set that trained a generator, as the JSON under `RECIPE_KEY` says; empty where it does not."""
    try:
        return str(json.loads(recipe).get("dataset", ""))
    except (ValueError, AttributeError, RecursionError):
        return ""


def _upgraded(fields: dict[str, Any]) -> GeneratorSpec:
    """A spec of schema 1, which knew the reference script's generator only."""
    names = {"latent_dim", "latent_distribution", "num_classes", "image_shape", "value_range", "channels", "activation"}
    _expect_fields(fields, names)
    channels = tuple(fields.pop("channels"))
    activation = Activation.parse(fields.pop("activation"))
    interface = Interface(**_interface_fields(fields))
    if interface.value_range != (-1.0, 1.0):
        raise SpecError(f"this generator ends in tanh, so its value range is (-1, 1), found {interface.value_range}")
    return reference_spec(
        interface.latent_dim,
        interface.image_shape,
        interface.num_classes,
        channels=channels,  # judged there
        activation=activation,
    )


def _expect_fields(fields: dict[str, Any], expected: set[str]) -> None:
    if fields.keys() != expected:
        raise SpecError(f"the generator spec has other fields than expected: {sorted(fields.keys() ^ expected)}")


def _interface_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """What JSON has no type for."""
    lists = [name for name in ("image_shape", "class_names") if name in fields]
    if not all(isinstance(fields[name], list) for name in lists):  # a text is iterable too
        raise SpecError(f"the generator spec has another thing than a list in {' or '.join(lists)}")
    tuples = {name: tuple(fields[name]) for name in lists}
    return fields | tuples | {"value_range": tuple(map(float, fields["value_range"]))}
