"""Whether an ONNX file is the model it should be: its bytes, its spec, its operators, and what it makes.

The yardstick is a golden file (contract/golden.py): latents, and the images that the checkpoint makes of them in
float64. What a model may be off by is what export allowed when it published it, contract/tolerance.py. Every comparison
is written so that a NaN fails it. No torch, no onnx: whoever can run the model can verify it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import runtime, shipped
from .contract.difference import compare_images, grey_levels
from .contract.errors import LatentError, ModelError, first_line
from .contract.golden import BATCHES, COUNT, SEED, START, SUFFIX, Golden, parse_golden
from .contract.latents import latents
from .contract.spec import PRECISION_KEY, WEIGHTS_SHA256_KEY, GeneratorSpec
from .contract.tolerance import TOLERANCES, Tolerance
from .onnx_outline import FLOAT16, INT8, STANDARD_DOMAINS, read_outline
from .request import BATCH_SIZE
from .session import find_model
from .verify_report import FAILED, PASSED, SKIPPED, Check, VerifyReport

MANIFEST = "SHA256SUMS"
N = 64  # images that two models are compared on

_Floats = npt.NDArray[np.float32]
_Bytes = npt.NDArray[np.uint8]
_Labels = npt.NDArray[np.int64]


class _Subject:
    """A model that is looked at, whatever state it is in.

    Attributes:
        path: of the file.
        content: its bytes.
        refusal: why onnxruntime does not load it; empty if it does.
        problem: why its spec can't be used; empty if it can.
    """

    def __init__(self, model: str | Path, threads: int) -> None:
        self.path = find_model(model)
        try:
            self.content = self.path.read_bytes()
        except OSError as error:
            raise ModelError(f"can't read model {self.path}: {first_line(error).lower()}") from error
        self.refusal = self.problem = ""
        self._session: Any = None
        self._spec: GeneratorSpec | None = None
        try:
            self._session = runtime.open_session(self.content, "cpu", threads).session
        except ModelError as error:
            self.refusal = str(error).removeprefix("onnxruntime can't read it: ")
            self.problem = f"onnxruntime does not load it: {self.refusal}"
            return
        try:
            self._spec = runtime.spec_of(self._session, seeded=True)
        except ModelError as error:
            self.problem = str(error)

    @cached_property
    def takes_seed(self) -> bool:
        """Only where there is no `problem`: whether it makes its latents itself."""
        return runtime.takes_seed(self._session)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def spec(self) -> GeneratorSpec:
        """Only where there is no `problem`."""
        assert self._spec is not None
        return self._spec

    @cached_property
    def metadata(self) -> dict[str, str]:
        """Only where there is no `problem`: then all of it is text."""
        found: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found

    @property
    def precision(self) -> str:
        return self.metadata.get(PRECISION_KEY, "fp32")

    @property
    def tolerance(self) -> Tolerance:
        """Of the precision that the metadata names.

        Raises:
            ModelError: this version does not know it.
        """
        if self.precision not in TOLERANCES:
            raise ModelError(
                f"its precision is {self.precision[:40]!r}, and this version knows {', '.join(TOLERANCES)} only; "
                "upgrade dcgan-toolkit"
            )
        return TOLERANCES[self.precision]

    def images(self, seed: int, z: _Floats, label: _Labels | None, sizes: Sequence[int]) -> _Floats | _Bytes:
        """Run the model in batches of these sizes.

        Args:
            seed: for a model that takes one; its images from 0 on.
            z: the latents of that.
            label: i modulo the number of classes.
            sizes: that make up all of `z`.
        Returns:
            float32, shape (N, 1, H, W); or uint8, shape (N, H, W).
        Raises:
            ModelError: it does not run, or returns something else.
        """
        (output,) = self._session.get_outputs()
        one = self.spec.image_shape if output.type == "tensor(float)" else self.spec.image_shape[1:]
        dtype = np.float32 if output.type == "tensor(float)" else np.uint8
        made, first = [], 0
        for size in sizes:
            # Image i of a seed can be had only with all before it.
            skipped = first if self.takes_seed else 0
            inputs: dict[str, Any] = {"z": z[first : first + size]}
            if self.takes_seed:
                inputs = {"seed": np.array(seed, np.int64), "n": np.array(first + size, np.int64)}
            if label is not None:
                inputs["label"] = label[: self.spec.num_classes] if self.takes_seed else label[first : first + size]
            try:
                (images,) = self._session.run([output.name], inputs)
            except Exception as error:  # onnxruntime's exceptions have no common base below Exception
                raise ModelError(f"it does not run on a batch of {size}: {runtime.reason(error)}") from error
            if len(images) == skipped + size:
                images = images[skipped:]
            if images.shape != (size, *one) or images.dtype != dtype:
                raise ModelError(
                    f"a batch of {size} should give {np.dtype(dtype)} of shape {(size, *one)}, "
                    f"found {images.dtype} of shape {images.shape}"
                )
            made.append(images)
            first += size
        return np.concatenate(made)


def verify(
    model: str | Path = shipped.DEFAULT,
    golden: Path | None = None,
    *,
    against: str | Path | None = None,
    sha256: str | None = None,
    n: int = N,
    seed: int = 0,
    threads: int | None = None,
) -> VerifyReport:
    """Check that a file is the model it should be.

    Args:
        model: name of a shipped model, or path of an ONNX file.
        golden: file of golden vectors; None takes the shipped one of the model's weights, if there is one.
        against: another model, by name or path, to compare with on `n` latents of `seed`.
        sha256: hexadecimal digest that the file should have; None looks it up in the SHA256SUMS beside it.
        n: number of images that the two models are compared on, 1 or more.
        seed: of their latents; labels are i modulo the number of classes.
        threads: of the CPU provider; None takes the cores this process may use.
    Returns:
        What was checked, and what came out: a model that is damaged or another one is a failed check, no exception.
    Raises:
        ModelError: a file is missing or can't be read, or `golden` is no golden file.
        LatentError: `n` or `seed` is out of range.
        RuntimeMissingError: onnxruntime is missing, broken or installed twice.
    """
    if n < 1:
        raise LatentError(f"n must be 1 or more, found {n}")
    threads = runtime.cores() if threads is None else threads
    vectors = None if golden is None else _Vectors(golden)
    subject = _Subject(model, threads)
    other = None if against is None else _Subject(against, threads)
    version: str = runtime.onnxruntime().__version__
    checks = [_integrity(subject, sha256), _spec(subject), _operators(subject, version)]
    vectors, lacking = (vectors, "") if vectors else _find(subject)
    checks.append(_golden(subject, vectors, lacking))
    if other is not None:
        checks.append(_against(subject, other, vectors, n, seed))
    # Details quote names out of a file that may be hostile, and go to a terminal.
    plain = (replace(check, detail="".join(c if c.isprintable() else "?" for c in check.detail)) for check in checks)
    return VerifyReport(subject.path, subject.sha256, len(subject.content), version, tuple(plain))


class _Vectors:
    """A golden file: what is in it, and its bytes' digest."""

    def __init__(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelError(f"can't read golden file {path}: {first_line(error).lower()}") from error
        self.path = path
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.golden: Golden = parse_golden(content, path)


def _integrity(subject: _Subject, expected: str | None) -> Check:
    source = "--sha256"
    if expected is None:
        listed, source = _listed(subject.path), f"{MANIFEST} beside it"
        if not listed:
            manifest = subject.path.parent / MANIFEST
            why = f"beside it does not list {subject.path.name}" if manifest.is_file() else "is not beside it"
            return Check(
                "integrity",
                SKIPPED,
                f"{MANIFEST} {why}: its bytes are held against nothing; give --sha256",
                {"sha256": subject.sha256, "expected": None},
            )
        expected = next((digest for digest in listed if digest != subject.sha256), subject.sha256)
    expected = expected.lower()
    figures = {"sha256": subject.sha256, "expected": expected}
    if expected != subject.sha256:
        reason = f"sha256 is {subject.sha256[:12]}..., {source} says {expected[:12]}...: changed, or another file"
        return Check("integrity", FAILED, reason, figures)
    return Check("integrity", PASSED, f"sha256 is what {source} says", figures)


def _listed(path: Path) -> list[str]:
    """Digests of a file in the manifest beside it, as sha256sum writes it: digest, space, space or *, name."""
    try:
        text = (path.parent / MANIFEST).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = (re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line) for line in text.splitlines())
    return [line[1].lower() for line in lines if line and line[2] == path.name]


