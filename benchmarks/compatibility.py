"""Where the exported ONNX files run, and how near their images are: python benchmarks/compatibility.py

Exports each variant, installs each runtime into a throw-away environment of its own under `--work`, and lets it make
the images of examples/vectors/: a case in one batch, and single images, by one loaded model. What it makes is compared
with the checkpoint in float64, int8 also with onnxruntime. Each model is run in a process of its own: a runtime that
crashes or hangs ends its own cell only. Prints a Markdown table, a runtime a row.

To add a runtime, add an entry to RUNTIMES: packages, and a program that defines `load(path, inputs)`.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click
import numpy as np
import numpy.typing as npt
import onnx

from dcgan_export import onnx_file
from dcgan_infer import shipped
from dcgan_infer.contract.files import replacing
from dcgan_infer.contract.vectors import Case, read_vectors
from dcgan_infer.runtime import onnxruntime

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "examples" / "vectors"


@dataclass(frozen=True)
class Variant:
    """A column.

    Attributes:
        name: as in `--variants`.
        options: of dcgan-export.
        model: one of `dcgan_infer.shipped`.
    """

    name: str
    options: tuple[str, ...] = ()
    model: str = shipped.DEFAULT

    @property
    def grey(self) -> bool:
        """Whether its images are grey levels."""
        return "uint8" in self.options or "web" in self.options or self.seeded

    @property
    def rounded(self) -> bool:
        """Whether it computes in 8 bits."""
        return "int8" in self.options or "web" in self.options

    @property
    def seeded(self) -> bool:
        """Whether it makes its latents by itself, of a seed."""
        return "--inputs" in self.options


DEFAULT = Variant("fp32")
UNCONDITIONAL = "dcgan-mnist"
VARIANTS = (
    DEFAULT,
    Variant("unconditional", model=UNCONDITIONAL),
    Variant("plain", ("--optimize", "none")),
    Variant("uint8", ("--image", "uint8")),
    Variant("fp16", ("--precision", "fp16")),
    Variant("int8", ("--precision", "int8")),
    Variant("vnni", ("--precision", "int8", "--optimize", "vnni")),
    Variant("web", ("--target", "web")),
    Variant("opset 20", ("--opset", "20")),
    Variant("newest opset", ("--opset", str(onnx_file.newest_opset()))),
    Variant("seed", ("--inputs", "seed")),
    Variant("seed int8", ("--inputs", "seed", "--precision", "int8")),
)


@dataclass(frozen=True)
class Runtime:
    """A row.

    Attributes:
        name: as in `--only`.
        packages: for pip or npm; the version of the first is shown.
        program: defines `load(path, inputs)`. `inputs` is a dtype and a shape for each input by name, None for a size
            that varies; returned is a function from arrays by name to the images.
        language: of the program.
        borrow: whether its environment sees the packages of this Python: torch is 5 GB.
        sizes: how it is asked, in turn until it succeeds. `any`: one model for all batches; `fixed`: a model
            whose batch size is written into the file, for each; `one`: such a model of single images only.
        environment: variables that it needs.
    """

    name: str
    packages: tuple[str, ...]
    program: str
    language: Literal["python", "node"] = "python"
    borrow: bool = False
    sizes: tuple[str, ...] = ("any", "fixed")
    environment: Mapping[str, str] = field(default_factory=dict)


ORT = """
import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

