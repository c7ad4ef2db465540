"""GPU time: a model of it, and what was measured where a GPU has run the suite.

The model of a launch is the longer of two, bytes over bandwidth and the busiest processor's cycles
over the clock, and the time to launch it. Of other samplers only bytes and launches are known. It
assumes:

- Bandwidth: 0.8 of the peak. Kernels that do nothing but stream reach 0.8 to 0.9 of it.
- Every plane comes from memory, fp32. Caches would save the most where most planes are moved.
- Cycles: those in which instructions issue (`cycles.py`). Programs of a launch are alike and shared
  out evenly, one row is as long as another, and AMD's compiler makes as many instructions.
- Latency: 5 us a launch. Launched one by one from the host, kernels this short wait for the driver,
  4 to 6 us each. Replayed from a CUDA graph they would wait less, in all samplers alike.

It leaves out waiting inside a kernel, for memory and at barriers: real times are longer at B = 1,
where a single program draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple

from .cycles import read_cycles
from .report import title_of
from .traffic import LOGITS

ACHIEVED = 0.8  # of the peak bandwidth
LATENCY_US = 5.0
BYTES = 4  # of a logit
BATCHES = (1, 64, 512)


class GPU(NamedTuple):
    name: str
    reported: str  # by PyTorch
    bytes_per_s: float  # peak
    processors: int
    threads_a_cycle: int  # that issue an instruction, of a processor
    clock: float  # Hz


GPUS = (
    GPU("H100 SXM", "NVIDIA H100 80GB HBM3", 3.35e12, 132, 4 * 32, 1.755e9),
    GPU("MI300X", "AMD Instinct MI300X", 5.3e12, 304, 4 * 16, 2.1e9),
)
ESTIMATE, MEASURED = "estimate", "measured"


class Time(NamedTuple):
    """One cell. Estimates of traffic that is known as a range have a range, too."""

    gpu: str
    logits: str
    case: str
    name: str
    title: str
    batch: int
    least_us: float
    most_us: float
    basis: str  # ESTIMATE or MEASURED
    source: str  # of the planes, or of the measurement


class Launch(NamedTuple):
    """One launch of ours."""

    planes: float  # that it moves
    programs: int  # a row
    cycles: float  # of one program, on a processor of 4 x 32 threads a cycle


def streaming(gpu: GPU, planes: float, batch: int, vocab: int) -> float:
    """Microseconds that the bytes take."""
    return 1e6 * planes * batch * vocab * BYTES / (ACHIEVED * gpu.bytes_per_s)


def issuing(gpu: GPU, launch: Launch, batch: int) -> float:
    """Microseconds in which the busiest processor issues instructions."""
    turns = math.ceil(launch.programs * batch / gpu.processors)
    return 1e6 * turns * launch.cycles * (4 * 32 / gpu.threads_a_cycle) / gpu.clock


def launched(gpu: GPU, launches: Iterable[Launch], batch: int, vocab: int) -> float:
    """The model, in microseconds, of what is known launch by launch."""
    return sum(
        max(streaming(gpu, launch.planes, batch, vocab), issuing(gpu, launch, batch)) + LATENCY_US
        for launch in launches
    )


def estimates(planes: Iterable[dict[str, Any]]) -> list[Time]:
    """For each GPU, each row of `planes.json` and each batch."""
    work = {(row["case"], row["logits"]): row["by_launch"] for row in read_cycles()}
    times = []
    for gpu, row, batch in product(GPUS, planes, BATCHES):
        _, vocab = LOGITS[row["logits"]]
        if "by_launch" in row:
            both = zip(row["by_launch"], work[row["case"], row["logits"]], strict=True)
            launches = [Launch(moved, programs, cycles) for moved, (programs, cycles, _) in both]
            least = most = launched(gpu, launches, batch, vocab)
        else:
            least, most = (
                streaming(gpu, amount, batch, vocab) + row["launches"] * LATENCY_US
                for amount in row["planes"]
            )
        times.append(
            Time(
                gpu=gpu.name,
                logits=row["logits"],
                case=row["case"],
                name=row["name"],
                title=row["title"],
                batch=batch,
                least_us=least,
                most_us=most,
                basis=ESTIMATE,
                source=row["source"],
            )
        )
    return times


def measured(results: dict[str, Any]) -> list[Time]:
    """What a `results.json` of the suite has for the same logits and batches; none of a CPU."""
    run = results["run"]
    if run["device"] != "cuda":
        return []
    names = {gpu.reported: gpu.name for gpu in GPUS}
    return [
        Time(
            gpu=names.get(run["gpu"], run["gpu"]),
            logits=row["logits"],
            case=row["case"],
            name=row["name"],
            title=title_of(row["name"]),
            batch=row["batch"],
            least_us=1e3 * row["median_ms"],
            most_us=1e3 * row["median_ms"],
            basis=MEASURED,
            source=f"{run['command']} at commit {run['commit']}",
        )
        for row in results["rows"]
        if row["median_ms"] is not None
        and row["dtype"] == "fp32"
        and row["batch"] in BATCHES
        and row["logits"] in LOGITS
        and row["vocab"] == LOGITS[row["logits"]][1]
    ]


def replace(estimated: Iterable[Time], found: Iterable[Time]) -> list[Time]:
    """A measurement stands where the estimate of its cell stood; others follow at the end."""
    cells = {
        (time.gpu, time.logits, time.case, time.name, time.batch): time
        for time in (*estimated, *found)
    }
    return list(cells.values())
