"""The straight line from a checkpoint to an artifact: write, load back, compare, and only then give it its name."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from dcgan.checkpoint import GeneratorCheckpoint
from dcgan.torch_state import our_settings
from dcgan_infer import __version__
from dcgan_infer.contract.errors import ExportError, ParityError
from dcgan_infer.contract.files import make_folder, replacing, sha256_of
from dcgan_infer.contract.spec import (
    MULTIPLY_ADDS_KEY,
    OPTIMIZE_KEY,
    PRECISION_KEY,
    RECIPE_KEY,
    SOURCE_KEY,
    SPEC_KEY,
    VERSIONS_KEY,
    WEIGHTS_SHA256_KEY,
    GeneratorSpec,
)

from . import exact, parity
from .formats import FORMATS, Variant
from .fuse import fuse
from .golden import make_golden
from .parity_report import ParityReport
from .quantizable import quantizable
from .stages import UnfusableError
from .vectors import write_vectors


@dataclass(frozen=True)
class Artifact:
    """A file that was published.

    Attributes:
        path: of the file.
        variant: what it is, settled.
        sha256: hexadecimal digest of its bytes.
        size: in bytes.
        metadata: that it carries.
        report: the proof.
        spec: of the generator.
    """

    path: Path
    variant: Variant
    sha256: str
    size: int
    metadata: dict[str, str]
    report: ParityReport
    spec: GeneratorSpec

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "file": str(self.path),
            **_described(self.variant),
            "sha256": self.sha256,
            "bytes": self.size,
            "metadata": self.metadata,
            "parity": self.report.as_dict(),
        }


@dataclass(frozen=True)
class Beside:
    """What is written beside an artifact.

    Attributes:
        report: file of the figures as JSON, whether they pass or not.
        golden: file of golden vectors, see `dcgan_infer.contract.golden`; only when the artifact passes.
        vectors: folder of test vectors, see `dcgan_export.vectors`; likewise.
    """

    report: Path | None = None
    golden: Path | None = None
    vectors: Path | None = None


@our_settings()
def publish(
    source: GeneratorCheckpoint,
    path: Path,
    variant: Variant = Variant(),
    beside: Beside = Beside(),
    say: Callable[[str], None] = lambda _: None,
) -> Artifact:
    """Export a generator, and prove the artifact equal to it before anybody can see it.

    Args:
        source: what `dcgan.checkpoint.load_generator` read.
        path: to write to; an older file stays as it is unless the new one passes.
        variant: what to write. Without a choice of `optimize`, what is not a chain of known layers is written as it is.
        beside: what else to write.
        say: told what is being done, in a few words.
    Raises:
        ExportError: the artifact can't be written as asked.
        ParityError: the artifact is not equal to the checkpoint; its `report` has the figures.
        CheckpointError: the checkpoint gives images that are not finite.
        OutputError: a path can't be written to.
    """
    _refuse_collisions(source, path, beside)
    variant, generator = _prepared(source, variant)
    form = FORMATS[variant.format]
    spec = source.spec
    with _report(beside.report) as figures, contextlib.ExitStack() as files:
        golden = None if beside.golden is None else files.enter_context(replacing(beside.golden))
        # Opened before the slow work, so that a folder that can't be written to is said at once.
        if beside.vectors is not None:
            make_folder(beside.vectors)
        with replacing(path) as temporary:
            module = form.load_module()
            metadata = _metadata(source, module.PACKAGES, variant)
            say("running the checkpoint in float64")
            probes = exact.make_probes(source.module, spec)
            say(f"writing {form.name}")
            module.write(generator, spec, temporary, metadata, variant)
            say("comparing the artifact with the checkpoint")
            report = parity.compare(module.load(temporary), probes, spec, variant)
            if variant.inputs == "seed":
                from .onnx_file import load_seeded  # needs onnx, which other formats do not

                report += parity.compare_seeded(load_seeded(temporary), source.module, spec, variant)
            figures |= {**_described(variant), "metadata": metadata, "parity": report.as_dict()}
            if not report.passed:
                more = f" (and {len(report.reasons) - 1} more)" if len(report.reasons) > 1 else ""
                # A right file of a network that can't bear so few bits looks the same as a wrong one.
                advice = "" if variant.precision == "fp32" else "; this network may need more bits: --precision fp32"
                if variant.optimize == "vnni":
                    advice += ", or no --optimize vnni"
                raise ParityError(
                    f"the {form.name} artifact is not equal to {source.path or 'the checkpoint'}, {path.name} was not "
                    f"written: {report.reasons[0]}{more}{advice}",
                    report,
                )
            if golden is not None:
                golden.write_bytes(make_golden(source).to_bytes())
            if beside.vectors is not None:
                write_vectors(source, beside.vectors)
        artifact = Artifact(path, variant, sha256_of(path), path.stat().st_size, metadata, report, spec)
        figures |= artifact.as_dict()
    return artifact


def _refuse_collisions(source: GeneratorCheckpoint, path: Path, beside: Beside) -> None:
    """No file may be written over another one that is read or written in the same breath."""
    taken = {} if source.path is None else {source.path.resolve(): "the checkpoint"}
    for what, file in (("--out", path), ("--report", beside.report), ("--golden", beside.golden)):
        if file is None:
            continue
        if file.resolve() in taken:
            raise ExportError(f"{what} {file} would overwrite {taken[file.resolve()]}; choose another name")
        taken[file.resolve()] = f"the file of {what}"


def _described(variant: Variant) -> dict[str, Any]:
    names = ("format", "optimize", "precision", "image", "inputs")
    return {name: getattr(variant, name) for name in names}


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


def _prepared(source: GeneratorCheckpoint, variant: Variant) -> tuple[Variant, nn.Module]:
    """The settled variant, and the generator in the form that is written."""
    settled = variant.settled()
    try:
        if source.chain is None:
            advice = "take precision fp16 or fp32" if variant.precision == "int8" else "leave optimize fused out"
            raise UnfusableError(f"this module is no chain of known layers, which could be rewritten; {advice}")
        if settled.precision == "int8":
            return settled, quantizable(source.chain)
        if settled.optimize == "fused":
            return settled, fuse(source.chain)
    except UnfusableError:
        if variant.precision == "int8" or variant.optimize == "fused":
            raise
    return replace(settled, optimize="none"), source.module


def _metadata(source: GeneratorCheckpoint, packages: tuple[str, ...], variant: Variant) -> dict[str, str]:
    versions = [("dcgan-toolkit", __version__), *((name, importlib.metadata.version(name)) for name in packages)]
    known = {
        RECIPE_KEY: source.recipe,
        SOURCE_KEY: source.source,
        MULTIPLY_ADDS_KEY: str(source.spec.multiply_adds or ""),
    }
    return {
        SPEC_KEY: source.spec.to_json(),
        WEIGHTS_SHA256_KEY: source.weights_sha256,
        OPTIMIZE_KEY: str(variant.optimize),
        PRECISION_KEY: variant.precision,
        VERSIONS_KEY: ", ".join(f"{name} {version}" for name, version in versions),
        **{key: text for key, text in known.items() if text},
    }
