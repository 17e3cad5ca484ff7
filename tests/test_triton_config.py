"""What `--target triton` writes, by Triton's definition of config.pbtxt and by its rules. Each rule is seen to fail.

The rules are those of the model configuration and the model repository in Triton's user guide. Its server and its
onnxruntime backend (2.51) load what is written here, and refuse or ignore each of the planted faults.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from exported import export
from google.protobuf import text_format

from dcgan.checkpoint import save_generator
from dcgan.networks import Generator
from dcgan_export.targets import MAX_BATCH, publish_to_triton
from dcgan_infer.contract.errors import ExportError
from dcgan_infer.contract.spec import reference_spec

TYPES = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.UINT8: "TYPE_UINT8",
}


def model_config() -> Any:
    """An empty ModelConfig of Triton's."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None, "pip install tritonclient"
    assert package.origin is not None
    # The one file: the package around it imports gRPC.
    path = Path(package.origin).parent / "grpc" / "model_config_pb2.py"
    file = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert file is not None
    assert file.loader is not None
    module = importlib.util.module_from_spec(file)
    file.loader.exec_module(module)
    return module.ModelConfig()


def violations(model: Path) -> Iterator[str]:
    """What Triton would not take of a model's folder, or would not see.

    Raises:
        text_format.ParseError: config.pbtxt has other fields, types or names than Triton's definition.
    """
    config = text_format.Parse((model / "config.pbtxt").read_text(encoding="utf-8"), model_config())
    data_type = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    if config.name not in ("", model.name):
        yield f"the name {config.name} is not the folder's"
    if config.backend != "onnxruntime" or config.platform not in ("", "onnxruntime_onnx"):
        yield f"backend {config.backend}, platform {config.platform}"
    if config.max_batch_size < 0:
        yield "max_batch_size is negative"
    sizes = config.dynamic_batching.preferred_batch_size
    if any(not 0 < size <= config.max_batch_size for size in sizes):
        yield f"preferred batch sizes {sizes} are not from 1 to max_batch_size"
    folders = [path.name for path in model.iterdir() if path.is_dir()]
    versions = [name for name in folders if name.isdecimal() and name[0] != "0"]
    if versions != folders or not versions:
        yield f"version folders {folders} are not all numbers without a leading zero"
    for version in versions:
        file = model / version / (config.default_model_filename or "model.onnx")
        if not file.is_file():
            yield f"there is no {file.relative_to(model)}"
            continue
        graph = onnx.load(file).graph
        for side, given, found in (("input", config.input, graph.input), ("output", config.output, graph.output)):
            tensors = {value.name: value.type.tensor_type for value in found}
            if sorted(tensors) != sorted(tensor.name for tensor in given):
                yield f"{side}s of the file are {list(tensors)}"
            for tensor in given:
                if tensor.name in tensors:
                    kind = data_type[tensor.data_type].name
                    shape = [size.dim_value or -1 for size in tensors[tensor.name].shape.dim]
                    if kind != TYPES[tensors[tensor.name].elem_type]:
                        yield f"{tensor.name} is no {kind}"
                    yield from (
                        f"{tensor.name}: {what}"
                        for what in _wrong_shapes(tensor, shape, config.max_batch_size > 0, side == "output")
                    )


def _wrong_shapes(tensor: Any, model_shape: list[int], batched: bool, exactly: bool) -> Iterator[str]:
    dims, reshape = list(tensor.dims), list(tensor.reshape.shape)
    if not dims or any(size < 1 and size != -1 for size in (*dims, *reshape)):
        yield "dims must be there, and each be 1 or more, or -1"
    if tensor.HasField("reshape"):
        if not reshape and not batched:
            yield "a reshape to nothing takes a batch"
        if math.prod(dims) != math.prod(reshape):
            yield "the reshape has another number of elements"
    if batched and model_shape[:1] != [-1]:
        yield "the file's first dimension is fixed, or is missing, so there is no batch"
    whole = [-1] * batched + (reshape if tensor.HasField("reshape") else dims)
    if not model_shape:
        if set(whole) != {1}:
            yield "a scalar is written as dims [ 1 ]"
    elif len(whole) != len(model_shape) or any(
        size != fixed and (exactly or fixed != -1) for size, fixed in zip(whole, model_shape, strict=True)
    ):
        yield f"{whole} does not fit the file's {model_shape}"


NAMES = {"conditional": (10, "z", "float"), "grey": (0, "z", "uint8"), "seeded": (10, "seed", "uint8")}


@pytest.fixture(scope="module")
def flushed() -> Iterator[set[int]]:
    """Inodes that os.fsync was called for."""
    found: set[int] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        found.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield found


