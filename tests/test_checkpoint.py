from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from document import DocumentDiscriminator, DocumentGenerator

from dcgan.checkpoint import load_generator, load_training_state, save_generator, weights_sha256
from dcgan.networks import Generator
from dcgan_infer import shipped
from dcgan_infer.contract.errors import CheckpointError
from dcgan_infer.contract.spec import Activation, GeneratorSpec

TINY = GeneratorSpec(latent_dim=5, image_shape=(1, 8, 8), channels=(4, 3, 2), activation=Activation("elu", 0.5))


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
    assert loaded.generator.spec == TINY
    assert not loaded.generator.training
    assert loaded.recipe == '{"name": "test"}'
    assert loaded.weights_sha256 == weights_sha256(generator.state_dict())
    z = torch.randn(3, 5)
    assert torch.equal(loaded.generator(z), generator.eval()(z))


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
    assert loaded.generator.spec == GeneratorSpec()
    z = torch.randn(2, 100)
    assert torch.equal(loaded.generator(z), generator(z))
    assert load_generator(path, Activation("elu", 1.0)).generator.spec.activation == Activation("elu", 1.0)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('pwned').touch()",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"linear1.weight": Evil()}, tmp_path / "zip.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"linear1.weight": Evil()}))
    for name in ("zip.pt", "bare.pt"):
        with pytest.raises(CheckpointError, match="no state dict"):
            load_generator(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_other_networks_and_other_objects_are_refused(tmp_path: Path) -> None:
    torch.save(DocumentDiscriminator().state_dict(), tmp_path / "d.pt")
    torch.save([1, 2, 3], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="no generator of the document's shape"):
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


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_generator(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=r"is a folder; give a file in it, such as .*generator\.safetensors"):
        load_generator(tmp_path)


def test_an_artifact_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a TorchScript file, which is an artifact"):
        load_generator(shipped.path_of("dcgan-mnist", ".pt"))
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
    rewrite_header(tiny, {"dcgan.spec": GeneratorSpec(latent_dim=65536, channels=(65536,) * 3).to_json()})
    with pytest.raises(CheckpointError, match="other tensors"):
        load_generator(tiny)


def test_half_precision_weights_load_as_float32(tmp_path: Path) -> None:
    generator = Generator(TINY).half()
    save_generator(tmp_path / "half.safetensors", generator.state_dict(), TINY, "")
    loaded = load_generator(tmp_path / "half.safetensors").generator
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


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


@pytest.mark.parametrize("spec", ["", "{}", GeneratorSpec().to_json(), TINY.to_json().replace("elu:0.5", "gelu")])
def test_a_spec_that_does_not_fit_is_refused(tiny: Path, spec: str) -> None:
    rewrite_header(tiny, {"dcgan.spec": spec})
    with pytest.raises(CheckpointError, match=r"generator\.safetensors"):
        load_generator(tiny)


def test_an_activation_that_contradicts_the_file_is_refused(tiny: Path) -> None:
    load_generator(tiny, TINY.activation)
    with pytest.raises(CheckpointError, match=r"was trained with activation elu:0\.5, not relu"):
        load_generator(tiny, Activation("relu"))


def test_a_generator_is_no_training_state(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="can't be resumed"):
        load_training_state(tiny)
