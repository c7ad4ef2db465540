"""GPU time: estimated from traffic, measured where a GPU has run the suite.

The estimate is bytes over bandwidth and launches times their latency, with three assumptions:

- Bandwidth: 0.8 of the peak. Kernels that do nothing but stream reach 0.8 to 0.9 of it.
- Latency: 5 us a launch. Launched one by one from the host, kernels this short wait for the driver,
  4 to 6 us each. Replayed from a CUDA graph they would wait less, in all samplers alike.
- Every plane comes from memory, fp32. Caches would save the most where most planes are moved.

It leaves out arithmetic and waiting inside a kernel: real times are longer at B = 1, where a single
program draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple

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


GPUS = (
    GPU("H100 SXM", "NVIDIA H100 80GB HBM3", 3.35e12),
    GPU("MI300X", "AMD Instinct MI300X", 5.3e12),
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


def microseconds(gpu: GPU, planes: float, launches: int, batch: int, vocab: int) -> float:
    """The formula."""
    moved = planes * batch * vocab * BYTES
    return 1e6 * moved / (ACHIEVED * gpu.bytes_per_s) + launches * LATENCY_US


def estimates(planes: Iterable[dict[str, Any]]) -> list[Time]:
    """For each GPU, each row of `planes.json` and each batch."""
    times = []
    for gpu, row, batch in product(GPUS, planes, BATCHES):
        _, vocab = LOGITS[row["logits"]]
        least, most = (
            microseconds(gpu, amount, row["launches"], batch, vocab) for amount in row["planes"]
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
