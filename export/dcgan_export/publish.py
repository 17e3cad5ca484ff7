"""The straight line from a checkpoint to an artifact: write, load back, compare, and only then give it its name."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dcgan.checkpoint import GeneratorCheckpoint, load_generator
from dcgan.networks import Generator
from dcgan_infer import __version__
from dcgan_infer.contract.errors import ExportError, ParityError
from dcgan_infer.contract.files import make_folder, replacing, sha256_of
from dcgan_infer.contract.spec import (
    OPTIMIZE_KEY,
    PRECISION_KEY,
    RECIPE_KEY,
    SPEC_KEY,
    VERSIONS_KEY,
    WEIGHTS_SHA256_KEY,
    Activation,
)
from dcgan_infer.contract.tolerance import TOLERANCES

from . import exact, formats, parity
from .fuse import fuse
from .golden import make_golden
from .parity_report import ParityReport
from .vectors import write_vectors


@dataclass(frozen=True)
class Artifact:
    """A file that was published.

    Attributes:
        path: of the file.
        format: name of its format.
        optimize: one of `formats.OPTIMIZATIONS`.
        variant: of an ONNX file.
        sha256: hexadecimal digest of its bytes.
        size: in bytes.
        metadata: that it carries.
        report: the proof.
    """

    path: Path
    format: str
    optimize: str
    variant: formats.Variant
    sha256: str
    size: int
    metadata: dict[str, str]
    report: ParityReport

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "file": str(self.path),
            "format": self.format,
            "optimize": self.optimize,
            "precision": self.variant.precision,
            "image": self.variant.image,
            "inputs": self.variant.inputs,
            "sha256": self.sha256,
            "bytes": self.size,
            "metadata": self.metadata,
            "parity": self.report.as_dict(),
        }


def publish(
    checkpoint: Path,
    path: Path,
    format_name: str = "onnx",
    opset: int | None = None,
    optimize: str | None = None,
    precision: str = "fp32",
    image: str = "float",
    inputs: str = "z",
    activation: Activation | None = None,
    report_path: Path | None = None,
    golden_path: Path | None = None,
    vectors_path: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Artifact:
    """Export a checkpoint, and prove the artifact equal to it before anybody can see it.

    Args:
        checkpoint: to read, see `dcgan.checkpoint.load_generator`.
        path: to write to; an older file stays as it is unless the new one passes.
        format_name: one of `formats.FORMATS`.
        opset: of an ONNX file; None for the default.
        optimize: one of `formats.OPTIMIZATIONS`; None for the format's default.
        precision: of an ONNX file, one of `formats.PRECISIONS`.
        image: of an ONNX file, one of `formats.IMAGES`.
        inputs: of an ONNX file, one of `formats.INPUTS`.
        activation: of a `.pt` checkpoint, which does not say.
        report_path: to write the figures to as JSON, whether they pass or not.
        golden_path: to write golden vectors to, see `dcgan_infer.contract.golden`; only when the artifact passes.
        vectors_path: folder to write test vectors to, see `dcgan_export.vectors`; likewise.
        say: told what is being done, in a few words.
    Raises:
        CheckpointError: the checkpoint is unreadable.
        ExportError: the artifact can't be written as asked.
        ParityError: the artifact is not equal to the checkpoint; its `report` has the figures.
        OutputError: `path`, `report_path`, `golden_path` or `vectors_path` can't be written.
    """
    form = formats.find(format_name)
    optimize = form.optimize if optimize is None else optimize
    variant = formats.Variant(opset, precision, image, inputs)
    for what, name, names in (
        ("optimization", optimize, formats.OPTIMIZATIONS),
        ("precision", precision, formats.PRECISIONS),
        ("kind of image", image, formats.IMAGES),
        ("kind of inputs", inputs, formats.INPUTS),
    ):
        if name not in names:
            raise ExportError(f"unknown {what} {name!r}; choose from {', '.join(names)}")
    if variant != formats.USUAL and not form.has_variants:
        raise ExportError(
            f"{form.name} has no opsets, precisions, other images or inputs; leave these out, or export onnx"
        )
    if precision == "int8" and optimize != "fused":
        raise ExportError("int8 needs the fused form: no runtime has transposed convolutions in int8")
    taken = {checkpoint.resolve(): "the checkpoint", path.resolve(): "the artifact"}
    if len(taken) == 1:
        raise ExportError(f"{path} is the checkpoint itself; choose another --out")
    for option, other in (("--report", report_path), ("--golden", golden_path)):
        if other is not None and other.resolve() in taken:
            raise ExportError(f"{option} {other} would overwrite {taken[other.resolve()]}; choose another name")
        if other is not None:
            taken[other.resolve()] = f"the file of {option}"
    with _report(report_path) as figures, contextlib.ExitStack() as beside:
        golden = None if golden_path is None else beside.enter_context(replacing(golden_path))
        # Opened before the slow work, so that a folder that can't be written to is said at once.
        if vectors_path is not None:
            make_folder(vectors_path)
        with replacing(path) as temporary:
            say(f"reading {checkpoint}")
            source = load_generator(checkpoint, activation)
            module = form.load_module()
            metadata = _metadata(source, module.PACKAGES, optimize, variant)
            spec = source.generator.spec
            say("running the checkpoint in float64")
            probes = exact.make_probes(source.generator, spec)
            say(f"writing {form.name}")
            module.write(_prepared(source.generator, optimize, precision), spec, temporary, metadata, variant)
            say("comparing the artifact with the checkpoint")
            tolerance = TOLERANCES[precision]
            grey = image == "uint8"
            tolerance = tolerance.for_grey_levels() if grey else tolerance
            report = parity.compare(module.load(temporary), probes, tolerance, grey)
            if inputs == "seed":
                from .onnx_file import load_seeded  # needs onnx, which other formats do not

                report += parity.compare_seeded(load_seeded(temporary), source.generator, spec, tolerance, grey)
            figures |= {
                "format": form.name,
                "optimize": optimize,
                "precision": precision,
                "metadata": metadata,
                "parity": report.as_dict(),
            }
            if not report.passed:
                more = f" (and {len(report.reasons) - 1} more)" if len(report.reasons) > 1 else ""
                # A right file of a network that can't bear so few bits looks the same as a wrong one.
                advice = (
                    ""
                    if precision == "fp32"
                    else "; this network may need more bits: export a file alone, with --precision fp32"
                )
                raise ParityError(
                    f"the {form.name} artifact is not equal to {checkpoint}, {path.name} was not written: "
                    f"{report.reasons[0]}{more}{advice}",
                    report,
                )
            if golden is not None:
                golden.write_bytes(make_golden(source).to_bytes())
            if vectors_path is not None:
                write_vectors(source, vectors_path)
        artifact = Artifact(path, form.name, optimize, variant, sha256_of(path), path.stat().st_size, metadata, report)
        figures |= artifact.as_dict()
    return artifact


@contextlib.contextmanager
def _report(path: Path | None) -> Iterator[dict[str, Any]]:
    """A dict to fill with figures, written as JSON at the end, and after a failed comparison too."""
    figures: dict[str, Any] = {}
    if path is None:
        yield figures
        return
    failure = None
    with replacing(path) as temporary:
        try:
            yield figures
        except ParityError as error:
            failure = error
        temporary.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if failure is not None:
        raise failure


def _prepared(generator: Generator, optimize: str, precision: str) -> nn.Module:
    """The generator in the form that is written."""
    if precision == "int8":
        from .quantize import quantizable  # needs onnx, which other formats do not

        return quantizable(generator)
    return fuse(generator) if optimize == "fused" else generator


def _metadata(
    checkpoint: GeneratorCheckpoint, packages: tuple[str, ...], optimize: str, variant: formats.Variant
) -> dict[str, str]:
    versions = [("dcgan-toolkit", __version__), *((name, importlib.metadata.version(name)) for name in packages)]
    return {
        SPEC_KEY: checkpoint.generator.spec.to_json(),
        RECIPE_KEY: checkpoint.recipe,
        WEIGHTS_SHA256_KEY: checkpoint.weights_sha256,
        OPTIMIZE_KEY: optimize,
        PRECISION_KEY: variant.precision,
        VERSIONS_KEY: ", ".join(f"{name} {version}" for name, version in versions),
    }
