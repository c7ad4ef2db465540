"""Mass and depth of what is kept so far, for filters that look at probabilities (contract sec. 4).

    mass  = sum of weights, scaled block by block
    depth = sum of weights times -z, in units of mass: the mean of -z is depth / mass

Traffic: the blocks that reach a key, once.
Twins: `BlockTable` in `fused_sampler.contract.reference`, `kernels/gpu/depth.py`.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import BLOCK, block_scale, token_weight, value_of, widen
from .compiling import device
from .summarize import block_float, block_sum

_LEAST_Z = np.float32(-64.0)
_PER_BIT = np.float32(-(2.0**20))


@device
def whole_depth(z):
    """`-z` in units of 2**-20, int32, rounded down; at most 64."""
    return np.int32((z if z > _LEAST_Z else _LEAST_Z) * _PER_BIT)


@device
def block_depth(logits, first, size, block_max, c, lowest):
    """The sums of `weight * whole_depth` and of `weight` of a block's logits from `lowest` up."""
    below, total = np.int64(0), np.int64(0)
    for j in range(size):
        x = widen(logits[first + j])
        weight = np.int64(token_weight(x, block_max, c) if x >= lowest else np.int32(0))
        below += weight * np.int64(whole_depth((x - block_max) * c))
        total += weight
    return below, total


@device
def weigh(row, space, low, high, with_depth):
    """Mass and depth of the logits with keys in [low, high), int64, and how many blocks hold them.

    With the depth, the sums of these blocks stand in `space` afterwards: a list is lost.
    """
    mass, depth, slot = np.int64(0), np.int64(0), np.int64(0)
    lowest, highest = value_of(np.int32(low)), value_of(np.int32(high))
    for n in range(row.num_blocks):
        top = space.maxima[n]
        if top < low:
            continue
        first, block_max = n * BLOCK, block_float(top)
        size = min(BLOCK, row.vocab - first)
        below, total = np.int64(0), np.int64(0)
        if not with_depth:
            total = np.int64(block_sum(row.logits, first, size, block_max, row.c, lowest)[0])
        elif size == BLOCK:
            below, total = block_depth(row.logits, first, BLOCK, block_max, row.c, lowest)
        else:
            below, total = block_depth(row.logits, first, size, block_max, row.c, lowest)
        if top >= high:
            above = block_depth(row.logits, first, size, block_max, row.c, highest)
            below, total = below - above[0], total - above[1]
        mantissa, exponent = block_scale(top, row.maximum, row.c)
        mass += (total * np.int64(mantissa)) >> np.int64(min(14 - exponent, 63))
        if with_depth:
            space.blocks[slot], space.tops[slot], space.sums[slot] = n, top, np.uint64(total)
            slot += 1
            below += total * np.int64(whole_depth((value_of(top) - row.maximum) * row.c))
            shift = np.int64(min(6 - exponent, 63))
            depth += ((below >> np.int64(28)) * np.int64(mantissa)) >> shift
    return mass, depth, slot
