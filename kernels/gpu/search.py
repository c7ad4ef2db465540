"""Step 2d, search: the threshold among the listed logits, in registers (device code).

The list holds the logits in question, those of one block side by side. With w the weight of a
listed logit, and W the sum of weights of the larger ones of its block, surely kept or listed,

    count(key) = surely kept + listed logits from `key` up
    mass(key)  = their mass  + sum over listed logits from `key` up of scale(W + w) - scale(W)

In each block that sum telescopes to what its tokens add together, so that a step of the search is
one reduction. By mass it is a bisection, of at most 32 steps, 16 for bf16 and 19 for fp16; by count
a step divides by three, and the search ends where a count is met.

Traffic: by mass, the maximum and the sum of each entry's block.
Races: nothing is written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import block_scale, scale_sums, token_weights, value_of
from .bracket import middle, search_thirds
from .table import load_sums


@triton.jit
def search_count(entries, found, low, high, k):
    """A key in [low, high) that the `k` largest logits and their ties reach, else `low`."""
    return search_thirds(entries.key, low, high, k - found.sure_count)


@triton.jit
def listed_masses(row, entries, found, LIST: tl.constexpr, SHIFT: tl.constexpr):
    """What each listed logit adds to the mass when tokens are taken from the best down, int64."""
    mask = entries.size > 0
    block_max = tl.load(row.table.maxima_ptr + entries.offs_n, mask=mask, other=0.0).to(tl.float32)
    weights = token_weights(value_of(entries.key, SHIFT), block_max, row.c)
    before = weights_before(entries, weights, LIST)
    if found.sure_count > 0:  # those surely kept are all larger
        before += load_sums(row.table, entries.offs_n, mask)
    mantissa, shift = block_scale(block_max, row.max, row.c)
    return scale_sums(before + weights, mantissa, shift) - scale_sums(before, mantissa, shift)


@triton.jit
def weights_before(entries, weights, LIST: tl.constexpr):
    """Of each listed logit, the weights of the larger ones listed of its block, int64 [LIST].

    Equal ones count as falling in the order of the list.
    """
    key, start = entries.key, entries.start
    entry = tl.arange(0, LIST)
    before = tl.zeros([LIST], tl.int64)
    for distance in range(1, tl.max(entries.size)):
        later = tl.where(entry + distance < start + entries.size, entry + distance, entry)
        weight = tl.where(tl.gather(key, later, 0) > key, tl.gather(weights, later, 0), 0)
        before += weight.to(tl.int64)
        earlier = tl.where(entry - distance >= start, entry - distance, entry)
        larger = (tl.gather(key, earlier, 0) >= key) & (earlier < entry)
        before += tl.where(larger, tl.gather(weights, earlier, 0), 0).to(tl.int64)
    return before


@triton.jit
def search_mass(entries, masses, found, low, high, need):
    """The largest key in [low, high) at which the mass reaches `need`, else `low`."""
    while low + 1 < high:
        mid = middle(low, high)
        if found.sure_mass + tl.sum(tl.where(entries.key >= mid, masses, 0)) >= need:
            low = mid
        else:
            high = mid
    return low