def load(path, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(["image"], feeds)[0]
"""

REFERENCE = """
from onnx.reference import ReferenceEvaluator

def load(path, inputs):
    evaluator = ReferenceEvaluator(path)
    return lambda feeds: evaluator.run(["image"], feeds)[0]
"""

OPENVINO = """
import openvino

def load(path, inputs):
    model = openvino.Core().compile_model(path, "CPU")
    return lambda feeds: model(feeds)[0]
"""

# OpenCV 4.6 takes a map that is added to a convolution for its bias, and refuses it, unless it is told to fuse nothing.
OPENCV = """
import cv2

def load(path, inputs):
    net = cv2.dnn.readNetFromONNX(path)
    if cv2.__version__.startswith("4.6."):
        net.enableFusion(False)

    def run(feeds):
        for name, value in feeds.items():
            if cv2.__version__ < "5" and value.dtype == "int64":  # it has none; of N numbers it would make a column
                value = value.astype("int32").reshape(1, -1)
            net.setInput(value, name)
        return net.forward("image")

    return run
"""

TRACT = """
import tract

def load(path, inputs):
    model = tract.onnx().load(path)
    names = [model.input_name(index) for index in range(model.input_count())]
    runnable = model.into_model().into_runnable()
    return lambda feeds: runnable.run([feeds[name] for name in names])[0].to_numpy()
"""

NXRT = """
import nxrt

def load(path, inputs):
    session = nxrt.InferenceSession(path)
    return lambda feeds: session.run(["image"], feeds)[0]
"""

# In float32: by default pnnx stores weights, and ncnn values, in half the bits, which is an error of 1e-2.
NCNN = """
import shutil
import ncnn

def load(path, inputs):
    shutil.copy(path, "model.onnx")  # it writes beside the model
    short = {"float32": "f32", "int64": "i64"}
    shapes = [f"[{','.join(map(str, shape))}]{short[dtype]}" for dtype, shape in inputs.values()]
    tool("pnnx", "model.onnx", f"inputshape={','.join(shapes)}", "fp16=0")
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param("model.ncnn.param") or net.load_model("model.ncnn.bin"):
        layers = {line.split()[0] for line in open("model.ncnn.param").read().splitlines()[2:]}
        odd = sorted(name for name in layers if "." in name or "_" in name)
        raise RuntimeError(f"layers that ncnn has not: {', '.join(odd) or '?'}")

    def run(feeds):
        extractor = net.create_extractor()
        for index, (name, value) in enumerate(feeds.items()):
            value = value.astype("int32") if value.dtype == "int64" else value
            extractor.input(f"in{index}", ncnn.Mat(np.ascontiguousarray(value.reshape(-1))))
        status, image = extractor.extract("out0")
        if status:
            raise RuntimeError(f"extract gives {status}")
        return np.array(image)

    return run
"""

MNN = """
import MNN.expr as expr
import MNN.nn

def load(path, inputs):
    tool("mnnconvert", "-f", "ONNX", "--modelFile", path, "--MNNModel", "model.mnn", "--bizCode", "dcgan")
    module = MNN.nn.load_module_from_file("model.mnn", list(inputs), ["image"])

    def run(feeds):
        values = []
        for value in feeds.values():
            whole = value.dtype == "int64"
            values.append(expr.placeholder(list(value.shape), expr.NCHW, expr.int if whole else expr.float))
            values[-1].write(value.astype("int32") if whole else value)
        images = module.forward(values)
        if isinstance(images, (list, tuple)):
            if not images:
                raise RuntimeError("forward gives nothing: " + tail())
            images = images[0]
        return np.array(expr.convert(images, expr.NCHW).read())

    return run
"""

TVM = """
import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

def load(path, inputs):
    module = from_onnx(onnx.load(path), keep_params_in_input=False)
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())

    def run(feeds):
        image = machine["main"](*[tvm.runtime.tensor(value) for value in feeds.values()])
        return (image if hasattr(image, "numpy") else image[0]).numpy()

    return run
"""

# Its integers have no sign: what comes back is to be read as the file says.
IREE = """
import onnx
import iree.runtime

def load(path, inputs):
    model = onnx.load(path)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(model.graph.output[0].type.tensor_type.elem_type)
    tool("iree-import-onnx", path, "-o", "model.mlir", "--opset-version", "17")
    tool(
        "iree-compile", "model.mlir", "-o", "model.vmfb", "--iree-hal-target-device=local",
        "--iree-hal-local-target-device-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=host",
    )
    module = iree.runtime.load_vm_flatbuffer_file("model.vmfb", driver="local-task")
    main = module[model.graph.name]
    return lambda feeds: main(*feeds.values()).to_host().view(dtype)
