"""Whether an ONNX file is the model it should be: its bytes, its spec, its operators, and what it makes.

The yardstick is a golden file (contract/golden.py): latents, and the images that the checkpoint makes of them in
float64. What a model may be off by is what export allowed when it published it, contract/tolerance.py. Every comparison
is written so that a NaN fails it. No torch, no onnx: whoever can run the model can verify it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import runtime, shipped
from .contract.difference import compare_images
from .contract.errors import LatentError, ModelError, first_line, printable
from .contract.files import read_limited
from .contract.golden import BATCHES, COUNT, SEED, START, SUFFIX, Golden, parse_golden
from .contract.latents import latents
from .contract.spec import PRECISION_KEY, WEIGHTS_SHA256_KEY, Interface
from .contract.tolerance import TOLERANCES, Tolerance, tolerance_of
from .manifest import MANIFEST, listed
from .model import BATCH_SIZE, MOST_BYTES, Model, read_model
from .onnx_outline import FLOAT16, INT8, STANDARD_DOMAINS, Outline, read_outline
from .verify_report import FAILED, PASSED, SKIPPED, Check, VerifyReport

_LARGE = 1024  # numbers of a layer; what has fewer may stay in floats
N = 64  # images that two models are compared on


class _Subject:
    """A model that is looked at, whatever state it is in.

    Attributes:
        path: of the file.
        content: its bytes.
        sha256: hexadecimal digest of these.
        outline: what it is made of; None where that can't be read.
        refusal: why it is not opened; empty if it is.
        problem: why it can't be run as its spec says; empty if it can.
    """

    def __init__(self, model: str | Path, provider: str, threads: int) -> None:
        self.path, self.content = read_model(model)
        self.sha256 = hashlib.sha256(self.content).hexdigest()
        self.refusal = self.problem = ""
        self.outline: Outline | None = None
        self._model: Model | None = None
        try:
            self.outline = read_outline(self.content)
            opened = runtime.open_session(self.content, provider, threads)
        except ModelError as error:
            version = runtime.onnxruntime().__version__
            self.refusal = str(error).replace("onnxruntime can't read it", f"onnxruntime {version} does not load it")
            self.problem = self.refusal
            return
        try:
            self._model = Model(opened, self.path, self.content)
        except ModelError as error:
            self.problem = str(error)

    @property
    def model(self) -> Model:
        """Only where there is no `problem`."""
        assert self._model is not None
        return self._model

    @property
    def precision(self) -> str:
        return self.model.metadata.get(PRECISION_KEY, "fp32")

    @property
    def weights_sha256(self) -> str:
        return self.model.metadata.get(WEIGHTS_SHA256_KEY, "")

    @property
    def tolerance(self) -> Tolerance:
        """Of the precision that the metadata names, for values of the model's range and what it gives.

        Raises:
            ModelError: this version does not know it.
        """
        if self.precision not in TOLERANCES:
            raise ModelError(
                f"its precision is {self.precision[:40]!r}, and this version knows {', '.join(TOLERANCES)} only; "
                "upgrade dcgan-toolkit"
            )
        return tolerance_of(self.precision, self.model.spec.value_range, self.model.gives_uint8)

    def images(self, seed: int, n: int, sizes: Sequence[int]) -> npt.NDArray[Any]:
        """Run the model on images 0 to n - 1 of a seed, of the classes i modulo their number.

        Args:
            seed: of the images.
            n: number of images.
            sizes: of the batches, that add up to `n`.
        Returns:
            float32, shape (n, C, H, W); or pictures in uint8.
        Raises:
            ModelError: it does not run, or returns something else.
            LatentError: it takes a seed, and can't make so many.
        """
        model, made, first = self.model, [], 0
        classes = model.spec.num_classes
        if model.takes_seed:  # image i can be had only with all before it
            for size in sizes:
                last = first + size
                made.append(model.run(model.feeds_of_seed(seed, last, range(classes)), last, finite=False)[first:])
                first = last
            return np.concatenate(made)
        whole = model.feeds_of_seed(seed, n, range(classes))
        for size in sizes:
            batch = {name: rows[first : first + size] for name, rows in whole.items()}
            made.append(model.run(batch, size, finite=False))
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
    provider: str = "cpu",
    threads: int | None = None,
) -> VerifyReport:
    """Check that a file is the model it should be.

    Args:
        model: name of a shipped model, or path of an ONNX file.
        golden: file of golden vectors; None takes the one beside the model, of its name, or else the shipped one of its
            weights, if there is one.
        against: another model, by name or path, to compare with on `n` latents of `seed`.
        sha256: hexadecimal digest that the file should have; None looks it up in the SHA256SUMS beside it.
        n: number of images that the two models are compared on, 1 or more.
        seed: of their latents; labels are i modulo the number of classes.
        provider: where the models run: `cpu`, `cuda`, or another as `runtime.open_session` takes them.
        threads: of the CPU provider; None takes the cores this process may use.
    Returns:
        What was checked, and what came out: a model that is damaged or another one is a failed check, no exception.
    Raises:
        ModelError: a file is missing or can't be read, or `golden` is no golden file.
        LatentError: `n` or `seed` is out of range.
        DeviceError: the provider is not installed or does not work here.
        RuntimeMissingError: onnxruntime is missing, broken or installed twice.
    """
    if n < 1:
        raise LatentError(f"n must be 1 or more, found {n}")
    threads = runtime.cores() if threads is None else threads
    vectors = None if golden is None else _Vectors(golden)
    subject = _Subject(model, provider, threads)
    other = None if against is None else _Subject(against, provider, threads)
    version: str = runtime.onnxruntime().__version__
    checks = [_integrity(subject, sha256), _spec(subject), _operators(subject)]
    vectors, lacking = (vectors, "") if vectors else _find(subject)
    checks.append(_golden(subject, vectors, lacking))
    if other is not None:
        checks.append(_against(subject, other, vectors, n, seed))
    # Details quote names out of a file that may be hostile, and go to a terminal.
    plain = (replace(check, detail=printable(check.detail)) for check in checks)
    return VerifyReport(subject.path, subject.sha256, len(subject.content), version, tuple(plain))


class _Vectors:
    """A golden file: what is in it, and its bytes' digest."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                content = read_limited(file, MOST_BYTES)
        except OSError as error:
            raise ModelError(f"can't read golden file {path}: {first_line(error).lower()}") from error
        self.path = path
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.golden: Golden = parse_golden(content, path)


