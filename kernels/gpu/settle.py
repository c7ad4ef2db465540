"""Step 2e, settle: the table's sums become those of what is kept (device functions).

Traffic: 8 bytes for each entry, its block's maximum, and 8 bytes read and written for each moved.
Races: threads of a program add to their row's sums at once, in any order: integers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .rank import rank_of_key
from .search import FEW, load_keys, load_weights


@triton.jit
def settle(row, found, start, low, SHAPE: tl.constexpr):
    """From sums of what reaches the rank `start` to those of what reaches `low`; how many more."""
    more = 0
    for first in range(0, found.listed, SHAPE.LIST // FEW):
        key, mask = load_keys(row, found.listed, first, SHAPE.LIST // FEW)
        offs_n, _, weight = load_weights(row, key, mask, first, SHAPE)
        rank = rank_of_key(row, key, SHAPE.SHIFT)
        sign = (rank >= low).to(tl.int32) - (rank >= start).to(tl.int32)
        sums_ptr = row.table.sums_ptr + offs_n
        tl.atomic_add(sums_ptr, weight.to(tl.int64) * sign, mask=sign != 0, sem="relaxed")
        more += tl.sum(sign)
    tl.debug_barrier()  # the sums can be read by all
    return more


@triton.jit
def next_key(row, found, low, high, SHAPE: tl.constexpr):
    """The largest listed rank below `high`, at least `low`."""
    below = low
    for first in range(0, found.listed, SHAPE.LIST // FEW):
        key, _ = load_keys(row, found.listed, first, SHAPE.LIST // FEW)
        rank = rank_of_key(row, key, SHAPE.SHIFT)
        below = tl.maximum(below, tl.max(tl.where(rank < high, rank, low)))
    return below
