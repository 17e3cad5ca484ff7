"""The generator behind dcgan-infer: what it opens, what it refuses, and that an image depends on its latent alone."""

from __future__ import annotations

import _thread
import base64
import copy
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import MODELS, OLD, ROOT
from PIL import Image

from dcgan_infer import ImageGenerator, Images, runtime, shipped
from dcgan_infer.contract.errors import DeviceError, LatentError, ModelError, RuntimeMissingError
from dcgan_infer.contract.golden import parse_golden
from dcgan_infer.contract.latents import latents
from dcgan_infer.contract.spec import GeneratorSpec, Interface, reference_spec
from dcgan_infer.inputs import class_numbers
from dcgan_infer.model import open_model

PLAIN = "dcgan-mnist"  # the unconditional model; tests/test_conditional.py is about the other
MODEL = shipped.path_of(PLAIN, ".onnx")
Pictures = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def generator() -> ImageGenerator:
    return ImageGenerator(PLAIN, provider="cpu", threads=1)


def differ(a: Pictures, b: Pictures) -> int:
    """Grey levels that the worst pixel is apart."""
    return int(np.abs(a.astype(int) - b).max())


def test_the_shipped_model_makes_digits(generator: ImageGenerator) -> None:
    digits = generator.generate(64, seed=0)
    assert digits.dtype == np.uint8
    assert digits.shape == (64, 28, 28)
    # White strokes on black: a mean like MNIST's 33, both ends of the scale in nearly every image.
    assert 25 < digits.mean() < 42
    assert (digits.max(axis=(1, 2)) > 250).all()
    assert (np.median(digits, axis=(1, 2)) == 0).all()
    assert len({digit.tobytes() for digit in digits}) == 64
    assert generator.spec == reference_spec()


@pytest.mark.parametrize("batch_size", [1, 7, 16, 64])
@pytest.mark.parametrize("threads", [1, 2])
def test_image_i_is_the_same_whatever_the_batch_and_the_threads(
    generator: ImageGenerator, batch_size: int, threads: int
) -> None:
    other = ImageGenerator(PLAIN, provider="cpu", threads=threads)
    assert other.model._session.get_session_options().intra_op_num_threads == threads
    assert differ(generator.generate(70, seed=5), other.generate(70, seed=5, batch_size=batch_size)) <= 1


def test_a_range_is_part_of_the_whole(generator: ImageGenerator) -> None:
    whole = generator.generate(40, seed=5)
    assert differ(whole[30:33], generator.generate(3, seed=5, start=30)) <= 1
    assert differ(whole[:40], generator.generate(40, seed=6)) > 100


def test_streaming_latents_and_own_latents_give_the_same(generator: ImageGenerator) -> None:
    whole = generator.generate(40, seed=5)
    parts = list(generator.stream(40, seed=5))
    assert [len(part) for part in parts] == [16, 16, 8]
    assert np.array_equal(whole, np.concatenate(parts))
    assert np.array_equal(whole, generator.generate_from(latents(5, 0, 40, 100)))
    assert np.array_equal(whole, generator.generate_from(latents(5, 0, 40, 100).astype(np.float64)))


@pytest.mark.parametrize("batch_size", [1, 16, 48, 200])
def test_latents_come_without_gap_or_repeat(generator: ImageGenerator, batch_size: int) -> None:
    blocks = [block.z for block in generator.blocks(300, seed=5, start=7, batch_size=batch_size)]
    assert np.array_equal(np.concatenate(blocks), latents(5, 7, 300, 100))
    assert all(len(block) % batch_size == 0 for block in blocks[:-1])
    own = [block.z for block in generator.blocks(300, z=latents(5, 7, 300, 100), batch_size=batch_size)]
    assert [len(block) for block in own] == [len(block) for block in blocks]
    assert np.array_equal(np.concatenate(own), np.concatenate(blocks))


