"""Clocks, and calls timed in turn so that what else the machine does hits all of them.

A turn times one call several times over, with the next inputs each time. A round gives every call
one turn. Rounds go on until the time is over, so that the ratio of two medians is the figure to
trust: what slows one of them slows the other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch

TURN = 9  # timed calls of a turn
TURN_SECONDS = 0.25  # a turn of slow calls is shorter, one timed call at least

Call = Callable[[int], object]  # the number of the call chooses its input


class Clock(Protocol):
    def turn(self, call: Call, first: int) -> list[float]:
        """Milliseconds of each timed call, numbered from `first` on."""
        ...


class CPUClock:
    """Wall time. The first call of a turn finds the caches full of others' data: not counted.

    It has other inputs than the next, which would find its own in the caches.
    """

    def turn(self, call: Call, first: int) -> list[float]:
        call(first - 1)
        times: list[float] = []
        begin = time.perf_counter()
        while not times or (len(times) < TURN and time.perf_counter() - begin < TURN_SECONDS):
            start = time.perf_counter()
            call(first + len(times))
            times.append(1e3 * (time.perf_counter() - start))
        return times


class CUDAClock:
    """Device events around each call, the L2 cache flushed before it.

    A turn is queued as a whole and read at its end. While the GPU flushes, Python queues the call;
    only what it needs beyond that is timed with it.
    """

    def __init__(self, device: torch.device):
        self.device = device
        size = torch.cuda.get_device_properties(device).L2_cache_size
        self.flush = torch.empty(max(4 * size, 2**28), dtype=torch.int8, device=device)

    def turn(self, call: Call, first: int) -> list[float]:
        call(first)  # compiles and allocates
        events = []
        for number in range(first, first + TURN):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.flush.zero_()
            start.record()
            call(number)
            end.record()
            events.append((start, end))
        torch.cuda.synchronize(self.device)
        return [start.elapsed_time(end) for start, end in events]


def clock_for(device: torch.device) -> Clock:
    return CUDAClock(device) if device.type == "cuda" else CPUClock()


def time_in_turn(
    calls: Mapping[str, Call], seconds: float, clock: Clock
) -> dict[str, list[list[float]]]:
    """Milliseconds of each call, a list for each round; at least one round."""
    rounds: dict[str, list[list[float]]] = {name: [] for name in calls}
    counts = dict.fromkeys(calls, 0)
    end = time.perf_counter() + seconds
    done = False
    while not done:
        for name, call in calls.items():
            times = clock.turn(call, counts[name])
            rounds[name].append(times)
            counts[name] += len(times)
        done = time.perf_counter() >= end
    return rounds


class Spread(NamedTuple):
    """Milliseconds."""

    median: float
    p10: float
    p90: float
    calls: int


def spread(rounds: list[list[float]]) -> Spread:
    """Over the calls of all rounds."""
    times = sorted(time for turn in rounds for time in turn)
    if len(times) == 1:
        return Spread(times[0], times[0], times[0], 1)
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return Spread(statistics.median(times), tenths[0], tenths[-1], len(times))
