"""onnxruntime on this machine: importing it, its threads, and a session that runs where it was asked to.

onnxruntime falls back to the CPU in silence when CUDA does not work, and writes notes of its own to stderr. Here
a session either runs on the provider that was asked for, or the reason why not is in the exception.
"""

from __future__ import annotations

import _thread
import contextlib
import importlib
import importlib.util
import io
import math
import os
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

from .contract.errors import DeviceError, ModelError, RuntimeMissingError, SpecError, first_line
from .contract.spec import SPEC_KEY, GeneratorSpec
from .onnx_outline import read_outline

NO_CUDA = "the installed onnxruntime has no CUDA"
# Distributions that all unpack into one folder `onnxruntime`, as their .dist-info folders spell them.
_WHEELS = {f"onnxruntime{kind}" for kind in ("", "_gpu", "_directml", "_openvino", "_qnn", "_rocm", "_migraphx")}
_SMALL_STACK = 1 << 18  # bytes; of these threads, which only wait
# CUDA's provider multiplies float32 in TF32 unless told otherwise: of 23 bits behind the point 10 are left. Who wants
# that speed has a name of its own for it, so that it is in all records of where a model ran.
_OPTIONS = {"cuda": {"use_tf32": "0"}, "cuda-tf32": {"use_tf32": "1"}}
_FATAL = 4  # the only severity of onnxruntime's log that is let through; failures reach us as exceptions


class Opened(NamedTuple):
    """A session and where it runs.

    Attributes:
        session: an onnxruntime InferenceSession.
        provider: where it really runs, as `providers` calls it.
        note: with `auto`, why that is not CUDA; else empty.
    """

    session: Any
    provider: str
    note: str


def onnxruntime() -> Any:
    """The module onnxruntime, quiet.

    Raises:
        RuntimeMissingError: it is missing, broken, or installed twice.
    """
    found = importlib.util.find_spec("onnxruntime")
    if found is None:
        raise RuntimeMissingError("onnxruntime is not installed: pip install onnxruntime (onnxruntime-gpu for CUDA)")
    for folder in found.submodule_search_locations or ():
        _refuse_doubled(Path(folder).parent)
    try:
        module = importlib.import_module("onnxruntime")
        module.set_default_logger_severity(_FATAL)
    except (ImportError, AttributeError) as error:  # AttributeError: an emptied folder still imports, as a namespace
        raise RuntimeMissingError(
            f"onnxruntime is installed but broken ({reason(error)}): "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime"
        ) from error
    return module


def _refuse_doubled(site_packages: Path) -> None:
    # A look at folder names costs a tenth of a millisecond; importlib.metadata costs 20.
    names = {path.name.partition("-")[0].lower() for path in site_packages.glob("onnxruntime*.dist-info")} & _WHEELS
    if len(names) > 1:
        wheels = " ".join(sorted(name.replace("_", "-") for name in names))
        raise RuntimeMissingError(
            f"onnxruntime is installed more than once ({wheels}), and these overwrite each other: "
            f"pip uninstall -y {wheels} && pip install onnxruntime (onnxruntime-gpu for CUDA)"
        )


