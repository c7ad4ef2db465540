"""Step 2c, refine: a smaller bracket where the list cannot hold what is in question (device code).

One read of the blocks that reach `low` measures count or mass at 16 keys, evenly spread over the
bracket, so that a bracket of 32-bit keys closes after eight more reads, whatever the logits.

Traffic: the blocks that reach `low`, once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import block_scale, key_of, scale_sums, token_weights
from .collect import list_blocks, load_blocks
from .rank import rank_of
from .search import inside

PIVOTS = tl.constexpr(16)


@triton.jit
def pivot(low, high, j):
    """The key `j / PIVOTS` of the way from `low` to `high`."""
    return (low + ((high.to(tl.int64) - low) * j) // PIVOTS).to(tl.int32)


@triton.jit
def refine(row, low, high, by_mass, need, SHAPE: tl.constexpr):
    """A sixteenth of the bracket [low, high) that still encloses the threshold, and its count.

    Or less of it: no further than logits reach, so that ties are soon one key.
    """
    pivots = tl.arange(0, PIVOTS)
    count = tl.full([SHAPE.TILE, PIVOTS], 0, tl.int32)
    mass = tl.full([SHAPE.TILE, PIVOTS], 0, tl.int64)
    everything = tl.full([SHAPE.TILE], 0, tl.int32)
    least = tl.full([SHAPE.TILE], 0x7FFFFFFF, tl.int32)
    most = tl.full([SHAPE.TILE], -0x80000000, tl.int32)
    for j in range(SHAPE.PER_GROUP):
        blocks = list_blocks(row, low, j, SHAPE)
        for first in range(0, blocks, SHAPE.TILE):
            _, _, x = load_blocks(row, first, blocks, SHAPE.TILE)
            rank = rank_of(row, x, key_of(x, SHAPE.SHIFT))
            everything += tl.sum((rank >= low).to(tl.int32), axis=1)
            found = inside(rank, low, high)
            least = tl.minimum(least, tl.min(tl.where(found, rank, 0x7FFFFFFF), axis=1))
            most = tl.maximum(most, tl.max(tl.where(found, rank, -0x80000000), axis=1))
            block_max = tl.max(x, axis=1)
            weights = token_weights(x, block_max[:, None], row.c)
            mantissa, shift = block_scale(block_max, row.max, row.c)
            for i in range(PIVOTS):
                above = rank >= pivot(low, high, i + 1)
                here = (pivots == i)[None, :]
                count += tl.where(here, tl.sum(above.to(tl.int32), axis=1)[:, None], 0)
                if by_mass:
                    sums = tl.sum(tl.where(above, weights, 0).to(tl.int64), axis=1)
                    mass += tl.where(here, scale_sums(sums, mantissa, shift)[:, None], 0)
    count_from = tl.sum(count, axis=0)  # [PIVOTS]
    reached = tl.where(by_mass, tl.sum(mass, axis=0), count_from) >= need
    # Measures fall from pivot to pivot: the bracket ends at the first that does not reach.
    steps = tl.sum((reached & (pivots < PIVOTS - 1)).to(tl.int32))
    count_low = tl.sum(tl.where(pivots == steps - 1, count_from, 0))
    count_low = tl.where(steps == 0, tl.sum(everything), count_low)
    count_high = tl.sum(tl.where(pivots == steps, count_from, 0))
    new_low = tl.where(steps == 0, low, pivot(low, high, steps))
    new_high = pivot(low, high, steps + 1)
    new_low = tl.minimum(tl.maximum(new_low, tl.min(least)), new_high)
    new_high = tl.maximum(tl.minimum(new_high, tl.max(most) + 1), new_low)
    return new_low, new_high, count_low - count_high
