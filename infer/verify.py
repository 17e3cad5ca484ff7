"""Whether an ONNX file is the model it should be: its bytes, its spec, its operators, and what it makes.

The yardstick is a golden file (dcgan/golden.py): latents, and the images that the checkpoint makes of them in float64.
What a model may be off by is what export allowed when it published it, dcgan/tolerance.py. Every comparison is written
so that a NaN fails it. No torch, no onnx: whoever can run the model can verify it.
"""

from __future__ import annotations

import hashlib
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dcgan import runtime, shipped
from dcgan.errors import LatentError, ModelError, first_line
from dcgan.golden import BATCHES, COUNT, SEED, START, SUFFIX, Golden, parse_golden
from dcgan.images import to_uint8
from dcgan.latents import latents
from dcgan.spec import PRECISION_KEY, WEIGHTS_SHA256_KEY, GeneratorSpec
from dcgan.tolerance import TOLERANCES, Tolerance

from .onnx_outline import FLOAT16, INT8, STANDARD_DOMAINS, read_outline
from .request import BATCH_SIZE
from .session import find_model

MANIFEST = "SHA256SUMS"
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
_IDENTIFY = ("integrity", "golden", "against")  # checks that say which model it is
WIDTH = 80  # of the table
N = 64  # images that two models are compared on

_Floats = npt.NDArray[np.float32]
_Bytes = npt.NDArray[np.uint8]
_Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Difference:
    """How far a model's images are from others. Errors are absolute, in units of the value range [-1, 1].

    Attributes:
        images: number of images compared.
        max_error: largest difference; None where grey levels are all there is.
        limit: for `max_error`; None where only grey levels are judged.
        mean_error: mean of the differences; None where grey levels are all there is.
        max_levels: grey levels that the worst pixel is off by; 255 where a value is not finite.
        levels_limit: for `max_levels`.
        mean_levels: grey levels that pixels are off by on average.
        mean_levels_limit: for `mean_levels`.
        pixels: number of pixels compared.
        pixels_off: how many have another grey level, or none.
        not_finite: how many values are NaN or infinite.
        psnr: peak signal-to-noise ratio in dB, with the range of values, or of grey levels, as peak; infinite when
            equal.
    """

    images: int
    max_error: float | None
    limit: float | None
    mean_error: float | None
    max_levels: int
    levels_limit: int
    mean_levels: float
    mean_levels_limit: float
    pixels: int
    pixels_off: int
    not_finite: int
    psnr: float

    def reasons(self) -> list[str]:
        """Why the difference is too large; empty when it is not."""
        reasons = []
        if self.not_finite:
            reasons.append(f"{self.not_finite} of {self.pixels} values are NaN or infinite")
        # `not (a <= b)` where `a > b` would do for numbers: a NaN must not slip through.
        if self.max_error is not None and self.limit is not None and not (self.max_error <= self.limit):
            reasons.append(f"off by {self.max_error:.2e}, the limit is {self.limit:.2e}")
        if not (self.max_levels <= self.levels_limit):
            reasons.append(f"a pixel is off by {self.max_levels} grey levels, the limit is {self.levels_limit}")
        if not (self.mean_levels <= self.mean_levels_limit):
            reasons.append(
                f"pixels are off by {self.mean_levels:.3f} grey levels on average, "
                f"the limit is {self.mean_levels_limit:g}"
            )
        return reasons