def test_threads_may_share_a_generator(generator: ImageGenerator) -> None:
    expected = [generator.generate(20, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            found = list(pool.map(lambda seed: generator.generate(20, seed=seed), range(8)))
            assert all(map(np.array_equal, found, expected))


def test_copies_and_pickles_open_the_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODELS / "clothes.onnx", "m.onnx")
    generator = ImageGenerator("m.onnx", provider="cpu", threads=2)
    expected = generator.generate(3, seed=4)
    twin = copy.deepcopy(generator)
    assert twin.model is not generator.model
    assert np.array_equal(twin.generate(3, seed=4), expected)
    Path("generator.pickle").write_bytes(pickle.dumps(generator))
    code = (
        "import pickle, sys, hashlib; generator = pickle.load(open(sys.argv[1], 'rb'));"
        "print(generator.threads, generator.model._session.get_session_options().intra_op_num_threads,"
        " generator.model.provider, hashlib.sha256(generator.generate(3, seed=4)).hexdigest())"
    )
    (tmp_path / "elsewhere").mkdir()  # a relative path is one of where it was opened
    monkeypatch.chdir("elsewhere")
    assert np.array_equal(copy.deepcopy(generator).generate(3, seed=4), expected)
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", code, str(tmp_path / "generator.pickle")]
    done = subprocess.run(command, cwd="elsewhere", capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "2", "cpu", hashlib.sha256(expected.tobytes()).hexdigest()]
    shutil.copy(MODELS / "colour.onnx", "m.onnx")
    with pytest.raises(ModelError, match=r"m.onnx has changed since it was opened: its sha256 was"):
        pickle.loads(Path("generator.pickle").read_bytes())
    Path("m.onnx").unlink()
    with pytest.raises(ModelError, match="there is no model"):
        copy.copy(generator.model)


def test_a_stream_of_a_billion_starts_at_once(generator: ImageGenerator) -> None:
    assert len(next(generator.stream(10**9))) == 16


@pytest.mark.parametrize(
    "call",
    [
        lambda generator: generator.generate(0),
        lambda generator: generator.generate(1, seed=-1),
        lambda generator: generator.generate(1, seed=1 << 63),
        lambda generator: generator.generate(2, start=(1 << 32) - 1),
        lambda generator: generator.generate_from(np.zeros((2, 99), np.float32)),
        lambda generator: generator.generate_from(np.zeros((0, 100), np.float32)),
        lambda generator: generator.generate_from(np.full((1, 100), np.nan, np.float32)),
        lambda generator: generator.generate_from(np.full((1, 100), 3e38, np.float32)),
        lambda generator: generator.generate_from(np.full((1, 100), -np.inf)),
    ],
)
def test_impossible_latents_are_refused(generator: ImageGenerator, call: Callable[[ImageGenerator], Pictures]) -> None:
    with pytest.raises(LatentError):
        call(generator)


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes((low | 0x80,)) + varint(rest) if rest else bytes((low,))


def with_metadata(content: bytes, key: str, value: str) -> bytes:
    """An ONNX model with one more `metadata_props` entry, the last of a key wins: protobuf fields are just appended."""
    pairs = b"".join(
        bytes((tag,)) + varint(len(text)) + text for tag, text in ((0x0A, key.encode()), (0x12, value.encode()))
    )
    return content + b"\x72" + varint(len(pairs)) + pairs  # ModelProto field 14, then StringStringEntryProto 1 and 2


SPEC = json.loads(GeneratorSpec().to_json())  # without layers, which say the sizes a second time


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: b"", "it is no ONNX file"),
        (lambda content: content[: len(content) // 2], "it is truncated or no ONNX file"),
        (lambda content: b"\x89PNG\r\n\x1a\n" + bytes(64), "it is no ONNX file"),
        (lambda content: b"version https://example.org\n", "it is no ONNX file"),
        (lambda content: content.replace(b"\x22\x04Relu", b"\x22\x04Rulu"), "onnxruntime can't read it"),
        (lambda content: content.replace(b"dcgan.spec", b"dcgan.speck"[:10].replace(b"n", b"m")), "no generator spec"),
        (lambda content: with_metadata(content, "dcgan.spec", "{}"), "schema None"),
        (lambda content: with_metadata(content, "dcgan.spec", json.dumps(SPEC | {"schema": 3})), "schema 3"),
        (
            lambda content: with_metadata(content, "dcgan.spec", json.dumps(SPEC | {"latent_dim": 64})),
            "not what its spec",
        ),
        (
            lambda content: with_metadata(content, "dcgan.spec", json.dumps(SPEC | {"num_classes": 10})),
            "expected .*label",
        ),
    ],
)
def test_models_that_can_not_be_used_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], change: Callable[[bytes], bytes], says: str
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(change(MODEL.read_bytes()))
    with pytest.raises(ModelError, match=says) as caught:
        ImageGenerator(path, provider="cpu")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # onnxruntime's own log stays quiet


