"""Small generators, exported once a session and shared between tests."""

from __future__ import annotations

import copy
import functools
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from planted_faults import trained_like

from dcgan.checkpoint import load_generator, save_generator
from dcgan.networks import Generator
from dcgan_export import exact
from dcgan_export.formats import FORMATS, Variant
from dcgan_export.publish import Artifact, Beside, publish
from dcgan_infer.contract.golden import Golden, parse_golden
from dcgan_infer.contract.layers import Activation
from dcgan_infer.contract.spec import GeneratorSpec, reference_spec

METADATA = {"dcgan.note": "a test"}
# The document's four, and those that take a parameter with another one than the default.
ACTIVATIONS = ("relu", "leaky-relu", "elu", "softplus", "leaky-relu:0.2", "elu:0.5", "softplus:2")


@dataclass(frozen=True)
class Exported:
    generator: Generator
    probes: tuple[exact.Probe, ...]
    content: bytes


def small_spec(activation: str = "relu", num_classes: int = 0) -> GeneratorSpec:
    return reference_spec(6, (1, 8, 8), num_classes, channels=(8, 6, 5), activation=Activation.parse(activation))


@functools.cache
def generator_of(activation: str = "relu", trained: bool = True, full_size: bool = False) -> Generator:
    spec = reference_spec(activation=Activation.parse(activation)) if full_size else small_spec(activation)
    if trained:
        return trained_like(spec)
    torch.manual_seed(0)
    return Generator(spec).eval()


@functools.cache
def exported(format_name: str, activation: str = "relu", trained: bool = True, full_size: bool = False) -> Exported:
    """The generator in a format, as it is."""
    return written(generator_of(activation, trained, full_size), format_name)


@functools.cache
def exported_chain(spec: GeneratorSpec) -> Exported:
    """A generator of any layers as ONNX, as it is."""
    return written(trained_like(spec), "onnx")


def written(generator: Generator, format_name: str) -> Exported:
    form, variant = FORMATS[format_name], Variant(format_name, optimize="none").settled()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{form.suffix}"
        form.load_module().write(generator, generator.spec, path, METADATA, variant)
        return Exported(generator, exact.make_probes(generator, generator.spec), path.read_bytes())


def onnx_model(activation: str = "relu", full_size: bool = False) -> onnx.ModelProto:
    return onnx.load_from_string(exported("onnx", activation, full_size=full_size).content)


def save(path: Path, activation: str = "relu", trained: bool = True, shift: float = 0.0) -> Path:
    """A checkpoint of a small generator, its BatchNorms' biases larger by a shift."""
    generator = copy.deepcopy(generator_of(activation, trained))
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.startswith("bn") and name.endswith("bias"):
                parameter.add_(shift)
    save_generator(path, generator.state_dict(), generator.spec, '{"recipe":"test"}')
    return path


def read_golden(path: Path) -> Golden:
    return parse_golden(path.read_bytes(), path)


def metadata_of(path: Path) -> dict[str, str]:
    """The text that an artifact carries, read without our code."""
    if not zipfile.is_zipfile(path):
        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if "/extra/" in name]
        return {name.partition("/extra/")[2]: archive.read(name).decode() for name in names}


def export(checkpoint: Path, path: Path, beside: Beside = Beside(), **choices: Any) -> Artifact:
    """Publish the generator of a file, as a variant of these choices."""
    return publish(load_generator(checkpoint), path, Variant(**choices), beside)