def open_session(model: bytes | str, provider: str = "auto", threads: int = 1, spinning: bool = True) -> Opened:
    """Open a model.

    Args:
        model: an ONNX file's bytes, which must hold all its weights; or its path, beside which some may lie.
        provider: one that this onnxruntime has, as `providers` calls it, such as `cpu`, `cuda` or `openvino`; or
            `auto`, which is CUDA where it works and the CPU otherwise. `cuda` computes in float32, `cuda-tf32` rounds
            what it multiplies to TF32.
        threads: of the CPU provider.
        spinning: whether these threads wait for work in a loop: faster, at the cost of whatever else wants the cores.
    Raises:
        DeviceError: this onnxruntime has no such provider, or the session would not run on it, or there can't be
            so many threads.
        ModelError: onnxruntime can't read these bytes, or their weights lie in other files.
    """
    if isinstance(model, bytes):
        _refuse_external(model)
    to_be_had = 1 + _startable(threads - 1)
    if to_be_had < threads:
        raise DeviceError(
            f"the process can have {to_be_had} threads, asked for {threads}; take --threads {to_be_had}, "
            "or raise its limit (ulimit -u, a container's pids limit)"
        )
    ort = onnxruntime()
    offered = providers(ort)
    note = ""
    if provider == "auto" and "cuda" not in offered:
        note = NO_CUDA
    elif provider != "cpu":
        wanted = "cuda" if provider == "auto" else provider
        if wanted not in offered:
            raise _not_offered(ort, wanted, offered)
        hints = _preload(ort)
        try:
            wants = [(offered[wanted], _OPTIONS.get(wanted, {})), offered["cpu"]]
            session = _session(ort, model, wants, threads, spinning)
            note = _why_not_on(session, offered[wanted])
            if not note:
                return Opened(session, wanted, "")
            note = hints or note
        except Exception as error:  # what it raises depends on what is wrong: driver, libraries, memory, model
            note = reason(error)
        if provider != "auto":
            what, needs = f"provider {wanted}", "its libraries and its device"
            if is_cuda(wanted):
                what, needs = "CUDA", "an NVIDIA driver, CUDA and cuDNN (pip install 'onnxruntime-gpu[cuda,cudnn]')"
            raise DeviceError(f"{what} does not work here: {note}; it needs {needs}, or take --provider cpu")
    try:
        return Opened(_session(ort, model, [offered["cpu"]], threads, spinning), "cpu", note)
    except Exception as error:  # its exceptions have no common base below Exception
        raise ModelError(f"onnxruntime can't read it: {reason(error)}") from error


def providers(ort: Any) -> dict[str, str]:
    """Onnxruntime's names of the providers that it is built with, by short ones: of XyzExecutionProvider `xyz`."""
    names = {name.removesuffix("ExecutionProvider").lower(): name for name in ort.get_available_providers()}
    return names | (dict.fromkeys(_OPTIONS, names["cuda"]) if "cuda" in names else {})


def is_cuda(provider: str) -> bool:
    """Whether a provider, as `providers` calls it, is CUDA, of whatever precision."""
    return provider in _OPTIONS


def _not_offered(ort: Any, wanted: str, offered: dict[str, str]) -> DeviceError:
    if is_cuda(wanted):
        return DeviceError(
            "CUDA is not available: the installed onnxruntime is built without it; "
            "pip uninstall -y onnxruntime && pip install onnxruntime-gpu, or take --provider cpu"
        )
    return DeviceError(
        f"onnxruntime {ort.__version__} as it is installed has no provider {wanted[:40]!r}; it has "
        f"{', '.join(sorted(offered))}: choose one of these or auto, or install the onnxruntime that has it"
    )


def _why_not_on(session: Any, name: str) -> str:
    """Why a session doesn't run on a provider, or empty if it does: onnxruntime falls back to the CPU in silence."""
    if name not in session.get_providers():
        return "onnxruntime fell back to the CPU"
    # Since 1.24 it can say what runs where. A provider may be there and take nothing, as Azure's does.
    told = getattr(session, "get_provider_graph_assignment_info", None)
    if told and not any(part.ep_name == name for part in told()):
        return "it takes no operator of this model, all would run on the CPU"
    return ""


def _refuse_external(content: bytes) -> None:
    # onnxruntime would look for these files in the current folder, and nobody knows what is in them.
    files = read_outline(content).external
    if files:
        names = ", ".join(files)[:200] or "without a name"
        raise ModelError(
            f"it keeps weights in other files ({names}), and a model is one file here; make one of it: "
            "onnx.save(onnx.load(FILE), FILE) in Python, or dcgan-export"
        )


def _startable(count: int) -> int:
    """How many of `count` threads can be started: tried out, since limits come from many sides.

    onnxruntime waits for ever for a thread that it can't start, deaf to signals. One thread takes a fifth of a
    millisecond.
    """
    if not count:
        return 0

    def running() -> int:
        try:
            return len(os.listdir("/proc/self/task"))  # noqa: PTH208  a fifth of the time of pathlib
        except OSError:  # not Linux
            return 0

    def wait() -> None:
        with gate:
            pass

    gate = _thread.allocate_lock()
    gate.acquire()
    before, started = running(), 0
    size = _thread.stack_size()
    with contextlib.suppress(ValueError):  # the least that a system takes differs
        _thread.stack_size(_SMALL_STACK)
    try:
        while started < count:
            _thread.start_new_thread(wait, ())
            started += 1
    except RuntimeError:  # there are no more
        pass
    finally:
        _thread.stack_size(size)
        gate.release()
    # One that has ended in Python still counts until the system has seen it end.
    deadline = time.monotonic() + 1.0
    while running() > before and time.monotonic() < deadline:
        time.sleep(1e-4)
    return started


