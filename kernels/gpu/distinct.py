"""Step 2 without replacement: a drawn token leaves its row (device functions).

Each block has a word of 64 bits, one for each token that is gone. A draw writes the line of its
block: the word, and the sum of what is left. A greedy row has no sums and takes its best token each
time: there the maximum of what is left is written.

Traffic: of a draw a word read and written, and a sum, or a maximum, written.
Races: the threads of a program share the line. A barrier stands before it is written, when all have
read it, and one after, before the next draw reads.
Twin: `kernels/cpu/distinct.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import BLOCK, block_scale, key_of, scale_sums, token_weights
from .collect import load_block
from .search import inside
from .table import load_block_key


@triton.jit
def best_left(group_key, groups, SHAPE: tl.constexpr):
    """The key of the best token that is left, and a mass of 1 for the first group with it."""
    threshold = tl.max(group_key)
    first = tl.min(tl.where(group_key == threshold, groups, SHAPE.GROUPS))
    return threshold, (groups == first).to(tl.int64)


@triton.jit
def take_token(row, taken_ptr, block, left, threshold, end, greedy, given, SHIFT: tl.constexpr):
    """The id at which the masses inside a block pass `left`, its logit, and the mass that is lost.

    The token leaves its block, unless none is `given`: then no memory is touched.
    """
    lanes = tl.arange(0, BLOCK)
    x = load_block(row, block)
    block_max = tl.max(x, axis=0)
    mantissa, shift = block_scale(block_max, row.max, row.c)
    taken = tl.load(taken_ptr + block, mask=given, other=0)
    free = ((taken >> lanes) & 1) == 0
    key = key_of(x, SHIFT)
    kept = free & (key >= threshold if end is None else inside(key, threshold, end))
    weights = tl.where(kept, token_weights(x, block_max, row.c), 0).to(tl.int64)
    sums = tl.cumsum(weights, 0)
    upto = scale_sums(sums, mantissa, shift)
    if greedy:  # the first of those that reach the threshold
        upto = tl.cumsum(kept.to(tl.int64), 0)
    lane = tl.sum((upto <= left).to(tl.int32))
    here = lanes == lane
    total = tl.sum(weights)
    rest = total - tl.sum(tl.where(here, weights, 0))
    lost = scale_sums(total, mantissa, shift) - scale_sums(rest, mantissa, shift)
    bit = tl.sum(tl.where(here, tl.full([BLOCK], 1, tl.int64) << lanes, 0))
    best = tl.max(tl.where(free & (lanes != lane), x, -float("inf")))
    maxima_ptr = row.table.maxima_ptr
    tl.debug_barrier()  # all have read the block's line
    tl.store(taken_ptr + block, taken | bit, mask=given)
    tl.store(row.table.sums_ptr + block, rest, mask=given & (greedy == 0))
    tl.store(maxima_ptr + block, best.to(maxima_ptr.dtype.element_ty), mask=given & greedy)
    tl.debug_barrier()  # and can read what is left of it
    return block * BLOCK + lane, tl.sum(tl.where(here, x, 0.0)), lost


@triton.jit
def group_key_of(row, group, SHAPE: tl.constexpr):
    """The key of the largest logit that is left in a group."""
    key = load_block_key(row.table, group * SHAPE.PER_GROUP, row.num_blocks, SHAPE.SHIFT)
    for j in range(1, SHAPE.PER_GROUP):
        n = group * SHAPE.PER_GROUP + j
        key = tl.maximum(key, load_block_key(row.table, n, row.num_blocks, SHAPE.SHIFT))
    return key
