"""Planes that the GPU kernels read and write, counted in Triton's interpreter: `planes.json`.

    python -m fused_sampler.benchmarks.traffic [--out benchmarks/planes.json]

A plane is all logits, read or written once in their own dtype; here fp32. All bytes count, those of
scratch memory too, averaged over the rows. Nothing is timed, and no GPU is needed. `planes.json`
holds what was counted of this sampler, and by hand what is known of others, each with its source.
The command counts anew in some two minutes and prints what it counted as a Markdown table; `--out`
writes the file, with the others' rows as they are.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..views.files import writing
from . import command
from .cases import CASES, REAL_VOCAB, make_logits, row_params

PLANES = Path(__file__).with_name("planes.json")
OURS = "fused-sampler"
COUNTED: dict[str, tuple[str, dict[str, Any]]] = {  # the function, and its arguments
    **{case: ("sample", params) for case, params in CASES.items()},
    "top-p 0.9 at temperature 0.8": ("sample", {"temperature": 0.8, "top_p": 0.9}),
    "softmax": ("softmax", {"temperature": 0.8}),
    "mask_logits, top-k 50": ("mask_logits", {"top_k": 50}),
}
LOGITS = {"random": (4, 128_256), "real": (20, REAL_VOCAB)}  # rows, vocabulary


def read_planes() -> list[dict[str, Any]]:
    """The rows of `planes.json`, ours first.

    Each holds `name`, `title`, `case`, `logits` (their kind), `planes` [least, most] that a call
    moves, `launches`, `source`, and `reads` and `writes` in planes where they are known apart. Ours
    hold `by_launch`, too: the planes that each moves.
    """
    stored = json.loads(PLANES.read_text())
    return stored["counted"] + stored["others"]


def count(case: str, kind: str) -> dict[str, Any]:
    """A row of `planes.json`: what one call moves and launches, on average over its rows.

    TRITON_INTERPRET=1 has to be set before anything imports Triton.
    """
    import fused_sampler

    from .counter import count_traffic

    rows, vocab = LOGITS[kind]
    x = make_logits(kind, rows, vocab)
    function, params = COUNTED[case]
    if case in CASES:
        params = row_params(case, rows)
    with count_traffic(x) as traffic:
        getattr(fused_sampler, function)(x, **params, backend="triton")
    reads, writes = round(traffic.reads, 3), round(traffic.writes, 3)
    return {
        "name": OURS,
        "title": OURS,
        "case": case,
        "logits": kind,
        "planes": [round(reads + writes, 3)] * 2,
        "reads": reads,
        "writes": writes,
        "launches": len(traffic.by_launch),
        "by_launch": [
            round((moved.read + moved.written) / x.nbytes, 4) for moved in traffic.by_launch
        ],
        "source": "counted in Triton's interpreter",
    }


def table(counted: list[dict[str, Any]]) -> str:
    """The counted rows in Markdown."""
    heads = [f"{kind}, V={vocab:,}" for kind, (_, vocab) in LOGITS.items()]
    lines = ["| reads + writes | launches | " + " | ".join(heads) + " |", "|---|---|---|---|"]
    for case in COUNTED:
        rows = [row for row in counted if row["case"] == case]
        cells = [f"{row['reads']:.2f} + {row['writes']:.2f}" for row in rows]
        lines.append(f"| {case} | {rows[0]['launches']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    options = command.Options(
        prog=f"python -m {__spec__.name}", description=__doc__.splitlines()[0]
    )
    options.add_argument("--out", type=Path, metavar="FILE", help="write the counts here, as JSON")
    out = options.parse_args().out
    os.environ["TRITON_INTERPRET"] = "1"
    import numpy as np
    from rich.console import Console
    from rich.progress import track

    from .interpreter import quicken

    quicken()
    np.seterr(all="ignore")  # infinities are part of the arithmetic
    cells = [(case, kind) for case in COUNTED for kind in LOGITS]
    console = Console(stderr=True)
    counted = [count(*cell) for cell in track(cells, "counting", console=console)]
    print(table(counted))
    if out:
        others = json.loads(PLANES.read_text())["others"]
        with writing(out, remedy="give another file with --out"):
            out.write_text(json.dumps({"counted": counted, "others": others}, indent=1) + "\n")


if __name__ == "__main__":
    command.run(main)