"""

TINYGRAD = """
from tinygrad import Tensor
from tinygrad.nn.onnx import OnnxRunner

def load(path, inputs):
    runner = OnnxRunner(path)
    return lambda feeds: runner({name: Tensor(value) for name, value in feeds.items()})["image"].numpy()
"""

ONNX2TORCH = """
import torch
from onnx2torch import convert

def load(path, inputs):
    module = convert(path).eval()

    def run(feeds):
        with torch.inference_mode():
            return module(*map(torch.from_numpy, feeds.values())).numpy()

    return run
"""

ONNX2PYTORCH = """
import onnx
import torch
from onnx2pytorch import ConvertModel

def load(path, inputs):
    module = ConvertModel(onnx.load(path), experimental=True).eval()  # experimental: batches above 1

    def run(feeds):
        with torch.inference_mode():
            return module(*map(torch.from_numpy, feeds.values())).numpy()

    return run
"""

LITERT = """
from pathlib import Path
from ai_edge_litert.interpreter import Interpreter

def load(path, inputs):
    tool("onnx2tf", "-i", path, "-o", "converted", "-n")
    (file,) = Path("converted").glob("*_float32.tflite")
    interpreter = Interpreter(str(file))
    interpreter.allocate_tensors()
    # By rank and type: the converter renames.
    places = {detail["name"].split(":")[0].removeprefix("serving_default_"): detail["index"]
              for detail in interpreter.get_input_details()}

    def run(feeds):
        for name, value in feeds.items():
            interpreter.set_tensor(places[name], value)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return run
"""

# A C function, `model(z, label, image)`, and a file of weights. With an open batch there is an argument more, and
# version 1.4 gives other images without a word, or C that does not compile.
EMX = """
import ctypes
import math
import subprocess
import onnx

def load(path, inputs):
    output = onnx.load(path).graph.output[0].type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(output.elem_type)
    pixels = math.prod(size.dim_value for size in output.shape.dim[1:])
    tool("emx-onnx-cgen", "compile", path, "model.c", "--model-name", "model")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "model.c", "-o", "model.so", "-lm"], check=True)
    library = ctypes.CDLL("./model.so")
    library.model_load.restype = ctypes.c_bool
    if not library.model_load(b"model.bin"):
        raise RuntimeError("the weights can't be read")

    def run(feeds):
        count = len(feeds["z"])
        image = np.zeros((count, pixels), dtype)
        places = [value.ctypes.data_as(ctypes.c_void_p) for value in (*feeds.values(), image)]
        library.model(*places)
        return image

    return run
"""

JAX = """
import onnx
from jaxonnxruntime import backend

def load(path, inputs):
    model = backend.prepare(onnx.load(path))
    return lambda feeds: model.run(feeds)[0]
"""

WONNX = """
import wonnx

def load(path, inputs):
    session = wonnx.Session.from_path(path)
    return lambda feeds: session.run({name: value.ravel().tolist() for name, value in feeds.items()})["image"]
"""

ORT_NODE = """
import ort from 'onnxruntime-node';

async function load(path) {
  const session = await ort.InferenceSession.create(path, { logSeverityLevel: 4 });
  return async (feeds) => (await session.run(tensors(ort, feeds))).image;
}
"""

ORT_WEB = """
import * as ort from 'onnxruntime-web';

