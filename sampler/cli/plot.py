"""`fused-sampler plot`: the next token at some temperatures, or a parameter's range, in a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import track

from ..params import RECORDS
from ..views.figures import draw_panels, draw_sweep, save
from ..views.files import writing
from ..views.inspect import inspect_token
from ..views.next_token import NextToken
from ..views.numbers import label
from ..views.request import Request
from ..views.sweep import sweep
from .files import check_file
from .options import wrong
from .waiting import load_to_look

SUFFIXES = (".png", ".svg", ".pdf")
MOST_TEMPERATURES = 6  # more bars a token, or more curves, cannot be told apart


def run_plot(requests: Sequence[Request], top: int, swept: str | None, out: Path | None) -> None:
    """Draw requests that differ in temperature alone: panels, or the sweep of `swept`."""
    _check_temperatures(requests, swept)
    path = out or _default_path(requests[0].prompt, swept)
    _check_path(path)
    loaded = load_to_look(requests[0].model)
    token = NextToken(loaded, requests[0].reading)
    inspections = [inspect_token(token, request, top) for request in requests]
    for note in inspections[-1].notes:  # of the hottest: greedy decoding has fewer
        typer.echo(note, err=True)
    if swept is None:
        figure = draw_panels(inspections)
    else:
        console = Console(stderr=True)
        steps = track(
            requests, "Sweeping", console=console, transient=True, disable=not console.is_terminal
        )
        curves = [sweep(token, request, swept) for request in steps]
        figure = draw_sweep(inspections[0], curves, swept)
    with writing(path, "give another file with --out"):
        save(figure, path)
    typer.echo(f"wrote {path}")


def _check_temperatures(requests: Sequence[Request], swept: str | None) -> None:
    if len(requests) > MOST_TEMPERATURES:
        raise wrong(
            "temperature", f"there are {len(requests)} values; give at most {MOST_TEMPERATURES}"
        )
    if swept is not None:
        off = RECORDS[swept].off
        if (len(requests) > 1 and swept == "temperature") or requests[0].sampling[swept] != off:
            name = label(swept)
            raise wrong(swept, f"--sweep {name} runs it over its range; leave --{name} out")


def _check_path(path: Path) -> None:
    """Refuse before the model is loaded what could never be written."""
    kinds = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    if path != Path() and path.suffix.lower() not in SUFFIXES:
        raise wrong("out", f"{str(path)!r} does not end in {kinds}; give a name that does")
    check_file(path, "out", f"that ends in {kinds}")


def _default_path(prompt: str, swept: str | None) -> Path:
    """A file in the current folder, named after the prompt."""
    words = re.findall(r"\w+", f"{prompt[:40]} {swept or ''}".lower().replace("_", "-"))
    return Path("-".join(words) or "plot").with_suffix(".png")
