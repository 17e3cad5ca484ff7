"""A run in several processes, as torchrun starts them: which one this is, what they tell each other, and how they end.

The first process leads: it alone reads and writes the run folder, measures and talks. All take the same steps, each on
its share of every batch. What they say to each other beside gradients and statistics goes through gloo, on the CPU,
also where they train on GPUs: gloo notices at once when a process has ended, because the system closes its connections.
Imports no torch: a run in one process needs none of this, and neither does --help.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import socket
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from dcgan_infer.contract.errors import RunError, first_line, printable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_T = TypeVar("_T")

_MEETING = timedelta(minutes=10)  # until all processes have started
_STEP = timedelta(minutes=5)  # for what belongs to a step; by then a host that lost power or network is given up
_PATIENCE = timedelta(days=1)  # while others decode images or measure
_ROLL_CALL = 10.0  # seconds, of the 30 that torchrun leaves to those that it ends
_ONE_MISSING = 2.0  # seconds, where one has not answered: the connection to it may be lost, and it be there


class ProcessLostError(RunError):
    """Another process of the run has ended; without a message, if it or another one says so."""


@dataclass(frozen=True)
class Place:
    """Which of a run's processes this is.

    Attributes:
        rank: its number among all, from 0 on.
        count: of all.
        local_rank: its number among those on this host.
        local_count: of those on this host.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    def __str__(self) -> str:
        return f"process {self.rank + 1} of {self.count}"

    @classmethod
    def from_environment(cls) -> Place:
        """As torchrun sets it: WORLD_SIZE, RANK, LOCAL_RANK and LOCAL_WORLD_SIZE; without the first, one process.

        Raises:
            RunError: they are no such numbers.
        """
        names = {"count": "WORLD_SIZE", "rank": "RANK", "local_rank": "LOCAL_RANK", "local_count": "LOCAL_WORLD_SIZE"}
        found = {field: os.environ[name] for field, name in names.items() if name in os.environ}
        if found.get("count", "1") == "1":
            return cls()
        with contextlib.suppress(ValueError):
            place = cls(**{field: int(value) for field, value in found.items()})
            is_local = 0 <= place.local_rank < place.local_count
            if "rank" in found and 0 <= place.rank < place.count and is_local:
                return place
        said = ", ".join(f"{name}={os.environ.get(name, '')}" for name in names.values())
        raise RunError(f"{said} in the environment are no process of several; start with torchrun, or unset WORLD_SIZE")


ONE = Place()


