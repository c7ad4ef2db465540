"""Masses in floating point, in units of the row's best token, with a bound on their error.

They tell nearly every token and threshold for a fraction of what the contract's integers cost.
Where the error could make a difference, and for log-probabilities, those are worked out.
"""

from __future__ import annotations

import torch

from .batch import Batch
from .contract.mass import LOWEST

# Shares of the true mass, rounded up. In units of 2**-24: the polynomial of a weight and that of
# its block's scale err by less than 2 each; rounding down, by 1 inside a block and 1 at its scale.
TOKEN_ERROR = 8 * 2.0**-24
ROW_ERROR = 22 * 2.0**-24  # 17 of `near_sums`; its scale's polynomial and rounding down


def token_masses(
    x: torch.Tensor, block_max: torch.Tensor, row_max: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """Masses of tokens x, fp32 [R, n], fp64: sums of them are within `TOKEN_ERROR`.

    `block_max` [R, n] of their blocks, `row_max` [R], `c` [R].
    """
    row_max, c, block_max = row_max[:, None], c[:, None], block_max.clamp(min=LOWEST)
    inside, of_block = (x - block_max).mul_(c), (block_max - row_max).mul_(c)  # fp32, as the rule
    return inside.double().add_(of_block).exp2_()


def block_masses(group: Batch) -> torch.Tensor:
    """Masses of all blocks of these rows, fp64 [R, N]: sums of them are within `ROW_ERROR`."""
    c = group.rows.c
    scale = (group.maxima - group.row_max[:, None]).mul_(c[:, None]).double().exp2_()
    return scale.mul_(group.near_sums(c))
