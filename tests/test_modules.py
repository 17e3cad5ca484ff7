"""Somebody's own nn.Module: found, loaded, tried and wrapped; and what is refused of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import their_generators as theirs
import torch
from document import DocumentGenerator
from torch import nn

from dcgan.checkpoint import GeneratorCheckpoint, Hints, load_generator, weights_sha256
from dcgan.modules import fit
from dcgan.networks import Generator
from dcgan.user_code import load_module
from dcgan_infer.contract.errors import CheckpointError
from dcgan_infer.contract.layers import TANH, Activation
from dcgan_infer.contract.spec import GeneratorSpec

FILE = theirs.__file__


def saved(folder: Path, module: nn.Module) -> Path:
    path = folder / "theirs.pth"
    torch.save(theirs.trained(module).state_dict(), path)
    return path


def load(folder: Path, module: nn.Module, **hints: object) -> GeneratorCheckpoint:
    said = Hints(module=f"{FILE}:{type(module).__name__}", **hints)  # type: ignore[arg-type]
    return load_generator(saved(folder, module), said)


CHAINS = {
    theirs.PytorchDcgan: (100, (3, 64, 64)),
    theirs.BlocksDcgan: (16, (1, 16, 16)),
    theirs.PytorchGan: (20, (1, 16, 16)),
    theirs.Mlp: (12, (3, 8, 8)),
    theirs.Functional: (6, (1, 12, 24)),
    theirs.SigmoidOutput: (8, (1, 8, 8)),
}
OTHERS = {theirs.Residual: (10, (1, 8, 8)), theirs.Attention: (14, (3, 8, 8))}


@pytest.mark.parametrize("make", [*CHAINS, *OTHERS])
def test_a_module_becomes_a_generator(tmp_path: Path, make: type[nn.Module]) -> None:
    module = theirs.trained(make())
    loaded = load(tmp_path, make())
    latent_dim, image_shape = (CHAINS | OTHERS)[make]
    assert (loaded.spec.latent_dim, loaded.spec.image_shape, loaded.spec.num_classes) == (latent_dim, image_shape, 0)
    assert not any(part.training for part in loaded.module.modules())
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    z = torch.randn(3, latent_dim)
    as_maps = make in (theirs.PytorchDcgan, theirs.BlocksDcgan, theirs.Attention)
    with torch.no_grad():
        assert torch.equal(loaded.module(z), module(z[:, :, None, None] if as_maps else z))
        if make in CHAINS:
            assert loaded.chain is not None
            assert loaded.chain.spec.layers == loaded.spec.layers != ()
            torch.testing.assert_close(loaded.chain(z), loaded.module(z))
        else:
            assert loaded.chain is None
            assert loaded.spec.layers == ()
            assert "exported as it is" in loaded.notes[-1]
    assert loaded.weights_sha256 == weights_sha256(module.state_dict())
    assert json.loads(loaded.source) == {
        "key": "",
        "layout": "module",
        "module": f"their_generators.py:{make.__name__}",
        "prefix": "",
    }
    assert loaded.spec.value_range == ((0, 1) if make in (theirs.Functional, theirs.SigmoidOutput) else (-1, 1))


@pytest.mark.parametrize("make", [theirs.Conditional, theirs.LabelFirst])
@pytest.mark.parametrize("said", [{}, {"num_classes": 5, "class_names": tuple("abcde"), "latent_dim": 9}])
def test_a_module_with_labels(tmp_path: Path, make: type[nn.Module], said: dict[str, object]) -> None:
    module = theirs.trained(make())
    loaded = load(tmp_path, make(), **said)
    assert (loaded.spec.latent_dim, loaded.spec.num_classes) == (9, 5)
    assert loaded.spec.class_names == said.get("class_names", ())
    assert loaded.chain is None
    z, label = torch.randn(4, 9), torch.tensor([0, 4, 2, 2])
    with torch.no_grad():
        expected = module(label, z) if make is theirs.LabelFirst else module(z, label)
        assert torch.equal(loaded.module(z, label), expected)
    with pytest.raises(ValueError, match="needs a label"):
        loaded.module(z)


def test_names_of_classes_say_how_many_there_are() -> None:
    module = theirs.trained(theirs.Conditional()).eval()
    del module.n_classes
    with pytest.raises(CheckpointError, match="of a network that takes labels, say --num-classes N"):
        fit(module, "theirs")
    spec = fit(module, "theirs", class_names=tuple("abcde")).spec
    assert (spec.latent_dim, spec.num_classes, spec.class_names) == (9, 5, tuple("abcde"))
    assert not any("also takes label" in note for note in fit(module, "theirs", num_classes=5).notes)
    fewer = fit(module, "theirs", class_names=tuple("ab"))
    assert "it also takes label 2, past the last: say --num-classes N if it has more than 2" in fewer.notes
    with pytest.raises(CheckpointError, match="there are 5 class names for 4 classes"):
        fit(module, "theirs", num_classes=4, class_names=tuple("abcde"))


@pytest.mark.parametrize("make", [theirs.PytorchDcgan, theirs.Residual, theirs.Conditional, theirs.Attention])
@pytest.mark.filterwarnings("ignore")
def test_the_wrapper_exports_with_a_free_batch(tmp_path: Path, make: type[nn.Module]) -> None:
    loaded = load(tmp_path, make())

    def inputs(count: int) -> tuple[torch.Tensor, ...]:
        z = torch.randn(count, loaded.spec.latent_dim)
        return (z, torch.arange(count) % loaded.spec.num_classes) if loaded.spec.num_classes else (z,)

    batch = torch.export.Dim("batch")
    program = torch.export.export(loaded.module, inputs(3), dynamic_shapes=tuple({0: batch} for _ in inputs(3)))
    traced = torch.jit.trace(loaded.module, inputs(3))  # type: ignore[no-untyped-call]
    for count in (1, 2, 7):
        expected = loaded.module(*(given := inputs(count)))
        torch.testing.assert_close(program.module()(*given), expected)
        torch.testing.assert_close(traced(*given), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (theirs.Noisy, "draws noise of its own"),
        (theirs.NoStatistics, r"BatchNorm main.1 keeps no running statistics"),
        (theirs.BatchMates, "gives another image alone than in a batch"),
        (
            theirs.Float32Inside,
            "does not run in float64, which its proof needs: RuntimeError: .*their_generators.py, line",
        ),
        (theirs.Float32Always, "computes a part in float32 whatever its input is"),
        (theirs.Flat, r"gives values of shape \(2, 64\) for 2 latents; expected are images of shape"),
        (theirs.Tuple, "gives tuple; expected are images of shape"),
        (
            theirs.Failing,
            r"does not run on latents of shape \(N, 8\): KeyError: 'no such key' \(their_generators.py, line",
        ),
        (theirs.Ending, r"does not run on latents of shape \(N, 8\): SystemExit: 0 \(their_generators.py, line"),
        (theirs.Blank, r"gives images without pixels, of shape \(2, 1, 8, 0\)"),
        (theirs.Unbounded, "ends in neither tanh nor sigmoid"),
    ],
)
def test_what_can_t_be_proved_is_refused(tmp_path: Path, make: type[nn.Module], message: str) -> None:
    module = make()
    path = tmp_path / "theirs.pth"
    torch.save((module if make in UNTRAINABLE else theirs.trained(module)).state_dict(), path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(path, Hints(module=f"{FILE}:{make.__name__}"))
    assert "\n" not in str(caught.value)


UNTRAINABLE = (theirs.Failing, theirs.Ending)


def test_what_fails_on_other_inputs_than_the_first_is_refused(tmp_path: Path) -> None:
    torch.save(theirs.Small().state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match=r"on a batch of 16 latents: ValueError: seven are enough"):
        load_generator(tmp_path / "theirs.pth", Hints(module=f"{FILE}:Small", value_range=(-1.0, 1.0)))
    with pytest.raises(CheckpointError, match=r"latents and labels from 0 to 6: IndexError"):
        load(tmp_path, theirs.Conditional(), num_classes=7)


def test_an_output_without_bounds_is_looked_at(tmp_path: Path) -> None:
    module = theirs.Unbounded()
    with torch.no_grad():
        module.fc.weight.mul_(0.01)
        module.fc.bias.fill_(0.5)
    path = tmp_path / "theirs.pth"
    torch.save(module.state_dict(), path)
    name = f"{FILE}:Unbounded"
    loaded = load_generator(path, Hints(module=name, value_range=(0.0, 1.0)))
    assert loaded.spec.value_range == (0.0, 1.0)
    torch.save({name: 100 * tensor for name, tensor in module.state_dict().items()}, path)
    with pytest.raises(CheckpointError, match=r"gives values from \S+ to \S+, beyond 0 to 1"):
        load_generator(path, Hints(module=name, value_range=(0.0, 1.0)))
    with pytest.raises(CheckpointError, match=r"a value range is -1,1 or 0,1, found 0,255"):
        load_generator(path, Hints(module=name, value_range=(0.0, 255.0)))


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"latent_dim": 21}, r"does not run on latents of shape \(N, 21\): .*; say another --latent-dim"),
        ({"num_classes": 10}, r"and labels: .* or, of a network that takes no labels, leave --num-classes out"),
        ({"value_range": (0.0, 1.0)}, "ends in tanh, so its values go from -1 to 1; leave --value-range out"),
        ({"activation": TANH}, "the module itself says its layers; leave --activation out"),
        ({"eps": 0.8, "output": TANH}, "leave --output-activation and --batch-norm-eps out"),
        ({"class_names": ("a", "b")}, "2 class names for 0 classes"),
    ],
)
def test_hints_that_contradict_a_module_are_refused(tmp_path: Path, hints: dict[str, object], message: str) -> None:
    load(tmp_path, theirs.PytorchGan(), latent_dim=20, value_range=(-1.0, 1.0))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, theirs.PytorchGan(), **hints)


def test_our_own_files_and_wrapped_weights_load_into_a_module(tmp_path: Path) -> None:
    module = theirs.trained(DocumentGenerator())
    torch.save({"G": nn.DataParallel(module).state_dict(), "D": nn.Linear(2, 2).state_dict()}, tmp_path / "g.pt")
    loaded = load_generator(tmp_path / "g.pt", Hints(module="document:DocumentGenerator"))
    assert loaded.weights_sha256 == weights_sha256(module.state_dict())
    assert json.loads(loaded.source) | {"layout": ""} == {
        "key": "G",
        "layout": "",
        "module": "document:DocumentGenerator",
        "prefix": "module.",
    }
    assert loaded.chain is not None


def test_other_weights_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, theirs.PytorchGan())
    with pytest.raises(
        CheckpointError, match=r"does not fit --module .*: it lacks main.0.weight, .* and \d+ more; it also"
    ):
        load_generator(path, Hints(module=f"{FILE}:PytorchDcgan"))
    torch.save(theirs.PytorchGan(21).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"l1.0.weight has the shape \(512, 21\) for \(512, 20\)"):
        load_generator(path, Hints(module=f"{FILE}:PytorchGan"))


def test_a_part_of_a_checkpoint_is_chosen_by_its_key(tmp_path: Path) -> None:
    one, two = theirs.trained(theirs.PytorchGan(), 1), theirs.trained(theirs.PytorchGan(), 2)
    torch.save({"nets": {"A": one.state_dict(), "B": two.state_dict()}, "epoch": 3}, tmp_path / "g.pt")
    hints = Hints(module=f"{FILE}:PytorchGan")
    with pytest.raises(CheckpointError, match=r"several generators: nets\.A, nets\.B; choose one with --key NAME"):
        load_generator(tmp_path / "g.pt", hints)
    loaded = load_generator(tmp_path / "g.pt", Hints(module=hints.module, key="nets.B"))
    assert loaded.weights_sha256 == weights_sha256(two.state_dict())


PARSES = """
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
options = parser.parse_args()
"""
# Files of other people, by name.
SCRIPTS = {
    "parses.py": PARSES,
    "exits.py": "import sys\nprint('done')\nsys.exit(0)",
    "says.py": "import sys\nsys.exit('usage: says.py DATA')",
    "trains.py": "import torch\n\nfor epoch in range(3):\n    open('data/train.bin')",
    "syntax.py": "x = 1\ndef f(:\n    pass",
    "relative.py": "from .layers import Block",
    "imports.py": "import no_such_package_of_mine",
}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            "parses.py",
            r"ends the program when it is imported \(parses.py: error: .*--data\).*put the class into a file of",
        ),
        ("exits.py", r"ends the program when it is imported \(done\)"),
        ("says.py", r"ends the program when it is imported \(usage: says.py DATA\)"),
        ("trains.py", r"fails when it is imported: FileNotFoundError: .*\(trains.py, line 4\); if it trains"),
        ("syntax.py", r"fails when it is imported: SyntaxError: invalid syntax \(syntax.py, line 2\)"),
        ("relative.py", r"no known parent package \(relative.py, line 1\); a module of a package is given as package"),
        ("imports.py", r"ModuleNotFoundError: No module named 'no_such_package_of_mine' \(imports.py, line 1\)"),
    ],
)
def test_a_script_that_does_more_than_define_is_refused_in_one_line(
    tmp_path: Path, file: str, message: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).write_text(SCRIPTS[file])
    monkeypatch.setattr(sys, "argv", ["dcgan-export", "--data", "x"])  # ours, not the script's
    paths, modules = list(sys.path), set(sys.modules)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_module(f"{tmp_path / file}:Generator")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert sys.path == paths
    assert sys.argv == ["dcgan-export", "--data", "x"]
    assert not {name for name in set(sys.modules) - modules if name.startswith("_dcgan")}


NET = """
import sys
from dataclasses import dataclass
from torch import nn
from sizes_beside_it import SIZE

