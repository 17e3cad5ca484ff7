"""`prove`: the yardstick for anybody's module and anybody's file of it, and that it refuses the wrong ones."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import onnx
import pytest
import their_generators as theirs
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from dcgan.checkpoint import GeneratorCheckpoint
from dcgan.networks import Generator
from dcgan_export.formats import Variant
from dcgan_export.prove import prove
from dcgan_export.publish import publish
from dcgan_infer.contract.errors import CheckpointError, ExportError, ParityError
from dcgan_infer.contract.spec import reference_spec


class Small(theirs.PytorchDcgan):
    """PyTorch's DCGAN example at 16 pixels, which takes latents as maps."""

    def __init__(self) -> None:
        super().__init__(12, 8, 3, (4, 1))


MODULES: dict[type[nn.Module], tuple[Tensor, ...]] = {
    Small: (torch.zeros(2, 12, 1, 1),),
    theirs.Residual: (torch.zeros(2, 10),),
    theirs.Conditional: (torch.zeros(2, 9), torch.zeros(2, dtype=torch.int64)),
    theirs.SigmoidOutput: (torch.zeros(2, 8),),
}


def off_by_a_thousandth(module: nn.Module) -> nn.Module:
    damaged = copy.deepcopy(module)
    with torch.no_grad():
        next(parameter for parameter in damaged.parameters() if parameter.ndim > 1).mul_(1.001)
    return damaged


def written(module: nn.Module, path: Path) -> Path:
    """A file of a module as torch itself writes it, with names of its own."""
    example = MODULES[type(module)]
    batch = torch.export.Dim("n", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix == ".pt":
            torch.jit.save(torch.jit.trace(module, example), path)  # type: ignore[no-untyped-call]
        elif path.suffix == ".pt2":
            torch.export.save(torch.export.export(module, example, dynamic_shapes=({0: batch},) * len(example)), path)
        else:
            torch.onnx.export(
                module,
                example,
                path,
                dynamo=True,
                input_names=["noise", "digit"][: len(example)],
                output_names=["picture"],
                dynamic_shapes=({0: batch},) * len(example),
                verbose=False,
                external_data=False,
            )
    return path


@pytest.mark.parametrize(
    ("make", "suffix"),
    [
        *((make, ".onnx") for make in MODULES),
        *((make, suffix) for make in (Small, theirs.Conditional) for suffix in (".pt", ".pt2")),
    ],
)
def test_a_file_of_torch_itself_passes_and_a_thousandth_is_seen(
    make: type[nn.Module], suffix: str, tmp_path: Path
) -> None:
    module = theirs.trained(make())
    path = written(module, tmp_path / f"theirs{suffix}")
    report = prove(module, path)
    assert report.passed
    assert [row.latents for row in report.figures] == ["N(0,1)", "tails, |z| <= 6"]
    assert "parity: passed" in report.table()
    with pytest.raises(ParityError, match=rf"theirs{suffix} is not equal to {make.__name__}: .*off by") as caught:
        prove(off_by_a_thousandth(module), path)
    assert not caught.value.report.passed


def test_one_weight_of_a_file_is_enough(tmp_path: Path) -> None:
    module = theirs.trained(theirs.Residual())
    path = written(module, tmp_path / "theirs.onnx")
    model = onnx.load(path)
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights = numpy_helper.to_array(tensor).copy()
    place = abs(weights).argmax()
    weights.flat[place] *= 1.001
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    onnx.save(model, path)
    with pytest.raises(ParityError, match="is not equal to Residual"):
        prove(module, path)


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    module = theirs.trained(theirs.Residual())
    torch.onnx.export(
        module, MODULES[theirs.Residual], tmp_path / "two.onnx", dynamo=True, verbose=False, external_data=False
    )
    with pytest.raises(ParityError, match="does not run on a batch of 1"):
        prove(module, tmp_path / "two.onnx")


def test_the_module_stays_as_it_was(tmp_path: Path) -> None:
    module = theirs.trained(theirs.Residual())
    path = written(module, tmp_path / "theirs.pt2")
    module.requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    prove(module.train(), path)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_what_a_module_does_not_say_can_be_said(tmp_path: Path) -> None:
    class Bounded(theirs.Unbounded):
        def forward(self, z: Tensor) -> Tensor:
            return super().forward(z).clamp(0.0, 1.0)

    module = theirs.trained(Bounded())
    MODULES[Bounded] = (torch.zeros(2, 8),)
    path = written(module, tmp_path / "b.pt2")
    with pytest.raises(CheckpointError, match="ends in neither tanh nor sigmoid"):
        prove(module, path)
    assert prove(module, path, latent_dim=8, value_range=(0.0, 1.0)).passed


def test_fewer_bits_take_a_wider_limit(tmp_path: Path) -> None:
    module = theirs.trained(theirs.SigmoidOutput())
    halved = copy.deepcopy(module).half().float()
    path = written(halved, tmp_path / "half.onnx")
    with pytest.raises(ParityError):
        prove(module, path)
    assert prove(module, path, precision="fp16").passed


def test_an_int8_file_takes_the_limit_of_int8(tmp_path: Path) -> None:
    torch.manual_seed(0)  # some weights of so small a network can not bear int8
    module = Generator(reference_spec(8, (1, 8, 8), channels=(4, 8, 4))).eval()
    spec = module.spec
    publish(GeneratorCheckpoint(module, spec, module, "", ""), tmp_path / "a.onnx", Variant(precision="int8"))
    assert prove(module, tmp_path / "a.onnx", precision="int8").passed
    with pytest.raises(ParityError):
        prove(module, tmp_path / "a.onnx")


@pytest.mark.parametrize(
    "name", ["missing.onnx", "weights.pth", "folder.onnx", "broken.onnx", "broken.pt2", "broken.pt"]
)
def test_what_is_no_artifact_is_an_export_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.startswith("folder"):
        path.mkdir()
    elif not name.startswith("missing"):
        path.write_bytes(b"not a model")
    with pytest.raises(ExportError, match=r"is not a file that ends in|refuses the"):
        prove(theirs.trained(theirs.Residual()), path)
