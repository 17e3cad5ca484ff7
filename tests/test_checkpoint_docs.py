"""docs/checkpoints.md keeps its promises: every command of its table does what the row says, and its Python runs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from conftest import ROOT
from document import DocumentGenerator
from their_generators import Conditional, Mlp, PytorchDcgan, PytorchDcganDiscriminator, PytorchGan, trained
from torch import nn

from dcgan.checkpoint import save_generator
from dcgan.networks import Generator
from dcgan_export.cli import main
from dcgan_infer.contract.spec import SOURCE_KEY, SPEC_KEY, GeneratorSpec, reference_spec

PAGE = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\|.*\| `(dcgan-export [^`]*)` \|", PAGE, re.MULTILINE)
SNIPPETS = [code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "# nets.py" not in code]

NETS = """
from torch import Tensor, nn

from their_generators import Conditional as FiveClasses
from their_generators import Mlp


def make_generator() -> nn.Module:
    return Mlp()


class Conditional(FiveClasses):
    def __init__(self) -> None:
        super().__init__()
        self.n_classes = 3


class Clipped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 64)

    def forward(self, z: Tensor) -> Tensor:
        return self.fc(z).clamp(0, 1).view(-1, 1, 8, 8)
"""

ASSUMED = {
    "reference": "images square; stride 1, 2, 2; padding 1, 1, 1; activation relu; eps 1e-05; output tanh",
    "pytorch-dcgan": "stride 1, then 2; padding 0, then 1; activation relu; eps 1e-05; output tanh; inputs latent only",
    "pytorch-gan-dcgan": "images square; upsampling nearest, 2; activation leaky-relu:0.2; eps 1e-05, 0.8, 0.8; "
    "output tanh; inputs latent only",
}
# By checkpoint: the layout, the interface's latent size, classes and image, and what else is said.
EXPECTED: dict[str, tuple[str, tuple[int, int, tuple[int, int, int]], list[str]]] = {
    "generator.safetensors": ("", (6, 0, (1, 8, 8)), []),
    "runs/000-mnist-fast": ("", (6, 0, (1, 8, 8)), ["read runs/000-mnist-fast/generator.safetensors"]),
    "theirs.pt": ("reference", (100, 0, (1, 28, 28)), ["recognised as the reference script's generator"]),
    "labelled.pt": ("reference", (90, 10, (1, 28, 28)), ["recognised as the reference script's generator"]),
    "netG_epoch_24.pth": ("pytorch-dcgan", (12, 0, (3, 16, 16)), ["recognised as PyTorch's DCGAN example"]),
    "generator.pth": ("pytorch-gan-dcgan", (20, 0, (1, 16, 16)), ["recognised as PyTorch-GAN's dcgan.py"]),
    "parallel.pth": (
        "pytorch-dcgan",
        (12, 0, (3, 16, 16)),
        ["the weights are those under netG", "taken off the tensors' names: module."],
    ),
    "compiled.pth": ("pytorch-dcgan", (12, 0, (3, 16, 16)), ["taken off the tensors' names: _orig_mod."]),
    "half.pth": ("pytorch-dcgan", (12, 0, (3, 16, 16)), ["weights in float16 became float32"]),
    "several.pth": ("pytorch-dcgan", (12, 0, (3, 16, 16)), ["the weights are those under G_ema"]),
    "weights.pth": (
        "module",
        (12, 0, (3, 8, 8)),
        ["run by nets.py:make_generator", "latents of 12 numbers", "known layers: equal to the module in float64"],
    ),
    "cgan.pth": ("module", (9, 3, (1, 8, 8)), ["latents of 9 numbers; labels of 3 classes", "exported as it is"]),
    "clipped.pth": ("module", (8, 0, (1, 8, 8)), ["run by nets.py:Clipped", "exported as it is"]),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints that the page speaks of, small."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    spec = reference_spec(6, (1, 8, 8), channels=(8, 6, 5))
    save_generator(folder / "generator.safetensors", trained(Generator(spec)).state_dict(), spec, "")
    (folder / "runs").mkdir()
    (folder / "runs" / "000-mnist-fast").mkdir()
    shutil.copy(folder / "generator.safetensors", folder / "runs" / "000-mnist-fast")
    document = trained(DocumentGenerator()).state_dict()
    dcgan = trained(PytorchDcgan(12, 4, 3, (2, 1))).state_dict()
    other = trained(PytorchDcgan(12, 4, 3, (2, 1)), seed=1).state_dict()
    contents: dict[str, object] = {
        "theirs.pt": document,
        "labelled.pt": document,
        "netG_epoch_24.pth": dcgan,
        "generator.pth": trained(PytorchGan()).state_dict(),
        "parallel.pth": {
            "epoch": 24,
            "netG": {f"module.{name}": tensor for name, tensor in dcgan.items()},
            "netD": PytorchDcganDiscriminator().state_dict(),
        },
        "compiled.pth": {f"_orig_mod.{name}": tensor for name, tensor in dcgan.items()},
        "half.pth": {name: t.half() if t.is_floating_point() else t for name, t in dcgan.items()},
        "several.pth": {"G": dcgan, "G_ema": other},
        "weights.pth": trained(Mlp()).state_dict(),
        "cgan.pth": trained(Conditional()).state_dict(),
        "clipped.pth": {f"fc.{name}": tensor for name, tensor in nn.Linear(8, 64).state_dict().items()},
    }
    for name, content in contents.items():
        torch.save(content, folder / name)
    (folder / "nets.py").write_text(NETS, encoding="utf-8")
    return folder


@pytest.fixture
def folder(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(checkpoints, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_row_has_its_test() -> None:
    assert [shlex.split(row)[1] for row in ROWS] == list(EXPECTED)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_does_what_it_says(row: str, folder: Path) -> None:
    _, checkpoint, *options = shlex.split(row)
    layout, (latent_dim, num_classes, image_shape), notes = EXPECTED[checkpoint]
    result = CliRunner().invoke(main, [checkpoint, *options])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("same as your checkpoint: ")
    for note in notes:
        assert note in result.stderr
    session = onnxruntime.InferenceSession(options[-1], providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    spec = GeneratorSpec.from_json(metadata[SPEC_KEY])
    assert (spec.latent_dim, spec.num_classes, spec.image_shape) == (latent_dim, num_classes, image_shape)
    assert json.loads(metadata.get(SOURCE_KEY) or '{"layout": ""}')["layout"] == layout
    if layout in ASSUMED:
        said = ASSUMED[layout].removesuffix("; inputs latent only" if num_classes else "")
        assert f"assumed, as the file does not say: {said}" in result.stderr
    else:
        assert "assumed" not in result.stderr
    if checkpoint == "cgan.pth":
        assert spec.class_names == ("bag", "coat", "dress")
    if checkpoint == "clipped.pth":
        assert spec.value_range == (0.0, 1.0)


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("--activation leaky-relu:0.2", {"activation": "leaky-relu:0.2"}),
        ("--output-activation sigmoid", {"output": "sigmoid"}),
        ("--batch-norm-eps 0.001", {"eps": "0.001"}),
    ],
)
def test_what_is_assumed_can_be_overridden(option: str, given: dict[str, str], folder: Path) -> None:
    assert f"| `{option}` |" in PAGE
    result = CliRunner().invoke(main, ["netG_epoch_24.pth", *option.split(), "--out", "said.onnx", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(json.loads(result.stdout)["metadata"][SOURCE_KEY])["given"] == given


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["publish", "prove"])
def test_its_python_runs(snippet: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    if "prove(" in snippet:
        arguments = ["weights.pth", "--module", "nets.py:make_generator", "--out", "model.onnx"]
        assert CliRunner().invoke(main, arguments).exit_code == 0
    exec(snippet, {})
