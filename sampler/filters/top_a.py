"""top-a: tokens at least so many times as probable as the square of the best's probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..contract.mass import log2_mass
from .record import Axis, Filter, log2_column

if TYPE_CHECKING:
    from ..contract.reference import BlockTable


def _keep(table: BlockTable, kept: torch.Tensor, log2_a: torch.Tensor) -> torch.Tensor:
    """2**z / M >= a * (2**t / M)**2, t the best token's z, by logarithms; that one always."""
    best = table.best_z(kept)
    least = (log2_a.double() - log2_mass(table.mass(kept))[:, None] + 2.0 * best.double()).float()
    return table.z >= torch.minimum(least, best)


TOP_A = Filter(
    name="top_a",
    kind=float,
    low=0.0,
    high=1.0,
    off=0.0,
    help="Keep tokens at least this many times the square of the best one's probability; 0 is off.",
    remedy="use a number from 0 to 1; 0 switches it off",
    axis=Axis(1e-3, 1.0, log=True),
    column=log2_column,
    keep=_keep,
)
