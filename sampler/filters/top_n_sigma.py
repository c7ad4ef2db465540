"""top-n-sigma: logits within so many standard deviations of the best (arXiv 2411.07641)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ..contract.spread import largest_root, variance
from .record import Axis, Filter

if TYPE_CHECKING:
    from ..contract.reference import BlockTable


def _column(values: torch.Tensor, vocab: int) -> torch.Tensor:
    """fp32 n; inf is off."""
    return values.masked_fill(values == 0, torch.inf)


def _keep(table: BlockTable, kept: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """max - x <= n * the standard deviation of the whole row, both times c."""
    square = variance(table.blocks(table.x), table.block_max)[:, None]
    n_c = n.double() * table.c[:, None].double()
    return (table.z >= -largest_root(n_c * n_c * square)) | n.isinf()


TOP_N_SIGMA = Filter(
    name="top_n_sigma",
    kind=float,
    low=0.0,
    high=math.inf,
    off=0.0,
    help="Keep logits at most this many standard deviations of all below the best; 0 is off.",
    remedy="use a number above 0; 0 switches it off",
    axis=Axis(0.1, 10.0, log=True),
    column=_column,
    keep=_keep,
)
