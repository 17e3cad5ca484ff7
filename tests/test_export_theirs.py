"""Networks that others wrote, from a file of torch.save to artifacts that pass: colour, other sizes, any module."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import their_generators as theirs
import torch
from chains import dcgan_spec, upsampling_spec
from click.testing import CliRunner, Result
from exported import metadata_of, read_golden
from planted_faults import trained_like
from torch import nn

from dcgan.checkpoint import Hints, load_generator
from dcgan.networks import Generator
from dcgan_export.cli import main
from dcgan_export.formats import Variant
from dcgan_export.publish import Artifact, publish
from dcgan_infer import ImageGenerator
from dcgan_infer.cli import main as infer
from dcgan_infer.contract.latents import latents
from dcgan_infer.contract.layers import SIGMOID, Activate, Activation
from dcgan_infer.contract.spec import GeneratorSpec, reference_spec
from dcgan_infer.verify_cli import main as verify


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@dataclass(frozen=True)
class Theirs:
    """A network of a known layout.

    Attributes:
        spec: that it should be recognised as, with the names that its file has.
        layout: as it is called.
        hints: what its file does not say.
    """

    spec: GeneratorSpec
    layout: str
    hints: dict[str, Any] = field(default_factory=dict)


def sigmoid(spec: GeneratorSpec) -> GeneratorSpec:
    *layers, last = spec.layers
    return GeneratorSpec(
        spec.latent_dim, spec.image_shape, value_range=(0.0, 1.0), layers=(*layers, Activate(last.name, SIGMOID))
    )


KNOWN = {
    "PyTorch's DCGAN example": Theirs(dcgan_spec(64, ngf=8), "pytorch-dcgan"),
    "the same at 32 pixels": Theirs(dcgan_spec(32, nz=20, ngf=8), "pytorch-dcgan"),
    "the same at 128 pixels": Theirs(dcgan_spec(128, nz=20, ngf=2), "pytorch-dcgan"),
    "the same in grey": Theirs(dcgan_spec(16, nc=1, nz=20, ngf=8), "pytorch-dcgan"),
    "the same with leaky ReLU": Theirs(
        dcgan_spec(16, nz=20, ngf=8, activation=Activation("leaky-relu", 0.2)),
        "pytorch-dcgan",
        {"activation": Activation("leaky-relu", 0.2)},
    ),
    "the same with sigmoid": Theirs(sigmoid(dcgan_spec(16, nz=20, ngf=8)), "pytorch-dcgan", {"output": SIGMOID}),
    "PyTorch-GAN's": Theirs(upsampling_spec(16, 3, nz=20, width=32), "pytorch-gan-dcgan"),
    "the reference script's at 32x32 RGB": Theirs(reference_spec(20, (3, 32, 32), channels=(32, 16, 8)), "reference"),
}
FORMS = [
    Variant(),
    Variant(optimize="none"),
    Variant(precision="fp16"),
    Variant(image="uint8"),
    Variant(inputs="seed"),
    Variant("torchscript"),
    Variant("torchscript", "fused"),
    Variant("pt2"),
]
# One network of each layout is enough for these.
IN_EVERY_FORM = ("the same at 32 pixels", "PyTorch-GAN's")


def described(variant: Variant) -> str:
    return "-".join(filter(None, (variant.format, variant.optimize, variant.precision, variant.image, variant.inputs)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of torch.save for each, with weights as if they had been trained."""
    folder = tmp_path_factory.mktemp("theirs")
    made = {}
    for number, (name, known) in enumerate(KNOWN.items()):
        made[name] = folder / f"net{number}.pth"
        torch.save(trained_like(known.spec).state_dict(), made[name])
    return made


