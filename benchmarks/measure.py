"""One cell: check every kept set, time what passed in turn, count memory and launches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from .cases import DTYPES, make_logits, row_params
from .footprint import count
from .kept_sets import Contract, Difference
from .ours import Ours
from .peers.base import Draw, Params, Peer
from .plan import Cell
from .results import FLOOR, Row
from .timing import Call, Clock, Spread, spread, time_in_turn

ROTATED_ROWS = 16  # rows over all inputs of a cell, with two inputs at least


class WrongResult(ValueError):
    """Ours differs from the contract."""


class Entrant(NamedTuple):
    """A sampler as it comes out of the checks."""

    draw: Draw | None  # None: not to be timed
    difference: Difference | None = None
    note: str = ""


def measure(
    cell: Cell,
    contenders: Mapping[str, Peer],
    device: torch.device,
    clock: Clock,
    seconds: float,
) -> list[Row]:
    """A row for each of the contenders, and for the floor. Raises `WrongResult`."""
    inputs = make_inputs(cell, device)
    params = row_params(cell.case, cell.batch, device)
    contract = Contract(inputs[0], params)
    entrants = {
        name: enter(contender, inputs, params, contract) for name, contender in contenders.items()
    }
    for name, entrant in entrants.items():
        if isinstance(contenders[name], Ours) and entrant.difference and entrant.note:
            raise WrongResult(f"{name} is wrong at {cell}: {entrant.note}")
    draws = {name: entrant.draw for name, entrant in entrants.items() if entrant.draw}

    calls = {name: _rotating(draw, inputs) for name, draw in {**draws, FLOOR: read_once}.items()}
    times = {name: spread(own) for name, own in time_in_turn(calls, seconds, clock).items()}
    times[FLOOR] = floor_of(times[FLOOR], device)

    nbytes = inputs[0].numel() * inputs[0].element_size()
    rows = []
    for name, entrant in {**entrants, FLOOR: Entrant(read_once)}.items():
        row = Row(*cell, name=name, note=entrant.note)
        if entrant.difference:
            differing, beyond_ties, kept, _ = entrant.difference
            row = replace(
                row, differing_tokens=differing, beyond_ties=beyond_ties, kept_tokens=kept
            )
        if name in times:
            row = replace(row, **_figures(times[name], times, nbytes))
        if name in draws and contenders[name].countable(device):
            row = replace(row, **count(partial(draws[name], inputs[0]), device)._asdict())
        rows.append(row)
    return rows


def make_inputs(cell: Cell, device: torch.device) -> list[torch.Tensor]:
    """Logits [batch, vocab] of other rows each, so that no call finds its own in the cache.

    One lucky row cannot decide a figure at B = 1, either.
    """
    number = max(2, ROTATED_ROWS // cell.batch)
    rows = make_logits(cell.logits, number * cell.batch, cell.vocab, DTYPES[cell.dtype], device)
    return list(rows.split(cell.batch))


def enter(
    contender: Peer, inputs: list[torch.Tensor], params: Params, contract: Contract
) -> Entrant:
    """Prepare a sampler, check what it keeps and draws, and call it once for each input."""
    reason = contender.unsupported(params)
    if reason:
        return Entrant(None, None, reason)
    exact = isinstance(contender, Ours)
    try:
        draw = contender.prepare(params)
        mask = contender.mask(contract.logits, contract.params)
        difference = contract.difference(mask)
        tokens = draw(inputs[0])[: len(mask)]
        reason = contract.refusal(mask, tokens, difference, exact)
        for x in inputs[1:]:  # compiles and captures what depends on the input
            draw(x)
    except Exception as error:  # another version of a peer may raise anything
        if exact:
            raise
        return Entrant(None, None, f"it failed: {' '.join(str(error).split())[:200]}")
    return Entrant(None if reason else draw, difference, reason or "")


def read_once(logits: torch.Tensor) -> torch.Tensor:
    """Each logit is read once; on a GPU, the copy that shows the memory's bandwidth."""
    return logits.clone() if logits.device.type == "cuda" else logits.amax(-1)


def floor_of(measured: Spread, device: torch.device) -> Spread:
    """The time of one read. A GPU's copy reads once and writes once."""
    median, p10, p90, calls = measured
    planes = 2 if device.type == "cuda" else 1
    return Spread(median / planes, p10 / planes, p90 / planes, calls)


def _rotating(draw: Draw, inputs: list[torch.Tensor]) -> Call:
    return lambda number: draw(inputs[number % len(inputs)])


def _figures(own: Spread, times: Mapping[str, Spread], nbytes: int) -> dict:
    ours = times.get(Ours.name)
    return {
        "median_ms": own.median,
        "p10_ms": own.p10,
        "p90_ms": own.p90,
        "calls": own.calls,
        "ratio": own.median / ours.median if ours else None,
        "floor_ratio": own.median / times[FLOOR].median,
        "gb_per_s": nbytes / own.median / 1e6,
    }
