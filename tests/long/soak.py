"""Draws a great many tokens by the CPU kernels and looks at every one of them: `make soak`.

    python tests/long/soak.py [--tokens N] [--seconds N] [--threads N] [--seed N]

Several threads make calls of all shapes (`jobs.py`) until there are so many tokens, or the time is
over. Fails where a call gave a wrong id, a dropped token, something else than the textbook or than
itself when it was repeated by one thread alone, where draws are too far from their distribution,
or where memory grows. The seed and the call's number repeat a fault:

    python tests/long/soak.py --seed SEED --only NUMBER
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jobs
import torch
from jobs import Draw
from rich.progress import Progress

from fused_sampler import sample, warmup

FALSE_ALARMS = 1e-6  # the probability that a run without faults fails
REPEATED = 20  # one call of so many is made again at the end
MAY_GROW = 64 * 2**20  # bytes, from the second quarter of a run to the last


@dataclass
class Report:
    """What a run drew, and what was wrong with it."""

    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    repeated: int = 0
    faults: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)  # bytes, as time goes on
    shares: torch.Tensor = field(
        default_factory=lambda: torch.zeros(jobs.BINS, dtype=torch.int64), repr=False
    )

    @property
    def growth(self) -> int:
        """Bytes, from the second quarter to the last; 0 where there are too few to tell."""
        quarter = len(self.memory) // 4
        if quarter == 0:
            return 0
        early = statistics.median(self.memory[quarter : 2 * quarter])
        return int(statistics.median(self.memory[-quarter:]) - early)


def resident() -> int:
    """Bytes of memory that the process has, on Linux."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def alarms(number: int) -> float:
    """The part of a call in half of the false alarms: over all numbers they add up to it."""
    return FALSE_ALARMS / 2 * 6 / math.pi**2 / (number + 1) ** 2


def soak(
    seed: int,
    tokens: int,
    seconds: float,
    threads: int,
    by: Draw = sample,
    watch: Callable[[int], None] = lambda tokens: None,
) -> Report:
    """Draw until there are so many tokens, the time is over, or something is wrong."""
    report, numbers, lock = Report(), itertools.count(), threading.Lock()
    sums: dict[int, int] = {}
    start = time.monotonic()

    def work() -> None:
        while report.tokens < tokens and not report.faults:
            if time.monotonic() - start > seconds:
                return
            number = next(numbers)
            try:
                job = jobs.make(seed, number)
                drawn = jobs.check(job, jobs.draw(job, by), alarms(number))
            except Exception as error:  # of the call, too
                report.faults.append(f"call {number}: {type(error).__name__}: {error}")
                return
            with lock:
                report.calls += 1
                report.tokens += drawn.tokens
                report.shares += drawn.shares
                report.memory.append(resident())
                if number % REPEATED == 0:
                    sums[number] = drawn.sum
                watch(report.tokens)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    report.seconds = time.monotonic() - start
    if not report.faults:
        _look_back(report, seed, sums)
    return report


def _look_back(report: Report, seed: int, sums: dict[int, int]) -> None:
    """Add what is wrong with the run as a whole."""
    for number, expected in sums.items():
        if jobs.checksum(jobs.draw(jobs.make(seed, number))) != expected:
            report.faults.append(f"call {number}: one thread alone draws other tokens")
        report.repeated += 1
    away, limit = jobs.distance(report.shares, FALSE_ALARMS / 2)
    if away > limit:
        report.faults.append(f"all draws are {away:.3g} from uniform, more than {limit:.3g}")
    if report.growth > MAY_GROW:
        report.faults.append(f"memory grew by {report.growth / 2**20:.0f} MiB")


def say(report: Report, threads: int) -> None:
    """The figures of a run."""
    away, limit = jobs.distance(report.shares, FALSE_ALARMS / 2)
    print(
        f"{report.tokens:,} tokens in {report.calls:,} calls, {threads} threads, "
        f"{report.seconds:.0f} s; {report.repeated} calls repeated\n"
        f"shares of mass below the draws: {away:.2e} from uniform, at most {limit:.2e}\n"
        f"memory: {max(report.memory, default=0) / 2**20:.0f} MiB at most, "
        f"{report.growth / 2**20:+.0f} MiB from the second quarter to the last"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tokens", type=int, default=10**8)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--threads", type=int, default=4)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", type=int, metavar="NUMBER", help="one call, once more")
    asked = options.parse_args()
    if asked.only is not None:
        job = jobs.make(asked.seed, asked.only)
        print(job)
        jobs.check(job, jobs.draw(job), alarms(asked.only))
        return
    with Progress(transient=True) as progress:
        compiling = progress.add_task("Compiling", total=None)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            warmup(64, dtype)
            warmup(64, dtype, logit_bias={0: 1.0})
        progress.remove_task(compiling)
        task = progress.add_task("Drawing", total=asked.tokens)
        report = soak(
            asked.seed,
            asked.tokens,
            asked.seconds,
            asked.threads,
            watch=lambda tokens: progress.update(task, completed=tokens),
        )
    say(report, asked.threads)
    for fault in report.faults:
        print(f"seed {asked.seed}, {fault}", file=sys.stderr)
    if report.faults:
        raise SystemExit(1)
    if report.tokens < asked.tokens:
        print(f"the time was over before {asked.tokens:,} tokens")


if __name__ == "__main__":
    main()