class Processes:
    """All processes of a run, seen from one of them; `ALONE`, where there is one.

    Every method is called by all of them, in the same order.

    Attributes:
        place: of this one.
        leads: whether this is the first one.
    """

    def __init__(self, place: Place = ONE, store: Any = None) -> None:
        self.place = place
        self.leads = place.rank == 0
        self._store = store
        self._gone: list[int] = []  # ranks
        self._patient: Any = None  # a group that waits while others decode images or measure
        self._quick: Any = None  # one that waits for what belongs to a step only
        self.group: Any = None  # likewise, of tensors on the device
        self._hosts = [socket.gethostname()]
        if store is not None:
            import torch.distributed as dist

            self._patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
            self._hosts = self._gathered(socket.gethostname())

    @property
    def count(self) -> int:
        """How many there are."""
        return self.place.count

    @property
    def host(self) -> str:
        """The name of this one's host."""
        return self._hosts[self.place.rank]

    def share(self, total: int) -> slice:
        """The part of a batch that is this process's; parts differ by one image at most."""
        rank, count = self.place.rank, self.count
        return slice(rank * total // count, (rank + 1) * total // count)

    def broadcast(self, value: _T) -> _T:
        """What the first process has."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._patient)
        return values[0]

    def most(self, number: int, group: Any = None) -> int:
        """The largest of a number that each process has; waits for those that decode images, measure or write."""
        if self.count == 1:
            return number
        import torch
        import torch.distributed as dist

        largest = torch.tensor(int(number))
        dist.all_reduce(largest, dist.ReduceOp.MAX, group or self._patient)
        return int(largest)

    def any_in_step(self, flag: bool) -> bool:
        """Whether a flag is set in one of them; all are at the same step."""
        return bool(self.most(int(flag), self._quick))

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """Within, one process of each host works first, and then the others."""
        if self.place.local_rank:
            self.most(0)
        yield
        if not self.place.local_rank:
            self.most(0)

    def open(self, device: torch.device) -> None:
        """Make `group`, in which tensors on the device are exchanged: nccl on GPUs, gloo on CPUs."""
        import torch
        import torch.distributed as dist

        if device.type == "cuda":
            torch.cuda.set_device(device)  # nccl's
        self.most(0)  # so that all are there: who makes a group does not notice that another process has ended
        self.group = self._quick = dist.new_group(backend="gloo", timeout=_STEP)
        if device.type == "cuda":
            self.group = dist.new_group(backend="nccl", timeout=_STEP)

    def with_mean_gradients(self, network: nn.Module) -> nn.Module:
        """The network, so that its gradients become the means over all processes."""
        from torch.nn.parallel import DistributedDataParallel

        # Buffers are equal anyway: BatchNorm's are the whole batch's, spectral norm's follow from the weights.
        return DistributedDataParallel(network, process_group=self.group, forward_sync_buffers=False)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all processes of a tensor on the device, in place."""
        if self.count > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor, group=self.group)
            tensor /= self.count
        return tensor

    def _gathered(self, value: _T) -> list[_T]:
        import torch.distributed as dist

        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._patient)
        return values

    def part(self, error: BaseException) -> str:
        """Part from the others because of an error, so that all end and one of them says why.

        Returns:
            Which processes have ended, where that is the reason and it is for this one to say; else nothing.
        """
        is_lost = _is_of_a_connection(error)
        with contextlib.suppress(RuntimeError):  # who kept the store is gone
            self._store.set(f"word/{self.place.rank}", "" if is_lost else "said")
        # After the word, so that all who notice find it. Before the roll call: only who waits for this process notices,
        # and closes in turn, until all have noticed.
        self._close(error)
        said = self._roll_call() if is_lost else ""
        self._see_off()
        return said

    def _close(self, error: BaseException) -> None:
        """Close all connections: a group's are, once nothing refers to it."""
        import torch.distributed as dist

        with contextlib.suppress(RuntimeError):
            if self.group is not self._quick:
                self.group.abort()  # nccl's; it would wait for the others
        self.group = self._quick = self._patient = None
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
        traceback.clear_frames(error.__traceback__)  # their networks refer to groups
        gc.collect()

    def _roll_call(self) -> str:
        """Which processes have ended, where it is for this one to say; empty, where another one says it.

        Who is lost has left no word, or one that says why it ended. Of those that lost it the first one talks.
        """
        ranks = range(self.count)
        started = time.monotonic()
        try:
            while True:
                there = [rank for rank in ranks if self._store.check([f"word/{rank}"])]
                if min(there) < self.place.rank or any(self._store.get(f"word/{rank}") for rank in there):
                    return ""
                self._gone = [rank for rank in ranks if rank not in there]
                patience = _ROLL_CALL if len(self._gone) > 1 else _ONE_MISSING
                if not self._gone or time.monotonic() - started > patience:
                    break
                time.sleep(0.05)
        except RuntimeError:  # the first process kept the store
            self._gone = [0]
            if self.place.rank > 1:
                return ""
        if not self._gone:
            return f"the {self.count} processes lost their connections"
        numbers = ", ".join(str(rank + 1) for rank in self._gone)
        hosts = ", ".join(sorted({self._hosts[rank] for rank in self._gone}))
        are = "process {} of {}, on {}, is" if len(self._gone) == 1 else "processes {} of {}, on {}, are"
        return f"{are.format(numbers, self.count, hosts)} gone: killed, or out of memory, or out of reach"

    def _see_off(self) -> None:
        """Say that this one has read the words; who keeps the store waits until the others have."""
        others = {*range(self.count)} - {self.place.rank, *self._gone}
        until = time.monotonic() + _ROLL_CALL
        with contextlib.suppress(RuntimeError):
            self._store.set(f"read/{self.place.rank}", "")
            if self.leads and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # which outlives this process
                while not self._store.check([f"read/{rank}" for rank in others]) and time.monotonic() < until:
                    time.sleep(0.05)


ALONE = Processes()


@contextlib.contextmanager
def joined(place: Place) -> Iterator[Processes]:
    """Meet the other processes, and part from them at the end.

    Raises:
        RunError: they can't be met.
        ProcessLostError: one of them ended before this one.
    """
    if place.count == 1:
        yield ALONE
        return
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if not dist.is_available():
        raise RunError(f"this torch has no torch.distributed, and this is {place}; train in one process")
    try:
        store, _, _ = next(rendezvous("env://", timeout=_MEETING))
        meeting = PrefixStore("meeting", store)
        dist.init_process_group("gloo", store=meeting, rank=place.rank, world_size=place.count, timeout=_MEETING)
        processes = Processes(place, PrefixStore("words", store))
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the {place.count} processes can't meet ({first_line(error)}); start with torchrun") from error
    try:
        yield processes
    except BaseException as error:
        said = processes.part(error)
        if _is_of_a_connection(error):
            raise ProcessLostError(said) from error
        if _is_of_the_exchange(error):
            raise RunError(f"the processes can't exchange what they must ({_in_a_line(error)})") from error
        raise
    dist.destroy_process_group()


def _is_of_the_exchange(error: BaseException) -> bool:
    """Whether an error comes from torch.distributed.

    Gloo has no class for it, and names its source files (third_party/gloo/gloo/transport/tcp/pair.cc).
    """
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _is_of_a_connection(error: BaseException) -> bool:
    """Whether it comes from a process that does not answer: gloo's connection to it is lost, or that to the store.

    An error of nccl is this process's own: connections of gloo, which all wait for after each step, tell of others.
    """
    import torch.distributed as dist

    if isinstance(error, dist.DistError):
        return isinstance(error, dist.DistNetworkError | dist.DistStoreError)
    lost = r"connection (closed|reset|refused)|broken pipe|timed out|timeout"
    return _is_of_the_exchange(error) and re.search(lost, str(error), re.IGNORECASE) is not None


def _in_a_line(error: BaseException) -> str:
    """All that an error says but for a stack of C++ calls: nccl's reason stands in the last of several lines."""
    return printable(" ".join(str(error).partition("Exception raised from")[0].split()))
