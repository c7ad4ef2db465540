"""Step 2c, refine: where to look in a bracket that holds more than a list does.

A sample, every few blocks of the row, tells where the threshold is likely to lie. A wrong guess
costs a pass over the row, no more: what it leaves is a bracket all the same.
Twin: `kernels/gpu/refine.py`.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import BLOCK, key_of_float, token_weight, widen
from .compiling import device
from .search import COUNT, NEARNESS, search_threshold
from .typical import near_key

_SAMPLED = 64  # blocks, about


@device
def sample_row(row, space, by, typical):
    """List every few blocks, with a measure of 1 or, by mass, of 2**30 for the row's best logit.

    Returns the number of logits and the stride between blocks. -inf is below all that is asked for.
    """
    stride = max(row.num_blocks // _SAMPLED, row.num_blocks * BLOCK // space.capacity) + 1
    size = np.int64(0)
    for n in range(stride // 2, row.vocab // BLOCK, stride):
        for j in range(BLOCK):
            x = widen(row.logits[n * BLOCK + j])
            key = key_of_float(x)
            weight = np.int32(1) if by == COUNT else token_weight(x, row.maximum, row.c)
            if by == NEARNESS:
                weight = weight if key >= typical.low else np.int32(0)
                key = near_key(x, row, typical.mean)
            space.keys[size + j] = key
            space.measure[size + j] = weight
        size += BLOCK
    return size, stride


@device
def guess(row, space, by, typical, need, total, low, high, attempt):
    """A bracket inside [low, high) that is likely to hold the threshold and to fit the list.

    At odd attempts the middle alone, so that the search ends whatever the row holds.
    """
    if attempt % 2 == 1:
        middle = (low + high) >> 1
        return middle, middle
    size, stride = sample_row(row, space, by, typical)
    wanted = np.float64(need) / stride
    spread = 3.0 * np.sqrt(wanted) + 1.0
    if by != COUNT:  # what the threshold leaves out is many light tokens: a sample is good at those
        tail = np.float64((total - need) >> 10) / stride
        wanted = -tail
        for i in range(size):
            wanted += space.measure[i]
        spread = 0.1 * (min(tail, abs(wanted)) if by == NEARNESS else tail)
    if attempt > 0:
        spread = 0.0
    more, fewer = np.int64(wanted + spread), np.int64(wanted - spread)
    slack = np.int64(0.1 * spread)
    start = search_threshold(space.keys, space.measure, size, max(1, more), low, high, slack)
    start = max(start, low + 1)
    stop = search_threshold(space.keys, space.measure, size, max(1, fewer), start, high, slack)
    return start, stop