def _spec(subject: _Subject) -> Check:
    if subject.refusal:
        return Check("spec", FAILED, "can't be read: onnxruntime does not load the file, see operators")
    if subject.problem:
        return Check("spec", FAILED, subject.problem)
    spec = subject.spec
    stored = _stored_precision(subject)
    if stored and stored != subject.precision:
        # The tolerance follows the precision, so a file must not choose it.
        reason = f"its metadata says {subject.precision[:40]!r}, and its weights are those of {stored}"
        return Check("spec", FAILED, reason)
    classes = f"{spec.num_classes} classes" if spec.num_classes else "unconditional"
    size = "x".join(map(str, spec.image_shape[1:]))
    return Check(
        "spec",
        PASSED,
        f"{spec.latent_dim} latents, {classes}, images of {size}, as its inputs and outputs are",
        {"spec": spec.to_json(), "precision": subject.precision},
    )


def _stored_precision(subject: _Subject) -> str:
    """The precision that a model's weights are stored in; empty where the file can't be read, see operators."""
    try:
        types = read_outline(subject.content).weight_types
    except ModelError:
        return ""
    return "int8" if INT8 in types else "fp16" if FLOAT16 in types else "fp32"


def _operators(subject: _Subject, version: str) -> Check:
    try:
        outline = read_outline(subject.content)
    except ModelError as error:
        return Check("operators", FAILED, str(error))
    names = {
        name if domain in STANDARD_DOMAINS else f"{domain}.{name}": count
        for (domain, name), count in outline.operators.items()
    }
    figures = {"ir_version": outline.ir_version, "opsets": outline.opsets, "operators": names}
    if outline.custom:
        reason = f"operators outside of the ONNX standard: {', '.join(outline.custom)[:200]}"
        return Check("operators", FAILED, reason, figures)
    if subject.refusal:
        return Check("operators", FAILED, f"onnxruntime {version} does not load it: {subject.refusal}", figures)
    opsets = ", ".join(
        f"{'' if domain in STANDARD_DOMAINS else domain + ' '}{number}" for domain, number in outline.opsets.items()
    )
    counts = ", ".join(f"{name}:{count}" for name, count in names.items())
    return Check("operators", PASSED, f"IR {outline.ir_version}, opset {opsets}; {counts}", figures)


