from __future__ import annotations

import argparse
import json
import os
import pickle
import struct
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from document import DocumentDiscriminator, DocumentGenerator
from their_generators import PytorchDcgan, PytorchDcganDiscriminator, trained

from dcgan.checkpoint import (
    Hints,
    load_generator,
    load_training_state,
    save_generator,
    save_training_state,
    weights_sha256,
)
from dcgan.networks import Generator
from dcgan_infer import shipped
from dcgan_infer.contract.errors import CheckpointError
from dcgan_infer.contract.layers import RELU, SIGMOID, Activate, Activation, Linear, Unflatten
from dcgan_infer.contract.spec import GeneratorSpec, reference_spec

TINY = reference_spec(latent_dim=5, image_shape=(1, 8, 8), channels=(4, 3, 2), activation=Activation("elu", 0.5))
OLD = Path(__file__).parent / "fixtures" / "0.1"  # files of version 0.1


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "generator.safetensors"
    save_generator(path, Generator(TINY).state_dict(), TINY, '{"name": "test"}')
    return path


def test_a_generator_comes_back_as_it_was(tmp_path: Path) -> None:
    generator = Generator(TINY)
    path = tmp_path / "g.safetensors"
    save_generator(path, generator.state_dict(), TINY, '{"name": "test"}')
    loaded = load_generator(path)
    assert loaded.spec == TINY
    assert loaded.chain is loaded.module
    assert loaded.notes == ()
    assert loaded.source == ""
    assert not loaded.module.training
    assert loaded.recipe == '{"name": "test"}'
    assert loaded.weights_sha256 == weights_sha256(generator.state_dict())
    z = torch.randn(3, 5)
    assert torch.equal(loaded.module(z), generator.eval()(z))


def test_the_weights_digest_sees_a_single_bit_and_no_step_counter() -> None:
    generator = Generator(TINY)
    before = weights_sha256(generator.state_dict())
    tensors = generator.state_dict()
    tensors["bn1.num_batches_tracked"] += 1
    assert weights_sha256(tensors) == before
    tensors["decon3.bias"].copy_(torch.nextafter(tensors["decon3.bias"], torch.tensor(9.0)))
    assert weights_sha256(tensors) != before


