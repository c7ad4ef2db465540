"""`fused-sampler inspect`: prints the next-token table, before and after the filters."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import zip_longest

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..views.inspect import Candidate, Inspection, Logprob, inspect_prompt, spelling
from ..views.request import Request
from .waiting import load_to_look


def run_inspect(request: Request, top: int, top_logprobs: int, as_json: bool) -> None:
    """Print the table of the `top` best tokens, or JSON."""
    inspection = inspect_prompt(load_to_look(request.model), request, top, top_logprobs)
    if as_json:
        print(json.dumps(asdict(inspection), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _print_table(inspection)


def _print_table(inspection: Inspection) -> None:
    console = Console()
    if not console.is_terminal:  # a file has no edge: nothing is cut or wrapped
        console = Console(width=1000)
    console.print(_table(inspection))
    console.print()
    if inspection.raw_top_logprobs:
        console.print(_logprob_table(inspection))
        console.print()
    for line in _summary(inspection):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _table(inspection: Inspection) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("token", no_wrap=True, overflow="ellipsis")
    for name in ("id", "logit", "logit / T", "prob", "cumul"):
        table.add_column(name, justify="right", no_wrap=True)
    if inspection.edited:
        table.add_column("moved", justify="right", no_wrap=True)
    table.add_column("kept", no_wrap=True)
    previous = 0
    for row in inspection.tokens:
        if row.rank > previous + 1:
            table.add_row("...")
        previous = row.rank
        table.add_row(
            str(row.rank),
            Text(spelling(row)),
            str(row.id),
            _four_digits(row.logit),
            _four_digits(row.scaled_logit),
            _share(row.probability),
            f"{row.cumulative_probability:.4f}",
            *([_moved(row)] if inspection.edited else []),
            ("yes" if row.kept else "no") + (" <- drawn" if row.drawn else ""),
            style="bold yellow" if row.drawn else "green" if row.kept else "dim",
        )
    return table


def _moved(row: Candidate) -> str:
    """The logit before the edits, where they changed it."""
    same = row.logit == row.logit_before
    return "" if same else f"from {_four_digits(row.logit_before)}"


def _logprob_table(inspection: Inspection) -> Table:
    """The kept tokens by what they are drawn with, beside all by what the model itself says."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("rank", justify="right")
    for name in ("", "raw "):
        table.add_column(f"{name}token", no_wrap=True, overflow="ellipsis")
        table.add_column(f"{name}logprob", justify="right", no_wrap=True)
    pairs = zip_longest(inspection.top_logprobs, inspection.raw_top_logprobs)
    for rank, pair in enumerate(pairs, start=1):
        cells = [part for one in pair for part in _logprob_cells(one)]
        table.add_row(str(rank), *cells)
    return table


def _logprob_cells(one: Logprob | None) -> tuple[Text, str]:
    if one is None:  # fewer are kept
        return Text(), ""
    return Text(spelling(one)), _four_digits(one.logprob)


def _summary(inspection: Inspection) -> list[str]:
    lines = [
        f"{inspection.kept} of {inspection.vocabulary} tokens kept, "
        f"with {inspection.kept_probability:.2%} of the probability",
        *inspection.notes,
    ]
    if inspection.drawn_id is not None:
        row = next(row for row in inspection.tokens if row.drawn)
        how = "greedy" if inspection.seed is None else f"seed {inspection.seed}"
        lines.append(
            f"{how}: draws {spelling(row)}, rank {row.rank}, "
            f"probability {_share(inspection.drawn_probability or 0.0)} among the kept"
        )
    return lines


def _four_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(value: float) -> str:
    return f"{value:.4f}" if value >= 0.001 or value == 0 else f"{value:.0e}"
