"""Top-h: the best tokens that hold a share of the entropy of the best hundred (contract section 4).

    e[i] = (u[i] * floor((l - z[i]) * 2**26)) >> 20,  u the weight beside the row's best token

At most 99 logits lie above the hundredth; those that tie with it have one e.
Traffic: the blocks that hold them, three times.
Twins: `fused_sampler.filters.top_h`, `kernels/gpu/top_h.py`.
"""

from __future__ import annotations

import math

import numpy as np

from fused_sampler.filters import top_h

from .arithmetic import log2_mass, token_weight, value_of
from .collect import collect
from .compiling import device
from .depth import weigh
from .scan import lowest_between
from .search import EXACT, search_threshold

BEST = top_h.BEST


@device
def entropy_of(row, key, log2_total):
    """A token's part of the entropy, int64."""
    x = value_of(key)
    z = max((x - row.maximum) * row.c, np.float32(-64.0))
    below = np.int64((log2_total - np.float64(z)) * 67108864.0)
    return (np.int64(token_weight(x, row.maximum, row.c)) * below) >> np.int64(20)


@device
def lowest_of_top_h(row, space, low, end):
    """The lowest key that top-h keeps; the best hundred and ties are those from `low` up."""
    total, _, _ = weigh(row, space, low, end, False)
    log2_total = log2_mass(total)
    _, _, size = collect(row, space, low, low)
    worst = lowest_between(row, space, low, end)
    _, listed, _ = collect(row, space, worst + 1, end)
    ties = size - listed
    entropy = ties * entropy_of(row, np.int32(worst), log2_total)
    for i in range(listed):
        space.measure[i] = entropy_of(row, space.keys[i], log2_total)
        entropy += space.measure[i]
    allowed = np.int64(math.floor(row.filters.top_h * np.float64(entropy)))
    if entropy <= allowed:
        return np.int64(worst)
    # The largest key that holds too much; the best token stays whatever it holds.
    above = search_threshold(space.keys, space.measure, listed, allowed + 1, worst, end, EXACT)
    return min(above + 1, end - 1)
