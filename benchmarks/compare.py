"""Time `sample` beside Hugging Face's warpers + softmax + `torch.multinomial`, on the CPU.

    python benchmarks/compare.py [--quick] [--batch 1 8 64] [--threads 2]

Both run on the same logits, a few calls of the one, then a few of the other, and again, so that
what else the machine does hits both. A row gives the two medians and their ratio, which is the
figure to quote.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fused_sampler import sample

REAL_LOGITS = Path(__file__).parent.parent / "tests" / "data" / "real_logits.npy"
CASES: dict[str, dict] = {
    "temperature 0.8": {"temperature": 0.8},
    "top-k 50": {"top_k": 50},
    "top-k 50 + top-p 0.9": {"top_k": 50, "top_p": 0.9},
    "top-p 0.9": {"top_p": 0.9},
    "min-p 0.05": {"min_p": 0.05},
}
WARPERS = {
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
}


def hugging_face(params: dict) -> Callable[[torch.Tensor], torch.Tensor]:
    """What `generate` does with the scores of a step."""
    warpers = LogitsProcessorList([WARPERS[name](value) for name, value in params.items()])

    def draw(logits: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(warpers(None, logits).softmax(-1), num_samples=1)

    return draw


def time_in_turn(calls: list[Callable[[], object]], seconds: float) -> list[float]:
    """Median milliseconds of each call, in rounds of ten calls each until `seconds` are over.

    The first call of a round, which finds the caches full of the other's data, does not count.
    """
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while not times[0] or time.perf_counter() < end:
        for call, own in zip(calls, times, strict=True):
            call()
            for _ in range(9):
                start = time.perf_counter()
                call()
                own.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(own) for own in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--vocab", type=int, default=128256, help="of the random logits")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="one round a case")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    random = torch.randn(max(args.batch), args.vocab) * 3
    real = torch.from_numpy(np.load(REAL_LOGITS)).float()
    real = real.repeat(-(-max(args.batch) // len(real)), 1)[: max(args.batch)]
    runs = [
        (f"{name}, V={rows.shape[1]:,}", case, batch, rows[:batch].contiguous())
        for name, rows in (("random", random), ("real", real))
        for case in CASES
        for batch in args.batch
    ]
    table = Table(
        title=f"median ms on the CPU, {args.threads} threads, torch {torch.__version__}, fp32"
    )
    for column in ("logits", "case", "B", "Hugging Face", "fused-sampler", "ratio"):
        table.add_column(column, justify="left" if column in ("logits", "case") else "right")
    for name, case, batch, logits in track(runs, description="timing"):
        params = CASES[case]
        calls = [partial(hugging_face(params), logits), partial(sample, logits, seed=0, **params)]
        slow, fast = time_in_turn(calls, seconds=0.0 if args.quick else 2.0)
        figures = f"{slow:.2f}", f"{fast:.3f}", f"{slow / fast:.1f}x"
        table.add_row(name, case, str(batch), *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