@dataclass(frozen=True)
class Check:
    """One question, and what came out.

    Attributes:
        name: `integrity`, `spec`, `operators`, `golden` or `against`.
        outcome: `passed`, `failed` or `skipped`.
        detail: what was found, in a line; of a failed or skipped check why.
        figures: what was found, by name.
        difference: of images, where some were compared.
    """

    name: str
    outcome: str
    detail: str
    figures: dict[str, Any] = field(default_factory=dict)
    difference: Difference | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is no finite number is None."""
        figures = self.figures | (asdict(self.difference) if self.difference else {})
        return {
            "name": self.name,
            "outcome": self.outcome,
            "detail": self.detail,
            "figures": {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in figures.items()
            },
        }


@dataclass(frozen=True)
class VerifyReport:
    """What was checked of a model, and what came out.

    Attributes:
        model: path of the file.
        sha256: hexadecimal digest of its bytes.
        size: in bytes.
        runtime_version: of the onnxruntime that ran it.
        checks: in the order of the questions.
    """

    model: Path
    sha256: str
    size: int
    runtime_version: str
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome == FAILED)

    @property
    def identified(self) -> bool:
        """Whether the model was held against anything: its bytes, golden vectors, or another model."""
        return any(check.outcome == PASSED for check in self.checks if check.name in _IDENTIFY)

    @property
    def passed(self) -> bool:
        """Whether none failed, and at least one says which model it is; others may have been skipped."""
        return not self.failed and self.identified

    @property
    def verdict(self) -> str:
        """The last line: it claims what was checked, and no more."""
        count = {name: sum(check.outcome == name for check in self.checks) for name in (PASSED, FAILED, SKIPPED)}
        skipped = f", {count[SKIPPED]} skipped" if count[SKIPPED] else ""
        if not self.failed and not self.identified:
            return "NOT verified: held against nothing; give --sha256, --golden or --against"
        if not self.passed:
            return f"NOT verified: {count[FAILED]} failed, {count[PASSED]} passed{skipped}"
        unequal = (
            ""
            if any(check.name == "golden" and check.outcome == PASSED for check in self.checks)
            else ("; not compared with a checkpoint")
        )
        return f"verified: {count[PASSED]} check{'s' * (count[PASSED] != 1)} passed{skipped}{unequal}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": str(self.model),
            "sha256": self.sha256,
            "bytes": self.size,
            "onnxruntime": self.runtime_version,
            "passed": self.passed,
            "verdict": self.verdict,
            "checks": [check.as_dict() for check in self.checks],
        }

    def table(self) -> str:
        """For people, at most `WIDTH` columns wide: a line a check, a column of figures a comparison, the verdict."""
        wrap = textwrap.TextWrapper(WIDTH, break_on_hyphens=False)
        lines = [*wrap.wrap(f"{self.model} ({self.size:,} bytes)"), f"sha256 {self.sha256}", ""]
        for check in self.checks:
            outcome = check.outcome.upper() if check.outcome == FAILED else check.outcome
            wrap.initial_indent = f"{outcome:<9}{check.name:<11}"
            wrap.subsequent_indent = " " * len(wrap.initial_indent)
            lines += wrap.wrap(check.detail)
        compared = [check for check in self.checks if check.difference is not None]
        if compared:
            lines += ["", *_figures(compared)]
        return "\n".join([*lines, "", self.verdict])


def _figures(checks: Iterable[Check]) -> list[str]:
    columns = [(check.name, check.difference) for check in checks if check.difference is not None]
    rows: tuple[tuple[str, Callable[[Difference], str]], ...] = (
        ("images compared", lambda row: f"{row.images}"),
        ("max error", lambda row: _scientific(row.max_error)),
        ("  limit", lambda row: _scientific(row.limit)),
        ("mean error", lambda row: _scientific(row.mean_error)),
        ("grey levels off, the worst pixel", lambda row: f"{row.max_levels}"),
        ("  limit", lambda row: f"{row.levels_limit}"),
        ("grey levels off on average", lambda row: f"{row.mean_levels:.2e}"),
        ("  limit", lambda row: f"{row.mean_levels_limit:.2e}"),
        ("pixels with another grey level", lambda row: f"{row.pixels_off} of {row.pixels}"),
        ("PSNR", lambda row: f"{row.psnr:.1f} dB"),
    )
    lines = [f"{'':<36}" + "".join(f"{name:>20}" for name, _ in columns)]
    for label, cell in rows:
        lines.append(f"{label:<36}" + "".join(f"{cell(difference):>20}" for _, difference in columns))
    return lines


def _scientific(number: float | None) -> str:
    return "-" if number is None else f"{number:.2e}"


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
            self._spec = runtime.spec_of(self._session)
        except ModelError as error:
            self.problem = str(error)

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

    def images(self, z: _Floats, label: _Labels | None, sizes: Sequence[int]) -> _Floats | _Bytes:
        """Run the model in batches of these sizes.

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
            inputs: dict[str, Any] = {"z": z[first : first + size]}
            if label is not None:
                inputs["label"] = label[first : first + size]
            try:
                (images,) = self._session.run([output.name], inputs)
            except Exception as error:  # onnxruntime's exceptions have no common base below Exception
                raise ModelError(f"it does not run on a batch of {size}: {runtime.reason(error)}") from error
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
        images = subject.images(golden.z, golden.label, BATCHES)
    except ModelError as error:
        return Check("golden", FAILED, str(error), figures)
    right = golden.image_uint8 if images.dtype == np.uint8 else golden.image
    difference = _compare(
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
        made += (each.images(z, label, sizes) for each in (subject, other))
    except ModelError as error:
        return Check("against", FAILED, f"{(subject, other)[len(made)].path.name}: {error}", figures)
    if made[0].dtype != made[1].dtype:  # one of them gives grey levels
        made = [_levels_of(images) for images in made]
    # How exact float32 is depends on the weights, and only a golden file says. Each model may be off by its own limit,
    # and in opposite directions: right ones, fused and plain, were at 1.1 of a single limit.
    eager = None if vectors is None else vectors.golden.eager_max_error
    limit = None if eager is None else sum(each.limit(eager) for each in tolerances)
    both = replace(
        tolerances[0],
        levels=min(255, sum(each.levels for each in tolerances)),
        mean_levels=sum(each.mean_levels for each in tolerances),
    )
    difference = _compare(made[0], made[1], limit, both)
    notes = [] if difference.limit is not None else ["only grey levels are judged"]
    if subject.metadata.get(WEIGHTS_SHA256_KEY) != other.metadata.get(WEIGHTS_SHA256_KEY):
        notes.append("their metadata name other weights")
    reasons = difference.reasons()
    detail = reasons or [f"as {other.path.name} on {n} latents of seed {seed}"]
    return Check("against", FAILED if reasons else PASSED, "; ".join([*detail, *notes]), figures, difference)


def _levels_of(images: _Floats | _Bytes) -> _Bytes:
    """Grey levels, uint8 of shape (N, H, W)."""
    return cast(_Bytes, images) if images.dtype == np.uint8 else to_uint8(cast(_Floats, images)[:, 0])


def _compare(
    images: _Floats | _Bytes,
    right: _Floats | _Bytes,
    limit: float | None,
    tolerance: Tolerance,
    right_levels: _Bytes | None = None,
) -> Difference:
    """Hold images against others of the same type.

    Args:
        images: float32, shape (N, 1, H, W), or uint8, shape (N, H, W).
        right: of the same type and shape.
        limit: for the largest difference of floats; None judges grey levels only.
        tolerance: for grey levels.
        right_levels: grey levels of `right`, where they were rounded from more digits than `right` has.
    """
    floats = images.dtype != np.uint8
    finite = np.isfinite(images) & np.isfinite(right)
    with np.errstate(invalid="ignore"):  # infinity less infinity is a NaN, and judged as one
        error = np.abs(images.astype(np.float64) - right)
    images, right = images.copy(), right.copy()
    images[~finite] = right[~finite] = 0
    mine, theirs = _levels_of(images), _levels_of(right) if right_levels is None else right_levels
    levels = np.abs(mine.astype(int) - theirs)
    levels[~finite.reshape(levels.shape)] = 255
    return Difference(
        images=len(images),
        max_error=float(error.max()) if floats else None,
        limit=limit if floats else None,
        mean_error=float(error.mean()) if floats else None,
        max_levels=int(levels.max()),
        levels_limit=tolerance.levels,
        mean_levels=float(levels.mean()),
        mean_levels_limit=tolerance.mean_levels,
        pixels=images.size,
        pixels_off=int(np.count_nonzero(levels)),
        not_finite=int(np.count_nonzero(~finite)),
        psnr=_psnr(error, 2.0 if floats else 255.0),
    )


def _psnr(error: npt.NDArray[np.float64], peak: float) -> float:
    power = float(np.mean(error**2))
    if power == 0.0:
        return math.inf
    return 10.0 * math.log10(peak * peak / power) if math.isfinite(power) else math.nan
