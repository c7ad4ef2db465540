"""The results as a Markdown page: the ratios first, then every figure, then the kept sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .cases import REAL_VOCAB
from .ours import Ours
from .peers import PEERS
from .plan import MAIN_BATCHES, VOCAB
from .results import FLOOR, Row, group_by

MAIN_CASES = ("temperature 0.8", "min-p 0.05", "top-k 50", "top-k 50 + top-p 0.9", "top-p 0.9")


def write_report(run: dict[str, Any], rows: Sequence[Row]) -> str:
    """The page."""
    parts = [
        "# Benchmark",
        where(run),
        "## How many times faster",
        ratio_table(rows),
        "## Every figure",
        figures_table(rows, run["device"]),
        "## Kept sets",
        kept_sets_table(rows),
    ]
    if run["left_out"]:
        parts += ["## Left out", "\n".join(f"- {line}" for line in run["left_out"])]
    return "\n\n".join(parts) + "\n"


def where(run: dict[str, Any]) -> str:
    """What ran, and on what."""
    place = run["gpu"] or f"{run['cpu']} without a GPU"
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    threads, cores = counted(run["threads"], "thread"), counted(run["cores"], "core")
    return (
        f"`{run['command']}` at commit {run['commit'] or 'unknown'}, {run['date']}: {place}, "
        f'backend "{run["backend"]}", {threads} of {cores}, {run["system"]}. {versions}.'
    )


def ratio_table(rows: Sequence[Row]) -> str:
    """Ours against each peer and against the floor, the batches side by side in a cell.

    The main cases where they were measured; otherwise everything.
    """
    main = main_rows(rows)
    batches = sorted({row.batch for row in main})
    names = _names(main, [*PEERS])
    head = f"B = {' / '.join(map(str, batches))}"
    lines = []
    for (logits, vocab, dtype, case), own in group_by(
        main, "logits", "vocab", "dtype", "case"
    ).items():
        found = {(row.name, row.batch): row for row in own}

        def ratios(name: str, found: dict = found) -> str:
            return " / ".join(_ratio(found.get((name, batch))) for batch in batches)

        def of_floor(found: dict = found) -> str:
            ours = (found.get((Ours.name, batch)) for batch in batches)
            return " / ".join(_number(row and row.floor_ratio) for row in ours)

        lines.append([_place(logits, vocab, dtype), case, *map(ratios, names), of_floor()])
    titles = [PEERS[name].title for name in names]
    ratios_by_place = table(["logits", "case", *titles, "times one read"], lines)
    return (
        f"The peer's median time over ours, {head}; in the last column our time over that of "
        f"reading the logits once. A dash: the peer cannot do it.\n\n{ratios_by_place}"
    )


def figures_table(rows: Sequence[Row], device: str) -> str:
    """Everything that was timed."""
    launches = "kernels" if device == "cuda" else "operations"
    head = "logits|case|B|sampler|median ms|p10|p90|ratio|reads|GB/s|extra memory|" + launches
    lines = [
        [
            _place(row.logits, row.vocab, row.dtype),
            row.case,
            str(row.batch),
            title_of(row.name),
            *(_number(value) for value in (row.median_ms, row.p10_ms, row.p90_ms)),
            _number(row.ratio),
            _number(row.floor_ratio),
            _number(row.gb_per_s),
            _bytes(row.extra_bytes),
            "" if row.launches is None else str(row.launches),
        ]
        for row in rows
        if row.median_ms is not None
    ]
    return (
        "Ratio: over our time. Reads: over the time of reading the logits once, the floor. GB/s: "
        "the logits' bytes over the median. Memory and launches are PyTorch's own count, of one "
        f"call.\n\n{table(head.split('|'), lines)}"
    )


def kept_sets_table(rows: Sequence[Row]) -> str:
    """Which kept sets differ from the contract's, and what was not timed for it."""
    differing = [row for row in rows if row.differing_tokens]
    alike = ("logits", "vocab", "dtype", "case", "name", "differing_tokens", "beyond_ties", "note")
    lines = [
        [
            _place(own[0].logits, own[0].vocab, own[0].dtype),
            own[0].case,
            ", ".join(str(row.batch) for row in own),
            title_of(own[0].name),
            f"{own[0].differing_tokens} of {own[0].kept_tokens}",
            str(own[0].beyond_ties),
            own[0].note,
        ]
        for own in group_by(differing, *alike).values()
    ]
    checked = sum(row.differing_tokens is not None for row in rows)
    text = (
        f"{checked} kept sets were compared with the contract's, in the first rows of a batch; "
        f"{checked - len(differing)} are equal, all of ours among them."
    )
    if not lines:
        return text
    head = ["logits", "case", "B", "sampler", "tokens that differ", "beyond ties", "not timed"]
    return f"{text} The others:\n\n{table(head, lines)}"


def main_rows(rows: Sequence[Row]) -> list[Row]:
    """Those of the main cases; all where there are none."""
    places = {("random", VOCAB, "fp32"), ("real", REAL_VOCAB, "fp32")}
    main = [
        row
        for row in rows
        if (row.logits, row.vocab, row.dtype) in places
        and row.case in MAIN_CASES
        and row.batch in MAIN_BATCHES
    ]
    return main or list(rows)


def counted(number: int, noun: str) -> str:
    """1 cell, 2 cells."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def title_of(name: str) -> str:
    if name == FLOOR:
        return "one read (floor)"
    return PEERS[name].title if name in PEERS else name


def _names(rows: Iterable[Row], order: list[str]) -> list[str]:
    timed = {row.name for row in rows if row.median_ms is not None}
    return [name for name in order if name in timed]


def _place(logits: str, vocab: int, dtype: str) -> str:
    return f"{logits}, V={vocab:,}" + ("" if dtype == "fp32" else f", {dtype}")


def _ratio(row: Row | None) -> str:
    return _number(row.ratio) if row and row.ratio is not None else "-"


def _number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _bytes(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:.1f} MiB"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    rules = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rules, *lines))
