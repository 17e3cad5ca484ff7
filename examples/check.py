"""Every example against the test vectors, host by host and model by model.

    python examples/check.py

Exports the models in the forms that a host may take, builds what has to be built, lets each example make the digits of
each test vector, and compares. A host is a program of this form, whatever it is written in:

    COMMAND MODEL --seed S --n N [--label=0,1,...] --out FILE    what the model gives for images 0 to N - 1 of the seed
    COMMAND latents --seed S --n N --out FILE                    the latents alone, float32 (N, 100)

FILE holds the bare numbers, little-endian and row by row: float32 (N, 1, 28, 28) or uint8 (N, 28, 28), as the model
gives them. If its name ends in .pgm it is a picture of the images, ten a row. For `--speed` a host takes `--threads T
--repeat R` too, and prints `K images/s`. To add a host, write a function that makes it ready and gives its command, and
put it into `HOSTS`.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from dcgan_infer.commands import Command
from dcgan_infer.contract.files import replacing
from dcgan_infer.contract.tolerance import LATENT_TOLERANCE, LEVEL, TOLERANCES
from dcgan_infer.contract.vectors import Case, read_vectors

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "examples" / "vectors"
MODELS = ("dcgan-mnist-conditional", "dcgan-mnist")
WORK = ROOT / "build" / "examples"
TIMEOUT = 300  # seconds for one run of an example; they take one, or a few
FLOAT_LIMIT = 1e-4  # of fp32 images, value range [-1, 1]: runtimes sum in different orders; found 1e-5 at most
Array = npt.NDArray[Any]
Pairs = Sequence[tuple[Array, Array]]  # found, and right


class UnavailableError(Exception):
    """A host can't be had on this machine; the text says why."""


class HostError(Exception):
    """A host is there, and does not do what it should; the text says what."""


@dataclass(frozen=True)
class Host:
    """A place where a model runs.

    Attributes:
        name: what the options call it.
        prepare: makes it ready, with a folder of its own for what it builds, and gives the start of its command line.
            Raises `UnavailableError` where the machine lacks something, and `HostError` where the example is at fault.
        suffix: of the model files that it takes.
        without: names of variants that it can't take, or "picture", "latents" or "graph-latents" where it has none.
        timed: whether it knows `--threads` and `--repeat`.
    """

    name: str
    prepare: Callable[[Path], list[str]]
    suffix: str = ".onnx"
    without: tuple[str, ...] = ()
    timed: bool = True


@dataclass(frozen=True)
class Variant:
    """A form of a model.

    Attributes:
        name: in the table.
        options: of `dcgan_export.publish.publish`; none for the file that ships with the project.
        suffix: of the file.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ".onnx"

    @property
    def precision(self) -> str:
        return str(self.options.get("precision", "fp32"))

    @property
    def grey_levels(self) -> bool:
        return self.options.get("image") == "uint8"


VARIANTS = (
    Variant("fp32"),
    Variant("fp32-uint8", {"image": "uint8"}),
    Variant("fp16", {"precision": "fp16"}),
    Variant("int8-uint8", {"precision": "int8", "image": "uint8"}),
    Variant("seed", {"inputs": "seed", "image": "uint8"}),
    Variant("seed-int8", {"inputs": "seed", "precision": "int8", "image": "uint8"}),
    Variant("torchscript", {"format_name": "torchscript"}, ".pt"),
)
# Checked beside the forms of a model: a picture, and latents alone, made by the host's own code and inside the graph of
# a model that takes a seed.
PICTURE, LATENTS, GRAPH_LATENTS = "picture", "latents", "graph-latents"


@dataclass(frozen=True)
class Figure:
    """Something measured, and what it may be."""

    what: str
    value: float
    limit: float
    unit: str

    def holds(self) -> bool:
        return self.value <= self.limit  # of a NaN, no

    def __str__(self) -> str:
        return f"{self.what} {self.value:.3g}{self.unit} (limit {self.limit:.2g})"


@dataclass(frozen=True)
class Row:
    """A host, a model, a variant, and what came of it.

    Attributes:
        figures: the worst over the test vectors.
        note: what else there is to say; the failure, when there are no figures.
    """

    host: str
    model: str
    variant: str
    figures: tuple[Figure, ...]
    note: str = ""

    @property
    def passed(self) -> bool:
        return bool(self.figures) and all(figure.holds() for figure in self.figures)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN."""
        figures = [asdict(each) | {"value": each.value if math.isfinite(each.value) else None} for each in self.figures]
        return asdict(self) | {"figures": figures, "passed": self.passed}

    def __str__(self) -> str:
        text = ", ".join([*map(str, self.figures), *([self.note] if self.note else [])])
        return f"{'PASS' if self.passed else 'FAIL'}  {self.host:<10} {self.model:<24} {self.variant:<14} {text}"