@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_of_the_document_s_script_loads(tmp_path: Path, legacy: bool) -> None:
    generator = DocumentGenerator().eval()
    path = tmp_path / "generator.pt"
    torch.save(generator.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    loaded = load_generator(path)
    assert loaded.spec == reference_spec()
    z = torch.randn(2, 100)
    assert torch.equal(loaded.module(z), generator(z))
    elu = Activation("elu", 1.0)
    assert load_generator(path, Hints(activation=elu)).spec.activation == elu


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('pwned').touch()",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"linear1.weight": Evil()}, tmp_path / "zip.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"linear1.weight": Evil()}))
    for name in ("zip.pt", "bare.pt"):
        with pytest.raises(CheckpointError, match=r"could run code|no state dict that can be read"):
            load_generator(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_other_networks_and_other_objects_are_refused(tmp_path: Path) -> None:
    torch.save(DocumentDiscriminator().state_dict(), tmp_path / "d.pt")
    torch.save([1, 2, 3], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="no generator of a known layout"):
        load_generator(tmp_path / "d.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        load_generator(tmp_path / "list.pt")


@pytest.mark.parametrize(
    "content", [b"", b"x", b"PK\x03\x04 no zip", b"\x80\x02 no pickle", b"\x89PNG\r\n\x1a\n", b"\xff" * 64]
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "g.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_generator(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; copy it again"),
        (b"hello there, this is text", "is no checkpoint: neither what torch.save writes nor safetensors"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "is no checkpoint: neither what torch.save writes nor safetensors"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_called_that(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "netG.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(path)
    assert "safetensors file" not in str(caught.value)


def test_a_key_of_a_bare_state_dict_is_to_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "generator.pt"
    torch.save(DocumentGenerator().state_dict(), path)
    with pytest.raises(CheckpointError, match=r"generator\.pt holds one generator; leave --key out"):
        load_generator(path, Hints(key="netG"))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_generator(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=r"is no run's folder; .* such as generator\.safetensors"):
        load_generator(tmp_path)


def test_an_artifact_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a TorchScript file, which is an artifact"):
        load_generator(ROOT / "models" / "dcgan-mnist.pt")  # a wheel leaves it out
    with pytest.raises(CheckpointError, match="is an ONNX file, which is an artifact"):
        load_generator(shipped.path_of("dcgan-mnist", ".onnx"))
    program = torch.export.export(Generator(TINY).eval(), (torch.zeros(1, 5),))
    torch.export.save(program, tmp_path / "tiny.pt2")
    with pytest.raises(CheckpointError, match="is a pt2 file, which is an artifact"):
        load_generator(tmp_path / "tiny.pt2")


def test_paths_the_system_refuses_are_checkpoint_errors() -> None:
    for path in (Path("x" * 300), Path("/proc/self/mem")):
        with pytest.raises(CheckpointError):
            load_generator(path)


def test_a_spec_far_larger_than_the_file_takes_no_memory(tiny: Path) -> None:
    rewrite_header(tiny, {"dcgan.spec": reference_spec(latent_dim=65536, channels=(65536, 2048, 2048)).to_json()})
    with pytest.raises(CheckpointError, match="other tensors"):
        load_generator(tiny)


def test_half_precision_weights_load_as_float32(tmp_path: Path) -> None:
    generator = Generator(TINY).half()
    save_generator(tmp_path / "half.safetensors", generator.state_dict(), TINY, "")
    loaded = load_generator(tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.float32}
    assert loaded.notes == ("weights in float16 became float32",)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(tiny: Path, share: float) -> None:
    content = tiny.read_bytes()
    tiny.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError):
        load_generator(tiny)


def rewrite_header(path: Path, change: dict[str, str]) -> None:
    """Change metadata of a safetensors file: an 8-byte little-endian length, a JSON header, then the tensors."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] |= change
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


@pytest.mark.parametrize("spec", ["", "{}", reference_spec().to_json(), TINY.to_json().replace("elu:0.5", "mish")])
def test_a_spec_that_does_not_fit_is_refused(tiny: Path, spec: str) -> None:
    rewrite_header(tiny, {"dcgan.spec": spec})
    with pytest.raises(CheckpointError, match=r"generator\.safetensors"):
        load_generator(tiny)


def test_a_layer_in_the_place_of_others_is_refused(tmp_path: Path) -> None:
    layers = (Linear("l", 4, 4), Activate("a.b", RELU), Activate("a", RELU), Unflatten("u", (1, 2, 2)))
    spec = GeneratorSpec(4, (1, 2, 2), layers=layers)
    save_generator(tmp_path / "g.safetensors", torch.nn.Linear(4, 4).state_dict(prefix="l."), spec, "")
    with pytest.raises(CheckpointError, match="a layer has a name that it can't have"):
        load_generator(tmp_path / "g.safetensors")


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (
            Hints(activation=TINY.activation),
            Hints(activation=Activation("relu")),
            r"activation elu:0\.5, not relu",
        ),
        (Hints(output=TINY.layers[-1].function), Hints(output=SIGMOID), "with output tanh, not sigmoid"),  # type: ignore[union-attr]
        (Hints(eps=1e-5), Hints(eps=0.8), "with eps 1e-05, not 0.8"),
        (Hints(latent_dim=5), Hints(latent_dim=6), "with latent size 5, not 6"),
        (Hints(num_classes=0), Hints(num_classes=2), "with number of classes 0, not 2"),
        (Hints(value_range=(-1.0, 1.0)), Hints(value_range=(0.0, 1.0)), r"with value range \(-1.0, 1.0\), not"),
        (Hints(), Hints(key="netG"), "holds one generator; leave --key out"),
        (Hints(), Hints(class_names=("a",)), "1 class names for 0 classes"),
    ],
)
def test_hints_that_contradict_the_file_are_refused(tiny: Path, right: Hints, wrong: Hints, message: str) -> None:
    load_generator(tiny, right)
    with pytest.raises(CheckpointError, match=message):
        load_generator(tiny, wrong)


def test_classes_get_names_where_they_have_none(tmp_path: Path) -> None:
    names = tuple("abc")
    spec = reference_spec(5, (1, 8, 8), 3, channels=(4, 3, 2))
    path = tmp_path / "g.safetensors"
    save_generator(path, Generator(spec).state_dict(), spec, "")
    loaded = load_generator(path, Hints(class_names=names))
    assert loaded.spec.class_names == names
    save_generator(path, Generator(loaded.spec).state_dict(), loaded.spec, "")
    assert load_generator(path).spec.class_names == names
    with pytest.raises(CheckpointError, match="with class names"):
        load_generator(path, Hints(class_names=tuple("xyz")))


@pytest.mark.parametrize("name", ["conditional", "quiet", "leaky"])
def test_files_of_version_0_1_load(name: str) -> None:
    loaded = load_generator(OLD / f"{name}.safetensors")
    assert loaded.spec.image_shape == (1, 12, 12)
    assert loaded.chain is loaded.module


def test_a_state_dict_and_a_run_of_version_0_1_load() -> None:
    assert load_generator(OLD / "state_dict.pt").spec.activation == Activation("relu")
    run = load_generator(OLD / "run")
    assert run.notes == (f"read {OLD / 'run' / 'generator.safetensors'}",)
    published = load_generator(OLD / "run" / "checkpoint.safetensors")
    assert published.weights_sha256 == run.weights_sha256
    tensors, state = load_training_state(OLD / "run" / "checkpoint.safetensors")
    assert tensors
    assert state


def test_a_folder_s_best_file_is_taken_and_named(tmp_path: Path) -> None:
    save_generator(tmp_path / "best.safetensors", Generator(TINY).state_dict(), TINY, "best")
    published = {f"published.{name}": tensor for name, tensor in Generator(TINY).state_dict().items()}
    save_training_state(tmp_path / "checkpoint.safetensors", published, {}, TINY, "last")
    loaded = load_generator(tmp_path)
    assert (loaded.recipe, loaded.notes) == ("best", (f"read {tmp_path / 'best.safetensors'}",))
    (tmp_path / "best.safetensors").unlink()
    assert load_generator(tmp_path).recipe == "last"
    save_generator(tmp_path / "generator.safetensors", Generator(TINY).state_dict(), TINY, "final")
    assert load_generator(tmp_path).recipe == "final"


def test_a_generator_is_no_training_state(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="can't be resumed"):
        load_training_state(tiny)


DCGAN = PytorchDcgan(8, 4, 3, (2, 1))
WEIGHTS = trained(DCGAN).state_dict()
OTHER = trained(PytorchDcgan(8, 4, 3, (2, 1)), seed=1).state_dict()


def saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "theirs.pth")
    return folder / "theirs.pth"


def below(prefix: str, tensors: dict[str, torch.Tensor] = WEIGHTS) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def critic() -> dict[str, torch.Tensor]:
    return PytorchDcganDiscriminator().state_dict()


def optimizer() -> dict[str, object]:
    adam = torch.optim.Adam(DCGAN.parameters())
    DCGAN(torch.randn(2, 8, 1, 1)).sum().backward()
    adam.step()
    return adam.state_dict()


@pytest.mark.parametrize(
    ("make", "key", "prefix"),
    [
        (lambda: WEIGHTS, "", ""),
        (lambda: below("module."), "", "module."),
        (lambda: below("_orig_mod.module."), "", "_orig_mod.module."),
        (lambda: below("module._orig_mod.module."), "", "module._orig_mod.module."),
        (lambda: {n.replace("main.", "main._orig_mod."): t for n, t in WEIGHTS.items()}, "", ""),
        (lambda: torch.optim.swa_utils.AveragedModel(DCGAN).state_dict(), "", "module."),
        (lambda: below("generator."), "", "generator."),
        (lambda: below("whatever_they_called_it."), "", "whatever_they_called_it."),
        (lambda: {**below("generator."), **{f"discriminator.{n}": t for n, t in critic().items()}}, "", "generator."),
        (lambda: {**below("module.netG.module."), "module.netD.x": torch.zeros(1)}, "", "module.netG.module."),
        (lambda: {"netG": WEIGHTS, "netD": critic(), "optimizerG": optimizer(), "epoch": 3}, "netG", ""),
        (
            lambda: {"model_state_dict": below("G."), "loss": 0.5, "fixed_noise": torch.zeros(2)},
            "model_state_dict",
            "G.",
        ),
        (lambda: {"nets": {"generator_state_dict": WEIGHTS, "d": critic()}, "k": [1]}, "nets.generator_state_dict", ""),
        (
            lambda: {"state_dict": {**below("gen."), **{f"disc.{n}": t for n, t in critic().items()}}},
            "state_dict",
            "gen.",
        ),
        (lambda: {"G": WEIGHTS, "args": argparse.Namespace(nz=8), "fid": np.float64(3), "n": np.int64(3)}, "G", ""),
    ],
)
def test_a_generator_is_found_where_it_lies(
    tmp_path: Path, make: Callable[[], dict[str, object]], key: str, prefix: str
) -> None:
    loaded = load_generator(saved(tmp_path, make()))
    z = torch.randn(3, 8)
    with torch.no_grad():
        assert torch.equal(loaded.module(z), DCGAN.eval()(z[:, :, None, None]))
    facts = json.loads(loaded.source)
    assert (facts["key"], facts["prefix"]) == (key, prefix)
    assert loaded.weights_sha256 == load_generator(saved(tmp_path, WEIGHTS)).weights_sha256
    said = [note for note in loaded.notes if note.startswith(("the weights are", "taken off"))]
    assert said == [f"the weights are those under {key}"] * bool(key) + [
        f"taken off the tensors' names: {prefix}"
    ] * bool(prefix)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"G": WEIGHTS, "G_ema": OTHER}, ("G", "G_ema")),
        ({"model": {"ema": OTHER, "raw": below("module.")}}, ("model.raw.module", "model.ema")),
        ({**below("netG.", WEIGHTS), **below("netG_ema.", OTHER)}, ("netG", "netG_ema")),
    ],
)
def test_several_generators_are_refused_and_one_is_chosen(
    tmp_path: Path, content: dict[str, object], names: tuple[str, str]
) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(CheckpointError, match=r"holds several generators: .*; choose one with --key NAME") as caught:
        load_generator(path)
    assert all(name in str(caught.value) for name in names)
    digests = [load_generator(saved(tmp_path, weights)).weights_sha256 for weights in (WEIGHTS, OTHER)]
    saved(tmp_path, content)
    assert [load_generator(path, Hints(key=name)).weights_sha256 for name in names] == digests
    with pytest.raises(CheckpointError, match="has no generator called netX; it has"):
        load_generator(path, Hints(key="netX"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    content = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in WEIGHTS.items()}
    loaded = load_generator(saved(tmp_path, content))
    assert f"weights in {name} became float32" in loaded.notes
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    content = {name: tensor.double() for name, tensor in WEIGHTS.items()}
    content["main.1.running_var"] = content["main.1.running_var"].clone()
    content["main.1.running_var"][0] = value
    with pytest.raises(CheckpointError, match=r"main\.1\.running_var holds values that are not finite"):
        load_generator(saved(tmp_path, content))


def test_weights_without_values_are_refused(tmp_path: Path) -> None:
    content = {name: tensor.to("meta") for name, tensor in WEIGHTS.items()}
    with pytest.raises(CheckpointError, match="is on the meta device, so it has no values"):
        load_generator(saved(tmp_path, content))


def test_files_from_before_batchnorm_counted_load(tmp_path: Path) -> None:
    content = {name: tensor for name, tensor in WEIGHTS.items() if not name.endswith("num_batches_tracked")}
    assert len(content) < len(WEIGHTS)
    digest = load_generator(saved(tmp_path, WEIGHTS)).weights_sha256
    assert load_generator(saved(tmp_path, content)).weights_sha256 == digest


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("content", [DCGAN, {"model": DCGAN, "epoch": 3}])
def test_a_pickled_module_is_refused_with_what_to_save(tmp_path: Path, legacy: bool, content: object) -> None:
    path = tmp_path / "whole.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="holds a whole pickled module") as caught:
        load_generator(path)
    assert str(caught.value).endswith('torch.save(model.state_dict(), "generator.pth")')
    assert "\n" not in str(caught.value)


def test_another_object_beside_the_weights_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {"G": WEIGHTS, "where": Path("x")})
    with pytest.raises(CheckpointError, match=r"it holds a pathlib.*Path, and reading that could run code") as caught:
        load_generator(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_state_dict_is_refused_in_one_line(tmp_path: Path, share: float, legacy: bool) -> None:
    path = tmp_path / "theirs.pth"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"truncated|no state dict that can be read") as caught:
        load_generator(path)
    assert "\n" not in str(caught.value)
    assert "two options" not in str(caught.value)


def test_an_onnx_file_is_known_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(shipped.path_of("dcgan-mnist", ".onnx").read_bytes())
    with pytest.raises(CheckpointError, match="is an ONNX file, which is an artifact"):
        load_generator(path)


FIRST = WEIGHTS["main.0.weight"].detach()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: FIRST.to_sparse(), "a sparse tensor"),
        (lambda: FIRST.flatten(1).to_sparse_csr(), "a sparse tensor"),
        (lambda: torch.quantize_per_tensor(FIRST, 0.1, 0, torch.qint8), "quantized"),
        (lambda: torch.nested.nested_tensor([FIRST[0], FIRST[1]]), "a nested tensor"),
        (lambda: torch.nested.nested_tensor([FIRST[0], FIRST[1]], layout=torch.jagged), "a nested tensor"),
        (lambda: FIRST.to(torch.complex64), "of complex64"),
        (lambda: FIRST.to(torch.complex64).conj(), "of complex64"),
        (lambda: FIRST.to(torch.complex32), "of complex32"),
        (lambda: FIRST > 0, "of bool"),
        (lambda: (100 * FIRST).int(), "of int32"),
        (lambda: (FIRST > 0).to(torch.uint8).view(torch.float4_e2m1fn_x2), "of float4_e2m1fn_x2"),
        (lambda: (FIRST > 0).to(torch.uint8).view(torch.bits8), "of bits8"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_tensors_that_hold_no_plain_numbers_are_refused(
    tmp_path: Path, make: Callable[[], torch.Tensor], kind: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"theirs\.pth: main\.0\.weight is {kind}") as caught:
        load_generator(saved(tmp_path, {**WEIGHTS, "main.0.weight": make()}))
    assert "\n" not in str(caught.value)
    beside = {"netG": WEIGHTS, "optimizer": {"what": make()}}  # nobody reads these
    assert load_generator(saved(tmp_path, beside)).spec == load_generator(saved(tmp_path, WEIGHTS)).spec


@pytest.mark.parametrize(
    "view",
    [
        lambda: torch.nn.Parameter(FIRST),
        lambda: FIRST.transpose(0, 1).contiguous().transpose(0, 1),
        lambda: torch.complex(FIRST, -FIRST).conj().imag,  # a negative bit
        lambda: torch.cat([FIRST, FIRST])[: len(FIRST)],
    ],
)
def test_views_of_the_same_numbers_give_the_same_weights(tmp_path: Path, view: Callable[[], torch.Tensor]) -> None:
    expected = load_generator(saved(tmp_path, WEIGHTS)).weights_sha256
    assert load_generator(saved(tmp_path, {**WEIGHTS, "main.0.weight": view()})).weights_sha256 == expected


def test_a_view_that_shows_one_number_a_billion_times_takes_no_memory(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(1 << 12, 1 << 16, 4, 4)
    norm = torch.ones(1).expand(1 << 16)
    content = {"main.0.weight": huge, "main.3.weight": torch.ones(1).expand(1 << 16, 3, 4, 4)}
    content |= {f"main.1.{name}": norm for name in ("weight", "bias", "running_mean", "running_var")}
    with pytest.raises(CheckpointError, match=r"claims 4,298,\d+,\d+ weights, and holds [\d,]+ bytes"):
        load_generator(saved(tmp_path, content))


@pytest.mark.parametrize("name", ["main.0.weight\x1b[31m", "a\nb", "\u202egnp", "x" * 2000])
@pytest.mark.parametrize("below", [False, True])
def test_names_that_would_garble_a_terminal_are_refused(tmp_path: Path, name: str, below: bool) -> None:
    content = {name: WEIGHTS, "netG": WEIGHTS} if below else {name: FIRST}
    with pytest.raises(CheckpointError, match="no tensor can be called") as caught:
        load_generator(saved(tmp_path, content))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_dicts_that_hold_each_other_many_times_come_to_an_end(tmp_path: Path) -> None:
    content: dict[str, object] = {"x": 1}
    for _ in range(6):
        content = {f"k{number}": content for number in range(40)}  # 4e9 ways to the last
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_generator(saved(tmp_path, content))


def test_an_archive_that_would_fill_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", pickle.dumps({}, 2))
        archive.writestr("bomb/data/0", bytes(1 << 25))
    with pytest.raises(CheckpointError, match=r"a file of [\d,]+ bytes that says it unpacks to 33,554,"):
        load_generator(path)


@pytest.mark.parametrize("names", [[], ["many/data.pkl"], ["many/DATA.PKL"], ["many/data.pkl", "many/data.pkl"]])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_pickle_of_millions_of_objects_is_refused(tmp_path: Path, names: list[str]) -> None:
    """Also by another name that torch finds, or before a small one of the same name; without names as of old."""
    path, content = tmp_path / "many.pth", b"\x80\x02](" + b"}" * (1 << 23) + b"e."
    path.write_bytes(content)
    if names:
        with zipfile.ZipFile(path, "w") as archive:
            for name, each in zip(names, [content, pickle.dumps({}, 2)], strict=False):
                archive.writestr(name, each)
    with pytest.raises(CheckpointError, match=r"pickle (has|of more than)"):
        load_generator(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}, "or a truncated one"),
        ({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}, "or a truncated one"),
        ({"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}, "or a truncated one"),  # torch lacks a name
        ({"a": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 4]}}, "or a truncated one"),
        ({"a": {"dtype": "F32\u202e", "shape": [1], "data_offsets": [0, 4]}}, "or a truncated one"),
        ({"__metadata__": {"x": "y" * (1 << 25)}}, "has a header of 33,554,"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, header: dict[str, object], message: str) -> None:
    path = tmp_path / "g.safetensors"
    text = json.dumps(header, ensure_ascii=False).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(path)
    assert str(caught.value).isprintable()


def test_the_protocol_of_a_pickle_is_no_news(tmp_path: Path) -> None:
    """Torch warns of all but its own default, with a request to report it."""
    path = tmp_path / "theirs.pth"
    torch.save(WEIGHTS, path, pickle_protocol=3)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        load_generator(path)
    assert warned == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in folders are POSIX's")
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy", "whole module"])
def test_a_pipe_is_read_once(tmp_path: Path, tiny: Path, kind: str) -> None:
    whole = tiny
    if kind != "safetensors":
        whole = tmp_path / "theirs.pth"
        content = DCGAN if kind == "whole module" else WEIGHTS
        torch.save(content, whole, _use_new_zipfile_serialization=kind != "legacy")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(whole.read_bytes()), daemon=True)
    writer.start()
    if kind == "whole module":
        with pytest.raises(CheckpointError, match="holds a whole pickled module"):
            load_generator(pipe)
    else:
        assert load_generator(pipe).weights_sha256 == load_generator(whole).weights_sha256
    writer.join(10)
    assert not writer.is_alive()


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="a device of POSIX")
def test_a_device_that_never_ends_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"can't read checkpoint /dev/zero: it is neither a file nor a pipe"):
        load_generator(Path("/dev/zero"))