def _integrity(subject: _Subject, expected: str | None) -> Check:
    source = "--sha256"
    if expected is None:
        digests, source = listed(subject.path), f"{MANIFEST} beside it"
        if not digests:
            manifest = subject.path.parent / MANIFEST
            why = f"beside it does not list {subject.path.name}" if manifest.is_file() else "is not beside it"
            return Check(
                "integrity",
                SKIPPED,
                f"{MANIFEST} {why}, so its bytes are compared with nothing; --sha256 compares them",
                {"sha256": subject.sha256, "expected": None},
            )
        expected = next((digest for digest in digests if digest != subject.sha256), subject.sha256)
    expected = expected.lower()
    figures = {"sha256": subject.sha256, "expected": expected}
    if expected != subject.sha256:
        reason = f"sha256 is {subject.sha256[:12]}..., {source} says {expected[:12]}...: changed, or another file"
        return Check("integrity", FAILED, reason, figures)
    return Check("integrity", PASSED, f"sha256 is what {source} says", figures)


def _spec(subject: _Subject) -> Check:
    if subject.problem:
        return Check("spec", FAILED, subject.problem)
    spec = subject.model.spec
    try:
        stored = _stored_precision(subject)
    except ModelError as error:
        return Check("spec", FAILED, str(error))
    if stored != subject.precision:
        # The tolerance follows the precision, so a file must not choose it.
        reason = f"its metadata says {subject.precision[:40]!r}, and its weights are those of {stored}"
        return Check("spec", FAILED, reason)
    classes = f"{spec.num_classes} classes" if spec.num_classes else "unconditional"
    channels, *sides = spec.image_shape
    kind = {1: "grey images", 3: "colour images"}.get(channels, f"images of {channels} channels")
    return Check(
        "spec",
        PASSED,
        f"{spec.latent_dim} latents, {classes}, {kind} of {'x'.join(map(str, sides))}, as its inputs and outputs are",
        {"spec": spec.to_json(), "precision": subject.precision},
    )