def images_of(artifact: Artifact, z: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["image"], {"z": z})[0])


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        (name, variant)
        for name in KNOWN
        for variant in FORMS
        if name in IN_EVERY_FORM or variant == Variant() or (variant.is_uint8 and name == "the same with sigmoid")
    ],
    ids=lambda value: described(value) if isinstance(value, Variant) else value,
)
def test_a_known_layout_passes_in_every_form(
    name: str, variant: Variant, files: dict[str, Path], tmp_path: Path
) -> None:
    known = KNOWN[name]
    source = load_generator(files[name], Hints(**known.hints))
    assert source.spec == known.spec
    artifact = publish(source, tmp_path / "model", variant)
    assert artifact.report.passed
    metadata = metadata_of(artifact.path)
    assert GeneratorSpec.from_json(metadata["dcgan.spec"]) == known.spec
    assert metadata["dcgan.multiply_adds"] == str(known.spec.multiply_adds)
    assert metadata["dcgan.optimize"] == variant.settled().optimize
    said = json.loads(metadata["dcgan.source"])
    assert said["layout"] == known.layout
    assert "dcgan.recipe" not in metadata
    if variant.format == "onnx" and variant.inputs == "z":
        images = images_of(artifact, latents(0, 0, 5, known.spec.latent_dim))
        assert images.shape[1:] == (known.spec.picture_shape if variant.image else known.spec.image_shape)
        low, high = (0, 255) if variant.image else known.spec.value_range
        assert low - 1e-6 <= images.min() < images.max() <= high + 1e-6


@pytest.mark.parametrize("name", ["PyTorch-GAN's", "the same in grey"])
def test_untrained_weights_bear_8_bits(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(Generator(KNOWN[name].spec).state_dict(), tmp_path / "g.pth")
    artifact = publish(load_generator(tmp_path / "g.pth"), tmp_path / "m.onnx", Variant(precision="int8"))
    assert artifact.report.passed
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(artifact.path).graph.node)


def test_what_was_recognised_and_assumed_is_said_and_recorded(files: dict[str, Path], tmp_path: Path) -> None:
    file = files["the same at 32 pixels"]
    result = run(file, "-o", tmp_path / "m.onnx", "--json")
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert lines[0].startswith("recognised as PyTorch's DCGAN example")
    assert lines[1].startswith("assumed, as the file does not say: ")
    assert "activation relu" in lines[1]
    assumed = json.loads(json.loads(result.stdout)["metadata"]["dcgan.source"])["assumed"]
    assert assumed["activation"] == "relu"
    # A wrong guess is not noticed by parity, and what was guessed is there to be read; said, it is no guess.
    other = run(file, "-o", tmp_path / "o.onnx", "--json", "--activation", "leaky-relu:0.2", "--batch-norm-eps", "1e-3")
    assert other.exit_code == 0, other.output
    said = json.loads(json.loads(other.stdout)["metadata"]["dcgan.source"])
    assert "activation" not in said["assumed"]
    assert said["given"] == {"activation": "leaky-relu:0.2", "eps": "0.001"}
    spec = GeneratorSpec.from_json(json.loads(other.stdout)["metadata"]["dcgan.spec"])
    assert spec.activation == Activation("leaky-relu", 0.2)
    z = latents(0, 0, 4, 20)
    first, second = (ImageGenerator(tmp_path / name, provider="cpu", threads=1) for name in ("m.onnx", "o.onnx"))
    assert np.abs(first.generate_from(z).astype(int) - second.generate_from(z)).max() > 8


def test_the_commands_run_a_colour_model_and_its_golden_file(files: dict[str, Path], tmp_path: Path) -> None:
    model, golden = tmp_path / "faces.onnx", tmp_path / "faces.golden"
    result = run(files["PyTorch's DCGAN example"], "-o", model, "--golden", golden)
    assert result.exit_code == 0, result.output
    assert read_golden(golden).image.shape == (20, 3, 64, 64)
    made = CliRunner().invoke(
        infer, ["--provider", "cpu", "--model", str(model), "--n", "4", "-o", str(tmp_path / "g.png")]
    )
    assert made.exit_code == 0, made.output
    assert "4 images in 2x2" in made.output
    checked = CliRunner().invoke(verify, ["--golden", str(golden), str(model)])
    assert checked.exit_code == 0, checked.output
    # With two colours exchanged it is another model.
    damaged = onnx.load(model)
    last = next(t for t in damaged.graph.initializer if list(t.dims)[1:2] == [3] and t.dims[0] == 8)
    weights = onnx.numpy_helper.to_array(last)[:, ::-1].copy()
    last.CopyFrom(onnx.numpy_helper.from_array(weights, last.name))
    onnx.save(damaged, model)
    checked = CliRunner().invoke(verify, ["--golden", str(golden), str(model)])
    assert checked.exit_code == 1, checked.output


