"""min-p: tokens at least so many times as probable as the best (arXiv 2407.01082)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .record import Axis, Filter

if TYPE_CHECKING:
    from ..contract.reference import BlockTable


def _column(values: torch.Tensor, vocab: int) -> torch.Tensor:
    """fp32 log2(min_p); -inf is off."""
    return values.double().log2().float()


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
    column=_column,
    keep=_keep,
)