async function load(path) {
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(path)), { logSeverityLevel: 4 });
  return async (feeds) => (await session.run(tensors(ort, feeds))).image;
}
"""


def _ort(version: str) -> Runtime:
    packages = (f"onnxruntime=={version}", *(("numpy<2",) if version < "1.19" else ()))
    return Runtime(f"onnxruntime-{version}", packages, ORT, sizes=("any",))


def _opencv(version: str, requirement: str, numpy: str = "numpy") -> Runtime:
    return Runtime(f"opencv-{version}", (f"opencv-python-headless{requirement}", numpy), OPENCV)


RUNTIMES = (
    *map(_ort, ("1.15.1", "1.16.3", "1.17.3", "1.18.1", "1.19.2", "1.20.1", "1.22.1", "1.24.4", "1.28.0")),
    Runtime("onnxruntime", ("onnxruntime",), ORT, sizes=("any",)),
    Runtime("onnxruntime-node", ("onnxruntime-node",), ORT_NODE, "node", sizes=("any",)),
    Runtime("onnxruntime-web", ("onnxruntime-web",), ORT_WEB, "node", sizes=("any",)),
    Runtime("onnx-reference", ("onnx",), REFERENCE, sizes=("any",)),
    Runtime("openvino", ("openvino",), OPENVINO),
    _opencv("4.6", "==4.6.0.66", "numpy<2"),  # Debian 12's
    _opencv("4.8", "==4.8.1.78", "numpy<2"),
    _opencv("4.10", "==4.10.0.84", "numpy<2"),  # Debian 13's
    _opencv("4", "<5"),
    _opencv("5", ">=5"),
    Runtime("tract", ("tract", "numpy"), TRACT),
    Runtime("iree", ("iree-base-compiler[onnx]", "iree-base-runtime"), IREE),
    Runtime("tvm", ("apache-tvm", "onnx", "numpy"), TVM),
    Runtime("tinygrad", ("tinygrad", "numpy"), TINYGRAD, environment={"DEV": "CPU"}),  # needs clang
    Runtime("nxrt", ("nxrt",), NXRT),
    Runtime("mnn", ("MNN", "numpy"), MNN),
    Runtime("ncnn", ("ncnn", "pnnx"), NCNN, borrow=True, sizes=("one",)),
    Runtime("litert", ("ai-edge-litert", "onnx2tf"), LITERT),
    Runtime("onnx2torch", ("onnx2torch",), ONNX2TORCH, borrow=True),
    Runtime("onnx2pytorch", ("onnx2pytorch",), ONNX2PYTORCH, borrow=True),
    Runtime("emx-onnx-cgen", ("emx-onnx-cgen",), EMX, sizes=("fixed",)),  # needs cc
    Runtime("jaxonnxruntime", ("jaxonnxruntime", "jax", "onnx", "absl-py", "tqdm"), JAX),
    Runtime("wonnx", ("wonnx", "numpy"), WONNX),  # needs a Vulkan driver
)

# The two programs that load a runtime's own, feed it and keep what it gives: python run.py JOB, node run.mjs JOB.
PYTHON = """
import json
import pathlib
import subprocess
import sys

import numpy as np

job = json.loads(pathlib.Path(sys.argv[1]).read_text())


def tool(name, *arguments):
    with open("tool.log", "w") as log:
        program = pathlib.Path(sys.executable).parent / name
        if subprocess.run([program, *arguments], stdout=log, stderr=log).returncode:
            raise RuntimeError(f"{name}: {tail()}")


def tail():
    lines = open("tool.log", errors="replace").read().splitlines()
    return ([line for line in lines if "rror" in line] or lines or ["?"])[-1]


def main():
    run = load(job["model"], job["inputs"])
    for batch in job["batches"]:
        feeds = {name: np.fromfile(file, dtype).reshape(shape) for name, (file, dtype, shape) in batch["feeds"].items()}
        image = np.ascontiguousarray(run(feeds))
        image.tofile(batch["out"])
        done.append(image.dtype.name)


done, refused = [], None
try:
    exec(job["program"])
    main()
except BaseException as error:  # a panic in Rust is no Exception
    refused = f"{type(error).__name__}: {error}"
pathlib.Path(job["result"]).write_text(json.dumps({"dtypes": done, "refused": refused}))
"""
NODE = """
import { readFileSync, writeFileSync } from 'node:fs';

const KINDS = { float32: Float32Array, int64: BigInt64Array, uint8: Uint8Array };

function tensors(ort, feeds) {
  return Object.fromEntries(Object.entries(feeds).map(([name, [file, dtype, shape]]) => {
    const { buffer, byteOffset, byteLength } = readFileSync(file);
    return [name, new ort.Tensor(dtype, new KINDS[dtype](buffer.slice(byteOffset, byteOffset + byteLength)), shape)];
  }));
}

