"""top-k: the k largest logits, and all ties of the k-th."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from .record import Axis, Filter

if TYPE_CHECKING:
    from ..contract.reference import BlockTable


def _column(values: torch.Tensor, vocab: int) -> torch.Tensor:
    """int64 in [1, V]; V is off."""
    return values.clamp(max=vocab).masked_fill(values == 0, vocab)


def _keep(table: BlockTable, kept: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    ranked = table.x.masked_fill(~kept, -torch.inf).sort(descending=True).values
    return table.x >= ranked.gather(-1, k - 1)


TOP_K = Filter(
    name="top_k",
    kind=int,
    low=0,
    high=math.inf,
    off=0,
    help="Keep the k best tokens, and ties; 0 is off.",
    remedy="use 0 to switch it off",
    axis=Axis(1, math.inf, log=True),
    hf=("TopKLogitsWarper", "top_k"),
    column=_column,
    keep=_keep,
)