def read_cases(name: str) -> Sequence[Case]:
    """The test vectors of a model."""
    return read_vectors(VECTORS / name).cases


def options_of(case: Case) -> list[str]:
    """What asks a host for a test vector."""
    label = [f"--label={','.join(map(str, case.asked))}"] if case.asked else []
    return ["--seed", str(case.seed), "--n", str(case.n), *label]


def run_host(command: Sequence[str], arguments: Sequence[str], out: Path) -> bytes:
    """Let a host write a file; its content.

    Raises:
        HostError: it did not.
    """
    out.unlink(missing_ok=True)
    run_tool([*command, *arguments, "--out", str(out)])
    if not out.exists():
        raise HostError("wrote no file")
    return out.read_bytes()


def numbers(content: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    """Bare numbers of a file.

    Raises:
        HostError: they are more or fewer.
    """
    code = np.dtype(dtype).newbyteorder("<")
    expected = math.prod(shape) * code.itemsize
    if len(content) != expected:
        raise HostError(f"wrote {len(content):,} bytes where {dtype} {shape} are {expected:,}")
    return np.frombuffer(content, code).reshape(shape)


def run_tool(command: Sequence[str]) -> str:
    """Run a program in the project's folder; what it printed.

    Raises:
        HostError: it failed; what it said from its first error on, or else its last line.
    """
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise HostError(f"took longer than {TIMEOUT} s") from None
    if done.returncode:
        text = done.stderr if done.stderr.strip() else done.stdout
        words = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
        start = next((at for at, line in enumerate(words) if "error" in line.lower()), len(words) - 1)
        raise HostError(f"exit status {done.returncode}: {' '.join(words[start:])[:300]}")
    return done.stdout


def check_images(
    host: str, command: Sequence[str], model: str, variant: Variant, file: Path, cases: Sequence[Case], folder: Path
) -> Row:
    """Let a host make the images of all test vectors with a file; its row in the table."""
    pairs, own_pairs = [], []
    try:
        for case in cases:
            right = case.image_uint8 if variant.grey_levels else case.image
            dtype = "uint8" if variant.grey_levels else "float32"
            got = numbers(run_host(command, [str(file), *options_of(case)], folder / "out.raw"), dtype, right.shape)
            pairs.append((got, right))
            if variant.precision == "int8":
                own_pairs.append((got, onnxruntime_images(file, case)))
    except HostError as error:
        return Row(host, model, variant.name, (), str(error))
    return Row(host, model, variant.name, judge(variant, pairs, own_pairs))


def judge(variant: Variant, pairs: Pairs, own: Pairs) -> tuple[Figure, ...]:
    """How far images are off, and may be.

    Args:
        variant: of the model.
        pairs: images found, and exact ones.
        own: of int8, images found, and what onnxruntime in Python makes with the same file.
    """
    tolerance = TOLERANCES[variant.precision]
    if variant.precision == "fp32" and not variant.grey_levels:
        return (Figure("off by", largest(pairs), FLOAT_LIMIT, ""),)
    unit = 1.0 if variant.grey_levels else LEVEL
    mean = sum(difference(*pair).sum() for pair in pairs) / sum(right.size for _, right in pairs) / unit
    figures = (Figure("mean", mean, tolerance.mean_levels, " levels"),)
    if own:  # single pixels of int8 are far off the exact image, in every runtime
        return (Figure("off onnxruntime by", largest(own), 1, " levels"), *figures)
    return (Figure("off by", largest(pairs) / unit, tolerance.levels, " levels"), *figures)


def difference(got: Array, right: Array) -> Array:
    """Absolute differences, in float64: grey levels wrap around."""
    return np.abs(got.astype(np.float64) - right)


def largest(pairs: Pairs) -> float:
    return float(np.max([difference(*pair).max() for pair in pairs]))  # a NaN stays one


def onnxruntime_images(file: Path, case: Case) -> Array:
    """What onnxruntime makes of a test vector here, with the vector's own latents where a file takes any."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    images: Array = session.run(None, case.feeds([value.name for value in session.get_inputs()]))[0]
    return images


def check_latents(host: str, command: Sequence[str], model: str, what: str, cases: Sequence[Case], folder: Path) -> Row:
    """Let a host make the latents of all test vectors; its row in the table.

    `what` is the word latents, or a file that gives latents for a seed.
    """
    pairs = []
    try:
        for case in cases:
            arguments = [what, "--seed", str(case.seed), "--n", str(case.n)]
            content = run_host(command, arguments, folder / "out.raw")
            pairs.append((numbers(content, "float32", case.z.shape), case.z))
    except HostError as error:
        return Row(host, model, variant_of_latents(what), (), str(error))
    equal = sum(np.count_nonzero(got == right) for got, right in pairs)
    note = f"{equal} of {sum(right.size for _, right in pairs)} equal bit for bit"
    return Row(host, model, variant_of_latents(what), (Figure("off by", largest(pairs), LATENT_TOLERANCE, ""),), note)


def check_picture(host: str, command: Sequence[str], model: str, file: Path, case: Case, folder: Path) -> Row:
    """Let a host make a picture of a test vector; its row in the table."""
    columns = 10
    assert case.n % columns == 0
    right = case.image_uint8.reshape(-1, columns, 28, 28).swapaxes(1, 2).reshape(-1, columns * 28)
    header = f"P5 {right.shape[1]} {right.shape[0]} 255\n".encode()
    try:
        content = run_host(command, [str(file), *options_of(case)], folder / "out.pgm")
        if not content.startswith(header):
            raise HostError(f"the picture starts with {content[: len(header)]!r}, expected {header!r}")
        pairs = [(numbers(content[len(header) :], "uint8", right.shape), right)]
    except HostError as error:
        return Row(host, model, PICTURE, (), str(error))
    return Row(host, model, PICTURE, (Figure("off by", largest(pairs), 1, " levels"),))


def variant_of_latents(what: str) -> str:
    return LATENTS if what == LATENTS else GRAPH_LATENTS


def model_file(model: str, variant: Variant, work: Path) -> Path:
    """The file of a model, exported into the work folder unless it is there and newer than what made it."""
    if not variant.options:
        return ROOT / "models" / f"{model}{variant.suffix}"
    file = work / "models" / f"{model}-{variant.name}{variant.suffix}"
    checkpoint = ROOT / "models" / f"{model}.safetensors"
    if is_stale(file, checkpoint):
        from dcgan_export.publish import publish

        click.echo(f"exporting {file.name}", err=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        publish(checkpoint, file, **variant.options)
    return file


def is_stale(file: Path, *made_of: Path) -> bool:
    """Whether a file that `export` made has to be made again."""
    sources = [*made_of, *(ROOT / "dcgan").glob("*.py"), *(ROOT / "export").rglob("*.py")]
    return not file.exists() or file.stat().st_mtime < max(source.stat().st_mtime for source in sources)


def graph_latents_file(seed_model: Path) -> Path:
    """The part of an unconditional seed model that makes latents, as a model of its own."""
    file = seed_model.with_name(f"{GRAPH_LATENTS}.onnx")
    if is_stale(file, seed_model):
        import onnx

        from dcgan_export.seeded import front

        with replacing(file) as temporary:
            temporary.write_bytes(front(onnx.load(seed_model)))
    return file


def tool(name: str) -> str:
    """Where a program is.

    Raises:
        UnavailableError: nowhere.
    """
    path = shutil.which(name)
    if path is None:
        raise UnavailableError(f"no {name} on this machine")
    return path


def needed(command: Sequence[str]) -> None:
    """Run a program that gets what a host needs.

    Raises:
        UnavailableError: it failed.
    """
    try:
        run_tool(command)
    except HostError as error:
        raise UnavailableError(f"{Path(command[0]).name}: {error}") from None


def install(npm: str, folder: Path) -> None:
    """Let npm install what a folder's package.json names."""
    options = ["--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund"]
    needed([npm, "install", "--prefix", str(folder), *options])


def prepare_python(_work: Path) -> list[str]:
    return [sys.executable, str(ROOT / "examples" / "python" / "digits.py")]


def prepare_node(_work: Path) -> list[str]:
    folder = ROOT / "examples" / "node"
    node = tool("node")
    install(tool("npm"), folder)
    return [node, str(folder / "digits.mjs")]


def prepare_cpp_ort(work: Path) -> list[str]:
    cmake = tool("cmake")
    root = os.environ.get("ONNXRUNTIME_ROOT", "")
    if not root and not Path("/usr/include/onnxruntime").exists():
        root = str(work / "onnxruntime")
        script = ROOT / "examples" / "cpp" / "get_onnxruntime.sh"
        needed(["env", f"PYTHON={sys.executable}", str(script), root])
    return build(cmake, work, "digits_ort", f"-DONNXRUNTIME_ROOT={root}")


def prepare_cpp_torch(work: Path) -> list[str]:
    cmake = tool("cmake")
    package = importlib.util.find_spec("torch")
    root = os.environ.get("TORCH_ROOT") or (str(Path(package.origin).parent) if package and package.origin else "")
    return build(cmake, work, "digits_torch", f"-DTORCH_ROOT={root}")


def prepare_browser(work: Path) -> list[str]:
    folder = ROOT / "examples" / "web"
    node, npm = tool("node"), tool("npm")
    chromium = os.environ.get("CHROMIUM") or tool("chromium")
    install(npm, folder)
    site = work / "site"
    if is_stale(site / "model.json", *(ROOT / "infer" / "dcgan_infer" / "web").iterdir()):
        shutil.rmtree(site, ignore_errors=True)
        run_tool([sys.executable, "-m", "dcgan_export", "--target", "web", "--out", str(site)])
    return ["env", f"SITE={site}", f"CHROMIUM={chromium}", node, str(folder / "digits.mjs")]


def build(cmake: str, work: Path, target: str, definition: str) -> list[str]:
    """Build a program of examples/cpp; the command that runs it."""
    tool(os.environ.get("CXX", "c++"))
    (work / "CMakeCache.txt").unlink(missing_ok=True)  # remembers where a library was
    run_tool([cmake, "-S", str(ROOT / "examples" / "cpp"), "-B", str(work), definition])
    if target not in run_tool([cmake, "--build", str(work), "--target", "help"]):
        raise UnavailableError(f"cmake did not find what {target} is built with")
    run_tool([cmake, "--build", str(work), "--target", target])
    return [str(work / target)]


HOSTS = (
    Host("python", prepare_python),
    Host("node", prepare_node),
    Host("cpp-ort", prepare_cpp_ort),
    Host("cpp-torch", prepare_cpp_torch, suffix=".pt"),
    Host("browser", prepare_browser, without=(PICTURE,), timed=False),
)


def check_host(host: Host, command: Sequence[str], work: Path) -> Iterator[Row]:
    """All rows of a host."""
    folder = work / host.name
    for model in MODELS:
        cases = read_cases(model)
        for variant in variants_of(host):
            yield check_images(host.name, command, model, variant, model_file(model, variant, work), cases, folder)
        if PICTURE not in host.without:
            yield check_picture(
                host.name, command, model, model_file(model, variants_of(host)[0], work), cases[0], folder
            )
    # Latents are of the seed alone, the same for all models.
    if LATENTS not in host.without:
        yield check_latents(host.name, command, "", LATENTS, cases, folder)
    if host.suffix == ".onnx" and GRAPH_LATENTS not in host.without:
        seed = next(variant for variant in VARIANTS if variant.name == "seed")
        file = graph_latents_file(model_file(MODELS[-1], seed, work))
        yield check_latents(host.name, command, "", str(file), cases, folder)


def variants_of(host: Host) -> list[Variant]:
    """The forms of a model that a host takes."""
    return [variant for variant in VARIANTS if variant.suffix == host.suffix and variant.name not in host.without]


def time_host(host: Host, command: Sequence[str], work: Path) -> Iterator[str]:
    """How many images a second a host makes with the conditional model, one thread: a line a variant."""
    for variant in variants_of(host):
        file = model_file(MODELS[0], variant, work)
        rates = []
        for n, repeat in ((1, 500), (16, 200)):
            options = ["--n", str(n), "--threads", "1", "--repeat", str(repeat), "--out", str(work / "out.raw")]
            try:
                found = re.search(r"(\d+) images/s", run_tool([*command, str(file), *options]))
            except HostError as error:
                found = None
                click.echo(f"{host.name} {variant.name}: {error}", err=True)
            rates.append(found.group(1) if found else "?")
        yield f"{host.name:<10} {variant.name:<14} {rates[0]:>8} {rates[1]:>8}"


def names_of_hosts(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Read the option `HOST,...`: a Click callback."""
    names = tuple(text.split(",")) if text else ()
    known = [host.name for host in HOSTS]
    if unknown := sorted(set(names) - set(known)):
        raise click.BadParameter(f"{', '.join(unknown)}; choose from {', '.join(known)}.")
    return names


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", callback=names_of_hosts, metavar="HOST,...", help="Check these and no others.")
@click.option("--require", callback=names_of_hosts, metavar="HOST,...", help="Fail where one of these can't be had.")
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    default=WORK,
    help="Folder for models and programs that are made; kept for the next time.  [default: build/examples]",
)
@click.option("--speed", is_flag=True, help="Also say how many images a second each makes, on one thread.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), metavar="FILE", help="Also write it as JSON.")
def main(only: tuple[str, ...], require: tuple[str, ...], work: Path, speed: bool, json_path: Path | None) -> None:
    """Let every example make the digits of the test vectors, and compare.

    A host that this machine can't have is shown as not run. Exit status 1 if a comparison fails, or a host of
    --require is not run.
    """
    work = work.resolve()
    rows: list[Row] = []
    absent: dict[str, str] = {}
    rates: list[str] = []
    for host in (host for host in HOSTS if not only or host.name in only):
        (work / host.name).mkdir(parents=True, exist_ok=True)
        try:
            command = host.prepare(work / host.name)
        except UnavailableError as error:
            absent[host.name] = str(error)
            click.echo(f"----  {host.name:<10} not run: {error}")
            continue
        except HostError as error:
            rows.append(Row(host.name, "", "", (), f"does not build: {error}"))
            click.echo(rows[-1])
            continue
        for row in check_host(host, command, work):
            rows.append(row)
            click.echo(row)
        if speed and host.timed:
            rates += time_host(host, command, work)
    if rates:
        click.echo(f"\nimages a second, one thread, conditional model\n{'':<25} {'batch 1':>8} {'batch 16':>8}")
        click.echo("\n".join(rates))
    failed = sum(not row.passed for row in rows)
    click.echo(f"\n{len(rows) - failed} passed, {failed} failed")
    missing = [name for name in require if not any(row.host == name for row in rows)]
    if unrun := dict.fromkeys([*absent, *missing]):
        click.echo(f"not run: {', '.join(f'{name} (required)' if name in missing else name for name in unrun)}")
    if json_path is not None:
        with replacing(json_path) as temporary:
            result = {"rows": [row.as_dict() for row in rows], "not_run": absent}
            temporary.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    if failed or missing or not rows:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
