"""GPU time, and the counts it is estimated from, in Markdown and JSON.

    python -m fused_sampler.benchmarks.estimate [--measured bench-results/results.json] [--out DIR]

No GPU is needed: `gpu_time.py` says how the estimate is made. What the suite has measured on a GPU
takes the estimate's place, cell by cell, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..views.files import writing
from . import command
from .cycles import read_cycles
from .gpu_time import (
    ACHIEVED,
    BATCHES,
    GPUS,
    LATENCY_US,
    MEASURED,
    Time,
    estimates,
    measured,
    replace,
)
from .report import table
from .traffic import LOGITS, read_planes


def time_table(times: Iterable[Time], logits: str) -> str:
    """Microseconds in Markdown: a line for each case and sampler, a column for GPU and batch."""
    found = {
        (time.case, time.title, time.gpu, time.batch): time
        for time in times
        if time.logits == logits
    }
    gpus = dict.fromkeys(gpu for _, _, gpu, _ in found)
    columns = [(gpu, batch) for gpu in gpus for batch in BATCHES]
    head = ["case", "sampler", *(f"{gpu}, B = {batch}" for gpu, batch in columns)]
    lines = [
        [case, title, *(_microseconds(found.get((case, title, *place))) for place in columns)]
        for case, title in _by_case((case, title) for case, title, _, _ in found)
    ]
    return table(head, lines)


def count_table(planes: Sequence[dict[str, Any]]) -> str:
    """What the estimate is made of, in Markdown."""
    found = {(row["case"], row["title"], row["logits"]): row for row in planes}
    cycles = {(row["case"], row["logits"]): row["cycles"] for row in read_cycles()}
    head = ["case", "sampler", *(f"planes, {logits}" for logits in LOGITS), "launches", "source"]
    lines = []
    for case, title in _by_case((case, title) for case, title, _ in found):
        rows = [found[case, title, logits] for logits in LOGITS]
        cells = [_range(row["planes"], digits=3) for row in rows]
        if "by_launch" in rows[0]:
            thousands = (cycles[case, logits] / 1000 for logits in LOGITS)
            both = zip(cells, thousands, strict=True)
            cells = [f"{cell} ({_range([count], digits=3)})" for cell, count in both]
        lines.append([case, title, *cells, str(rows[0]["launches"]), rows[0]["source"]])
    return table(head, lines)


def page(times: Sequence[Time], planes: Sequence[dict[str, Any]]) -> str:
    """Both tables, under lines that say what they are."""
    label = "Estimated GPU time, not measured"
    if any(time.basis == MEASURED for time in times):
        label = "GPU time, measured; with ~ in front, estimated and not measured"
    peaks = ", ".join(f"{gpu.name} {gpu.bytes_per_s / 1e12:g} TB/s" for gpu in GPUS)
    size = {logits: f"{logits} logits, V={vocab:,}" for logits, (_, vocab) in LOGITS.items()}
    return "\n\n".join(
        (
            f"**{label}**, in microseconds ({size['random']}, fp32). Estimates are a model: for "
            f"each launch {LATENCY_US:g} us and the longer of the bytes moved over {ACHIEVED} of "
            f"the peak bandwidth ({peaks}) and, of ours alone, the busiest processor's cycles over "
            "the clock. Caches and waiting inside a kernel are left out.",
            time_table(times, "random"),
            "Made of: planes read and written by a call, and in brackets thousands of cycles of "
            f"the launches' programs one after another ({', '.join(size.values())}, fp32).",
            count_table(planes),
        )
    )


def _by_case(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Cases and samplers without repeats; those of a case together, in the order of the first."""
    unique = list(dict.fromkeys(pairs))
    order = list(dict.fromkeys(case for case, _ in unique))
    return sorted(unique, key=lambda pair: order.index(pair[0]))


def _microseconds(time: Time | None) -> str:
    if time is None:
        return "-"
    if time.basis == MEASURED:
        return _range((time.least_us, time.most_us), digits=3)
    return "~" + _range((time.least_us, time.most_us), digits=2)


def _range(ends: Iterable[float], digits: int) -> str:
    """Both ends to so many digits, or one number where they are the same."""
    shown = (f"{float(f'{value:.{digits}g}'):,g}" for value in ends)
    return " to ".join(dict.fromkeys(shown))


def read_results(path: Path) -> dict[str, Any]:
    """A `results.json` of the suite. Raises ValueError."""
    try:
        results = json.loads(path.read_text())
        if {"run", "rows"} <= results.keys():
            return results
    except (OSError, ValueError, AttributeError):
        pass
    raise ValueError(f"--measured {str(path)!r} is no results.json that fused-sampler bench wrote")


def main(arguments: Sequence[str] | None = None) -> None:
    prog = f"python -m {__spec__.name}"
    options = command.Options(prog=prog, description=__doc__.splitlines()[0])
    options.add_argument("--measured", type=Path, metavar="FILE", help="results.json of the suite")
    options.add_argument("--out", type=Path, default=Path("bench-results"), metavar="DIR")
    chosen = options.parse_args(arguments)
    found = measured(read_results(chosen.measured)) if chosen.measured else []
    command.make_folder(chosen.out)
    planes = read_planes()
    times = replace(estimates(planes), found)
    text = page(times, planes)
    stored = json.dumps([time._asdict() for time in times], indent=1)
    with writing(chosen.out, command.OTHER_FOLDER):
        (chosen.out / "estimate.json").write_text(stored + "\n")
        (chosen.out / "estimate.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    command.run(main)