%s

const job = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const result = { dtypes: [], refused: null };
try {
  const run = await load(job.model);
  for (const batch of job.batches) {
    const image = await run(batch.feeds);
    writeFileSync(batch.out, new Uint8Array(image.data.buffer, image.data.byteOffset, image.data.byteLength));
    result.dtypes.push(image.type);
  }
} catch (error) {
  result.refused = String(error);
}
writeFileSync(job.result, JSON.stringify(result));
process.exit(0);
"""


class Batch(NamedTuple):
    """Images `start` to `start + n - 1` of a case."""

    case: int
    start: int
    n: int


@dataclass(frozen=True)
class Cell:
    """What a runtime makes of a variant.

    Attributes:
        size: the one of `Runtime.sizes` that succeeded; the last, if none did.
        refused: why there are no images; None if there are.
        max_error: largest difference to the exact images, in the unit of the variant's images.
        mean_levels: mean difference to the exact images, in grey levels.
        to_onnxruntime: largest difference to onnxruntime's images, in grey levels; of int8 only.
        dtype: of the images.
    """

    runtime: str
    variant: str
    size: str = "any"
    refused: str | None = None
    max_error: float = 0.0
    mean_levels: float = 0.0
    to_onnxruntime: float = 0.0
    dtype: str = ""

    @property
    def wrong(self) -> bool:
        """Whether its images are other ones: int8 is off by half a level on average, fp32 and fp16 by far less."""
        return not self.mean_levels < 2.0


def environment(runtime: Runtime) -> dict[str, str]:
    """The variables of a runtime's processes: this one's packages stay out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | dict(runtime.environment)


def install(runtime: Runtime, folder: Path, timeout: float) -> str:
    """Make a runtime's environment, unless it is there already.

    Returns:
        Its version.
    Raises:
        subprocess.SubprocessError: it can't be installed.
    """
    # With its place: the programs in an environment that was moved find no Python.
    stamp, wanted = folder / "installed.json", json.dumps([runtime.packages, runtime.borrow, str(folder)])
    python = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if runtime.language == "node":
            (folder / "package.json").write_text('{ "private": true, "type": "module" }\n', encoding="utf-8")
            quiet(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *runtime.packages], folder, timeout)
        else:
            quiet([sys.executable, "-m", "venv", str(folder)], folder, timeout)
            if runtime.borrow:
                seen = [path for path in sys.path if path.endswith("site-packages")]
                (site,) = folder.glob("lib/python*/site-packages")
                (site / "borrowed.pth").write_text("\n".join(seen) + "\n", encoding="utf-8")
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            quiet([*pip, *runtime.packages], folder, timeout)
        stamp.write_text(wanted, encoding="utf-8")
    package = re.split(r"[=<>\[]", runtime.packages[0])[0]
    if runtime.language == "node":
        version: str = json.loads((folder / "node_modules" / package / "package.json").read_bytes())["version"]
        return version
    asked = f"import importlib.metadata as m; print(m.version({package!r}))"
    found = subprocess.run([str(python), "-c", asked], check=True, capture_output=True, text=True, cwd=folder)
    return found.stdout.strip()


def quiet(command: Sequence[str], folder: Path, timeout: float) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=timeout, env=clean)


def export(variant: Variant, path: Path) -> None:
    """Write a variant with dcgan-export, which proves it first."""
    checkpoint = shipped.path_of(variant.model, ".safetensors")
    options = ["--format", "onnx", *variant.options, "--out", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "dcgan_export", str(checkpoint), *options], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise click.ClickException(f"{variant.name} is not exported: {done.stderr.strip()}")