print("hello from the file", sys.argv)

@dataclass
class Options:
    size: int = SIZE

class Net(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.fc = nn.Linear(size, 64)

def make():
    return Net(Options().size)

def fails():
    raise ValueError("no weather today")

def number():
    return 7

net = Net(3)
compiled = nn.DataParallel(net)
"""


def width(module: nn.Module) -> int:
    layer = module.fc
    assert isinstance(layer, nn.Linear)
    return layer.in_features


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "dcgan.py"  # a name that is taken
    path.write_text(NET)
    (tmp_path / "sizes_beside_it.py").write_text("SIZE = 5\n")
    return path


def test_a_file_is_run_under_a_name_of_its_own_beside_its_neighbours(
    net: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sys.modules["dcgan"]
    made = load_module(f"{net}:make")
    assert width(made) == 5
    assert not made.training
    assert sys.modules["dcgan"] is before
    assert capsys.readouterr() == ("", f"hello from the file {[str(net)]}\n")  # stdout is for results
    monkeypatch.chdir(net.parent)
    monkeypatch.delitem(sys.modules, "sizes_beside_it")
    assert width(load_module("dcgan.py:make")) == 5


def test_a_module_at_hand_is_taken_and_unwrapped(net: Path) -> None:
    assert width(load_module(f"{net}:net")) == 3
    assert width(load_module(f"{net}:compiled")) == 3
    assert isinstance(load_module("dcgan.networks:Generator"), Generator)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Net", "Net needs size; write a function without arguments that makes it"),
        ("fails", r"fails when it is made: ValueError: no weather today \(dcgan.py, line 22\)"),
        ("number", "it gives int, and an nn.Module was expected"),
        ("Other", "has no Other; its modules are Net"),
        ("SIZE", "SIZE is int, no class or function"),
    ],
)
def test_names_that_give_no_module_are_refused(net: Path, name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_module(f"{net}:{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("generator.py", "write FILE.py:NAME or package.module:NAME"),
        (":Generator", "write FILE.py:NAME"),
        ("nowhere/generator.py:Generator", "there is no file nowhere/generator.py"),
        ("no_such_package.of_mine:Generator", "ModuleNotFoundError: No module named 'no_such_package'"),
    ],
)
def test_names_that_lead_nowhere_are_refused(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_module(name)


def test_an_importable_module_is_found_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_nets_1").mkdir()
    (tmp_path / "my_own_nets_1" / "g.py").write_text("from torch import nn\nmake = lambda: nn.Linear(2, 2)\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_module("my_own_nets_1.g:make"), nn.Linear)


def test_activations_are_the_module_s_own(tmp_path: Path) -> None:
    assert load(tmp_path, theirs.PytorchGan()).spec.activation == Activation("leaky-relu", 0.2)


class Branching(nn.Module):
    """Looks at its values, so torch.export stops: no chain, and no name for the output."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 16)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.fc(z)).view(-1, 1, 4, 4)
        return x if x.sum() > 1e9 else -x


class OldNorms(nn.Module):
    """Weights that are computed from others before each call, in the old way."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.utils.spectral_norm(nn.Linear(4, 16))
        with pytest.warns(FutureWarning):
            self.conv = nn.utils.weight_norm(nn.Conv2d(1, 1, 3, padding=1))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.conv(self.fc(z).view(-1, 1, 4, 4)))


def test_a_module_that_can_t_be_exported_needs_its_range(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save(Branching().state_dict(), tmp_path / "g.pth")
    name = f"{__file__}:Branching"
    with pytest.raises(CheckpointError, match="say --value-range"):
        load_generator(tmp_path / "g.pth", Hints(module=name))
    loaded = load_generator(tmp_path / "g.pth", Hints(module=name, value_range=(-1.0, 1.0)))
    assert loaded.chain is None
    assert "torch.export stops at" in loaded.notes[-1]
    assert capfd.readouterr() == ("", "")


def test_old_weight_and_spectral_norms_run_as_they_are(tmp_path: Path) -> None:
    module = OldNorms().eval()
    torch.save(module.state_dict(), tmp_path / "g.pth")
    loaded = load_generator(tmp_path / "g.pth", Hints(module=f"{__file__}:OldNorms"))
    assert loaded.chain is None
    z = torch.randn(3, 4)
    with torch.no_grad():
        assert torch.equal(loaded.module(z), module(z))


def test_numbers_that_a_spec_can_t_hold_make_no_chain() -> None:
    made = fit(
        nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9, eps=0.0), nn.Tanh(), nn.Unflatten(1, (1, 3, 3))).eval(), "it"
    )
    assert made.chain is None
    assert GeneratorSpec.from_json(made.spec.to_json()) == made.spec
