"""Every example against the test vectors, host by host and model by model.

    python examples/check.py
    python examples/check.py --model my.onnx --vectors my-vectors     # what dcgan-export --vectors wrote beside it

Exports the models in the forms that a host may take, builds what has to be built, lets each example make the images of
each test vector, and compares. A host is a program of this form, whatever it is written in:

    COMMAND MODEL --seed S --n N [--class=0,1,...] --out FILE     what the model gives for images 0 to N - 1 of the seed
    COMMAND latents --latent-dim D --seed S --n N --out FILE      the latents alone, float32 (N, D)

FILE holds the bare numbers, little-endian and row by row, as the model gives them: float32 (N, C, H, W), or uint8
(N, H, W) in grey and (N, H, W, 3) in colour. If its name ends in .ppm it is a picture of the images, ten a row: PGM in
grey, PPM in colour. For `--speed` a host takes `--threads T --repeat R` too, and prints `K images/s`. To add a host,
write a function that makes it ready and gives its command, and put it into `HOSTS`.
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
from dcgan_infer.contract.pixels import tile
from dcgan_infer.contract.spec import DRAWN, PRECISION_KEY, GeneratorSpec, Interface
from dcgan_infer.contract.tolerance import LATENT_TOLERANCE, TOLERANCES
from dcgan_infer.contract.vectors import INDEX, Case, read_vectors
from dcgan_infer.runtime import onnxruntime

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "examples" / "vectors"
MODELS = ("dcgan-mnist-conditional", "dcgan-mnist")
WORK = ROOT / "build" / "examples"
TIMEOUT = 300  # seconds for one run of an example; they take one, or a few
FLOAT_LIMIT = 0.0128  # levels, of fp32 images: runtimes sum in different orders; 1e-4 of -1 to 1, found 1e-5 at most
COLUMNS = 10  # of a picture
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
        without: names of variants that it can't take, or "picture", "latents" or "graph-latents" where it has none, or
            "home" where others write there.
        timed: whether it knows `--threads` and `--repeat`.
    """

    name: str
    prepare: Callable[[Path], list[str]]
    suffix: str = ".onnx"
    without: tuple[str, ...] = ()
    timed: bool = True


@dataclass(frozen=True)
class Model:
    """A generator, and what is right.

    Attributes:
        name: in the table.
        file: a checkpoint, which is exported in every form; or an ONNX or TorchScript file, which is taken as it is.
        interface: of the generator.
        cases: its test vectors.
    """

    name: str
    file: Path
    interface: Interface
    cases: Sequence[Case]