def _stored_precision(subject: _Subject) -> str:
    """As what most of the numbers that images are multiplied with are stored, and all large layers but one.

    Raises:
        ModelError: that can't be read from the file.
    """
    assert subject.outline is not None
    weights = subject.outline.weights()
    half = sum(numbers for _, numbers in weights) / 2
    for name, kind in (("int8", INT8), ("fp16", FLOAT16)):
        # Export leaves one large layer in floats, the last, perhaps as its phases, and small ones; a network in floats
        # has more, whatever else stands beside it.
        in_floats = {numbers for stored, numbers in weights if stored != kind and numbers > _LARGE}
        if len(in_floats) <= 1 and sum(numbers for stored, numbers in weights if stored == kind) > half:
            return name
    return "fp32"


def _operators(subject: _Subject) -> Check:
    outline = subject.outline
    if outline is None:
        return Check("operators", FAILED, subject.refusal)
    names = {
        name if domain in STANDARD_DOMAINS else f"{domain}.{name}": count
        for (domain, name), count in outline.operators.items()
    }
    figures = {"ir_version": outline.ir_version, "opsets": outline.opsets, "operators": names}
    if outline.custom:
        reason = f"operators outside of the ONNX standard: {', '.join(outline.custom)[:200]}"
        return Check("operators", FAILED, reason, figures)
    if subject.refusal:
        return Check("operators", FAILED, subject.refusal, figures)
    opsets = ", ".join(
        f"{'' if domain in STANDARD_DOMAINS else domain + ' '}{number}" for domain, number in outline.opsets.items()
    )
    counts = ", ".join(f"{name}:{count}" for name, count in names.items())
    return Check("operators", PASSED, f"IR {outline.ir_version}, opset {opsets}; {counts}", figures)


def _find(subject: _Subject) -> tuple[_Vectors | None, str]:
    """The golden vectors beside a model, or shipped ones of its weights; or why there are none."""
    if subject.problem:
        return None, ""
    broken = ""
    beside = subject.path.with_suffix(SUFFIX)
    shipped_ones = [shipped.path_of(name, SUFFIX) for name in shipped.names(SUFFIX)]
    for path in (*([beside] if beside.exists() else []), *shipped_ones):
        try:
            vectors = _Vectors(path)
        except ModelError as error:
            broken = str(error)
            continue
        # One of that name that is of other weights is compared all the same, and the check says so.
        if path == beside or vectors.golden.weights_sha256 == subject.weights_sha256:
            return vectors, ""
    return None, broken


