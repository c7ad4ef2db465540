"""How many tokens stay and how uncertain the draw is while one parameter runs over its range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from ..api import mask_logits, softmax
from ..params import RECORDS
from .next_token import NextToken
from .request import Request

POINTS = 51


@dataclass
class Curve:
    """A point for each value of the parameter; `entropy` is that of the kept tokens, in bits."""

    label: str  # what is the same at all points
    values: list[float]
    kept: list[int]
    entropy: list[float]


def sweep(token: NextToken, request: Request, name: str) -> Curve:
    """The curve of `name`, one of `request.sampling`, for a token; the others stay as asked.

    Where it does nothing without another, that is at its highest if it is off.
    """
    values = _grid(name, len(token.logits))
    draw: dict[str, Any] = {"seed": request.seed or 0, "step": token.step}
    needs = RECORDS[name].needs
    if needs and request.sampling[needs] == RECORDS[needs].off:
        request = request.at(**{needs: RECORDS[needs].high})
    logits = token.edited(request)
    rows = []
    for value in values.tolist():
        stages, sampling = token.stages(request.at(**{name: value}))
        rows.append(mask_logits(token.run(stages, logits), **sampling, **draw))
    masked = torch.stack(rows)
    nats = torch.special.entr(softmax(masked)).sum(-1)
    return Curve(
        label="" if name == "temperature" else f"T = {request.temperature:g}",
        values=values.tolist(),
        kept=(masked > -torch.inf).sum(-1).tolist(),
        entropy=(nats / math.log(2)).tolist(),
    )


def _grid(name: str, vocabulary: int) -> torch.Tensor:
    """The values of a parameter, ascending: close together where it matters."""
    record = RECORDS[name]
    low, high = record.axis.low, min(record.axis.high, vocabulary)
    if record.axis.log:
        values = torch.logspace(math.log10(low), math.log10(high), POINTS, dtype=torch.float64)
        return values.round().long().unique() if record.kind is int else values.float()
    if record.off != high:
        return torch.linspace(low, high, POINTS - 1)
    tail = high - torch.logspace(-2, -4, 9, dtype=torch.float64)  # where thousands of tokens are
    return torch.cat([torch.linspace(low, high - 0.02, POINTS - 1), tail.float(), torch.ones(1)])
