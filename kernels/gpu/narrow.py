"""Step 2c, narrow: a smaller bracket where the list cannot hold what is in question (device code).

One read of the blocks that reach `low` measures count and mass at 16 keys. The keys are spread
evenly over the bracket's values the first time, where real logits are dense, and evenly over its
keys from then on, so that a bracket of 32-bit keys closes after eight more, whatever the logits.

Traffic: the blocks that reach `low`, once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import block_scale, key_of, scale_sums, token_weights, value_of
from .collect import list_blocks, load_blocks

PIVOTS = tl.constexpr(16)


@triton.jit
def pivot(low, high, j, by_value, spread_from, SHIFT: tl.constexpr):
    """The key `j / PIVOTS` of the way from `low` to `high`, or that of the value there."""
    key = (low + ((high.to(tl.int64) - low) * j) // PIVOTS).to(tl.int32)
    if by_value:
        a = tl.maximum(value_of(low, SHIFT), spread_from)
        b = value_of(high - 1, SHIFT)
        part = (b * 0.5 - a * 0.5) * (j * (1.0 / PIVOTS))  # half: the difference may be infinite
        key = tl.minimum(tl.maximum(key_of(a + part + part, SHIFT), low), high)
    return tl.where(j == PIVOTS, high, key)


@triton.jit
def narrow(
    logits_ptr,
    maxima_ptr,
    blocks_ptr,
    group_key,
    low,
    high,
    needed,
    by_mass,
    by_value,
    spread_from,
    row_max,
    c,
    vocab_size,
    num_blocks,
    GROUPS: tl.constexpr,
    PER_GROUP: tl.constexpr,
    TILE: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """A sixteenth of the bracket [low, high) that still encloses the threshold, and its count."""
    pivots = tl.arange(0, PIVOTS)
    count = tl.zeros([TILE, PIVOTS], tl.int32)
    mass = tl.zeros([TILE, PIVOTS], tl.int64)
    everything = tl.zeros([TILE], tl.int32)
    for j in tl.range(PER_GROUP, disable_licm=True):
        blocks = list_blocks(
            blocks_ptr, maxima_ptr, group_key, low, j, num_blocks, GROUPS, PER_GROUP, SHIFT
        )
        for first in tl.range(0, blocks, TILE, disable_licm=True):
            _, _, x = load_blocks(logits_ptr, blocks_ptr, first, blocks, vocab_size, TILE)
            key = key_of(x, SHIFT)
            block_max = tl.max(x, axis=1)
            weights = token_weights(x, block_max[:, None], c)
            mantissa, shift = block_scale(block_max, row_max, c)
            everything += tl.sum((key >= low).to(tl.int32), axis=1)
            for i in tl.range(PIVOTS, disable_licm=True):
                above = key >= pivot(low, high, i + 1, by_value, spread_from, SHIFT)
                sums = tl.sum(tl.where(above, weights, 0).to(tl.int64), axis=1)
                here = (pivots == i)[None, :]
                mass += tl.where(here, scale_sums(sums, mantissa, shift)[:, None], 0)
                count += tl.where(here, tl.sum(above.to(tl.int32), axis=1)[:, None], 0)
    count_from = tl.sum(count, axis=0)  # [PIVOTS]
    reached = tl.where(by_mass, tl.sum(mass, axis=0), count_from.to(tl.int64)) >= needed
    # Measures fall from pivot to pivot: the bracket ends at the first that does not reach.
    steps = tl.sum((reached & (pivots < PIVOTS - 1)).to(tl.int32))
    count_low = tl.sum(tl.where(pivots == steps - 1, count_from, 0))
    count_low = tl.where(steps == 0, tl.sum(everything), count_low)
    count_high = tl.sum(tl.where(pivots == steps, count_from, 0))
    new_low = tl.where(steps == 0, low, pivot(low, high, steps, by_value, spread_from, SHIFT))
    new_high = pivot(low, high, steps + 1, by_value, spread_from, SHIFT)
    return new_low, new_high, count_low - count_high
