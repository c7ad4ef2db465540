"""Typical: the tokens nearest to a surprise, up to a share of the mass (contract section 4).

The nearness of a logit is a key, too: the bits of `-abs(z + mean)` as a negative number, so that
the search for a threshold goes on as by mass, in another order.
Traffic: the blocks that a bracket reaches, once.
Twin: `fused_sampler.filters.typical_p`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .arithmetic import BLOCK, FORBIDDEN, key_of, token_weight, value_of, widen
from .compiling import device
from .memory import bits_of, float_of, trailing_zeros
from .summarize import block_float

NEAREST = np.int64(0)
FARTHEST = np.int64(-0x7F800000)
_ABOVE_ALL = np.int32(0x7FFFFFFF)


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
def near_sum(row, typical, first, size, block_max, stop):
    """The sum of the weights of a block's logits of nearness `stop` or more, and their number."""
    total, count = np.int64(0), np.int64(0)
    lowest, nearest = value_of(np.int32(typical.low)), np.int32(stop)
    for j in range(size):
        x = widen(row.logits[first + j])
        counts = x >= lowest and near_key(x, row, typical.mean) >= nearest
        total += np.int64(token_weight(x, block_max, row.c)) if counts else np.int64(0)
        count += counts
    return np.uint64(total), count


@device
def near_mask(row, typical, first, size, start, stop):
    """A bit for each of a block's logits, set where its nearness is in [start, stop), uint64."""
    mask = np.uint64(0)
    lowest = value_of(np.int32(typical.low))
    for j in range(size):
        x = widen(row.logits[first + j])
        key = near_key(x, row, typical.mean)
        found = x >= lowest and key >= start and key < stop
        mask |= np.uint64(found) << np.uint64(j)
    return mask


@device
def collect_near(row, space, typical, start, stop):
    """As `collect` does it, by nearness; the weights of the list are there afterwards."""
    slot, listed, above = np.int64(0), np.int64(0), np.int64(0)
    far = np.float64(float_of(np.int32(-start)))
    # With room for roundings: a block that is not looked at holds nothing so near.
    least_z = -np.float64(typical.mean) - far * 1.001 - 0.001
    for n in range(row.num_blocks):
        top = space.maxima[n]
        z = np.float64((value_of(top) - row.maximum) * row.c)
        if top == FORBIDDEN or top < typical.low or z < least_z:
            continue
        first = n * BLOCK
        size = min(BLOCK, row.vocab - first)
        block_max = block_float(top)
        space.blocks[slot], space.tops[slot] = n, top
        space.sure[slot], count = near_sum(row, typical, first, size, block_max, stop)
        above += count
        mask = np.uint64(0)
        if start < stop:
            mask = near_mask(row, typical, first, size, np.int32(start), np.int32(stop))
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


@device
def interval(row, space, typical, nearness, end):
    """The keys [low, high) of what is as near as `nearness`; the key before `high` is kept."""
    far = float_of(np.int32(-nearness))
    low, high = typical.low - 1, end - 1  # the lowest that is not too far below
    while low + 1 < high:
        middle = (low + high) >> 1
        if (value_of(np.int32(middle)) - row.maximum) * row.c + typical.mean >= -far:
            high = middle
        else:
            low = middle
    start = high
    low, high = start, end  # the lowest that is too far above
    while low + 1 < high:
        middle = (low + high) >> 1
        if (value_of(np.int32(middle)) - row.maximum) * row.c + typical.mean > far:
            high = middle
        else:
            low = middle
    return start, highest_below(row, space, high) + 1


@device
def highest_below(row, space, high):
    """The largest key of the row below `high`, int64."""
    highest, limit = np.int64(FORBIDDEN), np.int32(high)
    for n in range(row.num_blocks):
        if space.maxima[n] < high:
            highest = max(highest, np.int64(space.maxima[n]))
            continue
        first, found = n * BLOCK, FORBIDDEN
        for j in range(min(BLOCK, row.vocab - first)):
            key = key_of(row.logits[first + j])
            found = max(found, key if key < limit else FORBIDDEN)
        highest = max(highest, np.int64(found))
    return highest


@device
def lowest_between(row, space, low, high):
    """The smallest key of the row in [low, high), int64."""
    lowest, start, stop = _ABOVE_ALL, np.int32(low), np.int32(high)
    for n in range(row.num_blocks):
        if space.maxima[n] >= start:
            first = n * BLOCK
            for j in range(min(BLOCK, row.vocab - first)):
                key = key_of(row.logits[first + j])
                lowest = min(lowest, key if start <= key and key < stop else _ABOVE_ALL)
    return np.int64(lowest)
