"""Looks at a row's keys: where values begin, and the logits nearest to a limit.

Traffic: the blocks that reach the limit, once.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import BLOCK, FORBIDDEN, LOWEST_KEY, key_of, key_of_float, value_of
from .compiling import device

_NONE = np.int32(0x7FFFFFFF)  # above all keys
NONE = np.int64(_NONE)


@device
def z_of(row, key):
    """`fp32(fp32(x - m) * c)` of a key's logit."""
    return (value_of(np.int32(key)) - row.maximum) * row.c


@device
def first_key(row, mean, value, low, high):
    """The lowest key in [low, high) with `fp32(z + mean) >= value`, else `high`."""
    low = np.int64(low) - 1  # stands for a key that is not
    while low + 1 < high:
        middle = (low + high) >> 1
        if z_of(row, middle) + mean >= value:
            high = middle
        else:
            low = middle
    return high


@device
def lowest_key_from(row, value):
    """The lowest key with `z >= value`; the best token's at most."""
    best = np.int64(key_of_float(row.maximum))
    return first_key(row, np.float32(0.0), value, LOWEST_KEY, best)


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
    """The smallest key of the row in [low, high), int64; `NONE` where there is none."""
    lowest, start, stop = _NONE, np.int32(low), np.int32(high)
    for n in range(row.num_blocks):
        if space.maxima[n] >= start:
            first = n * BLOCK
            for j in range(min(BLOCK, row.vocab - first)):
                key = key_of(row.logits[first + j])
                lowest = min(lowest, key if start <= key and key < stop else _NONE)
    return np.int64(lowest)
