"""Step 2d, search: the threshold at which a measure reaches what is needed.

    threshold = the largest key in [low, high) with  sum of measure[i] over keys[i] >= key  >= need

The measure makes the filter: 1 an entry for top-k, what a token adds to the mass for top-p. Keys
and measure belong to listed logits, or to blocks, whose thresholds bound those of their logits.
A step of the bisection is one vectorised sum; there are 32 at most.
Twin: `kernels/gpu/search.py`.
"""

from __future__ import annotations

import numpy as np

from .compiling import device

COUNT, MASS, NEARNESS = 0, 1, 2  # measures; the third is of mass, too, by another order
EXACT = -1  # slack of `search_threshold`: none, whatever the measure


@device
def search_threshold(keys, measure, size, need, low, high, slack):
    """The largest key in [low, high) that reaches `need`, int64; `low` where none does.

    A key that reaches no more than `need + slack` will do.
    """
    low, high = np.int64(low), np.int64(high)
    while low + 1 < high:
        middle = (low + high) >> 1
        key = np.int32(middle)
        reached = np.int64(0)
        for i in range(size):
            reached += measure[i] if keys[i] >= key else np.int64(0)
        if reached < need:
            high = middle
        else:
            low = middle
            if reached <= need + slack:
                break
    return low