def _find(subject: _Subject) -> tuple[_Vectors | None, str]:
    """The shipped golden vectors of a model's weights; or why there are none: damaged, or empty where none fit."""
    if subject.problem:
        return None, ""
    broken = ""
    for name in shipped.names(SUFFIX):
        try:
            vectors = _Vectors(shipped.path_of(name, SUFFIX))
        except ModelError as error:
            broken = str(error)
            continue
        if vectors.golden.weights_sha256 == subject.metadata.get(WEIGHTS_SHA256_KEY):
            return vectors, ""
    return None, broken


def _golden(subject: _Subject, vectors: _Vectors | None, broken: str) -> Check:
    if subject.problem:
        return Check("golden", SKIPPED, "the model can't be run as its spec says")
    weights = subject.metadata.get(WEIGHTS_SHA256_KEY, "")
    if vectors is None and broken:
        return Check("golden", FAILED, f"no golden file fits, and {broken}")
    if vectors is None:
        named = f"weights {_short(weights)}" if weights else f"a model without {WEIGHTS_SHA256_KEY}"
        return Check(
            "golden",
            SKIPPED,
            f"no shipped golden file is of {named}, so equality is not shown; make one from the checkpoint "
            "(dcgan-export CHECKPOINT --golden FILE) and give --golden FILE",
        )
    golden = vectors.golden
    figures = {"golden": str(vectors.path), "golden_sha256": vectors.sha256, "precision": subject.precision}
    if any(digest != vectors.sha256 for digest in _listed(vectors.path)):
        reason = f"golden file {vectors.path} itself is not what {MANIFEST} beside it says; get it again"
        return Check("golden", FAILED, reason, figures)
    if golden.weights_sha256 != weights:
        reason = f"{vectors.path.name} is of weights {_short(golden.weights_sha256)}, the model of {_short(weights)}"
        return Check("golden", FAILED, reason, figures)
    if golden.spec != subject.spec:
        return Check("golden", FAILED, f"{vectors.path.name} is of another spec than the model's", figures)
    if not np.array_equal(latents(SEED, START, COUNT, golden.spec.latent_dim).view("u4"), golden.z.view("u4")):
        reason = f"the latents in {vectors.path.name} are not those that are drawn here (docs/latents.md)"
        return Check("golden", FAILED, reason, figures)
    try:
        tolerance = subject.tolerance
        images = subject.images(SEED, golden.z, golden.label, BATCHES)
    except ModelError as error:
        return Check("golden", FAILED, str(error), figures)
    right = golden.image_uint8 if images.dtype == np.uint8 else golden.image
    difference = compare_images(
        images, right, tolerance.limit(golden.eager_max_error), tolerance, right_levels=golden.image_uint8
    )
    reasons = difference.reasons()
    detail = f"{COUNT} images as in {vectors.path.name}, {subject.precision}"
    return Check("golden", FAILED if reasons else PASSED, "; ".join(reasons) or detail, figures, difference)


