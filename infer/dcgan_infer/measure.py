"""Measuring functions against each other, so that what comes out can be compared.

Whoever calls several runtimes in turn measures their thread pools: those of onnxruntime, OpenVINO and torch go on
spinning for a while after a call, and the next runtime finds its cores taken. It looks 2 to 4 times slower, and which
one is ahead may turn over. So rows take turns in bursts of some tenths of a second, and each burst is preceded by a
rest in which the pools fall asleep. Rows are interleaved and their order moves on each round, since machines change
their pace within seconds: compare ratios of one run, never figures of two.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

ROUNDS = 7
BURST = 0.3  # seconds: hundreds of calls at batch 1
REST = 0.25  # seconds: enough for the thread pools of onnxruntime, OpenVINO and torch to fall asleep


class Burst(NamedTuple):
    """Calls of one row, one after the other.

    Attributes:
        calls: their number.
        seconds: all of them took.
        median: seconds of a call.
        least: seconds of the fastest call.
    """

    calls: int
    seconds: float
    median: float
    least: float

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds


def measure(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: int = ROUNDS,
    burst: float = BURST,
    rest: float = REST,
    after_burst: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, list[Burst]]:
    """Measure functions against each other: in bursts, taking turns, with a rest before each burst.

    One more round comes first, which warms up, finds out how many calls fill a burst, and isn't counted.

    Args:
        functions: by name; what they return is ignored.
        rounds: that count, 1 or more.
        burst: seconds of calls.
        rest: seconds before each burst.
        after_burst: called after each of the (rounds + 1) * len(functions) bursts, before the next rest.
        clock: seconds from any moment on.
        sleep: waits so many seconds.
    Returns:
        For each function, by name in the given order, a burst a round.
    """
    names = list(functions)
    bursts: dict[str, list[Burst]] = {name: [] for name in names}
    calls = {}
    for number in range(rounds + 1):
        # Round after round the first one moves to the end: nobody always runs when the others have warmed the machine.
        first = number % len(names)
        for name in names[first:] + names[:first]:
            sleep(rest)
            if number == 0:
                # The median, because the first calls are slow ones.
                calls[name] = max(1, round(burst / max(_warm_up(functions[name], burst, clock), 1e-9)))
            else:
                bursts[name].append(_burst(functions[name], calls[name], clock))
            after_burst()
    return bursts


def ratios(bursts: Sequence[Burst], peer: Sequence[Burst]) -> list[float]:
    """How many times as fast as a peer, a figure a round; both measured in the same rounds."""
    return [mine.rate / its.rate for mine, its in zip(bursts, peer, strict=True)]


def _warm_up(function: Callable[[], object], seconds: float, clock: Callable[[], float]) -> float:
    """Call a function for so many seconds; the median of a call's seconds."""
    spent: list[float] = []
    began = now = clock()
    while not spent or now - began < seconds:
        before = now
        function()
        now = clock()
        spent.append(now - before)
    return statistics.median(spent)


def _burst(function: Callable[[], object], calls: int, clock: Callable[[], float]) -> Burst:
    # A look at the clock takes less than a thousandth of the shortest call, so each call is timed.
    moments = [clock()]
    for _ in range(calls):
        function()
        moments.append(clock())
    spent = [after - before for before, after in itertools.pairwise(moments)]
    return Burst(calls, moments[-1] - moments[0], statistics.median(spent), min(spent))
