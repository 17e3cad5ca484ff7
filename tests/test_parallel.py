"""Training in several processes: a step of two is the step of one, and what they leave when one of them ends.

The processes are real ones, over gloo. Those of most tests are started once, as this very file: `CASES` run in them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import ROOT, StopAfter
from torch import nn

from dcgan.batchnorm import SharedBatchNorm, share_batchnorm
from dcgan.cli import _Interrupts, _resumed
from dcgan.data import Dataset
from dcgan.parallel import ALONE, Place, Processes, joined
from dcgan.recipes import RECIPES, Recipe
from dcgan.run import _take_steps, _write_options, train
from dcgan.run_options import RunOptions, read_options
from dcgan.trainer import Trainer, resolve_device
from dcgan_infer.contract.errors import DatasetError, DeviceError, RunError

CPU = torch.device("cpu")
STEPS, BATCH, TOTAL = 4, 7, 21  # two processes have three and four images of a batch
NARROW: dict[str, Any] = {"batch_size": BATCH, "epochs": 2, "ngf": 4, "ndf": 4, "precision": "fp32", "dropout": 0.0}
RECIPE = {
    "baseline": dataclasses.replace(RECIPES["baseline"], **NARROW),
    "fast": dataclasses.replace(RECIPES["fast"], **NARROW),
    "dcgan": dataclasses.replace(RECIPES["dcgan"], **NARROW),
    "images": dataclasses.replace(RECIPES["images"], **NARROW),
    "spectral": dataclasses.replace(RECIPES["fast"], **NARROW, discriminator="spectral", labels="asked"),
}


def dataset(side: int = 28) -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (TOTAL, side, side), dtype=np.uint8)
    return Dataset(images, np.arange(TOTAL) % 3, ("a", "b", "c"), "mine")


def trained(recipe: Recipe, processes: Processes, steps: int = STEPS, side: int = 28) -> Trainer:
    """A trainer after some steps on odd batches."""
    trainer = Trainer(recipe, dataset(side), CPU, seed=3)
    for optimizer in (trainer.g_optimizer, trainer.d_optimizer):
        # Adam divides gradients by their size: of one that is 0 but for rounding it would make a whole step.
        optimizer.param_groups[0]["eps"] = 1e-3
    trainer.join(processes)
    for index in range(steps):
        indices = (torch.arange(BATCH) + index) % TOTAL
        trainer.step(*trainer.batch(indices[processes.share(BATCH)]), total=BATCH)
    return trainer


def steps_of(name: str) -> Callable[[Processes], dict[str, torch.Tensor]]:
    return lambda processes: trained(RECIPE[name], processes, side=16 if name == "dcgan" else 28).tensors()


def with_fault(name: str, target: str, fault: Any) -> Callable[[Processes], dict[str, torch.Tensor]]:
    def run(processes: Processes) -> dict[str, torch.Tensor]:
        with patch(target, fault):
            return steps_of(name)(processes)

    return run


with_mean_gradients, update = Processes.with_mean_gradients, Trainer._update  # patched below


def gradients_of_one_left_out(processes: Processes, network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        if parameter.requires_grad and processes.leads:
            parameter.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call]
    return with_mean_gradients(processes, network)


def unweighed(trainer: Trainer, real: Any, label: Any, z: torch.Tensor, _weight: float) -> torch.Tensor:
    return update(trainer, real, label, z, 1.0)


FAULTS: dict[str, tuple[str, str, Any]] = {
    "BatchNorm of each process's share": ("dcgan", "dcgan.trainer.share_batchnorm", lambda *_: None),
    "losses not weighed": ("baseline", "dcgan.trainer.Trainer._update", unweighed),
    "one process's gradients left out": (
        "spectral", "dcgan.parallel.Processes.with_mean_gradients", gradients_of_one_left_out
    ),
    "gradients of each process's own": ("spectral", "dcgan.parallel.Processes.with_mean_gradients", lambda _, n: n),
    "the same latents in all": ("spectral", "dcgan.parallel.Processes.share", lambda _, total: slice(0, total // 2)),
    "features of each process's own": ("fast", "dcgan.trainer.Trainer._follow", lambda _: None),
}  # fmt: skip


def normalised(processes: Processes) -> dict[str, torch.Tensor]:
    """BatchNorm of a batch far from 0; gradients of a loss that differs from image to image."""
    random = torch.Generator().manual_seed(0)
    x = 1000 + torch.randn(BATCH, 3, 4, 5, generator=random)
    weights = torch.randn(x.shape, generator=random)
    part = processes.share(BATCH)
    plain = nn.BatchNorm2d(3)
    nn.init.normal_(plain.weight, generator=random)
    layer: nn.Module = plain
    if processes.count > 1:
        processes.open(CPU)
        layer = SharedBatchNorm(plain, processes.group)
    own = x[part].requires_grad_()
    y = layer(own)
    (y * weights[part]).sum().backward()
    gradients = {"x": own.grad, **{f"d {name}": parameter.grad for name, parameter in layer.named_parameters()}}
    return {"y": y.detach(), **gradients, **layer.state_dict()}


def indices_of_an_epoch(processes: Processes) -> list[int]:
    """The images that this process takes in an epoch whose last batch is a smaller one."""
    trainer = Trainer(dataclasses.replace(RECIPE["spectral"], batch_size=5, drop_last=False), dataset(), CPU, seed=0)
    with patch.object(trainer, "batch", lambda indices: (indices, None)), patch.object(trainer, "step") as step:
        step.side_effect = lambda *_, **__: setattr(trainer, "steps_done", trainer.steps_done + 1)
        _take_steps(trainer, 0, lambda: False, processes, lambda _: None)
    return [index for call in step.call_args_list for index in call.args[0].tolist()]


def random_numbers(processes: Processes) -> dict[str, Any]:
    """What each process draws in a step: latents, and where dropout and augmentation put zeros."""
    trainer = Trainer(dataclasses.replace(RECIPE["spectral"], dropout=0.5, batch_size=4), dataset(), CPU, seed=0)
    trainer.join(processes)
    seen: dict[str, Any] = {}

    def see(name: str, value: torch.Tensor) -> None:
        seen.setdefault(name, value.detach().clone())

    def augment(images: torch.Tensor) -> torch.Tensor:
        see("augmentation", torch.rand(4))
        return images

    trainer.augment = augment
    trainer.generator.register_forward_pre_hook(lambda _, inputs: see("z", inputs[0]))
    trainer.discriminator.get_submodule("dropout").register_forward_hook(
        lambda _, __, output: see("dropout", output.abs().sum((2, 3)) == 0)
    )
    trainer.step(*trainer.batch(torch.arange(4)[processes.share(4)]), total=4)
    return seen | {"after": torch.get_rng_state()}


def options(recipe: str, **changes: Any) -> RunOptions:
    return RunOptions(dataclasses.replace(RECIPE[recipe], **changes), "images", "/somewhere/mine.zip", 0, "cpu", 1)


def runs(processes: Processes) -> dict[str, Any]:
    """Runs on disk: whole ones, and one that the second process stops and that goes on."""
    found: dict[str, Any] = {}
    choices = options("fast", dropout=0.3, augment="diffaugment")
    with patch("dcgan.loading.load_dataset", lambda *_, **__: dataset()):
        never: Callable[[], bool] = lambda: False  # noqa: E731
        found["whole"] = train(Path("whole"), choices, processes=processes)
        stop = never if processes.leads else StopAfter(4)
        found["stopped"] = train(Path("parts"), choices, processes=processes, interrupted=stop)
        torch.manual_seed(processes.place.rank)  # what happens in between must not matter
        found["resumed"] = train(Path("parts"), choices, resume=True, processes=processes)
        plain = options("spectral", lr_schedule="constant")
        with latents() as found["z of two, then one"]:
            found["two"] = train(Path("two"), plain, processes=processes, interrupted=StopAfter(2))
            if processes.leads:
                found["two, then one"] = train(Path("two"), plain, resume=True)
        # Of one process, in a folder that only the first one looks at.
        with latents() as found["z of one, then two"]:
            if processes.leads:
                found["one"] = train(Path("one"), plain, interrupted=StopAfter(2))
            found["one, then two"] = train(Path("one"), plain, resume=True, processes=processes)
    return found


@contextlib.contextmanager
def latents() -> Iterator[dict[int, torch.Tensor]]:
    """The latents that this process takes, by the number of steps that were done before."""
    found: dict[int, torch.Tensor] = {}

    def see(trainer: Trainer, real: Any, label: Any, z: torch.Tensor, weight: float) -> torch.Tensor:
        found[trainer.steps_done] = z.clone()
        return update(trainer, real, label, z, weight)

    with patch("dcgan.trainer.Trainer._update", see):
        yield found


CASES: dict[str, Callable[[Processes], Any]] = {
    "batchnorm": normalised,
    "indices": indices_of_an_epoch,
    "random numbers": random_numbers,
    "runs": runs,
    **{name: steps_of(name) for name in RECIPE},
    **{name: with_fault(*fault) for name, fault in FAULTS.items()},
}


def environment(rank: int, count: int, port: int, **more: str) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    path = os.pathsep.join(str(ROOT / name) for name in ("", "infer", "export", "tests"))
    return os.environ | {name: str(number) for name, number in numbers.items()} | {
        "MASTER_ADDR": "localhost", "PYTHONPATH": path, **more
    }  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each of two processes made of every case."""
    folder, port = tmp_path_factory.mktemp("two"), free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder / f"{rank}.pt")],
            cwd=made(folder / str(rank)), env=environment(rank, 2, port),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2))
    return first | {"folder": folder / "0", "said": said}, second | {"folder": folder / "1"}


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest difference of all tensors but for random states, in units of 1 + the expected value."""
    assert found.keys() == expected.keys()
    names = [name for name in expected if not name.startswith("rng.")]
    return max(
        ((found[name].double() - expected[name].double()).abs() / (1 + expected[name].double().abs())).max().item()
        for name in names
    )


Both = tuple[dict[str, Any], dict[str, Any]]


@pytest.mark.parametrize("name", RECIPE)
def test_steps_of_two_processes_are_those_of_one(of_two: Both, name: str) -> None:
    """Weights, statistics, moving average, optimizers and losses, up to rounding; and to the bit in both processes."""
    first, second = (each[name] for each in of_two)
    assert distance(first, steps_of(name)(ALONE)) < 1e-4
    assert distance(second, first) == 0.0
    assert torch.equal(first["rng.cpu"], second["rng.cpu"])


@pytest.mark.parametrize("fault", FAULTS)
def test_that_comparison_sees_a_fault(of_two: Both, fault: str) -> None:
    assert distance(of_two[0][fault], steps_of(FAULTS[fault][0])(ALONE)) > 1e-2


def test_batchnorm_is_that_of_the_whole_batch(of_two: Both) -> None:
    expected = normalised(ALONE)
    first, second = (each["batchnorm"] for each in of_two)
    assert first.keys() == expected.keys()
    for name in ("y", "x"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), expected[name], rtol=1e-4, atol=1e-3)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(first[name], expected[name], rtol=1e-6, atol=0)
        assert torch.equal(first[name], second[name])
    for name in (
        "d weight",
        "d bias",
    ):  # parts of the gradient, which DistributedDataParallel puts together
        torch.testing.assert_close(first[name] + second[name], expected[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_batchnorm_takes_bf16_and_keeps_the_memory_order(tmp_path: Path, order: torch.memory_format) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(8, 4, 6, 6, generator=random).to(torch.bfloat16, memory_format=order)
    found = []
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for shared in (False, True):
            network: nn.Module = nn.Sequential(nn.BatchNorm2d(4))
            if shared:
                share_batchnorm(network, None)
            own = x.clone().requires_grad_()
            y = network(own)
            y.float().square().mul(y.detach()).sum().backward()
            assert own.grad is not None
            assert y.is_contiguous(memory_format=order)
            found.append((y.detach(), own.grad, *network.state_dict().values()))
    finally:
        torch.distributed.destroy_process_group()
    for plain, shares in zip(*found, strict=True):
        assert plain.dtype == shares.dtype
        torch.testing.assert_close(shares, plain, rtol=1e-2, atol=1e-2)


def test_an_epoch_shows_every_image_to_one_process_once(of_two: Both) -> None:
    shares = [each["indices"] for each in of_two]
    assert sorted(shares[0] + shares[1]) == list(range(TOTAL))
    assert min(map(len, shares)) >= 8


@pytest.mark.parametrize(("total", "count"), [(7, 2), (64, 3), (3, 3)])
def test_shares_are_a_batch_and_differ_by_one_image(total: int, count: int) -> None:
    shares = [list(range(total))[Processes(Place(rank, count)).share(total)] for rank in range(count)]
    assert sum(shares, []) == list(range(total))  # noqa: RUF017
    sizes = {len(share) for share in shares}
    assert max(sizes) - min(sizes) <= 1


def test_processes_draw_different_random_numbers(of_two: Both) -> None:
    first, second = (each["random numbers"] for each in of_two)
    for name in ("z", "dropout", "augmentation"):
        assert not torch.equal(first[name][:2], second[name][:2]), name
    assert torch.equal(first["after"], second["after"])  # what all have in common goes on alike
    z = torch.cat([first["z"], second["z"]])
    alone = random_numbers(ALONE)
    torch.testing.assert_close(z, alone["z"])


def test_one_process_stops_all_and_they_go_on_to_the_same_bits(of_two: Both) -> None:
    first, second = (each["runs"] for each in of_two)
    assert first["stopped"] is second["stopped"] is None
    losses = [[(row["d_loss"], row["g_loss"]) for row in first[name]] for name in ("whole", "resumed")]
    assert losses[0] == losses[1]
    assert second["whole"] == second["resumed"] == []
    for name in ("generator.safetensors", "samples/epoch-001.png"):
        whole, parts = ((of_two[0]["folder"] / run / name).read_bytes() for run in ("whole", "parts"))
        assert whole == parts


def test_a_run_goes_on_with_another_number_of_processes(of_two: Both) -> None:
    found, other = (each["runs"] for each in of_two)
    for name, count in (("one, then two", 2), ("two, then one", 1)):
        assert [row["processes"] for row in found[name]] == [count, count]
        assert all(np.isfinite(row["g_loss"]) for row in found[name])
    # Without dropout and augmentation the latents are the same too, in either order.
    for name, shared in (("z of two, then one", {0, 1}), ("z of one, then two", {2, 3, 4, 5})):
        assert found[name].keys() == {*range(6)}
        assert other[name].keys() == shared
    for step in range(6):
        parts = [
            torch.cat([each[name][step] for each in (found, other) if step in each[name]])
            for name in ("z of two, then one", "z of one, then two")
        ]
        assert torch.equal(*parts), step
        assert len(parts[0]) == BATCH
    # And the batches: the first epoch's losses are those of one run.
    one, two = (found[name][0] for name in ("one, then two", "two, then one"))
    assert one["d_loss"] == pytest.approx(two["d_loss"], rel=1e-2)


def test_the_first_process_alone_writes_and_no_other_library_talks(of_two: Both) -> None:
    assert of_two[0]["said"] == ["", ""]
    assert not list(of_two[0]["folder"].rglob(".*"))
    assert not list(of_two[1]["folder"].iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 2}, "takes 3 to 21 of these 21 images, one or more for each of 3 processes, not 2"),
        ({"batch_size": 19, "drop_last": False}, "the last batch would be 2 of 21 images, too few for 3 processes"),
    ],
)
def test_a_batch_has_an_image_for_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("dcgan.loading.load_dataset", lambda *_, **__: dataset())
    three = Processes(Place(0, 3, 0, 3))
    monkeypatch.setattr(three, "most", lambda number: number)  # there are no others
    monkeypatch.setattr(three, "broadcast", lambda value: value)
    with pytest.raises(DatasetError, match=message):
        train(tmp_path / "run", options("fast", **changes), processes=three)
    assert not (tmp_path / "run").exists()


def test_where_a_process_stands_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Place.from_environment() == Place()
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert Place.from_environment() == Place()
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert Place.from_environment() == Place(3, 4)  # as Kubernetes sets it, where each process has a host of its own
    for name, value in (("RANK", "4"), ("RANK", "x"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "")):
        with monkeypatch.context() as wrong:
            wrong.setenv(name, value)
            with pytest.raises(RunError, match=rf"{name}={value}.*start with torchrun, or unset WORLD_SIZE"):
                Place.from_environment()


def test_a_device_that_several_processes_can_not_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mps", "cuda:1"):
        with pytest.raises(DeviceError, match=f"2 processes can't share {name}"):
            resolve_device(name, Place(0, 2, 0, 2))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert resolve_device("auto", Place(3, 4, 1, 2)) == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="has 2 CUDA devices for 3 processes; start 2 of them"):
        resolve_device("cuda", Place(0, 3, 0, 3))


@pytest.mark.parametrize(
    ("stored", "given", "becomes"),
    [("cuda:1", {}, "cuda"), ("mps", {}, "cuda"), ("cuda:1", {"device": "cpu"}, "cpu"), ("cpu", {}, "cpu")],
)
def test_a_run_of_one_device_goes_on_in_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str, given: dict[str, Any], becomes: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    before = dataclasses.replace(options("fast"), device=stored)
    _write_options(tmp_path, before, "", TOTAL)
    resumed, note = _resumed(tmp_path, None, dict(given), Place(0, 2, 0, 2))
    assert (resumed.device, resumed.processes) == (becomes, 2)
    assert note.startswith("resumed with 2 processes, begun with 1: the same batches, but")


def test_a_run_that_is_not_there_yet_can_not_be_resumed(tmp_path: Path) -> None:
    first, other = (_Interrupts(tmp_path / "run", False, Place(rank, 2)) for rank in range(2))
    first.started = True  # but has not written its options
    assert not first.can_resume()
    assert not other.can_resume()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "options.json").touch()
    other.started = True
    assert first.can_resume()
    assert other.can_resume()


def test_ctrl_c_is_answered_once_by_the_first_process(capfd: pytest.CaptureFixture[str]) -> None:
    for place, number, says in (
        (Place(0, 2), signal.SIGINT, "stopping after this step, and saving"),
        (Place(0, 2), signal.SIGTERM, ""),
        (Place(1, 2), signal.SIGINT, ""),
    ):
        interrupts = _Interrupts(Path("run"), False, place)
        interrupts.stepping = True
        assert interrupts.notice(number) is interrupts.notice(number) is None
        assert capfd.readouterr().err.strip("\n") == says


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "dcgan", *words]


SMALL = ["--batch-size", "16", "--ngf", "4", "--ndf", "4", "--precision", "fp32", "--threads", "1"]


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes, which end with the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(words: list[str], **more: Any) -> subprocess.Popen[str]:
        processes.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


WAITS = """
def work():  # on one neighbour each; as networks do, a frame holds a group
    group = us.group
    if us.place.rank == 2:
        os.kill(os.getpid(), 9)
    dist.recv(torch.ones(1), src={0: 2, 1: 0, 3: 1}[us.place.rank], group=group)

