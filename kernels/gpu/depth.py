"""Depth: the sum of mass times -z over what is kept, for filters by entropy (device functions).

    depth = sum over blocks of scale((sum of w * q) + (sum of w) * q_b),  q = floor(-z * 2**20)

in units of mass, so that depth / mass is the mean of -z (contract section 4).

Traffic: of the whole row 8 bytes a block written, and 16 read; of a part the blocks that reach a
key, once.
PyTorch twin: `BlockTable.depth` in `fused_sampler.contract.reference`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import LOWEST_FLOAT, exp2_parts, key_of, token_weights, value_of
from .collect import list_blocks, load_blocks
from .search import inside
from .table import block_of_group


@triton.jit
def whole_depth(z):
    """`-z` in units of 2**-20, int32, rounded down; at most 64."""
    return (tl.maximum(z, -64.0) * -1048576.0).to(tl.int32)


@triton.jit
def block_depth(x, block_max, weights, c):
    """The sum of weight times depth below the block's maximum, int64, of logits [ROWS, 64]."""
    z = (x - tl.maximum(block_max, LOWEST_FLOAT)[:, None]) * c
    return tl.sum(weights.to(tl.int64) * whole_depth(z).to(tl.int64), axis=1)


@triton.jit
def scale_depth(below, sums, block_max, row_max, c):
    """From sums inside a block to its share of the row's depth, int64."""
    z = tl.maximum((block_max - row_max) * c, -64.0)
    p, n = exp2_parts(z)
    mantissa = (p * 16777216.0).to(tl.int32).to(tl.int64)
    total = below + sums * whole_depth(z).to(tl.int64)
    return ((total >> 28) * mantissa) >> tl.minimum(6 - n, 63).to(tl.int64)


@triton.jit
def whole_row_depth(row, SHAPE: tl.constexpr):
    """Of all tokens, int64, from the table."""
    depth = tl.full([SHAPE.GROUPS], 0, tl.int64)
    for j in range(SHAPE.PER_GROUP):
        offs_n, block_key = block_of_group(row, j, SHAPE)
        block_max = value_of(block_key, SHAPE.SHIFT)
        mask_n = (offs_n < row.num_blocks) & (block_max >= LOWEST_FLOAT)
        sums = tl.load(row.table.sums_ptr + offs_n, mask=mask_n, other=0)
        below = tl.load(row.table.depths_ptr + offs_n, mask=mask_n, other=0)
        depth += scale_depth(below, sums, block_max, row.max, row.c)
    return tl.sum(depth)


@triton.jit
def depth_between(row, low, high, SHAPE: tl.constexpr):
    """Of the tokens with keys in [low, high), int64."""
    depth = tl.full([SHAPE.TILE], 0, tl.int64)
    for j in range(SHAPE.PER_GROUP):
        blocks = list_blocks(row, low, j, SHAPE)
        for first in range(0, blocks, SHAPE.TILE):
            _, _, x = load_blocks(row, first, blocks, SHAPE.TILE)
            block_max = tl.max(x, axis=1)
            kept = inside(key_of(x, SHAPE.SHIFT), low, high)
            weights = tl.where(kept, token_weights(x, block_max[:, None], row.c), 0)
            below = block_depth(x, block_max, weights, row.c)
            sums = tl.sum(weights.to(tl.int64), axis=1)
            depth += scale_depth(below, sums, block_max, row.max, row.c)
    return tl.sum(depth)
