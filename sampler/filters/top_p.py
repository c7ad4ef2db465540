"""top-p: the smallest set of best tokens that holds the share p of the mass."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from .record import Axis, Filter, share_column

if TYPE_CHECKING:
    from ..contract.reference import BlockTable


def _keep(table: BlockTable, kept: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """x from the logit up at which the mass of the best tokens reaches P."""
    return (table.x >= reached(table, kept, table.x, p)) | (p >= 1)


def reached(
    table: BlockTable, kept: torch.Tensor, rank: torch.Tensor, p: torch.Tensor
) -> torch.Tensor:
    """The rank [B, 1] at which the mass of the tokens kept that rank higher reaches P.

    `rank` fp32 [B, N * 64] orders them; `P = max(1, ceil(p * mass))`.
    """
    # What each token adds to the mass when tokens are taken from the best down: scaling rounds
    # down once a block, so a token's share depends on the better ones of its own block.
    x, order = table.blocks(rank.masked_fill(~kept, -torch.inf)).sort(descending=True)
    weights = table.weights * table.blocks(kept)
    taken = table.scale(weights.gather(-1, order).cumsum(-1))
    added = taken.diff(dim=-1, prepend=torch.zeros_like(taken[..., :1]))

    x, order = x.flatten(1).sort(descending=True)
    mass = added.flatten(1).gather(-1, order).cumsum(-1)
    needed = (p * mass[:, -1:].double()).ceil().long().clamp(min=1)
    last = (mass < needed).sum(-1, keepdim=True).clamp(max=mass.shape[-1] - 1)
    return x.gather(-1, last)


TOP_P = Filter(
    name="top_p",
    kind=float,
    low=0.0,
    high=math.inf,
    off=1.0,
    help="Keep the best tokens that hold this share of the probability; 1 is off.",
    remedy="use a number from 0 to 1; 1 switches it off",
    axis=Axis(0.0, 1.0),
    hf=("TopPLogitsWarper", "top_p"),
    column=share_column,
    keep=_keep,
)
