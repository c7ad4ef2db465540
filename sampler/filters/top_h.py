"""top-h: the best tokens that hold a share of the entropy of the best 100 (arXiv 2509.02510)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..contract.mass import LOWEST, log2_mass, token_weights
from .record import Axis, Filter, share_column

if TYPE_CHECKING:
    from ..contract.reference import BlockTable

BEST = 100  # tokens that are looked at, and ties


def _keep(table: BlockTable, kept: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """The sum of -p log2(p) over tokens at least as good stays within h times that of them all."""
    x, order = table.x.masked_fill(~kept, -torch.inf).sort(descending=True)
    among = kept & (table.x >= x[:, min(BEST, x.shape[-1]) - 1, None])
    mass = table.mass(among)[:, None]
    below = ((log2_mass(mass) - table.z.clamp(min=-64.0).double()) * 2.0**26).long()
    weights = token_weights(table.x, table.row_max[:, None], table.c[:, None])
    entropy = ((weights * below) >> 20) * among
    upto = entropy.gather(-1, order).cumsum(-1)
    ties = torch.searchsorted(-x, -table.x, right=True) - 1  # the last that is as good
    upto = upto.gather(-1, ties.clamp(min=0))
    allowed = (h * entropy.sum(-1, keepdim=True).double()).long()
    return (among & (upto <= allowed)) | (table.x == x[:, :1].clamp(min=LOWEST)) | (h >= 1)


TOP_H = Filter(
    name="top_h",
    kind=float,
    low=2.0**-24,
    high=1.0,
    off=1.0,
    help="Keep the best tokens that hold this share of the entropy of the best 100; 1 is off.",
    remedy="use a number above 0, to 1; 1 switches it off",
    axis=Axis(0.01, 1.0),
    hf=("TopHLogitsWarper", "top_h"),
    column=share_column,
    keep=_keep,
)
