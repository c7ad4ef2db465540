"""Planes that the GPU kernels read and write, counted in Triton's interpreter: a Markdown table.

    python benchmarks/traffic.py

A plane is all logits, read or written once in their own dtype; here fp32. All bytes count, those of
scratch memory too, averaged over the rows. Nothing is timed, and no GPU is needed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # logits, and the counter

import numpy as np
from common import logits_of, real_logits
from interpreter import quicken
from rich.console import Console
from rich.progress import track
from traffic import count_traffic

from fused_sampler.draws import resolve_draws
from fused_sampler.kernels import launch
from fused_sampler.params import resolve_rows

CASES = {
    "greedy": {"temperature": 0.0},
    "temperature 0.8": {"temperature": 0.8},
    "min-p 0.05": {"min_p": 0.05},
    "top-k 50": {"top_k": 50},
    "top-k 50 + top-p 0.9": {"top_k": 50, "top_p": 0.9},
    "top-k 1000": {"top_k": 1000},
    "top-p 0.9, temperature 0.8": {"top_p": 0.9, "temperature": 0.8},
    "top-p 0.9": {"top_p": 0.9},
    "top-p 0.95, temperature 1.4": {"top_p": 0.95, "temperature": 1.4},
    "softmax": {"temperature": 0.8},
    "mask_logits, top-k 50": {"top_k": 50},
}


def main() -> None:
    quicken()
    np.seterr(all="ignore")  # infinities are part of the arithmetic
    logits = {"random": logits_of("random", 1, 128_256), "real": real_logits().float()}
    lines = []
    for case, params in track(CASES.items(), "counting", console=Console(stderr=True)):
        cells = []
        for x in logits.values():
            rows = resolve_rows(x, **params)
            with count_traffic(x) as traffic:
                name = case.split(",")[0]
                if name in ("softmax", "mask_logits"):
                    getattr(launch, name)(x, rows)
                else:
                    launch.sample(x, rows, resolve_draws(0, 0, 1, None, len(x), x.device), False)
            cells.append(f"{traffic.reads:.2f} + {traffic.writes:.2f}")
        launches = sum(traffic.launches.values())
        lines.append(f"| {case} | {launches} | {' | '.join(cells)} |")
    heads = (f"{name}, V={x.shape[1]:,}" for name, x in logits.items())
    print(f"| reads + writes | launches | {' | '.join(heads)} |", "|---|---|---|---|", sep="\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
