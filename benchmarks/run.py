"""The suite: measure the cells one after the other, keep what was measured, write it down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..models.load import ModelError
from ..views.files import writing
from .command import OTHER_FOLDER
from .measure import measure
from .ours import Ours, OursInGraph
from .peers.base import Peer
from .plan import Cell
from .plots import draw_plots
from .report import counted, ratio_table, write_report
from .results import Row, facts, write_results
from .timing import clock_for

SECONDS = 2.0  # a cell's rounds, the last one finished


def run_suite(
    cells: Sequence[Cell],
    peers: Sequence[Peer],
    device: torch.device,
    folder: Path,
    left_out: Sequence[str] = (),
    seconds: float = SECONDS,
    command: str = "fused-sampler bench",
) -> bool:
    """Measure, print the table of ratios, write everything to `folder`; False if interrupted.

    The folder exists. Progress goes to standard error. A cell without a model or without enough
    memory is left out. Raises `WrongResult` where ours differs from the contract, after writing
    what was measured, and ValueError where nothing was or the files cannot be written.
    """
    console = Console(stderr=True, highlight=False)
    run = facts(device, command)  # of the start: the checkout may change meanwhile
    lines = list(left_out)
    contenders: dict[str, Peer] = {}
    for contender in (Ours(), OursInGraph(), *peers):
        reason = contender.unavailable(device)
        if reason is None:
            contenders[contender.name] = contender
        elif not isinstance(contender, Ours):
            lines.append(f"{contender.title}: {reason}.")
    place = "on the GPU" if device.type == "cuda" else "no GPU, so on the CPU"
    place += f' by the backend "{run["backend"]}"'
    size, threads = counted(len(cells), "cell"), counted(torch.get_num_threads(), "thread")
    console.print(f"{size}, {place}, {threads}", soft_wrap=True)
    for line in lines:
        console.print(escape(line), style="dim", soft_wrap=True)

    rows: list[Row] = []
    finished = False
    try:
        clock = clock_for(device)
        for cell in _shown(cells, console):
            try:
                rows += measure(cell, contenders, device, clock, seconds)
            except (ModelError, RuntimeError, MemoryError) as error:
                lines.append(f"{cell}: {_why_left_out(error)}.")
                console.print(escape(lines[-1]), soft_wrap=True)
        finished = True
    except KeyboardInterrupt:
        measured = len(rows) // (len(contenders) + 1)  # the floor has a row, too
        lines.append(f"Interrupted: {measured} of {size} measured.")
    except Exception as error:
        lines.append(f"Stopped: {' '.join(str(error).split())}.")
        raise
    finally:
        if rows:
            _write(folder, run | {"left_out": lines}, rows, console)
    if finished and not rows:
        raise ValueError(f"nothing was measured; {lines[-1]}")
    return finished


def _why_left_out(error: Exception) -> str:
    """Why a cell has no figures. What is neither a missing model nor a lack of memory is raised."""
    if isinstance(error, ModelError):
        return str(error)
    no_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    if no_memory or "can't allocate memory" in str(error):  # PyTorch's words on the CPU
        return "out of memory; give a smaller --batch or --vocab"
    raise error


def _write(folder: Path, run: dict[str, Any], rows: list[Row], console: Console) -> None:
    """The table on standard output, everything in files. Raises ValueError."""
    try:
        print(ratio_table(rows))
    finally:  # its reader may be gone
        with writing(folder, OTHER_FOLDER):
            summary = folder / "summary.md"
            summary.write_text(write_report(run, rows))
            written = [summary, *write_results(folder, run, rows), *draw_plots(folder, rows)]
        names = ", ".join(path.name for path in written)
        console.print(escape(f"{folder}: {names}"), soft_wrap=True)


def _shown(cells: Sequence[Cell], console: Console) -> Iterator[Cell]:
    """The cells, with a bar that says which one is measured; in a log, with a line each."""
    bar = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    terminal = console.is_terminal
    with Progress(*bar, console=console, disable=not terminal) as progress:
        task = progress.add_task("", total=len(cells))
        for number, cell in enumerate(cells, 1):
            if not terminal:
                console.print(f"{number} of {len(cells)}: {escape(str(cell))}", soft_wrap=True)
            progress.update(task, description=escape(str(cell)))
            yield cell
            progress.advance(task)