def _short(digest: str) -> str:
    return f"{digest[:12]}..." if digest else "unknown digest"


def _against(subject: _Subject, other: _Subject, vectors: _Vectors | None, n: int, seed: int) -> Check:
    figures: dict[str, Any] = {"against": str(other.path), "against_sha256": other.sha256, "n": n, "seed": seed}
    if subject.problem:
        return Check("against", SKIPPED, "the model can't be run as its spec says", figures)
    if other.problem:
        return Check("against", FAILED, f"{other.path.name}: {other.problem}", figures)
    if subject.spec != other.spec:
        mine, theirs = asdict(subject.spec), asdict(other.spec)
        names = ", ".join(name for name in mine if mine[name] != theirs[name])
        return Check("against", FAILED, f"{other.path.name} has another spec: {names}", figures)
    spec = subject.spec
    z = latents(seed, 0, n, spec.latent_dim)
    label = np.arange(n, dtype=np.int64) % spec.num_classes if spec.num_classes else None
    sizes = [min(BATCH_SIZE, n - first) for first in range(0, n, BATCH_SIZE)]
    made: list[_Floats | _Bytes] = []
    try:
        tolerances = [subject.tolerance, other.tolerance]
        made += (each.images(seed, z, label, [n] if each.takes_seed else sizes) for each in (subject, other))
    except ModelError as error:
        return Check("against", FAILED, f"{(subject, other)[len(made)].path.name}: {error}", figures)
    if made[0].dtype != made[1].dtype:  # one of them gives grey levels
        made = [grey_levels(images) for images in made]
    # How exact float32 is depends on the weights, and only a golden file says. Each model may be off by its own limit,
    # and in opposite directions: right ones, fused and plain, were at 1.1 of a single limit.
    eager = None if vectors is None else vectors.golden.eager_max_error
    limit = None if eager is None else sum(each.limit(eager) for each in tolerances)
    both = replace(
        tolerances[0],
        levels=min(255, sum(each.levels for each in tolerances)),
        mean_levels=sum(each.mean_levels for each in tolerances),
    )
    difference = compare_images(made[0], made[1], limit, both)
    notes = [] if difference.limit is not None else ["only grey levels are judged"]
    if subject.metadata.get(WEIGHTS_SHA256_KEY) != other.metadata.get(WEIGHTS_SHA256_KEY):
        notes.append("their metadata name other weights")
    reasons = difference.reasons()
    detail = reasons or [f"as {other.path.name} on {n} latents of seed {seed}"]
    return Check("against", FAILED if reasons else PASSED, "; ".join([*detail, *notes]), figures, difference)
