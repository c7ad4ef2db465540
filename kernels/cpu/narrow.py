"""Step 2c, narrow: where to look in a bracket that holds more than a list does.

A sample, every few blocks of the row, tells where the threshold is likely to lie. A wrong guess
costs a pass over the row, no more: what it leaves is a bracket all the same.
Twin: `kernels/gpu/narrow.py`.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import BLOCK, LOWEST_KEY, key_of, scale_sum, token_weight, value_of
from .compiling import device
from .search import search_threshold
from .summarize import block_float

_SAMPLED = 64  # blocks, about


@device
def sample_row(row, space, by_mass):
    """List the finite logits of every few blocks, with count or mass as their measure.

    Returns their number and the stride between blocks.
    """
    stride = max(np.int64(1), row.num_blocks // _SAMPLED)
    stride = max(stride, row.num_blocks * BLOCK // space.capacity + 1)
    size = np.int64(0)
    for n in range(stride // 2, row.num_blocks, stride):
        top = space.maxima[n]
        first = n * BLOCK
        for i in range(first, min(first + BLOCK, row.vocab)):
            key = key_of(row.logits[i])
            space.keys[size] = key
            if by_mass:
                weight = token_weight(value_of(key), block_float(top), row.c)
                space.measure[size] = np.int64(
                    scale_sum(np.uint64(weight), top, row.maximum, row.c)
                )
            else:
                space.measure[size] = 1
            size += 1 if key >= LOWEST_KEY else 0
    return size, stride


@device
def guess(row, space, by_mass, need, total, low, high, end, attempt):
    """A bracket inside [low, high) that is likely to hold the threshold and to fit the list.

    At odd attempts the middle alone, so that the search ends whatever the row holds.
    """
    middle = (low + high) >> 1
    if attempt % 2 == 1:
        return middle, middle
    size, stride = sample_row(row, space, by_mass)
    wanted = np.float64(need) / stride
    spread = 3.0 * np.sqrt(wanted) + 1.0
    if by_mass:  # what the threshold leaves out is many light tokens: a sample of those is good
        tail = np.float64(total - need) / stride
        wanted = -tail
        for i in range(size):
            wanted += space.measure[i]
        spread = 0.1 * tail
    if attempt > 0:
        spread = 0.0
    more = max(np.int64(1), np.int64(wanted + spread))
    fewer = max(np.int64(1), np.int64(wanted - spread))
    start = search_threshold(space.keys, space.measure, size, more, low, high, 0)
    stop = search_threshold(space.keys, space.measure, size, fewer, start, high, 0)
    if start <= low or stop >= high or start == stop:
        start = max(start, low + 1)
        return start, max(start, stop)
    return start, stop