def check_file(path: Path) -> list[str]:
    """What in a file stops some parsers; nothing in one that is as docs/export.md promises."""
    model = onnx.load(path)
    graph = model.graph
    found = {
        "an attribute allowzero": any(part.name == "allowzero" for node in graph.node for part in node.attribute),
        "an empty optional input": any(not name for node in graph.node for name in node.input),
        "metadata or comments on nodes": any(node.doc_string or node.metadata_props for node in graph.node),
        "operators that are not ONNX's own": {entry.domain for entry in model.opset_import} != {""}
        or any(node.domain for node in graph.node),
        "functions": bool(model.functions),
        "data outside the file": any(tensor.external_data for tensor in graph.initializer),
        "weights listed as inputs": bool(
            {value.name for value in graph.input} & {each.name for each in graph.initializer}
        ),
    }
    return [what for what, there in found.items() if there]


def with_batch(path: Path, count: int) -> Path:
    """A copy of a model, beside it, whose batch size is written into it."""
    fixed = path.with_name(f"{path.stem}-{count}.onnx")
    if not fixed.exists():
        model = onnx.load(path)
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            for size in value.type.tensor_type.shape.dim:
                if size.dim_param == onnx_file.BATCH:
                    size.dim_value = count
        onnx.save(model, fixed)
    return fixed


def batches_of(cases: Sequence[Case], size: str) -> list[Batch]:
    """Each case whole, then its first image alone; or all images one by one."""
    if size == "one":
        return [Batch(case, start, 1) for case, vector in enumerate(cases) for start in range(vector.n)]
    whole = [Batch(case, 0, vector.n) for case, vector in enumerate(cases)]
    return [*whole, *(Batch(case, 0, 1) for case in range(len(cases)))]


def describe(path: Path) -> dict[str, tuple[str, list[int | None]]]:
    """Type and shape of a model's inputs."""
    inputs = {}
    for value in onnx.load(path).graph.input:
        kind = value.type.tensor_type
        shape = [None if size.dim_param else size.dim_value for size in kind.shape.dim]
        inputs[value.name] = (onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape)
    return inputs


