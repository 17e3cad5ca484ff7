"""Every activation in every format: equal to the checkpoint, with the promised names, metadata and bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported import ACTIVATIONS, METADATA, export, exported, generator_of, metadata_of, onnx_model, save, small_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import dcgan_export
from dcgan.checkpoint import load_generator
from dcgan.networks import Generator
from dcgan_export import exact, formats, onnx_file, parity
from dcgan_export.formats import Variant
from dcgan_infer import __version__
from dcgan_infer.contract.errors import ExportError
from dcgan_infer.contract.layers import Activation
from dcgan_infer.contract.spec import (
    MULTIPLY_ADDS_KEY,
    RECIPE_KEY,
    SOURCE_KEY,
    SPEC_KEY,
    VERSIONS_KEY,
    WEIGHTS_SHA256_KEY,
    GeneratorSpec,
    reference_spec,
)

ROOT = Path(dcgan_export.__file__).resolve().parents[2]
FORMATS = list(formats.FORMATS)


@pytest.mark.parametrize(
    ("activation", "trained"), [*((name, True) for name in ACTIVATIONS), *((name, False) for name in ACTIVATIONS[:4])]
)
@pytest.mark.parametrize("format_name", FORMATS)
def test_every_activation_exports_with_parity(format_name: str, activation: str, trained: bool, tmp_path: Path) -> None:
    made = exported(format_name, activation, trained)
    path = tmp_path / "model"
    path.write_bytes(made.content)
    run = formats.FORMATS[format_name].load_module().load(path)
    report = parity.compare(run, made.probes, small_spec(), Variant(format_name).settled())
    assert report.passed, report.table()
    assert run(np.zeros((1, 6), np.float32)).shape == (1, 1, 8, 8)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    activation=st.sampled_from(ACTIVATIONS),
    latent_dim=st.integers(1, 12),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    image=st.sampled_from([(1, 4, 4), (1, 8, 8), (3, 8, 8), (1, 12, 12)]),
    seed=st.integers(0, 1000),
    spread=st.floats(0.0, 3.0),
)
def test_any_generator_passes(
    activation: str,
    latent_dim: int,
    channels: tuple[int, int, int],
    image: tuple[int, int, int],
    seed: int,
    spread: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    torch.manual_seed(seed)
    generator = Generator(
        reference_spec(latent_dim, image, channels=channels, activation=Activation.parse(activation))
    ).eval()
    with torch.no_grad():
        for name, tensor in generator.state_dict().items():
            if name.startswith("bn") and tensor.is_floating_point():
                random = torch.randn_like(tensor) * spread
                tensor.copy_(random.exp() if name.endswith("var") else tensor + random)
    path = tmp_path_factory.mktemp("any") / "model"
    probes = exact.make_probes(generator, generator.spec)
    for format_name in ("onnx", "torchscript"):
        module = formats.FORMATS[format_name].load_module()
        variant = Variant(format_name).settled()
        module.write(generator, generator.spec, path, {}, variant)
        report = parity.compare(module.load(path), probes, generator.spec, variant)
        assert report.passed, report.table()


@pytest.mark.parametrize("format_name", FORMATS)
def test_the_same_checkpoint_gives_the_same_bytes_and_no_host_paths(format_name: str, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "generator.safetensors")
    contents = []
    for name in ("here/a", "there/longer-name"):
        path = tmp_path / name
        path.parent.mkdir()
        export(checkpoint, path, format=format_name)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    parts = {"": contents[0]}
    if format_name != "onnx":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            parts |= {name: archive.read(name) for name in archive.namelist()}
    for part, content in parts.items():
        for host in (ROOT, Path(torch.__file__).parent, tmp_path):
            assert str(host).encode() not in content, part


@pytest.mark.parametrize("format_name", FORMATS)
def test_the_metadata_tells_where_the_artifact_comes_from(format_name: str, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "generator.safetensors", "leaky-relu:0.2")
    artifact = export(checkpoint, tmp_path / "model", format=format_name)
    source = load_generator(checkpoint)
    found = metadata_of(artifact.path)
    assert GeneratorSpec.from_json(found[SPEC_KEY]) == source.spec == small_spec("leaky-relu:0.2")
    assert found[RECIPE_KEY] == '{"recipe":"test"}'
    assert found[WEIGHTS_SHA256_KEY] == source.weights_sha256
    assert found[VERSIONS_KEY].startswith(f"dcgan-toolkit {__version__}, torch 2.")
    assert found[MULTIPLY_ADDS_KEY] == str(small_spec().multiply_adds)
    assert SOURCE_KEY not in found  # our own file says all of it
    assert artifact.metadata.items() <= found.items()
    assert json.loads(json.dumps(artifact.as_dict()))["sha256"] == artifact.sha256


@pytest.mark.parametrize("opset", [17, 18])  # 18 is the one that torch writes, so nothing is converted
def test_an_onnx_file_is_plain(opset: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx_file.write(generator_of(), small_spec(), path, METADATA, Variant(opset=opset).settled())
    model = onnx.load(path)
    assert str(ROOT).encode() not in path.read_bytes()
    assert (model.ir_version, model.producer_name, model.producer_version) == (8, "dcgan-toolkit", __version__)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert not model.functions
    graph = model.graph
    assert graph.name == "dcgan_generator"
    assert [node.op_type for node in graph.node] == [
        "Gemm", "Relu", "BatchNormalization", "Reshape", "ConvTranspose", "Relu", "BatchNormalization",
        "ConvTranspose", "Relu", "BatchNormalization", "ConvTranspose", "Tanh",
    ]  # fmt: skip
    assert [node.name for node in graph.node][:4] == ["Gemm_0", "Relu_0", "BatchNormalization_0", "Reshape_0"]
    parts = (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer)
    assert not any(part.doc_string or part.metadata_props for part in parts)
    assert (model.doc_string, graph.doc_string, list(graph.metadata_props)) == ("", "", [])
    assert all(attribute.name != "allowzero" for node in graph.node for attribute in node.attribute)
    assert not any(tensor.external_data for tensor in graph.initializer)
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]
    assert shapes == [["batch", 6], ["batch", 1, 8, 8]]
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "Image.BitmapPixelFormat": "Gray8",
        "Image.NominalPixelRange": "Normalized_1_1",
        **METADATA,
    }
    assert graph.output[0].type.denotation == "IMAGE"


def test_parameters_keep_their_names_and_values() -> None:
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx_model().graph.initializer}
    state = generator_of().state_dict()
    for name in ("linear1.weight", "decon1.bias", "bn2.running_var", "decon3.weight"):
        assert np.array_equal(tensors[name], state[name].numpy()), name


@pytest.mark.parametrize("opset", [17, 20, onnx_file.newest_opset()])
def test_the_opset_is_the_one_asked_for(opset: int, tmp_path: Path) -> None:
    made = exported("onnx", "softplus:2")
    path = tmp_path / "model.onnx"
    onnx_file.write(made.generator, made.generator.spec, path, {}, Variant(opset=opset).settled())
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version == helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    assert parity.compare(onnx_file.load(path), made.probes, small_spec(), Variant().settled()).passed


def test_the_newest_opset_is_one_that_both_packages_know() -> None:
    assert 18 <= onnx_file.newest_opset() <= onnx.defs.onnx_opset_version()


@pytest.mark.parametrize("opset", [-1, 0, 16, 99])
def test_an_opset_out_of_range_is_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"opset {opset} can't be written; choose one from 17 to "):
        onnx_file.write(generator_of(), small_spec(), tmp_path / "model.onnx", {}, Variant(opset=opset).settled())
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_another_opset_than_asked_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "_convert", lambda model, opset: model)
    with pytest.raises(ExportError, match="asked for ONNX opset 17, but"):
        onnx_file.write(generator_of(), small_spec(), tmp_path / "model.onnx", {}, Variant(opset=17).settled())


@pytest.mark.parametrize("format_name", ["torchscript", "pt2"])
def test_a_format_without_opsets_refuses_one(format_name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"opset, .* are for onnx only, not for {format_name}"):
        export(save(tmp_path / "g.safetensors"), tmp_path / "m", format=format_name, opset=17)
    assert [path.name for path in tmp_path.iterdir()] == ["g.safetensors"]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ExportError, match="choose from onnx, torchscript, pt2"):
        Variant("tflite").settled()


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_damaged_file_does_not_load(format_name: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(exported(format_name).content[:1000])
    with pytest.raises(ExportError, match="refuses"):
        formats.FORMATS[format_name].load_module().load(path)


@pytest.mark.parametrize("end", ["input", "output"])
@pytest.mark.parametrize("change", ["name", "batch"])
def test_an_onnx_file_must_promise_what_consumers_rely_on(change: str, end: str, tmp_path: Path) -> None:
    model = onnx_model()
    value = getattr(model.graph, end)[0]
    if change == "batch":
        value.type.tensor_type.shape.dim[0].dim_value = 2
    else:
        ends = {"input": model.graph.node[0].input, "output": model.graph.node[-1].output}
        ends[end][0] = value.name = "other"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="should take 'z' and perhaps 'label', and give 'image'"):
        onnx_file.load(path)


def test_onnxruntime_raises_and_does_not_print(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one_more = numpy_helper.from_array(np.array([1, 0]), "one_more")
    nodes = [
        helper.make_node("Shape", ["z"], ["shape"]),
        helper.make_node("Add", ["shape", "one_more"], ["wrong"]),
        helper.make_node("Reshape", ["z", "wrong"], ["image"]),
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 6]) for name in ("z", "image")]
    model = helper.make_model(
        helper.make_graph(nodes, "breaks", ends[:1], ends[1:], [one_more]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    run = onnx_file.load(path)
    with pytest.raises(Exception, match="Reshape"):
        run(np.zeros((2, 6), np.float32))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("format_name", FORMATS)
def test_export_changes_nothing_in_the_generator(format_name: str, tmp_path: Path) -> None:
    generator = generator_of()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    module, variant = formats.FORMATS[format_name].load_module(), Variant(format_name).settled()
    module.write(generator, generator.spec, tmp_path / "model", {}, variant)
    assert not generator.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


def test_a_script_can_be_changed_after_loading(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(exported("torchscript").content)
    with pytest.warns((FutureWarning, DeprecationWarning)):
        module = torch.jit.load(path)  # type: ignore[no-untyped-call]
    assert module.double().state_dict()["decon1.weight"].dtype == torch.float64


def test_onnxruntime_needs_no_custom_settings() -> None:
    session = onnxruntime.InferenceSession(exported("onnx").content, providers=["CPUExecutionProvider"])
    (images,) = session.run(None, {"z": np.zeros((3, 6), np.float32)})
    assert images.shape == (3, 1, 8, 8)


def test_torchscript_has_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """torch orders some lines by string hashes, which another PYTHONHASHSEED changes."""
    checkpoint = save(tmp_path / "generator.safetensors")
    contents = []
    for seed in ("1", "2", "3"):
        out = tmp_path / f"{seed}.pt"
        code = f"from dcgan_export.cli import main; main([{str(checkpoint)!r}, '--out', {str(out)!r}])"
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL)
        contents.append(out.read_bytes())
    assert contents[0] == contents[1] == contents[2]


def test_an_interrupt_inside_torch_s_exporter_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("please report this") from error

    monkeypatch.setattr(torch.onnx, "export", interrupted)
    with pytest.raises(KeyboardInterrupt):
        onnx_file.write(generator_of(), small_spec(), tmp_path / "model.onnx", {}, Variant().settled())