# A Loop whose body has an initializer for an input: opening it ended the process before onnxruntime 1.31 (its #32609).
LOOP = base64.b64decode(
    "CAg6gAIKxQEKAW4KAWMKAXgSAXkiBExvb3AqsAEKBGJvZHkypAEKHQoHY29uZF9pbhIIY29uZF9vdXQiCElkZW50aXR5ChgKBHhfaW4KBHhfaW4S"
    "BXhfb3V0IgNBZGQSBGJvZHkqDhABQgR4X2luSgQAAIA/WgsKAWkSBgoECAcSAFoRCgdjb25kX2luEgYKBAgJEgBaDgoEeF9pbhIGCgQIARIAYhIK"
    "CGNvbmRfb3V0EgYKBAgJEgBiDwoFeF9vdXQSBgoECAESAKABBRIBZyoPEAdCAW5KCAMAAAAAAAAAKggQCUIBY0oBAVoLCgF4EgYKBAgBEgBiCwoB"
    "eRIGCgQIARIAQgQKABAR"
)


def test_a_file_that_kills_older_runtimes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loop.onnx"
    path.write_bytes(LOOP)
    command = [sys.executable, "-m", "dcgan_infer", "--model", str(path), "--out", str(tmp_path / "grid.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr


def test_that_the_damage_above_is_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(with_metadata(MODEL.read_bytes(), "dcgan.spec", json.dumps(SPEC)))
    assert ImageGenerator(path, provider="cpu").spec == GeneratorSpec()


def test_a_model_that_returns_nan_is_refused(tmp_path: Path) -> None:
    content = MODEL.read_bytes()
    at = len(content) // 2 & ~3  # in the middle of the weights
    path = tmp_path / "model.onnx"
    path.write_bytes(content[:at] + b"\xff" * 4096 + content[at + 4096 :])
    with pytest.raises(ModelError, match="NaN or infinity"):
        ImageGenerator(path, provider="cpu").generate(1)


@pytest.mark.parametrize("name", ["nothing", "nothing.onnx", "."])
def test_missing_models_are_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no model 'nothing.*dcgan-mnist|is a folder"):
        ImageGenerator(name)


def archive(*members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for member in members:
            made.writestr(zipfile.ZipInfo(member), "")  # of a fixed time: names of tests are made of this
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ((2).to_bytes(8, "little") + b"{}", "a safetensors checkpoint; .* dcgan-export {path} --out generator.onnx"),
        (archive("x/data.pkl"), "a checkpoint as torch.save writes it; .* dcgan-export {path} --out generator.onnx"),
        (b"\x80\x02" + bytes(64), "a pickle, as torch.save once wrote; .* dcgan-export {path} --out generator.onnx"),
        (archive("x/data.pkl", "x/code/__torch__.py"), "TorchScript, .* dcgan-export CHECKPOINT --out generator.onnx"),
        (archive("x/archive_format", "x/data.pkl"), "a pt2 archive of torch.export, .* dcgan-export CHECKPOINT"),
        (archive("readme"), "a zip archive; expected an ONNX file"),
        (archive("x/data.pkl")[:-9], "a zip archive, and a truncated one"),
    ],
)
def test_a_checkpoint_says_how_to_make_a_model_of_it(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "generator.onnx"  # whatever its name
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"can't use model {path}: this is {says.format(path=path)}"):
        ImageGenerator(path, provider="cpu")
    path = path.rename(tmp_path / "generator.pt")
    path.write_bytes(MODEL.read_bytes())
    assert ImageGenerator(path, provider="cpu").spec.latent_dim == 100


def test_of_a_folder_its_only_onnx_file_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{tmp_path} is a folder without an ONNX file"):
        ImageGenerator(tmp_path)
    (tmp_path / "options.json").touch()
    with pytest.raises(
        ModelError, match=f"is a run folder; .* dcgan-export {tmp_path} --out {re.escape(tmp_path.name)}.onnx"
    ):
        ImageGenerator(tmp_path)
    shutil.copy(MODELS / "colour.onnx", tmp_path)
    assert ImageGenerator(tmp_path, provider="cpu").name == "colour"
    shutil.copy(MODELS / "four.onnx", tmp_path)
    with pytest.raises(ModelError, match=r"2 ONNX files \(colour.onnx, four.onnx\); name one"):
        ImageGenerator(tmp_path)


def cuda_offered() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.skipif(cuda_offered(), reason="this onnxruntime is built with CUDA")
def test_cuda_is_refused_with_the_reason_where_it_is_not_built_in() -> None:
    with pytest.raises(DeviceError, match=r"built without it.*--provider cpu"):
        ImageGenerator(PLAIN, provider="cuda")
    model = ImageGenerator(PLAIN, provider="auto").model
    assert (model.provider, model.note) == ("cpu", "the installed onnxruntime has no CUDA")


class Offering:
    """onnxruntime as a GPU build that can't load CUDA: it offers the provider, and sessions quietly run on the CPU."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.wanted: list[Any] = []  # of the last session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "SlowExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, model: bytes, options: Any, providers: list[Any], **_arguments: Any) -> Any:  # noqa: N802
        self.wanted = providers
        assert options.log_severity_level == 4  # a GPU build writes its reasons to stderr otherwise
        return self._module.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def test_a_session_that_fell_back_to_the_cpu_is_not_taken_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    offering = Offering(runtime.onnxruntime())
    monkeypatch.setattr(runtime, "onnxruntime", lambda: offering)
    for name, rounded in (("cuda", "0"), ("cuda-tf32", "1")):
        with pytest.raises(DeviceError, match="CUDA does not work here"):
            ImageGenerator(PLAIN, provider=name)
        assert offering.wanted[0] == ("CUDAExecutionProvider", {"use_tf32": rounded})
    generator = ImageGenerator(PLAIN, provider="auto")
    assert generator.model.provider == "cpu"
    assert generator.model.note == "onnxruntime fell back to the CPU"
    with pytest.raises(
        DeviceError, match="provider slow does not work here: onnxruntime fell back to the CPU; it needs"
    ):
        ImageGenerator(PLAIN, provider="slow")


@pytest.mark.parametrize(
    ("provider", "side", "size"),
    [
        ("cpu", 28, 16),
        ("cuda", 28, 1024),
        ("cuda-tf32", 64, 256),
        ("cuda", 256, 16),
        ("cuda", 4096, 16),
        ("cuda", 4, 1024),
        ("openvino", 28, 16),
    ],
)
def test_a_gpu_gets_larger_batches(provider: str, side: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = ImageGenerator(PLAIN)
    monkeypatch.setattr(generator.model, "provider", provider)
    monkeypatch.setattr(generator.model, "spec", replace(generator.spec.interface, image_shape=(1, side, side)))
    assert generator.batch() == size
    assert generator.batch(3) == 3


def test_the_reason_of_a_provider_is_what_people_read() -> None:
    said = RuntimeError("/onnxruntime_src/python/state.cc:729 void onnxruntime::F(A&, const B&) Please install")
    assert runtime.reason(said) == "Please install"
    assert runtime.reason(RuntimeError("[ONNXRuntimeError] : 1 : FAIL : No (GPU) Here")) == "No (GPU) Here"


def test_providers_are_those_of_the_installed_onnxruntime() -> None:
    ort = runtime.onnxruntime()
    names = runtime.providers(ort)
    assert names["cpu"] == "CPUExecutionProvider"
    assert list(dict.fromkeys(names.values())) == ort.get_available_providers()
    with pytest.raises(
        DeviceError, match=f"{ort.__version__} .* no provider 'tpu'; it has {', '.join(sorted(names))}: "
    ):
        ImageGenerator(PLAIN, provider="tpu")


@pytest.mark.skipif("azure" not in runtime.providers(runtime.onnxruntime()), reason="this onnxruntime has no Azure")
def test_a_provider_that_takes_nothing_is_not_said_to_run_the_model() -> None:
    """A session names it, and runs every operator on the CPU."""
    with pytest.raises(DeviceError, match="provider azure does not work here: it takes no operator of this model"):
        ImageGenerator(PLAIN, provider="azure")


def test_a_missing_or_doubled_onnxruntime_is_said_with_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeMissingError, match="pip install onnxruntime"):
        runtime.onnxruntime()
    for name in ("onnxruntime-1.32.0", "onnxruntime_gpu-1.32.0"):
        (tmp_path / f"{name}.dist-info").mkdir()
        if name.startswith("onnxruntime-"):
            runtime._refuse_doubled(tmp_path)
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    monkeypatch.undo()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(RuntimeMissingError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        runtime.onnxruntime()


def test_threads_that_can_not_be_had_are_refused_before_onnxruntime_waits_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, left = _thread.start_new_thread, 5

    def limited(*arguments: Any) -> int:
        nonlocal left
        if not left:
            raise RuntimeError("can't start new thread")
        left -= 1
        return start(*arguments)

    monkeypatch.setattr(_thread, "start_new_thread", limited)
    with pytest.raises(DeviceError, match="the process can have 6 threads, asked for 8; take --threads 6, or"):
        ImageGenerator(PLAIN, provider="cpu", threads=8)
    left = 5
    assert ImageGenerator(PLAIN, provider="cpu", threads=6).threads == 6
    assert left == 0
    assert _thread.stack_size() == 0  # as before


@pytest.mark.parametrize("home", ["empty", "missing", "/dev/null", None])
def test_onnxruntime_writes_nothing_and_asks_nobody(home: str | None, tmp_path: Path) -> None:
    """Without ORT_DISABLE_TELEMETRY it makes ~/.cache/Microsoft with an identity and a database."""
    (tmp_path / "empty").mkdir()
    surroundings = {name: value for name, value in os.environ.items() if name not in ("HOME", "ORT_DISABLE_TELEMETRY")}
    if home is not None:
        surroundings["HOME"] = str(tmp_path / home)
    code = f"from dcgan_infer import ImageGenerator; ImageGenerator({PLAIN!r}).generate(1)"
    done = subprocess.run([sys.executable, "-c", code], env=surroundings, capture_output=True, check=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize(("wish", "found"), [("0", "0"), ("", "1")])
def test_a_wish_for_telemetry_is_left_alone(wish: str, found: str) -> None:
    surroundings = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    surroundings |= {"ORT_DISABLE_TELEMETRY": wish} if wish else {}
    code = "import os, dcgan_infer; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", code], env=surroundings, capture_output=True, check=True, text=True)
    assert done.stdout == f"{found}\n"


def test_whoever_imports_onnxruntime_switches_its_telemetry_off() -> None:
    """Or imports dcgan_infer, which does. Of the tests conftest.py does it for all."""
    folders = ("infer", "export", "dcgan", "examples", "benchmarks", "tools", "docs")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")]
    imports = re.compile(r"^\s*(import (.*, *)?onnxruntime\b(?!-)|from onnxruntime\b)", re.MULTILINE)
    found = [path for path in files if imports.search(path.read_text())]
    assert len(found) > 5
    assert [path for path in found if "ORT_DISABLE_TELEMETRY" not in path.read_text()] == []


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/host/only\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "garbage\n\n:\n", "sys/fs/cgroup/cpu.max": "what\n"}, None),
    ],
)
def test_threads_keep_to_the_quota_of_the_control_group(
    tmp_path: Path, files: dict[str, str], limit: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    allowed = len(os.sched_getaffinity(0))
    assert runtime.cores(tmp_path) == (allowed if limit is None else min(limit, allowed))


# Models of other images than grey ones: tests/fixtures/models/make.py.


@pytest.mark.parametrize("name", ["colour.onnx", "colour-uint8.onnx", "clothes.onnx", "clothes-uint8.onnx"])
def test_colour_images_of_either_range_and_kind(name: str) -> None:
    generator = ImageGenerator(MODELS / name, provider="cpu", threads=1)
    path = MODELS / f"{re.split('[-.]', name)[0]}.golden"
    golden = parse_golden(path.read_bytes(), path)
    images = generator.generate(20, seed=0, classes=range(3) if generator.spec.num_classes else None)
    assert images.shape == (20, 4, 6, 3)
    assert images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 20
    assert differ(images, golden.image_uint8) <= 1


def test_classes_have_names() -> None:
    generator = ImageGenerator(MODELS / "clothes.onnx", provider="cpu", threads=1)
    boots = generator.generate(4, seed=0, classes=1)
    assert np.array_equal(boots, generator.generate(4, seed=0, classes="ankle boot"))
    assert np.array_equal(boots, generator.generate(4, seed=0, classes="1"))
    assert not np.array_equal(boots, generator.generate(4, classes="sneaker"))
    turn = generator.labels(5, start=1, classes=["T-shirt, top", 0, "ankle boot"])
    assert turn.tolist() == [0, 1, 2, 0, 1]
    own = generator.generate_from(latents(0, 0, 2, 5), ["ankle boot", 1])
    assert np.array_equal(own, boots[:2])


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ("sneeker", "no class 'sneeker'; did you mean sneaker"),
        ("SNEAKER", "did you mean sneaker"),
        ("hat", "no class 'hat'; its classes are sneaker, ankle boot, T-shirt, top$"),
        ("3", "no class '3'"),
        (3, "label 3 of image 0 is none of this model's, 0 to 2"),
        ([], "no classes are asked for"),
    ],
)
def test_unknown_classes_are_refused_with_those_that_there_are(classes: Any, says: str) -> None:
    generator = ImageGenerator(MODELS / "clothes.onnx", provider="cpu", threads=1)
    with pytest.raises(LatentError, match=says):
        generator.generate(1, classes=classes)


def test_of_many_names_a_message_has_the_first_dozen() -> None:
    interface = Interface(num_classes=20, class_names=tuple(f"kind{number}" for number in range(20)))
    with pytest.raises(LatentError, match=r"kind0, .*, kind11, \.\.\.$"):
        class_numbers("hat", interface)
    # A name goes before a number.
    assert class_numbers(["1", "2"], Interface(num_classes=2, class_names=("2", "1"))).tolist() == [1, 0]


def test_digits_are_asked_for_where_classes_are_digits() -> None:
    with pytest.raises(LatentError, match="not the ten digits; ask for a class: it has 3, from sneaker to T-shirt"):
        ImageGenerator(MODELS / "clothes.onnx", provider="cpu").generate(1, digits=1)
    with pytest.raises(LatentError, match="exclude each other"):
        ImageGenerator(OLD / "conditional-plain.onnx", provider="cpu").generate(1, digits=1, classes=1)


@pytest.mark.parametrize("options", [{}, {"start": 7}, {"digits": 3}, {"start": 7, "digits": [1, 2, 3]}])
def test_a_model_that_takes_a_seed_makes_the_same_images(options: dict[str, Any]) -> None:
    """conditional-seed.onnx and conditional-uint8.onnx have the same weights."""
    ours, peer = (
        ImageGenerator(OLD / f"conditional-{form}.onnx", provider="cpu", threads=1) for form in ("seed", "uint8")
    )
    assert ours.model.takes_seed > peer.model.takes_seed
    assert differ(ours.generate(20, seed=5, **options), peer.generate(20, seed=5, **options)) <= 1
    assert np.array_equal(ours.labels(20, seed=5, **options), peer.labels(20, seed=5, **options))
    assert [len(part) for part in ours.stream(20, **options)] == [16, 4]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda model: model.generate(1, truncation=0.5), "so truncation can't be had"),
        (lambda model: model.generate_from(np.zeros((1, 7), np.float32), [0]), "so latents of your own can't be had"),
        (lambda model: model.generate(5, start=9_996), "10,000 at most; 10,001 are needed"),
        (lambda model: model.generate(1, seed=-1), "0 to 2"),
        (lambda model: model.generate(0), "1 or more"),
    ],
)
def test_what_a_model_that_takes_a_seed_can_not_do(call: Callable[[ImageGenerator], Pictures], says: str) -> None:
    with pytest.raises(LatentError, match=says):
        call(ImageGenerator(OLD / "conditional-seed.onnx", provider="cpu", threads=1))


def test_a_model_that_gives_another_shape_or_type_is_refused() -> None:
    model = open_model(MODELS / "colour.onnx")
    feeds = model.feeds_of_seed(0, 3)
    assert model.run(feeds, 3).shape == (3, 3, 4, 6)
    with pytest.raises(ModelError, match=r"float32 of shape \(3, 3, 4, 6\) for a batch of 4, .* \(4, 3, 4, 6\)"):
        model.run(feeds, 4)
    with pytest.raises(ModelError, match="failed while running"):
        model.run({"z": np.zeros((1, 6), np.float32)}, 1)


@pytest.mark.parametrize(("said", "found"), [("1234", 1234), ("many", None), ("0", None), ("9" * 40, None)])
def test_multiply_adds_are_what_the_model_says(said: str, found: int | None, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(with_metadata((MODELS / "colour.onnx").read_bytes(), "dcgan.multiply_adds", said))
    assert open_model(path).multiply_adds == found
    assert open_model(PLAIN).multiply_adds == reference_spec().multiply_adds


def test_the_generator_of_digits_is_another_name() -> None:
    import dcgan_infer

    assert dcgan_infer.DigitGenerator is dcgan_infer.ImageGenerator


def test_a_notebook_shows_pictures() -> None:
    generator = ImageGenerator(threads=1, provider="cpu")
    assert repr(generator) == "<ImageGenerator dcgan-mnist-conditional: 28x28 grey, classes 0 to 9; cpu, 1 thread>"
    images = generator(6, digit=[1, 2], seed=3)
    assert np.array_equal(images, generator.generate(6, digits=[1, 2], seed=3))
    assert np.array_equal(images, generator(6, cls=["1", "2"], seed=3))
    assert isinstance(images, Images)
    sheet = images.grid(columns=2)
    assert np.array_equal(sheet, np.vstack([np.hstack(list(images[first : first + 2])) for first in (0, 2, 4)]))
    assert images.grid().shape == (56, 84)
    for shown, size in (
        (images, (420, 280)),
        (images[0], (476, 476)),
        (sheet, (280, 420)),
        (generator(80), (448, 448)),
    ):
        content = shown._repr_png_()
        assert content is not None
        with Image.open(io.BytesIO(content)) as picture:
            assert abs(picture.size[0] - size[0]) <= 28
            assert abs(picture.size[1] - size[1]) <= 28
    for numbers in (images[:0], images / 255, images[0, 0], images.astype(np.int64)):
        assert isinstance(numbers, Images)
        assert numbers._repr_png_() is None
    with pytest.raises(ValueError, match="a grid is of uint8 images"):
        images[0, 0].grid()
    assert isinstance(pickle.loads(pickle.dumps(images)), Images)


def test_pictures_in_colour_are_shown_and_saved(tmp_path: Path) -> None:
    images = ImageGenerator(MODELS / "colour.onnx", provider="cpu", threads=1)(5)
    for shown in (images, images[0]):
        with Image.open(io.BytesIO(shown._repr_png_() or b"")) as picture:
            assert picture.mode == "RGB"
    images.save(tmp_path / "grid.png", columns=5)
    with Image.open(tmp_path / "grid.png") as picture:
        assert np.array_equal(np.asarray(picture), np.hstack(list(images)))