def make(
    runtime: Runtime,
    home: Path,
    model: Path,
    cases: Sequence[Case],
    batches: Sequence[Batch],
    folder: Path,
    limit: float,
) -> Iterator[npt.NDArray[Any]]:
    """Let a runtime make batches of images, in a process of its own.

    Args:
        home: its environment.
        folder: for what goes in and out; emptied.
        limit: seconds.
    Raises:
        RuntimeError: it made none, and says why.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    inputs = describe(model)
    asked = []
    for index, batch in enumerate(batches):
        feeds = {}
        for name, value in cases[batch.case].feeds(list(inputs), batch.start, batch.n).items():
            file = folder / f"{index}.{name}"
            np.ascontiguousarray(value).tofile(file)
            feeds[name] = (str(file), value.dtype.name, list(value.shape))
        asked.append({"feeds": feeds, "out": str(folder / f"{index}.image")})
    job, result = folder / "job.json", folder / "result.json"
    job.write_text(
        json.dumps(
            {
                "model": str(model),
                "inputs": inputs,
                "batches": asked,
                "result": str(result),
                "program": runtime.program,
            }
        ),
        encoding="utf-8",
    )
    if runtime.language == "node":
        program, command = home / "run.mjs", ["node"]
        program.write_text(NODE % runtime.program, encoding="utf-8")
    else:
        program, command = home / "run.py", [str(home / "bin" / "python")]
        program.write_text(PYTHON, encoding="utf-8")
    with (folder / "log.txt").open("w") as log:
        try:
            done = subprocess.run(
                [*command, str(program), str(job)],
                cwd=folder, stdout=log, stderr=log, timeout=limit, env=environment(runtime),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no answer in {limit:.0f} s") from None
    if not result.exists():
        raise RuntimeError(f"its process ended with status {done.returncode}")
    found = json.loads(result.read_bytes())
    if found["refused"] is not None:
        raise RuntimeError(found["refused"])
    for index, dtype in enumerate(found["dtypes"]):
        yield np.fromfile(folder / f"{index}.image", dtype)


def by_onnxruntime(model: Path, cases: Sequence[Case], batches: Sequence[Batch]) -> list[npt.NDArray[Any]]:
    """The same in this process, by the onnxruntime of this Python."""
    run = onnxruntime().InferenceSession(model, providers=["CPUExecutionProvider"]).run
    names = list(describe(model))
    return [run(["image"], cases[batch.case].feeds(names, batch.start, batch.n))[0] for batch in batches]


def try_out(runtime: Runtime, home: Path, variant: Variant, model: Path, folder: Path, limit: float) -> Cell:
    """Run a variant in a runtime, and compare."""
    cases = read_vectors(VECTORS / variant.model).cases
    sizes = ("any",) if variant.seeded else runtime.sizes  # of a seed, the number of images is no shape
    refused = ""
    for size in sizes:
        batches = batches_of(cases, size)
        images: dict[Batch, npt.NDArray[Any]] = {}
        counts = {batch.n for batch in batches} if size != "any" else {0}
        try:
            for count in sorted(counts):
                part = [batch for batch in batches if count in (0, batch.n)]
                path = with_batch(model, count) if count and not variant.seeded else model
                images |= zip(
                    part, make(runtime, home, path, cases, part, folder / f"{size}-{count}", limit), strict=True
                )
            return compare(runtime, variant, size, cases, images, model)
        except (RuntimeError, ValueError) as error:
            refused = shortened(str(error))
    return Cell(runtime.name, variant.name, sizes[-1], refused, mean_levels=np.nan)


def compare(
    runtime: Runtime,
    variant: Variant,
    size: str,
    cases: Sequence[Case],
    images: Mapping[Batch, npt.NDArray[Any]],
    model: Path,
) -> Cell:
    """The figures of a cell.

    Raises:
        ValueError: a batch has another number of pixels than it should have.
    """
    level = 1.0 if variant.grey else 127.5  # grey levels in the unit of the images
    errors, differences = [], [np.zeros(1)]
    for batch, image in images.items():
        part = slice(batch.start, batch.start + batch.n)
        vector = cases[batch.case]
        right = (vector.image_uint8 if variant.grey else vector.image)[part].astype(np.float64)
        if image.size != right.size:
            raise ValueError(f"gives {image.size} pixels for {batch.n} images, not {right.size}")
        errors.append(np.abs(image.astype(np.float64).reshape(right.shape) - right).ravel())
    if variant.rounded:
        peer = by_onnxruntime(model, cases, list(images))
        differences = [
            np.abs(image.astype(np.float64) - other.ravel()).ravel()
            for image, other in zip(images.values(), peer, strict=True)
        ]
    every = np.concatenate(errors)
    return Cell(
        runtime.name,
        variant.name,
        size,
        None,
        float(every.max()),
        float(every.mean() * level),
        float(np.concatenate(differences).max() * level),
        next(iter(images.values())).dtype.name,
    )


def shortened(text: str) -> str:
    """A runtime's complaint in one line, without the paths of this machine."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = " ".join(re.sub(r"(?:/[\w.@+-]+)+/", "", text).split())
    # What is wrong stands first in some, last in others.
    return text if len(text) <= 200 else f"{text[:80]} ... {text[-110:]}"


def markdown(names: Mapping[str, str], variants: Sequence[Variant], cells: Sequence[Cell]) -> str:
    """The table, and below it why what was refused was refused."""
    found = {(cell.runtime, cell.variant): cell for cell in cells}
    lines = [
        f"| | {' | '.join(variant.name for variant in variants)} |",
        f"|---|{'---|' * len(variants)}",
    ]
    reasons: dict[str, list[str]] = {}
    for runtime, version in names.items():
        row = []
        for variant in variants:
            cell = found.get((runtime, variant.name))
            row.append("" if cell is None else text_of(cell, variant))
            if cell is not None and cell.refused is not None:
                reasons.setdefault(f"{runtime}: {cell.refused}", []).append(variant.name)
        lines.append(f"| {f'{runtime} {version}' if version not in runtime else runtime} | {' | '.join(row)} |")
    notes = [f"- {reason} ({', '.join(which)})" for reason, which in reasons.items()]
    return "\n".join([*lines, *(["", "Refused:", "", *notes] if notes else [])])