def test_triton_and_the_web_take_colour(files: dict[str, Path], tmp_path: Path) -> None:
    file = files["the same at 32 pixels"]
    result = run(file, "--target", "triton", "--out", tmp_path / "models")
    assert result.exit_code == 0, result.output
    assert "dims: [ 3, 32, 32 ]" in (tmp_path / "models" / file.stem / "config.pbtxt").read_text()
    result = run(file, "--target", "web", "--precision", "fp32", "--out", tmp_path / "page.onnx", "--json")
    assert result.exit_code == 0, result.output
    model = onnx.load(tmp_path / "page.onnx")
    assert [size.dim_value for size in model.graph.output[0].type.tensor_type.shape.dim[1:]] == [32, 32, 3]
    assert metadata_of(tmp_path / "page.onnx")["Image.BitmapPixelFormat"] == "Rgb8"


MODULES: dict[type[nn.Module], tuple[int, int, tuple[int, int, int]]] = {
    theirs.Residual: (10, 0, (1, 8, 8)),
    theirs.Conditional: (9, 5, (1, 8, 8)),
}


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[type[nn.Module], list[str | Path]]:
    """For each module the command line that reads it."""
    folder = tmp_path_factory.mktemp("modules")
    found: dict[type[nn.Module], list[str | Path]] = {}
    for make in (*MODULES, theirs.PytorchDcgan):
        torch.save(theirs.trained(make()).state_dict(), folder / f"{make.__name__}.pth")
        found[make] = [folder / f"{make.__name__}.pth", "--module", f"{theirs.__file__}:{make.__name__}"]
    return found


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize(
    "options",
    [[], ["--image", "uint8"], ["--inputs", "seed"], ["--precision", "fp16"], ["--format", "torchscript"],
     ["--format", "pt2"]],
    ids=" ".join,
)  # fmt: skip
def test_a_module_that_is_no_chain_passes_as_it_is(
    make: type[nn.Module],
    options: list[str],
    modules: dict[type[nn.Module], list[str | Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    latent_dim, classes, shape = MODULES[make]
    out = tmp_path / "model"
    monkeypatch.setattr("dcgan_export.quantize._LARGE", 64)  # these are small
    formats = [] if "--format" in options else ["--format", "onnx"]
    result = run(*modules[make], "-o", out, "--json", *formats, *options)
    assert result.exit_code == 0, result.output
    assert f"run by {theirs.__file__}:{make.__name__}" in result.stderr
    assert "exported as it is" in result.stderr
    metadata = metadata_of(out)
    spec = GeneratorSpec.from_json(metadata["dcgan.spec"])
    assert (spec.latent_dim, spec.num_classes, spec.image_shape, spec.layers) == (latent_dim, classes, shape, ())
    assert metadata["dcgan.optimize"] == json.loads(result.stdout)["optimize"] == "none"
    assert "dcgan.multiply_adds" not in metadata  # nobody knows the layers
    source = {"key": "", "layout": "module", "module": f"their_generators.py:{make.__name__}", "prefix": ""}
    assert json.loads(metadata["dcgan.source"]) == source


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize(
    ("options", "advice"),
    [(["--precision", "int8"], "take precision fp16 or fp32"), (["--optimize", "fused"], "leave optimize fused out")],
)
def test_what_needs_the_layers_is_refused_in_one_line(
    make: type[nn.Module],
    options: list[str],
    advice: str,
    modules: dict[type[nn.Module], list[str | Path]],
    tmp_path: Path,
) -> None:
    result = run(*modules[make], "-o", tmp_path / "m.onnx", *options)
    assert result.exit_code == 1
    *notes, error = result.stderr.splitlines()
    assert error == f"Error: this module is no chain of known layers, which could be rewritten; {advice}"
    assert not any(note.startswith("Error") for note in notes)
    assert list(tmp_path.iterdir()) == []


def test_latents_go_in_flat_whatever_the_module_takes(
    modules: dict[type[nn.Module], list[str | Path]], tmp_path: Path
) -> None:
    """The DCGAN example takes (N, nz, 1, 1); its artifact takes (N, nz), as every artifact does."""
    model = tmp_path / "m.onnx"
    result = run(*modules[theirs.PytorchDcgan], "-o", model)
    assert result.exit_code == 0, result.output
    assert "latents of 100 numbers, as (100, 1, 1)" in result.stderr
    assert "a chain of 15 known layers: equal to the module in float64" in result.stderr
    (z,) = onnx.load(model).graph.input
    assert [size.dim_param or size.dim_value for size in z.type.tensor_type.shape.dim] == ["batch", 100]
    assert metadata_of(model)["dcgan.optimize"] == "fused"
    module = theirs.trained(theirs.PytorchDcgan())
    with torch.no_grad():
        right = module(torch.from_numpy(latents(0, 0, 3, 100))[:, :, None, None]).numpy()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"z": latents(0, 0, 3, 100)})[0], right, atol=1e-4)


