"""Looks at a row's logits by their keys: the nearest to a limit (device functions).

Traffic: the blocks that reach the limit, once.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import BLOCK, FORBIDDEN, key_of
from .compiling import device

_NONE = np.int32(0x7FFFFFFF)  # above all keys
NONE = np.int64(_NONE)


@device
def count_between(row, space, low, high):
    """How many logits have keys in [low, high)."""
    count, start, stop = np.int64(0), np.int32(low), np.int32(high)
    for n in range(row.num_blocks):
        if space.maxima[n] >= start:
            first, found = n * BLOCK, np.int32(0)
            for j in range(min(BLOCK, row.vocab - first)):
                key = key_of(row.logits[first + j])
                found += np.int32(start <= key and key < stop)
            count += np.int64(found)
    return count


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
