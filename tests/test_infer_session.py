"""The generator behind dcgan-infer: what it opens, what it refuses, and that an image depends on its latent alone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dcgan_infer import DigitGenerator, runtime, shipped
from dcgan_infer.contract.errors import DeviceError, LatentError, ModelError, RuntimeMissingError
from dcgan_infer.contract.latents import latents
from dcgan_infer.contract.spec import GeneratorSpec

PLAIN = "dcgan-mnist"  # the unconditional model; tests/test_conditional.py is about the other
MODEL = shipped.path_of(PLAIN, ".onnx")
Images = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def generator() -> DigitGenerator:
    return DigitGenerator(PLAIN, provider="cpu", threads=1)


def differ(a: Images, b: Images) -> int:
    """Grey levels that the worst pixel is apart."""
    return int(np.abs(a.astype(int) - b).max())


def test_the_shipped_model_makes_digits(generator: DigitGenerator) -> None:
    digits = generator.generate(64, seed=0)
    assert digits.dtype == np.uint8
    assert digits.shape == (64, 28, 28)
    # White strokes on black: a mean like MNIST's 33, both ends of the scale in nearly every image.
    assert 25 < digits.mean() < 42
    assert (digits.max(axis=(1, 2)) > 250).all()
    assert (np.median(digits, axis=(1, 2)) == 0).all()
    assert len({digit.tobytes() for digit in digits}) == 64
    assert generator.spec == GeneratorSpec()


@pytest.mark.parametrize("batch_size", [1, 7, 16, 64])
@pytest.mark.parametrize("threads", [1, 2])
def test_image_i_is_the_same_whatever_the_batch_and_the_threads(
    generator: DigitGenerator, batch_size: int, threads: int
) -> None:
    other = DigitGenerator(PLAIN, provider="cpu", threads=threads)
    assert other._session.get_session_options().intra_op_num_threads == threads
    assert differ(generator.generate(70, seed=5), other.generate(70, seed=5, batch_size=batch_size)) <= 1


def test_a_range_is_part_of_the_whole(generator: DigitGenerator) -> None:
    whole = generator.generate(40, seed=5)
    assert differ(whole[30:33], generator.generate(3, seed=5, start=30)) <= 1
    assert differ(whole[:40], generator.generate(40, seed=6)) > 100


def test_streaming_latents_and_own_latents_give_the_same(generator: DigitGenerator) -> None:
    whole = generator.generate(40, seed=5)
    parts = list(generator.stream(40, seed=5))
    assert [len(part) for part in parts] == [16, 16, 8]
    assert np.array_equal(whole, np.concatenate(parts))
    assert np.array_equal(whole, generator.generate_from(latents(5, 0, 40, 100)))
    assert np.array_equal(whole, generator.generate_from(latents(5, 0, 40, 100).astype(np.float64)))


@pytest.mark.parametrize("batch_size", [1, 16, 48, 200])
def test_latents_come_without_gap_or_repeat(generator: DigitGenerator, batch_size: int) -> None:
    blocks = [block.z for block in generator.blocks(300, seed=5, start=7, batch_size=batch_size)]
    assert np.array_equal(np.concatenate(blocks), latents(5, 7, 300, 100))
    assert all(len(block) % batch_size == 0 for block in blocks[:-1])
    own = [block.z for block in generator.blocks(300, z=latents(5, 7, 300, 100), batch_size=batch_size)]
    assert [len(block) for block in own] == [len(block) for block in blocks]
    assert np.array_equal(np.concatenate(own), np.concatenate(blocks))


def test_a_stream_of_a_billion_starts_at_once(generator: DigitGenerator) -> None:
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
    ],
)
def test_impossible_latents_are_refused(generator: DigitGenerator, call: Callable[[DigitGenerator], Images]) -> None:
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


SPEC = json.loads(GeneratorSpec().to_json())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: b"", "onnxruntime can't read it"),
        (lambda content: content[: len(content) // 2], "onnxruntime can't read it"),
        (lambda content: b"\x89PNG\r\n\x1a\n" + bytes(64), "onnxruntime can't read it"),
        (lambda content: b"version https://example.org\n", "onnxruntime can't read it"),
        (lambda content: content.replace(b"dcgan.spec", b"dcgan.speck"[:10].replace(b"n", b"m")), "no generator spec"),
        (lambda content: with_metadata(content, "dcgan.spec", "{}"), "schema None"),
        (lambda content: with_metadata(content, "dcgan.spec", json.dumps(SPEC | {"schema": 2})), "schema 2"),
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
        DigitGenerator(path, provider="cpu")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # onnxruntime's own log stays quiet


def test_that_the_damage_above_is_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(with_metadata(MODEL.read_bytes(), "dcgan.spec", json.dumps(SPEC)))
    assert DigitGenerator(path, provider="cpu").spec == GeneratorSpec()


def test_a_model_that_returns_nan_is_refused(tmp_path: Path) -> None:
    content = MODEL.read_bytes()
    at = len(content) // 2 & ~3  # in the middle of the weights
    path = tmp_path / "model.onnx"
    path.write_bytes(content[:at] + b"\xff" * 4096 + content[at + 4096 :])
    with pytest.raises(ModelError, match="NaN or infinity"):
        DigitGenerator(path, provider="cpu").generate(1)


@pytest.mark.parametrize("name", ["nothing", "nothing.onnx", "."])
def test_missing_models_are_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no model 'nothing.*dcgan-mnist|is a folder"):
        DigitGenerator(name)


@pytest.mark.parametrize("content", [(2).to_bytes(8, "little") + b"{}", b"PK\x03\x04" + bytes(64)])
def test_a_checkpoint_says_how_to_make_a_model_of_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "generator.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"can't read it: .*; make an ONNX file of the checkpoint with dcgan-export"):
        DigitGenerator(path, provider="cpu")
    path.write_bytes(MODEL.read_bytes())  # whatever its name
    assert DigitGenerator(path, provider="cpu").spec.latent_dim == 100


def cuda_offered() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.skipif(cuda_offered(), reason="this onnxruntime is built with CUDA")
def test_cuda_is_refused_with_the_reason_where_it_is_not_built_in() -> None:
    with pytest.raises(DeviceError, match=r"built without it.*--provider cpu"):
        DigitGenerator(PLAIN, provider="cuda")
    assert DigitGenerator(PLAIN, provider="auto").provider == "cpu"


class Offering:
    """onnxruntime as a GPU build that can't load CUDA: it offers the provider, and sessions quietly run on the CPU."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, model: bytes, options: Any, **_arguments: Any) -> Any:  # noqa: N802
        assert options.log_severity_level == 4  # a GPU build writes its reasons to stderr otherwise
        return self._module.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def test_a_session_that_fell_back_to_the_cpu_is_not_taken_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    offering = Offering(runtime.onnxruntime())
    monkeypatch.setattr(runtime, "onnxruntime", lambda: offering)
    with pytest.raises(DeviceError, match="CUDA does not work here"):
        DigitGenerator(PLAIN, provider="cuda")
    generator = DigitGenerator(PLAIN, provider="auto")
    assert generator.provider == "cpu"
    assert generator.note


def test_unknown_providers_are_refused() -> None:
    with pytest.raises(DeviceError, match="choose from auto, cpu, cuda"):
        DigitGenerator(PLAIN, provider="tpu")


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