us.open(torch.device("cpu"))
us.most(0)
work()
"""
FAILS = """
if us.leads:
    us.most(0)
raise dist.DistBackendError("NCCL error in: NCCLUtils.cpp:94\\nLast error:\\nno space left on /dev/shm")
"""


@pytest.mark.parametrize(
    ("count", "body", "says"),
    [
        (4, WAITS, f"process 3 of 4, on {socket.gethostname()}, is gone: killed, or out of memory, or out of reach"),
        (
            2,
            FAILS,
            "the processes can't exchange what they must (NCCL error in: NCCLUtils.cpp:94 Last error: no space left on "
            "/dev/shm)",
        ),
    ],
)
def test_of_processes_that_end_one_says_why(
    started: Callable[..., subprocess.Popen[str]], count: int, body: str, says: str
) -> None:
    """Who waits on a living one notices too; without torchrun, whose store outlives the first process."""
    script = (
        "import os, torch, torch.distributed as dist\nfrom dcgan.parallel import Place, RunError, joined\n"
        "try:\n    with joined(Place.from_environment()) as us:\n        exec(__import__('sys').argv[1])\n"
        "except RunError as error:\n    print(error)"
    )
    port = free_port()
    all_of_them = [
        started([sys.executable, "-c", script, body], env=environment(rank, count, port, TORCH_CPP_LOG_LEVEL="ERROR"))
        for rank in range(count)
    ]
    said = "".join(process.communicate(timeout=120)[0] for process in all_of_them)
    assert said.strip() == says


def test_a_meeting_that_somebody_misses_ends(started: Callable[..., subprocess.Popen[str]]) -> None:
    port = free_port()
    make: Any = torch.distributed.TCPStore  # type: ignore[attr-defined]
    store = make("localhost", port, 2, is_master=True, wait_for_workers=False)
    script = (
        "from datetime import timedelta\nfrom dcgan import parallel\nparallel._MEETING = timedelta(seconds=2)\n"
        "try:\n    parallel.joined(parallel.Place.from_environment()).__enter__()\n"
        "except parallel.RunError as error:\n    print(error)"
    )
    late = started(
        [sys.executable, "-c", script],
        env=environment(0, 2, port, TORCHELASTIC_USE_AGENT_STORE="True", TORCH_CPP_LOG_LEVEL="ERROR"),
    )
    said, _ = late.communicate(timeout=60)
    assert said.startswith("the 2 processes can't meet (")
    assert said.endswith("); start with torchrun\n")
    del store


def torchrun(*words: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]


def worker(process: subprocess.Popen[str], rank: int) -> int:
    """Process id of a worker of torchrun."""
    (pid,) = (
        int(child)
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text()
    )
    return pid


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 200
    while not path.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


def ours(errors: str) -> list[str]:
    """Lines of an error stream that torchrun did not write."""
    return [line for line in errors.partition("Traceback")[0].splitlines() if line and "torch/distributed" not in line]


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="workers are found in /proc")


@needs_proc
def test_a_killed_worker_and_a_signal_leave_a_run_that_goes_on(
    data_dir: Path, tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    """Of torchrun: a worker is killed; the run goes on until SIGTERM saves it; one process without torchrun ends it."""
    run = tmp_path / "run"
    new = ["-o", str(run), "--data-dir", str(data_dir), "--epochs", "400", "--lr-schedule", "constant", *SMALL]
    process = started(torchrun("-m", "dcgan", *new), cwd=tmp_path)
    wait_for(run / "checkpoint.safetensors", process)
    os.kill(worker(process, 1), signal.SIGKILL)
    killed = time.monotonic()
    said, errors = process.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert process.returncode != 0
    assert said.count("cpu, 2 processes, 1 thread each, fp32") == said.count("epoch   1/400") == 1
    resume = f"torchrun --nproc-per-node 2 -m dcgan --resume {run}"
    assert ours(errors) == [
        f"Error: process 2 of 2, on {socket.gethostname()}, is gone: killed, or out of memory, or out of reach; "
        f"resume with: {resume}"
    ]
    assert not list(run.rglob(".*"))
    before = (run / "checkpoint.safetensors").stat().st_mtime_ns

    process = started(torchrun("--no-python", sys.executable, "-m", "dcgan", "--resume", str(run)), cwd=tmp_path)
    while (run / "checkpoint.safetensors").stat().st_mtime_ns == before and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert ours(errors) == [f"stopped and saved; resume with: {resume}"]
    epochs = (run / "metrics.jsonl").read_text().count("\n")

    process = started(command("--resume", str(run), "--data-dir", str(data_dir), "--threads", "1"), cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("resumed with 1 process, begun with 2: the same batches, but")
    while not process.stdout.readline().startswith(f"epoch {epochs + 1:3d}/400"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert errors.strip().endswith(f"stopped and saved; resume with: dcgan-train --resume {run}")
    assert read_options(run).processes == 1


def test_an_error_is_said_once_and_by_the_process_that_has_it(
    data_dir: Path, tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    other, cut = tmp_path / "other", tmp_path / "cut"
    for folder in (other, cut):
        folder.mkdir()
    for path in data_dir.iterdir():
        content = path.read_bytes()
        (cut / path.name).write_bytes(content[:-1])
        (other / path.name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    here = ["--data-dir", str(data_dir), *SMALL, "--epochs", "1"]
    for number, (words, others, status, says) in enumerate((
        (["--lr", "-1"], ["--lr", "-1"], 2, ["Invalid value for '--lr'", ""]),
        ([*here, "-o", "taken"], [*here, "-o", "taken"], 1, ["Error: taken already exists", ""]),
        ([*here, "-o", "a"], [*here, "--data-dir", str(other)], 1, ["", f"process 2 of 2: the images in {other} on"]),
        ([*here, "-o", "b"], [*here, "--data-dir", str(cut)], 1, ["", f"Error: process 2 of 2: {cut}"]),
    )):  # fmt: skip
        port = free_port()
        both = [
            started(command(*each), cwd=tmp_path, env=environment(rank, 2, port, HOME=str(tmp_path)))
            for rank, each in enumerate((words, others))
        ]
        for process, wanted in zip(both, says, strict=True):
            _, errors = process.communicate(timeout=120)
            lines = errors.splitlines()
            assert process.returncode == status, (number, errors)
            if status == 1:
                assert len(lines) == bool(wanted), errors
            assert wanted in errors
            assert bool(wanted) == bool(errors)
    assert not (tmp_path / "b" / "options.json").exists()


def test_one_process_under_torchrun_is_a_plain_run(data_dir: Path, tmp_path: Path) -> None:
    words = command("-o", "run", "--data-dir", str(data_dir), "--epochs", "1", *SMALL)
    done = subprocess.run(
        words, cwd=tmp_path, env=environment(0, 1, 1), capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "device   cpu, 1 thread, fp32" in done.stdout


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined(Place.from_environment()) as us:
        torch.save({name: case(us) for name, case in CASES.items()}, sys.argv[1])
