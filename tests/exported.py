"""Small generators, exported once a session and shared between tests."""

from __future__ import annotations

import functools
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from hypothesis import strategies as st
from planted_faults import trained_like
from torch import Tensor

from dcgan.checkpoint import save_generator
from dcgan.networks import Generator
from dcgan_export import exact, formats
from dcgan_infer.contract.spec import Activation, GeneratorSpec

METADATA = {"dcgan.note": "a test"}
# The document's four, and those that take a parameter with another one than the default.
ACTIVATIONS = ("relu", "leaky-relu", "elu", "softplus", "leaky-relu:0.2", "elu:0.5", "softplus:2")


# Scales of a BatchNorm: any sign, far from 1, and none at all.
SCALES = st.sampled_from(["positive", "mixed", "negative", "zeros", "all zero"])


@dataclass(frozen=True)
class Exported:
    generator: Generator
    probes: tuple[exact.Probe, ...]
    content: bytes


def small_spec(activation: str = "relu", num_classes: int = 0) -> GeneratorSpec:
    return GeneratorSpec(
        latent_dim=6,
        num_classes=num_classes,
        image_shape=(1, 8, 8),
        channels=(8, 6, 4),
        activation=Activation.parse(activation),
    )


@functools.cache
def generator_of(activation: str = "relu", trained: bool = True, full_size: bool = False) -> Generator:
    spec = GeneratorSpec(activation=Activation.parse(activation)) if full_size else small_spec(activation)
    if trained:
        return trained_like(spec)
    torch.manual_seed(0)
    return Generator(spec).eval()


@functools.cache
def exported(format_name: str, activation: str = "relu", trained: bool = True, full_size: bool = False) -> Exported:
    generator = generator_of(activation, trained, full_size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{formats.find(format_name).suffix}"
        formats.find(format_name).load_module().write(generator, generator.spec, path, METADATA, formats.USUAL)
        return Exported(generator, exact.make_probes(generator, generator.spec), path.read_bytes())


def onnx_model(activation: str = "relu", full_size: bool = False) -> onnx.ModelProto:
    return onnx.load_from_string(exported("onnx", activation, full_size=full_size).content)


def save(path: Path, activation: str = "relu", trained: bool = True) -> Path:
    """A checkpoint of a small generator."""
    generator = generator_of(activation, trained)
    save_generator(path, generator.state_dict(), generator.spec, '{"recipe":"test"}')
    return path


def metadata_of(path: Path) -> dict[str, str]:
    """The text that an artifact carries, read without our code."""
    if not zipfile.is_zipfile(path):
        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if "/extra/" in name]
        return {name.partition("/extra/")[2]: archive.read(name).decode() for name in names}


def with_statistics(spec: GeneratorSpec, seed: int, scales: str, spread: float = 1.0) -> Generator:
    """A generator in float64 whose BatchNorms have been somewhere."""
    torch.manual_seed(seed)
    generator = Generator(spec).double().eval()
    with torch.no_grad():
        for name, tensor in generator.state_dict().items():
            if not name.startswith("bn") or not tensor.is_floating_point():
                continue
            random = torch.randn_like(tensor) * spread
            if name.endswith("running_var"):
                tensor.copy_(random.exp())
            elif name.endswith("weight"):
                kinds = {
                    "positive": random.abs(),
                    "mixed": random,
                    "negative": -random.abs(),
                    "zeros": torch.where(torch.rand_like(random) < 0.3, 0.0, random),
                    "all zero": torch.zeros_like(random),
                }
                tensor.copy_(kinds[scales])
            else:
                tensor.copy_(random)
    return generator


def inputs_of(spec: GeneratorSpec, count: int = 6) -> tuple[Tensor, ...]:
    z = torch.randn(count, spec.latent_dim, dtype=torch.float64) * 3.0
    return (z, torch.arange(count) % spec.num_classes) if spec.num_classes else (z,)
