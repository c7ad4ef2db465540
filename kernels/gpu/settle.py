"""Step 2e, settle: the table's sums become those of what is kept (device functions).

Traffic: the maximum and the sum of each entry's block, and the sum written.
Races: all threads have read the sums before the barrier after which they are written; after another
barrier all can read them back.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import token_weights, value_of
from .table import load_sums, store_sums


@triton.jit
def settle(row, entries, found, threshold, LIST: tl.constexpr, SHIFT: tl.constexpr):
    """Add the listed weights from the key `threshold` up to the table's; how many are kept."""
    table, key = row.table, entries.key
    entry = tl.arange(0, LIST)
    last = (entries.size > 0) & (entry == entries.start + entries.size - 1)  # of its block
    block_max = tl.load(table.maxima_ptr + entries.offs_n, mask=entries.size > 0, other=0.0)
    block_max = block_max.to(tl.float32)
    weights = tl.where(key >= threshold, token_weights(value_of(key, SHIFT), block_max, row.c), 0)
    sums = weights.to(tl.int64)
    for distance in range(1, tl.max(entries.size)):
        earlier = entry - distance
        weight = tl.gather(weights, tl.where(earlier >= entries.start, earlier, entry), 0)
        sums += tl.where(earlier >= entries.start, weight, 0).to(tl.int64)
    if found.sure_count > 0:
        sums += load_sums(table, entries.offs_n, last)
    tl.debug_barrier()  # all have read the sums
    store_sums(table, entries.offs_n, sums, last)
    tl.debug_barrier()  # and all can read them back
    return found.sure_count + tl.sum((key >= threshold).to(tl.int32))