def text_of(cell: Cell, variant: Variant) -> str:
    """A cell in words."""
    if cell.refused is not None:
        return "refused"
    if variant.rounded:
        text = f"{cell.mean_levels:.2f}; {cell.to_onnxruntime:.0f}"
    elif variant.grey:
        text = f"{cell.max_error:.0f}"
    else:
        text = f"{cell.max_error:.1e}"
    if cell.wrong:
        text = f"**wrong** ({text})"
    if cell.size != "any":
        text += ", " + cell.size
    if variant.grey and cell.dtype != "uint8":
        text += f", {cell.dtype}"
    return text


def chosen(patterns: str | None, names: Sequence[str], option: str) -> list[str]:
    """Names that match one of the patterns; all without patterns."""
    if patterns is None:
        return list(names)
    kept = [name for name in names if any(fnmatch.fnmatchcase(name, each.strip()) for each in patterns.split(","))]
    if not kept:
        raise click.UsageError(f"{option} {patterns} matches none of: {', '.join(names)}")
    return kept


@click.command()
@click.option("--work", default=ROOT / "build" / "compatibility", type=click.Path(path_type=Path), help="Folder.")
@click.option("--only", metavar="NAME,...", help="Runtimes; * stands for anything.")
@click.option("--variants", "wanted", metavar="NAME,...", help="Of the model; * stands for anything.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds for one process.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), metavar="FILE", help="Also write the figures.")
def main(work: Path, only: str | None, wanted: str | None, timeout: float, json_path: Path | None) -> None:
    """Try the exported ONNX files in every runtime that can be installed here."""
    forms = {variant.name: variant for variant in VARIANTS}
    variants = [forms[name] for name in chosen(wanted, list(forms), "--variants")]
    named = {runtime.name: runtime for runtime in RUNTIMES}
    runtimes = [named[name] for name in chosen(only, list(named), "--only")]
    work = work.resolve()
    shutil.rmtree(work / "models", ignore_errors=True)
    (work / "models").mkdir(parents=True)
    paths, facts = {}, {}
    for variant in variants:
        path = paths[variant] = work / "models" / f"{variant.name.replace(' ', '-')}.onnx"
        export(variant, path)
        model = onnx.load(path)
        odd = check_file(path)
        facts[variant.name] = {"ir": model.ir_version, "opset": model.opset_import[0].version, "odd": odd}
        click.echo(f"{variant.name}: {path.stat().st_size:,} bytes, {facts[variant.name]}", err=True)
        if variant == DEFAULT and (odd or (model.ir_version, model.opset_import[0].version) != (8, 17)):
            raise click.ClickException(f"the default file is not as docs/export.md promises: {facts[variant.name]}")
    names: dict[str, str] = {}
    missing: dict[str, str] = {}
    cells = []
    for runtime in runtimes:
        home = work / "runtimes" / runtime.name
        try:
            names[runtime.name] = install(runtime, home, timeout)
        except (subprocess.SubprocessError, OSError) as error:
            said = getattr(error, "stderr", None) or str(error)
            missing[runtime.name] = shortened(said.strip().splitlines()[-1])
            click.echo(f"{runtime.name}: not installed: {missing[runtime.name]}", err=True)
            continue
        for variant in variants:
            folder = work / "jobs" / runtime.name / paths[variant].stem
            cell = try_out(runtime, home, variant, paths[variant], folder, timeout)
            cells.append(cell)
            said = text_of(cell, variant) + ("" if cell.refused is None else f": {cell.refused}")
            click.echo(f"{runtime.name} {names[runtime.name]}, {variant.name}: {said}", err=True)
    click.echo(markdown(names, variants, cells))
    if missing:
        click.echo("\nNot installed:\n\n" + "\n".join(f"- {name}: {why}" for name, why in missing.items()))
    if json_path is not None:
        figures = [{name: None if value != value else value for name, value in asdict(cell).items()} for cell in cells]
        found = {"files": facts, "versions": names, "missing": missing, "cells": figures}
        with replacing(json_path) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