@dataclass(frozen=True)
class Variant:
    """A form of a model.

    Attributes:
        name: in the table.
        options: of `dcgan_export.formats.Variant`; none for the file beside the checkpoint.
        suffix: of the file.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ".onnx"

    @property
    def precision(self) -> str:
        return str(self.options.get("precision", "fp32"))

    @property
    def uint8(self) -> bool:
        return self.options.get("image") == "uint8"


VARIANTS = (
    Variant("fp32"),
    Variant("fp32-uint8", {"image": "uint8"}),
    Variant("fp16", {"precision": "fp16"}),
    Variant("int8-uint8", {"precision": "int8", "image": "uint8"}),
    Variant("seed", {"inputs": "seed", "image": "uint8"}),
    Variant("seed-int8", {"inputs": "seed", "precision": "int8", "image": "uint8"}),
    Variant("torchscript", {"format": "torchscript"}, ".pt"),
)
# Checked beside the forms of a model: a picture; latents alone, made by the host's own code and inside the graph of a
# model that takes a seed; and what is left in the home of who runs it.
PICTURE, LATENTS, GRAPH_LATENTS, HOME = "picture", "latents", "graph-latents", "home"


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


def read_model(file: Path, vectors: Path) -> Model:
    """A model and its test vectors.

    Raises:
        OSError, ValueError, KeyError: `vectors` holds none, or damaged ones.
    """
    spec = json.loads((vectors / INDEX).read_bytes())["spec"]
    interface = GeneratorSpec.from_json(json.dumps(spec)).interface
    return Model(file.stem, file, interface, read_vectors(vectors).cases)


def shipped(name: str) -> Model:
    """A model of the project."""
    return read_model(ROOT / "models" / f"{name}.safetensors", VECTORS / name)


def options_of(case: Case) -> list[str]:
    """What asks a host for a test vector."""
    asked = [f"--class={','.join(map(str, case.asked))}"] if case.asked else []
    return ["--seed", str(case.seed), "--n", str(case.n), *asked]


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


def check_images(host: str, command: Sequence[str], model: Model, variant: Variant, file: Path, folder: Path) -> Row:
    """Let a host make the images of all test vectors with a file; its row in the table."""
    pairs, own_pairs = [], []
    try:
        for case in model.cases:
            right = case.image_uint8 if variant.uint8 else case.image
            dtype = "uint8" if variant.uint8 else "float32"
            got = numbers(run_host(command, [str(file), *options_of(case)], folder / "out.raw"), dtype, right.shape)
            pairs.append((got, right))
            if variant.precision == "int8":
                own_pairs.append((got, onnxruntime_images(file, case)))
    except HostError as error:
        return Row(host, model.name, variant.name, (), str(error))
    unit = 1.0 if variant.uint8 else model.interface.level
    return Row(host, model.name, variant.name, judge(variant, pairs, own_pairs, unit))


def judge(variant: Variant, pairs: Pairs, own: Pairs, unit: float) -> tuple[Figure, ...]:
    """How far images are off, and may be, in levels of 256.

    Args:
        variant: of the model.
        pairs: images found, and exact ones.
        own: of int8, images found, and what onnxruntime in Python makes with the same file.
        unit: of the images' numbers: a level.
    """
    tolerance = TOLERANCES[variant.precision]
    if variant.precision == "fp32" and not variant.uint8:
        return (Figure("off by", largest(pairs) / unit, FLOAT_LIMIT, " levels"),)
    mean = sum(difference(*pair).sum() for pair in pairs) / sum(right.size for _, right in pairs) / unit
    apart = [difference(np.roll(right, 1, axis=0), right) for _, right in pairs]  # of one right image to another
    distance = sum(each.sum() for each in apart) / sum(each.size for each in apart) / unit
    limit = max(tolerance.mean_levels, tolerance.mean_share * distance)
    figures = (Figure("mean", mean, limit, " levels"),)
    if own:  # single pixels of int8 are far off the exact image, in every runtime
        return (Figure("off onnxruntime by", largest(own) / unit, 1, " levels"), *figures)
    return (Figure("off by", largest(pairs) / unit, tolerance.levels, " levels"), *figures)


def difference(got: Array, right: Array) -> Array:
    """Absolute differences, in float64: grey levels wrap around."""
    return np.abs(got.astype(np.float64) - right)


def largest(pairs: Pairs) -> float:
    return float(np.max([difference(*pair).max() for pair in pairs]))  # a NaN stays one


def onnxruntime_images(file: Path, case: Case) -> Array:
    """What onnxruntime makes of a test vector here, with the vector's own latents where a file takes any."""
    session = onnxruntime().InferenceSession(file, providers=["CPUExecutionProvider"])
    images: Array = session.run(None, case.feeds([value.name for value in session.get_inputs()]))[0]
    return images


def check_latents(host: str, command: Sequence[str], what: str, cases: Sequence[Case], folder: Path) -> Row:
    """Let a host make the latents of all test vectors; its row in the table.

    `what` is the word latents, or a file that gives latents for a seed.
    """
    pairs = []
    try:
        for case in cases:
            length = ["--latent-dim", str(case.z.shape[1])] if what == LATENTS else []
            arguments = [what, *length, "--seed", str(case.seed), "--n", str(case.n)]
            content = run_host(command, arguments, folder / "out.raw")
            pairs.append((numbers(content, "float32", case.z.shape), case.z))
    except HostError as error:
        return Row(host, "", variant_of_latents(what), (), str(error))
    equal = sum(np.count_nonzero(got == right) for got, right in pairs)
    note = f"{equal} of {sum(right.size for _, right in pairs)} equal bit for bit"
    return Row(host, "", variant_of_latents(what), (Figure("off by", largest(pairs), LATENT_TOLERANCE, ""),), note)


