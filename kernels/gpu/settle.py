"""Step 2e, settle: the table's sums become those of what is kept (device functions).

Traffic: 8 bytes for each entry, its block's maximum, and 8 bytes read and written for each added.
Races: threads of a program add to their row's sums at once, in any order: integers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .search import FEW, load_keys, load_weights


@triton.jit
def add_weights(row, found, low, high, sign, SHAPE: tl.constexpr):
    """Add the weights of the listed logits in [low, high), times `sign`, to the sums; their count."""
    count = 0
    for first in range(0, found.listed, SHAPE.LIST // FEW):
        key, mask = load_keys(row, found.listed, first, SHAPE.LIST // FEW)
        offs_n, _, weight = load_weights(row, key, mask, first, SHAPE)
        mask &= (key >= low) & (key < high)
        sums_ptr = row.table.sums_ptr + offs_n
        tl.atomic_add(sums_ptr, weight.to(tl.int64) * sign, mask=mask, sem="relaxed")
        count += tl.sum(mask.to(tl.int32))
    tl.debug_barrier()  # the sums can be read by all
    return count


@triton.jit
def next_key(row, found, low, high, SHAPE: tl.constexpr):
    """The largest listed key below `high`, at least `low`."""
    below = low
    for first in range(0, found.listed, SHAPE.LIST // FEW):
        key, _ = load_keys(row, found.listed, first, SHAPE.LIST // FEW)
        below = tl.maximum(below, tl.max(tl.where(key < high, key, low)))
    return below
