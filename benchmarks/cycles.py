"""Issue cycles and barriers of the GPU kernels, counted in their machine code: `cycles.json`.

    python -m fused_sampler.benchmarks.cycles [--lines] [--out benchmarks/cycles.json]

One row of fp32 logits (four of the mixed batch), compiled for sm_90 and run by `emulator/`. Cycles
are those in which the busiest processor issues instructions, added up over the launches: warp
instructions over its four schedulers. Barriers are those that a warp waits at. Nothing is timed:
what instructions wait for is not in it. `--lines` says where the instructions are. No GPU is
needed, but g++ is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

from ..views.files import writing
from . import command
from .cases import CASES, REAL_VOCAB, make_logits, row_params
from .report import table
from .traffic import COUNTED

CYCLES = Path(__file__).with_name("cycles.json")
LOGITS = {"random": 128_256, "real": REAL_VOCAB, "all equal": 262_144}  # vocabulary
ARCH = 90


class WrongResult(ValueError):
    """The machine code does not give what the contract has."""


def read_cycles() -> list[dict[str, Any]]:
    """The rows of `cycles.json`: `case`, `logits`, `cycles`, `barriers`, and `by_launch`.

    The last holds of each launch its programs a row, the cycles of one, and its barriers.
    """
    return json.loads(CYCLES.read_text())


def emulated(function: str, x: Any, **arguments: Any) -> Any:
    """`sample`, or another, by the Triton kernels in the emulator; and the log of its launches."""
    import fused_sampler

    from .. import kernels
    from .emulator import emulate

    # The emulator takes tensors on the CPU, which are refused otherwise.
    with mock.patch.object(kernels, "unavailable", lambda *_: None), emulate(ARCH) as log:
        return getattr(fused_sampler, function)(x, backend="triton", **arguments), log


def count(case: str, kind: str) -> tuple[dict[str, Any], list[tuple[str, float]]]:
    """A row of `cycles.json`, and the lines with most instructions: their share of the call.

    Raises `WrongResult` where the result is not the textbook's.
    """
    import torch

    import fused_sampler

    rows = 4 if case == "mixed batch" else 1
    x = make_logits(kind, rows, LOGITS[kind])
    function, params = COUNTED[case]
    if case in CASES:
        params = row_params(case, rows)
    if function == "sample":
        params = params | {"seed": 0}
    ours, log = emulated(function, x, **params)
    textbook = getattr(fused_sampler, function)(x, backend="torch", **params)
    if function == "softmax":  # fp32 probabilities, rounded
        same = torch.allclose(ours, textbook, rtol=1e-4, atol=1e-9)
    else:
        same = torch.equal(ours, textbook)
    if not same:
        raise WrongResult(f"{case}, {kind} logits: the machine code differs from the contract")
    row = {
        "case": case,
        "logits": kind,
        "cycles": round(sum(launch.cycles() for launch in log)),
        "barriers": round(sum(launch.barriers for launch in log)),
        "by_launch": [
            [launch.programs // rows, round(launch.cycles(launch.programs)), round(launch.barriers)]
            for launch in log
        ],
    }
    total = sum(launch.warp_instructions for launch in log)
    lines = [(line, n / total) for launch in log for line, n in launch.by_line()]
    return row, sorted(lines, key=lambda line: -line[1])[:8]


def cycle_table(rows: list[dict[str, Any]]) -> str:
    """Thousands of cycles, and barriers in brackets, in Markdown."""
    found = {(row["case"], row["logits"]): row for row in rows}
    head = ["cycles / 1000 (barriers)", *(f"{kind}, V={v:,}" for kind, v in LOGITS.items())]
    lines = []
    for case in COUNTED:
        cells = [found[case, kind] for kind in LOGITS]
        lines.append([case, *(_shown(cell["cycles"], cell["barriers"]) for cell in cells)])
    return table(head, lines)


def _shown(cycles: int, barriers: int) -> str:
    return f"{float(f'{cycles / 1000:.3g}'):,g} ({barriers:,})"


def main() -> None:
    prog = f"python -m {__spec__.name}"
    options = command.Options(prog=prog, description=__doc__.splitlines()[0])
    options.add_argument("--lines", action="store_true", help="where the instructions are")
    options.add_argument("--out", type=Path, metavar="FILE", help="write the counts here, as JSON")
    chosen = options.parse_args()
    from .emulator import missing

    if reason := missing():
        raise ValueError(reason)
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # what it is, without a warning
    from rich.console import Console
    from rich.progress import track

    cells = [(case, kind) for case in COUNTED for kind in LOGITS]
    counted = [count(*cell) for cell in track(cells, "counting", console=Console(stderr=True))]
    if chosen.lines:
        for row, lines in counted:
            shares = ", ".join(f"{line} {share:.0%}" for line, share in lines)
            print(f"{row['case']}, {row['logits']}: {shares}")
        print()
    rows = [row for row, _ in counted]
    print(cycle_table(rows))
    if chosen.out:
        with writing(chosen.out, remedy="give another file with --out"):
            chosen.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    command.run(main)