def check_picture(host: str, command: Sequence[str], model: Model, file: Path, folder: Path) -> Row:
    """Let a host make a picture of the first test vector; its row in the table."""
    case = model.cases[0]
    columns = min(case.n, COLUMNS)
    right = tile(case.image_uint8, -(-case.n // columns), columns)
    header = f"P{5 if right.ndim == 2 else 6} {right.shape[1]} {right.shape[0]} 255\n".encode()
    try:
        content = run_host(command, [str(file), *options_of(case)], folder / "out.ppm")
        if not content.startswith(header):
            raise HostError(f"the picture starts with {content[: len(header)]!r}, expected {header!r}")
        pairs = [(numbers(content[len(header) :], "uint8", right.shape), right)]
    except HostError as error:
        return Row(host, model.name, PICTURE, (), str(error))
    return Row(host, model.name, PICTURE, (Figure("off by", largest(pairs), 1, " levels"),))


def check_home(host: str, command: Sequence[str], file: Path, folder: Path) -> Row:
    """Let a host make an image in a home without files, which it should leave so; its row in the table.

    onnxruntime writes a device id there unless `ORT_DISABLE_TELEMETRY` is set before its first session.
    """
    home = folder / HOME
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    clean = ["env", "-u", "ORT_DISABLE_TELEMETRY", f"HOME={home}", *command]
    try:
        run_host(clean, [str(file), "--seed", "0", "--n", "1"], folder / "out.raw")
    except HostError as error:
        return Row(host, "", HOME, (), str(error))
    left = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    return Row(host, "", HOME, (Figure("files left", len(left), 0, ""),), ", ".join(left))


def variant_of_latents(what: str) -> str:
    return LATENTS if what == LATENTS else GRAPH_LATENTS


def forms_of(model: Model, host: Host) -> list[Variant]:
    """The forms of a model that a host takes."""
    if model.file.suffix not in (".onnx", ".pt"):
        return [each for each in VARIANTS if each.suffix == host.suffix and each.name not in host.without]
    return [as_it_is(model.file)] if model.file.suffix == host.suffix else []


def as_it_is(file: Path) -> Variant:
    """The form of a file that somebody made."""
    options = {}
    if file.suffix == ".onnx":
        session = onnxruntime().InferenceSession(file, providers=["CPUExecutionProvider"])
        options["precision"] = session.get_modelmeta().custom_metadata_map.get(PRECISION_KEY, "fp32")
        options["image"] = "uint8" if session.get_outputs()[0].type == "tensor(uint8)" else "float"
    return Variant("as it is", options, file.suffix)


def model_file(model: Model, variant: Variant, work: Path) -> Path:
    """The file of a model, exported into the work folder unless it is there and newer than what made it."""
    if model.file.suffix == variant.suffix:
        return model.file
    beside = model.file.with_suffix(variant.suffix)
    if not variant.options and beside.exists():
        return beside
    file = work / "models" / f"{model.name}-{variant.name}{variant.suffix}"
    if is_stale(file, model.file):
        from dcgan.checkpoint import load_generator
        from dcgan_export import formats
        from dcgan_export.publish import publish

        click.echo(f"exporting {file.name}", err=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        publish(load_generator(model.file), file, formats.Variant(**variant.options))
    return file


def is_stale(file: Path, *made_of: Path) -> bool:
    """Whether a file that `export` made has to be made again."""
    sources = [*made_of, *(path for floor in ("infer", "dcgan", "export") for path in (ROOT / floor).rglob("*.py"))]
    return not file.exists() or file.stat().st_mtime < max(source.stat().st_mtime for source in sources)


def graph_latents_file(seed_model: Path) -> Path:
    """The part of an unconditional seed model that makes latents, as a model of its own."""
    file = seed_model.with_name(f"{GRAPH_LATENTS}.onnx")
    if is_stale(file, seed_model):
        import onnx

        from dcgan_export.seeded import front

        whole = onnx.load(seed_model)
        part = onnx.load_from_string(front(whole))
        del part.metadata_props[:]
        part.metadata_props.extend(whole.metadata_props)  # hosts want to know whose it is
        with replacing(file) as temporary:
            onnx.save(part, temporary)
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
    """Let npm install what a folder's lock names, and nothing with another digest."""
    needed([npm, "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"])


def prepare_python(_work: Path) -> list[str]:
    return [sys.executable, str(ROOT / "examples" / "python" / "generate.py")]


def prepare_node(_work: Path) -> list[str]:
    folder = ROOT / "examples" / "node"
    node = tool("node")
    install(tool("npm"), folder)
    return [node, str(folder / "generate.mjs")]


def prepare_cpp_ort(work: Path) -> list[str]:
    cmake = tool("cmake")
    root = os.environ.get("ONNXRUNTIME_ROOT", "")
    if not root and not Path("/usr/include/onnxruntime").exists():
        root = str(work / "onnxruntime")
        script = ROOT / "examples" / "cpp" / "get_onnxruntime.sh"
        needed(["env", f"PYTHON={sys.executable}", str(script), root])
    return build(cmake, work, "generate_ort", f"-DONNXRUNTIME_ROOT={root}")


def prepare_cpp_torch(work: Path) -> list[str]:
    cmake = tool("cmake")
    package = importlib.util.find_spec("torch")
    root = os.environ.get("TORCH_ROOT") or (str(Path(package.origin).parent) if package and package.origin else "")
    return build(cmake, work, "generate_torch", f"-DTORCH_ROOT={root}")


def prepare_browser(work: Path) -> list[str]:
    folder = ROOT / "examples" / "web"
    node, npm = tool("node"), tool("npm")
    chromium = os.environ.get("CHROMIUM") or tool("chromium")
    install(npm, folder)
    site = work / "site"
    if is_stale(site / "model.json", *(ROOT / "infer" / "dcgan_infer" / "web").iterdir()):
        shutil.rmtree(site, ignore_errors=True)
        run_tool([sys.executable, "-m", "dcgan_export", "--target", "web", "--out", str(site)])
    return ["env", f"SITE={site}", f"CHROMIUM={chromium}", node, str(folder / "generate.mjs")]


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
    Host("browser", prepare_browser, without=(PICTURE, HOME), timed=False),
)


def check_host(host: Host, command: Sequence[str], models: Sequence[Model], work: Path) -> Iterator[Row]:
    """All rows of a host."""
    folder = work / host.name
    for model in models:
        forms = forms_of(model, host)
        for variant in forms:
            yield check_images(host.name, command, model, variant, model_file(model, variant, work), folder)
        if forms and PICTURE not in host.without and model.interface.image_shape[0] in DRAWN:
            yield check_picture(host.name, command, model, model_file(model, forms[0], work), folder)
    if forms and HOME not in host.without:
        yield check_home(host.name, command, model_file(model, forms[0], work), folder)
    cases = models[-1].cases  # latents are of the seed alone, the same for all models
    if LATENTS not in host.without:
        yield check_latents(host.name, command, LATENTS, cases, folder)
    seeded = [each for each in forms_of(models[-1], host) if each.name == "seed"]
    if seeded and GRAPH_LATENTS not in host.without:
        file = graph_latents_file(model_file(models[-1], seeded[0], work))
        yield check_latents(host.name, command, str(file), cases, folder)


def time_host(host: Host, command: Sequence[str], model: Model, work: Path) -> Iterator[str]:
    """How many images a second a host makes with a model, one thread: a line a variant."""
    for variant in forms_of(model, host):
        file = model_file(model, variant, work)
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


def given(file: Path | None, vectors: Path | None) -> list[Model]:
    """The models to check."""
    if (file is None) != (vectors is None):
        raise click.UsageError("--model and --vectors go together.")
    if file is None or vectors is None:
        return [shipped(name) for name in MODELS]
    try:
        return [read_model(file.resolve(), vectors.resolve())]
    except (OSError, ValueError, KeyError) as error:
        raise click.ClickException(f"{vectors} holds no test vectors: {error}") from error


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--model",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A checkpoint, or an ONNX or TorchScript file, to check in the place of the shipped models.",
)
@click.option(
    "--vectors", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder with its test vectors."
)
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
def main(
    file: Path | None,
    vectors: Path | None,
    only: tuple[str, ...],
    require: tuple[str, ...],
    work: Path,
    speed: bool,
    json_path: Path | None,
) -> None:
    """Let every example make the images of the test vectors, and compare.

    A host that this machine can't have is shown as not run. Exit status 1 if a comparison fails, or a host of
    --require is not run.
    """
    work = work.resolve()
    models = given(file, vectors)
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
        for row in check_host(host, command, models, work):
            rows.append(row)
            click.echo(row)
        if speed and host.timed:
            rates += time_host(host, command, models[0], work)
    if rates:
        click.echo(f"\nimages a second, one thread, {models[0].name}\n{'':<25} {'batch 1':>8} {'batch 16':>8}")
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