def _golden(subject: _Subject, vectors: _Vectors | None, broken: str) -> Check:
    if subject.problem:
        return Check("golden", SKIPPED, "the model can't be run as its spec says")
    weights = subject.weights_sha256
    if vectors is None and broken:
        return Check("golden", FAILED, f"no golden file fits, and {broken}")
    if vectors is None:
        named = f"weights {_short(weights)}" if weights else f"a model without {WEIGHTS_SHA256_KEY}"
        return Check(
            "golden",
            SKIPPED,
            f"there is no {subject.path.with_suffix(SUFFIX).name} beside it, and no shipped golden file is of {named}; "
            "export it again (dcgan-export writes one), or give --golden FILE",
        )
    golden = vectors.golden
    figures = {"golden": str(vectors.path), "golden_sha256": vectors.sha256, "precision": subject.precision}
    if any(digest != vectors.sha256 for digest in listed(vectors.path)):
        reason = f"golden file {vectors.path} itself is not what {MANIFEST} beside it says; get it again"
        return Check("golden", FAILED, reason, figures)
    if golden.weights_sha256 != weights:
        reason = f"{vectors.path.name} is of weights {_short(golden.weights_sha256)}, the model of {_short(weights)}"
        return Check("golden", FAILED, reason, figures)
    others = _differing(golden.spec.interface, subject.model.spec.interface)
    if others:
        return Check("golden", FAILED, f"{vectors.path.name} is of another spec than the model's: {others}", figures)
    if not np.array_equal(latents(SEED, START, COUNT, golden.spec.latent_dim).view("u4"), golden.z.view("u4")):
        reason = f"the latents in {vectors.path.name} are not those that are drawn here (docs/contracts.md)"
        return Check("golden", FAILED, reason, figures)
    try:
        tolerance = subject.tolerance
        images = subject.images(SEED, COUNT, BATCHES)
    except ModelError as error:
        return Check("golden", FAILED, str(error), figures)
    limit = tolerance.limit(golden.eager_max_error)
    difference = compare_images(
        images, golden.image, golden.spec.interface, tolerance, limit, right_levels=golden.image_uint8
    )
    reasons = difference.reasons()
    detail = f"{COUNT} images as in {vectors.path.name}, {subject.precision}"
    return Check("golden", FAILED if reasons else PASSED, "; ".join(reasons) or detail, figures, difference)


def _differing(mine: Interface, theirs: Interface) -> str:
    """Names of the fields in which two interfaces differ; empty where they are equal."""
    ours, others = asdict(mine), asdict(theirs)
    return ", ".join(name for name in ours if ours[name] != others[name])


def _short(digest: str) -> str:
    return f"{digest[:12]}..." if digest else "unknown digest"


def _against(subject: _Subject, other: _Subject, vectors: _Vectors | None, n: int, seed: int) -> Check:
    figures: dict[str, Any] = {"against": str(other.path), "against_sha256": other.sha256, "n": n, "seed": seed}
    if subject.problem:
        return Check("against", SKIPPED, "the model can't be run as its spec says", figures)
    if other.problem:
        return Check("against", FAILED, f"{other.path.name}: {other.problem}", figures)
    names = _differing(subject.model.spec.interface, other.model.spec.interface)
    if names:
        return Check("against", FAILED, f"{other.path.name} has another spec: {names}", figures)
    sizes = [min(BATCH_SIZE, n - first) for first in range(0, n, BATCH_SIZE)]
    made: list[npt.NDArray[Any]] = []
    try:
        tolerances = [subject.tolerance, other.tolerance]
        if (stored := _stored_precision(other)) != other.precision:
            reason = f"its metadata says {other.precision[:40]!r}, and its weights are those of {stored}"
            return Check("against", FAILED, f"{other.path.name}: {reason}", figures)
        made += (each.images(seed, n, [n] if each.model.takes_seed else sizes) for each in (subject, other))
    except ModelError as error:
        return Check("against", FAILED, f"{(subject, other)[len(made)].path.name}: {error}", figures)
    # How exact float32 is depends on the weights, and only a golden file says. Each model may be off by its own limit,
    # and in opposite directions: right ones, fused and plain, were at 1.1 of a single limit.
    eager = None if vectors is None else vectors.golden.eager_max_error
    limit = None if eager is None else sum(each.limit(eager) for each in tolerances)
    both = replace(
        tolerances[0],
        levels=min(255, sum(each.levels for each in tolerances)),
        mean_levels=sum(each.mean_levels for each in tolerances),
        image_levels=sum(each.image_levels for each in tolerances),
        mean_share=sum(each.mean_share for each in tolerances),
        image_share=sum(each.image_share for each in tolerances),
    )
    difference = compare_images(made[0], made[1], subject.model.spec.interface, both, limit)
    notes = [] if difference.limit is not None else ["only grey levels are judged"]
    if subject.weights_sha256 != other.weights_sha256:
        notes.append("their metadata name other weights")
    reasons = difference.reasons()
    detail = reasons or [f"as {other.path.name} on {n} latents of seed {seed}"]
    return Check("against", FAILED if reasons else PASSED, "; ".join([*detail, *notes]), figures, difference)
