"""Typical: the tokens nearest to a surprise, up to a share of the mass (contract section 4).

The nearness of a logit is a key, too: the bits of `-abs(z + mean)` as a negative number, so that
the search for a threshold goes on as by mass, in another order.
Traffic: the blocks that a bracket reaches, once.
Twin: `fused_sampler.filters.typical_p`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .arithmetic import BLOCK, key_of_float, token_weight, value_of, widen
from .collect import reaching
from .compiling import device
from .memory import bits_of, float_of, trailing_zeros
from .scan import first_key
from .summarize import block_float, block_sum

NEAREST = np.int64(0)


class Typical(NamedTuple):
    """What nearness depends on, and the lowest key that earlier filters keep."""

    mean: Any  # fp32: of -z
    low: Any  # int64


@device
def near_key(x, row, mean):
    """The nearness of a logit, int32, at most `NEAREST`."""
    z = (x - row.maximum) * row.c
    return np.int32(-bits_of(abs(z + mean)))


@device
def ends(row, typical, nearness):
    """The keys [low, high) of the logits that are so near, or nearer."""
    end = np.int64(key_of_float(row.maximum)) + 1
    if nearness > NEAREST:
        return end, end
    far, beyond = float_of(np.int32(-nearness)), float_of(np.int32(1 - nearness))
    start = first_key(row, typical.mean, -far, typical.low, end)
    return start, first_key(row, typical.mean, beyond, start, end)


@device
def collect_near(row, space, typical, start, stop):
    """As `collect` does it, by nearness; the weights of the list are there afterwards."""
    low, high = ends(row, typical, start)
    sure_low, sure_high = ends(row, typical, stop)
    lowest, highest = value_of(np.int32(low)), value_of(np.int32(high))
    sure_lowest, sure_highest = value_of(np.int32(sure_low)), value_of(np.int32(sure_high))
    slot, listed, above = np.int64(0), np.int64(0), np.int64(0)
    for n in range(row.num_blocks):
        top = space.maxima[n]
        if top < low:
            continue
        first, block_max = n * BLOCK, block_float(top)
        size = min(BLOCK, row.vocab - first)
        total, count = np.uint64(0), np.int64(0)
        if top >= sure_low and sure_low < sure_high:
            total, count = block_sum(row.logits, first, size, block_max, row.c, sure_lowest)
            if top >= sure_high:
                more = block_sum(row.logits, first, size, block_max, row.c, sure_highest)
                total, count = total - more[0], count - more[1]
        space.blocks[slot], space.tops[slot], space.sure[slot] = n, top, total
        above += count
        mask = np.uint64(0)
        if start < stop:
            mask = reaching(row.logits, first, size, lowest)
            if top >= high:
                mask &= ~reaching(row.logits, first, size, highest)
            if top >= sure_low and sure_low < sure_high:
                sure = reaching(row.logits, first, size, sure_lowest)
                if top >= sure_high:
                    sure &= ~reaching(row.logits, first, size, sure_highest)
                mask &= ~sure
        while mask != 0:
            x = widen(row.logits[first + trailing_zeros(mask)])
            mask &= mask - np.uint64(1)
            if listed < space.capacity:
                space.keys[listed] = near_key(x, row, typical.mean)
                space.weights[listed] = token_weight(x, block_max, row.c)
                space.slots[listed] = slot
            listed += 1
        slot += 1
    return slot, listed, above