def _session(ort: Any, model: bytes | str, providers: list[Any], threads: int, spinning: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1  # the graph is one line of layers
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if len(providers) > 1:  # for _why_not_on
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Its fallback prints to stdout and would hide the reason.
    return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)


def _preload(ort: Any) -> str:
    """Load CUDA's libraries from the wheels that pip installs, where there are any; what was said about failures."""
    if not hasattr(ort, "preload_dlls"):  # before onnxruntime 1.21
        return ""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        ort.preload_dlls()
    return said.getvalue().partition("\n")[0].strip()


def cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: its affinity, and the CPU quota of its control groups, rounded up.

    Args:
        root: where `proc` and `sys` are mounted.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    quotas = [quota for folder in _cgroup_folders(root) if (quota := _quota(folder)) is not None]
    return max(1, min([count, *(math.ceil(quota) for quota in quotas)]))


def _cgroup_folders(root: Path) -> list[Path]:
    """The folders that may limit this process: its own control group and all above it, of version 2 and 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "-", "")
        if controllers == "":
            mounts = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "cpu" in controllers.split(","):
            mounts = [root / "sys/fs/cgroup/cpu", root / "sys/fs/cgroup/cpu,cpuacct"]
        else:
            continue
        for mount in mounts:
            # Inside a container the path may be that of the host: what doesn't exist is passed over.
            own = mount / path.lstrip("/")
            folders += [own, *(folder for folder in own.parents if folder.is_relative_to(mount))]
    return folders


def _quota(folder: Path) -> float | None:
    """Cores that a control group grants, or None where it sets no limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        limit = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None
    return limit if limit > 0.0 else None  # version 1 writes -1 for no limit


def reason(error: Exception) -> str:
    """What an exception says, as one line without onnxruntime's own brackets."""
    text = first_line(error, limit=400)
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    text = re.sub(r"^/\S+:\d+ .*?\) (?=[A-Z])", "", text)  # a line of its sources, and a function
    return text if len(text) <= 200 else text[:197] + "..."


def spec_of(session: Any) -> GeneratorSpec:
    """The spec inside a model, compared with the model's own inputs and outputs.

    Args:
        session: an onnxruntime InferenceSession.
    Raises:
        ModelError: there is no spec, or the inputs and outputs are others than it says.
    """
    try:
        text = session.get_modelmeta().custom_metadata_map.get(SPEC_KEY)
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise ModelError(f"it carries no generator spec (metadata {SPEC_KEY}); write it with dcgan-export")
    try:
        spec = GeneratorSpec.from_json(text)
    except SpecError as error:
        raise ModelError(str(error)) from error
    try:
        found = _signature(session)
    except UnicodeDecodeError:  # onnxruntime hands names on as they are
        raise ModelError("the name of an input or output is no text") from None
    inputs = [f"z: tensor(float) of (N, {spec.latent_dim})"]
    if any(node.startswith("seed: ") for node in found):
        inputs = ["seed: tensor(int64) of ()", "n: tensor(int64) of ()"]
    if spec.num_classes:
        inputs.append("label: tensor(int64) of (N)")
    floats, pictures = (
        f"image: tensor({kind}) of ({', '.join(map(str, ('N', *shape)))})"
        for kind, shape in (("float", spec.image_shape), ("uint8", spec.picture_shape))
    )
    if found not in ([*inputs, floats], [*inputs, pictures]):
        raise ModelError(
            f"its inputs and outputs are not what its spec says; expected {[*inputs, floats]}, or {pictures!r}, "
            f"found {found}"
        )
    return spec


def _signature(session: Any) -> list[str]:
    """Name, type and shape of each input and output."""
    return [
        f"{node.name}: {node.type} of ({', '.join(str(size) if isinstance(size, int) else 'N' for size in node.shape)})"
        for node in (*session.get_inputs(), *session.get_outputs())
    ]
