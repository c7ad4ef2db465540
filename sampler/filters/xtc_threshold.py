"""XTC, exclude top choices: of the likely tokens only the least likely stays (llama.cpp)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..contract.mass import log2_mass
from .record import Axis, Filter, log2_column

if TYPE_CHECKING:
    from ..contract.reference import BlockTable

_LEAST_LOG2 = -28.0  # lighter tokens may have no mass, and could not be drawn


def _column(values: torch.Tensor, vocab: int) -> torch.Tensor:
    """fp32 log2(t); inf is off."""
    log2 = log2_column(values, vocab).clamp(min=_LEAST_LOG2)
    return log2.masked_fill(values > 0.5, torch.inf)  # no two tokens are so likely


def _keep(table: BlockTable, kept: torch.Tensor, log2_threshold: torch.Tensor) -> torch.Tensor:
    """Nothing better than the worst of the tokens with 2**z / M >= t."""
    least = (log2_threshold.double() + log2_mass(table.mass(kept))[:, None]).float()
    likely = kept & (table.z >= least)
    worst = table.x.masked_fill(~likely, torch.inf).amin(-1, keepdim=True)
    return table.x <= worst


XTC_THRESHOLD = Filter(
    name="xtc_threshold",
    kind=float,
    low=0.0,
    high=1.0,
    off=0.1,
    help="XTC: of the tokens at least this probable keep only the least; above 0.5 is off.",
    remedy="use a number from 0 to 1; above 0.5 it is off",
    axis=Axis(0.01, 0.5),
    needs="xtc_probability",
    column=_column,
    keep=_keep,
)
