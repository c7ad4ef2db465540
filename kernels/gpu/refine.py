"""Step 2c, refine: a smaller bracket where the list cannot hold what is in question (device code).

One read of the blocks that reach `low` measures count and mass at 16 keys. The keys are spread
evenly over the bracket's values the first time, where real logits are dense, and evenly over its
keys from then on, so that a bracket of 32-bit keys closes after eight more, whatever the logits.

Traffic: the blocks that reach `low`, once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import block_scale, key_of, lowest_key, scale_sums, token_weights, value_of
from .collect import list_blocks, load_blocks
from .search import MASS

PIVOTS = tl.constexpr(16)


@triton.jit
def spread_from(row, SHIFT: tl.constexpr):
    """A value that most logits lie above, fp32.

    It is as far below the lowest block maximum as that is below the row's.
    """
    finite = row.group_key >= lowest_key(SHIFT)
    least_max = value_of(tl.min(tl.where(finite, row.group_key, key_of(row.max, SHIFT))), SHIFT)
    return least_max + (least_max - row.max)


@triton.jit
def pivot(low, high, j, lowest, SHIFT: tl.constexpr):
    """The key `j / PIVOTS` of the way from `low` to `high`, or that of the value there.

    Values count from `lowest` up; infinity stands for keys.
    """
    key = (low + ((high.to(tl.int64) - low) * j) // PIVOTS).to(tl.int32)
    if lowest < float("inf"):
        a = tl.maximum(value_of(low, SHIFT), lowest)
        b = value_of(high - 1, SHIFT)
        part = (b * 0.5 - a * 0.5) * (j * (1.0 / PIVOTS))  # half: the difference may be infinite
        key = tl.minimum(tl.maximum(key_of(a + part + part, SHIFT), low), high)
    return tl.where(j == PIVOTS, high, key)


@triton.jit
def refine(row, low, high, MEASURE: tl.constexpr, need, by_value, SHAPE: tl.constexpr):
    """A sixteenth of the bracket [low, high) that still encloses the threshold, and its count."""
    lowest = float("inf")
    if by_value:
        lowest = spread_from(row, SHAPE.SHIFT)
    pivots = tl.arange(0, PIVOTS)
    count = tl.full([SHAPE.TILE, PIVOTS], 0, tl.int32)
    mass = tl.full([SHAPE.TILE, PIVOTS], 0, tl.int64)
    everything = tl.full([SHAPE.TILE], 0, tl.int32)
    for j in range(SHAPE.PER_GROUP):
        blocks = list_blocks(row, low, j, SHAPE)
        for first in range(0, blocks, SHAPE.TILE):
            _, _, x = load_blocks(row, first, blocks, SHAPE.TILE)
            key = key_of(x, SHAPE.SHIFT)
            everything += tl.sum((key >= low).to(tl.int32), axis=1)
            if MEASURE == MASS:
                block_max = tl.max(x, axis=1)
                weights = token_weights(x, block_max[:, None], row.c)
                mantissa, shift = block_scale(block_max, row.max, row.c)
            for i in range(PIVOTS):
                above = key >= pivot(low, high, i + 1, lowest, SHAPE.SHIFT)
                here = (pivots == i)[None, :]
                count += tl.where(here, tl.sum(above.to(tl.int32), axis=1)[:, None], 0)
                if MEASURE == MASS:
                    sums = tl.sum(tl.where(above, weights, 0).to(tl.int64), axis=1)
                    mass += tl.where(here, scale_sums(sums, mantissa, shift)[:, None], 0)
    count_from = tl.sum(count, axis=0)  # [PIVOTS]
    reached = (tl.sum(mass, axis=0) if MEASURE == MASS else count_from) >= need
    # Measures fall from pivot to pivot: the bracket ends at the first that does not reach.
    steps = tl.sum((reached & (pivots < PIVOTS - 1)).to(tl.int32))
    count_low = tl.sum(tl.where(pivots == steps - 1, count_from, 0))
    count_low = tl.where(steps == 0, tl.sum(everything), count_low)
    count_high = tl.sum(tl.where(pivots == steps, count_from, 0))
    new_low = tl.where(steps == 0, low, pivot(low, high, steps, lowest, SHAPE.SHIFT))
    new_high = pivot(low, high, steps + 1, lowest, SHAPE.SHIFT)
    return new_low, new_high, count_low - count_high