@pytest.fixture(scope="module")
def repository(flushed: set[int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the models of `NAMES`: number of classes, what it takes, what it gives."""
    folder = tmp_path_factory.mktemp("triton")
    for name, (classes, inputs, image) in NAMES.items():
        spec = reference_spec(6, (1, 8, 8), classes, channels=(8, 6, 4))
        torch.manual_seed(0)
        generator = Generator(spec).eval()
        checkpoint = folder / f"{name}.safetensors"
        save_generator(checkpoint, generator.state_dict(), spec, "{}")
        made = functools.partial(export, checkpoint, image=image, inputs=inputs)
        publish_to_triton(made, folder / "repository", name)
    return folder / "repository"


@pytest.mark.parametrize("name", list(NAMES))
def test_what_is_written_follows_tritons_rules(name: str, repository: Path) -> None:
    assert list(violations(repository / name)) == []


@pytest.mark.parametrize("name", list(NAMES))
def test_an_instance_does_not_take_every_core(name: str, repository: Path) -> None:
    text = (repository / name / "config.pbtxt").read_text()
    assert 'key: "intra_op_thread_count" value: { string_value: "2" }' in text
    assert 'key: "inter_op_thread_count" value: { string_value: "1" }' in text


def test_a_label_that_fails_is_for_its_own_request_alone(repository: Path) -> None:
    joined = {name: "dynamic_batching" in (repository / name / "config.pbtxt").read_text() for name in NAMES}
    assert joined == {"conditional": False, "grey": True, "seeded": False}


def test_all_of_it_is_on_the_disk(repository: Path, flushed: set[int]) -> None:
    for path in (repository, *repository.rglob("*")):
        assert path.stat().st_ino in flushed, path


# Of the conditional model's config.pbtxt: what is replaced by what, and what is said then.
FAULTS = {
    "another name": ("backend:", 'name: "other" backend:', "the name other is not the folder's"),
    "another backend": ('"onnxruntime"', '"pytorch"', "backend pytorch"),
    "another platform": ("backend:", 'platform: "pytorch_libtorch" backend:', "platform pytorch_libtorch"),
    "negative batch": (f"max_batch_size: {MAX_BATCH}", "max_batch_size: -1", "max_batch_size is negative"),
    "preferred batch": (
        "backend:",
        f"dynamic_batching {{ preferred_batch_size: [ {MAX_BATCH + 1} ] }} backend:",
        "preferred batch sizes",
    ),
    "no batch": (f"max_batch_size: {MAX_BATCH}", "max_batch_size: 0", "a reshape to nothing takes a batch"),
    "batch in dims": ("dims: [ 6 ]", "dims: [ -1, 6 ]", "does not fit the file's [-1, 6]"),
    "another size": ("dims: [ 6 ]", "dims: [ 5 ]", "does not fit the file's [-1, 6]"),
    "an open size": ("[ 1, 8, 8 ]", "[ 1, -1, 8 ]", "does not fit the file's [-1, 1, 8, 8]"),
    "zero": ("dims: [ 6 ]", "dims: [ 0 ]", "each be 1 or more, or -1"),
    "no dims": ("dims: [ 6 ]", "", "dims must be there"),
    "no reshape": (" reshape: { shape: [ ] }", "", "does not fit the file's [-1]"),
    "another reshape": ("shape: [ ]", "shape: [ 2 ]", "another number of elements"),
    "another type": ("TYPE_INT64", "TYPE_INT32", "label is no TYPE_INT32"),
    "another input": ('"label"', '"digit"', "inputs of the file are ['z', 'label']"),
    "another output": ('"image"', '"picture"', "outputs of the file are ['image']"),
    "another file": ("backend:", 'default_model_filename: "m.onnx" backend:', "there is no 1/m.onnx"),
}


@pytest.fixture
def planted(repository: Path, tmp_path: Path) -> Path:
    """A copy of the conditional model, to spoil."""
    return Path(shutil.copytree(repository / "conditional", tmp_path / "conditional"))


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_rule_notices_a_planted_fault(fault: str, planted: Path) -> None:
    old, new, said = FAULTS[fault]
    config = planted / "config.pbtxt"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    found = list(violations(planted))
    assert any(said in line for line in found), found


@pytest.mark.parametrize("version", ["01", "latest", "-1"])
def test_a_version_is_a_number(version: str, planted: Path) -> None:
    (planted / "1").rename(planted / version)
    assert f"version folders ['{version}'] are not all numbers without a leading zero" in list(violations(planted))


def test_a_batch_takes_an_open_first_dimension(planted: Path) -> None:
    model = onnx.load(planted / "1" / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, planted / "1" / "model.onnx")
    assert any("so there is no batch" in line for line in violations(planted))


@pytest.mark.parametrize(("old", "new"), [("dims:", "sizes:"), ("TYPE_FP32", "FP32"), ("[ 6 ]", '[ "6" ]')])
def test_what_triton_does_not_define_is_no_config(old: str, new: str, planted: Path) -> None:
    config = planted / "config.pbtxt"
    config.write_text(config.read_text().replace(old, new))
    with pytest.raises(text_format.ParseError):
        list(violations(planted))


def test_a_seed_is_for_one_request_and_nothing_is_joined(repository: Path, tmp_path: Path) -> None:
    planted = Path(shutil.copytree(repository / "seeded", tmp_path / "seeded"))
    config = planted / "config.pbtxt"
    text = config.read_text()
    assert "max_batch_size: 0" in text
    assert "dynamic_batching" not in text
    assert 'name: "label" data_type: TYPE_INT64 dims: [ -1 ]' in text
    config.write_text(text.replace('"n" data_type: TYPE_INT64 dims: [ 1 ]', '"n" data_type: TYPE_INT64 dims: [ 2 ]'))
    assert list(violations(planted)) == ["n: a scalar is written as dims [ 1 ]"]


@pytest.mark.parametrize("name", ["a b", "drei+vier", "zwölf", "50%", ".", "..", ".hidden", "", "a/b"])
def test_a_name_that_no_url_finds_is_refused(name: str, tmp_path: Path) -> None:
    def unwanted(_: Path) -> Any:
        raise AssertionError("exported in vain")

    with pytest.raises(ExportError, match="Triton's HTTP server finds no model called"):
        publish_to_triton(unwanted, tmp_path / "repository", name)
    assert not (tmp_path / "repository").exists()
