"""min-p: tokens at least so many times as probable as the best (arXiv 2407.01082)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .record import Axis, Filter, log2_column

if TYPE_CHECKING:
    from ..contract.reference import BlockTable


def _keep(table: BlockTable, kept: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    return table.z >= least


MIN_P = Filter(
    name="min_p",
    kind=float,
    low=0.0,
    high=1.0,
    off=0.0,
    help="Keep tokens at least this many times as probable as the best; 0 is off.",
    remedy="use a number from 0 to 1; 0 switches it off",
    axis=Axis(1e-4, 1.0, log=True),
    hf=("MinPLogitsWarper", "min_p"),
    column=log2_column,
    keep=_keep,
)