def test_classes_have_names(modules: dict[type[nn.Module], list[str | Path]], tmp_path: Path) -> None:
    model, out = tmp_path / "m.onnx", tmp_path / "g.png"
    named = ("--class-names", "cat, dog,horse,ship,truck")
    result = run(*modules[theirs.Conditional], "-o", model, *named)
    assert result.exit_code == 0, result.output
    spec = GeneratorSpec.from_json(metadata_of(model)["dcgan.spec"])
    assert spec.class_names == ("cat", "dog", "horse", "ship", "truck")
    made = CliRunner().invoke(
        infer, ["--provider", "cpu", "--model", str(model), "--class", "horse", "--n", "4", "-o", str(out)]
    )
    assert made.exit_code == 0, made.output
    wrong = run(*modules[theirs.Conditional], "-o", tmp_path / "n.onnx", "--class-names", "cat,dog")
    assert wrong.exit_code == 1
    assert "there are 2 class names for 5 classes" in wrong.stderr


@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".onnx"])
def test_an_artifact_says_nothing_of_where_a_module_s_code_is(suffix: str, tmp_path: Path) -> None:
    """The same bytes from another folder, and for torch's formats no path in any part of them."""
    contents = []
    code = Path(theirs.__file__).read_text(encoding="utf-8")
    for name in ("here", "over there"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "nets.py").write_text(code, encoding="utf-8")
        torch.save(theirs.trained(theirs.Residual()).state_dict(), folder / "g.pth")
        out = folder / f"m{suffix}"
        result = run(folder / "g.pth", "--module", f"{folder / 'nets.py'}:Residual", "-o", out)
        assert result.exit_code == 0, result.output
        contents.append(out.read_bytes())
        if suffix != ".onnx":
            with zipfile.ZipFile(out) as archive:
                contents[-1] = b"".join(archive.read(member) for member in archive.namelist())
        assert str(tmp_path).encode() not in contents[-1]
        assert b"_dcgan_module_" not in contents[-1]
    assert contents[0] == contents[1]


def test_a_trace_that_fixes_a_branch_is_refused(tmp_path: Path) -> None:
    """What torch.jit.trace decides once and for all, by its example of two, parity sees in batches of other sizes."""
    (tmp_path / "nets.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(6, 16)\n"
        "    def forward(self, z):\n"
        "        x = torch.tanh(self.fc(z))\n"
        "        for row in range(len(z)):\n"  # unrolled for the example
        "            x = x + 0 * x[row : row + 1]\n"
        "        return x.view(int(len(z)), 1, 4, 4)\n"
    )
    torch.save({"fc.weight": torch.randn(16, 6), "fc.bias": torch.zeros(16)}, tmp_path / "g.pth")
    result = run(
        tmp_path / "g.pth",
        *("--module", f"{tmp_path / 'nets.py'}:Net", "--value-range", "-1,1", "-o", tmp_path / "m.pt"),
    )
    assert result.exit_code == 1, result.output
    assert "m.pt was not written" in result.stderr
    assert not (tmp_path / "m.pt").exists()


def test_every_choice_of_the_command_reaches_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: list[Hints] = []

    def stop(_: Path, hints: Hints) -> Callable[[], None]:
        found.append(hints)
        raise KeyboardInterrupt

    monkeypatch.setattr("dcgan.checkpoint.load_generator", stop)
    said = {
        "--key": "ema", "--module": "a.py:N", "--activation": "elu:0.5", "--output-activation": "sigmoid",
        "--batch-norm-eps": "0.8", "--latent-dim": "7", "--num-classes": "2", "--class-names": "a,b",
        "--value-range": "0,1",
    }  # fmt: skip
    run("g.pth", "-o", tmp_path / "m.onnx", *(word for pair in said.items() for word in pair))
    assert found == [
        Hints("ema", "a.py:N", Activation("elu", 0.5), SIGMOID, 0.8, 7, 2, ("a", "b"), (0.0, 1.0)),
    ]
